"""Slots of a level, for the kernels: find one, open one, copy a bar out, keep the newest cells.

Decides: nothing about data. Invariant: what is opened is empty. Must not know: why a row moves.
"""

from __future__ import annotations

from typing import Any

from seamline.schemas.jit import njit
from seamline.streams.kernel.level import (
    B_BLOCK,
    B_CLAIM_END,
    B_CLAIM_START,
    B_DIRTY,
    B_NEXT,
    B_SYMBOL,
    B_WRITTEN,
    BAR,
    CELL,
    CELL_WIDTH,
    EVENT,
    FLAGS,
    OFFSET,
    PRESENT,
    REG_FREE,
    REG_SPAN,
    REG_STABLE,
    S_HEAD,
    S_LAST,
    SEALED,
    SYMBOL,
    TOUCHED,
    UNSET,
)


@njit
def find(st: Any, symbol: int, block: int) -> Any:
    slot = st.sym[symbol, S_LAST]
    if slot >= 0 and st.slot[slot, B_BLOCK] == block:
        return slot
    slot = st.sym[symbol, S_HEAD]
    while slot >= 0:
        if st.slot[slot, B_BLOCK] == block:
            st.sym[symbol, S_LAST] = slot
            return slot
        slot = st.slot[slot, B_NEXT]
    return -1


@njit
def open_block(st: Any, symbol: int, block: int) -> Any:
    st.reg[REG_FREE] -= 1
    slot = st.free[st.reg[REG_FREE]]
    st.slot[slot, B_SYMBOL] = symbol
    st.slot[slot, B_BLOCK] = block
    st.slot[slot, B_NEXT] = st.sym[symbol, S_HEAD]
    st.sym[symbol, S_HEAD] = slot
    st.sym[symbol, S_LAST] = slot
    st.slot[slot, B_DIRTY] = 0
    st.slot[slot, B_WRITTEN] = block
    st.slot[slot, B_CLAIM_START] = UNSET
    st.slot[slot, B_CLAIM_END] = UNSET
    for k in range(st.reg[REG_SPAN]):
        st.cells[slot, k, PRESENT] = 0
        st.cells[slot, k, TOUCHED] = 0
        st.cells[slot, k, OFFSET] = -1
    return slot


@njit
def write(st: Any, out: Any, slot: int, k: int, flags: int, sealed: int) -> None:
    """Copy a cell as it stands to the end of `out`."""
    n = out.done[0]
    for j in range(CELL_WIDTH):
        out.cols[n, j] = st.cells[slot, k, j]
    for j in range(6):
        out.vals[n, j] = st.vals[slot, k, j]
    out.cols[n, EVENT] = BAR
    out.cols[n, SYMBOL] = st.slot[slot, B_SYMBOL]
    out.cols[n, CELL] = st.slot[slot, B_BLOCK] + k
    out.cols[n, FLAGS] = flags
    out.cols[n, SEALED] = sealed
    out.done[0] = n + 1


@njit
def note_newest(st: Any, symbol: int, cell: int) -> None:
    """Keep the newest cells of a symbol, descending."""
    bars = st.reg[REG_STABLE]
    if bars and cell > st.top[symbol, bars - 1]:
        at = bars - 1
        while at > 0 and st.top[symbol, at - 1] < cell:
            st.top[symbol, at] = st.top[symbol, at - 1]
            at -= 1
        st.top[symbol, at] = cell
