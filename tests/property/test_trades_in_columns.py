"""Trades in columns are what they are one by one.

The decoder against `decode_record`, and the rules against a judge that is written here once more,
for one trade and nothing else: over good trades, wrong ones and bytes that are none, the same
fields, the same rules in the same order, the same words.
"""

from __future__ import annotations

import io
import json
import math
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import fastavro
import numpy as np
import pytest

import trade_bytes
from machine_world import IDS, PARENT, START_NS, resolve
from older_records import FIRST
from seamline.schemas.codec import SymbolTable, frame
from seamline.schemas.codec_trades import TradeDecoder
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import MODES, Policy
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_MS, NS_PER_S, NS_PER_US
from seamline.schemas.topics import HEADER_FINGERPRINT, HEADER_WATERMARK_NS, partition_of
from seamline.streams.kernel.intake import CLOCK_SKEW_NS, watermark_of
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import Record
from seamline.streams.kernel.trade_rules import TradeRules, latest_of
from seamline.streams.kernel.writers import Meaning, Writer, meaning_of

TRADES = replace(PARENT, id="trades.test.spot", kind="trades", interval_ns=0, partitions=2)
# Of both partitions.
NAMES = [f"M{number}/USDT" for number in range(12)]
FIRST_ID, DRIFTED_ID, STRANGE_ID, DOWN_ID = 101, 201, 203, 204
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Told:
    rules: tuple[str, ...] = ()
    detail: str = ""
    trade: Mapping[str, Any] | None = None


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_reads_as_each_of_its_records(seed: int, version: int) -> None:
    rng = random.Random(100 * seed + version)
    decoder = TradeDecoder()
    for rows in (0, 1, 400):
        values = [trade_bytes.any_trade(rng, IDS["trade"]) for _ in range(rows)]
        found = decoder.decode(values, version)
        refused = 0
        for row, value in enumerate(values):
            try:
                trade = decode_record("trade", value, version)
            except ContractError as error:
                assert (found.ok[row], found.reasons[row]) == (False, error.fields["reason"]), value
                assert found.sid[row] == -1 and not found.time_ns[row] and not found.price[row]
                refused += 1
                continue
            assert found.ok[row], value
            sid = found.sid[row]
            symbol = decoder.symbols[sid] if sid >= 0 else found.others[row]
            names = ("trade_id", "time_ns", "received_time_ns")
            assert symbol == trade["symbol"]
            assert [getattr(found, n)[row] for n in names] == [trade[n] for n in names], value
            assert bits(found.price[row]) == bits(trade["price"]), value
            assert bits(found.size[row]) == bits(trade["size"]), value
        assert len(found.reasons) == refused and (rows < 400 or 40 < refused < 360)


def test_versions_are_of_each_record_and_a_symbol_too_many_is_read_all_the_same() -> None:
    table = SymbolTable()
    for number in range(65_536):
        table.intern(f"S{number}")
    auction = trade_bytes.trade(1, b"S7", side=b"\2\4")
    values = [auction, auction, trade_bytes.trade(1, b"one more"), trade_bytes.trade(1, b"x" * 65)]
    found = TradeDecoder(table).decode(values, np.array([2, 1, 1, 2], np.uint8))
    assert found.ok.tolist() == [True, False, True, True]
    assert found.sid.tolist() == [7, -1, -1, -1]
    assert found.others == {2: "one more", 3: "x" * 65}
    for versions in (0, 3, np.array([1], np.uint8)):
        with pytest.raises(UsageError):
            TradeDecoder().decode(values, versions)


def drifted_text() -> str:
    schema = json.loads(SCHEMAS["trade"].text)
    for field in schema["fields"]:
        if field["name"] == "price":
            field["type"] = "string"
    return json.dumps(schema)


DRIFTED = meaning_of(drifted_text(), ("trade",))
assert DRIFTED is not None
WITHDRAWN = frozenset({FIRST["trade"].fingerprint, DRIFTED.fingerprint})


def registry(number: int) -> Meaning | None:
    if number == DOWN_ID:
        raise TransportError("the registry does not answer")
    if number == DRIFTED_ID:
        return DRIFTED
    return FIRST["trade"] if number == FIRST_ID else resolve(number)


def drifted_value(rng: random.Random, symbol: bytes) -> bytes:
    fields = {
        "symbol": symbol.decode("utf-8", "replace"),
        "trade_id": 3,
        "time": START_NS // NS_PER_US,
        "price": rng.choice(("12.5", "-1", "many")),
        "size": 1.0,
        "received_time": 0,
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, json.loads(drifted_text()), fields)
    return frame(DRIFTED_ID) + out.getvalue()


def landed(rng: random.Random, at: int) -> MemoryRecord:
    symbol = rng.choice(NAMES).encode()
    headers: tuple[tuple[str, bytes], ...] = ()
    time_us = START_NS // NS_PER_US + rng.randrange(-(10**7), 3 * 10**7)
    number = rng.choice((IDS["trade"], IDS["trade"], FIRST_ID))
    value: bytes | None = trade_bytes.trade(number, symbol, at, time_us)
    key: bytes | None = symbol
    match rng.randrange(24):
        case 0:
            price, size = rng.choices(trade_bytes.DOUBLES, k=2)
            value = trade_bytes.trade(number, symbol, at, time_us, price, size)
        case 1 | 2:
            value = trade_bytes.any_trade(rng, number)
        case 3:
            symbol = key = rng.choice(trade_bytes.SYMBOLS)
            value = trade_bytes.trade(number, symbol, at, time_us)
        case 4:
            key = rng.choice((None, b"", b"other", symbol + b"x"))
        case 5:
            value = drifted_value(rng, symbol)
        case 6:
            value = frame(rng.choice((STRANGE_ID, DOWN_ID, IDS["seal"]))) + b"abc"
        case 7:
            stated = rng.choice((b"0" * 16, SCHEMAS["trade"].header, FIRST["trade"].header))
            headers = (("other", b"x"), (HEADER_FINGERPRINT, stated))
        case 8:
            value, headers = None, rng.choice(((), ((HEADER_WATERMARK_NS, b"12"),)))
        case 9:
            time_us = rng.choice(trade_bytes.TIMES)
            value = trade_bytes.trade(number, symbol, at, time_us, -1.0)
        case 10:
            ends = (
                -1,
                0,
                INT64_MAX,
                -INT64_MAX - 1,
                INT64_MAX // NS_PER_MS - rng.randrange(20_000),
            )
            value = trade_bytes.trade(number, symbol, at, rng.choice(trade_bytes.TIMES[:6]))
            return MemoryRecord("t", 0, at, rng.choice(ends), key, value, headers)
    return MemoryRecord("t", 0, at, START_NS // NS_PER_MS, key, value, headers)


def told(record: Record, writer: Writer, clock_ns: int, partition: int) -> Told:
    """The rules of one trade, one after the other."""
    if record.value is None:
        watermark_ns = watermark_of(record)
        if watermark_ns is not None:
            return Told(("future_time",), f"watermark {watermark_ns} ns")
        return Told(("null_value",), "no heartbeat headers")
    if not writer.name:
        return Told((writer.reason,), writer.detail)
    if any(key == HEADER_FINGERPRINT and stated != writer.header for key, stated in record.headers):
        return Told(("fingerprint_mismatch",), f"{writer.detail}, the header says another")
    value = record.value if writer.drift is None else writer.drift.translate(record.value)
    if value is None:
        return Told(("unknown_schema",), "does not resolve as trade")
    try:
        trade = decode_record("trade", value, writer.version)
    except ContractError as error:
        return Told(("undecodable",), error.fields["reason"])
    if record.key != trade["symbol"].encode():
        return Told(("key_mismatch",), "the key is not the UTF-8 symbol of the value", trade)
    if partition_of(trade["symbol"], TRADES.partitions) != partition:
        why = "the producer does not partition by murmur2 of the key"
        return Told(("wrong_partition",), why, trade)
    if not (math.isfinite(trade["price"]) and math.isfinite(trade["size"])):
        return Told(("non_finite",), "price or size", trade)
    if trade["time_ns"] > clock_ns + 10 * NS_PER_S:
        return Told(("future_time",), f"{trade['time_ns']} ns", trade)
    low = [name for name in ("price", "size") if trade[name] <= 0]
    rules = (*(f"non_positive_{name}" for name in low), *writer.broken)
    return Told(rules, f"{trade[low[0]]}" if low else writer.detail, trade)


@pytest.mark.parametrize("partition", [0, 1])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_judged_as_each_of_its_records(seed: int, mode: str, partition: int) -> None:
    rng = random.Random(seed)
    policy = Policy(mode, tombstones=rng.choice((frozenset(), WITHDRAWN)))
    judge = TradeRules(TRADES, partition, registry)
    records = [landed(rng, at) for at in range(800)]
    seen: set[str] = set()
    for part in (records[:1], records[1:4], records[4:]):
        times = np.array([record.timestamp for record in part], np.int64)
        writers = judge.writers(part, policy)
        judged = judge.judge(part, writers, latest_of(times))
        rows = {place: row for row, place in enumerate(judged.places.tolist())}
        for at, (record, writer) in enumerate(zip(part, writers, strict=True)):
            one = told(record, writer, record.timestamp * NS_PER_MS, partition)
            broken = judged.broken.get(at)
            assert (() if broken is None else broken.rules) == one.rules, record
            assert broken is None or broken.detail == one.detail, record
            seen.update(one.rules)
            if one.trade is None:
                assert at not in rows or not judged.trades.ok[rows[at]]
            else:
                row = rows[at]
                assert judged.trades.ok[row]
                assert judge.symbol(judged.trades, row) == one.trade["symbol"]
                assert judged.trades.trade_id[row] == one.trade["trade_id"]
    assert {"undecodable", "key_mismatch", "wrong_partition", "non_finite", "future_time"} <= seen
    assert {"non_positive_price", "non_positive_size", "fingerprint_mismatch"} <= seen


def test_the_latest_time_of_any_clock_does_not_run_over() -> None:
    most = INT64_MAX // NS_PER_MS
    clocks = [0, -1, 5, most, most - 10_000, most - 10_001, -most, -most - 1, -most - 10_000]
    clocks += [-most - 10_001, INT64_MAX, -INT64_MAX - 1]
    found = latest_of(np.array(clocks, np.int64)).tolist()
    for clock, latest in zip(clocks, found, strict=True):
        exact = clock * NS_PER_MS + CLOCK_SKEW_NS
        # Times of trades are whole microseconds within 64 bits, the least int64 not among them.
        assert latest == min(exact, INT64_MAX) if exact >= -INT64_MAX else latest < -INT64_MAX
