"""Derived windows: which are due, what they need, and their bars.

Decides: when a window of a derived preset is given on (its last cell came, a newer window began,
the watermark or the frontier passed its end) and when it is given on again (a bar of it changed
after that). Invariants: after every row (of a block: after its end) no window that ends at or
before the watermark or the frontier is held back: its blocks may be let go, and a restart takes it
for given on; a row that would roll up a window of several blocks is not begun before all of them
are loaded (`lacking`). Must not know: how values are merged, who asks storage for a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seamline.schemas.columns import DERIVED, LIVE, PROVISIONAL
from seamline.schemas.jit import njit
from seamline.streams.kernel.level import (
    B_BLOCK,
    B_SYMBOL,
    BAR,
    BLOCK_BAR,
    BLOCK_END,
    CELL,
    CHILD,
    EVENT,
    FLAGS,
    HEARTBEAT,
    ORIGIN,
    REG_SPAN,
    REG_STABLE,
    REG_WATERMARK,
    S_DONE,
    S_FRONTIER,
    S_LIVE,
    S_NEWEST,
    S_STABLE,
    SYMBOL,
    TOUCHED,
    UNSET,
)
from seamline.streams.kernel.rollup import (
    R_FOUND,
    RUN_SIZE,
    add_rows,
    close_window,
    open_window,
)
from seamline.streams.kernel.slots import find


@njit
def stable_cell(st: Any, symbol: int) -> Any:
    """The first cell of a symbol that is not stable."""
    bars = st.reg[REG_STABLE]
    if bars == 0:
        stable = UNSET if st.sym[symbol, S_NEWEST] == UNSET else st.sym[symbol, S_NEWEST] + 1
    else:
        stable = st.top[symbol, bars - 1]
    if st.reg[REG_WATERMARK] != UNSET and st.sym[symbol, S_LIVE]:
        stable = max(stable, st.reg[REG_WATERMARK] - bars)
    return max(stable, st.sym[symbol, S_STABLE])


@njit
def final_cell(st: Any, symbol: int) -> Any:
    """No new bar is to be expected before this cell."""
    if st.sym[symbol, S_LIVE]:
        return max(st.reg[REG_WATERMARK], st.sym[symbol, S_FRONTIER])
    return st.sym[symbol, S_FRONTIER]


@njit
def push_window(
    st: Any, child: Any, d: int, ratio: int, symbol: int, window: int, rank: Any
) -> None:
    """Give a derived bar on, as its inputs stand now: those of one block, or of several whole ones.

    A block of the window that has no slot has no bar (`_lacking` was asked before the row).
    """
    n = child.done[0]
    span = st.reg[REG_SPAN]
    start = window * ratio
    run = np.empty(RUN_SIZE, np.int64)
    terms = np.empty(ratio, np.float64)
    quotes = np.empty(ratio, np.float64)
    cols, vals = child.cols[n], child.vals[n]
    open_window(run)
    block = start - start % span
    while block < start + ratio:
        slot = find(st, symbol, block)
        if slot >= 0:
            at = max(start - block, 0)
            cells, prices = st.cells[slot], st.vals[slot]
            count = min(ratio, span)
            add_rows(cells, prices, rank, at, count, run, terms, quotes, cols, vals)
        block += span
    if run[R_FOUND] == 0:
        return
    close_window(run, terms, quotes, ratio, cols, vals)
    if start + ratio > stable_cell(st, symbol):
        cols[FLAGS] |= PROVISIONAL
    cols[CHILD] = d
    cols[EVENT] = BAR
    cols[SYMBOL] = symbol
    cols[CELL] = window
    cols[ORIGIN] = DERIVED
    child.done[0] = n + 1


@njit
def derive(
    st: Any, child: Any, ratios: Any, rank: Any, event: int, slot: int, k: int, before: int
) -> None:
    """Give on the derived windows that a changed cell makes due; `before` is the newest cell that
    the symbol had until then."""
    symbol = st.slot[slot, B_SYMBOL]
    cell = st.slot[slot, B_BLOCK] + k
    for d in range(len(ratios)):
        ratio = ratios[d]
        window = cell // ratio
        newest = before == UNSET or cell > before
        if newest and before != UNSET and before // ratio < window:
            if not st.sym[symbol, S_DONE] >> d & 1:
                push_window(st, child, d, ratio, symbol, before // ratio, rank)
            st.sym[symbol, S_DONE] &= ~(1 << d)
        # A window that the watermark closed is given on again with each bar that comes all the
        # same, be it newer than all others.
        again = st.sym[symbol, S_DONE] >> d & 1 != 0 or (not newest and window < before // ratio)
        complete = newest and (cell + 1) % ratio == 0
        if not (again or complete):
            continue
        if event == BLOCK_BAR:
            # In the order of time at the end of the block, whatever was the newest before it.
            st.cells[slot, k, TOUCHED] |= 1 << d
        else:
            push_window(st, child, d, ratio, symbol, window, rank)
        if complete:
            st.sym[symbol, S_DONE] |= 1 << d


@njit
def close_newest(st: Any, child: Any, ratios: Any, rank: Any, symbol: int, through: int) -> None:
    """Give on the newest windows that end at or before `through`.

    After every row (of a block: after its end) no window that ends at or before the watermark or
    the frontier is held back: its block may be let go, and a restart takes it for given on.
    """
    newest = st.sym[symbol, S_NEWEST]
    if newest == UNSET:
        return
    for d in range(len(ratios)):
        ratio = ratios[d]
        window = newest // ratio
        if not st.sym[symbol, S_DONE] >> d & 1 and (window + 1) * ratio <= through:
            push_window(st, child, d, ratio, symbol, window, rank)
            st.sym[symbol, S_DONE] |= 1 << d


@njit
def _touched(st: Any, slot: int, d: int, at: int, width: int) -> bool:
    hit = False
    for k in range(at, at + width):
        hit = hit or st.cells[slot, k, TOUCHED] >> d & 1 != 0
    return hit


@njit
def end_block(st: Any, child: Any, ratios: Any, rank: Any, symbol: int, block: int) -> None:
    slot = find(st, symbol, block)
    if slot >= 0:
        for d in range(len(ratios)):
            # A window wider than a block holds the whole of it.
            width = min(ratios[d], st.reg[REG_SPAN])
            for at in range(0, st.reg[REG_SPAN], width):
                if _touched(st, slot, d, at, width):
                    window = (block + at) // ratios[d]
                    push_window(st, child, d, ratios[d], symbol, window, rank)
        for k in range(st.reg[REG_SPAN]):
            st.cells[slot, k, TOUCHED] = 0
    close_newest(st, child, ratios, rank, symbol, final_cell(st, symbol))


@njit
def _unloaded(st: Any, symbol: int, ratio: int, window: int) -> Any:
    """The first sealed block of a window that has no slot, UNSET where all have. At and after the
    frontier a block without a slot has no bar."""
    block = window * ratio
    end = min(block + ratio, st.sym[symbol, S_FRONTIER])
    while block < end:
        if find(st, symbol, block) < 0:
            return block
        block += st.reg[REG_SPAN]
    return UNSET


@njit
def lacking(st: Any, ratios: Any, event: int, symbol: int, cell: int, origin: int) -> Any:
    """A block that must be loaded before this row of a symbol can be done, UNSET where none.

    Only windows wider than a block need others than the row's own. May name a block that turns out
    not to be needed, because the bar changes nothing.
    """
    span = st.reg[REG_SPAN]
    before = st.sym[symbol, S_NEWEST]
    bar = event in (BAR, BLOCK_BAR)
    newest = bar and (before == UNSET or cell > before)
    through = final_cell(st, symbol)
    if event == HEARTBEAT or (event == BAR and origin == LIVE):
        through = max(through, st.reg[REG_WATERMARK])
    if event == HEARTBEAT:
        through = max(through, cell)
    for d in range(len(ratios)):
        ratio = ratios[d]
        if ratio <= span:
            continue
        need = UNSET
        done = st.sym[symbol, S_DONE] >> d & 1 != 0
        last = before // ratio if before != UNSET else UNSET
        if bar:
            window = cell // ratio
            if newest and last != UNSET and last < window:
                if not done:
                    need = _unloaded(st, symbol, ratio, last)
                done = False
            due = done or (not newest and window < last) or (newest and (cell + 1) % ratio == 0)
            if due and event == BAR:
                need = _unloaded(st, symbol, ratio, window) if need == UNSET else need
            last = window if newest else last
        if event == BLOCK_END:
            slot = find(st, symbol, cell - cell % span)
            if slot >= 0 and _touched(st, slot, d, 0, span):
                need = _unloaded(st, symbol, ratio, cell // ratio)
        if event != BLOCK_BAR and last != UNSET and not done and (last + 1) * ratio <= through:
            need = _unloaded(st, symbol, ratio, last) if need == UNSET else need
        if need != UNSET:
            return need
    return UNSET
