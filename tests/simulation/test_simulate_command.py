"""`seamline simulate`: what it prints, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from seamline.schemas.times import NS_PER_S, parse_time
from seamline.sdk.cli.main import app
from seamline.streams.kernel.simulation import runs
from seamline.streams.kernel.simulation.checks import INVARIANTS
from seamline.streams.kernel.simulation.minutes import LEGEND
from simulation.planted import DEFECTS

SEED = "7"


def simulate(*options: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *options])


def test_one_seed_as_a_person_reads_it() -> None:
    done = simulate("--seed", SEED)
    assert done.exit_code == 0, done.output
    for text in INVARIANTS.values():
        assert text[:30] in done.output
    assert "BTC/USDT" in done.output
    assert all(meaning in done.output for mark, meaning in LEGEND.items() if mark != " ")
    assert "1 seed: every invariant holds" in done.output


def _minutes(time: str) -> int:
    return parse_time(time, now_ns=0, parameter="time") // (60 * NS_PER_S)


def test_one_seed_as_one_object() -> None:
    done = simulate("--seed", SEED, "-o", "json")
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["ok"]
    assert answer["failed_seed"] is None
    assert set(answer["minutes"]) == set(answer["world"]["symbols"])
    start = min((told["time"], told["minute"]) for told in answer["hour"])
    gap = min((gap["start"], gap["minute"]) for gap in answer["gaps"])
    clocks = {_minutes(time) - minute for time, minute in (start, gap)}
    assert len(clocks) == 1  # what happened, and the ledger, speak of the same minutes
    assert all(set(strip) <= LEGEND.keys() for strip in answer["minutes"].values())
    assert answer["checks"].keys() == INVARIANTS.keys()
    assert answer["digest"] == runs.run_seed(int(SEED)).world.digest()


def test_several_seeds_are_counted() -> None:
    answer = json.loads(simulate("--seed", "1", "--seeds", "3", "-o", "json").stdout)
    assert (answer["ok"], answer["seeds"]) == (True, 3)
    assert sum(answer["checks"].values()) > 3_000
    assert "minutes" not in answer


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_failing_seed_prints_its_minimal_trace(
    monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    parts, _ = DEFECTS["the ledger is not written"]
    whole = runs.run_seed
    monkeypatch.setattr(runs, "run_seed", lambda seed: whole(seed, parts))
    done = simulate("--seed", "0", "-o", output)
    assert done.exit_code == 1
    assert "no gap without a ledger entry" in done.output
    assert "again: seamline simulate --seed 0" in done.output
    if output == "json":
        answer = json.loads(done.stdout)
        assert (answer["ok"], answer["failed_seed"], answer["invariant"]) == (False, 0, "gap")


@pytest.mark.parametrize("options", [("--seeds", "0"), ("-o", "csv")])
def test_wrong_usage_ends_with_2(options: tuple[str, ...]) -> None:
    assert simulate(*options).exit_code == 2
