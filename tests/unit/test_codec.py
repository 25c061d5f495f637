"""The codec, case by case: which bytes are refused and why, and where its limits are."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import avro_peer
from avro_peer import SCHEMA_ID, varint
from seamline.schemas.codec import (
    REASONS,
    BarDecoder,
    ConformedDecoder,
    SymbolTable,
    decode_block,
    decode_record,
    encode_bars,
    encode_block,
    encode_conformed,
    encode_record,
    frame,
    schema_ids,
)
from seamline.schemas.columns import PRICE_FIELDS, BarColumns, Block, ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import block_digest

MINUTE_NS = 60_000_000_000
START_NS = 1_700_006_400_000_000_000
BAR: dict[str, Any] = {
    "symbol": "BTC/USDT",
    "open_time": 1_700_000_000_000,
    "open": 1.5,
    "high": 2.0,
    "low": 1.0,
    "close": 1.75,
    "volume": 10.0,
    "quote_volume": None,
    "trades": 3,
    "first_trade_id": None,
    "last_trade_id": 9,
    "source": "ws_closed",
    "closed": True,
    "received_time": 1_700_000_060_000_123,
}


def bar_bytes(**changes: Any) -> bytes:
    """A framed bar from raw parts, so that each can be wrong: bytes stand for themselves."""
    parts: dict[str, bytes] = {
        "frame": frame(SCHEMA_ID),
        "symbol": varint(8) + b"BTC/USDT",
        "open_time": varint(1_700_000_000_000),
        "prices": struct.pack("<5d", 1.5, 2.0, 1.0, 1.75, 10.0),
        "optional": b"\0" + b"\2" + varint(3) + b"\0" + b"\2" + varint(9),
        "source": varint(1),
        "closed": b"\1",
        "received_time": varint(1_700_000_060_000_123),
        "interval": b"\0",
        "end": b"",
    }
    assert changes.keys() <= parts.keys()
    return b"".join((parts | changes).values())


WRONG = {
    "not_framed": [b"", b"\0\0\0\0", bar_bytes(frame=b"\1\0\0\0\5")],
    "truncated": [
        bar_bytes()[:-1],
        bar_bytes()[:5],
        bar_bytes()[:20],
        bar_bytes(symbol=varint(10**9) + b"BTC"),
        bar_bytes(symbol=varint(-1) + b"BTC"),
        bar_bytes(symbol=varint(2**63 - 1)),
        bar_bytes(symbol=varint(-(2**63))),
        bar_bytes(closed=b"", received_time=b"", interval=b""),
        bar_bytes(interval=b""),
    ],
    "trailing_bytes": [bar_bytes(end=b"\0"), bar_bytes(end=b"x" * 1000)],
    "bad_number": [
        bar_bytes(open_time=b"\xff" * 10 + b"\0"),
        bar_bytes(open_time=b"\xff" * 9 + b"\2"),
        bar_bytes(interval=varint(-1)),
        bar_bytes(interval=varint(2**63 // 1_000_000 + 1)),
    ],
    "bad_enum": [bar_bytes(source=varint(4)), bar_bytes(source=varint(-1))],
    "bad_boolean": [bar_bytes(closed=b"\2"), bar_bytes(closed=b"\xff")],
    "bad_symbol": [
        bar_bytes(symbol=b"\0"),
        bar_bytes(symbol=varint(65) + b"x" * 65),
        bar_bytes(symbol=varint(2) + b"\xc0\xaf"),  # an overlong slash
        bar_bytes(symbol=varint(3) + b"\xed\xa0\x80"),  # a surrogate
        bar_bytes(symbol=varint(4) + b"\xf4\x90\x80\x80"),  # above the last code point
        bar_bytes(symbol=varint(1) + b"\x80"),
        bar_bytes(symbol=varint(2) + b"a\xe2"),
    ],
    "invalid_timestamp": [
        bar_bytes(open_time=varint(2**63 // 1_000_000 + 1)),
        bar_bytes(open_time=varint(-(2**63))),
        bar_bytes(received_time=varint(2**63 // 1_000 + 1)),
    ],
    "bad_union": [bar_bytes(optional=b"\4" + b"\0" * 3), bar_bytes(optional=b"\1" + b"\0" * 3)],
}


@pytest.mark.parametrize(
    ("reason", "value"),
    [(reason, value) for reason, values in WRONG.items() for value in values],
)
def test_wrong_bars_have_a_reason_and_harm_no_neighbour(reason: str, value: bytes) -> None:
    decoder = BarDecoder()
    decoded = decoder.decode([bar_bytes(), value, bar_bytes()])
    assert [REASONS[code] for code in decoded.code] == ["ok", reason, "ok"]
    assert decoded.ok.tolist() == [True, False, True]
    assert decoder.symbols == ["BTC/USDT"]
    # only a bad time leaves a row that still knows its symbol
    assert decoded.sid.tolist() == [0, 0 if reason == "invalid_timestamp" else -1, 0]
    assert decoded.columns.open.tolist() == [1.5, 0.0, 1.5]
    assert decoded.columns.trades.tolist() == [3, -1, 3]


def test_the_raw_parts_are_a_bar() -> None:
    assert bar_bytes() == avro_peer.write("bar", BAR)


def test_every_cut_and_every_byte_is_survived() -> None:
    """All cuts, and all 256 values of every byte."""
    good = bar_bytes()
    cuts = [good[:n] for n in range(len(good))]
    assert not BarDecoder().decode(cuts).ok.any()
    for at in range(len(good)):
        changed = [good[:at] + bytes([b]) + good[at + 1 :] for b in range(256)]
        decoded = BarDecoder().decode(changed)
        for row in np.flatnonzero(decoded.ok):
            avro_peer.read("bar", changed[row])


def test_negative_zero_reads_as_zero() -> None:
    prices = struct.pack("<5d", -0.0, 1.0, -0.0, 1.0, -0.0)
    quote = b"\2" + struct.pack("<d", -0.0) + b"\0\0\0"
    columns = BarDecoder().decode([bar_bytes(prices=prices, optional=quote)]).columns
    for column in (columns.open, columns.low, columns.volume, columns.quote_volume):
        assert column.view(np.int64).tolist() == [0]


@pytest.mark.parametrize(
    "optional",
    [b"\2" + struct.pack("<d", float("nan")) + b"\0\0\0", b"\0\2" + varint(-1) + b"\0\0"],
)
def test_a_value_equal_to_the_null_marker_is_told(optional: bytes) -> None:
    decoded = BarDecoder().decode([bar_bytes(optional=optional), bar_bytes()])
    assert decoded.ok.all()
    assert decoded.explicit_null.tolist() == [True, False]


def test_overlong_but_valid_numbers_are_read() -> None:
    """Avro does not forbid them, and other writers pad."""
    decoded = BarDecoder().decode([bar_bytes(source=b"\x82\x80\x00")])
    assert decoded.ok.all()
    assert decoded.columns.source.tolist() == [1]


def test_schema_ids() -> None:
    values = [b"", b"\0\0\0\0", b"\1\0\0\0\1", frame(1), frame(2**32 - 1) + b"x", frame(258) * 2]
    assert schema_ids(values).tolist() == [-1, -1, -1, 1, 2**32 - 1, 258]
    assert schema_ids([]).tolist() == []
    for number in (-1, 2**32):
        with pytest.raises(UsageError, match="schema_id"):
            frame(number)


def test_nothing_is_nothing() -> None:
    assert len(BarDecoder().decode([]).columns) == 0
    assert encode_bars([], BarColumns.empty(0), SCHEMA_ID) == []
    assert encode_conformed([], np.empty(0, np.int32), ConformedColumns.empty(0), 1) == []


def test_symbols_are_bounded_and_keep_their_numbers() -> None:
    """65,536 symbols fit, the next one is refused, the old ones still work."""
    table = SymbolTable()
    values = [bar_bytes(symbol=varint(6) + b"%06d" % n) for n in range(65_537)]
    decoded = BarDecoder(table).decode(values)
    assert decoded.ok[:-1].all()
    assert REASONS[decoded.code[-1]] == "too_many_symbols"
    np.testing.assert_array_equal(decoded.sid[:-1], np.arange(65_536))
    assert len(table) == 65_536
    assert table.intern("000007") == 7
    assert ConformedDecoder(table).symbols is table.names
    with pytest.raises(ContractError) as refused:
        table.intern("one more")
    assert refused.value.fields["reason"] == "too_many_symbols"


@pytest.mark.parametrize("symbol", ["", "x" * 65, "\ud800"])
def test_what_is_no_symbol(symbol: str) -> None:
    with pytest.raises(ContractError, match="symbol"):
        SymbolTable().intern(symbol)
    with pytest.raises(ContractError, match="symbol"):
        encode_bars([symbol], columns_of(1)[0], SCHEMA_ID)


def columns_of(rows: int) -> tuple[BarColumns, ConformedColumns]:
    bars = BarColumns.empty(rows)
    for name in BarColumns.DTYPES:
        getattr(bars, name)[:] = 1
    bars.open_time_ns[:] = START_NS + np.arange(rows) * MINUTE_NS
    bars.received_time_ns[:] = START_NS + 1_999
    return bars, ConformedColumns.of_landing(bars)


def block_of(rows: int, **changes: Any) -> Block:
    columns = columns_of(rows)[1]
    fields: dict[str, Any] = {
        "symbol": "BTC/USDT",
        "block_start_ns": START_NS,
        "interval_ns": MINUTE_NS,
        "block_end_ns": START_NS + 240 * MINUTE_NS,
        "range_start_ns": START_NS,
        "complete_through_ns": None,
        "columns": columns,
        "sequence": 3,
        "digest": block_digest("BTC/USDT", columns),
    }
    return Block(**(fields | changes))


def test_times_are_never_rounded_but_for_the_clock() -> None:
    bars, conformed = columns_of(2)
    decoded = BarDecoder().decode(encode_bars(["A", "A"], bars, SCHEMA_ID))
    assert decoded.columns.received_time_ns.tolist() == [START_NS + 1_000] * 2
    conformed.known_time_ns[1] = 1
    with pytest.raises(ContractError, match="known_time_ns"):
        encode_conformed([b"A"], np.zeros(2, np.int32), conformed, SCHEMA_ID)
    bars.open_time_ns[1] += 1
    with pytest.raises(ContractError, match="open_time_ns"):
        encode_bars(["A", "A"], bars, SCHEMA_ID)
    with pytest.raises(ContractError, match="block_start_ns"):
        encode_block(block_of(1, block_start_ns=START_NS - 1), SCHEMA_ID)


def test_encoders_refuse_what_no_reader_could_use() -> None:
    bars, conformed = columns_of(2)
    with pytest.raises(UsageError, match="symbols"):
        encode_bars(["A"], bars, SCHEMA_ID)
    with pytest.raises(UsageError, match="sid"):
        encode_conformed([b"A"], np.array([0, 1]), conformed, SCHEMA_ID)
    with pytest.raises(UsageError, match="sid"):
        encode_conformed([b"A"], np.array([0, -1]), conformed, SCHEMA_ID)
    conformed.origin[0] = 3
    with pytest.raises(ContractError, match="origin"):
        encode_conformed([b"A"], np.array([0, 0]), conformed, SCHEMA_ID)
    bars.source[0] = 4
    with pytest.raises(ContractError, match="source"):
        encode_bars(["A", "A"], bars, SCHEMA_ID)


def test_block_rows_are_ordered_and_inside_their_span() -> None:
    columns = columns_of(3)[1]
    for index, reason in (([0, 2, 1], "bad_order"), ([0, 0, 1], "bad_order")):
        with pytest.raises(ContractError) as refused:
            encode_block(block_of(0, columns=columns.take(np.array(index))), SCHEMA_ID)
        assert refused.value.fields["reason"] == reason
    with pytest.raises(ContractError) as refused:
        encode_block(block_of(3, block_end_ns=START_NS + 2 * MINUTE_NS), SCHEMA_ID)
    assert refused.value.fields["reason"] == "outside_span"
    with pytest.raises(ContractError, match="digest"):
        encode_block(block_of(1, digest=b"short"), SCHEMA_ID)


WRONG_BLOCKS: dict[str, list[dict[str, Any]]] = {
    "bad_order": [{"open_time": [2, 1]}, {"open_time": [1, 1]}],
    "outside_span": [{"open_time": [1, 999_999]}, {"open_time": [-1, 1]}, {"block_end": 0}],
    "bad_count": [
        *({"open": [1.0]}, {"volume": [1.0] * 3}, {"quote_volume": [1.0]}, {"trades": [1] * 3}),
        *({"source": b"\0"}, {"received_time": []}, {"revision": [1]}, {"origin": b"\0\0\0"}),
        {"open_time": list(range(5000))},
    ],
    "bad_enum": [{"source": b"\0\4"}, {"origin": b"\3\0"}],
    "bad_digest": [{"digest": b""}, {"digest": b"x" * 33}],
    "bad_number": [{"interval_ms": 0}, {"interval_ms": 2**62}, {"sequence": -1}],
    "bad_union": [{"revision": None}, {"origin": None}, {"known_time": None}],
    "bad_symbol": [{"symbol": ""}, {"symbol": "x" * 65}],
    "invalid_timestamp": [
        *({"block_start": 2**62}, {"complete_through": -(2**62)}, {"open_time": [1, 2**62]}),
        *({"received_time": [1, 2**62]}, {"known_time": [1, -(2**63)]}),
    ],
}


@pytest.mark.parametrize(
    ("reason", "changes"),
    [(reason, changes) for reason, many in WRONG_BLOCKS.items() for changes in many],
)
def test_wrong_blocks_have_a_reason(reason: str, changes: dict[str, Any]) -> None:
    record = {
        "symbol": "A",
        "block_start": 0,
        "block_end": 10_000,
        "range_start": 0,
        "sequence": 1,
        "complete_through": None,
        "interval_ms": 1,
        "digest": b"x" * 32,
        "open_time": [1, 2],
        **{name: [1.0, 2.0] for name in PRICE_FIELDS},
        "quote_volume": None,
        "trades": [1, 2],
        "first_trade_id": None,
        "last_trade_id": None,
        "source": b"\0\1",
        "received_time": [1, 2],
        "revision": [0, 0],
        "flags": [0, 0],
        "known_time": [1, 2],
        "origin": b"\0\1",
    }
    decode_block(avro_peer.write("bar_block", record))
    with pytest.raises(ContractError) as refused:
        decode_block(avro_peer.write("bar_block", record | changes))
    assert refused.value.fields["reason"] == reason


@pytest.mark.parametrize("landing", [True, False])
def test_every_cut_of_a_block_is_refused(landing: bool) -> None:
    value = encode_block(block_of(3, landing=landing), SCHEMA_ID)
    for cut in range(len(value)):
        with pytest.raises(ContractError):
            decode_block(value[:cut])
    with pytest.raises(ContractError):
        decode_block(value + b"\0")


def test_a_lying_array_count_ends_soon() -> None:
    """A count of 2^62 in a small record neither allocates nor loops."""
    value = encode_block(block_of(2), SCHEMA_ID)
    at = value.index(block_of(2).digest) + 32
    for count in (2**62, -(2**62), 2**63 - 1, -(2**63)):
        with pytest.raises(ContractError):
            decode_block(value[:at] + varint(count) + value[at + 1 :])


def test_small_records_refuse_by_field() -> None:
    gap = {
        "symbol": "A",
        "start_ns": 0,
        "end_ns": MINUTE_NS,
        "bars": 1,
        "cause": "late",
        "known_time_ns": 1_000,
    }
    value = encode_record("gap", gap, SCHEMA_ID)
    assert decode_record("gap", value) == {**gap, "detail": None}
    for changes, parameter in (
        *(({"surprise": 1}, "surprise"), ({"start_ns": 5}, "start_ns"), ({"bars": "1"}, "gap")),
        *(({"start_ns": "0"}, "start_ns"), ({"cause": "weather"}, "gap"), ({"bars": 2**63}, "gap")),
    ):
        with pytest.raises(ContractError) as refused:
            encode_record("gap", gap | changes, SCHEMA_ID)
        assert refused.value.parameter == parameter
    with pytest.raises(ContractError, match="missing"):
        encode_record("gap", {"symbol": "A"}, SCHEMA_ID)
    with pytest.raises(UsageError, match="name"):
        encode_record("gaps", gap, SCHEMA_ID)


PLAIN_RUN = """
import hashlib
import test_codec
print(test_codec.digest_of_a_run())
"""


def digest_of_a_run() -> str:
    """Everything once: good and bad bars, conformed bars, blocks."""
    import hashlib

    sha = hashlib.sha256()
    bars, conformed = columns_of(5)
    symbols = ["A", "BTC/ÜSDT", "A", "C", "€/USDT"]
    decoder = BarDecoder()
    values = encode_bars(symbols, bars, SCHEMA_ID)
    decoded = decoder.decode([*values, *(v for group in WRONG.values() for v in group)])
    for name in BarColumns.DTYPES:
        sha.update(getattr(decoded.columns, name).tobytes())
    sha.update(decoded.code.tobytes() + decoded.sid.tobytes())
    for value in encode_conformed(decoder.table.encoded, decoded.sid[:5], conformed, SCHEMA_ID):
        sha.update(value)
        assert ConformedDecoder().decode([value]).ok.all()
    block = encode_block(block_of(7), SCHEMA_ID)
    sha.update(block + encode_block(decode_block(block), SCHEMA_ID))
    sha.update(schema_ids(values).tobytes())
    return sha.hexdigest()


def test_the_plain_run_is_the_compiled_run() -> None:
    """Without a compiler the same functions give the same bytes, and no warning."""
    tests = Path(__file__).parent.parent
    environment = {
        **os.environ,
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": os.pathsep.join((str(tests), str(tests / "unit"))),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN_RUN],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == digest_of_a_run()
