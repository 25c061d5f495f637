"""Bring a column to the type that a schema states, and say where that was tried and failed.

Decides: which names mean which type, and what can be converted. Invariants: a conversion is exact
or the nearest double; nothing is cut off (1.5 is no integer); a cell that cannot be converted
becomes null and is marked. Must not know: rules, which columns there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import I8, Bool
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.instants import NUMBER, whole
from seamline.streams.kernel.table import (
    BOOL,
    DECIMAL,
    FLOAT64,
    IEEE,
    INT64,
    OTHER,
    TEXT,
    TIME,
    WORDS,
    Column,
    words_column,
)

_ALIASES: Final = {
    INT64: ("int64", "long", "bigint"),
    FLOAT64: ("float64", "double"),
    TEXT: ("text", "string", "str", "utf8"),
    BOOL: ("bool", "boolean"),
    TIME: ("time", "timestamp", "datetime", "datetime64[ns]"),
}
TYPES: Final = {alias: type_ for type_, names in _ALIASES.items() for alias in names}


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """A column of the wanted type. `tried`: cells that had to be converted; `failed`: those of them
    that could not be and are null now. None: none."""

    column: Column
    tried: Bool | None = None
    failed: Bool | None = None


def type_named(name: object, *, parameter: str) -> str:
    """The type that a schema means. Raises UsageError for a name that is not of the table."""
    found = TYPES.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise UsageError(
            "not a type of a column",
            parameter=parameter,
            value=name,
            fix=f"Write one of {', '.join(TYPES)}; int and float do not say how wide they are",
        )
    return found


def cast(column: Column, wanted: str) -> Cast:
    """The column as `wanted`, one of int64, float64, text, bool, time."""
    if column.type == wanted:
        # A narrower type of a frame (int32, float32) is converted too, and cannot fail.
        if not column.arrived or wanted == TIME:
            return Cast(column)
        return Cast(replace(column, arrived=""), column.mask())
    mask = column.mask()
    if not mask.any():
        return Cast(empty(len(column), wanted))  # null fits each type
    if column.type in WORDS and wanted in (INT64, FLOAT64, BOOL):
        made = _of_words(column, wanted)
    elif wanted == TEXT and column.type != OTHER:
        made = words_column([None if c is None else _shown(c) for c in column.cells()])
        if column.type == DECIMAL:
            made = Column(TEXT, column.values, column.valid, column.words)
    elif wanted == FLOAT64 and column.type == INT64:
        made = Column(FLOAT64, column.values.astype(np.float64), column.valid)
    elif wanted == INT64 and column.type == FLOAT64:
        made = _integers(column)
    else:
        made = empty(len(column), wanted)
    failed = mask & ~made.mask()
    return Cast(made, mask, failed if failed.any() else None)


def empty(rows: int, type_: str) -> Column:
    """A column of nulls."""
    dtype = {FLOAT64: "f8", BOOL: "?", TEXT: "i4", DECIMAL: "i4"}.get(type_, "i8")
    values = np.full(rows, -1 if type_ in WORDS else 0, dtype)
    unit = "ns" if type_ == TIME else None
    return Column(type_, values, np.zeros(rows, bool), unit=unit)


def without_negative_zero(column: Column) -> Column:
    """-0.0 becomes 0.0: the two are equal and must have equal bits."""
    if column.type != FLOAT64 or not np.signbit(column.values[column.values == 0.0]).any():
        return column
    return Column(FLOAT64, column.values + 0.0, column.valid, arrived=column.arrived)


def _integers(column: Column) -> Column:
    values = column.values
    fits = column.mask() & np.isfinite(values) & (np.abs(values) < 2.0**63)
    whole_numbers = np.where(fits, values, 0.0)
    fits &= np.floor(whole_numbers) == whole_numbers
    made: I8 = np.where(fits, whole_numbers, 0.0).astype(np.int64)
    return Column(INT64, made, None if fits.all() else fits)


def _of_words(column: Column, wanted: str) -> Column:
    """Each distinct text is read once."""
    found = [_read(word, wanted) for word in column.words]
    dtype = {INT64: np.int64, FLOAT64: np.float64, BOOL: np.bool_}[wanted]
    # One place more: the code of a null is -1.
    cells: NDArray[Any] = np.array([*(0 if f is None else f for f in found), 0], dtype)
    fits = np.array([*(f is not None for f in found), False], bool)[column.values]
    return Column(wanted, cells[column.values], None if fits.all() else fits)


def _read(word: str, wanted: str) -> int | float | bool | None:
    if wanted == BOOL:
        return {"true": True, "false": False}.get(word.strip().lower())
    if wanted == FLOAT64 and word.strip() in IEEE:
        return float(IEEE[word.strip()])
    if NUMBER.fullmatch(word) is None:
        # Python writes its own names of these three.
        known = wanted == FLOAT64 and word in ("nan", "inf", "-inf")
        return float(word) if known else None
    return float(word) if wanted == FLOAT64 else whole(word)


def _shown(cell: object) -> str:
    return repr(cell) if isinstance(cell, float) else str(cell)
