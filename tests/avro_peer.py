"""A second opinion on Avro: fastavro with our schemas, and a writer that cuts arrays into blocks.

Decides: nothing of the product. The plain schemas have no logical types, so times are the wire's
numbers.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
import numpy as np

from seamline.schemas.codec import frame
from seamline.schemas.columns import (
    CONTENT_FIELDS,
    ORIGINS,
    SOURCES,
    BarColumns,
    Block,
    ConformedColumns,
)
from seamline.schemas.contract import SCHEMAS

SCHEMA_ID = 77
NUMBERS = ("trades", "first_trade_id", "last_trade_id")


def plain(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: plain(value) for key, value in schema.items() if key != "logicalType"}
    return [plain(item) for item in schema] if isinstance(schema, list) else schema


PLAIN = {name: plain(json.loads(schema.text)) for name, schema in SCHEMAS.items()}
PARSED = {name: fastavro.parse_schema(schema) for name, schema in PLAIN.items()}


def write(name: str, record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED[name], record)
    return frame(SCHEMA_ID) + out.getvalue()


def read(name: str, value: bytes) -> Any:
    """Raises ValueError for what fastavro refuses, bytes behind the record included."""
    stream = io.BytesIO(value)
    if stream.read(5)[:1] != b"\0":
        raise ValueError("not framed")
    try:
        record = fastavro.schemaless_reader(stream, PARSED[name], None)
    except Exception as error:  # it has many
        raise ValueError("refused") from error
    if stream.tell() != len(value):
        raise ValueError("trailing bytes")
    return record


def bar_records(
    symbols: Sequence[str], columns: BarColumns | ConformedColumns
) -> list[dict[str, Any]]:
    """Rows as fastavro takes them."""
    records = []
    for row, symbol in enumerate(symbols):
        record: dict[str, Any] = {"symbol": symbol}
        record["open_time"] = int(columns.open_time_ns[row]) // 1_000_000
        for name in CONTENT_FIELDS:
            value = getattr(columns, name)[row].item()
            record[name] = None if is_null(name, value) else value
        record["source"] = SOURCES[columns.source[row]]
        record["received_time"] = int(columns.received_time_ns[row]) // 1_000
        if isinstance(columns, BarColumns):
            record["closed"] = bool(columns.closed[row])
        else:
            record["revision"] = int(columns.revision[row])
            record["flags"] = int(columns.flags[row])
            record["known_time"] = int(columns.known_time_ns[row]) // 1_000
            record["origin"] = ORIGINS[columns.origin[row]]
        records.append(record)
    return records


def is_null(name: str, value: float) -> bool:
    return value == -1 if name in NUMBERS else name == "quote_volume" and math.isnan(value)


def block_record(block: Block) -> dict[str, Any]:
    """A block as fastavro takes it."""
    columns, complete = block.columns, block.complete_through_ns
    record: dict[str, Any] = {
        "symbol": block.symbol,
        "block_start": block.block_start_ns // 1_000_000,
        "block_end": block.block_end_ns // 1_000_000,
        "range_start": block.range_start_ns // 1_000_000,
        "complete_through": None if complete is None else complete // 1_000_000,
        "interval_ms": block.interval_ns // 1_000_000,
        "sequence": block.sequence,
        "digest": block.digest,
        "open_time": (columns.open_time_ns // 1_000_000).tolist(),
        "source": columns.source.tobytes(),
        "received_time": (columns.received_time_ns // 1_000).tolist(),
    }
    for name in CONTENT_FIELDS:
        values = getattr(columns, name)
        optional = name == "quote_volume" or name in NUMBERS
        empty = bool((np.isnan(values) if name == "quote_volume" else values == -1).all())
        record[name] = None if optional and empty else values.tolist()
    landing = block.landing
    record["revision"] = None if landing else columns.revision.tolist()
    record["flags"] = None if landing else columns.flags.tolist()
    record["known_time"] = None if landing else (columns.known_time_ns // 1_000).tolist()
    record["origin"] = None if landing else columns.origin.tobytes()
    asked = block.asked_time_ns
    record["asked_time"] = None if asked is None else asked // 1_000
    return record


def write_cut(
    name: str, record: dict[str, Any], cut: Callable[[int], list[tuple[int, bool]]]
) -> bytes:
    """As `write`, with arrays in several Avro blocks: `cut(n)` gives (items, with byte size)."""
    return frame(SCHEMA_ID) + b"".join(
        _item(field["type"], record[field["name"]], cut) for field in PLAIN[name]["fields"]
    )


def varint(number: int) -> bytes:
    z = number * 2 if number >= 0 else -number * 2 - 1
    out = bytearray()
    while z >= 128:
        out.append(z & 127 | 128)
        z >>= 7
    return bytes((*out, z))


def _item(kind: Any, value: Any, cut: Callable[[int], list[tuple[int, bool]]]) -> bytes:
    if isinstance(kind, list):
        return b"\0" if value is None else b"\2" + _item(kind[1], value, cut)
    if isinstance(kind, dict) and kind["type"] == "array":
        out = bytearray()
        at = 0
        for count, sized in cut(len(value)):
            items = b"".join(_item(kind["items"], item, cut) for item in value[at : at + count])
            out += varint(-count) + varint(len(items)) if sized else varint(count)
            out += items
            at += count
        return bytes(out) + b"\0"
    if isinstance(kind, dict):
        return _item(kind["type"], value, cut)
    if kind == "double":
        return struct.pack("<d", value)
    if kind in ("bytes", "string"):
        data = value.encode() if isinstance(value, str) else value
        return varint(len(data)) + bytes(data)
    return varint(value)
