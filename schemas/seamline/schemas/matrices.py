"""Columns as the four matrices of the kernels, and back.

Decides: which column is which row (named in `codec_kernels`), and the units: matrices that go to an
encoder hold wire units, matrices that come from a decoder hold nanoseconds. Must not know: bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from seamline.schemas.codec_kernels import ORIGINS_COUNT, SOURCES_COUNT
from seamline.schemas.columns import PRICE_FIELDS, BarColumns, ConformedColumns
from seamline.schemas.times import NS_PER_MS, NS_PER_US
from seamline.schemas.wire import below, whole


class Matrices(NamedTuple):
    """(6, n) float64, (6, n) int64, (2, n) int32, (4, n) uint8."""

    floats: Any
    ints: Any
    narrow: Any
    small: Any

    @classmethod
    def empty(cls, rows: int) -> Matrices:
        return cls(
            np.empty((6, rows)),
            np.empty((6, rows), np.int64),
            np.empty((2, rows), np.int32),
            np.empty((4, rows), np.uint8),
        )

    def first(self, rows: int) -> Matrices:
        """A copy of the first rows, that does not hold on to the room behind them."""
        return Matrices(*(matrix[:, :rows].copy() for matrix in self))


def of_bars(columns: BarColumns) -> Matrices:
    """In wire units. Raises ContractError for times between two milliseconds, and bad enums."""
    matrices = _of_shared(columns)
    matrices.small[1] = columns.closed
    return matrices


def of_conformed(columns: ConformedColumns) -> Matrices:
    """As `of_bars`; known_time_ns must be whole microseconds."""
    matrices = _of_shared(columns)
    matrices.narrow[0] = columns.revision
    matrices.narrow[1] = columns.flags
    matrices.ints[5] = whole(columns.known_time_ns, NS_PER_US, "known_time_ns")
    matrices.small[2] = below(columns.origin, ORIGINS_COUNT, "origin")
    return matrices


def to_bars(matrices: Matrices) -> BarColumns:
    """Views, not copies."""
    return BarColumns(
        **_shared(matrices),
        closed=matrices.small[1].view(np.bool_),
        received_time_ns=matrices.ints[4],
    )


def to_conformed(matrices: Matrices) -> ConformedColumns:
    """Views, not copies."""
    return ConformedColumns(
        **_shared(matrices),
        received_time_ns=matrices.ints[4],
        revision=matrices.narrow[0],
        flags=matrices.narrow[1],
        known_time_ns=matrices.ints[5],
        origin=matrices.small[2],
    )


def _of_shared(columns: BarColumns | ConformedColumns) -> Matrices:
    matrices = Matrices.empty(len(columns))
    floats, ints, _, small = matrices
    floats[0] = columns.open
    floats[1] = columns.high
    floats[2] = columns.low
    floats[3] = columns.close
    floats[4] = columns.volume
    floats[5] = columns.quote_volume
    ints[0] = whole(columns.open_time_ns, NS_PER_MS, "open_time_ns")
    ints[1] = columns.trades
    ints[2] = columns.first_trade_id
    ints[3] = columns.last_trade_id
    ints[4] = columns.received_time_ns // NS_PER_US
    small[0] = below(columns.source, SOURCES_COUNT, "source")
    return matrices


def _shared(matrices: Matrices) -> dict[str, Any]:
    """The columns from open_time_ns to source, which all kinds of bars begin with."""
    floats, ints, _, small = matrices
    return {
        "open_time_ns": ints[0],
        **dict(zip((*PRICE_FIELDS, "quote_volume"), floats, strict=True)),
        "trades": ints[1],
        "first_trade_id": ints[2],
        "last_trade_id": ints[3],
        "source": small[0],
    }
