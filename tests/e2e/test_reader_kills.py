"""A reader that is killed and resumed from its saved position, beside the product's worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.case import Ground
from faults.reader_cases import reader_kills
from seamline.connectors.world import World

KILLS = 30 if os.environ.get("SEAMLINE_SOAK") else 6


@pytest.mark.timeout(1_800)
def test_killed_anywhere_and_resumed_every_bar_comes_once(world: World, tmp_path: Path) -> None:
    outcome = reader_kills(Ground(world, tmp_path), seed=1, count=KILLS)
    assert outcome.ok, outcome.story()
