"""The invariants can fail: each planted defect is found, by an invariant that it breaks."""

from __future__ import annotations

import pytest

from seamline.streams.kernel.simulation.checks import INVARIANTS
from seamline.streams.kernel.simulation.runs import Run, run, run_seed
from seamline.streams.kernel.simulation.shrink import shrink
from seamline.streams.kernel.simulation.story import explain
from simulation.planted import DEFECTS

SEEDS_MAX = 300


def first_failure(name: str) -> Run:
    parts, _ = DEFECTS[name]
    for seed in range(SEEDS_MAX):
        done = run_seed(seed, parts)
        if done.failure is not None:
            return done
    pytest.fail(f"{name}: not found in {SEEDS_MAX} seeds")


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str) -> None:
    failure = first_failure(name).failure
    assert failure is not None
    assert failure.invariant in DEFECTS[name][1], failure


def test_every_invariant_that_the_plane_promises_is_broken_by_some_defect() -> None:
    named = {invariant for _, invariants in DEFECTS.values() for invariant in invariants}
    assert named >= {
        "gap",
        "final",
        "duplicate",
        "invented",
        "digest",
        "stream",
        "once",
        "watermark",
    }
    assert named <= INVARIANTS.keys()


@pytest.mark.parametrize("name", ["nobody is fenced", "storage is not tailed"])
def test_a_failing_run_is_shrunk_and_told(name: str) -> None:
    failed = first_failure(name)
    short = shrink(failed, runs_max=60)
    assert failed.failure is not None
    assert short.failure is not None
    assert short.failure.invariant == failed.failure.invariant
    assert len(short.acts) * 3 < len(failed.acts)
    again = run(short.world.settings, short.acts, short.world.parts)
    assert again.failure == short.failure  # what is told happens again
    text = explain(short)
    assert f"again: seamline simulate --seed {short.world.settings.seed}" in text
    assert INVARIANTS[short.failure.invariant] in text
    assert all(str(act) in text for act in short.acts)
