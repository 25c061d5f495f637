"""Drivers of `coverage.json`: one for all families, for a family may hold any operation.

The file is in ticks. Every vector is evaluated in several units: its times and intervals are
multiplied, the times of the answer divided again, and all units must give the same answer. Numbers
of bars are not multiplied. The interval of the file is our `interval_ns`, its `window` our
`window_ns` and its `ts` our `ts_ns`: a tick has no unit, our arguments name theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seamline.streams.kernel.coverage import (
    Coverage,
    bounds,
    compute_missing_ranges,
    intersect,
    merge_coverage,
    require_history,
    subtract,
    union,
    window_coverage,
)
from vectors.engine import Accepts, Case, driver, outcome_of

UNITS = (1, 10**9, 60 * 10**9)
FAMILIES = (
    *("merge", "split_cell", "missing", "missing_off_grid", "bounds", "subtract", "intersect"),
    *("union", "strict_history", "refused_input", "random"),
)
# Fields of answers that are times; all others are counts and words.
_TIMES = {
    *("have", "missing", "covered", "left", "common", "bounds"),
    *("stable", "provisional", "missing_ranges", "coverage_bounds", "ts", "last_ts"),
}
_NAMES = {
    "interval_ns": "interval",
    "window_ns": "window",
    "ts_ns": "ts",
    "watermark_ns": "event_time_now",
    "preset_stabilization_bars": "stabilization_bars",
}


def scaled(value: Any, unit: int) -> Any:
    """Every whole number in lists, objects and pairs, times the unit; other values as they are,
    so that a time of a wrong type reaches the code as it was written."""
    if isinstance(value, Mapping):
        return {key: scaled(item, unit) for key, item in value.items()}
    if isinstance(value, list):
        return [scaled(item, unit) for item in value]
    return value * unit if isinstance(value, int) and not isinstance(value, bool) else value


def unscaled(value: Any, unit: int) -> Any:
    if isinstance(value, Coverage):
        value = value.intervals
    if isinstance(value, list | tuple):
        return [unscaled(item, unit) for item in value]
    if value is None:
        return None
    ticks, rest = divmod(value, unit)
    assert not rest, f"{value} is no whole number of ticks of {unit}"
    return ticks


def in_ticks(observed: Mapping[str, Any], unit: int) -> dict[str, Any]:
    """An observation in one unit, its times in ticks again."""
    found = {k: unscaled(v, unit) if k in _TIMES else v for k, v in observed.items()}
    if "names_parameter" in found:
        found["names_parameter"] = _NAMES.get(found["names_parameter"], found["names_parameter"])
    return found


def in_every_unit(evaluate: Callable[[int], Mapping[str, Any]]) -> dict[str, Any]:
    """The observation, which must not depend on the unit."""
    first, *others = (in_ticks(evaluate(unit), unit) for unit in UNITS)
    for unit, other in zip(UNITS[1:], others, strict=True):
        # What is accepted by a rule is a rule of one unit; the engine asks the first one.
        plain = [k for k, v in (first | other).items() if not isinstance(v, Accepts)]
        differ = [k for k in plain if first.get(k) != other.get(k)]
        assert not differ, f"{differ} differ in units of {unit}"
    return first


def _merge(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    have = scaled(given["have"], unit)
    interval_ns = scaled(given["interval"], unit)
    merged = merge_coverage(have, interval_ns=interval_ns)
    # The same input as one array, as large sets are given.
    array = np.array(have, np.int64).reshape(-1, 2)
    assert merge_coverage(array, interval_ns=interval_ns) == merged
    return {"have": merged}


def _missing(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    have, window = scaled(given["have"], unit), tuple(scaled(given["window"], unit))
    interval_ns = scaled(given["interval"], unit)
    found = window_coverage(have, window, interval_ns=interval_ns)
    assert compute_missing_ranges(have, window, interval_ns=interval_ns) == found.missing
    return {
        "missing": found.missing,
        "covered": found.covered,
        "missing_bars": found.missing_bars,
        "expected_bars": found.expected_bars,
    }


def _subtract(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    want, have = scaled(given["want"], unit), scaled(given["have"], unit)
    return {"left": subtract(want, have, interval_ns=scaled(given["interval"], unit))}


def _intersect(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    want, have = scaled(given["want"], unit), scaled(given["have"], unit)
    return {"common": intersect(want, have, interval_ns=scaled(given["interval"], unit))}


def _bounds(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    have = scaled(given["have"], unit)
    return {"bounds": bounds(have, interval_ns=scaled(given["interval"], unit))}


def _union(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    sources = scaled(given["sources"], unit)
    return {"have": union(sources, interval_ns=scaled(given["interval"], unit))}


def _require_history(given: Mapping[str, Any], unit: int) -> dict[str, Any]:
    have = given["have"]
    received = require_history(
        scaled(given["ts"], unit),
        given["required_bars"],
        None if have is None else scaled(have, unit),
        interval_ns=scaled(given["interval"], unit),
    )
    return {"ok": True, "received_bars": received}


OPERATIONS: dict[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    "merge": _merge,
    "missing": _missing,
    "subtract": _subtract,
    "intersect": _intersect,
    "bounds": _bounds,
    "union": _union,
    "require_history": _require_history,
}


def coverage(case: Case) -> Mapping[str, Any]:
    operation = OPERATIONS[case.given["op"]]
    assert not any(len(call) for call in case.calls), "an operation of coverage is no call"
    return in_every_unit(lambda unit: outcome_of(lambda: operation(case.given, unit)))


for family in FAMILIES:
    driver("coverage", family)(coverage)
