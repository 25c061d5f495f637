"""Two workers under SIGKILL, SIGSTOP beyond their session and SIGTERM: nothing lost, nothing twice.

Both landing topics are fed throughout, the backfill topic in transactions of which some abort. The
workers are processes of their own and everything between them is the real broker.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.series import SESSION_S, faults_of, run_series
from e2e.workers import copy_worker
from integration.plain_preset import fresh
from seamline.connectors.kafka.reader import Message
from seamline.connectors.world import World

PARTITIONS = 4
SEEDS = range(20) if os.environ.get("SEAMLINE_SOAK") else range(1)


class Copies:
    """Records for the copying machine: the value names itself."""

    def record(self, role: str, number: int) -> tuple[bytes, bytes]:
        return f"K{number % 37}".encode(), self.id_of(role, number)

    def id_of(self, role: str, number: int) -> bytes:
        return f"{role}-{number}".encode()

    def id_in(self, message: Message) -> bytes | None:
        return None if message.value is None else message.value[1:]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_comes_twice(seed: int, world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, PARTITIONS)
    outcome = run_series(
        seed,
        world,
        preset,
        Copies(),
        lambda directory: copy_worker(preset.id, PARTITIONS, directory, SESSION_S),
        tmp_path,
        extra_faults=2 if len(SEEDS) > 3 else 0,
    )
    assert len(outcome.expected) > 10_000, "too little was fed to mean anything"
    assert (outcome.lost, outcome.twice, outcome.invented) == (set(), [], set()), faults_of(seed)


def test_every_series_has_each_kind_of_fault() -> None:
    for seed in SEEDS:
        faults = faults_of(seed)
        assert {f.kind for f in faults} == {"kill", "stop", "term"}
        assert all(f.for_s > SESSION_S for f in faults if f.kind == "stop")
