"""What a producer handed over, and what of it did not arrive.

Decides: how undelivered records are named: by symbol, with the open time of the first. Invariants:
a record is waiting, delivered or lost, and nothing else; what is lost stays here until it was told;
as many symbols are held as records can wait. Must not know: Kafka, when anything is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seamline.schemas.codec import BarDecoder
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.errors import ContractError
from seamline.schemas.times import format_time

NAMED_MAX: Final = 20
OTHERS: Final = "others"


@dataclass(slots=True)
class _Lost:
    records: int
    first: bytes


class DeliveryLedger:
    """Of one producer. One thread at a time."""

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()
        self._lost: dict[str, _Lost] = {}

    def handed(self, symbol: str) -> None:
        """One record of a symbol is on its way: told before it is, the result may come at once."""
        self.waiting[symbol] += 1

    def never_queued(self, symbol: str) -> None:
        """The record that was handed over last was not taken."""
        self._one_less(symbol)

    def settled(self, key: bytes | None, value: bytes | None, why: str | None) -> None:
        """One record arrived, or did not: `why`."""
        symbol = (key or b"").decode(errors="replace")
        self._one_less(symbol)
        if why is not None:
            self._lost.setdefault(symbol, _Lost(0, value or b"")).records += 1

    def undelivered(self) -> tuple[Mapping[str, int], str]:
        """Symbol -> records that were lost since this was last asked or wait still, those with the
        most first and at most NAMED_MAX of them beside `others`; and the same in words."""
        lost, self._lost = self._lost, {}
        counts = Counter({symbol: each.records for symbol, each in lost.items()})
        counts.update(self.waiting)
        named = dict(counts.most_common(NAMED_MAX))
        words = [
            f"{symbol} {count}" + (_begin(lost[symbol].first) if symbol in lost else " (waiting)")
            for symbol, count in named.items()
        ]
        if len(counts) > len(named):
            named[OTHERS] = counts.total() - sum(named.values())
            words.append(f"{len(counts) - NAMED_MAX} other symbols {named[OTHERS]}")
        return named, ", ".join(words)

    def _one_less(self, symbol: str) -> None:
        self.waiting[symbol] -= 1
        if not self.waiting[symbol]:
            del self.waiting[symbol]


def _begin(value: bytes) -> str:
    decoded = BarDecoder().decode([value])
    if decoded.ok[0]:
        return f" (the first at {format_time(int(decoded.columns.open_time_ns[0]))})"
    try:
        times_ns = decode_block(value).columns.open_time_ns
    except ContractError:
        return ""
    return f" (the first from {format_time(int(times_ns[0]))})" if len(times_ns) else ""
