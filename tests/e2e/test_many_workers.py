"""Two workers, five, one, with a storm of joins and leaves in between, under load: nothing lost,
nothing twice, and whoever is told to leave does so in time with all it has in hand."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from e2e.test_exactly_once import Copies
from e2e.workers import WorkerProcess, await_that, copy_worker
from faults.series import FEED_S, SESSION_S, Feeder, read_out
from integration.plain_preset import fresh
from seamline.connectors.world import World

PARTITIONS = 8
SEEDS = range(10) if os.environ.get("SEAMLINE_SOAK") else range(1)
MOST = 5


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_from_two_workers_to_five_to_one_through_a_storm(
    seed: int, world: World, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    preset = fresh(world.cluster, PARTITIONS)
    workers = [
        WorkerProcess(f"w{n}", home, world, copy_worker(preset.id, PARTITIONS, home, SESSION_S))
        for n, home in enumerate(tmp_path / f"w{n}" for n in range(MOST))
    ]
    logs = {worker.name: worker.log for worker in workers}
    feeder = Feeder(world, preset, Copies(), per_batch=40)
    try:
        for worker in workers[:2]:
            worker.start()
        await_that(lambda: any(w.said("OWNED") for w in workers), 120, "the first owners", logs)
        feeder.start()
        began = time.monotonic()
        for worker in workers[2:]:
            worker.start()
        storm(rng, workers, began + FEED_S / 2)
        # All but one leave while the feeding goes on: some in order, some at once.
        stays = rng.randrange(MOST)
        for worker in workers:
            if worker is not workers[stays]:
                worker.signal(rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
        feeder.join(FEED_S + 60)
        if feeder.failure is not None:
            raise feeder.failure
        await_that(
            lambda: not read_out(world, preset, Copies(), feeder.sent).lost,
            90,
            f"every record out, seed {seed}",
            logs,
        )
        assert workers[stays].status is None
        workers[stays].signal(signal.SIGTERM)
        assert workers[stays].wait(30) == 0
        out = read_out(world, preset, Copies(), feeder.sent)
    finally:
        for worker in workers:
            worker.end()
    assert len(out.expected) > 1_000, "too little was fed to mean anything"
    assert (out.lost, out.twice, out.changed, out.invented) == (set(), [], [], set())


def storm(rng: random.Random, workers: list[WorkerProcess], until: float) -> None:
    """Joins and leaves that overtake each other: no rebalance is over before the next begins."""
    while time.monotonic() < until:
        worker = rng.choice(workers)
        if worker.status is None:
            worker.signal(signal.SIGTERM)
            # In time and without an error, whatever it was in the middle of; one that has not
            # begun anything yet has nothing to end.
            assert worker.wait(30) in (0, -signal.SIGTERM)
        time.sleep(rng.uniform(0.1, 0.6))
        worker.start()
    for worker in workers:
        if worker.status is not None:
            worker.start()
