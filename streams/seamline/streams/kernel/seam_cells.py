"""Cells of a preset's grid: which are expected, which are missing, which cause covers them.

Decides: what a run of missing bars is. Invariants: intervals are half-open; a run never spans an
expected bar that is there; the bars of a run are counted in expected cells. With `sessions` (open
times, ascending) only these are expected, else every multiple of the interval from the origin.
Must not know: where bars come from, what a gap means for a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from seamline.schemas.columns import I8
from seamline.streams.kernel import coverage

Run = tuple[int, int, int]  # start_ns, end_ns, bars
C = TypeVar("C")


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The expected open times of a preset."""

    interval_ns: int
    origin_ns: int = 0
    sessions: I8 | None = None

    def up(self, time_ns: int) -> int:
        """The first grid time at or after `time_ns`."""
        return time_ns + (self.origin_ns - time_ns) % self.interval_ns

    def count(self, start_ns: int, end_ns: int) -> int:
        """Expected bars of `[start_ns, end_ns)`."""
        if self.sessions is not None:
            lo, hi = np.searchsorted(self.sessions, (start_ns, max(start_ns, end_ns)))
            return int(hi - lo)
        return max(0, (self.up(end_ns) - self.up(start_ns)) // self.interval_ns)


def missing_runs(grid: Grid, present: I8, start_ns: int, end_ns: int) -> list[Run]:
    """Maximal runs of expected cells of `[start_ns, end_ns)` not in `present` (ascending)."""
    if end_ns <= start_ns:
        return []
    if grid.sessions is not None:
        lo, hi = np.searchsorted(present, (start_ns, end_ns))
        return _missing_sessions(grid, present[lo:hi], start_ns, end_ns)
    step = grid.interval_ns
    runs = coverage.missing_runs(present, grid.up(start_ns), grid.up(end_ns), step)
    return [(a, b, (b - a) // step) for a, b in runs]


def _missing_sessions(grid: Grid, times: I8, start_ns: int, end_ns: int) -> list[Run]:
    assert grid.sessions is not None
    lo, hi = np.searchsorted(grid.sessions, (start_ns, end_ns))
    expected = grid.sessions[lo:hi]
    absent = np.flatnonzero(~np.isin(expected, times))
    if not len(absent):
        return []
    runs = []
    for group in np.split(absent, np.flatnonzero(np.diff(absent) > 1) + 1):
        a, b = int(expected[group[0]]), int(expected[group[-1]]) + grid.interval_ns
        runs.append((a, b, len(group)))
    return runs


def explained(
    grid: Grid, runs: Sequence[Run], causes: Sequence[tuple[int, int, C]]
) -> tuple[list[tuple[int, int, int, C]], list[Run]]:
    """Split missing runs by a ledger's entries (start_ns, end_ns, cause; ascending by start): (with
    a cause, without)."""
    named: list[tuple[int, int, int, C]] = []
    rest: list[Run] = []
    first = 0
    for start, end, _ in runs:
        while first < len(causes) and causes[first][1] <= start:
            first += 1
        at = start
        for a, b, cause in causes[first:]:
            if a >= end:
                break
            lo, hi = max(a, at), min(b, end)
            if hi <= lo:
                continue
            if lo > at and grid.count(at, lo):
                rest.append((at, lo, grid.count(at, lo)))
            if grid.count(lo, hi):
                named.append((lo, hi, grid.count(lo, hi), cause))
            at = hi
        if at < end and grid.count(at, end):
            rest.append((at, end, grid.count(at, end)))
    return named, rest
