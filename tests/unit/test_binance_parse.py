"""What Binance sends becomes values once, and what it cannot mean keeps its bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.connectors.venues.binance_parse import (
    KlineFrame,
    Malformed,
    Notice,
    Reply,
    TradeFrame,
    parse_frame,
    parse_row,
    rest_columns,
    ws_columns,
)
from seamline.schemas.columns import REST_FRESH, REST_SETTLED, WS_CLOSED, WS_OPEN

RECORDED = sorted((Path(__file__).parent.parent / "data/binance_ws").glob("*.jsonl"))
LINES = [line for path in RECORDED for line in path.read_bytes().splitlines()]
MIN_NS = 60_000_000_000
ROW = [60_000, "1.5", "2.0", "1.0", "1.7", "10.0", 119_999, "15.0", 3, "1.0", "1.5", "0"]


def recorded_kline(**changes: Any) -> bytes:
    message = json.loads(LINES[0])
    message["data"]["k"].update(changes)
    return json.dumps(message).encode()


@pytest.mark.parametrize("raw", LINES)
def test_recorded_frames_are_read_in_full(raw: bytes) -> None:
    data = json.loads(raw)["data"]
    frame = parse_frame(raw, 5)
    assert parse_frame(json.dumps(data).encode(), 5) == frame
    if data["e"] == "kline":
        k = data["k"]
        texts = dict(
            zip("ohlcvq", ("open", "high", "low", "close", "volume", "quote_volume"), strict=True)
        )
        others = {"s": "venue_symbol", "i": "interval", "t": "open_ms", "x": "closed"}
        counts = {"n": "trades", "f": "first_trade_id", "L": "last_trade_id"}
        assert isinstance(frame, KlineFrame)
        for key, name in (others | counts).items():
            assert getattr(frame, name) == k[key]
        for key, name in texts.items():
            assert getattr(frame, name) == float(k[key])
        assert (frame.event_ms, frame.received_ns) == (data["E"], 5)
    else:
        assert frame == TradeFrame(
            *(data["s"], data["E"], data["f"], data["l"], float(data["p"]), float(data["q"])),
            *(data["T"], data["m"], True, 5),
        )


def test_a_trade_has_one_id() -> None:
    raw = b'{"e":"trade","E":9,"s":"X","t":4,"p":"1","q":"2","T":8,"m":true,"M":true}'
    assert parse_frame(raw, 5) == TradeFrame("X", 9, 4, 4, 1.0, 2.0, 8, True, False, 5)


@pytest.mark.parametrize(
    ("raw", "frame"),
    [
        (b'{"result":null,"id":3}', Reply(3, None, None, "")),
        (b'{"result":["a@trade"],"id":"x"}', Reply("x", ["a@trade"], None, "")),
        (b'{"code":2,"msg":"no","id":4}', Reply(4, None, 2, "no")),
        (b'{"error":{"code":3,"msg":"no"},"id":null}', Reply(None, None, 3, "no")),
        (b'{"e":"serverShutdown","E":7}', Notice("serverShutdown", 7, 5)),
    ],
)
def test_replies_and_notices(raw: bytes, frame: Reply | Notice) -> None:
    assert parse_frame(raw, 5) == frame


@pytest.mark.parametrize(
    ("raw", "reason", "symbol"),
    [
        (b"", "not_json", None),
        (b"{", "not_json", None),
        (b"\xff\xfe", "not_json", None),
        (b"[" * 100_000, "not_json", None),
        (b"[1]", "not_an_object", None),
        (b'{"stream":"x","data":3}', "not_an_object", None),
        (b"{}", "unknown_event", None),
        (b'{"e":"depthUpdate","s":"BTCUSDT"}', "unknown_event", "BTCUSDT"),
        (b'{"e":"kline","s":"BTCUSDT","E":1}', "bad_k", "BTCUSDT"),
        (recorded_kline(o="nan"), "bad_o", "XEMUSDT"),
        (recorded_kline(o="Infinity"), "bad_o", "XEMUSDT"),
        (recorded_kline(o="1e400"), "bad_o", "XEMUSDT"),
        (recorded_kline(o=" 1"), "bad_o", "XEMUSDT"),
        (recorded_kline(o="1_0"), "bad_o", "XEMUSDT"),
        (recorded_kline(o="١"), "bad_o", "XEMUSDT"),
        (recorded_kline(o=1.5), "bad_o", "XEMUSDT"),
        (recorded_kline(t=True), "bad_t", "XEMUSDT"),
        (recorded_kline(t=1.0), "bad_t", "XEMUSDT"),
        (recorded_kline(t=2**62), "bad_t", "XEMUSDT"),
        (recorded_kline(n=2**63), "bad_n", "XEMUSDT"),
        (recorded_kline(x=1), "bad_x", "XEMUSDT"),
        (recorded_kline(s="OTHER"), "bad_s", "XEMUSDT"),
    ],
)
def test_malformed_frames_keep_their_bytes(raw: bytes, reason: str, symbol: str | None) -> None:
    assert parse_frame(raw, 5) == Malformed(raw, reason, symbol, 5)


def test_a_missing_field_is_named() -> None:
    message = json.loads(LINES[0])
    del message["data"]["k"]["v"]
    frame = parse_frame(json.dumps(message).encode(), 5)
    assert isinstance(frame, Malformed)
    assert frame.reason == "missing_v"


@given(st.binary(max_size=200) | st.sampled_from(LINES).map(lambda raw: raw[: len(raw) // 2]))
def test_no_bytes_raise(raw: bytes) -> None:
    assert isinstance(parse_frame(raw, 5), KlineFrame | TradeFrame | Reply | Notice | Malformed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from("ekEsxtionfLchlvqmTp"), inner, max_size=12)
    ),
    max_leaves=30,
)


@given(JSON)
def test_no_json_raises(value: Any) -> None:
    raw = json.dumps(value).encode()
    frame = parse_frame(raw, 5)
    if isinstance(frame, Malformed):
        assert frame.raw == raw
    parse_row(value, "X", "1m", 0, 5)


def test_a_row_is_closed_by_the_clock_of_the_venue() -> None:
    assert [kline_of(ROW, at).closed for at in (119_999, 120_000)] == [False, True]


def kline_of(row: list[Any], venue_ms: int) -> KlineFrame:
    frame = parse_row(row, "X", "1m", venue_ms, 5)
    assert isinstance(frame, KlineFrame)
    return frame


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, "60000", "bad_open_ms"),
        (1, 1.5, "bad_open"),
        (4, "NaN", "bad_close"),
        (8, None, "bad_n"),
    ],
)
def test_a_malformed_row_keeps_what_it_was(at: int, value: Any, reason: str) -> None:
    row = [*ROW[:at], value, *ROW[at + 1 :]]
    bad = parse_row(row, "X", "1m", 0, 5)
    assert isinstance(bad, Malformed)
    assert (bad.reason, json.loads(bad.raw)) == (reason, row)
    assert isinstance(parse_row(ROW[:5], "X", "1m", 0, 5), Malformed)


def test_the_same_text_has_the_same_bits_on_both_paths() -> None:
    for text in ("0.04110000", "473.10000000", "2519.85628300", "0.1", "-0.0"):
        frame = parse_frame(recorded_kline(o=text), 5)
        row = kline_of([60_000, text, *ROW[2:]], 0)
        assert isinstance(frame, KlineFrame)
        assert struct.pack("<d", frame.open) == struct.pack("<d", row.open)
        assert struct.pack("<d", row.open) == struct.pack("<d", float(text) + 0.0)


def test_columns_carry_the_authority_of_their_source() -> None:
    closed, still_open = parse_frame(LINES[0], 5), parse_frame(recorded_kline(x=False), 6)
    assert isinstance(closed, KlineFrame)
    assert isinstance(still_open, KlineFrame)
    live = ws_columns([closed, still_open]).check()
    assert live.source.tolist() == [WS_CLOSED, WS_OPEN]
    assert live.closed.tolist() == [True, False]
    assert live.open_time_ns.tolist() == [closed.open_ms * 1_000_000] * 2
    assert live.received_time_ns.tolist() == [5, 6]
    # Bar 60 s to 120 s, asked for when the venue's clock was at 180 s.
    for settle_ns, source in ((MIN_NS, REST_SETTLED), (MIN_NS + 1, REST_FRESH)):
        rest = rest_columns([kline_of(ROW, 180_000)], settle_ns, 180_000).check()
        assert rest.source.tolist() == [source]
        assert rest.first_trade_id.tolist() == [-1]
    assert len(ws_columns([]).check()) == 0


def test_values_on_another_symbols_stream_are_not_taken() -> None:
    message = json.loads(LINES[0])
    data = message["data"]
    data["s"] = data["k"]["s"] = "BTCUSDT"
    bad = parse_frame(json.dumps(message).encode(), 5)
    assert isinstance(bad, Malformed) and bad.reason == "bad_stream"
    assert bad.venue_symbol == "BTCUSDT"
    assert not isinstance(parse_frame(json.dumps(data).encode(), 5), Malformed), "no envelope"
