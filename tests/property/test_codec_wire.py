"""The codec against fastavro from the other side: fastavro writes whatever the schemas allow.

Values are drawn on the wire, over the whole range of its types: int64 ends, NaN with any payload,
empty, long symbols, every branch of a union. The codec reads each value as the schema means it or
says why not; what it reads it writes again as the same bytes.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avro_peer
from avro_peer import SCHEMA_ID
from bar_strategies import MS_MAX, US_MAX
from schema_steps import INT64, values_of
from seamline.schemas.codec import (
    BarDecoder,
    ConformedDecoder,
    decode_block,
    decode_record,
    encode_bars,
    encode_block,
    encode_conformed,
    encode_record,
)
from seamline.schemas.columns import CONTENT_FIELDS, ORIGINS, SOURCES, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError
from seamline.schemas.fingerprint import block_digest

checked = settings(deadline=None, max_examples=150)
NUMBERS = avro_peer.NUMBERS
SMALL = sorted(SCHEMAS.keys() - {"bar", "conformed_bar", "bar_block"})
TIMES = {"open_time": MS_MAX, "received_time": US_MAX, "known_time": US_MAX}


def ends_of(limit: int) -> st.SearchStrategy[int]:
    """Around both ends of what nanoseconds can hold, and anywhere on the wire."""
    near = st.sampled_from([limit, limit + 1, -limit, -limit - 1, 0])
    return st.one_of(near, st.integers(-limit, limit), INT64)


symbols = st.one_of(
    st.sampled_from(["A", "x" * 64, "x" * 65, "é" * 32, "é" * 33, "\0", ""]),
    st.text(st.characters(codec="utf-8"), max_size=70),
)
nans = st.tuples(st.integers(1, 2**52 - 1), st.booleans()).map(
    lambda drawn: struct.unpack("<d", struct.pack("<Q", 0x7FF << 52 | drawn[0] | drawn[1] << 63))[0]
)
doubles = st.one_of(st.floats(width=64), nans, st.sampled_from([-0.0, math.inf, 5e-324]))


def wire_bars(name: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field["name"]: field["type"] for field in avro_peer.PLAIN[name]["fields"]}
    drawn = {field: values_of(kind) for field, kind in fields.items()}
    drawn["symbol"] = symbols
    drawn |= {field: ends_of(limit) for field, limit in TIMES.items() if field in fields}
    drawn |= dict.fromkeys(("open", "high", "low", "close", "volume"), doubles)
    drawn["quote_volume"] = st.none() | doubles
    if "interval_ms" in fields:
        drawn["interval_ms"] = ends_of(MS_MAX)
    return st.fixed_dictionaries(drawn)


def readable(record: dict[str, Any]) -> bool:
    times = all(abs(record[field]) <= limit for field, limit in TIMES.items() if field in record)
    stated = 0 <= record.get("interval_ms", 0) <= MS_MAX
    return times and stated and 1 <= len(record["symbol"].encode()) <= 64


def told_null(record: dict[str, Any]) -> bool:
    """An optional field holds, as a value, what means null inside."""
    quote = record["quote_volume"]
    return any(record[field] == -1 for field in NUMBERS) or (
        quote is not None and math.isnan(quote)
    )


def inside(record: dict[str, Any], field: str) -> Any:
    value = record[field]
    if field in NUMBERS:
        return -1 if value is None else value
    return math.nan if value is None else value


@pytest.mark.parametrize("name", ["bar", "conformed_bar"])
@checked
@given(data=st.data())
def test_whatever_fastavro_writes_is_read_or_refused(name: str, data: st.DataObject) -> None:
    records = data.draw(st.lists(wire_bars(name), max_size=5))
    values = [avro_peer.write(name, record) for record in records]
    decoder: Any = BarDecoder() if name == "bar" else ConformedDecoder()
    decoded = decoder.decode(values)
    assert decoded.ok.tolist() == [readable(record) for record in records]
    for row, record in enumerate(records):
        if not decoded.ok[row]:
            continue
        check_row(decoded, decoder, row, record)
    kept = [row for row, record in enumerate(records) if readable(record)]
    columns = decoded.columns.take(np.array(kept, np.int64))
    encoder: Any = encode_bars if name == "bar" else encode_conformed
    texts = [records[row]["symbol"] for row in kept]
    if name == "bar":
        stated = [records[row]["interval_ms"] * 1_000_000 for row in kept]
        assert decoded.interval_ns[kept].tolist() == stated
        again = [
            encoder([text], columns.take(slice(at, at + 1)), SCHEMA_ID, stated[at])[0]
            for at, text in enumerate(texts)
        ]
    else:
        again = encoder(decoder.table.encoded, decoded.sid[kept], columns, SCHEMA_ID)
    for row, value in zip(kept, again, strict=True):
        exact = not told_null(records[row]) and not has_own_form(records[row])
        assert value == values[row] or not exact
        assert decoder.decode([value]).ok.all()


def has_own_form(record: dict[str, Any]) -> bool:
    """-0.0 is read as 0.0; a NaN may lose its payload."""
    floats = [record[name] for name in ("open", "high", "low", "close", "volume", "quote_volume")]
    return any(
        value is not None and (math.isnan(value) or struct.pack("<d", value) == b"\0" * 7 + b"\x80")
        for value in floats
    )


def check_row(decoded: Any, decoder: Any, row: int, record: dict[str, Any]) -> None:
    columns = decoded.columns
    assert decoder.symbols[decoded.sid[row]] == record["symbol"]
    assert decoded.explicit_null[row] == told_null(record)
    for field in CONTENT_FIELDS:
        found, wanted = getattr(columns, field)[row].item(), inside(record, field)
        assert found == wanted or (math.isnan(found) and math.isnan(wanted)), field
        assert not (isinstance(found, float) and found == 0 and math.copysign(1, found) < 0)
    assert columns.open_time_ns[row] == record["open_time"] * 1_000_000
    assert columns.received_time_ns[row] == record["received_time"] * 1_000
    assert SOURCES[columns.source[row]] == record["source"]
    if "closed" in record:
        assert columns.closed[row] == record["closed"]
        return
    assert columns.known_time_ns[row] == record["known_time"] * 1_000
    assert (columns.revision[row], columns.flags[row]) == (record["revision"], record["flags"])
    assert ORIGINS[columns.origin[row]] == record["origin"]


@pytest.mark.parametrize("name", SMALL)
@checked
@given(data=st.data())
def test_small_records_are_read_from_the_whole_range_of_the_wire(
    name: str, data: st.DataObject
) -> None:
    schema = avro_peer.PLAIN[name]
    units = {field["name"]: unit_of(field["type"]) for field in fields_with_types(name)}
    drawn = {
        field["name"]: values_of(field["type"])
        if not units[field["name"]]
        else near_times(field["type"], units[field["name"]])
        for field in schema["fields"]
    }
    wire = data.draw(st.fixed_dictionaries(drawn))
    value = avro_peer.write(name, wire)
    late = any(
        wire[field] is not None and abs(wire[field] * unit) > 2**63 - 1
        for field, unit in units.items()
        if unit
    )
    if late:
        with pytest.raises(ContractError) as raised:
            decode_record(name, value)
        assert raised.value.fields["reason"] == "invalid_timestamp"
        return
    found = decode_record(name, value)
    for field, unit in units.items():
        mine = found[f"{field}_ns" if unit else field]
        theirs = wire[field]
        if unit:
            assert mine == (None if theirs is None else theirs * unit)
        else:
            assert mine == theirs or (math.isnan(mine) and math.isnan(theirs)), field
    assert encode_record(name, found, SCHEMA_ID) == value


def fields_with_types(name: str) -> Any:
    return json.loads(SCHEMAS[name].text)["fields"]


def unit_of(kind: Any) -> int:
    """Nanoseconds of a unit of the wire; 0 for what is no time."""
    if isinstance(kind, list):
        return max(map(unit_of, kind))
    units = {"timestamp-millis": 1_000_000, "timestamp-micros": 1_000}
    return units.get(kind.get("logicalType", ""), 0) if isinstance(kind, dict) else 0


def near_times(kind: Any, unit: int) -> st.SearchStrategy[Any]:
    times = ends_of((2**63 - 1) // unit)
    return st.none() | times if isinstance(kind, list) else times


@checked
@given(data=st.data())
def test_blocks_at_the_ends_of_time_and_of_their_types(data: st.DataObject) -> None:
    """The last and the first spans that int64 nanoseconds hold, with the ends of every column."""
    rows = data.draw(st.integers(0, 4))
    last = data.draw(st.booleans())
    end_ms = MS_MAX if last else -MS_MAX + 240 * 60_000
    start_ms = end_ms - 240 * 60_000
    cells = sorted(data.draw(st.sets(st.integers(0, 239), min_size=rows, max_size=rows)))
    columns = ConformedColumns.empty(rows)
    ends = st.sampled_from([-1, 0, 2**63 - 1, -(2**63)])
    draws: dict[str, st.SearchStrategy[Any]] = {
        "open_time_ns": st.just(0),
        **dict.fromkeys(("open", "high", "low", "close", "volume"), doubles),
        "quote_volume": doubles,
        **dict.fromkeys(NUMBERS, ends),
        **dict.fromkeys(("source", "origin"), st.integers(0, 2)),
        **dict.fromkeys(("revision", "flags"), st.sampled_from([0, 2**31 - 1, -(2**31)])),
        **dict.fromkeys(
            ("received_time_ns", "known_time_ns"),
            st.sampled_from([US_MAX * 1_000, -US_MAX * 1_000]),
        ),
    }
    for name, values in draws.items():
        getattr(columns, name)[:] = data.draw(st.lists(values, min_size=rows, max_size=rows))
    columns.open_time_ns[:] = [(start_ms + cell * 60_000) * 1_000_000 for cell in cells]
    symbol = data.draw(st.sampled_from(["A", "x" * 64, "é" * 32]))
    block = Block(
        symbol=symbol,
        block_start_ns=start_ms * 1_000_000,
        block_end_ns=end_ms * 1_000_000,
        interval_ns=60_000_000_000,
        range_start_ns=start_ms * 1_000_000,
        complete_through_ns=data.draw(st.sampled_from([None, end_ms * 1_000_000])),
        columns=columns,
        digest=block_digest(symbol, columns),
        sequence=data.draw(st.sampled_from([0, 2**63 - 1])),
    )
    value = encode_block(block, SCHEMA_ID)
    theirs = avro_peer.read("bar_block", value)
    assert theirs["open_time"] == [start_ms + cell * 60_000 for cell in cells]
    found = decode_block(avro_peer.write("bar_block", theirs))
    assert block_digest(symbol, found.columns) == found.digest == block.digest
    assert (found.symbol, found.sequence) == (symbol, block.sequence)
    for name in ("revision", "flags", "received_time_ns", "known_time_ns", "source", "origin"):
        np.testing.assert_array_equal(getattr(found.columns, name), getattr(columns, name))
