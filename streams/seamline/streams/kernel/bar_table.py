"""The agent's columns as a table of the conformance pipeline.

Decides: which column of landing bars is which column of a table. Invariants: no value is copied or
looked at one by one; null markers of the columns become masks; a preview (an open bar) is no row,
as in the agent. Must not know: rules, frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seamline.schemas.columns import (
    I4,
    NULL_INT,
    OPTIONAL_FIELDS,
    PRICE_FIELDS,
    SOURCES,
    BarColumns,
)
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.table import FLOAT64, INT64, TEXT, Column, Table


def of_bar_columns(symbols: Sequence[str], sid: I4, bars: BarColumns) -> Table:
    """Landing bars as a table with the columns ts (int64 ns), symbol, authority, OHLCV and the
    optional fields.

    `symbols`: distinct names; `sid`: (rows,) index into them, as `BarDecoder` gives both. Rows that
    are not closed are left out. Raises UsageError where `sid` does not fit.
    """
    if sid.shape != (len(bars),) or (len(sid) and not 0 <= sid.min() <= sid.max() < len(symbols)):
        raise UsageError(
            "not one index into the symbols for each bar",
            parameter="sid",
            value=sid.shape,
            fix="Leave out the rows whose symbol is not known",
        )
    if not bars.closed.all():
        sid, bars = sid[bars.closed], bars.take(bars.closed)
    # A source that has no name is outside the enumeration, and said to be.
    source = np.minimum(bars.source, len(SOURCES)).astype(np.int32)
    columns = {
        "ts": Column(INT64, bars.open_time_ns, unit="ns"),
        "symbol": Column(TEXT, sid.astype(np.int32, copy=False), words=tuple(symbols)),
        "authority": Column(TEXT, source, words=(*SOURCES, "unknown")),
    }
    for name in PRICE_FIELDS:
        columns[name] = Column(FLOAT64, getattr(bars, name))
    for name in OPTIONAL_FIELDS:
        values = getattr(bars, name)
        integers = values.dtype == np.int64
        valid = values != NULL_INT if integers else ~np.isnan(values)
        columns[name] = Column(INT64 if integers else FLOAT64, values, valid)
    return Table(columns, len(bars))
