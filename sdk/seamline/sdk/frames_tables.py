"""pandas DataFrames and Arrow tables as tables of the kernel, and back.

Decides: what a column type of a frame means. Invariants: null and NaN stay apart where the frame
can tell them apart (a plain float64 of pandas cannot: its NaN is a NaN); integers stay exact;
datetimes keep their instant, without an offset they are UTC, never the zone of the host; a column
that nothing changed comes back as it was, with its type. Must not know: rules, findings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow

from seamline.schemas.columns import I8, Bool
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.table import (
    BOOL,
    FLOAT64,
    INT64,
    NUMBERS,
    OTHER,
    TEXT,
    TIME,
    WORDS,
    Column,
    Table,
    words_column,
)

# The stubs of Arrow name only a part of it.
pa: Any = pyarrow

PANDAS: Final = "pandas"
ARROW: Final = "arrow"
_I64_MAX: Final = 2**63 - 1


def family_of(frame: object) -> str:
    """`pandas` or `arrow`. Raises UsageError for what is neither."""
    if isinstance(frame, pd.DataFrame):
        return PANDAS
    if isinstance(frame, pa.Table):
        return ARROW
    raise UsageError(
        f"a {type(frame).__name__}, neither a pandas DataFrame nor a pyarrow Table",
        parameter="frame",
        value=type(frame).__name__,
        fix="Convert it with its own to_pandas() or to_arrow()",
    )


def with_columns_of_index(frame: Any, names: Sequence[str]) -> Any:
    """A DataFrame whose index levels of these names are columns; everything else as it is.

    Raises UsageError where a level has the name of a column or of another level.
    """
    if family_of(frame) != PANDAS or not any(name in names for name in frame.index.names):
        return frame
    levels = [name for name in frame.index.names if name is not None]
    twice = sorted({str(n) for n in levels if n in frame.columns or levels.count(n) > 1})
    if twice:
        raise UsageError(
            "a level of the index and a column, or two levels, of one name",
            parameter="frame",
            value=twice,
            fix="Drop one of them: frame.reset_index(drop=True)",
        )
    return frame.reset_index()


def table_of(frame: Any) -> Table:
    """A frame as a table. Raises UsageError for columns without distinct text names."""
    names = list(frame.columns) if family_of(frame) == PANDAS else frame.column_names
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            "columns without distinct text names",
            parameter="frame",
            value=names,
            fix="Rename the columns",
        )
    if family_of(frame) == PANDAS:
        return Table({name: _of_series(frame[name]) for name in names}, len(frame))
    return Table({name: _of_arrow(frame[name]) for name in names}, frame.num_rows)


def frame_of(frame: Any, source: Table, made: Table, rows: I8, times: str) -> Any:
    """The table `made`, whose rows are `rows` of `source`, in the family of `frame`, which `source`
    was made of. `times`: the column of times; numbers come back as int64 ns, texts and datetimes as
    datetimes in UTC."""
    of_pandas = family_of(frame) == PANDAS
    untouched = frame.take(rows).reset_index(drop=True) if of_pandas else _taken(frame, rows)
    columns: dict[str, Any] = {}
    for name, column in made.columns.items():
        given = source[name]
        if _is_same(given.take(rows), column):
            columns[name] = untouched[name]
            continue
        shown = column
        if name == times and given.type not in NUMBERS:
            shown = Column(TIME, column.values, column.valid, unit="ns")
        columns[name] = _series(shown) if of_pandas else _arrow(shown)
    if of_pandas:
        return pd.DataFrame(columns, index=pd.RangeIndex(made.rows))
    return pa.table(columns) if columns else untouched


def _taken(table: Any, rows: I8) -> Any:
    """The rows of an Arrow table. Views are taken as plain texts: Arrow takes no rows of a view."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        plain = pa.large_string() if pa.types.is_string_view(column.type) else None
        try:
            taken = (column if plain is None else column.cast(plain)).take(rows)
            columns[name] = taken if plain is None else taken.cast(column.type)
        except pa.ArrowNotImplementedError as fault:
            raise UsageError(
                f"Arrow takes no rows of a column of {column.type}",
                parameter=name,
                value=str(column.type),
                fix="Cast the column to a plain type",
            ) from fault
    return pa.table(columns) if columns else table.take(rows)


def _is_same(given: Column, made: Column) -> bool:
    """Bit for bit, so that -0.0 is not 0.0."""
    if (given.type, given.words, given.arrived) != (made.type, made.words, made.arrived):
        return False
    if given.unit != made.unit or not np.array_equal(given.mask(), made.mask()):
        return False
    return given.values.tobytes() == made.values.tobytes()


# --- in


def _of_series(series: Any) -> Column:
    dtype = series.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _of_numpy(series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), str(dtype))
    if not isinstance(dtype, np.dtype):
        try:
            return _of_arrow(pa.array(series.array))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError):
            return _other(series.notna().to_numpy())
    if dtype.kind == "O":
        return _of_objects(series.tolist())
    return _of_numpy(series.to_numpy(), str(dtype))


def _of_numpy(values: Any, name: str) -> Column:
    kind = values.dtype.kind
    if kind == "b":
        return Column(BOOL, values)
    if kind == "i":
        return Column(INT64, values.astype(np.int64, copy=False), arrived=_other_than(INT64, name))
    if kind == "u":
        return _of_unsigned(values, None, name)
    if kind == "f" and values.dtype.itemsize <= 8:
        made = values.astype(np.float64, copy=False)
        return Column(FLOAT64, made, arrived=_other_than(FLOAT64, name))
    if kind == "M":
        unit, step = np.datetime_data(values.dtype)
        if unit in ("s", "ms", "us", "ns", "D") and step == 1:
            valid = ~np.isnat(values)
            mask = None if valid.all() else valid
            return Column(TIME, values.view(np.int64), mask, unit=unit, arrived=name)
    return _other(~pd.isna(values))


def _of_unsigned(values: Any, valid: Bool | None, name: str) -> Column:
    if len(values) and int(values.max()) > _I64_MAX:
        cells = [str(v) for v in values.tolist()]
        if valid is not None:
            cells = [c if ok else None for c, ok in zip(cells, valid.tolist(), strict=True)]  # type: ignore[misc]
        return words_column(cells, exact=True)
    return Column(INT64, values.astype(np.int64), valid, arrived=name)


def _of_objects(cells: list[Any]) -> Column:
    """Python objects; beside texts a NaN is a missing text, as pandas means it."""
    texts = any(isinstance(cell, str) for cell in cells)

    def is_null(cell: Any) -> bool:
        return (
            cell is None
            or cell is pd.NA
            or cell is pd.NaT
            or (texts and isinstance(cell, float) and math.isnan(cell))
        )

    made = Column.of([None if is_null(cell) else cell for cell in cells])
    if made.type == TEXT and not all(isinstance(cell, str) or is_null(cell) for cell in cells):
        return replace(made, arrived="object")  # what was no text is converted, and said to be
    return made


def _of_arrow(array: Any) -> Column:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a type that cannot be put together, or no chunk
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    type_, name = array.type, str(array.type)
    valid = np.asarray(array.is_valid()) if array.null_count else None
    is_ = pa.types
    if is_.is_dictionary(type_):
        return _of_arrow(array.dictionary_decode())
    if is_.is_boolean(type_):
        return Column(BOOL, np.asarray(array.fill_null(False)), valid)
    if is_.is_unsigned_integer(type_):
        return _of_unsigned(np.asarray(array.fill_null(0)), valid, name)
    if is_.is_integer(type_):
        values = np.asarray(array.fill_null(0)).astype(np.int64, copy=False)
        return Column(INT64, values, valid, arrived=_other_than(INT64, name))
    if is_.is_floating(type_):
        values = np.asarray(array.cast(pa.float64()).fill_null(0.0))
        return Column(FLOAT64, values, valid, arrived=_other_than("double", name))
    if is_.is_timestamp(type_) or is_.is_date(type_):
        unit = type_.unit if is_.is_timestamp(type_) else "D" if is_.is_date32(type_) else "ms"
        whole = array.cast(pa.int32()) if is_.is_date32(type_) else array
        values = np.asarray(whole.cast(pa.int64()).fill_null(0))
        return Column(TIME, values, valid, unit=unit, arrived=name)
    if is_.is_decimal(type_):
        return words_column(array.cast(pa.string()).to_pylist(), exact=True)
    if is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_):
        encoded = array.cast(pa.large_string()).dictionary_encode()
        codes = np.asarray(encoded.indices.fill_null(-1)).astype(np.int32, copy=False)
        return Column(TEXT, codes, valid, tuple(encoded.dictionary.to_pylist()))
    return _other(np.ones(len(array), bool) if valid is None else valid)


def _other(valid: Bool) -> Column:
    return Column(OTHER, np.arange(len(valid)), None if valid.all() else valid)


def _other_than(usual: str, name: str) -> str:
    return "" if name == usual else name


# --- out


def _series(column: Column) -> Any:
    values, mask = column.values, ~column.mask()
    if column.type == TIME:
        times = np.where(mask, np.iinfo(np.int64).min, values).view("datetime64[ns]")
        return pd.Series(pd.DatetimeIndex(times, tz="UTC"))
    if column.type in WORDS:
        return pd.Series(_words(column), dtype="str")
    if not mask.any():
        return pd.Series(values)
    masked: Mapping[str, Callable[[Any, Any], Any]] = {
        FLOAT64: pd.arrays.FloatingArray,
        INT64: pd.arrays.IntegerArray,
        BOOL: pd.arrays.BooleanArray,
    }
    return pd.Series(masked[column.type](values, mask))


def _arrow(column: Column) -> Any:
    mask = None if column.valid is None else ~column.valid
    if column.type == TIME:
        return pa.array(column.values, pa.int64(), mask=mask).cast(pa.timestamp("ns", tz="UTC"))
    if column.type in WORDS:
        return pa.array(_words(column), pa.string())
    return pa.array(column.values, mask=mask)


def _words(column: Column) -> list[str | None]:
    # One place more: the code of a null is -1.
    words = np.array([*column.words, None], object)
    found: list[str | None] = words[np.where(column.mask(), column.values, -1)].tolist()
    return found
