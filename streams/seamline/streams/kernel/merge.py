"""Merge, route, stabilize: what happens to each row of a batch, one after the other.

Decides: which value of a bar wins (authority, then the later arrival; what comes back out of
quarantine is no later one), what goes to the log and what only to storage (the frontier), when the
frontier moves, which derived windows are due.

Invariants: rows are decided one by one, so cutting a batch elsewhere gives the same log; each field
of a bar is the one of the highest authority that stated it, so the final values do not depend on
the order of arrival; a revision keeps the value that it replaced; a row is either done or not begun
when the kernel returns early. Must not know: nanoseconds, symbols' names, Avro, Kafka.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seamline.schemas.columns import (
    COMPLETED,
    CONFIRMED,
    LIVE,
    OPTIONAL_AUTHORITY_MASK,
    PROVISIONAL,
)
from seamline.schemas.jit import njit
from seamline.streams.kernel.derive import (
    close_newest,
    derive,
    end_block,
    final_cell,
    lacking,
    stable_cell,
)
from seamline.streams.kernel.level import (
    B_BLOCK,
    B_CLAIM_END,
    B_CLAIM_START,
    B_DIRTY,
    B_SYMBOL,
    BAR,
    BLOCK_BAR,
    BLOCK_END,
    CELL,
    CHILD,
    CLAIM,
    COMPLETES,
    CONFIRMS,
    CONFLICTS,
    DISCARDED,
    EQUALS,
    EVENT,
    FLAGS,
    FRONTIER,
    HEARTBEAT,
    INSERTED,
    KNOWN,
    LATE,
    OFFSET,
    ORIGIN,
    PRESENT,
    QUOTE_VOLUME,
    RAISED,
    RECEIVED,
    REDRIVEN,
    REG_FREE,
    REG_REPLACE,
    REG_SPAN,
    REG_SYMBOLS,
    REG_WATERMARK,
    REVISED,
    REVISION,
    S_COUNTS,
    S_FIRST,
    S_FRONTIER,
    S_LIVE,
    S_MOVED,
    S_NEWEST,
    S_STABLE,
    SOURCE,
    SYMBOL,
    TRADES,
    UNSET,
    UNTIL,
)
from seamline.streams.kernel.slots import find, note_newest, open_block, write

# Why the kernel returned.
DONE, NEED_BLOCK, NEED_SLOT, NEED_ROOM = range(4)
STATED_FLAGS = ~(PROVISIONAL | CONFIRMED | COMPLETED | OPTIONAL_AUTHORITY_MASK)


@njit
def _push_frontier(st: Any, child: Any, ratios: Any, symbol: int) -> None:
    for k in range(len(ratios)):
        n = child.done[0]
        child.cols[n, CHILD] = k
        child.cols[n, EVENT] = FRONTIER
        child.cols[n, SYMBOL] = symbol
        child.cols[n, CELL] = st.sym[symbol, S_FRONTIER] // ratios[k]
        child.done[0] = n + 1


@njit
def _move_frontier(st: Any, child: Any, ratios: Any, symbol: int, through: int) -> None:
    """Everything before `through` is final: the frontier follows by whole blocks."""
    target = through - through % st.reg[REG_SPAN]
    if target > st.sym[symbol, S_FRONTIER]:
        st.sym[symbol, S_FRONTIER] = target
        st.sym[symbol, S_STABLE] = max(st.sym[symbol, S_STABLE], target)
        st.sym[symbol, S_MOVED] = 1
        _push_frontier(st, child, ratios, symbol)


@njit
def _advance(st: Any, child: Any, ratios: Any, symbol: int) -> None:
    if st.sym[symbol, S_FRONTIER] == UNSET:
        return
    st.sym[symbol, S_STABLE] = stable_cell(st, symbol)
    if st.sym[symbol, S_STABLE] != UNSET:
        _move_frontier(st, child, ratios, symbol, st.sym[symbol, S_STABLE])


@njit
def _insert(st: Any, rows: Any, i: int, slot: int, k: int, known: int, offset: int) -> None:
    source = np.int64(rows.cols[i, SOURCE])
    flags = np.int64(rows.cols[i, FLAGS]) & STATED_FLAGS
    for j in range(6):
        st.vals[slot, k, j] = rows.vals[i, j]
    for j in range(3):
        st.cells[slot, k, TRADES + j] = rows.cols[i, TRADES + j]
        if rows.cols[i, TRADES + j] >= 0:
            flags |= source << (10 + 2 * j)
    if not np.isnan(rows.vals[i, QUOTE_VOLUME]):
        flags |= source << 8
    st.cells[slot, k, SOURCE] = source
    st.cells[slot, k, FLAGS] = flags
    st.cells[slot, k, KNOWN] = known
    st.cells[slot, k, RECEIVED] = rows.cols[i, RECEIVED]
    st.cells[slot, k, ORIGIN] = rows.cols[i, ORIGIN]
    st.cells[slot, k, REVISION] = 0
    st.cells[slot, k, OFFSET] = offset
    st.cells[slot, k, PRESENT] = 1


@njit
def _same_content(st: Any, rows: Any, i: int, slot: int, k: int, fields: int) -> bool:
    """Whether the first `fields` values (and, beyond the five of OHLCV, all others) are equal."""
    for j in range(fields):
        a = st.vals[slot, k, j]
        b = rows.vals[i, j]
        if a != b and not (np.isnan(a) and np.isnan(b)):
            return False
    if fields > QUOTE_VOLUME:
        for j in range(3):
            if st.cells[slot, k, TRADES + j] != rows.cols[i, TRADES + j]:
                return False
    return True


@njit
def _replace(
    st: Any, rows: Any, replaced: Any, i: int, slot: int, k: int, known: int, late: int
) -> Any:
    """A derived bar computed again: the newest computation holds. Returns the flags of the log row,
    -1 where nothing changed."""
    flags = np.int64(rows.cols[i, FLAGS]) & ~np.int64(PROVISIONAL)
    if _same_content(st, rows, i, slot, k, QUOTE_VOLUME + 1):
        stated = st.cells[slot, k, FLAGS] & STATED_FLAGS
        if rows.cols[i, SOURCE] == st.cells[slot, k, SOURCE] and stated == flags:
            return -1
        st.cells[slot, k, FLAGS] = (st.cells[slot, k, FLAGS] & OPTIONAL_AUTHORITY_MASK) | flags
        st.cells[slot, k, SOURCE] = rows.cols[i, SOURCE]
        return st.cells[slot, k, FLAGS] | CONFIRMED
    write(st, replaced, slot, k, st.cells[slot, k, FLAGS], late)
    revision = st.cells[slot, k, REVISION]
    _insert(st, rows, i, slot, k, known, st.cells[slot, k, OFFSET])
    st.cells[slot, k, REVISION] = revision + 1
    return st.cells[slot, k, FLAGS]


@njit
def _standing(rows: Any, rank: Any, i: int) -> Any:
    """Twice the rank of a row's authority, and one more where the row was in quarantine: what came
    since from the same authority is newer and stands, and that is no conflict."""
    return 2 * rank[rows.cols[i, SOURCE]] + rows.cols[i, REDRIVEN]


@njit
def _optional(st: Any, rows: Any, rank: Any, i: int, slot: int, k: int, write: bool) -> Any:
    """Merge the optional fields, each by its own authority; with `write` false only look.

    Returns bits: 1 a value replaces another, 2 a null is filled, 4 an equal value is confirmed by a
    higher authority, 8 one authority states two values, 16 a lower authority was not heard.
    """
    done = 0
    source = np.int64(rows.cols[i, SOURCE])
    mine = _standing(rows, rank, i)
    for j in range(4):
        if j == 0:
            is_null = np.isnan(rows.vals[i, QUOTE_VOLUME])
            was_null = np.isnan(st.vals[slot, k, QUOTE_VOLUME])
            equal = rows.vals[i, QUOTE_VOLUME] == st.vals[slot, k, QUOTE_VOLUME]
        else:
            is_null = rows.cols[i, TRADES + j - 1] < 0
            was_null = st.cells[slot, k, TRADES + j - 1] < 0
            equal = rows.cols[i, TRADES + j - 1] == st.cells[slot, k, TRADES + j - 1]
        if is_null:
            continue
        shift = 8 + 2 * j
        held = (np.int64(st.cells[slot, k, FLAGS]) >> shift) & 3
        if was_null:
            done |= 2
        elif mine > 2 * rank[held]:
            done |= 0 if equal else 16
            continue
        elif equal:
            if source == held:
                continue
            done |= 4
        else:
            done |= 9 if mine == 2 * rank[held] else 1
        if write:
            st.cells[slot, k, FLAGS] = (st.cells[slot, k, FLAGS] & ~(3 << shift)) | (
                source << shift
            )
            if j == 0:
                st.vals[slot, k, QUOTE_VOLUME] = rows.vals[i, QUOTE_VOLUME]
            else:
                st.cells[slot, k, TRADES + j - 1] = rows.cols[i, TRADES + j - 1]
    return done


@njit
def _settle(
    st: Any, rows: Any, replaced: Any, rank: Any, i: int, slot: int, k: int, known: int, late: int
) -> Any:
    """A bar that is there meets another statement of it. Returns the flags of the log row, -1 where
    the bar stays as it is."""
    symbol = rows.cols[i, SYMBOL]
    source = rows.cols[i, SOURCE]
    old, new = 2 * rank[st.cells[slot, k, SOURCE]], _standing(rows, rank, i)
    same = _same_content(st, rows, i, slot, k, QUOTE_VOLUME)
    takes = not same and new <= old
    raised = same and new < old
    optional = _optional(st, rows, rank, i, slot, k, False)
    if (not same and new == old) or optional & 8:
        st.sym[symbol, S_COUNTS + CONFLICTS] += 1
    # Other content: one field replaced (1) or of a lower authority (16). A filled null is none.
    if same and not optional & 17:
        st.sym[symbol, S_COUNTS + EQUALS] += 1
    if not (takes or raised or optional & 7):
        st.sym[symbol, S_COUNTS + (CONFIRMS if same and not optional & 16 else DISCARDED)] += 1
        return -1
    revised = takes or optional & 1
    if revised:
        write(st, replaced, slot, k, st.cells[slot, k, FLAGS], late)
        st.cells[slot, k, REVISION] += 1
        st.cells[slot, k, KNOWN] = known
        st.cells[slot, k, RECEIVED] = rows.cols[i, RECEIVED]
        st.cells[slot, k, ORIGIN] = rows.cols[i, ORIGIN]
    _optional(st, rows, rank, i, slot, k, True)
    if takes:
        for j in range(QUOTE_VOLUME):
            st.vals[slot, k, j] = rows.vals[i, j]
        st.cells[slot, k, FLAGS] = (st.cells[slot, k, FLAGS] & OPTIONAL_AUTHORITY_MASK) | (
            rows.cols[i, FLAGS] & STATED_FLAGS
        )
    if takes or raised:
        st.cells[slot, k, SOURCE] = source
    if revised:
        st.sym[symbol, S_COUNTS + REVISED] += 1
        return st.cells[slot, k, FLAGS]
    if optional & 2:
        st.sym[symbol, S_COUNTS + COMPLETES] += 1
        return st.cells[slot, k, FLAGS] | COMPLETED
    st.sym[symbol, S_COUNTS + RAISED] += 1
    return st.cells[slot, k, FLAGS] | CONFIRMED


@njit
def _bar(
    st: Any,
    rows: Any,
    accepted: Any,
    replaced: Any,
    child: Any,
    ratios: Any,
    rank: Any,
    i: int,
    slot: int,
    known: int,
    bound: int,
) -> None:
    """Merge one bar into its cell and do what follows from it."""
    symbol, cell = rows.cols[i, SYMBOL], rows.cols[i, CELL]
    derived = st.reg[REG_REPLACE] != 0
    k = cell - st.slot[slot, B_BLOCK]
    begins = rows.cols[i, ORIGIN] == LIVE and not st.sym[symbol, S_LIVE]
    if begins:
        # From now on the watermark of the feed speaks for this symbol too; its seal says so.
        st.sym[symbol, S_LIVE] = 1
        st.sym[symbol, S_MOVED] = 1
    late = 1 if cell < st.sym[symbol, S_FRONTIER] else 0
    before = st.sym[symbol, S_NEWEST]
    if st.cells[slot, k, PRESENT]:
        if derived:
            flags = _replace(st, rows, replaced, i, slot, k, known, late)
            st.sym[symbol, S_COUNTS + (CONFIRMS if flags < 0 else REVISED)] += 1
        else:
            flags = _settle(st, rows, replaced, rank, i, slot, k, known, late)
        if flags < 0:
            if begins:
                close_newest(st, child, ratios, rank, symbol, final_cell(st, symbol))
                _advance(st, child, ratios, symbol)
            return
    else:
        _insert(st, rows, i, slot, k, known, -1 if late else bound)
        flags = np.int64(st.cells[slot, k, FLAGS])
        st.sym[symbol, S_COUNTS + INSERTED] += 1
        st.sym[symbol, S_NEWEST] = max(before, cell)
        if st.sym[symbol, S_FIRST] == UNSET or cell < st.sym[symbol, S_FIRST]:
            st.sym[symbol, S_FIRST] = cell
        if not derived:
            note_newest(st, symbol, cell)
    if late:
        st.slot[slot, B_DIRTY] = 1
        st.sym[symbol, S_COUNTS + LATE] += 1
    if derived:
        if rows.cols[i, FLAGS] & PROVISIONAL:
            flags |= PROVISIONAL
    elif cell >= stable_cell(st, symbol):
        flags |= PROVISIONAL
    write(st, accepted, slot, k, flags, late)
    if len(ratios):
        derive(st, child, ratios, rank, rows.cols[i, EVENT], slot, k, before)
        if rows.cols[i, EVENT] == BAR:
            close_newest(st, child, ratios, rank, symbol, final_cell(st, symbol))
    if not derived:
        _advance(st, child, ratios, symbol)


@njit
def _claim(st: Any, slot: int, start: int, until: int) -> None:
    """Note the part of a block that a source was asked for; two parts that do not touch: the
    longer."""
    low = max(start, st.slot[slot, B_BLOCK])
    high = min(until, st.slot[slot, B_BLOCK] + st.reg[REG_SPAN])
    if high <= low:
        return
    if st.slot[slot, B_CLAIM_START] != UNSET:
        if low <= st.slot[slot, B_CLAIM_END] and st.slot[slot, B_CLAIM_START] <= high:
            low = min(low, st.slot[slot, B_CLAIM_START])
            high = max(high, st.slot[slot, B_CLAIM_END])
        elif high - low <= st.slot[slot, B_CLAIM_END] - st.slot[slot, B_CLAIM_START]:
            return
    if low != st.slot[slot, B_CLAIM_START] or high != st.slot[slot, B_CLAIM_END]:
        st.slot[slot, B_CLAIM_START] = low
        st.slot[slot, B_CLAIM_END] = high
        symbol = st.slot[slot, B_SYMBOL]
        if low < st.sym[symbol, S_FRONTIER]:
            st.slot[slot, B_DIRTY] = 1
        if high > st.sym[symbol, S_FRONTIER]:
            # No block says so yet: the seal does, or a restart would forget that it was asked for.
            st.sym[symbol, S_MOVED] = 1


@njit
def _first_frontier(st: Any, child: Any, ratios: Any, symbol: int, cell: int) -> None:
    st.sym[symbol, S_FRONTIER] = cell - cell % st.reg[REG_SPAN]
    st.sym[symbol, S_STABLE] = max(st.sym[symbol, S_STABLE], st.sym[symbol, S_FRONTIER])
    st.sym[symbol, S_MOVED] = 1
    _push_frontier(st, child, ratios, symbol)


@njit
def _heartbeat(st: Any, child: Any, ratios: Any, rank: Any, watermark: int) -> None:
    if watermark <= st.reg[REG_WATERMARK]:
        return
    st.reg[REG_WATERMARK] = watermark
    for symbol in range(st.reg[REG_SYMBOLS]):
        if st.sym[symbol, S_LIVE]:
            close_newest(st, child, ratios, rank, symbol, watermark)
            _advance(st, child, ratios, symbol)


@njit
def _needed(st: Any, rows: Any, i: int, ratios: Any) -> Any:
    """(symbol, block): a block to load before a row can be done, UNSET where none."""
    event, symbol, cell = rows.cols[i, EVENT], rows.cols[i, SYMBOL], rows.cols[i, CELL]
    if event in (BAR, BLOCK_BAR, BLOCK_END):
        return symbol, lacking(st, ratios, event, symbol, cell, rows.cols[i, ORIGIN])
    if event == HEARTBEAT and cell > st.reg[REG_WATERMARK]:
        for number in range(st.reg[REG_SYMBOLS]):
            if st.sym[number, S_LIVE]:
                block = lacking(st, ratios, event, number, cell, 0)
                if block != UNSET:
                    return number, block
    return symbol, UNSET


@njit
def _most(st: Any, event: int, children: int) -> Any:
    """What one row can give on at most to the derived levels: a bar three windows and two frontiers
    each, a heartbeat each symbol's newest window and frontier, a block's end its windows and the
    newest one."""
    most = 5 * children
    if event == HEARTBEAT:
        most += 2 * children * st.reg[REG_SYMBOLS]
    if event == BLOCK_END:
        most += children * st.reg[REG_SPAN]
    return most


@njit
def merge(
    st: Any,
    rows: Any,
    start: int,
    accepted: Any,
    replaced: Any,
    child: Any,
    ratios: Any,
    rank: Any,
    known: int,
    bound: int,
) -> Any:
    """Merge rows[start:] into the level `st`.

    `accepted`, `replaced` and `child` are written to; `known` is the known time of this batch (ns),
    `bound` a lower bound of the conformed offsets that its rows will get. Returns (rows done,
    status, symbol, block): NEED_BLOCK asks for that block to be loaded, NEED_SLOT for free slots,
    NEED_ROOM for an emptied `accepted`, `replaced` and `child`; then the call is repeated from
    `rows done`.
    """
    n = len(rows.cols)
    span = st.reg[REG_SPAN]
    children = len(ratios)
    wide = children > 0 and ratios.max() > span
    for i in range(start, n):
        event = rows.cols[i, EVENT]
        symbol = rows.cols[i, SYMBOL]
        cell = rows.cols[i, CELL]
        most = _most(st, event, children)
        if child.done[0] + most >= len(child.cols) or accepted.done[0] + 1 >= len(accepted.cols):
            return i, NEED_ROOM, 0, 0
        if wide:
            owner, block = _needed(st, rows, i, ratios)
            if block != UNSET:
                return i, NEED_BLOCK, owner, block
        if event == HEARTBEAT:
            _heartbeat(st, child, ratios, rank, cell)
            continue
        if event == FRONTIER:
            if st.sym[symbol, S_FRONTIER] == UNSET:
                _first_frontier(st, child, ratios, symbol, cell)
            else:
                _move_frontier(st, child, ratios, symbol, cell)
            st.sym[symbol, S_STABLE] = max(st.sym[symbol, S_STABLE], cell)
            continue
        if event == BLOCK_END:
            end_block(st, child, ratios, rank, symbol, cell - cell % span)
            continue
        if st.sym[symbol, S_FRONTIER] == UNSET:
            _first_frontier(st, child, ratios, symbol, cell)
        block = cell - cell % span
        slot = find(st, symbol, block)
        if slot < 0:
            if block < st.sym[symbol, S_FRONTIER]:
                return i, NEED_BLOCK, symbol, block
            if st.reg[REG_FREE] == 0:
                return i, NEED_SLOT, 0, 0
            slot = open_block(st, symbol, block)
        if event == CLAIM:
            # The frontier moves before the rows are routed: closed history costs blocks, not bars.
            # Nothing is expected before the first bar: a claim there may begin anywhere.
            first = st.sym[symbol, S_FIRST]
            if cell <= st.sym[symbol, S_FRONTIER] or first == UNSET or cell <= first:
                _move_frontier(st, child, ratios, symbol, rows.cols[i, UNTIL])
            _claim(st, slot, cell, rows.cols[i, UNTIL])
            continue
        _bar(st, rows, accepted, replaced, child, ratios, rank, i, slot, known, bound)
    return n, DONE, 0, 0
