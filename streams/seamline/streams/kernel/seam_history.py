"""The history as events in order: all of it, or what is left of it for a reader that goes on.

Decides: the order of bars and gaps: by (open time or start of the gap, symbol). Invariants: batches
are bounded; the same parts give the same events. Must not know: what is left (`seam_resume`), how
the parts came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seamline.schemas.columns import I8, Bool, ConformedColumns
from seamline.streams.kernel.seam import Part, merged_order
from seamline.streams.kernel.seam_events import BATCH_ROWS, Event, Gap, bars_of
from seamline.streams.kernel.seam_resume import BAR, TOLD, Rest


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """`rows` in order, for each the index of its symbol, whether it is provisional and its kind
    (see `seam_resume`); `gaps` in order; `rests` say what was handed out of the symbols before."""

    symbols: tuple[str, ...]
    rows: ConformedColumns
    owner: I8
    young: Bool
    kinds: I8
    gaps: tuple[Gap, ...]
    rests: tuple[Rest, ...]

    @classmethod
    def of(cls, parts: Sequence[Part], rests: Sequence[Rest] = ()) -> History:
        """`rests` of the parts, in the same order; none: nothing was handed out before."""
        rows, owner, young = merged_order(parts)
        if rests:
            found = [gap for rest in rests for gap in rest.gaps]
            # Rows of one symbol are in order of time in both, so they meet in the same order.
            kinds = np.zeros(len(rows), np.int64)
            for index, rest in enumerate(rests):
                kinds[owner == index] = rest.kinds
            left = kinds != TOLD
            rows, owner, young, kinds = rows.take(left), owner[left], young[left], kinds[left]
        else:
            found = [gap for part in parts for gap in (*part.gaps, *part.open_gaps)]
            kinds = np.full(len(rows), BAR, np.int64)
        found.sort(key=lambda gap: (gap.start_ns, gap.symbol))
        symbols = tuple(part.symbol for part in parts)
        return cls(symbols, rows, owner, young, kinds, tuple(found), tuple(rests))

    def batches(self, check_open: Callable[[], None]) -> Iterator[list[Event]]:
        """At most BATCH_ROWS events each. `check_open` raises to leave."""
        at = 0
        for place, gap in zip(self._places(), self.gaps, strict=True):
            yield from self._bars(at, place, check_open)
            yield [gap]
            at = place
        yield from self._bars(at, len(self.rows), check_open)

    def _places(self) -> list[int]:
        """For each gap how many bars come before it."""
        index = {symbol: i for i, symbol in enumerate(self.symbols)}
        times = self.rows.open_time_ns
        places = []
        for gap in self.gaps:
            lo = int(np.searchsorted(times, gap.start_ns, "left"))
            hi = int(np.searchsorted(times, gap.start_ns, "right"))
            places.append(lo + int((self.owner[lo:hi] < index[gap.symbol]).sum()))
        return places

    def _bars(self, start: int, stop: int, check_open: Callable[[], None]) -> Iterator[list[Event]]:
        names = np.array(self.symbols, object)
        for at in range(start, stop, BATCH_ROWS):
            check_open()
            part = slice(at, min(at + BATCH_ROWS, stop))
            symbols: list[str] = names[self.owner[part]].tolist()
            bars = bars_of(symbols, self.rows.take(part), self.young[part])
            if not self.rests:
                yield list(bars)
                continue
            kinds, owners = self.kinds[part].tolist(), self.owner[part].tolist()
            yield [
                self.rests[owner].event(kind, bar)
                for kind, owner, bar in zip(kinds, owners, bars, strict=True)
            ]
