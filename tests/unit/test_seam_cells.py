"""Runs of missing bars against counting cell by cell, on a plain grid and on exchange sessions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.streams.kernel.seam_cells import Grid, Run, explained, missing_runs

STEP = 10
CELLS = 24


def grid_of(open_cells: set[int] | None, origin: int) -> Grid:
    if open_cells is None:
        return Grid(STEP, origin)
    times = np.array([origin + STEP * cell for cell in sorted(open_cells)], np.int64)
    return Grid(STEP, origin, times)


def counted(expected: list[int], present: set[int]) -> list[Run]:
    """Maximal runs of expected times that are absent, one time after the other."""
    runs: list[Run] = []
    joined = False
    for time in expected:
        if time in present:
            joined = False
        elif joined:
            start, _, bars = runs.pop()
            runs.append((start, time + STEP, bars + 1))
        else:
            runs.append((time, time + STEP, 1))
            joined = True
    return runs


cells = st.sets(st.integers(0, CELLS - 1))


@settings(deadline=None, max_examples=200)
@given(st.none() | cells, cells, st.integers(0, STEP - 1), st.data())
def test_missing_runs_are_the_expected_bars_that_are_not_there(
    sessions: set[int] | None, present: set[int], origin: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(-STEP, STEP * CELLS))
    end = data.draw(st.integers(start, STEP * (CELLS + 1)))
    grid = grid_of(sessions, origin)
    open_cells = range(-2, CELLS + 2) if sessions is None else sorted(sessions)
    expected = [t for t in (origin + STEP * cell for cell in open_cells) if start <= t < end]
    there = {origin + STEP * cell for cell in present} & set(expected)
    times = np.array(sorted(there), np.int64)
    runs = missing_runs(grid, times, start, end)
    assert runs == counted(expected, there)
    assert sum(bars for _, _, bars in runs) + len(there) == grid.count(start, end)


@settings(deadline=None, max_examples=200)
@given(cells, cells, cells)
def test_every_missing_bar_is_explained_once_or_left_over(
    present: set[int], lost: set[int], quiet: set[int]
) -> None:
    grid = Grid(STEP)
    causes = {**dict.fromkeys(lost, "our_loss"), **dict.fromkeys(quiet, "no_trades")}
    entries = [(STEP * c, STEP * (c + 1), cause) for c, cause in sorted(causes.items())]
    runs = missing_runs(grid, np.array([STEP * c for c in sorted(present)]), 0, STEP * CELLS)
    named, rest = explained(grid, runs, entries)
    told = {a // STEP: cause for a, _, n, cause in named if n == 1}
    missing = set(range(CELLS)) - present
    assert told == {cell: causes[cell] for cell in missing & causes.keys()}
    left = {cell for a, b, _ in rest for cell in range(a // STEP, b // STEP)}
    assert left == missing - causes.keys()
    assert sum(n for _, _, n in rest) == len(left)
