"""The compiled passes of the temporal rollup: one row after the other, values left where they are.

Decides: what each row of a batch is (new, repeated, out of order, off the grid, broken), which row
stands for each identity and each optional field, what is missing between the rows that stand, and
which close leaves its band. State is indexes of rows: no value is copied.

Three passes, called by `temporal.conform_bars`:
1. `judge` looks at the values of each row and files each row by identity, in the order of arrival.
   `table` holds a place for each identity, ordered by (time, symbol): 0 is free, `row + 1` a row
   that is alone, `-(entry + 1)` an identity that came again. Rows that are not alone are rare and
   listed in `special`; everything below about authority happens to that list alone.
2. `settle` decides each repeat in the order of arrival.
3. `stand` walks the table, that is by time: standing rows, gaps, steps off the grid, price jumps.

Invariants: a place is found by arithmetic (`dense`) or given (`place`), and nothing else depends on
which; no arithmetic on times can leave int64; no row is looked at through an index that was not
checked by `temporal`. Plain Python gives the same bits. Must not know: names of symbols, rules'
severities, what a caller does with a row.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from seamline.schemas.jit import njit

# Bits of a verdict, the findings first.
OFF_GRID: Final = 1  # set aside: it has no identity
OUT_OF_ORDER: Final = 2  # came after a row of its symbol with a larger time
DUPLICATE_EQUAL: Final = 4  # of an identity that came again with equal content, first row included
DUPLICATE_CONFLICT: Final = 8  # of an identity to which one authority gave two contents
DROPPED: Final = 16  # no row of the result, and authority is not the reason
REVISED: Final = 32  # a higher authority: this row is a new revision
DISCARDED: Final = 64  # other content of a lower authority
OHLC_INCONSISTENT: Final = 128  # high < low, or open or close outside low..high
NEGATIVE_VOLUME: Final = 256
NON_POSITIVE_PRICE: Final = 512  # open, high, low or close <= 0
NON_FINITE: Final = 1024  # open, high, low, close or volume is NaN or infinite
PRICE_JUMP: Final = 2048
# What became of this very row, where the bits above speak of its identity.
REPEATED: Final = 4096  # it said what stood already: with DROPPED, dropped as duplicate_equal
COMPLETED: Final = 8192  # it filled a null
RAISED: Final = 16384  # a higher authority said what stood already

TIME_MIN: Final = -(2**63)
TIME_MAX: Final = 2**63 - 1
RETURNS_MIN: Final = 16

# Columns of an entry: one identity that came again.
E_ROW, E_REVISION, E_RANK, E_BITS, E_FIELD_ROW, E_FIELD_RANK = 0, 1, 2, 3, 4, 8
ENTRY_WIDTH: Final = 12
FIELDS: Final = 4

# Columns of `special`: rows that are off the grid or not the first of their identity.
P_ROW, P_ENTRY, P_REVISION = range(3)

# Columns of the state of a symbol in pass 1: the time after its newest one on the grid, its newest
# time of all, the place of its newest one on the grid.
A_NEXT, A_NEWEST, A_PLACE = range(3)
# Columns of the state of a symbol in pass 3: its last standing row, the place where the next cell's
# places begin, the next of its off-grid times.
Z_ROW, Z_NEXT, Z_OFF = range(3)
# Columns of the band of a symbol: last close, sum of weighted squares, sum of weights, returns.
J_CLOSE, J_SQUARES, J_WEIGHTS, J_RETURNS = range(4)
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


class Wanted(NamedTuple):
    """What pass 3 judges by. expected (n, 2): disjoint, ascending, on the grid; windowed: bars are
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
def _judge_values(values: Any, verdict: Any) -> None:
    """One look at all five first: a NaN fails it, an infinity too, so the rest is rare."""
    open_, high, low, close, volume = values
    for i in range(len(open_)):
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
            verdict[i] = _broken(o, h, l, c, v)


@njit
def judge(
    columns: Any, grid: Any, table: Any, state: Any, special: Any, verdict: Any, counts: Any
) -> None:
    """Pass 1, in the order of arrival. `state` (symbols, 3): TIME_MIN, TIME_MIN, -1 each; `table`
    and `verdict` as zeros; `special` (rows, 3) to write to."""
    symbol, time, interval = columns.symbol, columns.time, grid.interval
    _judge_values(columns.values, verdict)
    kept, specials, entries, off_grid = 0, 0, 0, 0
    for i in range(len(symbol)):
        s = np.uint32(symbol[i])  # an index without a sign needs no second look
        t = time[i]
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
        # The first row of the identity stays in the list until pass 2 makes the entry.
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
def _same(values: Any, other: Any, i: int, k: int) -> Any:
    """Whether two rows state the same, optional fields aside: -0.0 is 0.0, NaN is NaN."""
    for column in values:
        if len(column):
            a, b = column[i], column[k]
            if a != b and not (np.isnan(a) and np.isnan(b)):
                return False
    return not len(other) or other[i] == other[k]


@njit
def _open_entry(entry: Any, row: int, rank: Any, optional: Any) -> None:
    entry[E_ROW] = row
    entry[E_REVISION] = 0
    entry[E_RANK] = rank
    entry[E_BITS] = 0
    for j in range(FIELDS):
        entry[E_FIELD_ROW + j] = -1
        entry[E_FIELD_RANK + j] = rank
        if j < len(optional) and not np.isnan(optional[j, row]):
            entry[E_FIELD_ROW + j] = row


@njit
def _optional(entry: Any, row: int, rank: Any, optional: Any) -> Any:
    """Merge the optional fields, each by its own authority.

    Returns bits: 1 a value replaces another, 2 a null is filled, 4 an equal value is confirmed by a
    higher authority, 8 one authority states two values, 16 a lower authority was not heard.
    """
    done = 0
    for j in range(len(optional)):
        if np.isnan(optional[j, row]):
            continue
        held = entry[E_FIELD_ROW + j]
        if held < 0:
            done |= 2
        else:
            equal = optional[j, row] == optional[j, held]
            if rank > entry[E_FIELD_RANK + j]:
                done |= 0 if equal else 16
                continue
            same_rank = rank == entry[E_FIELD_RANK + j]
            if equal and same_rank:
                continue
            if equal:
                done |= 4
            else:
                done |= 9 if same_rank else 1
        entry[E_FIELD_ROW + j] = row
        entry[E_FIELD_RANK + j] = rank
    return done


@njit
def _settle(entry: Any, row: int, rank: Any, columns: Any, verdict: Any) -> Any:
    """An identity meets another statement of it. Returns the revision that the row became, 0 where
    it became none."""
    same = _same(columns.values, columns.other, entry[E_ROW], row)
    takes = not same and rank <= entry[E_RANK]
    raised = same and rank < entry[E_RANK]
    by_field = _optional(entry, row, rank, columns.optional)
    conflict = (not same and rank == entry[E_RANK]) or by_field & 8 != 0
    equal = same and by_field & (1 | 8 | 16) == 0
    if conflict:
        entry[E_BITS] |= DUPLICATE_CONFLICT
    if equal:
        entry[E_BITS] |= DUPLICATE_EQUAL
        verdict[row] |= DROPPED | REPEATED
    if takes or raised:
        entry[E_RANK] = rank
    if takes or by_field & 1:
        entry[E_REVISION] += 1
        if not conflict:
            verdict[row] |= REVISED
        if takes or same:
            if conflict:
                verdict[entry[E_ROW]] |= DROPPED
            entry[E_ROW] = row
        elif conflict:
            # Its prices lost by authority; what its own authority said before in a field is gone.
            verdict[row] |= DROPPED
        return entry[E_REVISION]
    if by_field & 2:
        verdict[row] |= COMPLETED
    elif raised or by_field & 4:
        verdict[row] |= RAISED
    elif not equal:
        verdict[row] |= DISCARDED
    return 0


@njit
def settle(
    columns: Any, special: Any, entries: Any, verdict: Any, log_rows: Any, log_revision: Any
) -> Any:
    """Pass 2: decide the repeats, then write the log of accepted rows (`log_revision` as zeros).
    Returns the number of accepted rows."""
    authority = columns.authority
    first = np.empty(len(entries), np.int64)
    for n in range(len(special)):
        row, e = special[n, P_ROW], special[n, P_ENTRY]
        if e < 0:
            special[n, P_REVISION] = 0
            continue
        if special[n, P_REVISION] >= 0:
            first[e] = special[n, P_REVISION]
            rank = np.int64(authority[first[e]]) if len(authority) else 0
            _open_entry(entries[e], first[e], rank, columns.optional)
        rank = np.int64(authority[row]) if len(authority) else 0
        special[n, P_REVISION] = _settle(entries[e], row, rank, columns, verdict)
    for e in range(len(entries)):
        verdict[first[e]] |= entries[e, E_BITS]
    accepted, done = 0, 0
    for n in range(len(special)):
        row = special[n, P_ROW]
        accepted = _log(log_rows, accepted, done, row)
        done = row + 1
        if special[n, P_REVISION] > 0:
            log_rows[accepted] = row
            log_revision[accepted] = special[n, P_REVISION]
            accepted += 1
        if special[n, P_ENTRY] >= 0:
            verdict[row] |= entries[special[n, P_ENTRY], E_BITS]
    return _log(log_rows, accepted, done, len(verdict))


@njit
def _log(log_rows: Any, accepted: int, first: int, end: int) -> Any:
    """Accept rows first..end-1. Returns the number of accepted rows."""
    part = log_rows[accepted : accepted + end - first]
    for k in range(len(part)):
        part[k] = first + k
    return accepted + len(part)


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
def _judge_jumps(rows: Any, symbol: Any, closes: Any, wanted: Any, band: Any, verdict: Any) -> None:
    """Note each close that leaves its symbol's band, which then takes it in. See `temporal`."""
    limit, decay = wanted.limit, wanted.decay
    for k in range(len(rows)):
        row = rows[k]
        close, s = closes[row], np.uint32(symbol[row])
        if not 0.0 < close < np.inf:
            continue
        before, squares = band[s, J_CLOSE], band[s, J_SQUARES]
        weights, returns = band[s, J_WEIGHTS], band[s, J_RETURNS]
        band[s, J_CLOSE] = close
        if before == 0.0:
            continue
        change = close / before - 1.0
        square = change * change
        if square * weights > limit * squares and returns >= RETURNS_MIN and squares > 0.0:
            verdict[row] |= PRICE_JUMP
        if square < np.inf:
            band[s, J_SQUARES] = decay * squares + square
            band[s, J_WEIGHTS] = decay * weights + 1.0
            band[s, J_RETURNS] = returns + 1.0


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
def _walk_grid(symbols: int, table: Any, entries: Any, state: Any, rows: Any, again: Any) -> Any:
    """Write the standing rows of dense places. Returns the breaks: (row, row of its symbol before
    it, or -1) of each that is not one cell after that."""
    breaks = np.empty((len(rows), 2), np.int64)
    kept, repeats, found = 0, 0, 0
    for start in range(0, len(table), symbols):
        for s in range(symbols):
            held = np.int64(table[start + s])
            if held == 0:
                continue
            row = held - 1
            if held < 0:
                row = entries[-held - 1, E_ROW]
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
    """Pass 3, by (time, symbol). `state` (symbols, 3): -1, -1, first of the symbol's off-grid
    times each; `rows`, `revision` (as zeros), `patches` and `verdict` are written to. Returns the
    gaps; `counts` tells how many patches and misaligned steps there are."""
    again = np.empty((len(entries), 2), np.int64)
    if grid.dense:
        breaks = _walk_grid(grid.symbols, table, entries, state, rows, again)
    else:
        breaks = _walk_places(columns.symbol, table, entries, state, rows, again)
    counts[C_PATCHES] = _repeats(entries, columns.optional, again, revision, patches)
    if wanted.limit > 0.0:
        band = np.zeros((len(state), 4))
        _judge_jumps(rows, columns.symbol, columns.values[3], wanted, band, verdict)
    if grid.interval == 0:
        return np.empty((0, 3), np.int64)
    return _missing(columns, grid.interval, wanted, breaks, state, counts)
