"""Bars that a person hands over become landing columns, or are refused with the cell at fault.

Decides: which shapes are bars (rows, columns, a frame, columns of a stream) and which Python values
are a price, a count, a time. Invariants: nothing is guessed, rounded or dropped: a text is no
number, an integer that float64 cannot hold is no price, a time without a zone is no time, a field
that nobody knows is no field; every refusal names the row, the field, the value and the fix. A
price may be NaN or infinite here: that is a value rule, judged with the others. Must not know:
value rules, schemas, Kafka.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import (
    CONTENT_FIELDS,
    F8,
    I8,
    NULL_FLOAT,
    NULL_INT,
    OPTIONAL_FIELDS,
    SOURCES,
    WS_OPEN,
    BarColumns,
    ConformedColumns,
)
from seamline.schemas.errors import UsageError
from seamline.schemas.times import INT64_MAX, NS_PER_MS, parse_time
from seamline.streams.kernel.table import DECIMAL, FLOAT64, OTHER, TIME, Column

BARS_MAX: Final = 1_000_000
# Each under one of two names: with a unit in it (UTC nanoseconds, int), or a time with a zone.
TIMES: Final = ("open_time", "received_time")
COUNTS: Final = ("trades", "first_trade_id", "last_trade_id")
FIELDS: Final = (
    *("symbol", "open_time", "open_time_ns"),
    *CONTENT_FIELDS,
    *("received_time", "received_time_ns"),
)
_NS_OF: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1, "D": 86_400_000_000_000}
_FLOAT_EXACT: Final = 2**53

Cells = Sequence[object] | Column


def columns_of(symbol: str, bars: object, *, source: int, now_ns: int) -> BarColumns:
    """The bars of one symbol as landing columns in the order given; `source` indexes SOURCES.

    `bars`: a sequence of mappings, a mapping of columns, a pandas DataFrame, a pyarrow Table, or
    columns of a stream's history. Without a received time it is `now_ns`. Raises UsageError.
    """
    ours = isinstance(bars, BarColumns | ConformedColumns)
    given, rows = ({}, len(bars)) if ours else _given(bars)  # type: ignore[arg-type]
    if rows > BARS_MAX:
        fix = f"Hand over at most {BARS_MAX:,} at once"
        raise UsageError("too many bars in one call", parameter="bars", value=rows, fix=fix)
    columns = BarColumns.empty(rows)
    columns.source[:] = source
    columns.closed[:] = source != WS_OPEN
    columns.received_time_ns[:] = now_ns
    if isinstance(bars, BarColumns | ConformedColumns):
        for name in ("open_time_ns", *CONTENT_FIELDS):
            getattr(columns, name)[:] = getattr(bars, name)
    elif rows:
        _fill(columns, symbol, given, now_ns)
    _check_wire(columns.open_time_ns)
    return columns


def _fill(columns: BarColumns, symbol: str, given: Mapping[str, Cells], now_ns: int) -> None:
    _check_names(given)
    if "symbol" in given:
        _check_symbols(symbol, given["symbol"])
    open_time_ns = _times(given, "open_time", now_ns)
    if open_time_ns is None:
        raise _bars_lack("open_time")
    columns.open_time_ns[:] = open_time_ns
    received_ns = _times(given, "received_time", now_ns)
    if received_ns is not None:
        columns.received_time_ns[:] = received_ns
    for name in CONTENT_FIELDS:
        getattr(columns, name)[:] = _content(given, name)


def source_of(name: str) -> int:
    """The index of a source. Raises UsageError."""
    if name not in SOURCES:
        raise UsageError(
            "no such source", parameter="source", value=name, fix=f"One of {', '.join(SOURCES)}"
        )
    return SOURCES.index(name)


def _given(bars: object) -> tuple[dict[str, Any], int]:
    """Columns by name, and how many rows."""
    if isinstance(bars, Mapping):
        columns = {str(name): _listed(str(name), column) for name, column in bars.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(
                "columns of different lengths",
                parameter="bars",
                value=lengths,
                fix="Give every column one cell for each bar",
            )
        return columns, next(iter(lengths.values()), 0)
    if isinstance(bars, Sequence) and not isinstance(bars, str | bytes):
        return _of_rows(bars), len(bars)
    if type(bars).__module__.partition(".")[0] in ("pandas", "pyarrow"):
        return _of_frame(bars)
    raise UsageError(
        f"a {type(bars).__name__} is no bars",
        parameter="bars",
        value=bars,
        fix="Give a list of mappings, a mapping of columns, a DataFrame or an Arrow table",
    )


def _of_rows(bars: Sequence[object]) -> dict[str, Any]:
    names: dict[str, None] = {}
    for at, bar in enumerate(bars):
        if not isinstance(bar, Mapping):
            raise UsageError(
                f"a {type(bar).__name__} is no bar",
                parameter=f"bars[{at}]",
                value=bar,
                fix="Give a mapping with open_time, open, high, low, close, volume",
            )
        names.update(dict.fromkeys(map(str, bar)))
    rows: Sequence[Any] = bars
    return {name: [bar.get(name) for bar in rows] for name in names}


def _of_frame(frame: Any) -> tuple[dict[str, Any], int]:
    # Here and not above: who sends rows does not pay for pandas and Arrow.
    from seamline.sdk.frames_tables import table_of, with_columns_of_index

    table = table_of(with_columns_of_index(frame, FIELDS))
    return dict(table.columns), table.rows


def _listed(name: str, column: object) -> Sequence[object]:
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return column.tolist()  # type: ignore[no-any-return]
    if isinstance(column, Sequence) and not isinstance(column, str | bytes):
        return column
    # A Series, an Arrow array and the like know their list.
    for call in ("tolist", "to_pylist"):
        made = getattr(column, call, None)
        listed = made() if callable(made) else None
        if isinstance(listed, list):
            return listed
    raise UsageError(
        f"a {type(column).__name__} is no column",
        parameter=f"bars[{name!r}]",
        value=column,
        fix="Give a list or a one-dimensional array",
    )


def _check_names(given: Mapping[str, object]) -> None:
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        raise UsageError(
            "no field of a bar",
            parameter="bars",
            value=unknown[0],
            fix=f"Leave it out; a bar has {', '.join(FIELDS)}",
            unknown=unknown,
        )
    for name in TIMES:
        if name in given and f"{name}_ns" in given:
            raise UsageError(
                "said twice", parameter=name, value=f"{name}_ns", fix="Give one of the two"
            )


def _check_symbols(symbol: str, cells: Cells) -> None:
    for at, cell in enumerate(_plain(cells)):
        if cell is not None and cell != symbol:
            raise _cell(at, "symbol", cell, f"not {symbol!r}", "Send each symbol by itself")


def _check_wire(times_ns: I8) -> None:
    off = times_ns % NS_PER_MS != 0
    if off.any():
        at = int(off.argmax())
        fix = "Give the open time of the bar in whole milliseconds"
        raise _cell(at, "open_time", int(times_ns[at]), "between two milliseconds (ns)", fix)


def _content(given: Mapping[str, Cells], name: str) -> Any:
    optional = name in OPTIONAL_FIELDS
    if name not in given:
        if not optional:
            raise _bars_lack(name)
        return NULL_INT if name in COUNTS else NULL_FLOAT
    cells = given[name]
    if name in COUNTS:
        return _counts(name, cells)
    return _prices(name, cells, optional=optional)


def _prices(name: str, cells: Cells, *, optional: bool) -> F8:
    if isinstance(cells, Column) and cells.type == FLOAT64 and (optional or cells.valid is None):
        return np.where(cells.mask(), cells.values, NULL_FLOAT)
    return _each(name, cells, lambda cell: _price(cell, optional=optional), np.float64)


def _price(cell: object, *, optional: bool) -> float | str:
    """The value, or what is wrong with it."""
    if cell is None:
        return NULL_FLOAT if optional else "missing"
    if isinstance(cell, bool | np.bool_):
        return "a truth value, not a number"
    if isinstance(cell, float | np.floating):
        return float(cell)
    if isinstance(cell, int | np.integer):
        if abs(int(cell)) > _FLOAT_EXACT and (
            abs(int(cell)) > INT64_MAX or int(float(cell)) != int(cell)
        ):
            return "a whole number that a float64 cannot hold exactly"
        return float(cell)
    if isinstance(cell, Decimal) and not cell.is_snan():
        return float(cell)
    return f"a {type(cell).__name__}, not a number"


def _counts(name: str, cells: Cells) -> I8:
    return _each(name, cells, _count, np.int64)


def _count(cell: object) -> int | str:
    if cell is None:
        return NULL_INT
    if isinstance(cell, float | np.floating):  # a frame says an integer's null so
        if math.isnan(cell):
            return NULL_INT
        cell = int(cell) if math.isfinite(cell) and cell == int(cell) else cell
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | np.integer):
        return f"a {type(cell).__name__}, not a whole number"
    if not 0 <= int(cell) <= INT64_MAX:
        return "outside 0 to int64's end"
    return int(cell)


def _times(given: Mapping[str, Cells], name: str, now_ns: int) -> I8 | None:
    if f"{name}_ns" in given:
        return _each(f"{name}_ns", given[f"{name}_ns"], _nanoseconds, np.int64)
    if name not in given:
        return None
    cells = given[name]
    if isinstance(cells, Column) and cells.type == TIME:
        return _of_time_column(name, cells)

    def parse(cell: object) -> int | str:
        if cell is None:
            return "missing"
        try:
            return parse_time(cell, now_ns=now_ns, parameter=name)
        except UsageError as error:
            return error.message

    return _each(name, cells, parse, np.int64)


def _nanoseconds(cell: object) -> int | str:
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, int | np.integer):
        return "not a whole number of UTC nanoseconds"
    if not -INT64_MAX <= int(cell) <= INT64_MAX:
        return "outside int64 nanoseconds (years 1678 to 2262)"
    return int(cell)


def _of_time_column(name: str, column: Column) -> I8:
    if "," not in column.arrived:  # datetime64[ns, UTC], timestamp[us, tz=UTC]
        raise UsageError(
            f"a column of naive times ({column.shown}), their zone is unknown",
            parameter=f"bars[{name!r}]",
            value=column.shown,
            fix="Give the zone: column.dt.tz_localize('UTC')",
        )
    if column.valid is not None and not column.valid.all():
        raise _cell(int((~column.valid).argmax()), name, None, "missing", "Drop the row")
    step = _NS_OF[column.unit or "ns"]
    beyond = np.abs(column.values) > INT64_MAX // step
    if beyond.any():
        at = int(beyond.argmax())
        raise _cell(at, name, int(column.values[at]), "outside int64 nanoseconds", _FIX_TIME)
    return column.values.astype(np.int64) * step


def _each(name: str, cells: Cells, judge: Callable[[object], Any], dtype: Any) -> NDArray[Any]:
    """Every cell as `judge` reads it; its text is what is wrong with the first that is refused."""
    made = [judge(cell) for cell in _plain(cells)]
    for at, value in enumerate(made):
        if isinstance(value, str):
            raise _cell(at, name, _plain(cells)[at], value, _fix(name))
    return np.array(made, dtype)


def _plain(cells: Cells) -> Sequence[object]:
    if not isinstance(cells, Column):
        return cells
    if cells.type == OTHER and cells.mask().any():
        return [cells.shown] * len(cells)
    if cells.type == DECIMAL:
        return [None if cell is None else Decimal(str(cell)) for cell in cells.cells()]
    return cells.cells()


def _fix(name: str) -> str:
    if name.endswith("_ns"):
        return "Give an int, UTC nanoseconds"
    if name in TIMES:
        return _FIX_TIME
    if name in COUNTS:
        return "Give an int of 0 or more, or None where it is not known"
    return "Give a float, an int or a Decimal"


_FIX_TIME: Final = "Give an aware datetime or an ISO text with a zone; numbers: open_time_ns"


def _bars_lack(name: str) -> UsageError:
    return UsageError(
        "no bar says it", parameter="bars", value=name, fix=f"Give every bar its {name}"
    )


def _cell(at: int, name: str, value: object, what: str, fix: str) -> UsageError:
    return UsageError(what, parameter=f"bars[{at}].{name}", value=value, fix=fix, row=at)
