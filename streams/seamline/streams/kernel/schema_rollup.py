"""The first stage: columns, types, times and enumerations brought to the schema.

Decides: what of the schema the rows do not meet. Findings: missing_column, unexpected_column,
dtype_cast, cast_failure, invalid_timestamp, missing_symbol, non_finite, enumeration. Invariants:
the time leaves as int64 ns; a row is dropped only without a time or a symbol, and such a row is
counted by no later rule; a cell has one cause; unexpected columns stay as they are. Must not know:
identity, order, grids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from seamline.schemas.columns import Bool
from seamline.streams.kernel.casts import cast, without_negative_zero
from seamline.streams.kernel.conformance_options import (
    AUTHORITIES,
    BARS,
    ENUMERATIONS,
    ConformanceOptions,
)
from seamline.streams.kernel.conformance_progress import Progress, union
from seamline.streams.kernel.content import symbols_of
from seamline.streams.kernel.instants import instants
from seamline.streams.kernel.table import FLOAT64, INT64, TEXT, Column, Table

UNIT_OUT: Final = "ns"
# Column -> the rows of it that a rule is about.
_Hits = dict[str, Bool]


@dataclass(frozen=True, slots=True)
class SchemaRollupStage:
    """Bring a table to the schema of the options."""

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress:
        """Raises UsageError where the times have no unit."""
        table = progress.table
        missing = sorted(name for name in options.required if name not in table)
        if missing:
            every = np.ones(table.rows, bool)
            progress = progress.found(options, "missing_column", every, columns=tuple(missing))
        progress, tried = _timed(progress, options)
        if missing and options.kind != BARS:
            # Nothing else is judged on an incomplete record type.
            return replace(progress, judged=False)
        return _rolled(progress, options, tried)


def _timed(progress: Progress, options: ConformanceOptions) -> tuple[Progress, Bool | None]:
    """Times as int64 ns; None where there is no time in a cell, or no such column at all."""
    name = options.time_column
    if name not in progress.table:
        return replace(progress, timed=False), None
    times = instants(progress.table[name], options.ts_unit)
    column = Column(INT64, times.time_ns, None if times.valid.all() else times.valid, unit=UNIT_OUT)
    return replace(progress, table=progress.table.with_columns({name: column})), times.tried


def _rolled(progress: Progress, options: ConformanceOptions, tried: Bool | None) -> Progress:
    table = progress.table
    special = (options.time_column, options.symbol_column, options.authority_column)
    unexpected = sorted(n for n in table.columns if n not in options.fields and n not in special)
    if unexpected:
        every = np.ones(table.rows, bool)
        progress = progress.found(options, "unexpected_column", every, columns=tuple(unexpected))
    casts: _Hits = {} if tried is None else {options.time_column: tried}
    failures: _Hits = {}
    changed = {}
    for name, wanted in (*options.fields.items(), *((name, TEXT) for name in special[1:])):
        if name not in table:
            continue
        made = cast(table[name], wanted)
        column = without_negative_zero(made.column)
        if column is not table[name]:
            changed[name] = column
        if made.tried is not None:
            casts[name] = made.tried
        if made.failed is not None:
            failures[name] = made.failed
    progress = replace(progress, table=table.with_columns(changed))
    progress = _hit(progress, options, "dtype_cast", casts)
    progress = _hit(progress, options, "cast_failure", failures)
    alive, progress = _identified(progress, options)
    infinite, unfit = _non_finite(progress.table, options, failures)
    progress = _hit(progress, options, "non_finite", {n: m & alive for n, m in unfit.items()})
    progress = replace(progress, table=progress.table.with_columns(infinite))
    progress = _enumerated(progress, options, alive)
    # A symbol is expected in a window too where none of its rows has a time.
    symbols = symbols_of(progress.table, options)
    return replace(progress.take(alive), symbols=symbols)


def _hit(progress: Progress, options: ConformanceOptions, rule: str, hits: _Hits) -> Progress:
    """A finding about the rows that any column has, naming the columns."""
    hits = {name: mask for name, mask in hits.items() if mask.any()}
    if not hits:
        return progress
    return progress.found(options, rule, union(list(hits.values())), columns=tuple(sorted(hits)))


def _identified(progress: Progress, options: ConformanceOptions) -> tuple[Bool, Progress]:
    """The rows with a time and a symbol."""
    table = progress.table
    alive = np.ones(table.rows, bool)
    for name, rule in (
        (options.time_column, "invalid_timestamp"),
        (options.symbol_column, "missing_symbol"),
    ):
        if name in table and table[name].valid is not None:
            without = ~table[name].mask() & alive
            dropped = int(np.count_nonzero(without))
            progress = progress.found(options, rule, without, rows_dropped=dropped)
            alive &= ~without
    return alive, progress


def _non_finite(
    table: Table, options: ConformanceOptions, failures: _Hits
) -> tuple[dict[str, Column], _Hits]:
    """Columns with their infinities as null, and the rows with a number that is none."""
    changed: dict[str, Column] = {}
    hits: _Hits = {}
    for name, wanted in options.fields.items():
        if name not in table or wanted not in (INT64, FLOAT64):
            continue
        column = table[name]
        required = name in options.required
        if wanted == FLOAT64:
            finite = np.isfinite(column.values)
            if column.valid is None and finite.all():
                continue
            infinite = column.mask() & np.isinf(column.values)
            if infinite.any():
                changed[name] = replace(column, valid=column.mask() & ~infinite)
            unfit = ~(column.mask() & finite) if required else infinite
        elif column.valid is None or not required:
            continue
        else:
            unfit = ~column.mask()
        hits[name] = unfit & ~failures[name] if name in failures else unfit
    return changed, hits


def _enumerated(progress: Progress, options: ConformanceOptions, alive: Bool) -> Progress:
    """Values outside their enumeration: null from here on."""
    known: dict[str, tuple[str, ...]] = {
        name: values for name, values in ENUMERATIONS.items() if name in options.fields
    }
    known[options.authority_column] = AUTHORITIES
    hits: _Hits = {}
    changed = {}
    for name, values in known.items():
        if name not in progress.table or progress.table[name].type != TEXT:
            continue
        column = progress.table[name]
        fits = np.array([*(word in values for word in column.words), True], bool)
        outside = column.mask() & ~fits[column.values]
        if outside.any():
            hits[name] = outside & alive
            changed[name] = replace(column, valid=column.mask() & ~outside)
    progress = _hit(progress, options, "enumeration", hits)
    return replace(progress, table=progress.table.with_columns(changed))
