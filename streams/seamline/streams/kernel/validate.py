"""Check landing bars and bring them onto the grid.

Decides: which value rules a bar breaks, and its cell. Invariants: every row is judged by every
rule; `-0.0` becomes `0.0`; nothing but a snapped time is changed. What follows from a broken rule
(quarantine or a flag) is decided by `outcome` out of the table in `rules`: what cannot be a bar at
all is never passed on, every other rule follows the subject's mode. Must not know: Avro, Kafka, the
clock.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from seamline.schemas.columns import SNAPPED, SUSPECT, BarColumns
from seamline.schemas.jit import njit
from seamline.schemas.modes import CANARY, MODES
from seamline.streams.kernel.level import CELL, FIRST_ID, LAST_ID, RECEIVED, SOURCE, TRADES, Rows
from seamline.streams.kernel.rules import QUARANTINE, SCHEMA_DRIFT, TOMBSTONED_SCHEMA, fate

NON_FINITE: Final = 1
OFF_GRID: Final = 2
FUTURE_TIME: Final = 4
OHLC_INCONSISTENT: Final = 8
NON_POSITIVE_PRICE: Final = 16
NEGATIVE_VOLUME: Final = 32
TRADE_IDS: Final = 64
# Of the writer schema, so of all rows of a record.
TOMBSTONED: Final = 128
DRIFT: Final = 256

# Bit -> rule id; the id is the reason of a quarantined record and the name in counters and reports.
RULES: Final = {
    NON_FINITE: "non_finite",
    OFF_GRID: "off_grid",
    FUTURE_TIME: "future_time",
    OHLC_INCONSISTENT: "ohlc_inconsistent",
    NON_POSITIVE_PRICE: "non_positive_price",
    NEGATIVE_VOLUME: "negative_volume",
    TRADE_IDS: "trade_ids",
    TOMBSTONED: TOMBSTONED_SCHEMA,
    DRIFT: SCHEMA_DRIFT,
}
# The bits that go to quarantine in each mode, whatever `off_grid` says.
BLOCKED: Final = {
    mode: sum(bit for bit, rule in RULES.items() if fate(rule, mode) == QUARANTINE)
    for mode in MODES
}
# These never pass, in canary or in strict: there is no cell or no value to keep.
ALWAYS: Final = BLOCKED[CANARY]


@njit
def _judge(vals: Any, cols: Any, i: int) -> int:
    rules = 0
    for j in range(5):
        if not np.isfinite(vals[i, j]):
            rules |= NON_FINITE
    if np.isinf(vals[i, 5]):
        rules |= NON_FINITE
    open_, high, low, close = vals[i, 0], vals[i, 1], vals[i, 2], vals[i, 3]
    if high < max(open_, close) or low > min(open_, close):
        rules |= OHLC_INCONSISTENT
    if open_ <= 0 or high <= 0 or low <= 0 or close <= 0:
        rules |= NON_POSITIVE_PRICE
    if vals[i, 4] < 0 or vals[i, 5] < 0:
        rules |= NEGATIVE_VOLUME
    trades, first, last = cols[i, TRADES], cols[i, FIRST_ID], cols[i, LAST_ID]
    if first >= 0 and last >= 0 and trades > 0 and last - first != trades - 1:
        rules |= TRADE_IDS
    # -1 is null here; below it nothing is a number of trades or the id of one.
    if min(trades, first, last) < -1:
        rules |= TRADE_IDS
    return rules


@njit
def check(
    open_time: Any,
    columns: Any,
    ids: Any,
    interval: int,
    origin: int,
    latest: int,
    cols: Any,
    vals: Any,
    rules: Any,
) -> None:
    """Judge every row. `columns` are open, high, low, close, volume, quote volume; `ids` trades,
    first and last trade id; `latest` is the latest close time that can be true (ns)."""
    for j in range(6):
        column = columns[j]
        for i in range(len(column)):
            vals[i, j] = column[i] + 0.0  # -0.0 becomes 0.0
    for j in range(3):
        column_of_ids = ids[j]
        for i in range(len(column_of_ids)):
            cols[i, TRADES + j] = column_of_ids[i]
    first_cell, line = origin // interval, origin % interval
    for i in range(len(open_time)):
        found = _judge(vals, cols, i)
        # `(time - origin) // interval`, without a difference that could leave int64.
        rest = open_time[i] % interval
        cols[i, CELL] = open_time[i] // interval - first_cell - (1 if rest < line else 0)
        if rest != line:
            found |= OFF_GRID
        if open_time[i] > latest - interval:
            found |= FUTURE_TIME
        rules[i] = found


@njit
def disorder(symbols: Any, times: Any, latest: Any, late: Any) -> None:
    """Count rows that arrive after a row of the same symbol with a larger time.

    `symbols` and `times` in the order of arrival; `latest` (ns) is the largest time of each symbol
    so far and `late` the number of such rows, both changed here.
    """
    for i in range(len(times)):
        symbol = symbols[i]
        if times[i] < latest[symbol]:
            late[symbol] += 1
        else:
            latest[symbol] = times[i]


def judged(
    bars: BarColumns, *, interval_ns: int, origin_ns: int, latest_ns: int
) -> tuple[Rows, np.ndarray[Any, np.dtype[np.int64]]]:
    """`bars` as rows of a level, without symbols, and the broken rules of each row."""
    rows = Rows.empty(len(bars))
    rules = np.zeros(len(bars), np.int64)
    check(
        bars.open_time_ns,
        (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.quote_volume),
        (bars.trades, bars.first_trade_id, bars.last_trade_id),
        interval_ns,
        origin_ns,
        latest_ns,
        rows.cols,
        rows.vals,
        rules,
    )
    rows.cols[:, SOURCE] = bars.source
    rows.cols[:, RECEIVED] = bars.received_time_ns
    return rows, rules


def outcome(
    rules: np.ndarray[Any, np.dtype[np.int64]], *, mode: str, off_grid: str
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.int32]]]:
    """Which rows must not pass, and the flags of those that do."""
    never = BLOCKED[mode] if off_grid == "snap" else BLOCKED[mode] | OFF_GRID
    blocked = (rules & never) != 0
    flags = np.zeros(len(rules), np.int32)
    flags[(rules & ~(never | OFF_GRID)) != 0] |= SUSPECT
    flags[(rules & OFF_GRID) != 0] |= SNAPPED
    return blocked, flags


def first_rule(rules: int, off_grid: str = "reject") -> str:
    """The reason that is stated for a record: the first broken rule that never passes, else the
    first that follows the mode; a snapped time is the last, it sets nothing aside."""
    never = ALWAYS if off_grid == "snap" else ALWAYS | OFF_GRID
    for mask in (never, ~OFF_GRID, OFF_GRID):
        for bit, name in RULES.items():
            if rules & mask & bit:
                return name
    return "none"
