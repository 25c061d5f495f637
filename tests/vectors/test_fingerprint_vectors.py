"""The drivers of fingerprints beyond the vectors at hand: other units, types, absent cells."""

from __future__ import annotations

from typing import Any

import pytest

from vectors import drivers
from vectors.engine import Verdict, evaluate

assert drivers.MODULES


def both(a: Any, b: Any, **expect: Any) -> dict[str, Any]:
    return {
        "id": "X-1",
        "family": "fingerprint",
        "title": "t",
        "given": {"a": a, "b": b},
        "when": {"call": "fingerprint_both"},
        "expect": expect,
        "why": "w",
    }


def rows(*cells: Any, **more: Any) -> dict[str, Any]:
    return {"rows": [{"ts": 0, "c": cell} for cell in cells], **more}


PAIRS: dict[str, tuple[Any, Any, bool]] = {
    "milliseconds and nanoseconds": (
        {"rows": [{"ts": 1_735_689_600_001}], "ts_unit": "ms"},
        {"rows": [{"ts": 1_735_689_600_001_000_000}], "ts_unit": "ns"},
        True,
    ),
    "a bag, not a set": (rows(1.0, 1.0), rows(1.0), False),
    "which one is twice": (rows(1.0, 1.0, 2.0), rows(1.0, 2.0, 2.0), False),
    "null is a value's absence": (rows(None), {"rows": [{"ts": 0}], "columns": ["ts", "c"]}, True),
    "a column less": (rows(None), {"rows": [{"ts": 0}]}, False),
    "null is not zero": (rows(None), rows(0.0), False),
    "large integers": (
        rows(2**53, types={"c": "int64"}),
        rows(2**53 + 1, types={"c": "int64"}),
        False,
    ),
    "a text is not its number": (rows("1", types={"c": "text"}), rows(1.0), False),
    "texts": (rows("a", "b"), rows("b", "a"), True),
    "a text and its length": (rows("a", ""), rows("", "a "), False),
    "truth is not one": (rows(True), rows(1.0), False),
    "a stated default": (rows(1.0), rows(1.0, types={"c": "float64", "ts": "int64"}), True),
    "another name": (rows(1.0), {"rows": [{"ts": 0, "d": 1.0}]}, False),
    "nothing": ({"rows": []}, {"rows": []}, True),
}


@pytest.mark.parametrize(("a", "b", "equal"), PAIRS.values(), ids=list(PAIRS))
def test_pairs(a: Any, b: Any, equal: bool) -> None:
    outcome = evaluate("identity", both(a, b, equal=equal, distinct=not equal))
    assert outcome.verdict is Verdict.PASSED, outcome.reason


@pytest.mark.parametrize(
    "a", [rows(1.0, zone="UTC"), rows(1.5, types={"c": "int64"}), rows(1, types={"c": "int3"})]
)
def test_what_the_driver_does_not_know_fails(a: Any) -> None:
    assert evaluate("identity", both(a, a, equal=True)).verdict is Verdict.FAILED


def test_the_compatibility_text_takes_nulls_and_order() -> None:
    vector = {
        **both({}, {}),
        "family": "compat_fingerprint",
        "given": {
            "rows": [{"ts": 10, "c": "NaN"}, {"ts": 0, "c": 1e21, "b": None}],
            "node_id": "n",
            "interval_s": 10,
            "coverage_bounds_inclusive_s": [0, 10],
            "conformance_version": "v2",
        },
        "when": {"call": "compat_fingerprint"},
        "expect": {
            "canonical_json": '{"frame":[{"b":null,"c":1e+21,"ts":0},{"b":null,"c":null,"ts":10}],'
            '"metadata":{"conformance_version":"v2","coverage_bounds":[0,10],"interval":10,'
            '"node_id":"n"}}',
            "raises": None,
        },
    }
    outcome = evaluate("identity", vector)
    assert outcome.verdict is Verdict.PASSED, outcome.reason
