"""Workers under SIGKILL, SIGSTOP beyond their session, SIGTERM and restarts: nothing lost or twice.

Both landing topics are fed throughout, the backfill topic in transactions of which some abort. The
workers are processes of their own and everything between them is the real broker.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.workers import copy_worker
from faults.series import CAUSES, SESSION_S, Shape, in_directory, run_series, timeline_of
from integration.plain_preset import fresh
from seamline.connectors.kafka.reader import Message
from seamline.connectors.world import World

PARTITIONS = 4
SEEDS = range(20) if os.environ.get("SEAMLINE_SOAK") else range(1)


class Copies:
    """Records for the copying machine: the value names itself."""

    def record(self, role: str, number: int) -> tuple[bytes, bytes]:
        return f"K{number % 37}".encode(), self.made(role, number)[0]

    def made(self, role: str, number: int) -> tuple[bytes, bytes]:
        value = f"{role}-{number}".encode()
        return value, value

    def read(self, message: Message) -> tuple[bytes, bytes] | None:
        return None if message.value is None else (message.value[1:], message.value[1:])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_comes_twice(seed: int, world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, PARTITIONS)
    outcome = run_series(
        seed,
        world,
        preset,
        Copies(),
        in_directory(
            tmp_path, world, lambda home: copy_worker(preset.id, PARTITIONS, home, SESSION_S)
        ),
        Shape(workers=2 + seed % 2, extra_faults=2 if len(SEEDS) > 3 else 0),
    )
    assert outcome.bars > 10_000, "too little was fed to mean anything"
    assert outcome.ok, outcome.story()


def test_every_series_has_each_kind_of_fault_and_some_overlap() -> None:
    for seed in range(100):
        for workers in (2, 3):
            timeline = timeline_of(seed, workers)
            assert timeline == timeline_of(seed, workers)
            assert {f.kind for f in timeline.faults} == set(CAUSES)
            assert all(f.for_s > SESSION_S for f in timeline.faults if f.kind == "stop")
            assert timeline.overlaps
            assert str(timeline).count("\n") == 0
