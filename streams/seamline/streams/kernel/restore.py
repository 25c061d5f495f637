"""Open bars back from the log.

Decides: which value of a bar stands when its log rows are read again. Invariants: after a restore
the level decides every later row like the level that wrote the log; rows below the frontier are
sealed and passed over. Must not know: Avro, offsets' meaning, which topics were read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from seamline.schemas.columns import COMPLETED, CONFIRMED, PROVISIONAL
from seamline.schemas.jit import njit
from seamline.streams.kernel.derive import stable_cell
from seamline.streams.kernel.level import (
    B_BLOCK,
    CELL,
    CELL_WIDTH,
    FLAGS,
    OFFSET,
    PRESENT,
    REG_FREE,
    REG_REPLACE,
    REG_SPAN,
    REG_SYMBOLS,
    REG_WATERMARK,
    REVISION,
    S_DONE,
    S_FIRST,
    S_FRONTIER,
    S_LIVE,
    S_NEWEST,
    S_STABLE,
    SYMBOL,
    TOUCHED,
    UNSET,
    Level,
)
from seamline.streams.kernel.slots import find, note_newest, open_block, write

# Flags that speak of a log row and not of the bar.
TRANSIENT_FLAGS: Final = PROVISIONAL | CONFIRMED | COMPLETED
# Instead of a symbol: all rows are done; free slots are needed.
FINISHED, SLOTS = -1, -2


@njit
def restore(st: Any, rows: Any, start: int, replaced: Any) -> Any:
    """Put log rows back. Returns (rows done, symbol, block): the block of that symbol must be
    loaded and the call repeated; symbol FINISHED: done, SLOTS: more free slots are needed."""
    span = st.reg[REG_SPAN]
    for i in range(start, len(rows.cols)):
        symbol, cell = rows.cols[i, SYMBOL], rows.cols[i, CELL]
        block = cell - cell % span
        if st.sym[symbol, S_FRONTIER] == UNSET:
            st.sym[symbol, S_FRONTIER] = block
        if cell < st.sym[symbol, S_FRONTIER]:
            continue
        slot = find(st, symbol, block)
        if slot < 0:
            if block < st.sym[symbol, S_FRONTIER]:
                return i, symbol, block
            if st.reg[REG_FREE] == 0:
                return i, SLOTS, 0
            slot = open_block(st, symbol, block)
        k = cell - block
        offset = rows.cols[i, OFFSET]
        if st.cells[slot, k, PRESENT]:
            offset = st.cells[slot, k, OFFSET]
            if rows.cols[i, REVISION] > st.cells[slot, k, REVISION]:
                write(st, replaced, slot, k, st.cells[slot, k, FLAGS], 0)
        elif st.reg[REG_REPLACE] == 0:
            note_newest(st, symbol, cell)
        for j in range(CELL_WIDTH):
            st.cells[slot, k, j] = rows.cols[i, j]
        for j in range(6):
            st.vals[slot, k, j] = rows.vals[i, j]
        st.cells[slot, k, PRESENT] = 1
        st.cells[slot, k, FLAGS] = rows.cols[i, FLAGS] & ~TRANSIENT_FLAGS
        st.cells[slot, k, OFFSET] = offset
        st.cells[slot, k, TOUCHED] = 0
        st.sym[symbol, S_NEWEST] = max(st.sym[symbol, S_NEWEST], cell)
        if st.sym[symbol, S_FIRST] == UNSET or cell < st.sym[symbol, S_FIRST]:
            st.sym[symbol, S_FIRST] = cell
    return len(rows.cols), FINISHED, 0


def settle_newest(level: Level) -> None:
    """What follows from the open bars: the newest cell where all bars are sealed, and which derived
    windows of the newest cell were given on."""
    state = level.state
    watermark = int(state.reg[REG_WATERMARK])
    for symbol in range(int(state.reg[REG_SYMBOLS])):
        sym = state.sym[symbol]
        if sym[S_FRONTIER] == UNSET:
            continue
        if sym[S_NEWEST] == UNSET and sym[S_FIRST] != UNSET:
            sym[S_NEWEST] = sym[S_FRONTIER] - 1
        sym[S_STABLE] = max(int(sym[S_STABLE]), int(sym[S_FRONTIER]))
        if not level.derived:
            sym[S_STABLE] = stable_cell(state, symbol)
        if sym[S_NEWEST] == UNSET:
            continue
        newest = int(sym[S_NEWEST])
        for child, ratio in enumerate(level.ratios.tolist()):
            end = (newest // ratio + 1) * ratio
            heard = watermark if sym[S_LIVE] else UNSET
            if newest + 1 == end or heard >= end or int(sym[S_FRONTIER]) >= end:
                sym[S_DONE] |= 1 << child


def follow_frontiers(parent: Level, derived: Level, ratio: int) -> None:
    """A derived bar is final where its parent's frontier has passed it. Symbols have one number on
    both levels."""
    of_parent, of_derived = parent.state.sym, derived.state.sym
    for symbol in range(int(derived.state.reg[REG_SYMBOLS])):
        frontier = int(of_parent[symbol, S_FRONTIER])
        if frontier != UNSET and of_derived[symbol, S_FRONTIER] != UNSET:
            of_derived[symbol, S_STABLE] = max(int(of_derived[symbol, S_STABLE]), frontier // ratio)


def newest_cell(level: Level, slot: int) -> int:
    """The newest bar of a block, UNSET in an empty one."""
    found = np.flatnonzero(level.state.cells[slot, :, PRESENT])
    return int(level.state.slot[slot, B_BLOCK] + found[-1]) if len(found) else UNSET
