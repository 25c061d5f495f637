"""Bytes to columns and back: the Confluent frame and Avro, byte for byte as fastavro writes it.

Decides: how bars, conformed bars and blocks are laid out, and the only conversion of wire times
(milliseconds, microseconds) to nanoseconds. Invariants: bad bytes are a code in a column (flat
records) or a ContractError with `reason` (blocks), never a crash or a wrong row; -0.0 reads as 0.0.
`open_time_ns` must be whole milliseconds and `known_time_ns` whole microseconds, else encoding
raises ContractError; `received_time_ns` is a clock reading and is cut to microseconds.
Must not know: which schema id means which schema; the caller groups records by `schema_ids` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.schemas import codec_kernels as kernels
from seamline.schemas.codec_kernels import REASONS
from seamline.schemas.columns import I4, I8, PRICE_FIELDS, U1, BarColumns, Bool, ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.records import decode_record, encode_record, frame
from seamline.schemas.times import NS_PER_MS, NS_PER_US

__all__ = [
    "REASONS",
    "BarDecoder",
    "ConformedDecoder",
    "DecodedBars",
    "DecodedConformed",
    "SymbolTable",
    "decode_record",
    "encode_bars",
    "encode_conformed",
    "encode_record",
    "frame",
    "schema_ids",
]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBars:
    """One row per record. `sid` is the index of the symbol in the decoder's `symbols`, -1 where it
    is not known; `code` indexes REASONS, `ok` is `code == 0`; columns of rows that are not ok are
    cleared. `explicit_null`: an optional field was sent with the value (NaN, -1) that means null
    here, and reads as null."""

    sid: I4
    columns: BarColumns
    ok: Bool
    code: U1
    explicit_null: Bool


@dataclass(frozen=True, slots=True, eq=False)
class DecodedConformed:
    """As DecodedBars, of the conformed log."""

    sid: I4
    columns: ConformedColumns
    ok: Bool
    code: U1
    explicit_null: Bool


class SymbolTable:
    """Symbols and their small numbers, given out in order of arrival and never changed.

    Holds at most 65,536 symbols of at most 64 bytes; a record with one more is not ok
    (`too_many_symbols`). Several decoders may share a table. Not for use by two threads at once.
    """

    __slots__ = ("arrays", "encoded", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.encoded: list[bytes] = []
        # zeros are not resident before they are used: an almost empty table costs little
        self.arrays: kernels.Table = (
            np.zeros(kernels.SLOTS, np.int32),
            np.zeros(kernels.SYMBOLS_MAX, np.int64),
            np.zeros(kernels.SYMBOLS_MAX, np.int64),
            np.zeros((kernels.SYMBOLS_MAX, kernels.SYMBOL_BYTES_MAX), np.uint8),
            np.zeros(1, np.int64),
        )

    def __len__(self) -> int:
        return len(self.names)

    def intern(self, symbol: str) -> int:
        """Number of a symbol. Raises ContractError when it is empty, too long or one too many."""
        data = symbol.encode()
        sid = kernels.intern(np.frombuffer(data, np.uint8), 0, len(data), self.arrays)
        if sid < 0:
            raise ContractError(
                "not a symbol", parameter="symbol", value=symbol, reason=REASONS[-sid]
            )
        self.refresh()
        return int(sid)

    def refresh(self) -> None:
        """Bring `names` and `encoded` up to what a kernel has added."""
        _, _, lengths, pool, count = self.arrays
        for sid in range(len(self.names), int(count[0])):
            data = pool[sid, : lengths[sid]].tobytes()
            self.encoded.append(data)
            self.names.append(data.decode())


class BarDecoder:
    """Landing bars to columns. Keeps its symbol table for its life."""

    __slots__ = ("table",)

    def __init__(self, table: SymbolTable | None = None) -> None:
        self.table = SymbolTable() if table is None else table

    @property
    def symbols(self) -> list[str]:
        return self.table.names

    def decode(self, values: Sequence[bytes]) -> DecodedBars:
        """All records of one writer schema `bar`; the id itself is not looked at."""
        floats, ints, _, small, sid, code = _decode(values, self.table, conformed=False)
        columns = BarColumns(
            **_shared(floats, ints, small),
            closed=small[1].view(np.bool_),
            received_time_ns=ints[4],
        )
        return DecodedBars(sid, columns, code == 0, code, small[3].view(np.bool_))


class ConformedDecoder:
    """Conformed bars to columns. Keeps its symbol table for its life."""

    __slots__ = ("table",)

    def __init__(self, table: SymbolTable | None = None) -> None:
        self.table = SymbolTable() if table is None else table

    @property
    def symbols(self) -> list[str]:
        return self.table.names

    def decode(self, values: Sequence[bytes]) -> DecodedConformed:
        """All records of one writer schema `conformed_bar`; the id itself is not looked at."""
        floats, ints, narrow, small, sid, code = _decode(values, self.table, conformed=True)
        columns = ConformedColumns(
            **_shared(floats, ints, small),
            received_time_ns=ints[4],
            revision=narrow[0],
            flags=narrow[1],
            known_time_ns=ints[5],
            origin=small[2],
        )
        return DecodedConformed(sid, columns, code == 0, code, small[3].view(np.bool_))


def schema_ids(values: Sequence[bytes]) -> I8:
    """The schema id in the frame of each value; -1 where there is no frame."""
    buffer, ends = _joined(values)
    out = np.empty(len(values), np.int64)
    kernels.framed_ids(buffer, ends, out)
    return out


def encode_bars(symbols: Sequence[str], columns: BarColumns, schema_id: int) -> list[bytes]:
    """One framed record per row; `symbols` has one symbol per row."""
    known: dict[str, int] = {}
    sid = np.fromiter(
        (known.setdefault(symbol, len(known)) for symbol in symbols), np.int32, len(symbols)
    )
    encoded = [symbol.encode() for symbol in known]
    floats, ints, narrow, small = _matrices(columns)
    small[1] = columns.closed
    return _encode(encoded, sid, floats, ints, narrow, small, frame(schema_id), conformed=False)


def encode_conformed(
    symbol_bytes: Sequence[bytes], sid: NDArray[Any], columns: ConformedColumns, schema_id: int
) -> list[bytes]:
    """One framed record per row; row i has the symbol `symbol_bytes[sid[i]]`."""
    floats, ints, narrow, small = _matrices(columns)
    narrow[0] = columns.revision
    narrow[1] = columns.flags
    ints[5] = whole(columns.known_time_ns, NS_PER_US, "known_time_ns")
    small[2] = _below(columns.origin, kernels.ORIGINS_COUNT, "origin")
    numbers = np.ascontiguousarray(sid, np.int32)
    return _encode(
        symbol_bytes, numbers, floats, ints, narrow, small, frame(schema_id), conformed=True
    )


def whole(times_ns: I8, unit_ns: int, parameter: str) -> I8:
    """Nanoseconds as whole units. Raises ContractError when a time is between two of them."""
    units = times_ns // unit_ns
    if not np.array_equal(units * unit_ns, times_ns):
        at = int(np.flatnonzero(units * unit_ns != times_ns)[0])
        raise ContractError(
            f"not whole units of {unit_ns} ns", parameter=parameter, value=int(times_ns[at]), row=at
        )
    return units


def _joined(values: Sequence[bytes]) -> tuple[NDArray[np.uint8], I8]:
    buffer = np.frombuffer(b"".join(values), np.uint8)
    ends = np.fromiter(map(len, values), np.int64, len(values))
    return buffer, np.cumsum(ends, out=ends)


def _decode(values: Sequence[bytes], table: SymbolTable, *, conformed: bool) -> tuple[Any, ...]:
    rows = len(values)
    buffer, ends = _joined(values)
    floats, ints = np.empty((6, rows)), np.empty((6, rows), np.int64)
    narrow, small = np.empty((2, rows), np.int32), np.empty((4, rows), np.uint8)
    sid, code = np.empty(rows, np.int32), np.empty(rows, np.uint8)
    kernels.decode_rows(
        buffer, ends, conformed, table.arrays, floats, ints, narrow, small, sid, code
    )
    table.refresh()
    return floats, ints, narrow, small, sid, code


def _shared(floats: Any, ints: Any, small: Any) -> dict[str, Any]:
    """The columns from open_time_ns to source, which all kinds of bars begin with."""
    return {
        "open_time_ns": ints[0],
        **dict(zip((*PRICE_FIELDS, "quote_volume"), floats, strict=True)),
        **dict(zip(("trades", "first_trade_id", "last_trade_id"), ints[1:4], strict=True)),
        "source": small[0],
    }


def _matrices(columns: BarColumns | ConformedColumns) -> tuple[Any, Any, Any, Any]:
    """The shared columns as matrices of the kernels, times in wire units."""
    rows = len(columns)
    floats, ints = np.empty((6, rows)), np.empty((6, rows), np.int64)
    narrow, small = np.empty((2, rows), np.int32), np.empty((4, rows), np.uint8)
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
    small[0] = _below(columns.source, kernels.SOURCES_COUNT, "source")
    return floats, ints, narrow, small


def _below(numbers: U1, bound: int, parameter: str) -> U1:
    if len(numbers) and numbers.max() >= bound:
        raise ContractError("no such symbol of the enum", parameter=parameter, value=numbers.max())
    return numbers


def _encode(
    symbol_bytes: Sequence[bytes],
    sid: NDArray[np.int32],
    floats: Any,
    ints: Any,
    narrow: Any,
    small: Any,
    head: bytes,
    *,
    conformed: bool,
) -> list[bytes]:
    rows = len(sid)
    if rows != floats.shape[1]:
        raise UsageError("one symbol for each row", parameter="symbols", value=rows)
    if rows == 0:
        return []
    if sid.min() < 0 or sid.max() >= len(symbol_bytes):
        raise UsageError("no such symbol number", parameter="sid", value=(sid.min(), sid.max()))
    longest = max(map(len, symbol_bytes))
    if longest > kernels.SYMBOL_BYTES_MAX or not all(symbol_bytes):
        raise ContractError("a symbol has 1 to 64 bytes", parameter="symbol", value=longest)
    pool, pool_ends = _joined(symbol_bytes)
    out = np.empty(rows * (kernels.ROW_BYTES_MAX + longest), np.uint8)
    ends = np.empty(rows, np.int64)
    kernels.encode_rows(
        np.frombuffer(head, np.uint8),
        pool,
        pool_ends,
        conformed,
        floats,
        ints,
        narrow,
        small,
        sid,
        out,
        ends,
    )
    data = out[: ends[-1]].tobytes()
    stops = ends.tolist()
    return [data[a:b] for a, b in zip([0, *stops], stops, strict=False)]
