"""Bytes to columns and back: the Confluent frame and Avro, byte for byte as fastavro writes it.

Decides: how bars and conformed bars are laid out (blocks and small records: the modules beside
this one, whose functions are repeated here). Only the codec converts wire times (milliseconds,
microseconds) to nanoseconds and back. Invariants: bad bytes are a code in a column (flat
records) or a ContractError with `reason` (blocks), never a crash or a wrong row; -0.0 reads as 0.0.
`open_time_ns` must be whole milliseconds and `known_time_ns` whole microseconds, else encoding
raises ContractError; `received_time_ns` is a clock reading and is cut to microseconds.
Must not know: which schema id means which schema; the caller groups records by `schema_ids` first,
and says which approved version wrote each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.schemas import codec_kernels as kernels
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.codec_kernels import REASONS, SYMBOL_BYTES_MAX
from seamline.schemas.columns import I4, I8, U1, BarColumns, Bool, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.matrices import Matrices, of_bars, of_conformed, to_bars, to_conformed
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.wire import frame, joined, symbol_bytes_of, whole_one

__all__ = [
    "REASONS",
    "BarDecoder",
    "ConformedDecoder",
    "DecodedBars",
    "DecodedConformed",
    "SymbolTable",
    "decode_block",
    "decode_record",
    "encode_bars",
    "encode_block",
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
    here, and reads as null. `interval_ns`: the length of the bar as its writer states it, 0 where
    it states none."""

    sid: I4
    columns: BarColumns
    interval_ns: I8
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
        data = symbol_bytes_of(symbol)
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

    def decode(self, values: Sequence[bytes], versions: int | U1 | None = None) -> DecodedBars:
        """Records of writer schemas `bar`: all of one version (none given: the newest), or one
        version a record. The ids themselves are not looked at."""
        matrices, sid, code = _decode(values, self.table, "bar", versions)
        null = matrices.small[3].view(np.bool_)
        return DecodedBars(sid, to_bars(matrices), matrices.ints[5], code == 0, code, null)


class ConformedDecoder:
    """Conformed bars to columns. Keeps its symbol table for its life."""

    __slots__ = ("table",)

    def __init__(self, table: SymbolTable | None = None) -> None:
        self.table = SymbolTable() if table is None else table

    @property
    def symbols(self) -> list[str]:
        return self.table.names

    def decode(self, values: Sequence[bytes]) -> DecodedConformed:
        """Records of writer schemas `conformed_bar`, whose versions all have one layout; the ids
        themselves are not looked at."""
        matrices, sid, code = _decode(values, self.table, "conformed_bar", None)
        null = matrices.small[3].view(np.bool_)
        return DecodedConformed(sid, to_conformed(matrices), code == 0, code, null)


def schema_ids(values: Sequence[bytes]) -> I8:
    """The schema id in the frame of each value; -1 where there is no frame."""
    buffer, ends = joined(values)
    out = np.empty(len(values), np.int64)
    kernels.framed_ids(buffer, ends, out)
    return out


def versions_each(rows: int, name: str, versions: int | U1 | None) -> U1:
    """The version of each of `rows` records of schema `name`: one for all of them (none given: the
    newest), or one a record. Raises UsageError for what is no version, or not one of each."""
    newest = SCHEMAS[name].version
    given = newest if versions is None else versions
    each = np.full(rows, given, np.uint8) if isinstance(given, int) else given
    if len(each) != rows or (rows and not 1 <= each.min() <= each.max() <= newest):
        raise UsageError("not a version of each record", parameter="versions", value=versions)
    return each


def encode_bars(
    symbols: Sequence[str], columns: BarColumns, schema_id: int, interval_ns: int = 0
) -> list[bytes]:
    """One framed record per row; `symbols` has one symbol per row. `interval_ns`: the length that
    all of these bars state, 0 to state none; it must be whole milliseconds."""
    known: dict[str, int] = {}
    sid = np.fromiter(
        (known.setdefault(symbol, len(known)) for symbol in symbols), np.int32, len(symbols)
    )
    encoded = [symbol_bytes_of(symbol) for symbol in known]
    matrices = of_bars(columns)
    matrices.ints[5] = whole_one(interval_ns, NS_PER_MS, "interval_ns")
    if interval_ns < 0:
        raise ContractError("below 0", parameter="interval_ns", value=interval_ns)
    return _encode(encoded, sid, matrices, frame(schema_id), conformed=False)


def encode_conformed(
    symbol_bytes: Sequence[bytes], sid: NDArray[Any], columns: ConformedColumns, schema_id: int
) -> list[bytes]:
    """One framed record per row; row i has the symbol `symbol_bytes[sid[i]]`."""
    numbers = np.ascontiguousarray(sid, np.int32)
    matrices = of_conformed(columns)
    return _encode(symbol_bytes, numbers, matrices, frame(schema_id), conformed=True)


def _decode(
    values: Sequence[bytes], table: SymbolTable, name: str, versions: int | U1 | None
) -> tuple[Matrices, I4, U1]:
    rows = len(values)
    each = versions_each(rows, name, versions)
    conformed = name == "conformed_bar"
    buffer, ends = joined(values)
    matrices = Matrices.empty(rows)
    sid, code = np.empty(rows, np.int32), np.empty(rows, np.uint8)
    kernels.decode_rows(buffer, ends, conformed, each, table.arrays, *matrices, sid, code)
    table.refresh()
    return matrices, sid, code


def _encode(
    symbol_bytes: Sequence[bytes],
    sid: I4,
    matrices: Matrices,
    head: bytes,
    *,
    conformed: bool,
) -> list[bytes]:
    rows = len(sid)
    if rows != matrices.floats.shape[1]:
        raise UsageError("one symbol for each row", parameter="symbols", value=rows)
    if rows == 0:
        return []
    if sid.min() < 0 or sid.max() >= len(symbol_bytes):
        raise UsageError("no such symbol number", parameter="sid", value=(sid.min(), sid.max()))
    longest = max(map(len, symbol_bytes))
    if longest > SYMBOL_BYTES_MAX or not all(symbol_bytes):
        raise ContractError("a symbol has 1 to 64 bytes", parameter="symbol", value=longest)
    pool, pool_ends = joined(symbol_bytes)
    out = np.empty(rows * (kernels.ROW_BYTES_MAX + longest), np.uint8)
    ends = np.empty(rows, np.int64)
    kernels.encode_rows(
        np.frombuffer(head, np.uint8), pool, pool_ends, conformed, *matrices, sid, out, ends
    )
    data = out[: ends[-1]].tobytes()
    stops = ends.tolist()
    return [data[a:b] for a, b in zip([0, *stops], stops, strict=False)]
