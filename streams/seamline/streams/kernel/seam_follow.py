"""Behind the seam: what each new row, block and ledger entry means for a reader that follows.

Decides: bar, late bar, revision, completion, gap, nothing, or a contradiction. Per symbol it keeps
what was delivered and how far time has passed. Rules:
  - a row at or after `passed` is a `Bar`; missing cells before it are told first, as a `Gap` with
    the ledger's cause, or provisional and `unknown` when the ledger has no entry yet (nothing is
    held back: the bar that one would wait for may never come);
  - a row before `passed` that was not delivered is a `LateBar`;
  - a delivered bar with a higher revision and other content is a `Revision`; with the same revision
    and nulls filled a completion; a lower or equal revision with the same content is nothing;
  - a block says the same about all its rows, so a backfill behind a reader is seen;
  - a ledger entry for cells that have passed is a `Gap` with its cause. Under `fail` it ends the
    stream unless the cause is `no_trades`; under `wait` it does when nothing came within the wait.
Invariants: a bar is delivered once; its revisions rise; bars of a symbol come in order of open
time; no difference is silent. A contradiction (two contents under one revision, storage older than
the log, a delivered bar that a block of its span does not have) raises SeamBroken.
Memory is bounded: beyond `remembered_rows` the oldest spans are forgotten, and of them only rows
with a known time after all that were forgotten are told, as late bars and as revisions without a
previous bar.
Must not know: Kafka clients; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from seamline.schemas.columns import Block, ConformedColumns
from seamline.schemas.times import format_time
from seamline.streams.kernel.seam import (
    GapFacts,
    OnGap,
    Part,
    Request,
    checked_rows,
    gap_of,
)
from seamline.streams.kernel.seam_broken import gap_error
from seamline.streams.kernel.seam_cells import Run, explained, missing_runs
from seamline.streams.kernel.seam_events import (
    NO_TRADES,
    UNKNOWN,
    Bar,
    Event,
    Gap,
    LateBar,
    Revision,
    SeamBroken,
    bars_of,
)

REMEMBERED_ROWS: Final = 5_000_000
TOLD_GAPS_MAX: Final = 10_000

Span = ConformedColumns | dict[int, Bar]


@dataclass(slots=True)
class _Symbol:
    """What a reader knows of one symbol. `spans` maps a block start to what was delivered of it."""

    name: str
    passed_ns: int
    spans: dict[int, Span] = field(default_factory=dict)
    rows: int = 0
    ledger: dict[int, GapFacts] = field(default_factory=dict)
    # The last word on each span: a cause may change, and change back.
    told: dict[tuple[int, int], tuple[str, bool]] = field(default_factory=dict)
    forgotten_before_ns: int | None = None
    forgotten_known_ns: int = 0
    ended: bool = False

    def entries(self) -> list[tuple[int, int, GapFacts]]:
        """The ledger in order of time."""
        return [self.ledger[start].entry for start in sorted(self.ledger)]


class Follower:
    """The live part of one reader. Rows and blocks must come in the order of their topic."""

    def __init__(
        self,
        request: Request,
        parts: Sequence[Part],
        *,
        wait_ns: int = 0,
        remembered_rows: int = REMEMBERED_ROWS,
    ) -> None:
        self._request = request
        self._block_ns, self._origin = request.block_ns, request.grid.origin_ns
        self._wait_ns = wait_ns
        self._limit = max(1, remembered_rows // max(1, len(parts)))
        self._awaited: dict[tuple[str, int, int], tuple[Gap, int]] = {}
        self._symbols = {part.symbol: self._begin(part) for part in parts}

    def _begin(self, part: Part) -> _Symbol:
        symbol = _Symbol(part.symbol, part.passed_ns)
        self._remember_columns(symbol, part.sealed)
        young = part.log_provisional
        for bar in bars_of(part.symbol, part.log, young):
            self._remember(symbol, bar)
        symbol.ledger = {gap.start_ns: gap for gap in part.settled.gaps}
        for gap in (*part.gaps, *part.open_gaps):
            symbol.told[gap.start_ns, gap.end_ns] = (gap.cause, gap.provisional)
        symbol.ended = symbol.passed_ns >= self._request.stop_ns
        return symbol

    @property
    def ended(self) -> bool:
        """Every symbol has passed the end that was asked for."""
        return all(symbol.ended for symbol in self._symbols.values())

    def passed_ns(self, symbol: str) -> int:
        """Every cell of a symbol before it was told."""
        return self._symbols[symbol].passed_ns

    def wants(self, symbol: str) -> bool:
        return symbol in self._symbols

    def rows(self, symbol: str, columns: ConformedColumns, now_ns: int) -> list[Event]:
        """New rows of the conformed log of one symbol, in offset order."""
        known = self._symbols[symbol]
        events: list[Event] = []
        for bar in bars_of(symbol, columns):
            events += self._row(known, bar, now_ns)
        next_gap = known.ledger.get(known.passed_ns)
        if next_gap is not None:
            events += self._settled_gaps(known, next_gap, now_ns)
        self._forget(known)
        return events

    def block(self, block: Block, now_ns: int) -> list[Event]:
        """A new version of a block. Raises ContractError where rows and digest do not fit."""
        known = self._symbols[block.symbol]
        columns = checked_rows(block)
        start, stop = self._request.start_ns, self._request.stop_ns
        wanted = columns.take((columns.open_time_ns >= start) & (columns.open_time_ns < stop))
        before = known.forgotten_before_ns
        if before is not None and block.block_start_ns < before:
            return self._forgotten_block(known, wanted)
        events: list[Event] = []
        for bar in bars_of(block.symbol, wanted):
            events += self._row(known, bar, now_ns, stored=True)
        if len(wanted) and self._holds_all(known, block, wanted):
            self._remember_columns(known, wanted)
        self._forget(known)
        return events

    def gap(self, symbol: str, start_ns: int, gap: GapFacts | None, now_ns: int) -> list[Event]:
        """A change of the gap ledger; None closes the entry that starts there."""
        known = self._symbols[symbol]
        if gap is None:
            known.ledger.pop(start_ns, None)
            return []
        known.ledger[start_ns] = gap
        return self._settled_gaps(known, gap, now_ns)

    def tick(self, now_ns: int) -> None:
        """Raises SeamBroken for a gap that was awaited for as long as the caller allows."""
        for key, (gap, deadline_ns) in list(self._awaited.items()):
            left = self._still_missing(gap)
            if not left:
                del self._awaited[key]
            elif now_ns >= deadline_ns:
                raise gap_error(self._request, left, waited_s=self._wait_ns / 1e9)

    def _still_missing(self, awaited: Gap) -> list[Gap]:
        """What is left of an awaited gap: bars may have come, or the proof that nobody traded."""
        known = self._symbols[awaited.symbol]
        runs = self._absent(known, awaited.start_ns, awaited.end_ns)
        named, rest = explained(self._request.grid, runs, known.entries())
        left = [(a, b, n, entry.cause) for a, b, n, entry in named if entry.cause != NO_TRADES]
        left += [(*run, awaited.cause) for run in rest]
        return [Gap(awaited.symbol, a, b, n, cause) for a, b, n, cause in sorted(left)]

    def closed_through(self, symbols: Iterable[str], watermark_ns: int) -> None:
        """All bars before the watermark were sent, and what was sent has been given here."""
        if watermark_ns >= self._request.stop_ns:
            for name in symbols:
                self._symbols[name].ended = True

    # one row

    def _row(
        self, known: _Symbol, bar: Bar, now_ns: int, *, stored: bool = False
    ) -> Iterator[Event]:
        time_ns = bar.open_time_ns
        if time_ns >= self._request.stop_ns:
            known.ended = True
            return
        if time_ns < self._request.start_ns:
            return
        before = known.forgotten_before_ns
        if before is not None and time_ns < before:
            yield from self._forgotten_row(known, bar)
            return
        held = self._held(known, time_ns)
        if held is not None:
            yield from self._again(known, held, bar, stored=stored)
            return
        if stored:
            bar = bar._replace(provisional=False)
        self._remember(known, bar)
        if time_ns < known.passed_ns:
            yield LateBar(bar)
            return
        yield from self._missing_before(known, time_ns, now_ns)
        known.passed_ns = time_ns + self._request.grid.interval_ns
        yield bar
        known.ended = known.ended or known.passed_ns >= self._request.stop_ns

    def _again(self, known: _Symbol, held: Bar, bar: Bar, *, stored: bool) -> Iterator[Event]:
        """A bar that was delivered is stated again."""
        same = held.content == bar.content
        if bar.revision < held.revision:
            if stored:
                raise self._contradiction(held, bar, "storage_older", "is older in storage")
            return
        if same:
            if bar.revision > held.revision:
                self._remember(known, bar)
            return
        completed = bar.revision == held.revision and bar.completes(held)
        if bar.revision == held.revision and not completed:
            if held.completes(bar):
                return  # stated before it was completed
            raise self._contradiction(held, bar, "two_contents", "has two contents in one revision")
        self._remember(known, bar)
        yield Revision(bar, held, completed)

    def _contradiction(self, held: Bar, bar: Bar, cause: str, what: str) -> SeamBroken:
        end_ns = bar.open_time_ns + self._request.grid.interval_ns
        return SeamBroken(
            f"{bar.symbol} at {format_time(bar.open_time_ns)} {what} (revision {bar.revision}, "
            f"delivered revision {held.revision})",
            cause=cause,
            missing=[Gap(bar.symbol, bar.open_time_ns, end_ns, 1, cause)],
            command=self._request.repair(bar.symbol, bar.open_time_ns, end_ns),
            symbol=bar.symbol,
            open_time_ns=bar.open_time_ns,
            delivered=held.content,
            stated=bar.content,
        )

    # gaps

    def _missing_before(self, known: _Symbol, time_ns: int, now_ns: int) -> Iterator[Gap]:
        """The hole between what has passed and a newer bar."""
        grid = self._request.grid
        if time_ns == known.passed_ns:
            return
        none = np.zeros(0, np.int64)
        runs = missing_runs(grid, none, known.passed_ns, time_ns)
        named, rest = explained(grid, runs, known.entries())
        for cause in named:
            yield from self._tell(known, gap_of(known.name, *cause), now_ns)
        for a, b, n in rest:
            yield from self._tell(known, Gap(known.name, a, b, n, UNKNOWN, True), now_ns)

    def _settled_gaps(self, known: _Symbol, entry: GapFacts, now_ns: int) -> list[Event]:
        """A ledger entry: cells that have passed, and those that continue what has passed."""
        start = max(entry.start_ns, self._request.start_ns)
        end = min(entry.end_ns, self._request.stop_ns)
        if end <= start or start > known.passed_ns:
            return []  # told when a newer bar comes
        known.passed_ns = max(known.passed_ns, self._request.grid.up(end))
        known.ended = known.ended or known.passed_ns >= self._request.stop_ns
        events: list[Event] = []
        for a, b, n in self._absent(known, start, end):
            events += self._tell(known, gap_of(known.name, a, b, n, entry), now_ns)
        return events

    def _tell(self, known: _Symbol, gap: Gap, now_ns: int) -> Iterator[Gap]:
        span, word = (gap.start_ns, gap.end_ns), (gap.cause, gap.provisional)
        if known.told.get(span) == word:
            return
        known.told[span] = word
        if len(known.told) > TOLD_GAPS_MAX:
            del known.told[next(iter(known.told))]
        if not gap.provisional and gap.cause != NO_TRADES:
            if self._request.on_gap is OnGap.FAIL:
                raise gap_error(self._request, [gap])
            if self._request.on_gap is OnGap.WAIT:
                where = (gap.symbol, gap.start_ns, gap.end_ns)
                self._awaited.setdefault(where, (gap, now_ns + self._wait_ns))
        yield gap

    def _absent(self, known: _Symbol, start_ns: int, end_ns: int) -> list[Run]:
        """Missing cells of a span, by what was delivered."""
        times: set[int] = set()
        at = self._span_of(start_ns)
        while at < end_ns:
            span = known.spans.get(at)
            if isinstance(span, dict):
                times.update(span)
            elif span is not None:
                times.update(span.open_time_ns.tolist())
            at += self._block_ns
        present = np.array(sorted(times), np.int64)
        before = known.forgotten_before_ns
        start = start_ns if before is None else max(start_ns, before)
        return missing_runs(self._request.grid, present, start, end_ns)

    # memory

    def _span_of(self, time_ns: int) -> int:
        return time_ns - (time_ns - self._origin) % self._block_ns

    def _held(self, known: _Symbol, time_ns: int) -> Bar | None:
        return self._open_span(known, time_ns).get(time_ns)

    def _open_span(self, known: _Symbol, time_ns: int) -> dict[int, Bar]:
        """The delivered bars of the block of a time, by open time."""
        at = self._span_of(time_ns)
        span = known.spans.get(at)
        if not isinstance(span, dict):
            rows = ConformedColumns.empty(0) if span is None else span
            span = {bar.open_time_ns: bar for bar in bars_of(known.name, rows)}
            known.spans[at] = span
        return span

    def _remember(self, known: _Symbol, bar: Bar) -> None:
        span = self._open_span(known, bar.open_time_ns)
        known.rows += bar.open_time_ns not in span
        span[bar.open_time_ns] = bar

    def _remember_columns(self, known: _Symbol, columns: ConformedColumns) -> None:
        """Delivered rows, kept as columns: a tenth of the memory of bars."""
        if not len(columns):
            return
        blocks = columns.open_time_ns - (columns.open_time_ns - self._origin) % self._block_ns
        cuts = np.flatnonzero(np.diff(blocks)) + 1
        for lo, hi in zip((0, *cuts.tolist()), (*cuts.tolist(), len(columns)), strict=True):
            at = int(blocks[lo])
            old = known.spans.get(at)
            known.rows += hi - lo - (0 if old is None else len(old))
            known.spans[at] = columns.take(slice(lo, hi))

    def _holds_all(self, known: _Symbol, block: Block, rows: ConformedColumns) -> bool:
        """Whether the block has all that was delivered of its span (a partial block has less).

        Raises SeamBroken when it lacks a delivered bar before its last row.
        """
        there = set(rows.open_time_ns.tolist())
        absent = self._open_span(known, block.block_start_ns).keys() - there
        lost = sorted(t for t in absent if t < int(rows.open_time_ns[-1]))
        if lost:
            end_ns = lost[-1] + self._request.grid.interval_ns
            raise SeamBroken(
                f"{len(lost)} bars of {block.symbol} were delivered from the log and are not in "
                f"storage, the first at {format_time(lost[0])}",
                cause="vanished",
                missing=[Gap(block.symbol, lost[0], end_ns, len(lost), "vanished")],
                command=self._request.repair(block.symbol, lost[0], end_ns),
                symbol=block.symbol,
                open_times_ns=tuple(lost[:5]),
            )
        return not absent

    def _forget(self, known: _Symbol) -> None:
        while known.rows > self._limit and len(known.spans) > 1:
            at = min(known.spans)
            span = known.spans.pop(at)
            known.rows -= len(span)
            known.forgotten_before_ns = at + self._block_ns
            times = (
                (bar.known_time_ns for bar in span.values())
                if isinstance(span, dict)
                else span.known_time_ns.tolist()
            )
            known.forgotten_known_ns = max(known.forgotten_known_ns, *times)

    def _forgotten_block(self, known: _Symbol, rows: ConformedColumns) -> list[Event]:
        events: list[Event] = []
        for bar in bars_of(known.name, rows):
            events += self._forgotten_row(known, bar)
        return events

    def _forgotten_row(self, known: _Symbol, bar: Bar) -> Iterator[Event]:
        """Only what became known after everything that was forgotten can be new to the reader."""
        if bar.known_time_ns <= known.forgotten_known_ns:
            return
        yield Revision(bar, None) if bar.revision else LateBar(bar)
