"""The temporal rollup of a batch of bars: what stands, what is wrong with a row, what is missing.

Decides: the grid, order, duplicates, authority, completions and gaps of rows that arrive together,
the value rules of each row, and which closes leave their band; as DESIGN sections 2 and 4 and the
vectors of `conformance.json` state them, and as `merge` decides bar by bar.

Invariants: every input row is judged; a verdict depends on the rows and their order alone, not on
how identities are found (see `_PLACES_PER_ROW`); the input is never changed. An identity is
(symbol, open time); content is OHLCV, the optional fields where both have a value, and `other`.
Must not know: names of symbols, severities, frames, where rows come from, the clock.

Price jump. For each symbol the rows that stand are taken in order of time. With closes c, the
simple return is `r = c[t] / c[t-1] - 1`, and the variance before a bar is the exponentially
weighted mean of the squares of the returns before it, `sum(d^k r[t-1-k]^2) / sum(d^k)` with decay
`d` and mean 0: the estimate of J.P. Morgan/Reuters, RiskMetrics Technical Document, 4th ed. (1996),
chapter 5, decay 0.94 for daily data, with weights that sum to 1 from the first return on. A bar
jumps when `r^2 > jump_sigmas^2 * variance`. A band of fewer than 16 returns, or without width,
judges nothing. A close that is not a positive number does not enter; one that jumps does, so that a
new level widens the band and is not reported for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import F8, I4, I8, U1
from seamline.schemas.errors import UsageError
from seamline.streams.kernel import temporal_band
from seamline.streams.kernel import temporal_kernels as kernels
from seamline.streams.kernel.temporal_kernels import TIME_MAX, TIME_MIN
from seamline.streams.kernel.temporal_settle import (
    COMPLETED,
    DISCARDED,
    DROPPED,
    DUPLICATE_CONFLICT,
    DUPLICATE_EQUAL,
    FIELDS,
    NEGATIVE_VOLUME,
    NON_FINITE,
    NON_POSITIVE_PRICE,
    OFF_GRID,
    OHLC_INCONSISTENT,
    OUT_OF_ORDER,
    PRICE_JUMP,
    RAISED,
    REPEATED,
    REVISED,
)

__all__ = [
    "COMPLETED",
    "DISCARDED",
    "DROPPED",
    "DUPLICATE_CONFLICT",
    "DUPLICATE_EQUAL",
    "NEGATIVE_VOLUME",
    "NON_FINITE",
    "NON_POSITIVE_PRICE",
    "OFF_GRID",
    "OHLC_INCONSISTENT",
    "OUT_OF_ORDER",
    "PRICE_JUMP",
    "RAISED",
    "REPEATED",
    "REVISED",
    "ROWS_MAX",
    "SYMBOLS_MAX",
    "BarBatch",
    "BarRules",
    "Conformed",
    "conform_bars",
]

ROWS_MAX: Final = 2**31 - 2  # places hold row numbers as int32
SYMBOLS_MAX: Final = 2**20
# Identities have their places by arithmetic while the grid between the first and the last time is
# at most this many places per row and some more; a batch that is thinner than that is sorted.
_PLACES_PER_ROW: Final = 4
_PLACES_MORE: Final = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class BarBatch:
    """Rows in the order of their arrival.

    symbol: (rows,) in 0..symbols-1. open_time_ns: (rows,) UTC. open, high, low, close, volume:
    (rows,) each, or all of length 0 where there are none: then no rule about them is judged.
    optional: (4, rows) quote_volume, trades, first_trade_id, last_trade_id, null is NaN; (0, rows)
    where there are none. other: (rows,) a code of all further content, equal exactly where that is
    equal; or length 0. authority: (rows,) rank of the source, 0 wins; or length 0: none stated.
    """

    symbol: I4
    open_time_ns: I8
    open: F8
    high: F8
    low: F8
    close: F8
    volume: F8
    optional: F8
    other: I8
    authority: U1


@dataclass(frozen=True, slots=True)
class BarRules:
    """What is expected.

    interval_ns: None where it is not known: grid, gaps and steps are not judged. origin_ns: a time
    of the grid. window_ns: bars are expected in [start, end); None: from the first to the last
    standing row of each symbol. sessions_ns: (n, 2) when bars are expected, sorted disjoint [start,
    end); None: always. jump_sigmas: None: price jumps are not judged.
    """

    interval_ns: int | None
    origin_ns: int = 0
    window_ns: tuple[int, int] | None = None
    sessions_ns: I8 | None = None
    jump_sigmas: float | None = None
    jump_decay: float = 0.94


@dataclass(frozen=True, slots=True, eq=False)
class Conformed:
    """What became of a batch.

    rows: (kept,) the input row that stands for each identity, sorted by (open time, symbol).
    revision: (kept,). patches: (p, 3) place in `rows`, optional field 0..3, input row: there the
    standing value of the field is that of another row. log_rows, log_revision: (accepted,) input
    rows in the order in which they were accepted, each with the revision that it became; a row that
    only fills a null or confirms is not there. verdict: (rows,) bits per input row. gaps: (g, 3)
    symbol, start, end of each missing run (ns), by symbol and start; an end past int64 is cut to
    its maximum. misaligned: steps between neighbouring distinct times of a symbol, off-grid rows
    included, that exceed the interval and are no multiple of it.

    Rows that a rule dropped: `off_grid` OFF_GRID; `duplicate_equal` REPEATED; `duplicate_conflict`
    DROPPED without either. A row that lost by authority alone is not DROPPED.
    """

    rows: I8
    revision: I4
    patches: I8
    log_rows: I8
    log_revision: I4
    verdict: I4
    gaps: I8
    misaligned: int


def conform_bars(batch: BarBatch, symbols: int, rules: BarRules) -> Conformed:
    """Judge and merge a batch. Raises UsageError for columns, symbols or rules that do not fit."""
    _check_rules(rules)
    _check_sizes(batch, symbols)
    columns = _columns(batch)
    grid, table = _places(columns.symbol, columns.time, symbols, rules)
    rows = len(columns.symbol)
    verdict = np.zeros(rows, np.int32)
    special = np.empty((rows, 3), np.int64)
    counts = np.zeros(4, np.int64)
    arrival = np.full((symbols, 3), TIME_MIN, np.int64)
    arrival[:, kernels.A_PLACE] = -1
    log = kernels.Log(np.zeros(1, np.int64), np.empty(rows, np.int64), np.zeros(rows, np.int32))
    entries = kernels.arrive(columns, grid, table, arrival, special, verdict, log, counts)
    kept, specials, repeated, off_grid = counts.tolist()
    accepted = int(log.done[0])

    special = special[:specials]
    wanted = _wanted(columns, grid, rules, special, off_grid)
    state = np.full((symbols, 3), -1, np.int64)
    state[0, kernels.Z_OFF] = 0
    state[1:, kernels.Z_OFF] = wanted.off_end[:-1]
    standing = np.empty(kept, np.int64)
    revision = np.zeros(kept, np.int32)
    patches = np.empty((repeated * len(batch.optional), 3), np.int64)
    counts[:] = 0
    # Plain Python would warn where compiled code gives infinity or NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = kernels.stand(
            *(columns, grid, wanted, table, entries, state),
            *(standing, revision, patches, verdict, counts),
        )
    _, misaligned, patched, _ = counts.tolist()
    return Conformed(
        rows=standing,
        revision=revision,
        patches=patches[:patched],
        log_rows=log.rows[:accepted],
        log_revision=log.revision[:accepted],
        verdict=verdict,
        gaps=gaps[np.argsort(gaps[:, 0], kind="stable")],
        misaligned=misaligned,
    )


def _columns(batch: BarBatch) -> kernels.Columns:
    rows = len(batch.symbol)
    prices = rows if len(batch.close) else 0
    values = tuple(
        _column(getattr(batch, name), np.float64, (prices,), name)
        for name in ("open", "high", "low", "close", "volume")
    )
    fields = batch.optional if len(batch.optional) else np.empty((0, rows))
    ranks = rows if len(batch.authority) else 0
    return kernels.Columns(
        symbol=_column(batch.symbol, np.int32, (rows,), "symbol"),
        time=_column(batch.open_time_ns, np.int64, (rows,), "open_time_ns"),
        values=values,
        optional=_column(fields, np.float64, (len(fields), rows), "optional"),
        other=_column(batch.other, np.int64, (rows if len(batch.other) else 0,), "other"),
        authority=_column(batch.authority, np.uint8, (ranks,), "authority"),
    )


def _column(values: np.ndarray[Any, Any], dtype: type, shape: tuple[int, ...], name: str) -> Any:
    """A read-only view in one piece, so that there is one compiled form for every caller."""
    if values.dtype != dtype or values.shape != shape:
        raise UsageError(
            "a column of another type or length",
            parameter=name,
            value=f"{values.dtype}{values.shape}",
            fix=f"Give {np.dtype(dtype).name}{shape}",
        )
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view


def _check_sizes(batch: BarBatch, symbols: int) -> None:
    if len(batch.symbol) > ROWS_MAX:
        raise UsageError(
            f"more than {ROWS_MAX} rows",
            parameter="batch",
            value=len(batch.symbol),
            fix="Conform the batch in parts of whole symbols",
        )
    if not 1 <= symbols <= SYMBOLS_MAX:
        raise UsageError(f"outside 1..{SYMBOLS_MAX}", parameter="symbols", value=symbols)
    if len(batch.optional) not in (0, FIELDS):
        raise UsageError(
            "neither none nor all of the optional fields",
            parameter="optional",
            value=batch.optional.shape,
            fix=f"Give ({FIELDS}, rows), NaN where a value is null",
        )


def _check_rules(rules: BarRules) -> None:
    interval, sessions = rules.interval_ns, rules.sessions_ns
    if interval is not None and not 0 < interval <= TIME_MAX:
        raise UsageError("not a positive interval", parameter="interval_ns", value=interval)
    if rules.window_ns is not None and not (
        TIME_MIN <= rules.window_ns[0] <= rules.window_ns[1] <= TIME_MAX
    ):
        raise UsageError(
            "not [start, end) within int64", parameter="window_ns", value=rules.window_ns
        )
    if sessions is not None and (
        sessions.ndim != 2
        or sessions.shape[1] != 2
        or sessions.dtype != np.int64
        or (sessions[:, 0] > sessions[:, 1]).any()
        or (sessions[1:, 0] < sessions[:-1, 1]).any()
    ):
        raise UsageError(
            "not sorted disjoint [start, end) in ns",
            parameter="sessions_ns",
            value=sessions,
            fix="Give int64 of shape (n, 2)",
        )
    if rules.jump_sigmas is not None and not 0 < rules.jump_sigmas < np.inf:
        raise UsageError("not positive", parameter="jump_sigmas", value=rules.jump_sigmas)
    if not temporal_band.DECAY_MIN <= rules.jump_decay <= 1:
        raise UsageError(
            f"outside {temporal_band.DECAY_MIN}..1", parameter="jump_decay", value=rules.jump_decay
        )


def _places(symbol: I4, time: I8, symbols: int, rules: BarRules) -> tuple[kernels.Grid, I4]:
    """How identities find their places, and the empty places."""
    interval = rules.interval_ns or 0
    phase = rules.origin_ns % interval if interval else 0
    none = np.empty(0, np.int32)
    if not len(symbol):
        return kernels.Grid(symbols, interval, phase, True, 0, none), none
    low, high, first, last = (int(value) for value in kernels.bounds(symbol, time))
    if low < 0 or high >= symbols:
        raise UsageError(
            f"outside 0..{symbols - 1}", parameter="symbol", value=low if low < 0 else high
        )
    if interval:
        base = first // interval
        needed = (last // interval - base + 1) * symbols
        if needed <= min(_PLACES_PER_ROW * len(symbol) + _PLACES_MORE, ROWS_MAX):
            grid = kernels.Grid(symbols, interval, phase, True, base, none)
            return grid, np.zeros(needed, np.int32)
    place = np.empty(len(symbol), np.int32)
    kept = kernels.places(np.lexsort((symbol, time)), symbol, time, interval, phase, place)
    return kernels.Grid(symbols, interval, phase, False, 0, place), np.zeros(kept, np.int32)


def _wanted(
    columns: kernels.Columns, grid: kernels.Grid, rules: BarRules, special: I8, off_grid: int
) -> kernels.Wanted:
    judged = rules.jump_sigmas is not None and len(columns.values[3])
    off_times, off_end = _off_grid(columns.symbol, columns.time, special, grid.symbols, off_grid)
    return kernels.Wanted(
        expected=_expected(rules, grid.interval, grid.phase),
        windowed=rules.window_ns is not None,
        off_times=off_times,
        off_end=off_end,
        limit=float(rules.jump_sigmas or 0.0) ** 2 if judged else -1.0,
        decay=float(rules.jump_decay),
    )


def _off_grid(symbol: I4, time: I8, special: I8, symbols: int, rows: int) -> tuple[I8, I8]:
    """The off-grid times by (symbol, time), and where those of each symbol end."""
    if not rows:
        return np.empty(0, np.int64), np.zeros(symbols, np.int64)
    found = special[special[:, kernels.P_ENTRY] < 0, kernels.P_ROW]
    found = found[np.lexsort((time[found], symbol[found]))]
    return time[found], np.cumsum(np.bincount(symbol[found], minlength=symbols))


def _expected(rules: BarRules, interval: int, phase: int) -> I8:
    """When bars are expected: disjoint ascending [start, end) on the grid, none that touch."""
    if not interval:
        return np.empty((0, 2), np.int64)
    found = np.array([[TIME_MIN, TIME_MAX]], np.int64)
    if rules.sessions_ns is None and rules.window_ns is None:
        return found  # gaps lie between rows, hence on the grid
    if rules.sessions_ns is not None:
        found = rules.sessions_ns
    if rules.window_ns is not None:
        found = np.clip(found, *rules.window_ns)
    # Up to the grid: a cell is expected where its open time is. Past int64 there is no cell.
    missing = (phase - found % interval) % interval
    found = np.add(found, np.minimum(missing, TIME_MAX - np.maximum(found, 0)))
    found = found[found[:, 0] < found[:, 1]]
    if not len(found):
        return np.empty((0, 2), np.int64)
    apart = found[1:, 0] > found[:-1, 1]
    starts = found[np.concatenate(([True], apart)), 0]
    ends = found[np.concatenate((apart, [True])), 1]
    return np.stack((starts, ends), axis=1)
