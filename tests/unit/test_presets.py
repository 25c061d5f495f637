"""Presets: the packaged ones, the defaults, and every refusal with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seamline.presets import loader, sources
from seamline.schemas.errors import UsageError
from seamline.sdk.cli.main import app

# Lines 1 to 5; what a test adds begins in line 6.
BASE = """version: 1
data_presets:
  ohlcv.x.spot.1m:
    kind: ohlcv
    interval_ms: 60000
"""
DERIVED = ("5m", "15m", "1h", "1d")
P = "data_presets.ohlcv.x.spot.1m"

FAULTS = [
    ("    foo: 1\n", 6, f"{P}.foo", "unknown key"),
    ("    stabilisation_bars: 1\n", 6, f"{P}.stabilisation_bars", "Did you mean stabilization"),
    ("    <<: {a: 1}\n", 6, f"{P}.<<", "unknown key"),
    ("    stabilization_bars: -1\n", 6, f"{P}.stabilization_bars", "outside 0"),
    ("    partitions: 0\n", 6, f"{P}.partitions", "outside 1 to 1024"),
    ("    partitions: 1025\n", 6, f"{P}.partitions", "outside 1 to 1024"),
    ("    partitions: '8'\n", 6, f"{P}.partitions", "a text where"),
    ("    partitions: 8.5\n", 6, f"{P}.partitions", "a number where a whole"),
    ("    partitions: yes\n", 6, f"{P}.partitions", "true or false where"),
    ("    partitions: 1:30\n", 6, f"{P}.partitions", "whole number"),
    ("    partitions: [8]\n", 6, f"{P}.partitions", "a list where"),
    ("    kind: ohlcv\n", 6, f"{P}.kind", "stands twice, first in line 4"),
    ("    backfill: {source: binance.rset}\n", 6, f"{P}.backfill.source", "Did you mean binance"),
    ("    backfill: {source: binance.ws.trade}\n", 6, f"{P}.backfill.source", "does not serve"),
    ("    backfill: {}\n", 6, f"{P}.backfill.source", "missing"),
    ("    live: {feed: binance.ws.trade}\n", 6, f"{P}.live.feed", "does not deliver ohlcv"),
    ("    live: binance\n", 6, f"{P}.live", "a text where a mapping"),
    (
        "    live:\n      feed: binance.ws.kline.1m\n      max_lag_ms: 3\n",
        8,
        f"{P}.live.max_lag_ms",
        "Did you mean max_lag_seconds",
    ),
    ("    live: {feed: binance.ws.kline.1m, max_lag_seconds: 0}\n", 6, None, "outside 1"),
    ("    derive_from: ohlcv.y.spot.1m\n", 6, f"{P}.derive_from", "no such preset"),
    ("    derive_from: ohlcv.x.spot.1m\n", 6, f"{P}.derive_from", "derives from itself"),
    ("    conformance_preset: strict\n", 6, f"{P}.conformance_preset", "not known"),
    ("    off_grid: drop\n", 6, f"{P}.off_grid", "not known"),
    ("    contract_version: v9\n", 6, f"{P}.contract_version", "not known"),
    ("    authority:\n      - ws_open\n      - ws_open\n", 8, f"{P}.authority", "stands twice"),
    ("    authority: [nobody]\n", 6, f"{P}.authority", "not known"),
    ("    authority: []\n", 6, f"{P}.authority", "empty"),
    ("    grid_origin: 2020-01-01\n", 6, f"{P}.grid_origin", "a time where a text"),
    ("    grid_origin: '2020-01-01T00:00:00'\n", 6, f"{P}.grid_origin", "naive"),
    ("    grid_origin: '-3d'\n", 6, f"{P}.grid_origin", "relative to now"),
    ("    conformed_retention: 14\n", 6, f"{P}.conformed_retention", "a whole number where"),
    ("    conformed_retention: '14'\n", 6, f"{P}.conformed_retention", "with a unit"),
    ("    conformed_retention: 1s\n", 6, f"{P}.conformed_retention", "shorter than 1m"),
    ("    calendar: NYSE\n", 6, f"{P}.calendar", "no such calendar"),
    ("    calendar: XXXX\n", 6, f"{P}.calendar", "no such calendar"),
    ("    storage: disk\n", 6, f"{P}.storage", "not of a known form"),
    ("    settle_seconds: 1e3\n", 6, f"{P}.settle_seconds", "where a number"),
    ("    block_rows: 0\n", 6, f"{P}.block_rows", "outside 1"),
    (
        "  ohlcv.x.spot.90s:\n    kind: ohlcv\n    interval_ms: 90000\n"
        "    derive_from: ohlcv.x.spot.1m\n",
        9,
        "data_presets.ohlcv.x.spot.90s.derive_from",
        "not a multiple",
    ),
    (
        "  ohlcv.x.spot.7m:\n    kind: ohlcv\n    interval_ms: 420000\n"
        "    derive_from: ohlcv.x.spot.1m\n",
        9,
        "data_presets.ohlcv.x.spot.7m.derive_from",
        "block_rows that divide 7 or are a multiple of it",
    ),
    (
        "  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 300000\n"
        "    derive_from: ohlcv.x.spot.1m\n    partitions: 3\n",
        10,
        "data_presets.ohlcv.x.spot.5m.partitions",
        "ohlcv.x.spot.1m has 8",
    ),
    (
        "  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 300000\n"
        "    derive_from: ohlcv.x.spot.1m\n    backfill: {source: binance.rest}\n",
        10,
        "data_presets.ohlcv.x.spot.5m.backfill",
        "no sources",
    ),
    (
        "  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 60000\n",
        8,
        "data_presets.ohlcv.x.spot.5m.interval_ms",
        "contradicts the id",
    ),
    (
        "    calendar: XNYS\n  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 300000\n"
        "    derive_from: ohlcv.x.spot.1m\n",
        10,
        "data_presets.ohlcv.x.spot.5m.derive_from",
        "has sessions of XNYS",
    ),
    (
        "  trades.x.spot:\n    kind: trades\n  ohlcv.z.spot.5m:\n    kind: ohlcv\n"
        "    interval_ms: 300000\n    derive_from: trades.x.spot\n",
        11,
        "data_presets.ohlcv.z.spot.5m.derive_from",
        "only bars are rolled up from bars",
    ),
    ("  trades.x.spot:\n    kind: ohlcv\n", 7, "data_presets.trades.x.spot.kind", "contradicts"),
    ("  quotes.x.spot:\n    kind: quotes\n", 7, "data_presets.quotes.x.spot.kind", "later"),
    ("  Ohlcv.X:\n    kind: ohlcv\n", 7, "data_presets.Ohlcv.X.kind", "form kind.venue.market"),
    (
        "  trades.x.spot:\n    kind: trades\n    interval_ms: 1\n",
        8,
        "data_presets.trades.x.spot.interval_ms",
        "no interval",
    ),
]


@pytest.mark.parametrize(("added", "line", "key", "says"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_fault_names_file_line_key_and_fix(
    tmp_path: Path, added: str, line: int, key: str | None, says: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(BASE + added, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        loader.load(file, {})
    error = raised.value
    assert error.fields["file"] == str(file)
    assert error.fields["line"] == line
    if key is not None:
        assert error.parameter == error.fields["key"] == key
    assert says in str(error)
    assert f"{file} line {line}" in str(error)


WHOLE = [
    ("", 1),
    ("[]", 1),
    ("version: 2\ndata_presets: {a.b: {kind: trades}}\n", 1),
    ("version: 1\n", 1),
    ("version: 1\ndata_presets: {}\n", 2),
    ("data_presets: {a.b: {kind: trades}}\n", 1),
    (BASE + "more: 1\n", 6),
    (BASE + "  ohlcv.x.spot.1m: {}\n", 6),
    ("data_presets: [1, 2\n", 2),
    ("? [a]\n: b\n", 1),
    ("[" * 100_000, None),
    ("# long\n" * 200_000, None),
]


@pytest.mark.parametrize(("text", "line"), WHOLE, ids=[t[:24] for t, _ in WHOLE])
def test_a_file_that_is_no_presets_file(tmp_path: Path, text: str, line: int | None) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        loader.load(file, {})
    assert raised.value.fields["line"] == line


def test_a_file_that_is_not_there_is_named_by_its_parameter(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        loader.load(None, {loader.FILE_VARIABLE: str(tmp_path / "missing.yaml")})
    assert raised.value.parameter == "presets_file"


def test_a_cycle_names_its_members() -> None:
    text = BASE + (
        "  a.b:\n    kind: ohlcv\n    interval_ms: 120000\n    derive_from: a.c\n"
        "  a.c:\n    kind: ohlcv\n    interval_ms: 240000\n    derive_from: a.b\n"
    )
    presets, faults = loader.parse_presets(text, "mine.yaml")
    assert list(presets) == ["ohlcv.x.spot.1m"]
    assert [error.fields["line"] for error in faults] == [9, 13]
    assert "a.b → a.c → a.b" in str(faults[0])


def test_each_preset_is_judged_by_itself() -> None:
    text = BASE + "    foo: 1\n  trades.x.spot:\n    kind: trades\n"
    presets, faults = loader.parse_presets(text, "mine.yaml")
    assert list(presets) == ["trades.x.spot"]
    assert len(faults) == 1


def test_the_packaged_presets() -> None:
    presets = loader.load(None, {})
    assert list(presets) == [
        "ohlcv.binance.spot.1m",
        *(f"ohlcv.binance.spot.{interval}" for interval in DERIVED),
        "trades.binance.spot",
        "ohlcv.polygon.us_equity.1d",
    ]
    minute = presets["ohlcv.binance.spot.1m"]
    assert (minute.interval_ns, minute.partitions) == (60_000_000_000, 8)
    assert minute.backfill is not None and minute.live is not None
    assert minute.live.max_lag_ns == 45_000_000_000
    assert presets["ohlcv.polygon.us_equity.1d"].calendar == "XNYS"
    derived = loader.derived_of(presets, minute.id)
    assert [p.id for p in derived] == [f"ohlcv.binance.spot.{interval}" for interval in DERIVED]
    assert all(p.partitions == 8 and p.backfill is None and p.live is None for p in derived)
    assert loader.root_of(presets, derived[1].id) == minute


def test_the_defaults_of_the_design() -> None:
    text = BASE + "    backfill: {source: binance.rest}\n    live: {feed: binance.ws.kline.1m}\n"
    preset = loader.parse_presets(text, "mine.yaml")[0]["ohlcv.x.spot.1m"]
    assert preset.partitions == 8
    assert preset.block_rows == 240
    assert preset.stabilization_bars == 2
    assert preset.settle_ns == 300_000_000_000
    assert preset.conformed_retention_ns == 14 * 86_400_000_000_000
    assert preset.backfill is not None
    assert preset.backfill.window_bars == 1_920
    assert preset.authority == ("rest_settled", "ws_closed", "rest_fresh", "ws_open")
    assert (preset.calendar, preset.off_grid, preset.storage) == ("24/7", "reject", "topic")


def test_a_chain_is_rolled_up_from_its_root_and_takes_its_settings() -> None:
    text = (
        BASE
        + "    partitions: 3\n    off_grid: snap\n    settle_seconds: 0.5\n"
        + "  ohlcv.x.spot.1h:\n    kind: ohlcv\n    interval_ms: 3600000\n"
        + "    derive_from: ohlcv.x.spot.5m\n"
        + "  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 300000\n"
        + "    derive_from: ohlcv.x.spot.1m\n"
    )
    presets, faults = loader.parse_presets(text, "mine.yaml")
    assert not faults
    assert list(presets) == ["ohlcv.x.spot.1m", "ohlcv.x.spot.1h", "ohlcv.x.spot.5m"]
    hour = presets["ohlcv.x.spot.1h"]
    assert (hour.partitions, hour.off_grid, hour.settle_ns) == (3, "snap", 500_000_000)
    assert loader.root_of(presets, hour.id).id == "ohlcv.x.spot.1m"
    found = loader.derived_of(presets, "ohlcv.x.spot.1m")
    assert [p.id for p in found] == ["ohlcv.x.spot.5m", "ohlcv.x.spot.1h"]


def test_windows_of_a_chain_fit_the_blocks_of_its_root() -> None:
    text = BASE + (
        "  ohlcv.x.spot.5m:\n    kind: ohlcv\n    interval_ms: 300000\n"
        "    derive_from: ohlcv.x.spot.1m\n"
        "  ohlcv.x.spot.1d:\n    kind: ohlcv\n    interval_ms: 86400000\n"
        "    derive_from: ohlcv.x.spot.5m\n"
    )
    presets, faults = loader.parse_presets(text, "mine.yaml")
    assert not faults
    assert loader.root_of(presets, "ohlcv.x.spot.1d").id == "ohlcv.x.spot.1m"


def test_an_unknown_preset_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError) as raised:
        loader.get(loader.load(None, {}), "ohlcv.binance.spot.2m")
    assert raised.value.parameter == "preset"
    assert raised.value.fields["preset"] == "ohlcv.binance.spot.2m"
    assert "ohlcv.binance.spot.5m" in str(raised.value)


def test_a_declared_connector_says_that_it_comes_later() -> None:
    with pytest.raises(UsageError, match="later"):
        sources.require_available("polygon.rest", parameter="backfill.source")
    with pytest.raises(UsageError, match="no such connector"):
        sources.require_available("polygon.rset", parameter="backfill.source")
    assert sources.require_available("ccxt:binance", parameter="source").kinds == ("ohlcv",)


def run(*arguments: str, file: Path | None = None) -> tuple[int, str]:
    env = {} if file is None else {loader.FILE_VARIABLE: str(file)}
    result = CliRunner().invoke(app, ["presets", *arguments], env=env)
    return result.exit_code, result.stdout


def test_the_commands_answer_on_stdout(tmp_path: Path) -> None:
    status, out = run("list", "-o", "json")
    assert status == 0
    assert [row["preset"] for row in json.loads(out)] == list(loader.load(None, {}))
    status, out = run("show", "ohlcv.binance.spot.1m", "-o", "json")
    assert status == 0
    shown = json.loads(out)
    assert shown["interval_ms"] == 60_000
    assert shown["derived"] == [f"ohlcv.binance.spot.{interval}" for interval in DERIVED]
    assert run("show", "nope", "-o", "json") == (2, "")
    file = tmp_path / "mine.yaml"
    file.write_text(BASE, encoding="utf-8")
    status, out = run("list", "-o", "csv", file=file)
    assert (status, out.splitlines()[1].split(",")[0]) == (0, "ohlcv.x.spot.1m")


def test_check_shows_every_faulty_preset_and_ends_with_1(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(BASE + "    foo: 1\n  trades.x.spot:\n    kind: trade\n", encoding="utf-8")
    status, out = run("check", str(file), "-o", "json")
    assert status == 1
    assert [(row["ok"], row["line"]) for row in json.loads(out)] == [(False, 6), (False, 8)]
    file.write_text(BASE, encoding="utf-8")
    assert run("check", str(file))[0] == 0
    assert run("check", str(tmp_path / "missing.yaml"))[0] == 2


@pytest.mark.parametrize(
    ("world", "preset", "in_force"),
    [("", 2, 2), ("0", 2, 2), ("5", 2, 5), ("5", 7, 7), ("0", 0, 0)],
)
def test_the_larger_stabilization_of_world_and_preset_is_in_force(
    tmp_path: Path, world: str, preset: int, in_force: int
) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(BASE + f"    stabilization_bars: {preset}\n")
    env = {loader.STABILIZATION_VARIABLE: world}
    assert loader.load(path, env)["ohlcv.x.spot.1m"].stabilization_bars == in_force


@pytest.mark.parametrize("world", ["-1", "2.5", "two", "65"])
def test_a_worlds_stabilization_that_is_no_number_of_bars_is_refused(world: str) -> None:
    with pytest.raises(UsageError) as caught:
        loader.load(None, {loader.STABILIZATION_VARIABLE: world})
    assert (caught.value.parameter, caught.value.value) == (loader.STABILIZATION_VARIABLE, world)
