"""Bars of a stream as pandas DataFrames.

Decides: names and types of the columns of a frame. Invariants: one row for each bar, `open_time`
and `known_time` are UTC; a null is NaN in float columns and <NA> in integer columns.
Must not know: Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from seamline.schemas.columns import (
    CONTENT_FIELDS,
    NULL_INT,
    OPTIONAL_FIELDS,
    SOURCES,
    ConformedColumns,
)
from seamline.streams.kernel.seam_events import Bar, Event, LateBar, Revision


def history_frame(columns: Mapping[str, ConformedColumns]) -> pd.DataFrame:
    """`stream.history_columns()` as one frame by (open_time, symbol)."""
    parts = [_of_columns(symbol, rows) for symbol, rows in columns.items() if len(rows)]
    if not parts:
        return _of_columns("", ConformedColumns.empty(0))
    frame = pd.concat(parts, ignore_index=True)
    return frame.sort_values(["open_time", "symbol"], ignore_index=True)


def bars_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The bars of a stream, late ones included and revisions applied, by (open_time, symbol)."""
    bars: dict[tuple[int, str], Bar] = {}
    for event in events:
        bar = event.bar if isinstance(event, LateBar | Revision) else event
        if isinstance(bar, Bar):
            bars[bar.open_time_ns, bar.symbol] = bar
    rows = [bars[where] for where in sorted(bars)]
    frame = pd.DataFrame(rows, columns=list(Bar._fields))
    frame.insert(1, "open_time", _times(frame.pop("open_time_ns")))
    frame["known_time"] = _times(frame.pop("known_time_ns"))
    for name in OPTIONAL_FIELDS:
        frame[name] = frame[name].astype("float64" if name == "quote_volume" else "Int64")
    return frame


def _of_columns(symbol: str, rows: ConformedColumns) -> pd.DataFrame:
    frame = pd.DataFrame({"symbol": np.full(len(rows), symbol, object)})
    frame["open_time"] = _times(rows.open_time_ns)
    for name in CONTENT_FIELDS:
        column = getattr(rows, name)
        if column.dtype == np.int64:
            frame[name] = pd.arrays.IntegerArray(column.copy(), column == NULL_INT)
        else:
            frame[name] = column
    frame["source"] = np.array(SOURCES, object)[rows.source]
    frame["revision"] = rows.revision
    frame["flags"] = rows.flags
    frame["known_time"] = _times(rows.known_time_ns)
    return frame


def _times(times_ns: object) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(np.asarray(times_ns, "datetime64[ns]"), tz="UTC")
