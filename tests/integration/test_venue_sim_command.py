"""`seamline venue-sim` as a process: its one answer, its end, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from seamline.sdk.cli.main import app

COMMAND = [str(Path(sys.executable).with_name("seamline")), "venue-sim"]
COINBASE = Path(__file__).parent.parent / "data/crypto_1m/coinbase_btcusd_20161007_3d.csv"
PROCESS_TIMEOUT_S = 30


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline() or "{}")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_cleanly(number: signal.Signals) -> None:
    arguments = ("--symbols", "BTC/USDT", "--seed", "7", "--speed", "60", "--start", "-2d")
    with running(*arguments) as (process, ready):
        assert (ready["symbols"], ready["speed"]) == (["BTC/USDT"], 60.0)
        rows = httpx.get(
            ready["rest_url"] + "/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m"}
        )
        assert len(rows.json()) == 500
        assert httpx.get(ready["status_url"]).json()["feeding"] is True
        process.send_signal(number)
        out, err = process.communicate(timeout=PROCESS_TIMEOUT_S)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_file_starts_at_its_first_bar() -> None:
    with running("--data", f"BTC/USD={COINBASE}") as (_, ready):
        assert (ready["symbols"], ready["start"]) == (["BTC/USD"], "2016-10-07T00:00:00Z")
    with running("--data", str(COINBASE), "--symbols", "BTC/USD") as (_, ready):
        assert ready["symbols"] == ["BTC/USD"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--symbols", "btcusdt"], "symbols"),
        (["--speed", "0"], "speed"),
        (["--start", "2030-01-01"], "start"),
        (["--start", "2099-01-01T00:00:00Z"], "future"),
        (["--start", "1767225600"], "unit"),
        (["--until", "-3d", "--start", "-1d"], "until"),
        (["--faults", "lose-frames"], "faults"),
        (["--faults", "halt:from=+5m,to=+9m", "--faults", "outage:from=+5m,to=+2m"], "from"),
        (["--faults", "lose-history:at=+5m,symbol=ETH/USD"], "ETH/USDT"),
        (["--data", str(COINBASE)], "without its symbol"),
        (["--data", "BTC/USD=/no/such.csv"], "no such file"),
        (["--empty-share", "2"], "empty_share"),
        (["--session", "24"], "session"),
        (["-o", "csv"], "output"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_sentence(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["venue-sim", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_wrong_row_is_named_by_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    lines = COINBASE.read_text().splitlines()[:5]
    lines[3] = lines[3].replace(",", ";", 1)
    path.write_text("\n".join(lines))
    done = subprocess.run(
        [*COMMAND, "--data", f"BTC/USD={path}"],
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}, line 4, column volume" in done.stderr
