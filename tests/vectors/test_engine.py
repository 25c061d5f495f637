"""The engine fails where it must: unknown fields, undecided conditions, a family without driver."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vectors import drivers
from vectors.engine import CONDITIONS, Verdict, evaluate, same

RUNNER = Path(__file__).parent.parent / "run_vectors.py"
IDENTITY = Path(__file__).parent.parent / "data" / "vectors" / "identity.json"


def vector(**changed: Any) -> dict[str, Any]:
    return {
        "id": "X-1",
        "family": "reconnect",
        "title": "t",
        "given": {"ladder_ms": [5], "failures": 1},
        "when": {"call": "reconnect"},
        "expect": {"sleeps_ms": [5]},
        "why": "w",
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.PASSED),
        ({"given": {"ladder_ms": [5], "failures": 1, "jitter": 2}}, Verdict.FAILED),
        ({"when": {"call": "reconnect", "times": 2}}, Verdict.FAILED),
        ({"expect": {"sleeps_ms": [5], "calls": 1}}, Verdict.FAILED),
        ({"expect": {"sleeps_ms": [6]}}, Verdict.FAILED),
        ({"family": "unheard_of"}, Verdict.FAILED),
        ({"applies_if": "nobody decided this"}, Verdict.FAILED),
        ({"extra": 1}, Verdict.FAILED),
    ],
)
def test_verdict(changed: dict[str, Any], verdict: Verdict) -> None:
    assert evaluate("identity", vector(**changed)).verdict is verdict


def test_a_condition_that_does_not_hold_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONDITIONS, "moon", False)
    outcome = evaluate("identity", vector(applies_if="moon"))
    assert (outcome.verdict, outcome.reason) == (Verdict.SKIPPED, "moon")


def test_numbers_are_compared_by_the_rules() -> None:
    assert same(1.0, 1) and same([1, {"a": None}], (1, {"a": None}))
    assert not same(2**63 - 1, 2**63 - 2)
    assert not same(True, 1)
    assert not same("1", 1)
    assert same(0.1, 0.1 + 1e-12) and not same(0.1, 0.1 + 1e-8)


def test_every_driver_module_is_listed() -> None:
    listed = {module.__name__.split(".")[-1] for module in drivers.MODULES}
    assert listed == {p.stem for p in Path(__file__).parent.glob("*_drivers.py")}


def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUNNER), *arguments], capture_output=True, text=True, check=False
    )


def test_runner_passes_the_families_it_drives() -> None:
    done = runner(str(IDENTITY), "--family", "live_dedupe", "reconnect", "log_consumer")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "6 passed, 0 failed")


def test_runner_fails_for_a_family_without_a_driver(tmp_path: Path) -> None:
    document = {"format": 1, "group": "identity", "vectors": [vector(), vector(family="nobody")]}
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(document))
    done = runner(str(path))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 passed, 1 failed")
    assert runner(str(path), "--family", "reconnect").returncode == 0
    assert runner(str(path), "--family", "misspelt").returncode == 1
    assert runner(str(tmp_path / "absent.json")).returncode == 2
