"""The vectors of `provider.json`, all families that have a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = Path(__file__).parent.parent / "data" / "vectors" / "provider.json"
VECTORS = [v for v in load(FILE)["vectors"] if ("provider", v["family"]) in DRIVERS]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("provider", vector)
    if outcome.verdict is Verdict.SKIPPED:
        pytest.skip(outcome.reason)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_the_families_of_the_kernel_are_covered() -> None:
    assert {v["family"] for v in VECTORS} >= {"stabilization", "coverage_ratio"}


def fetch(expect: dict[str, Any], end: int = 110, **given: Any) -> Verdict:
    vector = {
        "id": "X",
        "family": "stabilization",
        "title": "",
        "why": "",
        "given": given,
        "when": {"call": "fetch", "start": 0, "end": end},
        "expect": expect,
    }
    return evaluate("provider", vector).verdict


EDGE: dict[str, Any] = {"storage": [[0, 110]], "stabilization_bars": 2, "event_time_now": 110}


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        # At the live edge the tail is given later; it is no hole, and all speak of nine rows.
        (EDGE, {"rows": 9, "metadata_rows": 9, "artifact_rows": 9, "coverage_bounds": [0, 90]}),
        (EDGE, {"provisional": [[90, 110]], "missing_ranges": [], "coverage_ratio": 1.0}),
        (EDGE, {"fingerprint_of_returned_rows": True, "status": "complete", "last_ts": 80}),
        # The larger of two settings, and none at all.
        ({**EDGE, "registrar_stabilization_bars": 5}, {"rows": 6, "coverage_bounds": [0, 60]}),
        ({**EDGE, "stabilization_bars": 0}, {"rows": 11, "provisional": []}),
        # One bar from two sources once, off-grid rows never, any order of sources.
        (
            {"cache": [[0, 60]], "cache_ts": [95, 40], "storage": [[40, 110]]},
            {"rows": 11, "ts": list(range(0, 110, 10)), "absent_ts": [95]},
        ),
        # Of what a source has beyond the window nothing is given or stated.
        (
            {"storage": [[-20, 200]], "cache_ts": [-5, 110, 210]},
            {"rows": 11, "coverage_bounds": [0, 110], "last_ts": 100, "absent_ts": [-10, 110]},
        ),
        # Holes.
        ({"storage": [[0, 50]]}, {"raises": "ContractError", "missing_ranges": [[50, 110]]}),
        (
            {"storage": [[0, 50]], "partial_ok": True, "policy": {"min_coverage": 0.9}},
            {"downgraded": True, "mode": "hold", "reason": "coverage_breach", "status": "partial"},
        ),
        (
            {"storage": [[0, 50]], "policy": {"min_coverage": 1.5}, "partial_ok": True},
            {"raises": "UsageError", "names_parameter": "min_coverage"},
        ),
        ({}, {"raises": "ContractError", "missing_ranges": [[0, 110]]}),
        # A backfill is waited for, unless the strategy says otherwise; a part needs permission.
        ({"storage": [[0, 50]], "backfill": [[0, 110]]}, {"rows": 11, "status": "complete"}),
        (
            {"storage": [[0, 50]], "backfill": [[0, 110]], "strategy": "PARTIAL_FILL"},
            {"rows": 5, "status": "partial", "missing_ranges": [[50, 110]]},
        ),
        (
            {"storage": [[0, 50]], "strategy": "FAIL_FAST", "partial_ok": True},
            {"raises": "ContractError", "missing_ranges": [[50, 110]]},
        ),
        (
            {"stabilization_bars": -1},
            {"raises": "UsageError", "names_parameter": "stabilization_bars"},
        ),
    ],
)
def test_what_a_fetch_states(given: dict[str, Any], expect: dict[str, Any]) -> None:
    assert fetch(expect, **given) is Verdict.PASSED


def test_the_driver_fails_where_it_must() -> None:
    assert fetch({"rows": 10}, storage=[[0, 110]]) is Verdict.FAILED
    assert fetch({"rows": 11}, storage=[[0, 110]], weather="fine") is Verdict.FAILED
    assert fetch({"rows": 11, "weather": "fine"}, storage=[[0, 110]]) is Verdict.FAILED
    assert fetch({"rows": 11}, storage=[[0, 110]], policy={"max": 1}) is Verdict.FAILED
    assert fetch({"rows": 0, "coverage_bounds": None}, end=0) is Verdict.PASSED
