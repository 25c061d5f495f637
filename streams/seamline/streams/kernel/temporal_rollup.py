"""The second stage: identity, order, duplicates, gaps and values of rows that have a schema.

Decides: which kernel judges which kind, and what its answer is called. Bars go to `temporal`;
trades and quotes to `market_rollup`. Invariants: the result is sorted by (time, symbol); what is
not in it is dropped by a named rule or lost by authority; nothing is judged of an incomplete record
type, and only values where there is no time. Must not know: types as they arrived, frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from seamline.schemas.columns import F8, I4, OPTIONAL_FIELDS, U1, Bool
from seamline.streams.kernel import temporal
from seamline.streams.kernel.conformance_options import BARS, PRICES, ConformanceOptions
from seamline.streams.kernel.conformance_progress import Progress
from seamline.streams.kernel.conformance_report import CAUSES
from seamline.streams.kernel.content import authority_ranks, content_codes, ordered_symbols
from seamline.streams.kernel.gap_causes import NO_TRADES, OUR_LOSS, TRUSTED
from seamline.streams.kernel.market_rollup import by_authority, market_rollup
from seamline.streams.kernel.table import FLOAT64, INT64, Column, Table
from seamline.streams.kernel.temporal import BarBatch, BarRules, Conformed, conform_bars

VOLUME: Final = "volume"
# A bar that breaks one of these proves nothing by its trade ids.
_SUSPECT: Final = (
    temporal.OHLC_INCONSISTENT | temporal.NON_POSITIVE_PRICE | temporal.NEGATIVE_VOLUME
)
EXACT_FLOAT_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class TemporalRollupStage:
    """Order, merge and judge the rows of a table."""

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress:
        if not progress.judged:
            return _untouched(progress)
        codes, symbols = ordered_symbols(progress.table, options, progress.symbols)
        progress = replace(progress, codes=codes, symbols=symbols)
        if options.kind != BARS:
            return market_rollup(progress, options)
        return _bars(progress, options)


def _untouched(progress: Progress) -> Progress:
    """Every row as it is: none is accepted into a log, because none has an identity."""
    rows = progress.table.rows
    return replace(
        progress,
        revision=np.zeros(rows, np.int32),
        codes=np.zeros(rows, np.int32),
        accepted=progress.table,
        accepted_rows=progress.rows,
        log_at=np.empty(0, np.int64),
        log_revision=np.empty(0, np.int32),
        by_authority={"revised": 0, "discarded": 0},
    )


def _bars(progress: Progress, options: ConformanceOptions) -> Progress:
    table = progress.table
    assert progress.codes is not None
    content = [n for n in options.fields if n in table]
    names = [n for n in (*PRICES, VOLUME) if n in content]
    batch = _batch(table, options, progress.codes, content, progress.timed)
    close = "close" in names
    rules = BarRules(interval_ns=None, jump_sigmas=None)
    if progress.timed:
        rules = BarRules(
            interval_ns=options.interval_ns,
            origin_ns=options.origin_ns,
            window_ns=_whole(options) if progress.symbols else None,
            sessions_ns=options.sessions_ns,
            jump_sigmas=options.jump_sigmas if close else None,
        )
    conformed = conform_bars(batch, max(1, len(progress.symbols)), rules)
    if not progress.timed:
        return _valued(_untouched(progress), options, conformed, names)
    after = _temporal_findings(progress, options, conformed)
    after = _valued(after, options, conformed, names)
    verdict = conformed.verdict
    standing = replace(
        after,
        table=_patched(table.take(conformed.rows), table, conformed),
        rows=progress.rows[conformed.rows],
        codes=progress.codes[conformed.rows],
        revision=conformed.revision,
        accepted=table,
        accepted_rows=progress.rows,
        log_at=conformed.log_rows,
        log_revision=conformed.log_revision,
        by_authority=by_authority(verdict),
    )
    return _gaps(standing, options, conformed)


def _whole(options: ConformanceOptions) -> tuple[int, int] | None:
    """The window without a last cell that it holds only a part of: half a bar is none, as
    `coverage` has it. The kernel begins at the first cell that opens inside."""
    if options.window_ns is None or options.interval_ns is None:
        return options.window_ns
    start, end = options.window_ns
    return start, max(start, end - (end - options.origin_ns) % options.interval_ns)


def _batch(
    table: Table, options: ConformanceOptions, codes: I4, content: Sequence[str], timed: bool
) -> BarBatch:
    """The columns of the kernel. Absent prices are 1, an absent volume 0: they break no rule."""
    rows = table.rows
    names = [n for n in (*PRICES, VOLUME) if n in content]
    values = {}
    if names:
        values = {n: np.ones(rows) for n in PRICES if n not in names}
        values |= {VOLUME: np.zeros(rows)} if VOLUME not in names else {}
        values |= {n: _floats(table[n]) for n in names}
    none = np.empty(0)
    optional = [n for n in OPTIONAL_FIELDS if n in content]
    stated = [n for n in optional if table[n].valid is None or table[n].mask().any()]
    further = [table[n] for n in content if n not in (*names, *optional)]
    # A null and a NaN are the same float64; their masks tell them apart.
    further += [_masked(table[n]) for n in names if table[n].valid is not None]
    further += [table[n] for n in names if table[n].type != FLOAT64]
    time = table[options.time_column].values if timed else np.arange(rows)
    return BarBatch(
        symbol=codes,
        open_time_ns=time,
        open=values.get("open", none),
        high=values.get("high", none),
        low=values.get("low", none),
        close=values.get("close", none),
        volume=values.get(VOLUME, none),
        optional=_optional(table, stated),
        other=content_codes(further),
        authority=authority_ranks(table, options),
    )


def _floats(column: Column) -> F8:
    values: F8 = column.values.astype(np.float64, copy=False)
    return values if column.valid is None else np.where(column.valid, values, np.nan)


def _masked(column: Column) -> Column:
    return Column(INT64, column.mask().astype(np.int64))


def _optional(table: Table, names: Sequence[str]) -> F8:
    """The optional fields as floats, NaN for null. Only equality matters to the kernel, so integers
    that a float64 cannot hold are numbered by value."""
    if not names:
        return np.empty((0, table.rows))
    made = np.full((len(OPTIONAL_FIELDS), table.rows), np.nan)
    for place, name in enumerate(OPTIONAL_FIELDS):
        if name not in names:
            continue
        column = table[name]
        values = column.values
        if values.dtype == np.int64 and (np.abs(values) > EXACT_FLOAT_MAX).any():
            values = np.unique(values, return_inverse=True)[1]
        made[place] = values
        if column.valid is not None:
            made[place, ~column.valid] = np.nan
    return made


def _temporal_findings(
    progress: Progress, options: ConformanceOptions, conformed: Conformed
) -> Progress:
    verdict = conformed.verdict
    seen = int(np.bitwise_or.reduce(verdict, initial=0))
    none = np.zeros(len(verdict), bool)

    def bits(mask: int) -> Bool:
        found: Bool = (verdict & mask) != 0 if seen & mask else none
        return found

    off_grid = bits(temporal.OFF_GRID)
    progress = progress.found(
        options, "off_grid", off_grid, rows_dropped=int(np.count_nonzero(off_grid))
    )
    progress = progress.found(options, "out_of_order", bits(temporal.OUT_OF_ORDER))
    repeated = bits(temporal.REPEATED)
    progress = progress.found(
        *(options, "duplicate_equal", bits(temporal.DUPLICATE_EQUAL)),
        rows_dropped=int(np.count_nonzero(repeated)),
    )
    replaced = bits(temporal.DROPPED) & ~repeated & ~off_grid
    progress = progress.found(
        *(options, "duplicate_conflict", bits(temporal.DUPLICATE_CONFLICT)),
        rows_dropped=int(np.count_nonzero(replaced)),
    )
    if conformed.misaligned:
        progress = progress.noted(
            options, "boundary_misaligned", rows_involved=conformed.misaligned
        )
    return progress


def _valued(
    progress: Progress, options: ConformanceOptions, conformed: Conformed, names: Sequence[str]
) -> Progress:
    """The value rules, as far as their columns are there. `progress.table` is still the input."""
    table, verdict = progress.table, conformed.verdict
    seen = int(np.bitwise_or.reduce(verdict, initial=0))
    if seen & temporal.OHLC_INCONSISTENT and all(name in names for name in PRICES):
        inconsistent = (verdict & temporal.OHLC_INCONSISTENT) != 0
        progress = progress.found(options, "ohlc_inconsistent", inconsistent)
    low = (verdict & temporal.NON_POSITIVE_PRICE) != 0
    if low.any():
        which = [n for n in PRICES if n in names and (_floats(table[n]) <= 0).any()]
        progress = progress.found(options, "non_positive_price", low, columns=tuple(sorted(which)))
    negative = (verdict & temporal.NEGATIVE_VOLUME) != 0
    if "quote_volume" in options.fields and "quote_volume" in table:
        negative |= table["quote_volume"].mask() & (table["quote_volume"].values < 0)
    progress = progress.found(options, "negative_volume", negative)
    progress = progress.found(options, "trade_ids", _wrong_ids(table, options))
    if not seen & temporal.PRICE_JUMP:
        return progress
    return progress.found(options, "price_jump", (verdict & temporal.PRICE_JUMP) != 0)


def _wrong_ids(table: Table, options: ConformanceOptions) -> Bool:
    """Rows whose number of trades is not that of their trade ids, or with one below -1 (which is
    how a bar of the plane says null)."""
    names = ("trades", "first_trade_id", "last_trade_id")
    if any(n not in table or options.fields.get(n) != INT64 for n in names):
        return np.zeros(table.rows, bool)
    trades, first, last = (table[n] for n in names)
    stated = trades.mask() & first.mask() & last.mask()
    stated &= (trades.values > 0) & (first.values >= 0) & (last.values >= 0)
    wrong: Bool = stated & (last.values - first.values + 1 != trades.values)
    for column in (trades, first, last):
        wrong |= column.mask() & (column.values < -1)
    return wrong


def _patched(standing: Table, source: Table, conformed: Conformed) -> Table:
    """The optional fields whose value is that of another row of the same identity."""
    changed = {}
    for place, name in enumerate(OPTIONAL_FIELDS):
        mine = conformed.patches[conformed.patches[:, 1] == place]
        if not len(mine):
            continue
        column = standing[name]
        values, valid = column.values.copy(), column.mask().copy()
        values[mine[:, 0]] = source[name].values[mine[:, 2]]
        valid[mine[:, 0]] = True
        changed[name] = replace(column, values=values, valid=valid)
    return standing.with_columns(changed)


def _gaps(progress: Progress, options: ConformanceOptions, conformed: Conformed) -> Progress:
    ranges, interval = conformed.gaps, options.interval_ns
    if not len(ranges) or interval is None:
        return progress
    # In Python: a range to the end of int64 has a width that int64 cannot hold.
    missing = sum(-(-(end - start) // interval) for _, start, end in ranges.tolist())
    causes = _causes(progress, options, conformed)
    return progress.noted(
        *(options, "gap"), rows_involved=0, missing=missing, ranges=ranges, causes=causes
    )


def _causes(progress: Progress, options: ConformanceOptions, conformed: Conformed) -> U1:
    """What the trade ids of the bars on both sides prove, as `gap_causes` says it: they join
    (`no_trades`), jump (`our_loss`) or are silent (`unknown`). An id counts when the bar breaks no
    value rule and its authority, where one is stated, tells of bars that are over."""
    ranges = conformed.gaps
    causes = np.zeros(len(ranges), np.uint8)
    table = progress.table
    names = ("first_trade_id", "last_trade_id")
    if any(n not in table or options.fields.get(n) != INT64 for n in names):
        return causes
    assert progress.codes is not None
    if not all(table[n].mask().any() for n in names):
        return causes
    first, last = (table[n] for n in names)
    trusted = (conformed.verdict[conformed.rows] & _SUSPECT == 0) & ~_wrong_ids(table, options)
    ranks = authority_ranks(table, options)
    if len(ranks):
        trusted &= np.isin(ranks, TRUSTED)
    known_first = first.mask() & (first.values >= 0) & trusted
    known_last = last.mask() & (last.values >= 0) & trusted
    order = np.argsort(progress.codes, kind="stable")
    times = table[options.time_column].values[order]
    bounds = np.searchsorted(progress.codes[order], np.arange(len(progress.symbols) + 1))
    for symbol in np.unique(ranges[:, 0]).tolist():
        low, high = int(bounds[symbol]), int(bounds[symbol + 1])
        mine = np.flatnonzero(ranges[:, 0] == symbol)
        after = low + np.searchsorted(times[low:high], ranges[mine, 1])
        within = (after > low) & (after < high)
        mine, right, left = mine[within], order[after[within]], order[after[within] - 1]
        known = known_last[left] & known_first[right]
        mine, right, left = mine[known], right[known], left[known]
        # Both are 0 or more, so their difference is an int64.
        step = first.values[right] - last.values[left]
        causes[mine[step == 1]] = CAUSES.index(NO_TRADES)
        causes[mine[step > 1]] = CAUSES.index(OUR_LOSS)
    return causes
