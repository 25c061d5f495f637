"""Drivers of `provider.json`: `stabilization` and `coverage_ratio`.

The file is in ticks: every vector is evaluated in several units, as in `coverage_drivers`. A source
of a vector returns exactly the bars of its coverage; the rows of a fetch go through the function
that decides what an answer gives and states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seamline.schemas.columns import ConformedColumns
from seamline.streams.kernel.answer import answer, fingerprint_of, judge_coverage
from seamline.streams.kernel.coverage import Coverage, coverage_ratio, window_coverage
from seamline.streams.kernel.stabilization import effective_stabilization, stabilize
from vectors.coverage_drivers import in_every_unit, scaled
from vectors.engine import Accepts, Case, Fields, driver, outcome_of

SYMBOL = "BTC/USDT"
INTERVAL = 10  # ticks, where a vector gives none
LONG_AFTER = 1_000_000
SOURCES = ("cache", "storage", "backfill")  # the order in which they are asked
# Which of them have answered when the fetch returns.
STRATEGIES = {
    **dict.fromkeys(("SEAMLESS", "AUTO_BACKFILL"), SOURCES),
    **dict.fromkeys(("FAIL_FAST", "PARTIAL_FILL"), SOURCES[:2]),
}


def rows_at(times_ns: Sequence[int], unit: int) -> ConformedColumns:
    """Bars whose content is a function of their time in ticks."""
    rows = ConformedColumns.empty(len(times_ns))
    for name in rows.DTYPES:
        getattr(rows, name)[:] = 0
    rows.open_time_ns[:] = times_ns
    for name in ("open", "high", "low", "close"):
        getattr(rows, name)[:] = np.asarray(times_ns, np.int64) // unit + 1.0
    return rows


def source_rows(case: Case, name: str, interval_ns: int, unit: int) -> ConformedColumns:
    have = Coverage.of(scaled(case.given.get(name, []), unit), interval_ns=interval_ns)
    extra = scaled(case.given.get("cache_ts", []), unit) if name == "cache" else []
    return rows_at([*have.cell_starts().tolist(), *extra], unit)


def settings(case: Case, unit: int) -> tuple[int, int, int]:
    """Interval and watermark in ns, and the stabilization in force."""
    given = case.given
    bars = effective_stabilization(
        preset_stabilization_bars=given.get("stabilization_bars", 0),
        registrar_stabilization_bars=given.get("registrar_stabilization_bars"),
    )
    bars = bars or 0  # null sets none
    now = scaled(given.get("event_time_now", LONG_AFTER), unit)
    return scaled(given.get("interval", INTERVAL), unit), now, bars


def _stabilize(case: Case, call: Fields, unit: int) -> dict[str, Any]:
    interval_ns, now_ns, bars = settings(case, unit)
    parted = stabilize(
        scaled(case.given["bars"], unit),
        interval_ns=interval_ns,
        stabilization_bars=bars,
        watermark_ns=now_ns,
    )
    return {"stable": parted.stable, "provisional": parted.provisional}


def _coverage_ratio(case: Case, call: Fields, unit: int) -> dict[str, Any]:
    interval_ns = scaled(case.given.get("interval", INTERVAL), unit)
    have, window = scaled(case.given["have"], unit), tuple(scaled(case.given["window"], unit))
    found = window_coverage(have, window, interval_ns=interval_ns)
    ratio = coverage_ratio(have, window, interval_ns=interval_ns)
    return {
        "covered_bars": found.covered_bars,
        "expected_bars": found.expected_bars,
        "coverage_ratio": ratio,
        "returns": ratio,
        "missing_ranges": found.missing,
    }


def _fetch(case: Case, call: Fields, unit: int) -> dict[str, Any]:
    interval_ns, now_ns, bars = settings(case, unit)
    window = (scaled(call["start"], unit), scaled(call["end"], unit))
    strategy = call.get("strategy", case.given.get("strategy", "SEAMLESS"))
    policy = Fields(case.given.get("policy", {}), "policy")
    min_coverage, on_violation = policy.get("min_coverage"), policy.get("on_violation")
    policy.require_read()
    found = answer(
        SYMBOL,
        window,
        {name: source_rows(case, name, interval_ns, unit) for name in STRATEGIES[strategy]},
        interval_ns=interval_ns,
        stabilization_bars=bars,
        watermark_ns=now_ns,
    )
    part = case.given.get("partial_ok", False) or call.get("partial_ok", False)
    part = part or "PARTIAL_FILL" in (strategy, on_violation)
    if strategy == "FAIL_FAST" or not part:
        found.require_complete()
    stated = found.statement
    downgrade = judge_coverage(stated.coverage_ratio, min_coverage)
    times = found.rows.open_time_ns.tolist()
    return {
        "rows": len(found.rows),
        "ts": times,
        "last_ts": times[-1] if times else None,
        "absent_ts": Accepts(lambda wanted: not set(scaled(wanted, unit)) & set(times), times),
        "metadata_rows": stated.rows,
        "artifact_rows": stated.window.covered_bars,
        "coverage_bounds": stated.coverage_bounds,
        "coverage_ratio": stated.coverage_ratio,
        "covered_bars": stated.window.covered_bars,
        "expected_bars": stated.window.expected_bars,
        "missing_ranges": stated.window.missing,
        "provisional": stated.provisional,
        "status": stated.status,
        "source_errors": [],
        "fingerprint_present": bool(stated.fingerprint),
        "prefix": Accepts(stated.fingerprint.startswith, stated.fingerprint),
        "fingerprint_of_returned_rows": stated.fingerprint == fingerprint_of(SYMBOL, found.rows),
        "downgraded": downgrade is not None,
        "mode": downgrade and downgrade.mode,
        "reason": downgrade and downgrade.reason,
    }


# What a call knows of `given` and of itself: all of it is read, also where one value is refused.
_STABILIZATION = ("stabilization_bars", "registrar_stabilization_bars", "event_time_now")
FIELDS = {
    "stabilize": ("interval", "bars", *_STABILIZATION),
    "coverage_ratio": ("interval", "have", "window"),
    "fetch": (
        *("interval", *SOURCES, "cache_ts", "partial_ok", "policy", *_STABILIZATION),
        *("start", "end", "strategy"),
    ),
}
CALLS: dict[str, Callable[[Case, Fields, int], dict[str, Any]]] = {
    "stabilize": _stabilize,
    "coverage_ratio": _coverage_ratio,
    "fetch": _fetch,
}


@driver("provider", "stabilization")
@driver("provider", "coverage_ratio")
def one_call(case: Case) -> Mapping[str, Any]:
    call = case.call
    function = CALLS[call["call"]]
    for name in FIELDS[call["call"]]:
        case.given.get(name), call.get(name)
    return in_every_unit(lambda unit: outcome_of(lambda: function(case, call, unit)))
