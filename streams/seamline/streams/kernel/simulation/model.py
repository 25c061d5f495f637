"""What a partition must have made of what landed: an account in plain Python.

Decides: by DESIGN section 4 and nothing else, which value stands for each bar, which rows the log
gets, where each frontier is. Invariants: it reads one event after the other and knows nothing of
slots, blocks in storage, batches, bytes or restarts; where it and the machine differ, one of them
is wrong. Cells are counted from `origin` (cells from the grid's origin to cell 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from seamline.schemas.modes import CANARY, STRICT
from seamline.streams.kernel.protocol import Role

Outcome = Literal["inserted", "revised", "completed", "confirmed"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One landed bar: open, high, low, close; volume; quote volume, trades, first and last trade
    id (None: not stated); the authority, 0 the highest."""

    symbol: str
    cell: int
    prices: tuple[float, float, float, float]
    volume: float
    extra: tuple[float | None, int | None, int | None, int | None]
    source: int
    closed: bool = True
    shift_ns: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """A block message: the bars of [start, through) as far as the source has them."""

    symbol: str
    block: int
    start: int
    through: int | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat: every closed bar before `cell` has been sent; the venue's outages as it states
    them, in cells, None as an end: it goes on."""

    cell: int
    outages: tuple[tuple[int, int | None], ...] = ()


Landed = Bar | History | Beat


@dataclass(slots=True)
class Standing:
    """What stands for one bar: values, the authority of OHLCV and of each optional field."""

    content: tuple[float, ...]
    source: int
    extra: list[float | int | None]
    stated: list[int]
    revision: int = 0

    @property
    def values(self) -> tuple[Any, ...]:
        """Open to last trade id."""
        return (*self.content, *self.extra)


@dataclass(frozen=True, slots=True)
class LogRow:
    """A row that the conformed log must have: the bar as it stood then, and whether it was still
    provisional."""

    symbol: str
    cell: int
    values: tuple[Any, ...]
    source: int
    revision: int
    outcome: Outcome
    provisional: bool


@dataclass(slots=True)
class Series:
    """One symbol."""

    bars: dict[int, Standing] = field(default_factory=dict)
    frontier: int | None = None
    stable: int | None = None
    claimed: set[int] = field(default_factory=set)
    live: bool = False


@dataclass(slots=True)
class Model:
    """One partition of one preset. `log`: rows that the conformed log must have got; `history`:
    every accepted version, sealed or not. Both grow until somebody takes them away."""

    span: int
    stabilization_bars: int
    mode: str = CANARY  # at the record; whoever lets it see one may change it before
    origin: int = 0
    series: dict[str, Series] = field(default_factory=dict)
    watermark: int | None = None
    outages: tuple[tuple[int, int | None], ...] = ()
    log: list[LogRow] = field(default_factory=list)
    history: list[LogRow] = field(default_factory=list)

    def see(self, role: Role, event: Landed, closed: int | None = None) -> bool:
        """One landed record; whether it, or a part of it, is refused. `closed`: by the owner's
        clock cells from it on cannot be over yet."""
        if isinstance(event, Beat):
            if closed is not None and event.cell > closed:
                return True
            self.outages = event.outages
            if self.watermark is None or event.cell > self.watermark:
                self.watermark = event.cell
                for series in self.series.values():
                    self._stabilize(series)
            return False
        if isinstance(event, Bar):
            return self._bar(event, closed, live=role == "live")
        return self._history(event, closed)

    def _history(self, event: History, closed: int | None) -> bool:
        through = event.through
        if through is not None and closed is not None and through > closed:
            return True
        series = self.series.setdefault(event.symbol, Series())
        if through is not None and event.start < through:
            if series.frontier is None:
                series.frontier = self.floor(event.start)
            before_all = not series.bars or event.start <= min(series.bars)
            if event.start <= series.frontier or before_all:
                series.frontier = max(series.frontier, self.floor(through))
            series.claimed.update(range(event.start, through))
        refused = [self._bar(bar, closed) for bar in event.bars]
        return any(refused)

    def floor(self, cell: int) -> int:
        """The first cell of its block."""
        return cell - (cell + self.origin) % self.span

    def _bar(self, bar: Bar, closed: int | None, *, live: bool = False) -> bool:
        if not bar.closed:
            return False
        if self.mode == STRICT and bar.volume < 0:
            return True
        if closed is not None and bar.cell >= closed:
            return True
        series = self.series.setdefault(bar.symbol, Series())
        if series.frontier is None:
            series.frontier = self.floor(bar.cell)
        series.live = series.live or live
        late = bar.cell < series.frontier
        held = series.bars.get(bar.cell)
        outcome: Outcome | None = "inserted"
        if held is None:
            content = (*bar.prices, bar.volume)
            held = Standing(content, bar.source, list(bar.extra), [bar.source] * 4)
            series.bars[bar.cell] = held
        else:
            outcome = _settle(held, bar)
        self._stabilize(series)
        if outcome is not None:
            young = series.stable is None or bar.cell >= series.stable
            row = LogRow(
                *(bar.symbol, bar.cell, held.values, held.source, held.revision, outcome, young)
            )
            self.history.append(row)
            if not late:
                self.log.append(row)
        return False

    def _stabilize(self, series: Series) -> None:
        bars = self.stabilization_bars
        found = [] if series.stable is None else [series.stable]
        newest = sorted(series.bars, reverse=True)
        if bars == 0:
            found += [cell + 1 for cell in newest[:1]]
        else:
            found += newest[bars - 1 : bars]
        if self.watermark is not None and series.live:
            found.append(self.watermark - bars)
        if found and series.frontier is not None:
            series.stable = max(found)
            series.frontier = max(series.frontier, self.floor(series.stable))

    def tick(self, sealed: dict[str, int]) -> None:
        """Frontiers may have moved inside their block, not beyond what is stable or known. Raises
        AssertionError where one did."""
        for symbol, series in self.series.items():
            if series.frontier is not None and symbol in sealed:
                known = [*series.bars, series.frontier - 1]
                stable = max(known) + 1 if series.stable is None else series.stable
                assert series.frontier <= sealed[symbol] <= max(stable, max(known) + 1)
                series.frontier = sealed[symbol]

    # --- what must be there in the end

    def final(self) -> dict[tuple[str, int], tuple[Any, ...]]:
        """(symbol, cell) -> values, authority, revision."""
        return {
            (symbol, cell): (*bar.content, *bar.extra, bar.source, bar.revision)
            for symbol, series in self.series.items()
            for cell, bar in series.bars.items()
        }

    def derived(
        self, ratio: int, only: str | None = None
    ) -> dict[tuple[str, int], tuple[Any, ...]]:
        """The bars of a derived preset, of all symbols or only one, with "partial" instead of a
        revision."""
        found = {}
        for symbol, series in self.series.items():
            if only not in (None, symbol):
                continue
            groups: dict[int, list[int]] = {}
            for cell in sorted(series.bars):
                window = (cell + self.origin) // ratio * ratio - self.origin
                groups.setdefault(window, []).append(cell)
            heard = self.watermark if series.live else None
            closed = max((at for at in (heard, series.frontier) if at is not None), default=None)
            for start, cells in groups.items():
                newest = max(series.bars)
                if newest >= start + ratio - 1 or (closed is not None and closed >= start + ratio):
                    found[symbol, start] = rolled([series.bars[cell] for cell in cells], ratio)
        return found


def _settle(held: Standing, bar: Bar) -> Outcome | None:
    """A bar meets another statement of it. None: nothing about it changed."""
    content = (*bar.prices, bar.volume)
    revised = completed = confirmed = False
    if bar.source <= held.source:
        revised = content != held.content
        confirmed = not revised and bar.source < held.source
        held.content, held.source = content, bar.source
    for place, value in enumerate(bar.extra):
        if value is None:
            continue
        if held.extra[place] is None:
            completed = True
        elif bar.source > held.stated[place]:
            continue
        elif held.extra[place] != value:
            revised = True
        elif bar.source < held.stated[place]:
            confirmed = True
        held.extra[place], held.stated[place] = value, bar.source
    held.revision += revised
    if revised:
        return "revised"
    if completed:
        return "completed"
    return "confirmed" if confirmed else None


def rolled(bars: list[Standing], ratio: int) -> tuple[Any, ...]:
    """One derived bar out of its inputs, in time order."""

    def total(place: int, add: Callable[[Iterable[Any]], Any]) -> Any:
        values = [bar.extra[place] for bar in bars]
        return None if None in values else add(values)

    return (
        bars[0].content[0],
        max(bar.content[1] for bar in bars),
        min(bar.content[2] for bar in bars),
        bars[-1].content[3],
        math.fsum(bar.content[4] for bar in bars),
        total(0, math.fsum),
        total(1, sum),
        bars[0].extra[2],
        bars[-1].extra[3],
        max(bar.source for bar in bars),
        len(bars) < ratio,
    )
