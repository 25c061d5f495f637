"""What rows of a table state, as numbers: their symbol, their rank, their content.

Decides: when two cells are equal: -0.0 is 0.0, NaN is NaN, null is null and no value. Invariants:
equal content has an equal code and other content another one, never a hash; symbols are numbered in
the order of their names. Must not know: what follows from equality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seamline.schemas.columns import I4, I8, U1
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.conformance_options import AUTHORITIES, ConformanceOptions
from seamline.streams.kernel.table import FLOAT64, TEXT, Column, Table


def symbols_of(table: Table, options: ConformanceOptions) -> tuple[str, ...]:
    """The names in the column of symbols, each once."""
    if options.symbol_column not in table:
        return ()
    column = table[options.symbol_column]
    used = np.bincount(column.values[column.mask()], minlength=len(column.words)) > 0
    return tuple(word for word, there in zip(column.words, used.tolist(), strict=True) if there)


def ordered_symbols(
    table: Table, options: ConformanceOptions, seen: Sequence[str | None]
) -> tuple[I4, tuple[str | None, ...]]:
    """The symbol number of each row, and the names, those `seen` before rows were dropped
    included; without a column there is one, unnamed.

    Raises UsageError where several symbols are expected of rows that do not say which they are of.
    """
    expected = sorted(set(options.symbols or ()))
    if options.symbol_column not in table:
        if len(expected) > 1 and table.rows:
            raise UsageError(
                f"several, and the rows have no column {options.symbol_column}",
                parameter="symbols",
                value=expected,
                fix="Add the column, or name one symbol",
            )
        return np.zeros(table.rows, np.int32), tuple(expected) or (None,)
    column = table[options.symbol_column]
    names = sorted({name for name in seen if name is not None} | set(expected))
    numbers = {name: number for number, name in enumerate(names)}
    ranks = np.array([numbers.get(word, -1) for word in column.words], np.int32)
    return ranks[column.values], tuple(names)


def authority_ranks(table: Table, options: ConformanceOptions) -> U1:
    """Rank of the source of each row, 0 wins; one that is not stated is below all. Empty where
    there is no such column."""
    name = options.authority_column
    if name not in table or table[name].type != TEXT:
        return np.empty(0, np.uint8)
    column = table[name]
    none = len(AUTHORITIES)
    known = {word: rank for rank, word in enumerate(AUTHORITIES)}
    ranks = np.array([*(known.get(word, none) for word in column.words), none], np.uint8)
    found: U1 = np.where(column.mask(), ranks[column.values], np.uint8(none))
    return found


def equality_codes(column: Column) -> I8:
    """Equal codes for equal valid cells; the cells of nulls mean nothing."""
    if column.type != FLOAT64:
        return column.values.astype(np.int64, copy=False)
    values = np.where(np.isnan(column.values), np.nan, column.values + 0.0)
    return values.view(np.int64)


def content_codes(columns: Sequence[Column]) -> I8:
    """One code for the cells of each row over all columns. Empty where there is no column."""
    if not columns:
        return np.empty(0, np.int64)
    parts: list[I8] = []
    for column in columns:
        codes = equality_codes(column)
        if column.valid is not None:
            codes = np.where(column.valid, codes, 0)
            parts.append(column.valid.astype(np.int64))
        parts.append(codes)
    whole = parts[0]
    for part in parts[1:]:
        # Both are numbered densely first, so that the product stays far below int64.
        left, right = (np.unique(p, return_inverse=True)[1] for p in (whole, part))
        whole = left * (int(right.max(initial=0)) + 1) + right
    return whole
