"""One seed is one run: in another process, and whatever the hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

from seamline.streams.kernel.simulation.plan import acts_of, settings_of
from seamline.streams.kernel.simulation.runs import run_seed

SEEDS = (3, 14, 159)
PROGRAM = f"""
from seamline.streams.kernel.simulation.runs import run_seed
for seed in {SEEDS}:
    print(run_seed(seed).world.digest())
"""


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    here = [run_seed(seed).world.digest() for seed in SEEDS]
    assert len(set(here)) == len(SEEDS)
    assert [run_seed(seed).world.digest() for seed in SEEDS] == here
    for hash_seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here


def test_a_plan_depends_on_its_seed_alone() -> None:
    for seed in range(20):
        settings = settings_of(seed)
        assert settings == settings_of(seed)
        assert acts_of(settings) == acts_of(settings)
    assert len({acts_of(settings_of(seed)) for seed in range(20)}) == 20
