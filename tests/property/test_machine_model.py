"""The machine of a partition against a model in plain Python, over random scripts.

One script is played twice: undisturbed, and cut elsewhere with crashes between and inside steps.
Both logs must say the same; and they must say what the model says, which knows nothing of slots,
blocks, batches or restarts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from machine_scripts import Writer, play, said, setup_of


def run_seed(seed: int, directory: Path, length: int = 40) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    events = Writer(rng, setup).script(length)
    whole = play(setup, events, directory / "whole", None)
    cut = play(setup, events, directory / "cut", random.Random(seed + 1))
    for of in setup.presets:
        assert said(cut, of) == said(whole, of)
    whole.machine.close()
    cut.machine.close()


@pytest.mark.parametrize("seed", range(150))
def test_the_log_says_what_the_model_says(seed: int, tmp_path: Path) -> None:
    run_seed(seed, tmp_path)
