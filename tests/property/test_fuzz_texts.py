"""Fuzzing of texts and files from outside: frames and answers of a venue, CSV and parquet, presets,
certificates, faults, times, environment.

Structured: from valid texts, cut, flipped, spliced, with values that no field has; and raw ones.
Law: no crash but the documented error or value, bounded work, no silent pass. Far more examples
with SEAMLINE_SOAK=1.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seamline.connectors.venues.binance import BinanceEndpoints, BinanceRest, is_count
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
from seamline.connectors.venues.file_market import COLUMNS, read_rows
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.presets import loader
from seamline.schemas.errors import SeamlineError, TransportError, UsageError
from seamline.schemas.times import parse_duration, parse_time, parse_timeframe
from seamline.sdk.certificate import load
from seamline.streams.kernel.seam_certificate import Certificate

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))
RECORDED = Path(__file__).parent.parent / "data" / "binance_ws"
fuzzed = settings(
    max_examples=20_000 if SOAK else 150,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
# As they stand in JSON: what no field of ours is, and what breaks careless readers.
ODD = (
    *(
        '"\\ud800"',
        '"\\u0000"',
        '""',
        "null",
        "true",
        "-0",
        "1e400",
        "NaN",
        "-Infinity",
        "[]",
        "{}",
    ),
    *("9" * 30, "9" * 5_000, "-1", "1.5", '"1e5"', '"٣"', '"1_0"', '" 1"', '"' + "9" * 60 + '"'),
    *("[" * 3_000, '{"a":' * 3_000, '"' + "x" * 5_000 + '"'),
)
VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null')
PIECES = st.sampled_from(ODD)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[str, ...], odd: tuple[str, ...] = ODD) -> bytes:
    """One of `seeds` after some changes, or nothing of it; not always UTF-8."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(encoded)))
    text = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(("value", "cut", "insert", "drop", "splice", "double")))
        at = draw(st.integers(0, len(text)))
        if kind == "value":
            found = list(VALUE.finditer(text))
            if found:
                match = draw(st.sampled_from(found))
                text = text[: match.start()] + draw(st.sampled_from(odd)) + text[match.end() :]
        elif kind == "cut":
            text = text[:at]
        elif kind == "insert":
            text = text[:at] + draw(st.sampled_from(odd) | st.text(max_size=5)) + text[at:]
        elif kind == "drop":
            text = text[:at] + text[at + draw(st.integers(1, 9)) :]
        elif kind == "splice":
            other = draw(st.sampled_from(seeds))
            text = text[:at] + other[draw(st.integers(0, len(other))) :]
        else:
            text = text[:at] + text[max(0, at - draw(st.integers(1, 40))) : at] + text[at:]
    raw = bytearray(encoded(text))
    if raw and draw(st.integers(0, 5)) == 0:
        raw[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(1, 255))
    return bytes(raw)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- a venue

FRAMES = tuple(
    line
    for path in sorted(RECORDED.glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
)
CONTROL = (
    *('{"result":null,"id":1}', '{"code":2,"msg":"bad","id":"x"}', '{"e":"serverShutdown","E":1}'),
    '{"error":{"code":-1,"msg":"m"},"id":7}',
)


@fuzzed
@example(b"[" * 100_000)
@example(b'{"e":"kline","k":{"s":"\\ud800","x":true},"s":"\\ud800"}')
@given(mutated((*FRAMES, *CONTROL)))
def test_frames(raw: bytes) -> None:
    frame = parse_frame(raw, 5)
    if isinstance(frame, Malformed):
        assert frame.raw == raw and frame.reason
        assert frame.venue_symbol is None or frame.venue_symbol.encode()
        return
    message = json.loads(raw)  # what is read, an independent reader of JSON reads too
    message = message["data"] if "stream" in message and "data" in message else message
    if isinstance(frame, KlineFrame):
        k = message["k"]
        assert (frame.venue_symbol, frame.open_ms, frame.closed) == (k["s"], k["t"], k["x"])
        assert frame.venue_symbol.encode()
        for name, field in zip("ohlcvq", KLINE, strict=True):
            assert getattr(frame, field) == float(k[name]) and math.isfinite(float(k[name]))
        assert len(ws_columns([frame])) == 1
    elif isinstance(frame, TradeFrame):
        assert (frame.price, frame.size) == (float(message["p"]), float(message["q"]))
        assert frame.venue_symbol.encode()
    elif isinstance(frame, Notice):
        assert frame.event == message["e"]
    else:
        assert isinstance(frame, Reply)


KLINE = ("open", "high", "low", "close", "volume", "quote_volume")
ROW = (
    '[1499040000000,"0.01","0.8","0.015","0.0157","148976.1","1499644799999","2434.1",308,"1","2"]'
)


@fuzzed
@example(b"[" * 900 + b"]" * 900)
@given(mutated((ROW, ROW.replace("308", "0"))))
def test_rows_of_an_answer(raw: bytes) -> None:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return  # the client refuses the whole answer
    found = parse_row(row, "BTCUSDT", "1m", 10**12, 5)
    if isinstance(found, Malformed):
        assert found.raw and found.reason
        return
    assert [found.open_ms, found.trades] == [row[0], row[8]]
    assert found.close == float(row[4]) and len(rest_columns([found], 0, 10**12)) == 1


LISTING = json.dumps(
    {
        "rateLimits": [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "limit": 6000}],
        "symbols": [
            {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}
        ],
    }
)


@fuzzed
@example(LISTING.replace("6000", "1e400").encode())
@example(LISTING.replace('"BTCUSDT"', "[]").encode())
@given(mutated((LISTING,)))
def test_listings(raw: bytes) -> None:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return  # the client refuses the whole answer
    try:
        found = BinanceRest(BinanceEndpoints())._symbols_of(answer)
    except TransportError as error:
        assert "strange" in str(error)
        return
    assert len(found) <= len(answer["symbols"])
    assert all(isinstance(venue.stream("kline_1m"), str) for venue in found.values())


@pytest.mark.parametrize("text", ["²", "٣", "9" * 5_000, "1e9", "nan", "-1", " 5", ""])
def test_a_header_that_is_no_count_is_not_read_as_one(text: str) -> None:
    assert not is_count(text)


# --- files of bars

LINES = [
    ",".join(COLUMNS),
    *(f"{60_000 * n},1.5,2,1,1.25,{n}" for n in range(1, 6)),
]
CSV = "\n".join(LINES) + "\n"
CSV_ODD = ('"', "\0", "\r", "1e5", "NaN", "-1", "9" * 40, ",,", "٣", "x" * 200_000, "1_0", "\ufeff")


@fuzzed
@example(raw=encoded(LINES[0] + "\n" + '"' + "x" * 140_000 + '"'))
@example(raw=encoded(LINES[0] + "\n" + "9" * 5_000 + ",1,1,1,1,1\n"))
@given(raw=mutated((CSV, CSV.replace("\n", "\r\n")), CSV_ODD))
def test_csv(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_bytes(raw)
    try:
        rows = list(read_rows(path))
    except UsageError as error:
        assert str(path) in str(error)
        return
    plain = list(csv.reader(io.StringIO(raw.decode(), newline="")))[1:]
    assert [[str(row[0]), *row[1:]] for row in rows] == plain
    assert all(0 <= row[0] < 2**63 // 10**6 for row in rows)


def parquet() -> bytes:
    arrow: Any = pyarrow  # the package has no annotations
    columns = {COLUMNS[0]: arrow.array([60_000 * n for n in range(1, 4)])}
    columns |= {name: arrow.array(["1.5"] * 3) for name in COLUMNS[1:]}
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(arrow.table(columns), sink)
    return bytes(sink.getvalue())


@fuzzed
@given(data=st.data())
def test_parquet(data: st.DataObject, tmp_path: Path) -> None:
    raw = bytearray(PARQUET)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(1, 4))] = data.draw(st.binary(max_size=5))
    path = tmp_path / "bars.parquet"
    path.write_bytes(bytes(raw))
    try:
        rows = list(read_rows(path))
    except UsageError as error:
        assert str(path) in str(error)
        return
    assert rows and all(isinstance(row[0], int) for row in rows)


PARQUET = parquet()

# --- presets

PRESETS = loader.read(None, {})[0]
YAML_ODD = (
    *("&a [*a]", "*a", "!!python/object:os.system x", "{a: 1, a: 2}", "9" * 5_000, "1:30", "0x10"),
    *("[" * 2_000, "? x", "- -", "\t", "---", "<<: *a", "1_0", "٣", "'", "~", "2026-01-01", ".nan"),
)
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@fuzzed
@example(raw=LAUGHS.encode())
@example(raw=b"a: " + b"[" * 20_000)
@example(
    raw=b"version: 1\ndata_presets: {a.b.1m: {kind: ohlcv, interval_ms: " + b"9" * 5_000 + b"}}"
)
@example(raw=b"version: " + b"9" * 5_000)
@example(raw=b"version: 1\ndata_presets: &a {a.b.1m: *a}")
@given(raw=mutated((PRESETS, PRESETS[: PRESETS.index("data_presets") + 400]), YAML_ODD))
def test_presets(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "presets.yaml"
    path.write_bytes(raw)
    try:
        presets = loader.load(path, {})
    except UsageError as error:
        assert error.fields["file"] == str(path) and str(error)
        return
    plain = yaml.safe_load(raw)["data_presets"]
    assert presets.keys() == plain.keys()
    for name, preset in presets.items():
        stated = plain[name].get("interval_ms")
        assert stated is None or preset.interval_ns == stated * 10**6
        assert preset.partitions > 0 and preset.block_rows > 0


# --- certificates

AT, DIGEST = "2026-01-31T00:00:00Z", "ab" * 32
GAP = {"symbol": "A", "start": AT, "end": AT, "bars": 1, "cause": "late"}
ENTRY = {
    "symbol": "A",
    "partition": 0,
    "frontier": AT,
    "seal_sequence": 3,
    "conformed_offset": 7,
    "blocks": [{"start": AT, "rows": 2, "digest": DIGEST, "prices_digest": DIGEST}],
    "history": {"bars": 2, "known_through": AT},
    "log": {"bars": 0, "digest": DIGEST, "known_through": None},
    "overlap": {"empty": True, "compared": 0, "equal": 0, "completed": 0, "newer_in_storage": 0},
    "gaps": [GAP],
    "open": [],
    "missing_without_entry": 0,
    "duplicates": 0,
    "digest": DIGEST,
}
FACTS: dict[str, Any] = {
    "certificate": 1,
    "preset": "ohlcv.binance.spot.1m",
    "interval_ms": 60_000,
    "start": AT,
    "end": None,
    "positions": {"0": {"conformed": {"from": 1, "fence": 9}}},
    "symbols": [ENTRY],
    "bars_history": 2,
    "bars_log": 0,
    "missing_bars": 1,
    "missing_without_entry": 0,
    "duplicates": 0,
    "digest": DIGEST,
}
CERTIFICATE = Certificate.of(FACTS).to_json()


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a tree."""
    found = [at] if at else []
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found += places(value, (*at, key))
    return found


def one_changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at `path` replaced, or left out where it is `...`."""
    copy = json.loads(json.dumps(tree))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return copy


@fuzzed
@given(st.sampled_from(places(FACTS)), st.sampled_from((..., None, True, -5, 2**70, "x", [], {})))
def test_a_certificate_with_a_hash_that_fits_and_a_field_that_does_not(
    path: tuple[Any, ...], value: Any
) -> None:
    """Whoever makes a hash can make a wrong field too: it is told by its name, or has a summary."""
    tree = one_changed(FACTS, path, value)
    try:
        found = Certificate.from_json(Certificate.of(tree).to_json())
    except UsageError as error:
        assert error.parameter and str(path[0]) in ("certificate", *error.parameter.split("."))
        return
    assert found.summary() and found.facts == tree


@fuzzed
@example(raw=b"[" * 100_000)
@example(raw=b'{"certificate":1,"sha256":' + b"[" * 100_000)
@given(raw=mutated((CERTIFICATE,)))
def test_certificates(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(raw)
    try:
        found = load(path)
    except SeamlineError:
        return
    assert found.as_dict() == json.loads(raw)
    assert Certificate.from_json(found.to_json()) == found


# --- words of people

TIMES = ("2026-01-31T00:00:00Z", "-3d", "now", "0001-01-01T00:00:00+23:59", "20260131T00Z")
FAULTS = ("drop-socket:p=0.1,every=3", "outage:from=+1m,to=+2m", "correct-klines:p=0.01,after=5m")
WORDS = ("9" * 400, "nan", "inf", "1e999", "٣", "1_0", "-", "+", "=", ":", "|", ";", "\0", "p=0")


@fuzzed
@given(mutated(TIMES, WORDS))
def test_times(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    readers: tuple[Callable[[], Any], ...] = (
        lambda: parse_time(text, now_ns=10**18, parameter="start"),
        lambda: parse_duration(text, parameter="start"),
        lambda: parse_timeframe(text),
    )
    for read in readers:
        try:
            found = read()
        except UsageError as error:
            assert error.parameter in ("start", "timeframe")
            continue
        assert -(2**63) < found < 2**63 and text.strip().isascii()


@fuzzed
@given(mutated(FAULTS, WORDS))
def test_faults(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    try:
        found = parse_faults(text, start_ns=10**18)
    except UsageError as error:
        assert error.parameter == "faults"
        return
    assert len(found) <= text.count(";") + 1
    assert parse_faults(";".join(fault.text for fault in found), start_ns=10**18) == found


@pytest.mark.parametrize("name", ["PRESETS", "CSV", "CERTIFICATE"])
def test_what_is_mutated_is_valid_before(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("bars.csv" if name == "CSV" else "file")
    path.write_text(globals()[name], encoding="utf-8")
    read: dict[str, Callable[[Path], Any]] = {
        "PRESETS": lambda path: loader.load(path, {}),
        "CSV": lambda path: list(read_rows(path)),
        "CERTIFICATE": load,
    }
    assert read[name](path)
