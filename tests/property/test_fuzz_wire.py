"""Fuzzing of bytes that come over Kafka: records, keys, headers.

Valid bytes are cut, flipped, spliced, given lengths that nothing has; and raw bytes. Law: no crash
but the documented refusal, no work beyond the bytes that are there, no silent pass: what is read is
what an independent reader of the schema reads, or writes back to the same bytes. Far more examples
with SEAMLINE_SOAK=1.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import avro_peer
from machine_world import PARENT, START_NS, Row, block_value, columns_of
from seamline.schemas.codec import BarDecoder, ConformedDecoder, encode_bars, encode_conformed
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.contract import SCHEMAS, by_text, fingerprint_of_text
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.topics import (
    chunk_key,
    gap_key,
    parse_chunk_key,
    parse_dataset_key,
    parse_gap_key,
    parse_symbol_key,
    parse_topic,
    symbol_key,
    topic_name,
)
from seamline.streams.kernel.intake import watermark_of
from seamline.streams.kernel.memory_log import MemoryRecord

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))
fuzzed = settings(
    max_examples=20_000 if SOAK else 150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SMALL = sorted(SCHEMAS.keys() - {"bar", "conformed_bar", "bar_block"})
# Lengths and counts that nothing has: 2**31, 2**62, -1, the least int64, and a varint without end.
HUGE = (
    *(avro_peer.varint(number) for number in (2**31, 2**62, -1, -(2**62), 2**63 - 1, -(2**63))),
    *(b"\xff" * 9, b"\xff" * 11, b"\x80" * 9 + b"\x01", b"\x80\x00"),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of `seeds` after some changes, or nothing of it."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=120))
    value = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(value)))
        kind = draw(st.sampled_from(("cut", "flip", "insert", "huge", "drop", "splice")))
        if kind == "cut":
            del value[at:]
        elif kind == "flip" and at < len(value):
            value[at] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            value[at:at] = draw(st.binary(max_size=8))
        elif kind == "huge":
            value[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(HUGE))
        elif kind == "drop":
            del value[at : at + draw(st.integers(1, 9))]
        else:
            other = draw(st.sampled_from(seeds))
            value[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(value)


class RefusedError(Exception):
    """The bytes are no record, says the reader below."""


def read_plain(schema: Any, stream: io.BytesIO, names: dict[str, Any]) -> Any:
    """A reader of Avro in a page, by the specification alone: strict in what it takes."""
    if isinstance(schema, list):
        branch = read_long(stream)
        if not 0 <= branch < len(schema):
            raise RefusedError
        return read_plain(schema[branch], stream, names)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in names:
        return read_plain(names[kind], stream, names)
    if kind == "record":
        return {f["name"]: read_plain(f["type"], stream, names) for f in schema["fields"]}
    if kind == "enum":
        names[schema["name"]] = schema
        index = read_long(stream)
        if not 0 <= index < len(schema["symbols"]):
            raise RefusedError
        return schema["symbols"][index]
    if kind in ("array", "map"):
        return read_items(schema, stream, names)
    simple: dict[str, Callable[[], Any]] = {
        "null": lambda: None,
        "boolean": lambda: {b"\0": False, b"\1": True}[take(stream, 1)],
        "int": lambda: read_int(stream),
        "long": lambda: read_long(stream),
        "double": lambda: struct.unpack("<d", take(stream, 8))[0],
        "bytes": lambda: take(stream, read_long(stream)),
        "string": lambda: take(stream, read_long(stream)).decode(),
    }
    if isinstance(kind, dict | list):
        return read_plain(kind, stream, names)
    try:
        return simple[kind]()
    except (KeyError, UnicodeDecodeError):
        raise RefusedError from None


def read_items(schema: Any, stream: io.BytesIO, names: dict[str, Any]) -> Any:
    pairs, items = {}, []
    while count := read_long(stream):
        if count < 0:
            count = -count
            read_long(stream)
        if count > len(stream.getvalue()):
            raise RefusedError  # every item of ours takes a byte
        for _ in range(count):
            if schema["type"] == "map":
                key = read_plain("string", stream, names)
                pairs[key] = read_plain(schema["values"], stream, names)
            else:
                items.append(read_plain(schema["items"], stream, names))
    return pairs if schema["type"] == "map" else items


def take(stream: io.BytesIO, size: int) -> bytes:
    if size < 0 or size > len(stream.getvalue()) - stream.tell():
        raise RefusedError
    return stream.read(size)


def read_long(stream: io.BytesIO) -> int:
    number = 0
    for place in range(10):
        byte = take(stream, 1)[0]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            if number >= 2**64:
                raise RefusedError
            return (number >> 1) ^ -(number & 1)
    raise RefusedError


def read_int(stream: io.BytesIO) -> int:
    number = read_long(stream)
    if not -(2**31) <= number < 2**31:
        raise RefusedError
    return number


def expected(name: str, value: bytes) -> Any:
    """What the record says on the wire. Raises RefusedError."""
    if value[:1] != b"\0" or len(value) < 5:
        raise RefusedError
    stream = io.BytesIO(value)
    stream.seek(5)
    record = read_plain(avro_peer.PLAIN[name], stream, {})
    if stream.tell() != len(value):
        raise RefusedError
    return record


def same(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


# --- small records

T = START_NS
RECORDS: dict[str, dict[str, Any]] = {
    "gap": {
        "symbol": "BTC/USDT",
        "start_ns": T,
        "end_ns": T + 60 * 10**9,
        "bars": 1,
        "cause": "late",
        "known_time_ns": T,
        "detail": "why",
    },
    "position": {
        "partition": 3,
        "live_offset": 7,
        "backfill_offset": 1 << 40,
        "watermark_ns": T,
        "known_time_ns": T,
        "owner": "a",
        "conformed_offset": 0,
        "rows_total": 9,
    },
    "seal": {
        "symbol": "A",
        "frontier_ns": T,
        "conformed_offset": 5,
        "merkle_root": b"m" * 32,
        "sequence": 1,
        "storage_sequence": 1,
        "blocks": 1,
        "rows": 2,
        "history_start_ns": T,
        "asked_start_ns": T,
        "known_time_ns": T,
        "live": True,
    },
    "report": {
        "symbol": "A",
        "window_start_ns": T,
        "window_end_ns": T,
        "rows": 1,
        "missing": 0,
        "revisions": 0,
        "confirmed": 0,
        "discarded": 0,
        "conflicts": 0,
        "late": 0,
        "quarantined": 0,
        "findings": {"gap": 3, "off_grid": 1},
        "known_time_ns": T,
    },
    "trade": {
        "symbol": "A",
        "trade_id": 5,
        "time_ns": T,
        "price": 1.5,
        "size": 2.0,
        "side": "buy",
        "source": "binance",
        "received_time_ns": T,
    },
    "chunk": {
        "symbol": "A",
        "start_ns": T,
        "end_ns": T,
        "state": "landed",
        "complete_through_ns": T,
        "rows": 1,
        "digest": b"d" * 32,
        "attempts": 1,
        "fetched_time_ns": T,
    },
}
SEEDS = {name: (encode_record(name, record, 77),) for name, record in RECORDS.items()}


def test_every_small_record_is_fuzzed() -> None:
    assert RECORDS.keys() == set(SMALL)


def test_a_number_of_more_than_32_bits_is_no_int() -> None:
    start = SEEDS["position"][0][:5]
    number = b"\x80\x80\x80\x80\x80\x80\x80\x80\x01"
    rest = b"\x0e\x80\x80\x80\x80\x80@\x02\x80\xc0\xb8\x84\xfab"
    rest += b"\x80\x80\xb4\xd9\xb2\x89\x85\x06\x02a\x00\x12\x00"
    with pytest.raises(ContractError, match="bad_number"):
        decode_record("position", start + number + rest)


def test_a_number_of_more_than_64_bits_does_not_run_over() -> None:
    value = SEEDS["trade"][0]
    at = value.index(avro_peer.varint(5))
    with pytest.raises(ContractError, match="bad_number"):
        decode_record("trade", value[:at] + b"\xff" * 9 + b"\x7f" + value[at + 1 :])


@pytest.mark.parametrize("name", SMALL)
@fuzzed
@given(st.data())
def test_small_records(name: str, data: st.DataObject) -> None:
    value = data.draw(mutated(SEEDS[name]))
    try:
        inside = decode_record(name, value)
    except ContractError as error:
        assert error.fields["reason"]
        if error.fields["reason"] == "invalid_timestamp":
            return  # what int64 cannot hold inside
        try:
            longer = avro_peer.write(name, expected(name, value))
        except RefusedError:
            return
        assert longer[5:] != value[5:], "refused what the specification writes so"
        return
    wire = expected(name, value)
    for field, stated in inside.items():
        unit = {"received_time_ns": 1000, "known_time_ns": 1000, "time_ns": 1000}.get(field, 10**6)
        if not field.endswith("_ns"):
            assert same(stated, wire[field]), field
        elif stated is None:
            assert wire[field[:-3]] is None
        else:
            assert stated in (wire[field[:-3]] * unit, wire[field[:-3]] * 1000), field


# --- bars and blocks

ROWS = [Row("BTC/USDT", m, 100.0 + m, ids=(5 * m, 5 * m + 3)) for m in range(4)]
BAR_SEEDS = tuple(encode_bars([row.symbol for row in ROWS], columns_of(ROWS), 77))
CONFORMED_SEEDS = tuple(
    encode_conformed(
        [b"BTC/USDT"],
        np.zeros(len(ROWS), np.int32),
        ConformedColumns.of_landing(columns_of(ROWS)),
        77,
    )
)
BLOCK_SEEDS = (
    block_value(PARENT, "BTC/USDT", 0, ROWS, start=0, through=240),
    block_value(PARENT, "A", 0, [], start=0, through=None),
)


def check_bar(name: str, value: bytes, ok: bool, columns: Any, symbol: str) -> None:
    try:
        wire = expected(name, value)
    except RefusedError:
        assert not ok, "read what the specification refuses"
        return
    if not ok:
        return  # a symbol too long, a time that int64 cannot hold: the codec says which
    assert symbol == wire["symbol"]
    assert int(columns.open_time_ns[0]) == wire["open_time"] * 10**6
    for field in ("open", "high", "low", "close", "volume"):
        stated = float(getattr(columns, field)[0])
        assert same(stated, wire[field]) or stated == wire[field] == 0
    for field in avro_peer.NUMBERS:
        assert int(getattr(columns, field)[0]) == (-1 if wire[field] is None else wire[field])


@fuzzed
@given(mutated(BAR_SEEDS))
def test_landing_bars(value: bytes) -> None:
    decoder = BarDecoder()
    decoded = decoder.decode([BAR_SEEDS[0], value, BAR_SEEDS[1]])
    assert decoded.ok[0] and decoded.ok[2], "a bad record takes good ones with it"
    ok = bool(decoded.ok[1])
    symbol = decoder.symbols[int(decoded.sid[1])] if ok else ""
    check_bar("bar", value, ok, decoded.columns.take(slice(1, 2)), symbol)


@fuzzed
@given(mutated(CONFORMED_SEEDS))
def test_conformed_bars(value: bytes) -> None:
    decoder = ConformedDecoder()
    decoded = decoder.decode([CONFORMED_SEEDS[0], value])
    ok = bool(decoded.ok[1])
    symbol = decoder.symbols[int(decoded.sid[1])] if ok else ""
    check_bar("conformed_bar", value, ok, decoded.columns.take(slice(1, 2)), symbol)


@fuzzed
@given(mutated(BLOCK_SEEDS))
def test_blocks(value: bytes) -> None:
    try:
        block = decode_block(value)
    except ContractError as error:
        assert error.fields["reason"]
        return
    wire = expected("bar_block", value)
    assert block.symbol == wire["symbol"] and block.digest == wire["digest"]
    assert block.block_start_ns == wire["block_start"] * 10**6
    assert (block.columns.open_time_ns // 10**6).tolist() == wire["open_time"]
    for field in ("open", "high", "low", "close", "volume"):
        stated = getattr(block.columns, field).tolist()
        assert all(same(a, b) or a == b == 0 for a, b in zip(stated, wire[field], strict=True))
    again = decode_block(encode_block(block, 77))
    assert again.columns.open.tobytes() == block.columns.open.tobytes()


# --- keys and headers

keys = st.one_of(
    st.binary(max_size=30),
    mutated((b"BTC/USDT|1700006400000", b"A|-60000", b"A|0|60000", b"preset|A/B")),
    st.text("0123456789|-A ٣", max_size=30).map(str.encode),
)


@fuzzed
@example(b"A|" + b"9" * 30)
@example(b"A|" + b"9" * 5_000)
@example("A|٣".encode())
@given(keys)
def test_keys(key: bytes) -> None:
    for parse, build in ((parse_gap_key, gap_key), (parse_chunk_key, chunk_key)):
        try:
            parts = parse(key)
        except ContractError:
            continue
        assert build(*parts) == key
        assert all(-(2**63) <= part < 2**63 for part in parts[1:])
    try:
        assert symbol_key(parse_symbol_key(key)) == key
        assert "|".join(parse_dataset_key(key.decode())) == key.decode()
    except (ContractError, UnicodeDecodeError):
        pass


@fuzzed
@given(mutated((b"seamline.ohlcv.binance.spot.1m.live", b"seamline.a.b.seals")))
def test_topics(name: bytes) -> None:
    text = name.decode("latin-1")
    try:
        parts = parse_topic(text)
    except UsageError:
        return
    assert topic_name(*parts) == text


@fuzzed
@example(b"1_000")
@example(b" 1700006400000000000")
@example(b"9" * 5_000)
@example(b"\xd9\xa3")
@given(st.binary(max_size=24) | st.text("0123456789+-_ .e", max_size=24).map(str.encode))
def test_watermarks(text: bytes) -> None:
    record = MemoryRecord("t", 0, 0, 0, None, None, (("seamline-watermark-ns", text),))
    watermark_ns = watermark_of(record)
    assert watermark_ns is None or str(watermark_ns).encode() == text


# --- schema texts of a registry


@fuzzed
@example(b"[" * 50_000)
@example(b'{"type":' * 50_000)
@given(mutated(tuple(SCHEMAS[name].text.encode() for name in ("gap", "position"))))
def test_schema_texts(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    try:
        fingerprint = fingerprint_of_text(text)
    except ContractError:
        return
    assert len(fingerprint) == 64 and json.loads(text) is not None
    found = by_text(text)
    assert found is None or found.fingerprint == fingerprint
