"""The vectors of `identity.json`, all families that have a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = Path(__file__).parent.parent / "data" / "vectors" / "identity.json"
VECTORS = [v for v in load(FILE)["vectors"] if ("identity", v["family"]) in DRIVERS]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("identity", vector)
    if outcome.verdict is Verdict.SKIPPED:
        pytest.skip(outcome.reason)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_the_families_of_live_feeds_are_covered() -> None:
    families = {v["family"] for v in VECTORS}
    assert families >= {"live_dedupe", "reconnect", "log_consumer", "timeframe", "watermark"}
