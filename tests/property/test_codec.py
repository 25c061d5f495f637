"""The codec against fastavro: the same bytes and values, and nothing accepted that it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import avro_peer
from avro_peer import SCHEMA_ID
from bar_strategies import assert_same, bars, blocks
from seamline.schemas.codec import (
    BarDecoder,
    ConformedDecoder,
    DecodedConformed,
    decode_block,
    decode_record,
    encode_bars,
    encode_block,
    encode_conformed,
    encode_record,
    frame,
)
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError

pytestmark = pytest.mark.filterwarnings("error")
checked = settings(deadline=None, max_examples=150)  # the first example may compile

# How bytes go wrong: cut at, then these bytes set, then these appended.
damages = st.tuples(
    st.one_of(st.none(), st.floats(0, 1)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3),
    st.binary(max_size=3),
)


def damaged(value: bytes, damage: tuple[Any, ...]) -> bytes:
    more: bytes
    cut, changes, more = damage
    out = bytearray(value if cut is None else value[: int(cut * len(value))])
    for where, byte in changes:
        if out:
            out[min(int(where * len(out)), len(out) - 1)] = byte
    return bytes(out) + more


@checked
@given(bars(BarColumns), st.integers(0, 2**63 // 10**6).map(lambda value: value * 10**6))
def test_bars_are_byte_for_byte_fastavro(
    drawn: tuple[list[str], BarColumns], interval_ns: int
) -> None:
    symbols, columns = drawn
    records = avro_peer.bar_records(symbols, columns)
    values = encode_bars(symbols, columns, SCHEMA_ID, interval_ns)
    stated = {"interval_ms": interval_ns // 10**6}
    assert values == [avro_peer.write("bar", record | stated) for record in records]
    decoder = BarDecoder()
    decoded = decoder.decode(values)
    assert decoded.ok.all()
    assert (decoded.interval_ns == interval_ns).all()
    assert not decoded.explicit_null.any()
    assert [decoder.symbols[sid] for sid in decoded.sid] == symbols
    assert_same(decoded.columns, columns)


@checked
@given(bars(ConformedColumns))
def test_conformed_bars_are_byte_for_byte_fastavro(
    drawn: tuple[list[str], ConformedColumns],
) -> None:
    symbols, columns = drawn
    records = avro_peer.bar_records(symbols, columns)
    decoder = ConformedDecoder()
    sid = np.array([decoder.table.intern(symbol) for symbol in symbols], np.int32)
    values = encode_conformed(decoder.table.encoded, sid, columns, SCHEMA_ID)
    assert values == [avro_peer.write("conformed_bar", record) for record in records]
    decoded = decoder.decode(values)
    assert decoded.ok.all()
    np.testing.assert_array_equal(decoded.sid, sid)
    assert_same(decoded.columns, columns)


@checked
@given(blocks())
def test_blocks_are_byte_for_byte_fastavro(block: Block) -> None:
    value = encode_block(block, SCHEMA_ID)
    assert value == avro_peer.write("bar_block", avro_peer.block_record(block))
    assert_same_block(decode_block(value), block)


@checked
@given(blocks(), st.data())
def test_arrays_in_several_avro_blocks_read_the_same(block: Block, data: st.DataObject) -> None:
    def cut(items: int) -> list[tuple[int, bool]]:
        pieces = []
        while items:
            count = data.draw(st.integers(1, items))
            pieces.append((count, data.draw(st.booleans())))
            items -= count
        return pieces

    value = avro_peer.write_cut("bar_block", avro_peer.block_record(block), cut)
    assert_same_block(decode_block(value), block)


@checked
@given(bars(BarColumns, 3), st.lists(damages, min_size=1, max_size=4))
def test_damaged_bars_are_never_ok_when_fastavro_refuses(
    drawn: tuple[list[str], BarColumns], harm: list[tuple[Any, ...]]
) -> None:
    symbols, columns = drawn
    values = encode_bars(symbols, columns, SCHEMA_ID)
    check_damaged("bar", BarDecoder(), [damaged(v, h) for v in values for h in harm])


@checked
@given(bars(ConformedColumns, 3), st.lists(damages, min_size=1, max_size=4))
def test_damaged_conformed_bars_are_never_ok_when_fastavro_refuses(
    drawn: tuple[list[str], ConformedColumns], harm: list[tuple[Any, ...]]
) -> None:
    symbols, columns = drawn
    encoded = [symbol.encode() for symbol in symbols]
    values = encode_conformed(encoded, np.arange(len(symbols)), columns, SCHEMA_ID)
    check_damaged(
        "conformed_bar", ConformedDecoder(), [damaged(v, h) for v in values for h in harm]
    )


@checked
@given(st.lists(st.binary(max_size=120), max_size=5))
def test_arbitrary_bytes_are_never_ok_when_fastavro_refuses(tails: list[bytes]) -> None:
    values = [*tails, *(frame(SCHEMA_ID) + tail for tail in tails)]
    check_damaged("bar", BarDecoder(), values)
    check_damaged("conformed_bar", ConformedDecoder(), values)
    for value in values:
        check_damaged_block(value)


@checked
@given(blocks(), damages)
def test_damaged_blocks_are_refused_when_fastavro_refuses(
    block: Block, harm: tuple[Any, ...]
) -> None:
    check_damaged_block(damaged(encode_block(block, SCHEMA_ID), harm))


def check_damaged(name: str, decoder: BarDecoder | ConformedDecoder, values: list[bytes]) -> None:
    decoded = decoder.decode(values)
    accepted = [i for i in range(len(values)) if decoded.ok[i]]
    symbols = [decoder.symbols[decoded.sid[i]] for i in accepted]
    columns: Any = decoded.columns.take(np.array(accepted, np.int64))
    for i, record in zip(accepted, avro_peer.bar_records(symbols, columns), strict=True):
        theirs = avro_peer.read(name, values[i])
        stated = theirs.pop("interval_ms", 0)
        assert isinstance(decoded, DecodedConformed) or decoded.interval_ns[i] == stated * 10**6
        assert set(theirs) == set(record)
        for field, ours in record.items():
            explicit = decoded.explicit_null[i] and ours is None
            assert explicit or same(ours, theirs[field]), field
    # what is not ok says nothing
    rest = np.flatnonzero(~decoded.ok)
    assert not decoded.columns.open[rest].any()
    assert not decoded.columns.open_time_ns[rest].any()


def check_damaged_block(value: bytes) -> None:
    try:
        block = decode_block(value)
    except ContractError as error:
        assert error.fields["reason"]
        return
    theirs = avro_peer.read("bar_block", value)
    assert theirs["symbol"] == block.symbol
    assert len(theirs["open_time"]) == len(block.columns)
    for field, ours in avro_peer.block_record(block).items():
        nothing = ours is None and (theirs[field] is None or empty(theirs[field]))
        assert nothing or same(ours, theirs[field]), field


def empty(values: list[float]) -> bool:
    return all(value == -1 or math.isnan(value) for value in values)


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    nan = (
        isinstance(ours, float)
        and isinstance(theirs, float)
        and math.isnan(ours)
        and math.isnan(theirs)
    )
    return bool(ours == theirs) or nan


def assert_same_block(one: Block, other: Block) -> None:
    assert_same(one.columns, other.columns)
    for name in Block.__slots__:
        if name != "columns":
            assert getattr(one, name) == getattr(other, name), name


int64 = st.integers(-(2**63), 2**63 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
ms = st.integers(-(2**63) // 10**6 + 1, 2**63 // 10**6 - 1).map(lambda value: value * 10**6)
us = st.integers(-(2**63) // 10**3 + 1, 2**63 // 10**3 - 1).map(lambda value: value * 10**3)
text = st.text(max_size=20)
finite = st.floats(allow_nan=False)
failures = st.fixed_dictionaries(
    {"rule": text, "producer": text, "schema_id": int64, "symbol": text, "count": int64}
)
RECORDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "trade": {
        "symbol": text,
        "trade_id": int64,
        "time_ns": us,
        "price": finite,
        "size": finite,
        "side": st.sampled_from([None, "buy", "sell", "auction"]),
        "source": st.none() | text,
        "received_time_ns": us,
    },
    "seal": {
        "symbol": text,
        "frontier_ns": ms,
        "conformed_offset": int64,
        "merkle_root": st.binary(),
        "sequence": int64,
        "storage_sequence": int64,
        "blocks": int32,
        "rows": int64,
        "history_start_ns": ms,
        "asked_start_ns": ms,
        "known_time_ns": us,
        "live": st.booleans(),
        "owner": text,
    },
    "position": {
        "partition": int32,
        "live_offset": int64,
        "backfill_offset": int64,
        "watermark_ns": st.none() | ms,
        "known_time_ns": us,
        "owner": text,
        "conformed_offset": int64,
        "rows_total": int64,
        "modes_version": int64,
    },
    "report": {
        "symbol": text,
        "window_start_ns": ms,
        "window_end_ns": ms,
        **dict.fromkeys(("rows", "missing", "revisions", "confirmed", "discarded"), int64),
        **dict.fromkeys(("conflicts", "late", "quarantined"), int64),
        "findings": st.dictionaries(text, int64, max_size=3),
        "failures": st.lists(failures, max_size=3),
        "known_time_ns": us,
    },
    "chunk": {
        "symbol": text,
        "start_ns": ms,
        "end_ns": ms,
        "state": st.sampled_from(["planned", "leased", "fetched", "landed", "resolved", "failed"]),
        "complete_through_ns": st.none() | ms,
        "rows": int64,
        "digest": st.binary(),
        "attempts": int32,
        "fetched_time_ns": us,
    },
    "gap": {
        "symbol": text,
        "start_ns": ms,
        "end_ns": ms,
        "bars": int64,
        "known_time_ns": us,
        "cause": st.sampled_from(
            ["no_trades", "venue_outage", "our_loss", "late", "unknown", "quarantined"]
        ),
        "detail": st.none() | text,
    },
}


def test_every_small_record_is_here() -> None:
    assert RECORDS.keys() == SCHEMAS.keys() - {"bar", "conformed_bar", "bar_block"}


@pytest.mark.parametrize("name", RECORDS)
@checked
@given(data=st.data(), harm=damages)
def test_small_records(name: str, data: st.DataObject, harm: tuple[Any, ...]) -> None:
    record = data.draw(st.fixed_dictionaries(RECORDS[name]))
    value = encode_record(name, record, SCHEMA_ID)
    wire = avro_peer.read(name, value)
    assert avro_peer.write(name, wire) == value
    for field, there in wire.items():
        if field in record:
            assert record[field] == there
        else:
            unit = record[f"{field}_ns"]
            assert unit is None or unit in (there * 10**6, there * 10**3)
    assert decode_record(name, value) == record
    try:
        decode_record(name, damaged(value, harm))
    except ContractError as error:
        assert error.fields["reason"]
