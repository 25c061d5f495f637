"""The only broker under load: killed and started again, and with a full disk.

The broker drops markers when it comes back; the next owner completes what they were for (decision
0128), so nothing may lie in the log twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.broker_cases import disk_full, killed
from faults.case import Ground
from seamline.connectors.embedded.stack import Endpoints, running
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Endpoints]:
    """Not the session's: its broker is broken."""
    with running() as ready:
        yield ready


@pytest.fixture
def ground(own_stack: Endpoints, tmp_path: Path) -> Ground:
    world = World(Cluster(own_stack.bootstrap), own_stack.registry_url)
    return Ground(world, tmp_path, own_stack.directory)


@pytest.mark.parametrize("seed", range(5) if SOAK else range(1))
def test_the_broker_killed_under_load_loses_nothing(seed: int, ground: Ground) -> None:
    outcome = killed(ground, seed, times=2 if SOAK else 1)
    print(outcome.story())
    assert outcome.ok, outcome.story()
    assert outcome.bars > 500, "too little was fed to mean anything"


@pytest.mark.skipif(not SOAK, reason="a second end of the broker: SEAMLINE_SOAK=1")
@pytest.mark.parametrize("seed", range(3))
def test_a_full_disk_ends_the_broker_and_loses_nothing(seed: int, ground: Ground) -> None:
    outcome = disk_full(ground, seed)
    print(outcome.story())
    assert outcome.ok, outcome.story()
    assert outcome.bars > 500, "too little was fed to mean anything"
