"""The vectors of the family `audit` of `governance.json`; and that their driver fails where it
must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = load(Path(__file__).parent.parent / "data" / "vectors" / "governance.json")
VECTORS = [vector for vector in FILE["vectors"] if vector["family"] == "audit"]
APPEND = [{"actor": "ann", "reason": f"r{i}"} for i in range(4)]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("governance", vector)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


@pytest.mark.parametrize(
    ("tamper", "expect", "verdict"),
    [
        ({"edit_index": 2, "field": "actor"}, {"first_broken_link": [2, 3]}, Verdict.PASSED),
        ({"edit_index": 3, "field": "actor"}, {"first_broken_link": [3, 4]}, Verdict.PASSED),
        ({"insert_copy_of": 1, "at_index": 2}, {"ok": False}, Verdict.PASSED),
        ({"swap": [2, 3]}, {"ok": True}, Verdict.FAILED),
        ({"remove_index": 3}, {"ok": True}, Verdict.FAILED),
        ({"remove_index": 0}, {"entries": 4}, Verdict.FAILED),
        ({"burn": 1}, {"ok": False}, Verdict.FAILED),
        ({"remove_index": 0}, {"colour": 1}, Verdict.FAILED),
    ],
)
def test_verdict(tamper: dict[str, Any], expect: dict[str, Any], verdict: Verdict) -> None:
    given = {"append": APPEND, "tamper": tamper}
    vector = {"id": "X", "family": "audit", "given": given, "when": {"call": "verify"}}
    assert evaluate("governance", {**vector, "expect": expect}).verdict is verdict


def test_every_vector_has_a_driver() -> None:
    assert VECTORS
    assert ("governance", "audit") in DRIVERS
