"""Trades and quotes over time: identity, order, duplicates, prices, sizes, spreads.

Decides: a trade is (symbol, trade id), a quote (symbol, time); which of repeated rows stands is
decided by the kernel of bars, which only needs equal numbers for equal identities. Invariants: rows
whose identity is alone are never looked at one by one; a limit is compared as the decimals that the
numbers were written as, so a spread of exactly the limit is not above it. Must not know: the
columns as they arrived, severities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import numpy as np

from seamline.schemas.columns import F8, I4, I8, U1, Bool
from seamline.streams.kernel import temporal
from seamline.streams.kernel.conformance_options import QUOTES, TRADES, ConformanceOptions
from seamline.streams.kernel.conformance_progress import Progress
from seamline.streams.kernel.content import authority_ranks, content_codes, equality_codes
from seamline.streams.kernel.table import INT64, NUMBERS, Table
from seamline.streams.kernel.temporal import BarBatch, BarRules, conform_bars

TRADE_ID: Final = "trade_id"
_PRICES: Final = {TRADES: ("price",), QUOTES: ("bid", "ask")}
_SIZES: Final = {TRADES: ("size",), QUOTES: ("bid_size", "ask_size")}
# Nearer to the limit than this, relative, floats do not decide.
_NEAR: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """What became of each row: bits of the kernel of bars; which rows stand and their revisions;
    the accepted rows in order of arrival and theirs."""

    verdict: I4
    standing: Bool
    revision: I4
    log_at: I8
    log_revision: I4


def market_rollup(progress: Progress, options: ConformanceOptions) -> Progress:
    """Order, merge and judge trades or quotes."""
    table = progress.table
    assert progress.codes is not None
    time_ns: I8 = table[options.time_column].values
    late = _late(progress.codes, time_ns, len(progress.symbols))
    merged = _merged(table, options, progress.codes, time_ns)
    verdict = merged.verdict
    after = progress.found(options, "out_of_order", late)
    for rule, bit, dropped in (
        ("duplicate_equal", temporal.DUPLICATE_EQUAL, verdict & temporal.REPEATED != 0),
        (
            *("duplicate_conflict", temporal.DUPLICATE_CONFLICT),
            (verdict & temporal.DROPPED != 0) & (verdict & temporal.REPEATED == 0),
        ),
    ):
        after = after.found(
            options, rule, verdict & bit != 0, rows_dropped=int(np.count_nonzero(dropped))
        )
    after = _values(after, options)
    standing = np.flatnonzero(merged.standing)
    order = standing[np.lexsort((progress.codes[standing], time_ns[standing]))]
    return replace(
        after,
        table=table.take(order),
        rows=progress.rows[order],
        codes=progress.codes[order],
        revision=merged.revision[order],
        accepted=table,
        accepted_rows=progress.rows,
        log_at=merged.log_at,
        log_revision=merged.log_revision,
        by_authority=by_authority(verdict),
    )


def by_authority(verdict: I4) -> dict[str, int]:
    """Arrivals that authority decided. One whose prices lost is discarded, also where it filled or
    confirmed a field: it is no row of the result."""
    partly = verdict & (temporal.COMPLETED | temporal.RAISED) != 0
    partly &= verdict & (temporal.REPEATED | temporal.REVISED | temporal.DROPPED) == 0
    discarded = (verdict & temporal.DISCARDED != 0) | partly
    return {
        "revised": int(np.count_nonzero(verdict & temporal.REVISED)),
        "discarded": int(np.count_nonzero(discarded)),
    }


def _late(codes: I4, time_ns: I8, symbols: int) -> Bool:
    """Rows that arrive after a row of their symbol with a larger time."""
    late = np.zeros(len(time_ns), bool)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(symbols + 1))
    for symbol in range(symbols):
        mine = order[bounds[symbol] : bounds[symbol + 1]]
        times = time_ns[mine]
        late[mine] = times < np.maximum.accumulate(times)
    return late


def _merged(table: Table, options: ConformanceOptions, codes: I4, time_ns: I8) -> Merged:
    group = _repeated(table, options, codes, time_ns)
    places = np.flatnonzero(group >= 0)
    rows = table.rows
    verdict, revision = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    standing, accepted = group < 0, group < 0
    if len(places):
        part = table.take(places)
        content = [options.time_column, *(n for n in options.fields if n in table)]
        conformed = conform_bars(
            _identities(
                group[places],
                content_codes([part[n] for n in content]),
                authority_ranks(part, options),
            ),
            1,
            BarRules(interval_ns=None),
        )
        verdict[places] = conformed.verdict
        standing[places[conformed.rows]] = True
        accepted[places[conformed.log_rows]] = True
        revision[places[conformed.log_rows]] = conformed.log_revision
    log_at = np.flatnonzero(accepted)
    return Merged(verdict, standing, revision, log_at, revision[log_at])


def _identities(group: I8, content: I8, authority: U1) -> BarBatch:
    """Identities as the kernel of bars knows them: one symbol, the number of the group as time."""
    none = np.empty(0)
    return BarBatch(
        symbol=np.zeros(len(group), np.int32),
        open_time_ns=group,
        open=none,
        high=none,
        low=none,
        close=none,
        volume=none,
        optional=np.empty((0, len(group))),
        other=content,
        authority=authority,
    )


def _repeated(table: Table, options: ConformanceOptions, codes: I4, time_ns: I8) -> I8:
    """The number of the identity of each row that shares it with another row, -1 for the others."""
    group = np.full(table.rows, -1, np.int64)
    if options.kind == QUOTES:
        identity, places = time_ns, np.arange(table.rows)
    elif TRADE_ID in options.fields and TRADE_ID in table:
        identity = equality_codes(table[TRADE_ID])
        places = np.flatnonzero(table[TRADE_ID].mask())
    else:
        return group
    order = places[np.lexsort((identity[places], codes[places]))]
    if not len(order):
        return group
    same = (identity[order[1:]] == identity[order[:-1]]) & (codes[order[1:]] == codes[order[:-1]])
    number = np.concatenate(([0], np.cumsum(~same)))
    shared = np.concatenate(([False], same)) | np.concatenate((same, [False]))
    group[order[shared]] = number[shared]
    return group


def _values(progress: Progress, options: ConformanceOptions) -> Progress:
    progress = _not_positive(progress, options, "invalid_price", _PRICES[options.kind])
    progress = _not_positive(progress, options, "invalid_size", _SIZES[options.kind])
    if options.kind == QUOTES:
        return _spread(progress, options)
    return _ids(progress, options)


def _not_positive(
    progress: Progress, options: ConformanceOptions, rule: str, names: Sequence[str]
) -> Progress:
    table = progress.table
    hits = {}
    for name in names:
        if name in table and options.fields.get(name) in NUMBERS:
            wrong = table[name].mask() & (table[name].values <= 0)
            if wrong.any():
                hits[name] = wrong
    if not hits:
        return progress
    whole = np.logical_or.reduce(list(hits.values()))
    return progress.found(options, rule, whole, columns=tuple(sorted(hits)))


def _spread(progress: Progress, options: ConformanceOptions) -> Progress:
    table = progress.table
    if any(n not in table or options.fields.get(n) not in NUMBERS for n in ("bid", "ask")):
        return progress
    bid, ask = (table[n] for n in ("bid", "ask"))
    valid = bid.mask() & ask.mask() & np.isfinite(bid.values) & np.isfinite(ask.values)
    valid &= (bid.values > 0) & (ask.values > 0)
    crossed = valid & (bid.values >= ask.values)
    progress = progress.found(options, "crossed_quotes", crossed)
    if options.wide_spread_percent is None:
        return progress
    places = np.flatnonzero(valid & ~crossed)
    wide = np.zeros(table.rows, bool)
    wide[places] = _above(
        bid.values[places].astype(np.float64),
        ask.values[places].astype(np.float64),
        options.wide_spread_percent,
    )
    return progress.found(options, "wide_spread", wide)


def _above(bid: F8, ask: F8, percent: float) -> Bool:
    """(ask - bid) / bid * 100 > percent, exactly as the decimals read."""
    ratio = (ask / bid - 1.0) * 100.0
    above: Bool = ratio > percent
    near = np.abs(ratio - percent) <= _NEAR * 100.0 * (1.0 + percent)
    limit = Decimal(repr(float(percent)))
    for at in np.flatnonzero(near).tolist():
        low, high = Decimal(repr(float(bid[at]))), Decimal(repr(float(ask[at])))
        above[at] = (high - low) * 100 > limit * low
    return above


def _ids(progress: Progress, options: ConformanceOptions) -> Progress:
    table = progress.table
    if TRADE_ID not in options.fields or TRADE_ID not in table:
        return progress
    column = table[TRADE_ID]
    progress = progress.found(options, "missing_trade_id", ~column.mask())
    if column.type != INT64 or progress.codes is None:
        return progress
    places = np.flatnonzero(column.mask())
    order = places[np.lexsort((column.values[places], progress.codes[places]))]
    if len(order) < 2:
        return progress
    ids, codes = column.values[order].view(np.uint64), progress.codes[order]
    steps = np.where(codes[1:] == codes[:-1], ids[1:] - ids[:-1], np.uint64(0))
    absent = sum(step - 1 for step in steps[steps > 1].tolist())
    if not absent:
        return progress
    return progress.noted(
        options, "trade_id_gap", rows_involved=0, missing=absent, columns=(TRADE_ID,)
    )
