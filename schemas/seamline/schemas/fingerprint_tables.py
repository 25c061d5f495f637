"""The fingerprint of any table: columns by name, each of a stated type.

Decides: when two tables are the same data. Invariants: types are content (an int64 column is not a
float64 column of the same values); null is unlike NaN and unlike any value; there is one NaN and
one zero; neither the order of the rows nor that of the columns matters, and equal times have a
total order; int64 is exact. Must not know: what the columns mean, frames.

Canonical bytes are in the one form of `fingerprint`: a tag that names the columns and their types
in the order in which they follow, a key (here empty), the number of rows, the columns one after the
other in the order of the rows, then one byte a row where a value can be null. Bars keep the tag of
their block, in which the columns are fixed and only three can be null: their digest is on the wire.
A table that holds bars is other data than bars: it has no symbol of its own, and NaN is no null.

Columns: those that `by` names, then the rest in the order of their names (UTF-8). Rows are sorted
by all columns in this order: null before values, NaN behind all numbers, text by its UTF-8. In the
tag a name that is not letters, digits and underscores is a JSON text in ASCII. int64 and float64
are little-endian, a bool is one byte, a text column is the lengths (u32) and then the UTF-8 of all
rows; where a row is null its value is 0, false or empty. Every column has its null bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import Bool
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import begin_digest

TYPES: Final[Mapping[str, str]] = {
    "int64": "<i8",
    "float64": "<f8",
    "bool": "?",
    "text": "utf8",
}
_TAG: Final = "seamline.table.1;"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True, eq=False)
class TableColumn:
    """One column. `values` is an array of the type's dtype, or a sequence of str for `text` (what
    stands where `null` is true is not looked at); no `null`: no row is null."""

    type: str
    values: NDArray[Any] | Sequence[str | None]
    null: Bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Canonical:
    """Values with one zero, one NaN and 0 where null; `key` sorts as the values do."""

    key: NDArray[Any]
    values: NDArray[Any]
    null: Bool


def table_digest(columns: Mapping[str, TableColumn], by: Sequence[str] = ()) -> bytes:
    """32 bytes over the content of a table.

    `by` names the columns that are compared first, say the time; it is part of the form, so only
    digests with the same `by` can be equal. A table whose rows are in that order and differ in
    these columns is not sorted again. Raises UsageError for a type, a length or a name in `by`
    that does not fit, ContractError for values that are not of the stated type.
    """
    names = _ordered(columns, by)
    rows = _rows(columns)
    canonical = {name: _canonical(name, columns[name], rows) for name in names}
    tag = _TAG + "".join(f"{_in_tag(name)}:{TYPES[columns[name].type]};" for name in names)
    tag += "".join(f"{_in_tag(name)}:null;" for name in names)
    order = _order([canonical[name] for name in names], rows)
    sha = begin_digest(tag.encode(), b"", rows)
    for name in names:
        values = canonical[name].values
        values = values if order is None else values[order]
        if columns[name].type == "text":
            texts = values.tolist()
            sha.update(np.fromiter(map(len, texts), "<u4", rows).tobytes() + b"".join(texts))
        else:
            sha.update(values.tobytes())
    for name in names:
        null = canonical[name].null
        sha.update((null if order is None else null[order]).tobytes())
    return sha.digest()


def _ordered(columns: Mapping[str, TableColumn], by: Sequence[str]) -> list[str]:
    for name in columns:
        if not isinstance(name, str):
            raise UsageError("not the name of a column", parameter="columns", value=name)
    for name in by:
        if name not in columns or list(by).count(name) > 1:
            raise UsageError("not a column, or twice", parameter="by", value=name)
    return [*by, *sorted(columns.keys() - set(by), key=_utf8)]


def _rows(columns: Mapping[str, TableColumn]) -> int:
    rows = {len(column.values) for column in columns.values()}
    rows |= {len(column.null) for column in columns.values() if column.null is not None}
    if len(rows) > 1:
        raise UsageError("columns of different lengths", parameter="columns", value=sorted(rows))
    return max(rows, default=0)


def _canonical(name: str, column: TableColumn, rows: int) -> _Canonical:
    null = np.zeros(rows, np.bool_) if column.null is None else np.asarray(column.null, np.bool_)
    if column.type not in TYPES:
        raise UsageError(
            "not a type of a column", parameter=name, value=column.type, fix=f"One of {[*TYPES]}"
        )
    if column.type == "text":
        return _canonical_text(name, column.values, null)
    dtype = np.dtype(TYPES[column.type])
    given = np.asarray(column.values)
    if given.dtype != dtype and rows:
        raise ContractError(f"not {column.type}", parameter=name, value=given.dtype)
    values = np.where(null, dtype.type(0), given).astype(dtype, copy=False)
    if column.type == "float64":
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            values += 0.0  # one zero
        np.copyto(values, np.nan, where=np.isnan(values))  # one NaN
    return _Canonical(values, values, null)


def _canonical_text(name: str, given: Sequence[Any] | NDArray[Any], null: Bool) -> _Canonical:
    """`key` is the rank of each text among those of the column."""
    texts = ["" if absent else text for text, absent in zip(given, null.tolist(), strict=True)]
    for text in texts:
        if not isinstance(text, str):
            raise ContractError("not text", parameter=name, value=text, fix="Mark it as null")
    encoded = {text: _utf8(text) for text in dict.fromkeys(texts)}
    rank = {text: at for at, text in enumerate(sorted(encoded, key=encoded.__getitem__))}
    values = np.empty(len(texts), object)
    values[:] = [encoded[text] for text in texts]
    return _Canonical(np.fromiter(map(rank.__getitem__, texts), "<i8", len(texts)), values, null)


def _order(columns: Sequence[_Canonical], rows: int) -> NDArray[np.intp] | None:
    """The canonical order of the rows; None when they have it: their first column tells."""
    if not columns or rows < 2:
        return None
    first = columns[0]
    if not first.null.any() and bool((first.key[1:] > first.key[:-1]).all()):
        return None
    keys: list[NDArray[Any]] = []
    for column in reversed(columns):  # the last key of lexsort is the first to compare
        keys.append(column.key)
        if column.null.any():
            keys.append(~column.null)
    return np.lexsort(keys)


def _in_tag(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ContractError("a text without UTF-8", parameter="columns", value=text) from None
