"""The vectors of `coverage.json`, all of them; and that its driver fails where it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectors.coverage_drivers import FAMILIES, OPERATIONS
from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = load(Path(__file__).parent.parent / "data" / "vectors" / "coverage.json")
VECTORS = FILE["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("coverage", vector)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_every_family_and_operation_is_driven() -> None:
    assert {v["family"] for v in VECTORS} == set(FAMILIES)
    assert set(FILE["ops"]) == set(OPERATIONS)
    assert all(("coverage", family) in DRIVERS for family in FAMILIES)


def vector(given: dict[str, Any], expect: dict[str, Any]) -> dict[str, Any]:
    return {"id": "X", "family": "random", "title": "", "given": given, "expect": expect, "why": ""}


MERGE: dict[str, Any] = {"op": "merge", "interval": 10, "have": [[0, 15]]}
HISTORY: dict[str, Any] = {
    "op": "require_history",
    "interval": 10,
    "ts": [0, 10],
    "required_bars": 2,
    "have": None,
}


@pytest.mark.parametrize(
    ("given", "expect", "verdict"),
    [
        (MERGE, {"have": [[0, 10]]}, Verdict.PASSED),
        (MERGE, {"have": [[0, 20]]}, Verdict.FAILED),
        (MERGE, {"have": [[0, 10]], "raises": None}, Verdict.PASSED),
        (MERGE, {"have": [[0, 10]], "colour": 1}, Verdict.FAILED),
        ({**MERGE, "colour": 1}, {"have": [[0, 10]]}, Verdict.FAILED),
        ({**MERGE, "op": "invert"}, {"have": [[0, 10]]}, Verdict.FAILED),
        (
            {"op": "missing", "interval": 10, "have": [], "window": [20, 0]},
            {"raises": "UsageError", "names_parameter": "window"},
            Verdict.PASSED,
        ),
        (
            {"op": "union", "interval": 10, "sources": {"cache": [[20, 0]]}},
            {"raises": "UsageError", "names_parameter": "sources"},
            Verdict.PASSED,
        ),
        (
            {"op": "intersect", "interval": 10, "want": [[5, 0]], "have": []},
            {"raises": "UsageError", "names_parameter": "want"},
            Verdict.PASSED,
        ),
        ({**MERGE, "have": [[0.0, 10]]}, {"raises": "UsageError"}, Verdict.PASSED),
        (HISTORY, {"ok": True, "received_bars": 2}, Verdict.PASSED),
        ({**HISTORY, "required_bars": 3}, {"ok": True}, Verdict.FAILED),
        ({**HISTORY, "ts": [0.5]}, {"raises": "UsageError", "names_parameter": "ts"}, "passed"),
    ],
)
def test_verdict(given: dict[str, Any], expect: dict[str, Any], verdict: Verdict) -> None:
    outcome = evaluate("coverage", vector(given, expect))
    assert outcome.verdict == verdict, outcome.reason
