"""The vectors of `conformance.json`, and that their driver can fail."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from vectors.conformance_drivers import FAMILIES, JUDGED
from vectors.drivers import DRIVERS
from vectors.engine import Verdict, evaluate, load

FILE = Path(__file__).parent.parent / "data" / "vectors" / "conformance.json"
DOCUMENT = load(FILE)
VECTORS = DOCUMENT["vectors"]
BY_ID = {vector["id"]: vector for vector in VECTORS}


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    outcome = evaluate("conformance", vector)
    if outcome.verdict is Verdict.SKIPPED:
        pytest.skip(outcome.reason)
    assert outcome.verdict is Verdict.PASSED, outcome.reason


def test_every_family_and_every_rule_of_the_file_is_known() -> None:
    assert {v["family"] for v in VECTORS} <= set(FAMILIES)
    assert all(("conformance", family) in DRIVERS for family in FAMILIES)
    assert DOCUMENT["rules"].keys() == JUDGED


def changed(id_: str, path: str, value: object) -> dict[str, Any]:
    vector: dict[str, Any] = deepcopy(BY_ID[id_])
    at: Any = vector
    *parts, last = path.split(".")
    for part in parts:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = value
    return vector


@pytest.mark.parametrize(
    ("id_", "path", "value"),
    [
        ("CNF-001", "expect.rows.1.revision", 0),
        ("CNF-001", "expect.log.1.v", 12.5),
        ("CNF-002", "expect.findings.duplicate_equal.rows_dropped", 2),
        ("CNF-004", "expect.by_authority", {"revised": 1, "discarded": 1}),
        ("CNF-007", "expect.findings.gap.ranges.0.1", 3000),
        ("CNF-013", "expect.column_types.price", "int64"),
        ("CNF-013", "expect.findings", {}),
        ("CNF-014", "expect.findings.gap", {"rows_involved": 0}),
        ("CNF-014", "expect.findings.no_such_rule", {"rows_involved": 1}),
        ("CNF-015", "expect.blocks", False),
        ("CNF-016", "expect.no_finding", ["unexpected_column"]),
        ("CNF-020", "expect.rows.1.price", "NaN"),
        ("CNF-020", "expect.rows.2.price", None),
        ("CNF-024", "expect.report.missing_column.columns", ["v"]),
        ("CNF-034", "expect.ts.0", 1735689600002),
        ("CNF-034", "expect.rows_kept", 2),
        ("CNF-041", "expect.names_parameter", "interval_unit"),
        ("CNF-059", "expect.cause", "ValueError"),
        ("CNF-059", "expect.rows_returned", 1),
        ("CNF-001", "given.unheard_of", 1),
        ("CNF-001", "expect.unheard_of", 1),
    ],
)
def test_the_driver_fails_on_another_answer(id_: str, path: str, value: object) -> None:
    assert evaluate("conformance", changed(id_, path, value)).verdict is Verdict.FAILED
