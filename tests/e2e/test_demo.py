"""The demo as a person runs it, on a stack of its own: from the seed, and from real bars."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seamline.connectors.embedded import stack
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.sdk import Bar, Gap, stitch
from seamline.sdk.demo.story import PRESET

COINBASE = Path(__file__).parent.parent / "data" / "crypto_1m" / "coinbase_btcusd_20161007_3d.csv"
MINUTE_NS = 60 * NS_PER_S
KEYS = {
    *("ok", "bars_history", "bars_live", "missing_bars", "gaps", "duplicates", "bars_invented"),
    *("elapsed_s", "certificate"),
}


def demo(*arguments: str) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SEAMLINE_")}
    run = subprocess.run(
        [sys.executable, "-m", "seamline.sdk.cli", "demo", "--json", *arguments],
        capture_output=True,
        text=True,
        env=env,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.integration
def test_the_demo_proves_continuity_with_a_killed_worker() -> None:
    answer = demo()
    assert answer.keys() >= KEYS
    assert answer["ok"] is True
    assert answer["worker_killed_pid"] > 0
    assert answer["bars_history"] >= 3 * 2 * 1440
    assert answer["bars_live"] > 0
    wrong = ("missing_bars", "gaps", "duplicates", "bars_invented", "bars_different")
    assert [answer[name] for name in wrong] == [0] * 5


@pytest.mark.integration
def test_real_bars_come_out_as_the_file_has_them_and_holes_stay_holes(tmp_path: Path) -> None:
    answer = demo("--data", str(COINBASE), "--dir", str(tmp_path))
    assert answer["ok"] is True
    assert (answer["bars"], answer["missing_bars"], answer["gaps"]) == (4216, 104, 0)
    with COINBASE.open(newline="") as file:
        rows = {int(row["open_time_ms"]) * NS_PER_MS: row for row in csv.DictReader(file)}
    first, last = min(rows), max(rows)
    holes = {t for t in range(first, last, MINUTE_NS) if t not in rows}
    presets = loader.load(tmp_path / "presets.yaml", {})
    bars: dict[int, Bar] = {}
    missing: set[int] = set()
    with stack.running(tmp_path / "stack") as found:
        world = World.resolve(
            {
                "SEAMLINE_BOOTSTRAP_SERVERS": found.bootstrap,
                "SEAMLINE_SCHEMA_REGISTRY_URL": found.registry_url,
            }
        )
        with stitch(
            PRESET,
            ["BTC/USD"],
            "2016-10-07T00:00:00Z",
            follow=False,
            on_gap="flag",
            world=world,
            presets=presets,
        ) as stream:
            for event in stream:
                if isinstance(event, Bar):
                    assert event.open_time_ns not in bars
                    bars[event.open_time_ns] = event
                elif isinstance(event, Gap):
                    missing.update(range(event.start_ns, event.end_ns, MINUTE_NS))
    assert missing == holes
    assert len(holes) == 104
    names = ("open", "high", "low", "close", "volume")
    assert {t: tuple(getattr(bar, n) for n in names) for t, bar in bars.items()} == {
        t: tuple(float(row[n]) for n in names) for t, row in rows.items()
    }
