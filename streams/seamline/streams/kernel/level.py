"""The state of one level: the open bars of one preset in one partition, as columns.

Decides: how bars are stored between batches. A *slot* holds one block of one symbol: one row of
every array for each grid cell of the block. Slots of a symbol form a list from `slot_head`. A
sealed block that gets a late value is loaded into a slot, changed like any other, written and let
go.

Invariants: a block of a symbol is in at most one slot; a cell is `present` or all its other values
mean nothing; cells are numbers of grid intervals from the grid origin, so a block is `cell % span`.
Must not know: Avro, Kafka, nanoseconds. Arrays are owned by the level and changed in place; a
failed commit discards the level as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from seamline.schemas.columns import F8, I8
from seamline.schemas.errors import ContractError

UNSET = -(2**62)
STABILIZATION_BARS_MAX = 64
CHILDREN_MAX = 8
WINDOW_CELLS_MAX = 65_536
SLOTS_MAX = 65_536
SYMBOLS_MAX = 65_536

# Columns of `vals`.
OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE_VOLUME = range(6)
VALS_WIDTH = 6

# Columns of `cells` and of `cols`: one layout for a bar in a slot, on its way in and on its way
# out, so that moving a bar is copying a row. Where it lies decides which of the names is meant.
# REDRIVEN: of a landed bar, 1 where its record was in quarantine since.
CELL_WIDTH = 14
PRESENT = EVENT = 0
SYMBOL, CELL, SOURCE, REVISION, FLAGS, KNOWN, RECEIVED, ORIGIN = range(1, 9)
TRADES, FIRST_ID, LAST_ID = range(9, 12)
OFFSET = UNTIL = SEALED = 12
TOUCHED = CHILD = REDRIVEN = 13

# Columns of `sym`.
S_FRONTIER, S_FIRST, S_NEWEST, S_STABLE, S_MOVED, S_HEAD, S_LAST, S_DONE, S_LIVE = range(9)
S_COUNTS = 9

# Columns of `slot`.
B_SYMBOL, B_BLOCK, B_NEXT, B_DIRTY, B_WRITTEN, B_CLAIM_START, B_CLAIM_END = range(7)
SLOT_WIDTH = 7

# Places of `reg`: numbers of the level that a batch reads and changes.
REG_WATERMARK, REG_SPAN, REG_STABLE, REG_REPLACE, REG_SYMBOLS, REG_FREE, REG_OVERLAP = range(7)
REG_SIZE = 7

# Columns of `sym` from S_COUNTS on: rows so far, by what became of them. "equal" is beside the
# others: rows whose content was there already, whatever their authority did.
COUNTED = (
    "inserted",
    "confirmed",
    "raised",
    "completed",
    "revised",
    "discarded",
    "conflicts",
    "late",
    "equal",
)
INSERTED, CONFIRMS, RAISED, COMPLETES, REVISED, DISCARDED, CONFLICTS, LATE, EQUALS = range(
    len(COUNTED)
)
SYM_WIDTH = S_COUNTS + len(COUNTED)


class State(NamedTuple):
    """The arrays of a level.

    reg: (REG_SIZE,) numbers of the level. sym: (symbols, SYM_WIDTH): S_FRONTIER, S_FIRST
    accepted and S_NEWEST cell, S_STABLE: cells before it are stable, S_MOVED: the frontier
    moved in this batch, S_HEAD of the list of slots, S_LAST slot found, S_DONE: bit of each
    derived preset whose window of the newest cell was given on, S_LIVE: the live topic brought
    bars of the symbol. top: (symbols, stabilization bars) the newest cells, descending. slot:
    (slots, SLOT_WIDTH): B_DIRTY: a cell below the frontier changed since the block was written,
    B_WRITTEN: storage holds the cells before it, B_CLAIM_*: the part that a source was asked
    for. cells: (slots, span, CELL_WIDTH); known and received times are ns, OFFSET is a lower
    bound of the log offset that brought the bar in (-1: it is not in the log), TOUCHED: bit of
    each derived preset whose window must be computed again. vals: (slots, span, VALS_WIDTH).
    free: (slots,) free slots, the first REG_FREE.
    """

    reg: I8
    sym: I8
    top: I8
    slot: I8
    free: I8
    cells: I8
    vals: F8


class Level:
    """One preset's open bars in one partition.

    `span`: cells of a block. `stabilization_bars`: newer bars that make a bar stable. `ratios`:
    cells of this level in one window of each derived preset. `derived`: rows come from a parent,
    which says when they are final; the newest value of a bar always replaces.
    """

    def __init__(
        self,
        *,
        span: int,
        stabilization_bars: int,
        ratios: tuple[int, ...] = (),
        derived: bool = False,
        rank: tuple[int, ...] = (0, 1, 2, 3),
    ) -> None:
        if not 0 <= stabilization_bars <= STABILIZATION_BARS_MAX:
            raise ContractError(
                f"outside 0..{STABILIZATION_BARS_MAX}",
                parameter="stabilization_bars",
                value=stabilization_bars,
            )
        if len(ratios) > CHILDREN_MAX:
            raise ContractError(
                f"more than {CHILDREN_MAX} derived presets",
                parameter="ratios",
                value=ratios,
                fix="Derive fewer presets from one parent",
            )
        for ratio in ratios:
            if ratio < 1 or ratio > WINDOW_CELLS_MAX or (span % ratio and ratio % span):
                raise ContractError(
                    f"a derived window of {ratio} bars neither divides a block of its parent nor "
                    f"is whole blocks, at most {WINDOW_CELLS_MAX} bars",
                    parameter="ratios",
                    value=ratios,
                    fix=f"Choose block_rows of the parent (now {span}) that divides {ratio} or "
                    "that it divides",
                )
        self.span = span
        self.derived = derived
        self.ratios = np.array(ratios, np.int64)
        self.rank = np.array(rank, np.int64)
        self.symbols: list[str] = []
        self.ids: dict[str, int] = {}
        reg = np.zeros(REG_SIZE, np.int64)
        reg[REG_WATERMARK] = UNSET
        reg[REG_SPAN] = span
        reg[REG_STABLE] = stabilization_bars
        reg[REG_REPLACE] = derived
        # A reader compares a few bars behind the frontier with their block: those that were the
        # newest when the frontier passed them, and one more.
        reg[REG_OVERLAP] = stabilization_bars + 1
        self.state = self._empty(reg, 16, 16)
        self._fill_free(0, 16)

    def _empty(self, reg: I8, symbols: int, slots: int) -> State:
        sym = np.zeros((symbols, SYM_WIDTH), np.int64)
        sym[:, [S_FRONTIER, S_FIRST, S_NEWEST, S_STABLE]] = UNSET
        sym[:, [S_HEAD, S_LAST]] = -1
        return State(
            reg=reg,
            sym=sym,
            top=np.full((symbols, max(1, int(reg[REG_STABLE]))), UNSET, np.int64),
            slot=np.zeros((slots, SLOT_WIDTH), np.int64),
            free=np.zeros(slots, np.int64),
            cells=np.zeros((slots, self.span, CELL_WIDTH), np.int64),
            vals=np.zeros((slots, self.span, VALS_WIDTH), np.float64),
        )

    def _fill_free(self, old: int, new: int) -> None:
        reg, free = self.state.reg, self.state.free
        for slot in range(new - 1, old - 1, -1):
            free[reg[REG_FREE]] = slot
            reg[REG_FREE] += 1

    def symbol_id(self, symbol: str) -> int:
        """The number of a symbol, a new one where it is not known yet."""
        found = self.ids.get(symbol)
        if found is not None:
            return found
        number = len(self.symbols)
        if number >= SYMBOLS_MAX:
            raise ContractError(
                f"more than {SYMBOLS_MAX} symbols in one partition",
                parameter="symbol",
                value=symbol,
                fix="Use more partitions or split the preset",
            )
        if number >= len(self.state.sym):
            self._grow(symbols=2 * number, slots=len(self.state.slot))
        self.symbols.append(symbol)
        self.ids[symbol] = number
        self.state.reg[REG_SYMBOLS] = number + 1
        return number

    def ensure_free(self, slots: int) -> None:
        """Room for so many more blocks. Raises ContractError past SLOTS_MAX."""
        state = self.state
        have = len(state.slot)
        if state.reg[REG_FREE] >= slots:
            return
        want = max(2 * have, have + slots)
        if want > SLOTS_MAX:
            raise ContractError(
                f"more than {SLOTS_MAX} open blocks in one partition",
                parameter="open_blocks",
                value=want,
                fix="A watermark or complete_through is missing: nothing can be sealed",
            )
        self._grow(symbols=len(state.sym), slots=want)
        self._fill_free(have, want)

    def _grow(self, *, symbols: int, slots: int) -> None:
        old = self.state
        new = self._empty(old.reg, symbols, slots)
        for name, before, after in zip(State._fields, old, new, strict=True):
            if name != "reg":
                after[: len(before)] = before
        self.state = new

    def find_slot(self, symbol: int, block: int) -> int:
        """The slot of a block, -1 where it is not loaded."""
        for slot in self.slots_of(symbol):
            if self.state.slot[slot, B_BLOCK] == block:
                return slot
        return -1

    def slots_of(self, symbol: int) -> Iterable[int]:
        """The slots of a symbol, in no order."""
        slot = int(self.state.sym[symbol, S_HEAD])
        while slot >= 0:
            yield slot
            slot = int(self.state.slot[slot, B_NEXT])

    def open_slot(self, symbol: int, block: int) -> int:
        """An empty slot for a block that is not loaded."""
        self.ensure_free(1)
        state = self.state
        state.reg[REG_FREE] -= 1
        slot = int(state.free[state.reg[REG_FREE]])
        state.slot[slot] = (symbol, block, state.sym[symbol, S_HEAD], 0, block, UNSET, UNSET)
        state.sym[symbol, S_HEAD] = slot
        state.cells[slot, :, [PRESENT, TOUCHED]] = 0
        state.cells[slot, :, OFFSET] = -1
        return slot

    def release(self, slot: int) -> None:
        """Let a written block go."""
        state = self.state
        symbol = int(state.slot[slot, B_SYMBOL])
        before = -1
        at = int(state.sym[symbol, S_HEAD])
        while at != slot:
            before, at = at, int(state.slot[at, B_NEXT])
        if before < 0:
            state.sym[symbol, S_HEAD] = state.slot[slot, B_NEXT]
        else:
            state.slot[before, B_NEXT] = state.slot[slot, B_NEXT]
        state.sym[symbol, S_LAST] = -1
        state.free[state.reg[REG_FREE]] = slot
        state.reg[REG_FREE] += 1


# Events of a row.
BAR = 0  # one closed bar
BLOCK_BAR = 1  # one bar of a block message: derived windows wait for BLOCK_END
HEARTBEAT = 2  # every closed bar of this partition before CELL was sent
CLAIM = 3  # the source was asked for cells [CELL, UNTIL): these rows are all there is
BLOCK_END = 4  # the end of the block message whose first cell is CELL
FRONTIER = 5  # the parent's frontier, in cells of this level


class Rows(NamedTuple):
    """A batch on its way into a level: cols (rows, CELL_WIDTH) and vals (rows, VALS_WIDTH)."""

    cols: I8
    vals: F8

    @classmethod
    def empty(cls, rows: int) -> Rows:
        cols = np.zeros((rows, CELL_WIDTH), np.int64)
        cols[:, TRADES : LAST_ID + 1] = -1
        return cls(cols, np.zeros((rows, VALS_WIDTH), np.float64))

    @classmethod
    def concat(cls, parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.cols for part in parts]),
            np.concatenate([part.vals for part in parts]),
        )


class Written(NamedTuple):
    """Bars as they were accepted or replaced, or rows for the derived levels, in the order in which
    that happened: the first `done[0]` rows of cols and vals. SEALED: below the frontier, for
    storage and not for the log. CHILD: for which derived level."""

    done: I8
    cols: I8
    vals: F8

    @classmethod
    def empty(cls, rows: int) -> Written:
        return cls(
            np.zeros(1, np.int64),
            np.zeros((rows, CELL_WIDTH), np.int64),
            np.zeros((rows, VALS_WIDTH), np.float64),
        )
