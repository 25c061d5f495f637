"""The cases of workers: series of faults over several of them, and kills at seeded points.

Decides: how many workers, how hard. Must not know: pytest, the page.
"""

from __future__ import annotations

from faults.bars import OWNS, Bars, worker_process
from faults.case import Case, Ground, Outcome
from faults.kills import MOMENTS, kills
from faults.series import CAUSES, SESSION_S, Shape, run_series
from preset_making import make_preset


def series(ground: Ground, seed: int, *, workers: int, extra_faults: int = 2) -> Outcome:
    """`seamline worker`, with bars: each is fed once and must be one row of the log."""
    fresh = make_preset(ground.world, ground.directory)
    return run_series(
        seed,
        ground.world,
        fresh.preset,
        Bars(fresh.ids),
        lambda name: worker_process(name, ground.directory, [fresh], SESSION_S),
        Shape(workers, per_batch=30, extra_faults=extra_faults, owned=OWNS),
    )


def series_of_many(ground: Ground, seed: int) -> Outcome:
    return series(ground, seed, workers=2 + seed % 2)


CASES = (
    Case(
        "workers",
        "two or three workers of one preset, both landing topics fed",
        series_of_many,
        seeds=20,
        faults={name: cause.sentence for name, cause in CAUSES.items()},
    ),
    Case(
        "kills",
        "one worker, killed at 20 points of a feed with duplicates, disorder and conflicts, "
        "against a worker that was not; one and two landing topics",
        kills,
        seeds=3,
        faults=MOMENTS,
    ),
)
