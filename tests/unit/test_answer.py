"""Stabilization, watermarks and what an answer states: beyond the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.streams.kernel.answer import Answer, answer, fingerprint_of, judge_coverage
from seamline.streams.kernel.coverage import Coverage
from seamline.streams.kernel.stabilization import effective_stabilization, stabilize
from seamline.streams.kernel.watermark import admit, watermark_ns

STEP = 60 * 10**9
LONG_AFTER = 10**6 * STEP
INT64 = 2**63


def rows(*bars: tuple[int, float, int, int]) -> ConformedColumns:
    """Of (cell, price, revision, known_time)."""
    columns = ConformedColumns.empty(len(bars))
    for name in columns.DTYPES:
        getattr(columns, name)[:] = 0
    for row, (cell, price, revision, known_ns) in enumerate(bars):
        columns.open_time_ns[row] = cell * STEP
        columns.close[row] = price
        columns.revision[row], columns.known_time_ns[row] = revision, known_ns
    return columns


def ask(sources: dict[str, ConformedColumns], cells: int = 4, **changed: Any) -> Answer:
    defaults = {"stabilization_bars": 0, "watermark_ns": LONG_AFTER, "interval_ns": STEP}
    return answer("A/B", (0, cells * STEP), sources, **{**defaults, **changed})


def test_the_newest_revision_is_given_whichever_source_has_it() -> None:
    old, new = rows((0, 1.0, 0, 5), (1, 1.0, 0, 5)), rows((1, 2.0, 1, 6), (0, 9.0, 0, 4))
    for sources in ({"cache": old, "storage": new}, {"storage": new, "cache": old}):
        found = ask(sources, cells=2)
        assert found.rows.close.tolist() == [1.0, 2.0]  # of one revision the latest knowledge
        assert found.rows.revision.tolist() == [0, 1]
    same = ask({"cache": rows((0, 1.0, 0, 5)), "storage": rows((0, 3.0, 0, 5))}, cells=1)
    assert same.rows.close.tolist() == [1.0]


def test_an_answer_does_not_depend_on_how_its_rows_came() -> None:
    whole = rows(*((cell, float(cell), 0, 1) for cell in range(4)))
    other = {"a": whole.take(np.array([3, 1])), "b": whole.take(np.array([2, 0, 1]))}
    one, two = ask({"storage": whole}), ask(other)
    assert one.statement == two.statement
    assert two.rows.open_time_ns.tolist() == whole.open_time_ns.tolist()
    assert one.statement.fingerprint == fingerprint_of("A/B", whole)
    assert fingerprint_of("C/D", whole) != one.statement.fingerprint


def test_expected_bars_are_those_of_a_calendar() -> None:
    expected = Coverage.of([(0, STEP), (2 * STEP, 4 * STEP)], interval_ns=STEP)
    found = ask({"storage": rows((0, 1.0, 0, 1), (2, 1.0, 0, 1))}, expected=expected)
    assert found.statement.missing_ranges == ((3 * STEP, 4 * STEP),)
    assert found.statement.coverage_ratio == 2 / 3
    with pytest.raises(ContractError) as raised:
        found.require_complete()
    assert raised.value.fields["missing_ranges"] == ((3 * STEP, 4 * STEP),)
    assert raised.value.parameter == "missing_ranges"


def test_a_bar_that_is_missing_at_the_live_edge_is_missing() -> None:
    """The provisional bar beside it is there and only waits."""
    live = {"storage": rows((0, 1.0, 0, 1), (1, 1.0, 0, 1), (3, 1.0, 0, 1))}
    stated = ask(live, stabilization_bars=2, watermark_ns=4 * STEP).statement
    assert stated.missing_ranges == ((2 * STEP, 3 * STEP),)
    assert stated.provisional.intervals == ((3 * STEP, 4 * STEP),)
    assert (stated.rows, stated.coverage_ratio) == (2, 2 / 3)


def test_what_is_asked_without_a_unit_is_refused_before_any_row() -> None:
    with pytest.raises(UsageError) as raised:
        answer(
            "A/B",
            (0.0, 1),  # type: ignore[arg-type]
            {},
            interval_ns=STEP,
            stabilization_bars=0,
            watermark_ns=0,
        )
    assert raised.value.parameter == "window_ns"
    refused: dict[str, Any] = {"watermark_ns": 1.5, "stabilization_bars": -1, "interval_ns": 0}
    for name, value in refused.items():
        with pytest.raises(UsageError) as raised:
            ask({}, **{name: value})
        assert raised.value.parameter == name


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(-50, 50), max_size=20),
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(-500, 500),
)
def test_each_bar_is_stable_by_the_rule(
    cells: list[int], interval: int, bars: int, watermark: int
) -> None:
    times = [cell * interval for cell in cells]
    parted = stabilize(
        Coverage.of_times(times, interval_ns=interval),
        interval_ns=interval,
        stabilization_bars=bars,
        watermark_ns=watermark,
    )
    for time in times:
        stable = time + interval * (1 + bars) <= watermark
        assert parted.stable.contains(time) is stable
        assert parted.provisional.contains(time) is not stable


def test_stabilization_at_the_ends_of_time() -> None:
    whole = [(-INT64, INT64 - 1)]
    for watermark, wanted in ((-INT64, 0), (INT64 - 1, 2**64 - 3)):
        found = stabilize(whole, interval_ns=1, stabilization_bars=2, watermark_ns=watermark)
        assert found.stable.cells == wanted
        assert found.stable.cells + found.provisional.cells == 2**64 - 1


def test_zero_is_a_setting_and_none_is_none() -> None:
    assert effective_stabilization() is None
    assert effective_stabilization(world_stabilization_bars=0) == 0
    three = effective_stabilization(
        world_stabilization_bars=0, preset_stabilization_bars=2, registrar_stabilization_bars=3
    )
    assert three == 3
    with pytest.raises(UsageError) as raised:
        effective_stabilization(preset_stabilization_bars=True)
    assert raised.value.parameter == "preset_stabilization_bars"


@pytest.mark.parametrize(
    ("ratio", "limit", "held"),
    [(0.9, 0.9, False), (0.89, 0.9, True), (0.0, 0.0, False), (0.5, None, False), (0.9, 1, True)],
)
def test_a_limit_of_coverage_is_kept_at_the_limit(
    ratio: float, limit: float | None, held: bool
) -> None:
    assert (judge_coverage(ratio, limit) is not None) is held


@given(st.lists(st.integers(-9, 9)), st.integers(-9, 9))
def test_every_event_has_one_fate(events: list[int], edge: int) -> None:
    late = [event for event in events if event < edge]
    for policy, kept, aside in (
        ("recompute", len(events), []),
        ("ignore", len(events) - len(late), []),
        ("side_output", len(events) - len(late), late),
    ):
        found = admit(events, watermark_ns=edge, on_late=policy)
        assert (sum(found.processed), list(found.side_output_ns)) == (kept, aside)
    assert watermark_ns(9, interval_ns=2, lag_bars=3) == 3


@pytest.mark.parametrize("limit", ["0.5", [1], True, float("nan")])
def test_a_limit_of_coverage_is_a_ratio(limit: Any) -> None:
    with pytest.raises(UsageError) as refused:
        judge_coverage(1.0, limit)
    assert refused.value.parameter == "min_coverage"


def test_a_ratio_that_is_no_number_keeps_no_promise() -> None:
    assert judge_coverage(float("nan"), 0.5) is not None


@pytest.mark.parametrize("events", [None, 5, "12", b"12"])
def test_events_are_a_list(events: Any) -> None:
    with pytest.raises(UsageError) as refused:
        admit(events, watermark_ns=0, on_late="ignore")
    assert refused.value.parameter == "events_ns"
