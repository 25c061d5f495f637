"""Bars of a level as columns of the wire, and back.

Decides: which place of a slot's row is which column. Invariants: both ways agree; what comes back
is present and not in the log. Must not know: why a bar moves, topics, Avro.
"""

from __future__ import annotations

import numpy as np

from seamline.schemas.columns import F8, I8, PRICE_FIELDS, ConformedColumns
from seamline.schemas.preset import Preset
from seamline.streams.kernel.gap_causes import Side
from seamline.streams.kernel.level import (
    B_BLOCK,
    CELL,
    CELL_WIDTH,
    FIRST_ID,
    FLAGS,
    KNOWN,
    LAST_ID,
    OFFSET,
    ORIGIN,
    PRESENT,
    RECEIVED,
    REVISION,
    SOURCE,
    TRADES,
    VALS_WIDTH,
    Level,
)


def columns_of_rows(preset: Preset, cols: I8, vals: F8) -> ConformedColumns:
    """Rows of `cells` and `vals`, (rows, CELL_WIDTH) and (rows, VALS_WIDTH), as columns."""
    return columns_at(cols[:, CELL] * preset.interval_ns + preset.grid_origin_ns, cols, vals)


def columns_at(open_time_ns: I8, cols: I8, vals: F8) -> ConformedColumns:
    """The same with open times of their own."""
    return ConformedColumns(
        open_time_ns=open_time_ns,
        open=np.ascontiguousarray(vals[:, 0]),
        high=np.ascontiguousarray(vals[:, 1]),
        low=np.ascontiguousarray(vals[:, 2]),
        close=np.ascontiguousarray(vals[:, 3]),
        volume=np.ascontiguousarray(vals[:, 4]),
        quote_volume=np.ascontiguousarray(vals[:, 5]),
        trades=np.ascontiguousarray(cols[:, TRADES]),
        first_trade_id=np.ascontiguousarray(cols[:, FIRST_ID]),
        last_trade_id=np.ascontiguousarray(cols[:, LAST_ID]),
        source=cols[:, SOURCE].astype(np.uint8),
        received_time_ns=np.ascontiguousarray(cols[:, RECEIVED]),
        revision=cols[:, REVISION].astype(np.int32),
        flags=cols[:, FLAGS].astype(np.int32),
        known_time_ns=np.ascontiguousarray(cols[:, KNOWN]),
        origin=cols[:, ORIGIN].astype(np.uint8),
    )


def fill_slot(level: Level, slot: int, cells: I8, columns: ConformedColumns) -> None:
    """Put stored bars into an empty slot."""
    places = cells - level.state.slot[slot, B_BLOCK]
    cols, vals = cells_of_columns(columns)
    level.state.cells[slot, places] = cols
    level.state.vals[slot, places] = vals


def cells_of_columns(columns: ConformedColumns) -> tuple[I8, F8]:
    """Stored bars as rows of `cells` and `vals`, present, not in the log."""
    cols = np.zeros((len(columns), CELL_WIDTH), np.int64)
    cols[:, PRESENT] = 1
    cols[:, SOURCE] = columns.source
    cols[:, REVISION] = columns.revision
    cols[:, FLAGS] = columns.flags
    cols[:, KNOWN] = columns.known_time_ns
    cols[:, RECEIVED] = columns.received_time_ns
    cols[:, ORIGIN] = columns.origin
    cols[:, TRADES] = columns.trades
    cols[:, FIRST_ID] = columns.first_trade_id
    cols[:, LAST_ID] = columns.last_trade_id
    cols[:, OFFSET] = -1
    vals = np.empty((len(columns), VALS_WIDTH), np.float64)
    for j, name in enumerate((*PRICE_FIELDS, "quote_volume")):
        vals[:, j] = getattr(columns, name)
    return cols, vals


def side_of_row(row: I8) -> Side:
    """A row of `cells` beside a gap."""
    return Side(int(row[FIRST_ID]), int(row[LAST_ID]), int(row[SOURCE]), int(row[FLAGS]))
