"""What must be written when a frontier has moved or a sealed block has changed.

Decides: which blocks go to storage, the frontier and log offset of each seal, what the gap ledger
says. Invariants: a block holds only rows before the frontier; a seal's offset is at or before the
log row of every bar at or after the frontier, and of the few bars behind it that a reader compares;
every missing cell between the first bar and the frontier is in the ledger. Must not know: bytes,
topics, clocks, where the evidence for a cause lies (`gap_book`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from seamline.schemas.columns import I8, Bool
from seamline.streams.kernel.coverage import Coverage, Interval, missing_runs
from seamline.streams.kernel.gap_causes import STATED, UNPROVED, Rule, touching
from seamline.streams.kernel.level import (
    B_BLOCK,
    B_CLAIM_END,
    B_CLAIM_START,
    B_DIRTY,
    B_SYMBOL,
    B_WRITTEN,
    OFFSET,
    PRESENT,
    REG_OVERLAP,
    REG_SYMBOLS,
    S_FIRST,
    S_FRONTIER,
    S_MOVED,
    UNSET,
    Level,
)


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Rows `cells` (places inside the block) of a slot that storage must hold from now on."""

    slot: int
    block: int
    cells: I8
    claim: Interval | None


@dataclass(frozen=True, slots=True)
class SealWrite:
    """A symbol's new seal: its blocks, then frontier and log offset, then what changed in its
    ledger.

    `gaps` maps the start of a gap to its end, or to None where no gap starts there any more;
    `before` is what the ledger named until now. `claims`: what sources were asked for in blocks
    that are not sealed to the end of it, which no stored block says yet.
    """

    symbol: int
    frontier: int
    offset: int
    blocks: tuple[BlockWrite, ...]
    gaps: dict[int, int | None]
    before: Coverage
    claims: tuple[Interval, ...] = ()


@dataclass(slots=True)
class Ledger:
    """The gaps of one symbol and the span [start, end) for which they have been worked out.

    `causes`: start of a gap -> the row of the table that gave its cause, where that is not
    `unknown`.
    """

    gaps: Coverage = field(default_factory=Coverage)
    start: int = UNSET
    end: int = UNSET
    causes: dict[int, Rule] = field(default_factory=dict)

    def open_gap(self) -> Interval | None:
        """The gap that reaches the frontier: the bar after it is not sealed, or not there."""
        spans = self.gaps.spans
        if not len(spans) or spans[-1, 1] != self.end:
            return None
        return int(spans[-1, 0]), int(spans[-1, 1])

    def missing(self, low: int, high: int) -> int:
        """How many expected cells of [low, high) are not there."""
        spans = self.gaps.spans
        first = int(np.searchsorted(spans[:, 1], low, "right"))
        near = spans[first : int(np.searchsorted(spans[:, 0], high, "left"))]
        return int((np.minimum(near[:, 1], high) - np.maximum(near[:, 0], low)).sum())

    def gap_at(self, start: int) -> Interval | None:
        """The gap that starts there."""
        spans = self.gaps.spans
        at = int(np.searchsorted(spans[:, 0], start))
        if at == len(spans) or spans[at, 0] != start:
            return None
        return int(spans[at, 0]), int(spans[at, 1])

    def stated_down(self, before: Coverage, start: int, end: int) -> bool:
        """Whether [start, end) was part of a gap of `before` in an outage that the venue stated."""
        spans = before.spans
        at = int(np.searchsorted(spans[:, 1], start, "right"))
        if at == len(spans) or spans[at, 0] > start or spans[at, 1] < end:
            return False
        return self.causes.get(int(spans[at, 0])) == STATED

    def learn(self, start: int, found: Rule) -> bool:
        """Note why the gap that starts there is one; whether that is another row than before."""
        if found == self.causes.get(start, UNPROVED):
            return False
        if found == UNPROVED:
            del self.causes[start]
        else:
            self.causes[start] = found
        return True


# A gap's entry: its end and why, None where no gap starts there any more.
GapEntry = tuple[int, Rule] | None
# Why a gap is one, and whether the gap of before that it was a part of lay in an outage.
VerdictOf = Callable[[Interval, bool], Rule]
# The expected cells of [low, high).
Expected = Callable[[int, int], Coverage]


def due(level: Level) -> list[int]:
    """Symbols that need a new seal: the frontier moved, or a sealed block changed."""
    state = level.state
    moved = np.flatnonzero(state.sym[: state.reg[REG_SYMBOLS], S_MOVED])
    dirty = state.slot[np.flatnonzero(state.slot[:, B_DIRTY]), B_SYMBOL]
    return [int(symbol) for symbol in np.union1d(moved, dirty)]


def write_seal(
    level: Level,
    ledgers: dict[int, Ledger],
    symbol: int,
    bound: int,
    expected: Expected | None = None,
) -> SealWrite:
    """The seal of a symbol as its level stands; notes in the level that its blocks were written.

    `bound` is a lower bound of the log offsets that this batch will get; without `expected` every
    cell is expected.
    """
    state = level.state
    frontier = int(state.sym[symbol, S_FRONTIER])
    blocks = []
    for slot in sorted(level.slots_of(symbol), key=lambda s: int(state.slot[s, B_BLOCK])):
        block = int(state.slot[slot, B_BLOCK])
        end = min(frontier, block + level.span)
        if end <= block or not (state.slot[slot, B_DIRTY] or end > state.slot[slot, B_WRITTEN]):
            continue
        cells = np.flatnonzero(state.cells[slot, : end - block, PRESENT])
        claim = _claim(level, slot, end)
        # An empty answer is evidence: of a listing before the first bar, of a gap's cause after it.
        if len(cells) or claim is not None:
            blocks.append(BlockWrite(slot, block, cells, claim))
        state.slot[slot, B_DIRTY] = 0
        state.slot[slot, B_WRITTEN] = end
    state.sym[symbol, S_MOVED] = 0
    ledger = ledgers.setdefault(symbol, Ledger())
    before = ledger.gaps
    gaps = _update_ledger(level, ledger, symbol, blocks, expected)
    offset = log_offset(level, symbol, bound)
    claims = open_claims(level, symbol)
    return SealWrite(symbol, frontier, offset, tuple(blocks), gaps, before, claims)


def _claim(level: Level, slot: int, end: int) -> Interval | None:
    start, until = (
        int(level.state.slot[slot, B_CLAIM_START]),
        int(level.state.slot[slot, B_CLAIM_END]),
    )
    return (start, min(until, end)) if start != UNSET and start < end else None


def open_claims(level: Level, symbol: int) -> tuple[Interval, ...]:
    """What sources were asked for in blocks that are not sealed to the end of it."""
    state = level.state
    frontier = int(state.sym[symbol, S_FRONTIER])
    claims = [
        (int(state.slot[slot, B_CLAIM_START]), int(state.slot[slot, B_CLAIM_END]))
        for slot in level.slots_of(symbol)
        if state.slot[slot, B_CLAIM_END] > frontier
    ]
    return tuple(sorted(claims))


def log_offset(level: Level, symbol: int, bound: int, *, overlap: bool = True) -> int:
    """Where in the log a reader must begin; without `overlap` for the open bars alone."""
    state = level.state
    lowest = bound
    from_cell = int(state.sym[symbol, S_FRONTIER]) - overlap * int(state.reg[REG_OVERLAP])
    for slot in level.slots_of(symbol):
        start = max(0, from_cell - int(state.slot[slot, B_BLOCK]))
        if start >= level.span:
            continue
        cells = state.cells[slot, start:]
        known = cells[(cells[:, PRESENT] != 0) & (cells[:, OFFSET] >= 0), OFFSET]
        if len(known):
            lowest = min(lowest, int(known.min()))
    return lowest


def releasable(level: Level, symbol: int) -> list[int]:
    """Slots whose block lies behind the frontier and is written.

    The block that the overlap reaches into stays, so that a later seal of the same symbol still
    knows the log offsets of those bars.
    """
    state = level.state
    frontier = int(state.sym[symbol, S_FRONTIER])
    keep_from = frontier - int(state.reg[REG_OVERLAP])
    return [
        slot
        for slot in level.slots_of(symbol)
        if int(state.slot[slot, B_BLOCK]) + level.span <= min(frontier, keep_from)
        and not state.slot[slot, B_DIRTY]
    ]


def _update_ledger(
    level: Level,
    ledger: Ledger,
    symbol: int,
    blocks: list[BlockWrite],
    expected: Expected | None,
) -> dict[int, int | None]:
    def absent(low: int, high: int, runs: list[Interval]) -> Sequence[Interval]:
        if expected is None or not runs:
            return runs
        return expected(low, high).intersect(Coverage.of_cells(runs)).intervals

    state = level.state
    first, frontier = int(state.sym[symbol, S_FIRST]), int(state.sym[symbol, S_FRONTIER])
    if first == UNSET or first >= frontier:
        return {}
    before = ledger.gaps
    gaps = before
    if ledger.start == UNSET:
        ledger.start = ledger.end = first
    if first < ledger.start:
        gaps = gaps.replace(
            *(first, ledger.start), absent(first, ledger.start, [(first, ledger.start)])
        )
        ledger.start = first
    if frontier > ledger.end:
        gaps = gaps.replace(
            *(ledger.end, frontier), absent(ledger.end, frontier, [(ledger.end, frontier)])
        )
        ledger.end = frontier
    for write in blocks:
        low, high = max(first, write.block), min(frontier, write.block + level.span)
        if low < high:
            runs = missing_runs(write.block + write.cells, low, high, 1)
            gaps = gaps.replace(low, high, absent(low, high, runs))
    ledger.gaps = gaps
    return ledger_changes(before, gaps)


def ledger_changes(before: Coverage, after: Coverage) -> dict[int, int | None]:
    """Start of each gap whose entry changed, with its end now or None."""
    a, b = before.spans, after.spans
    # A ledger may be long and changes at one place: what is the same at both ends is left out.
    head = _same((a[: len(b)] == b[: len(a)]).all(axis=1))
    a, b = a[head:], b[head:]
    tail = _same((a[::-1][: len(b)] == b[::-1][: len(a)]).all(axis=1))
    old = dict(a[: len(a) - tail].tolist())
    new = dict(b[: len(b) - tail].tolist())
    changes: dict[int, int | None] = {start: None for start in old if start not in new}
    changes.update({start: end for start, end in new.items() if old.get(start) != end})
    return dict(sorted(changes.items()))


def _same(equal: Bool) -> int:
    """How many are true before the first that is not."""
    return len(equal) if equal.all() else int(np.argmin(equal))


def judge(
    ledger: Ledger, write: SealWrite, span: int, verdict_of: VerdictOf
) -> dict[int, GapEntry]:
    """The ledger's entries to write, by the start of the gap: those that changed with this seal,
    and those to which the bars beside them now give another cause.

    Judges each gap in or beside a written block (`span` cells); notes the causes.
    """
    gaps = ledger.gaps.spans
    doubtful = {(start, end) for start, end in write.gaps.items() if end is not None}
    for block in write.blocks:
        doubtful.update(touching(gaps, block.block, block.block + span))
    last = ledger.open_gap()
    if last is not None:
        doubtful.add(last)
    stated = {start: ledger.stated_down(write.before, start, end) for start, end in doubtful}
    entries: dict[int, GapEntry] = {}
    for start, end in write.gaps.items():
        if end is None:
            entries[start] = None
            ledger.causes.pop(start, None)
    for start, end in sorted(doubtful):
        found = verdict_of((start, end), stated[start])
        if ledger.learn(start, found) or start in write.gaps:
            entries[start] = end, found
    return dict(sorted(entries.items()))
