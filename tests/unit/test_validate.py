"""Which rules a landing bar breaks, at the boundary of each rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from seamline.schemas.columns import SNAPPED, SUSPECT, BarColumns
from seamline.schemas.modes import CANARY, STRICT
from seamline.streams.kernel.level import CELL
from seamline.streams.kernel.rules import SCHEMA_DRIFT, TOMBSTONED_SCHEMA
from seamline.streams.kernel.validate import RULES, first_rule, judged, outcome

MINUTE_NS = 60_000_000_000
LATEST_NS = 1_000 * MINUTE_NS
SOUND = {
    "open_time_ns": 10 * MINUTE_NS,
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 11.0,
    "volume": 3.0,
    "quote_volume": 30.0,
    "trades": 5,
    "first_trade_id": 100,
    "last_trade_id": 104,
    "source": 1,
    "closed": True,
    "received_time_ns": LATEST_NS,
}
NAN, INF = math.nan, math.inf

CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("sound", {}, set()),
    ("no_volume", {"volume": 0.0, "quote_volume": 0.0}, set()),
    ("no_quote_volume", {"quote_volume": NAN}, set()),
    ("quote_volume_infinite", {"quote_volume": INF}, {"non_finite"}),
    ("quote_volume_negative", {"quote_volume": -1e-9}, {"negative_volume"}),
    ("volume_negative", {"volume": -1e-9}, {"negative_volume"}),
    ("volume_nan", {"volume": NAN}, {"non_finite"}),
    ("price_nan", {"close": NAN}, {"non_finite"}),
    ("flat", {"open": 9.0, "high": 9.0, "low": 9.0, "close": 9.0}, set()),
    ("high_is_the_close", {"high": 11.0}, set()),
    ("high_below_the_close", {"high": 10.5}, {"ohlc_inconsistent"}),
    ("high_below_the_open", {"open": 12.5}, {"ohlc_inconsistent"}),
    ("low_above_the_open", {"low": 10.5}, {"ohlc_inconsistent"}),
    ("low_above_the_close", {"close": 8.5}, {"ohlc_inconsistent"}),
    ("low_of_nothing", {"low": 0.0}, {"non_positive_price"}),
    ("low_below_nothing", {"low": -1.0}, {"non_positive_price"}),
    ("last_trade_missing", {"last_trade_id": 105}, {"trade_ids"}),
    ("a_trade_too_many", {"last_trade_id": 103}, {"trade_ids"}),
    ("one_trade", {"trades": 1, "last_trade_id": 100}, set()),
    ("no_trade_ids", {"first_trade_id": -1, "last_trade_id": -1}, set()),
    ("ids_of_all_int64", {"first_trade_id": 0, "last_trade_id": 2**63 - 1}, {"trade_ids"}),
    ("no_count", {"trades": -1}, set()),
    ("a_count_below_none", {"trades": -2}, {"trade_ids"}),
    ("a_first_id_below_none", {"first_trade_id": -2}, {"trade_ids"}),
    ("a_last_id_below_none", {"trades": -1, "last_trade_id": -(2**63)}, {"trade_ids"}),
    ("closes_now", {"open_time_ns": LATEST_NS - MINUTE_NS}, set()),
    ("is_open", {"open_time_ns": LATEST_NS}, {"future_time"}),
    (
        "closes_a_moment_later",
        {"open_time_ns": LATEST_NS - MINUTE_NS + 1},
        {"future_time", "off_grid"},
    ),
    ("a_moment_after_the_grid", {"open_time_ns": 10 * MINUTE_NS + 1}, {"off_grid"}),
    ("a_moment_before_the_grid", {"open_time_ns": 10 * MINUTE_NS - 1}, {"off_grid"}),
    ("before_1970", {"open_time_ns": -7 * MINUTE_NS}, set()),
]


def bars(changes: dict[str, Any]) -> BarColumns:
    row = SOUND | changes
    return BarColumns(
        **{name: np.array([row[name]], dtype) for name, dtype in BarColumns.DTYPES.items()}
    ).check()


def rules_of(changes: dict[str, Any]) -> set[str]:
    _, found = judged(bars(changes), interval_ns=MINUTE_NS, origin_ns=0, latest_ns=LATEST_NS)
    return {name for bit, name in RULES.items() if found[0] & bit}


@pytest.mark.parametrize(("changes", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_bar_breaks_exactly_these_rules(changes: dict[str, Any], expected: set[str]) -> None:
    assert rules_of(changes) == expected


def test_every_rule_has_a_case() -> None:
    of_schemas = {SCHEMA_DRIFT, TOMBSTONED_SCHEMA}
    found: set[str] = set().union(*(expected for _, _, expected in CASES))
    assert found == set(RULES.values()) - of_schemas


@pytest.mark.parametrize(
    ("time_ns", "cell"), [(0, 0), (-1, -1), (MINUTE_NS - 1, 0), (-MINUTE_NS, -1)]
)
def test_a_cell_is_the_interval_that_holds_the_time(time_ns: int, cell: int) -> None:
    rows, _ = judged(
        bars({"open_time_ns": time_ns}), interval_ns=MINUTE_NS, origin_ns=0, latest_ns=LATEST_NS
    )
    assert rows.cols[0, CELL] == cell


@pytest.mark.parametrize("origin_ns", [0, 1, -1, 4 * MINUTE_NS + 7, -(10**15)])
def test_cells_at_the_ends_of_time_are_those_of_whole_numbers(origin_ns: int) -> None:
    off_grid = {bit for bit, name in RULES.items() if name == "off_grid"}.pop()
    for time_ns in (-(2**63), -(2**63) + 1, -(2**63) + MINUTE_NS, -1, 0, 2**63 - 1):
        rows, rules = judged(
            bars({"open_time_ns": time_ns}),
            interval_ns=MINUTE_NS,
            origin_ns=origin_ns,
            latest_ns=LATEST_NS,
        )
        assert rows.cols[0, CELL] == (time_ns - origin_ns) // MINUTE_NS
        assert bool(rules[0] & off_grid) is ((time_ns - origin_ns) % MINUTE_NS != 0)


def test_there_is_one_zero() -> None:
    rows, _ = judged(
        bars({"volume": -0.0, "quote_volume": -0.0}),
        interval_ns=MINUTE_NS,
        origin_ns=0,
        latest_ns=LATEST_NS,
    )
    assert not np.signbit(rows.vals).any()


def test_what_follows_from_a_rule_depends_on_mode_and_preset() -> None:
    bits = {name: bit for bit, name in RULES.items()}
    rules = np.array([0, *bits.values()], np.int64)
    always, values = (
        {"non_finite", "future_time"},
        set(bits) - {"non_finite", "future_time", "off_grid"},
    )

    def blocked(mode: str, off_grid: str) -> set[str]:
        found, flags = outcome(rules, mode=mode, off_grid=off_grid)
        assert not found[0] and not flags[0]
        for at, name in enumerate(bits, 1):
            passes = not found[at]
            assert bool(flags[at] & SUSPECT) is (passes and name in values)
            assert bool(flags[at] & SNAPPED) is (name == "off_grid")
        return {name for name, no in zip(bits, found[1:], strict=True) if no}

    assert blocked(CANARY, "reject") == always | {"off_grid"}
    assert blocked(CANARY, "snap") == always
    assert blocked(STRICT, "reject") == set(bits)
    assert blocked(STRICT, "snap") == set(bits) - {"off_grid"}


def test_the_stated_reason_is_one_that_never_passes_where_there_is_one() -> None:
    bits = {name: bit for bit, name in RULES.items()}
    assert first_rule(bits["negative_volume"] | bits["future_time"]) == "future_time"
    assert first_rule(bits["negative_volume"] | bits["trade_ids"]) == "negative_volume"
    assert first_rule(0) == "none"
    snapped = bits["off_grid"]
    assert first_rule(snapped | bits["trade_ids"]) == "off_grid"
    assert first_rule(snapped | bits["trade_ids"], "snap") == "trade_ids"
    assert first_rule(snapped | bits["future_time"], "snap") == "future_time"
    assert first_rule(snapped, "snap") == "off_grid"
