"""The vectors of `governance.json`, all families that have a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = Path(__file__).parent.parent / "data" / "vectors" / "governance.json"
VECTORS = [v for v in load(FILE)["vectors"] if ("governance", v["family"]) in DRIVERS]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("governance", vector)
    if outcome.verdict is Verdict.SKIPPED:
        pytest.skip(outcome.reason)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_the_families_of_registration_are_covered() -> None:
    assert {v["family"] for v in VECTORS} >= {"register", "canary", "strict", "mode", "payload"}
