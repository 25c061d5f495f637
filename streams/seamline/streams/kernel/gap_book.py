"""The gap ledgers of one level: on what evidence a gap is judged, and when it is judged again.

Decides: where evidence lies (the bars on both sides, what sources were asked for, the venue's
newest statement of its outages, the venue's time), which gaps a change of it concerns. Invariants:
a gap's cause is a function of what the log says, so a rebuilt book judges like the one that wrote
it: bars and claims are in blocks and seals, statement and time in the position, former causes in
the ledger itself; a gap is judged again when any of them changes for it. Must not know: bytes of a
ledger entry, topics, our own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from seamline.schemas.columns import PARTIAL, Block
from seamline.schemas.outages import OUTAGES_MAX, Outage
from seamline.schemas.preset import Preset
from seamline.streams.kernel.block_index import BlockIndex, Entry
from seamline.streams.kernel.gap_causes import (
    AWAITED,
    Evidence,
    Interval,
    Rule,
    Side,
    facts_of,
    touching,
    verdict,
)
from seamline.streams.kernel.level import (
    B_CLAIM_END,
    B_CLAIM_START,
    PRESENT,
    S_FRONTIER,
    Level,
)
from seamline.streams.kernel.level_columns import cells_of_columns, side_of_row
from seamline.streams.kernel.seal import GapEntry, Ledger, SealWrite, judge

# An entry of the ledger to write: symbol, start of the gap, its end and why it is one.
Change = tuple[int, int, GapEntry]


class GapBook:
    """The ledgers of one preset in one partition. `parent`: the book of the level that feeds it."""

    def __init__(
        self,
        preset: Preset,
        level: Level,
        index: BlockIndex,
        load: Callable[[Entry], Block],
        parent: GapBook | None,
    ) -> None:
        self.ledgers: dict[int, Ledger] = {}
        self._preset = preset
        self._level = level
        self._index = index
        self._load = load
        self._parent = parent
        # Symbols with a gap that reaches the frontier, and the bar before it once it was needed.
        self._watched: dict[int, Side | None] = {}
        # Gaps that history may still fill.
        self._young: set[tuple[int, int]] = set()
        # Spans that a source was asked for, of the blocks of this step: (symbol, start, end) in ns.
        self.asked: list[tuple[int, int, int]] = []
        self._down: tuple[Interval, ...] = ()
        self._forgotten_before: int | None = None
        self._settled_through: int | None = None
        self._settled_seen: int | None = None
        self._doubted: list[Interval] = []

    def restore(self, symbol: int, ledger: Ledger) -> None:
        """The ledger of a symbol as the log has it."""
        self.ledgers[symbol] = ledger
        if ledger.open_gap() is not None:
            self._watched[symbol] = None
        self._young.update((symbol, at) for at, why in ledger.causes.items() if why == AWAITED)

    def hear(self, outages: Sequence[Outage], watermark_ns: int | None, settle_ns: int) -> None:
        """The venue's newest statement, and its time: an outage that goes on reaches to there."""
        cell_of = self._preset.cell_of
        self._settled_through = None if watermark_ns is None else cell_of(watermark_ns - settle_ns)
        down = []
        for start_ns, end_ns in outages:
            until_ns = watermark_ns if end_ns is None else end_ns
            # A bar can be given from its close on: the bars that closed in the outage.
            if until_ns is not None and cell_of(start_ns) < cell_of(until_ns):
                down.append((cell_of(start_ns), cell_of(until_ns)))
        full = len(outages) == OUTAGES_MAX
        self._forgotten_before = cell_of(outages[0][0]) if full else None
        if tuple(down) != self._down:
            self._doubted += {*down} ^ {*self._down}
            self._down = tuple(down)

    def sealed(self, symbol: int, write: SealWrite) -> Iterator[Change]:
        """What a seal changes in the ledger of its symbol."""
        ledger = self.ledgers.get(symbol)
        if ledger is None:
            return
        for block in write.blocks:
            if block.claim is not None:
                start, end = block.claim
                self.asked.append((symbol, self._time_of(start), self._time_of(end)))
        self._watched.pop(symbol, None)

        def why(gap: Interval, stated_down: bool) -> Rule:
            return self._verdict(symbol, gap, stated_down)

        for start, entry in judge(ledger, write, self._level.span, why).items():
            self._note(symbol, start, None if entry is None else entry[1])
            yield symbol, start, entry
        if ledger.open_gap() is not None:
            self._watched[symbol] = None

    def again(self, sealed: Sequence[int]) -> Iterator[Change]:
        """Gaps that other evidence than a seal of their symbol concerns: a bar came right after
        the last one, the venue spoke, time passed, the level below was asked for them."""
        for symbol in [symbol for symbol in self._watched if symbol not in sealed]:
            yield from self._watch(symbol)
        doubted, self._doubted = self._doubted, []
        for low, high in doubted:
            for symbol, ledger in self.ledgers.items():
                yield from self._judge(symbol, touching(ledger.gaps.spans, low, high))
        for symbol, start_ns, end_ns in self._parent.asked if self._parent else ():
            found = self.ledgers.get(symbol)
            if found is not None:
                cells = self._preset.cell_of(start_ns), self._preset.cell_of(end_ns)
                yield from self._judge(symbol, touching(found.gaps.spans, *cells))
        yield from self._settle()

    def _settle(self) -> Iterator[Change]:
        """Gaps that were awaited and have settled."""
        if self._settled_through == self._settled_seen:
            return
        self._settled_seen = self._settled_through
        for symbol, start in sorted(self._young):
            ledger = self.ledgers[symbol]
            gap = ledger.gap_at(start)
            if gap is None:
                self._young.discard((symbol, start))
            elif self._settled_through is None or gap[1] <= self._settled_through:
                yield from self._judge(symbol, [gap])

    def _watch(self, symbol: int) -> Iterator[Change]:
        """A gap that reaches the frontier gets its cause when a bar comes right after it, and not
        only with the next seal, which may be a block later."""
        gap = self.ledgers[symbol].open_gap()
        if gap is None or self._side(symbol, gap[1]) is None:
            return
        self._watched[symbol] = self._watched[symbol] or self._side(symbol, gap[0] - 1)
        yield from self._judge(symbol, [gap], before=self._watched[symbol])

    def _judge(
        self, symbol: int, gaps: Iterable[Interval], before: Side | None = None
    ) -> Iterator[Change]:
        ledger = self.ledgers[symbol]
        for start, end in gaps:
            stated = ledger.stated_down(ledger.gaps, start, end)
            found = self._verdict(symbol, (start, end), stated, before)
            if ledger.learn(start, found):
                self._note(symbol, start, found)
                yield symbol, start, (end, found)

    def _note(self, symbol: int, start: int, found: Rule | None) -> None:
        if found == AWAITED:
            self._young.add((symbol, start))
        else:
            self._young.discard((symbol, start))

    def _verdict(
        self, symbol: int, gap: Interval, stated_down: bool, before: Side | None = None
    ) -> Rule:
        derived = self._level.derived
        before = before or self._side(symbol, gap[0] - 1)
        after = self._side(symbol, gap[1])
        evidence = Evidence(
            last_id_before=None if before is None else before.trusted_last(derived=derived),
            first_id_after=None if after is None else after.trusted_first(derived=derived),
            whole_sides=not any(side.flags & PARTIAL for side in (before, after) if side),
            outages=self._down,
            settled_through=self._settled_through,
            forgotten_before=self._forgotten_before,
            stated_down=stated_down,
        )
        facts = facts_of(gap, evidence)
        # Looked up only where it decides.
        if (facts.ids == "jump" or facts.awaited) and self.answered(symbol, gap):
            evidence = replace(evidence, answered=(gap,))
        return verdict(gap, evidence)

    def answered(self, symbol: int, gap: Interval) -> bool:
        """Whether sources were asked for all of a gap and answered: the claims of its blocks."""
        if self._parent is not None:
            cell_of = self._parent._preset.cell_of
            start, end = (cell_of(self._time_of(cell)) for cell in gap)
            return self._parent.answered(symbol, (start, end))
        span, at = self._level.span, gap[0]
        while at < gap[1]:
            start, end = self._claim(symbol, at - at % span)
            if not start <= at < end:
                return False
            at = end
        return True

    def _claim(self, symbol: int, block: int) -> Interval:
        """The part of a block that a source was asked for."""
        level = self._level
        slot = level.find_slot(symbol, block)
        if slot >= 0:
            slots = level.state.slot
            return int(slots[slot, B_CLAIM_START]), int(slots[slot, B_CLAIM_END])
        entry = self._index.get(level.symbols[symbol], self._time_of(block))
        if entry is None:
            return block, block
        cell_of = self._preset.cell_of
        return cell_of(entry.claim_start_ns), cell_of(entry.claim_end_ns)

    def _side(self, symbol: int, cell: int) -> Side | None:
        """The bar in a cell: from its slot, else from the stored block, one read at most."""
        level = self._level
        block = cell - cell % level.span
        slot = level.find_slot(symbol, block)
        if slot >= 0:
            row = level.state.cells[slot, cell - block]
            return side_of_row(row) if row[PRESENT] else None
        entry = self._index.get(level.symbols[symbol], self._time_of(block))
        if entry is None or not entry.rows or cell >= level.state.sym[symbol, S_FRONTIER]:
            return None
        columns = self._load(entry).columns
        at = int(np.searchsorted(columns.open_time_ns, self._time_of(cell)))
        if at == len(columns) or columns.open_time_ns[at] != self._time_of(cell):
            return None
        return side_of_row(cells_of_columns(columns.take(slice(at, at + 1)))[0][0])

    def _time_of(self, cell: int) -> int:
        return cell * self._preset.interval_ns + self._preset.grid_origin_ns
