"""The compiled passes of the temporal rollup: one row after the other, values left where they are.

Decides: what each row of a batch is (new, repeated, out of order, off the grid, broken), which row
stands for each identity and each optional field, what is missing between the rows that stand, and
which close leaves its band. State is indexes of rows: no value is copied.

Two passes, called by `temporal.conform_bars`:
1. `arrive` goes through the rows in the order of arrival, some at a time, so that what it looks at
   again is still in the processor's cache: the values of each row; its identity; the repeats; the
   log. `table` holds a place for each identity, ordered by (time, symbol): 0 is free, `row + 1` a
   row that is alone, `-(entry + 1)` an identity that came again. Rows that are not alone are rare
   and listed in `special`; all that is about authority happens to that list alone.
2. `stand` walks the table, that is by time: standing rows, gaps, steps off the grid, price jumps.

Invariants: a place is found by arithmetic (`dense`) or given (`place`), and nothing else depends on
which; no arithmetic on times can leave int64; no row is looked at through an index that was not
checked by `temporal`. Plain Python gives the same bits. Must not know: names of symbols, rules'
severities, what a caller does with a row.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from seamline.schemas.jit import njit
from seamline.streams.kernel import temporal_band
from seamline.streams.kernel.temporal_settle import (
    DROPPED,
    E_BITS,
    E_FIELD_ROW,
    E_FIRST,
    E_REVISION,
    E_ROW,
    ENTRY_WIDTH,
    NEGATIVE_VOLUME,
    NON_FINITE,
    NON_POSITIVE_PRICE,
    OFF_GRID,
    OHLC_INCONSISTENT,
    OUT_OF_ORDER,
    PRICE_JUMP,
    open_entry,
    settle,
)

TIME_MIN: Final = -(2**63)
TIME_MAX: Final = 2**63 - 1
# From so many symbols on their bands are judged together.
TOGETHER_MIN: Final = 8
# Rows that pass 1 takes at a time: with what belongs to them, a part of a core's own cache.
BLOCK_ROWS: Final = 8_192

# Columns of `special`: rows that are off the grid or not the first of their identity.
P_ROW, P_ENTRY, P_REVISION = range(3)

# Columns of the state of a symbol in pass 1: the time after its newest one on the grid, its newest
# time of all, the place of its newest one on the grid.
A_NEXT, A_NEWEST, A_PLACE = range(3)
# Columns of the state of a symbol in pass 2: its last standing row, the place where the next cell's
# places begin, the next of its off-grid times.
Z_ROW, Z_NEXT, Z_OFF = range(3)
# Places of `counts`.
C_KEPT, C_SPECIAL, C_ENTRIES, C_OFF_GRID = range(4)
C_GAPS, C_MISALIGNED, C_PATCHES = range(3)


class Columns(NamedTuple):
    """The columns of a batch. symbol, time: (rows,). values: open, high, low, close, volume, each
    (rows,) or (0,). optional: (4, rows) or (0, rows). other, authority: (rows,) or (0,)."""

    symbol: Any
    time: Any
    values: Any
    optional: Any
    other: Any
    authority: Any


class Grid(NamedTuple):
    """Where identities have their places. interval: 0 where there is none; phase: the grid's offset
    in 0..interval-1. dense: place = (time // interval - base) * symbols + symbol; otherwise place
    (rows,) says it, -1 off the grid."""

    symbols: int
    interval: int
    phase: int
    dense: bool
    base: int
    place: Any


class Log(NamedTuple):
    """Accepted rows: the first `done[0]` of rows, and of revision, which comes as zeros."""

    done: Any
    rows: Any
    revision: Any


class Wanted(NamedTuple):
    """What pass 2 judges by. expected (n, 2): disjoint, ascending, on the grid; windowed: bars are
    expected before the first and after the last row too. off_times: off-grid times by (symbol,
    time), off_end (symbols,) where a symbol's end. limit: jump_sigmas squared, or negative."""

    expected: Any
    windowed: bool
    off_times: Any
    off_end: Any
    limit: float
    decay: float


@njit
def bounds(symbol: Any, time: Any) -> Any:
    """Least and largest symbol, least and largest time; there must be a row."""
    low, high = symbol[0], symbol[0]
    for i in range(len(symbol)):
        low = min(low, symbol[i])
        high = max(high, symbol[i])
    first, last = time[0], time[0]
    for i in range(len(time)):
        first = min(first, time[i])
        last = max(last, time[i])
    return low, high, first, last


@njit
def places(order: Any, symbol: Any, time: Any, interval: int, phase: int, place: Any) -> Any:
    """Give each row the place of its identity, -1 off the grid; `order` sorts the rows by (time,
    symbol). Returns the number of places."""
    kept = 0
    before = -1
    for k in range(len(order)):
        i = order[k]
        if interval > 0 and time[i] % interval != phase:
            place[i] = -1
            continue
        if before < 0 or time[i] != time[before] or symbol[i] != symbol[before]:
            kept += 1
        place[i] = kept - 1
        before = i
    return kept


@njit
def _broken(open_: float, high: float, low: float, close: float, volume: float) -> int:
    """The value rules that a row breaks. What is not finite breaks that rule and no other."""
    bits = 0
    if not np.isfinite(open_):
        open_, bits = np.nan, NON_FINITE
    if not np.isfinite(high):
        high, bits = np.nan, NON_FINITE
    if not np.isfinite(low):
        low, bits = np.nan, NON_FINITE
    if not np.isfinite(close):
        close, bits = np.nan, NON_FINITE
    if not np.isfinite(volume):
        volume, bits = np.nan, NON_FINITE
    if high < low or open_ < low or open_ > high or close < low or close > high:
        bits |= OHLC_INCONSISTENT
    if open_ <= 0 or high <= 0 or low <= 0 or close <= 0:
        bits |= NON_POSITIVE_PRICE
    if volume < 0:
        bits |= NEGATIVE_VOLUME
    return bits


@njit
def _judge_values(values: Any, start: int, end: int, verdict: Any) -> None:
    """One look at all five first: a NaN fails it, an infinity too, so the rest is rare."""
    # Views begin at 0: the compiler knows that no index into them is negative.
    open_, high, low = values[0][start:end], values[1][start:end], values[2][start:end]
    close, volume, bits = values[3][start:end], values[4][start:end], verdict[start:end]
    for i in range(len(bits)):
        o, h, l, c, v = open_[i], high[i], low[i], close[i], volume[i]  # noqa: E741
        fine = (
            (l > 0)
            & (l <= o)
            & (o <= h)
            & (l <= c)
            & (c <= h)
            & (h < np.inf)
            & (v >= 0)
            & (v < np.inf)
        )
        if not fine:
            bits[i] = _broken(o, h, l, c, v)


@njit
def _file(
    columns: Any,
    grid: Any,
    start: int,
    end: int,
    table: Any,
    state: Any,
    special: Any,
    verdict: Any,
    counts: Any,
) -> None:
    """Give rows start..end-1 to their places, or to `special`."""
    symbol, time, interval = columns.symbol[start:end], columns.time[start:end], grid.interval
    kept, specials = counts[C_KEPT], counts[C_SPECIAL]
    entries, off_grid = counts[C_ENTRIES], counts[C_OFF_GRID]
    for k in range(len(symbol)):
        i = start + k
        s = np.uint32(symbol[k])  # an index without a sign needs no second look
        t = time[k]
        # Nearly all rows: the cell after the symbol's newest one, hence new and in order. A time
        # after the newest never equals TIME_MIN, which stands for "no next cell".
        if t == state[s, A_NEXT] and t > state[s, A_NEWEST]:
            at = state[s, A_PLACE] + grid.symbols
            table[at] = i + 1
            kept += 1
            state[s, A_PLACE] = at
            state[s, A_NEWEST] = t
            state[s, A_NEXT] = t + interval if t <= TIME_MAX - interval else TIME_MIN
            continue
        if t < state[s, A_NEWEST]:
            verdict[i] |= OUT_OF_ORDER
        else:
            state[s, A_NEWEST] = t
        at = _place(grid, i, s, t)
        held = np.int64(table[at]) if at >= 0 else 0
        if at >= 0 and held == 0:
            table[at] = i + 1
            kept += 1
            if grid.dense and at > state[s, A_PLACE]:
                state[s, A_PLACE] = at
                state[s, A_NEXT] = t + interval if t <= TIME_MAX - interval else TIME_MIN
            continue
        special[specials, P_ROW] = i
        special[specials, P_ENTRY] = -1 if at < 0 else entries if held > 0 else -held - 1
        # The first row of the identity stays in the list until its entry is made.
        special[specials, P_REVISION] = held - 1 if held > 0 else -1
        specials += 1
        if at < 0:
            verdict[i] |= OFF_GRID | DROPPED
            off_grid += 1
        elif held > 0:
            entries += 1
            table[at] = -entries
    counts[C_KEPT] = kept
    counts[C_SPECIAL] = specials
    counts[C_ENTRIES] = entries
    counts[C_OFF_GRID] = off_grid


@njit
def _place(grid: Any, i: int, s: Any, t: Any) -> Any:
    """The place of the identity of row `i`, -1 off the grid."""
    if not grid.dense:
        return np.int64(grid.place[i])
    if t % grid.interval != grid.phase:
        return np.int64(-1)
    return (t // grid.interval - grid.base) * grid.symbols + s


@njit
def _decide(
    columns: Any, special: Any, entries: Any, start: int, end: int, verdict: Any, log: Any
) -> None:
    """Decide the repeats among rows start..end-1 and write the log of what was accepted."""
    authority = columns.authority
    done = start
    for n in range(len(special)):
        row, e = special[n, P_ROW], special[n, P_ENTRY]
        _log(log, done, row)
        done = row + 1
        if e < 0:
            continue
        first = special[n, P_REVISION]
        if first >= 0:
            rank = np.int64(authority[first]) if len(authority) else 0
            open_entry(entries[e], first, rank, columns.optional)
        rank = np.int64(authority[row]) if len(authority) else 0
        revision = settle(entries[e], row, rank, columns, verdict)
        if revision > 0:
            log.revision[log.done[0]] = revision
            _log(log, row, done)
    _log(log, done, end)


@njit
def _log(log: Any, first: int, end: int) -> None:
    """Accept rows first..end-1."""
    accepted = log.done[0]
    part = log.rows[accepted : accepted + end - first]
    for k in range(len(part)):
        part[k] = first + k
    log.done[0] = accepted + len(part)


@njit
def arrive(
    columns: Any,
    grid: Any,
    table: Any,
    state: Any,
    special: Any,
    verdict: Any,
    log: Any,
    counts: Any,
) -> Any:
    """Pass 1. `state` (symbols, 3): TIME_MIN, TIME_MIN, -1 each; `table` and `verdict` as zeros;
    `special` (rows, 3) and `log` to write to. Returns the entries."""
    entries = np.empty((64, ENTRY_WIDTH), np.int64)
    rows = len(columns.symbol)
    for start in range(0, rows, BLOCK_ROWS):
        end = min(start + BLOCK_ROWS, rows)
        if len(columns.values[0]):
            _judge_values(columns.values, start, end, verdict)
        since = counts[C_SPECIAL]
        _file(columns, grid, start, end, table, state, special, verdict, counts)
        if len(entries) < counts[C_ENTRIES]:
            longer = np.empty((2 * counts[C_ENTRIES], ENTRY_WIDTH), np.int64)
            longer[: len(entries)] = entries
            entries = longer
        _decide(columns, special[since : counts[C_SPECIAL]], entries, start, end, verdict, log)
    for e in range(counts[C_ENTRIES]):
        verdict[entries[e, E_FIRST]] |= entries[e, E_BITS]
    for n in range(counts[C_SPECIAL]):
        if special[n, P_ENTRY] >= 0:
            verdict[special[n, P_ROW]] |= entries[special[n, P_ENTRY], E_BITS]
    return entries[: counts[C_ENTRIES]]


@njit
def _add_gaps(gaps: Any, counts: Any, expected: Any, symbol: int, low: int, high: int) -> Any:
    """Note what of [low, high) is expected. Returns `gaps`, a longer copy where it was full."""
    left, right = 0, len(expected)
    while left < right:
        middle = (left + right) // 2
        if expected[middle, 1] <= low:
            left = middle + 1
        else:
            right = middle
    while left < len(expected) and expected[left, 0] < high:
        n = counts[C_GAPS]
        if n == len(gaps):
            longer = np.empty((2 * n + 16, 3), np.int64)
            longer[:n] = gaps
            gaps = longer
        gaps[n, 0] = symbol
        gaps[n, 1] = max(low, expected[left, 0])
        gaps[n, 2] = min(high, expected[left, 1])
        counts[C_GAPS] = n + 1
        left += 1
    return gaps


@njit
def _misaligned(before: int, after: int, interval: int) -> Any:
    """Whether a step exceeds the interval and is not a multiple of it. No difference of two times
    is computed: it could leave int64."""
    if after < TIME_MIN + interval or after - interval <= before:
        return 0
    return 1 if after % interval != before % interval else 0


@njit
def _steps(
    wanted: Any,
    state: Any,
    counts: Any,
    s: Any,
    seen: bool,
    before: Any,
    t: Any,
    ends: bool,
    interval: int,
) -> None:
    """Count the misaligned steps from the last standing row of a symbol (at `before`, if `seen`)
    over its off-grid times to `t` or, where `ends`, to the last of them."""
    off_times = wanted.off_times
    at = state[s, Z_OFF]
    while at < wanted.off_end[s] and (ends or off_times[at] < t):
        if not seen or off_times[at] > before:
            if seen:
                counts[C_MISALIGNED] += _misaligned(before, off_times[at], interval)
            before = off_times[at]
            seen = True
        at += 1
    if seen and not ends:
        counts[C_MISALIGNED] += _misaligned(before, t, interval)
    state[s, Z_OFF] = at


@njit
def _repeats(entries: Any, optional: Any, again: Any, revision: Any, patches: Any) -> Any:
    """Revisions of the identities that came again, at the places `again` of the result, and the
    optional fields whose standing value is not the standing row's. Returns the patches."""
    n = 0
    for k in range(len(again)):
        e, at = again[k, 0], again[k, 1]
        revision[at] = entries[e, E_REVISION]
        for j in range(len(optional)):
            held = entries[e, E_FIELD_ROW + j]
            if held >= 0 and optional[j, held] != optional[j, entries[e, E_ROW]]:
                patches[n, 0] = at
                patches[n, 1] = j
                patches[n, 2] = held
                n += 1
    return n


@njit
def _walk_grid(
    columns: Any,
    symbols: int,
    wanted: Any,
    together: bool,
    table: Any,
    entries: Any,
    state: Any,
    rows: Any,
    again: Any,
    verdict: Any,
) -> Any:
    """Write the standing rows of dense places, and judge jumps `together` on the way. Returns the
    breaks: (row, row of its symbol before it, or -1) of each that is not one cell after that."""
    breaks = np.empty((len(rows), 2), np.int64)
    places = np.empty(symbols, np.int64)
    band = temporal_band.empty(symbols)
    closes, limit, decay = columns.values[3], wanted.limit, wanted.decay
    kept, repeats, found = 0, 0, 0
    for start in range(0, len(table), symbols):
        for s in range(symbols):
            held = np.int64(table[start + s])
            row = held - 1
            places[s] = row
            if held == 0:
                continue
            if held < 0:
                row = entries[-held - 1, E_ROW]
                places[s] = row
                again[repeats, 0] = -held - 1
                again[repeats, 1] = kept
                repeats += 1
            rows[kept] = row
            kept += 1
            if start != state[s, Z_NEXT]:
                breaks[found, 0] = row
                breaks[found, 1] = state[s, Z_ROW]
                found += 1
            state[s, Z_NEXT] = start + symbols
            state[s, Z_ROW] = row
        if together:
            temporal_band.by_cell(places, closes, limit, decay, band, verdict, PRICE_JUMP)
    return breaks[:found]


@njit
def _walk_places(symbol: Any, table: Any, entries: Any, state: Any, rows: Any, again: Any) -> Any:
    """As `_walk_grid` for places that were given: any row may be a break."""
    breaks = np.empty((len(rows), 2), np.int64)
    repeats = 0
    for at in range(len(table)):
        held = np.int64(table[at])
        row = held - 1
        if held < 0:
            row = entries[-held - 1, E_ROW]
            again[repeats, 0] = -held - 1
            again[repeats, 1] = at
            repeats += 1
        rows[at] = row
        breaks[at, 0] = row
        breaks[at, 1] = state[symbol[row], Z_ROW]
        state[symbol[row], Z_ROW] = row
    return breaks


@njit
def _missing(columns: Any, interval: int, wanted: Any, breaks: Any, state: Any, counts: Any) -> Any:
    """What lies before each break, and behind the last row of each symbol. Returns the gaps."""
    gaps = np.empty((16, 3), np.int64)
    time = columns.time
    for k in range(len(breaks)):
        row, last = breaks[k, 0], breaks[k, 1]
        s, t = columns.symbol[row], time[row]
        before = time[last] if last >= 0 else TIME_MIN
        if len(wanted.off_times):
            _steps(wanted, state, counts, s, last >= 0, before, t, False, interval)
        # A later time is on the grid, so `before + interval` is a time.
        low = before + interval if last >= 0 else before
        if (last >= 0 or wanted.windowed) and low < t:
            gaps = _add_gaps(gaps, counts, wanted.expected, s, low, t)
    for s in range(len(state)):
        last = state[s, Z_ROW]
        before = time[last] if last >= 0 else TIME_MIN
        if len(wanted.off_times):
            _steps(wanted, state, counts, s, last >= 0, before, 0, True, interval)
        if wanted.windowed and before <= TIME_MAX - interval:
            low = before + interval if last >= 0 else before
            gaps = _add_gaps(gaps, counts, wanted.expected, s, low, TIME_MAX)
    return gaps[: counts[C_GAPS]]


@njit
def stand(
    columns: Any,
    grid: Any,
    wanted: Any,
    table: Any,
    entries: Any,
    state: Any,
    rows: Any,
    revision: Any,
    patches: Any,
    verdict: Any,
    counts: Any,
) -> Any:
    """Pass 2, by (time, symbol). `state` (symbols, 3): -1, -1, first of the symbol's off-grid
    times each; `rows`, `revision` (as zeros), `patches` and `verdict` are written to. Returns the
    gaps; `counts` tells how many patches and misaligned steps there are."""
    again = np.empty((len(entries), 2), np.int64)
    judged = wanted.limit > 0.0
    together = judged and grid.dense and grid.symbols >= TOGETHER_MIN
    if grid.dense:
        breaks = _walk_grid(
            *(columns, grid.symbols, wanted, together),
            *(table, entries, state, rows, again, verdict),
        )
    else:
        breaks = _walk_places(columns.symbol, table, entries, state, rows, again)
    counts[C_PATCHES] = _repeats(entries, columns.optional, again, revision, patches)
    if judged and not together:
        temporal_band.by_row(
            *(rows, columns.symbol, columns.values[3], wanted.limit, wanted.decay),
            *(temporal_band.empty(grid.symbols), verdict, PRICE_JUMP),
        )
    if grid.interval == 0:
        return np.empty((0, 3), np.int64)
    return _missing(columns, grid.interval, wanted, breaks, state, counts)
