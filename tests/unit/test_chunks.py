"""Backfill planning: chunks, block parts, what is promised, delays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.schemas.errors import UsageError
from seamline.streams.kernel.chunks import (
    CHUNKS_MAX,
    RETRY_DELAY_MAX_MS,
    Grid,
    RetryPolicy,
    block_parts,
    closed_edge,
    plan_chunks,
    plan_missing,
    settled_edge,
)

GRID = Grid(10, 40)
CELLS = Grid(10, 10)


def test_chunks_of_cells_touch_and_hold_whole_cells_only() -> None:
    assert plan_chunks(CELLS, 0, 110, 3) == [(0, 30), (30, 60), (60, 90), (90, 110)]
    assert plan_chunks(CELLS, 5, 87, 3) == [(10, 40), (40, 70), (70, 80)]
    assert plan_chunks(CELLS, 5, 9, 3) == []


def test_chunks_end_on_block_boundaries_where_they_reach_one() -> None:
    assert plan_chunks(GRID, 10, 200, 8) == [(10, 80), (80, 160), (160, 200)]
    assert plan_chunks(GRID, 10, 60, 2) == [(10, 30), (30, 40), (40, 60)]


@given(st.integers(-500, 500), st.integers(0, 900), st.integers(1, 40), st.integers(0, 7))
def test_chunks_are_the_range(start: int, length: int, window: int, origin: int) -> None:
    grid = Grid(10, 40, origin)
    chunks = plan_chunks(grid, start, start + length, window)
    cells = [c for a, b in chunks for c in range(a, b, 10)]
    first = grid.ceil(start)
    assert cells == list(range(first, max(first, grid.floor(start + length)), 10))
    assert all(0 < b - a <= window * 10 for a, b in chunks)
    for a, b in chunks:
        parts = block_parts(grid, a, b)
        assert [c for p in parts for c in range(p.start_ns, p.end_ns, 10)] == [*range(a, b, 10)]
        assert all(
            p.block_start_ns <= p.start_ns < p.end_ns <= p.block_end_ns
            and (p.block_start_ns - origin) % 40 == 0
            for p in parts
        )


def test_what_has_landed_is_not_planned_again() -> None:
    assert plan_missing(GRID, 0, 200, 8, [(0, 80), (160, 200)]) == [(80, 160)]
    assert plan_missing(GRID, 0, 200, 8, [(0, 200)]) == []
    assert plan_missing(GRID, 0, 200, 8, [(30, 50)]) == [(0, 30), (50, 120), (120, 200)]


def test_nothing_is_promised_beyond_the_settled_edge() -> None:
    first, second = block_parts(GRID, 30, 70)
    assert settled_edge(GRID, 68, 5) == 60 and closed_edge(GRID, 68) == 60
    assert (first.complete_through(60), second.complete_through(60)) == (40, 60)
    assert second.complete_through(40) is None


def test_settings_and_ranges_are_refused_not_bent() -> None:
    for parameter, value in (("max_attempts", 0), ("retry_backoff_ms", -1), ("jitter_ratio", 3.0)):
        with pytest.raises(UsageError) as raised:
            RetryPolicy(**{parameter: value})  # type: ignore[arg-type]
        assert raised.value.parameter == parameter
    with pytest.raises(UsageError) as raised:
        plan_chunks(GRID, 0, 10, -5)
    assert raised.value.parameter == "window_bars"
    with pytest.raises(UsageError) as raised:
        plan_chunks(GRID, 10, 0, 5)
    assert raised.value.parameter == "end"
    with pytest.raises(UsageError, match=str(CHUNKS_MAX)):
        plan_chunks(CELLS, 0, 10 * CHUNKS_MAX + 10, 1)


def test_a_time_inside_a_cell_is_answered_with_both_neighbours() -> None:
    grid = Grid(60_000_000_000, 60_000_000_000)
    assert grid.require_on_grid(0, parameter="start") == 0
    with pytest.raises(UsageError) as raised:
        grid.require_on_grid(61_000_000_000, parameter="start")
    assert raised.value.fix == "Write 1970-01-01T00:01:00Z or 1970-01-01T00:02:00Z"


def test_delays_follow_the_formula_and_draw_only_for_jitter() -> None:
    def never() -> float:
        raise AssertionError("nothing to draw")

    plain = RetryPolicy(retry_backoff_ms=10, jitter_ratio=0)
    assert [plain.delay_ms(n, never) for n in (1, 2, 3)] == [10, 20, 40]
    assert RetryPolicy(retry_backoff_ms=10, jitter_ratio=0.25).delay_ms(1, lambda: 0.5) == 11.25
    assert plain.delay_ms(10_000, never) == RETRY_DELAY_MAX_MS


def test_a_cell_is_settled_when_it_has_been_closed_for_long_enough() -> None:
    """The cell [50, 60) has settled at 75 where that takes 15, and not a moment before."""
    assert settled_edge(GRID, 75, 15) == 60
    assert settled_edge(GRID, 74, 15) == 50
    assert (closed_edge(GRID, 60), closed_edge(GRID, 59)) == (60, 50)
