"""Bars as columns: what a batch of bars is between the codec, the kernel and the readers.

Decides: names, types and null markers of the columns, the numbers of sources, origins and flags.
Invariants: all columns of one value have the same length and the type of its table below; times are
int64 UTC nanoseconds; null is NaN in `quote_volume` and -1 in the integer columns. Arrays are not
copied: who hands columns on gives them up. Must not know: Avro, Kafka, authority rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int64]
I4 = NDArray[np.int32]
F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

# Index = authority: the lower index wins when two sources disagree.
SOURCES: tuple[str, ...] = ("rest_settled", "ws_closed", "rest_fresh", "ws_open")
REST_SETTLED, WS_CLOSED, REST_FRESH, WS_OPEN = range(4)

ORIGINS: tuple[str, ...] = ("live", "backfill", "derived")
LIVE, BACKFILL, DERIVED = range(3)

# Bits of `flags`.
PROVISIONAL = 1
CONFIRMED = 2
SNAPPED = 4
PARTIAL = 8
COMPLETED = 16
SUSPECT = 32
# Bits 8-15 hold the authority (index of SOURCES, two bits) of each optional field, in the order of
# OPTIONAL_FIELDS: a value that completed a null can come from another source than the prices.
OPTIONAL_FIELDS: tuple[str, ...] = ("quote_volume", "trades", "first_trade_id", "last_trade_id")
OPTIONAL_AUTHORITY_SHIFT: tuple[int, ...] = (8, 10, 12, 14)
OPTIONAL_AUTHORITY_MASK = 0xFF00

PRICE_FIELDS: tuple[str, ...] = ("open", "high", "low", "close", "volume")
# What digests, fingerprints and the merge compare; everything else is about how a bar came here.
CONTENT_FIELDS: tuple[str, ...] = PRICE_FIELDS + OPTIONAL_FIELDS
NULL_INT = -1
NULL_FLOAT = float("nan")

_SHARED: dict[str, str] = {
    "open_time_ns": "i8",
    "open": "f8",
    "high": "f8",
    "low": "f8",
    "close": "f8",
    "volume": "f8",
    "quote_volume": "f8",
    "trades": "i8",
    "first_trade_id": "i8",
    "last_trade_id": "i8",
    "source": "u1",
}


class _Columns:
    """Row operations that are the same for every set of columns."""

    __slots__ = ()
    DTYPES: ClassVar[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.open_time_ns)  # type: ignore[attr-defined]

    @classmethod
    def empty(cls, rows: int) -> Self:
        """`rows` uninitialised rows."""
        return cls(**{name: np.empty(rows, dtype) for name, dtype in cls.DTYPES.items()})

    def take(self, index: NDArray[Any] | slice) -> Self:
        """The rows of an integer index, a boolean mask (both copy) or a slice (a view)."""
        return type(self)(**{name: getattr(self, name)[index] for name in self.DTYPES})

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All rows of all parts, in order."""
        if not parts:
            return cls.empty(0)
        if len(parts) == 1:
            return parts[0]
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.DTYPES}
        )

    def check(self) -> Self:
        """Returns itself. Raises ValueError where a column differs from the table or in length."""
        rows = len(self)
        for name, dtype in self.DTYPES.items():
            column = getattr(self, name)
            if column.shape != (rows,) or column.dtype != np.dtype(dtype):
                raise ValueError(
                    f"column {name}: {column.dtype}{column.shape}, not {dtype}({rows},)"
                )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class BarColumns(_Columns):
    """Landing bars. `source` is an index of SOURCES."""

    DTYPES: ClassVar[Mapping[str, str]] = {**_SHARED, "closed": "?", "received_time_ns": "i8"}

    open_time_ns: I8
    open: F8
    high: F8
    low: F8
    close: F8
    volume: F8
    quote_volume: F8
    trades: I8
    first_trade_id: I8
    last_trade_id: I8
    source: U1
    closed: Bool
    received_time_ns: I8


@dataclass(frozen=True, slots=True, eq=False)
class ConformedColumns(_Columns):
    """Accepted bars. Always closed, so there is no such column; `origin` is an index of ORIGINS."""

    DTYPES: ClassVar[Mapping[str, str]] = {
        **_SHARED,
        "received_time_ns": "i8",
        "revision": "i4",
        "flags": "i4",
        "known_time_ns": "i8",
        "origin": "u1",
    }

    open_time_ns: I8
    open: F8
    high: F8
    low: F8
    close: F8
    volume: F8
    quote_volume: F8
    trades: I8
    first_trade_id: I8
    last_trade_id: I8
    source: U1
    received_time_ns: I8
    revision: I4
    flags: I4
    known_time_ns: I8
    origin: U1

    @classmethod
    def of_landing(cls, bars: BarColumns) -> ConformedColumns:
        """Landing bars with revision, flags, known time and origin all 0; shares the arrays."""
        rows = len(bars)
        shared = {name: getattr(bars, name) for name in (*_SHARED, "received_time_ns")}
        return cls(
            **shared,
            revision=np.zeros(rows, np.int32),
            flags=np.zeros(rows, np.int32),
            known_time_ns=np.zeros(rows, np.int64),
            origin=np.zeros(rows, np.uint8),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The bars of one symbol in one aligned span `[block_start_ns, block_end_ns)`.

    On landing the rows cover a requested range that begins at `range_start_ns`; all closed bars of
    it before `complete_through_ns` are in (None: no such promise). `landing` says that revision,
    flags, known time and origin are not on the wire (they read as 0). `sequence` is the number of
    the seal that covers this version (0 on landing). `digest` is `fingerprint.block_digest`.
    `asked_time_ns` is the source's clock when it was asked for these bars, cut to microseconds on
    the wire; None in storage, and where the writer does not say.
    """

    symbol: str
    block_start_ns: int
    block_end_ns: int
    interval_ns: int
    range_start_ns: int
    complete_through_ns: int | None
    columns: ConformedColumns
    digest: bytes
    sequence: int = 0
    landing: bool = False
    asked_time_ns: int | None = None
