"""The four ways into conformance, as the vectors try them: table, pandas, Arrow, columns.

Decides: which rows can go through which way, and what is read from what comes out. Must not know:
what a vector expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from seamline.schemas.columns import SOURCES, WS_CLOSED, BarColumns
from seamline.schemas.errors import SeamlineError
from seamline.sdk.conforming import Settings, conform
from seamline.streams.kernel.bar_table import of_bar_columns
from seamline.streams.kernel.conformance import ConformancePipeline
from seamline.streams.kernel.conformance_options import options
from seamline.streams.kernel.conformance_progress import Stage
from seamline.streams.kernel.conformance_report import ConformanceReport
from seamline.streams.kernel.instants import instants, ns_of_text
from seamline.streams.kernel.table import (
    BOOL,
    DECIMAL,
    FLOAT64,
    INT64,
    OTHER,
    TEXT,
    WORDS,
    Column,
    Table,
)

pa: Any = pyarrow
PRICES = ("open", "high", "low", "close")
ROLES = ("ts", "symbol", "authority")


@dataclass(frozen=True)
class Seen:
    """What came out of one door, in plain values: NaN as the text NaN, times in ns."""

    rows: list[dict[str, Any]]
    log: list[dict[str, Any]]
    report: ConformanceReport
    types: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One call of the pipeline."""

    table: Table
    kind: str
    settings: Settings
    partial_ok: bool
    stages: Sequence[Stage] | None


Door = Callable[[Run], Seen]


def of_table(run: Run) -> Seen:
    chosen = options(kind=run.kind, **run.settings)
    pipeline = ConformancePipeline(chosen, stages=run.stages)
    outcome = pipeline.run(run.table, partial_ok=run.partial_ok)
    log = outcome.log()
    return Seen(
        _rows({n: c.cells() for n, c in outcome.table.columns.items()}, outcome.revision),
        _rows({n: c.cells() for n, c in log.columns.items()}, outcome.report.log_revision),
        outcome.report,
        {name: column.type for name, column in outcome.table.columns.items()},
    )


def of_pandas(run: Run) -> Seen:
    data = {n: _pandas(c, n, run.settings) for n, c in run.table.columns.items()}
    frame = pd.DataFrame(data, index=pd.RangeIndex(run.table.rows))
    before = frame.copy(deep=True)
    made = conform(
        *(frame,), kind=run.kind, partial_ok=run.partial_ok, stages=run.stages, **run.settings
    )
    pd.testing.assert_frame_equal(frame, before)
    return Seen(
        _rows(_cells_of_pandas(made.frame), made.revision),
        _rows(_cells_of_pandas(made.log()), made.report.log_revision),
        made.report,
        _types(made.frame, lambda frame, n: str(frame[n].dtype)),
    )


def of_arrow(run: Run) -> Seen:
    columns = {n: _arrow(c, n, run.settings) for n, c in run.table.columns.items()}
    made = conform(
        pa.table(columns),
        kind=run.kind,
        partial_ok=run.partial_ok,
        stages=run.stages,
        **run.settings,
    )
    return Seen(
        _rows(_cells_of_arrow(made.frame), made.revision),
        _rows(_cells_of_arrow(made.log()), made.report.log_revision),
        made.report,
        _types(made.frame, lambda frame, n: str(frame[n].type)),
    )


def of_columns(run: Run) -> Seen:
    """Plain bars only: see `fits_columns`."""
    table, rows = run.table, run.table.rows
    none = np.full(rows, -1, np.int64)
    source = np.full(rows, WS_CLOSED, np.uint8)
    if "authority" in table:
        source[:] = [SOURCES.index(str(cell)) for cell in table["authority"].cells()]
    bars = BarColumns(
        open_time_ns=instants(table["ts"], run.settings.get("ts_unit")).time_ns,
        **{name: table[name].values for name in (*PRICES, "volume")},
        quote_volume=np.full(rows, np.nan),
        trades=none,
        first_trade_id=none,
        last_trade_id=none,
        source=source,
        closed=np.ones(rows, bool),
        received_time_ns=np.zeros(rows, np.int64),
    )
    names = ["-"] * rows if "symbol" not in table else [str(c) for c in table["symbol"].cells()]
    known = list(dict.fromkeys(names))
    sid = np.array([known.index(name) for name in names], np.int32)
    window = options(kind=run.kind, **run.settings).window_ns
    made = of_table(
        replace(
            run,
            table=of_bar_columns(known, sid, bars),
            settings={**run.settings, "ts_unit": "ns", "window": window},
        )
    )
    hidden = {"quote_volume", "trades", "first_trade_id", "last_trade_id"}
    hidden |= {name for name in ROLES if name not in table}

    def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in hidden} for row in rows]

    types = {name: type_ for name, type_ in made.types.items() if name not in hidden}
    return Seen(shown(made.rows), shown(made.log), made.report, types)


def fits_columns(run: Run) -> bool:
    """Whether the rows are landing bars: OHLCV as floats without null, times that are times."""
    table = run.table
    prices = {*PRICES, "volume"}
    if run.kind != "bars" or run.settings.get("schema") is not None or not table.rows:
        return False
    if not prices | {"ts"} <= table.columns.keys() <= prices | set(ROLES):
        return False
    if run.settings.get("ts_unit") not in ("s", "ms", "us", "ns"):
        return False
    whole = all(c.valid is None for c in table.columns.values())
    floats = all(table[name].type == FLOAT64 for name in prices)
    if not whole or not floats or table["ts"].type not in (INT64, FLOAT64):
        return False
    known = "authority" not in table or all(c in SOURCES for c in table["authority"].cells())
    return known and bool(instants(table["ts"], run.settings.get("ts_unit")).valid.all())


def doors(run: Run) -> Iterator[tuple[str, Door]]:
    yield "table", of_table
    yield "pandas", of_pandas
    yield "arrow", of_arrow
    if fits_columns(run):
        yield "columns", of_columns


def attempt(door: Door, run: Run) -> Seen | SeamlineError:
    try:
        return door(run)
    except SeamlineError as error:
        return error


def _rows(cells: Mapping[str, Sequence[Any]], revision: Any) -> list[dict[str, Any]]:
    plain = {name: [_plain(cell) for cell in column] for name, column in cells.items()}
    return [
        {**{name: plain[name][i] for name in plain}, "revision": int(revision[i])}
        for i in range(len(revision))
    ]


def _plain(cell: Any) -> Any:
    if cell is None or cell is pd.NaT:
        return None
    if isinstance(cell, datetime):
        return ns_of_text(cell.isoformat())
    return "NaN" if isinstance(cell, float) and math.isnan(cell) else cell


def _types(frame: Any, read: Callable[[Any, str], str]) -> dict[str, str]:
    """Objects have no type of their own, so texts are what is not one of the others."""
    known = {
        **dict.fromkeys(("int64", "Int64", "datetime64[ns, UTC]", "timestamp[ns, tz=UTC]"), INT64),
        **dict.fromkeys(("float64", "Float64", "double"), FLOAT64),
        **dict.fromkeys(("bool", "boolean"), BOOL),
    }
    names = frame.columns if isinstance(frame, pd.DataFrame) else frame.column_names
    return {name: known.get(read(frame, name), TEXT) for name in names}


# --- into frames and out of them


def _datetimes(column: Column) -> list[datetime | None] | None:
    """Texts as datetimes, where all are and all or none have an offset."""
    try:
        found = [None if c is None else datetime.fromisoformat(str(c)) for c in column.cells()]
    except ValueError:
        return None
    aware = {each.tzinfo is not None for each in found if each is not None}
    return found if len(aware) == 1 else None


def _as_datetimes(column: Column, name: str, settings: Settings) -> list[datetime | None] | None:
    wanted = name == "ts" and settings.get("ts_unit") == "datetime" and column.type == TEXT
    return _datetimes(column) if wanted else None


def _pandas(column: Column, name: str, settings: Settings) -> Any:
    times = _as_datetimes(column, name, settings)
    if times is not None:
        offsets = {each.utcoffset() for each in times if each is not None}
        return pd.Series(times, dtype="object" if len(offsets) > 1 else None)
    if column.type == DECIMAL:
        cells = [None if c is None else Decimal(str(c)) for c in column.cells()]
        return pd.Series(cells, dtype="object")
    if column.type in WORDS or column.type == OTHER:
        return pd.Series(column.cells(), dtype="object")
    if column.valid is None:
        return pd.Series(column.values)
    array: Any = {
        INT64: pd.arrays.IntegerArray,
        FLOAT64: pd.arrays.FloatingArray,
        BOOL: pd.arrays.BooleanArray,
    }[column.type]
    return pd.Series(array(column.values.copy(), ~column.valid))


def _arrow(column: Column, name: str, settings: Settings) -> Any:
    times = _as_datetimes(column, name, settings)
    if times is not None:
        aware = any(each is not None and each.tzinfo is not None for each in times)
        made = [each if each is None or not aware else each.astimezone(UTC) for each in times]
        return pa.array(made, pa.timestamp("us", tz="UTC" if aware else None))
    if column.type in WORDS:
        if column.type != TEXT:
            return pa.array(column.cells(), pa.string()).cast(pa.decimal256(76, 20))
        return pa.array(column.cells(), pa.string())
    if column.type == OTHER:
        return pa.nulls(len(column))
    mask = None if column.valid is None else ~column.valid
    return pa.array(column.values, mask=mask)


def _cells_of_pandas(frame: Any) -> dict[str, list[Any]]:
    return _cells_of_arrow(
        pa.table({name: pa.array(frame[name].array, from_pandas=False) for name in frame.columns})
    )


def _cells_of_arrow(table: Any) -> dict[str, list[Any]]:
    def cells(column: Any) -> list[Any]:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64())
        found: list[Any] = column.to_pylist()
        return found

    return {name: cells(table[name]) for name in table.column_names}
