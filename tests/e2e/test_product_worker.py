"""`seamline worker` under faults, with bars, on the real broker.

Series of faults over several workers with both landing topics; kills at seeded points against a
run in which nothing happened; readers that start before, during and after a backfill of one range.
`make soak` runs many more seeds of the first two (`python -m faults`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e.workers import WorkerProcess, await_that
from faults.bars import MINUTE_NS, START_NS, columns_of
from faults.case import Ground
from faults.kills import kills
from faults.series import SESSION_S
from faults.worker_cases import series
from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.world import World
from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.records import decode_record
from seamline.schemas.times import format_time
from seamline.schemas.topics import partition_of
from seamline.sdk import stitch
from seamline.sdk.demo.follower import Follower, Kept

# Kills of one worker, each at a seeded point of its work; `make reliability` makes twenty.
KILLS = 20 if os.environ.get("SEAMLINE_SOAK") else 8


def worker_command(fresh: FreshPreset, directory: Path) -> list[str]:
    command = [sys.executable, "-m", "seamline.sdk.cli", "worker", fresh.preset.id]
    return [*command, "--dir", str(directory), "--session-timeout", f"{SESSION_S:g}s"]


@pytest.fixture
def make(fresh_preset: MakePreset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FreshPreset]:
    """A fresh preset that child processes see too."""

    def made(**settings: Any) -> FreshPreset:
        fresh = fresh_preset(**settings)
        monkeypatch.setenv("SEAMLINE_PRESETS_FILE", str(fresh.file))
        return fresh

    return made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_several_workers_lose_nothing_and_write_nothing_twice(
    seed: int, world: World, tmp_path: Path
) -> None:
    outcome = series(Ground(world, tmp_path), seed, workers=2 + seed % 2, extra_faults=0)
    assert outcome.bars > 5_000, "too little was fed to mean anything"
    assert outcome.ok, outcome.story()


@pytest.mark.timeout(900)
def test_kills_at_seeded_points_change_nothing(world: World, tmp_path: Path) -> None:
    outcome = kills(Ground(world, tmp_path), seed=0, count=KILLS)
    assert outcome.bars > 10_000, "too little was fed to mean anything"
    assert outcome.ok, outcome.story()


def consumed(fresh: FreshPreset) -> int:
    """Rows that committed positions cover."""
    admin = Admin(fresh.world.cluster)
    total = 0
    for partition in range(fresh.preset.partitions):
        reader = LogReader(fresh.world.cluster, partition, admin)
        found = reader.latest(fresh.topic("positions"))
        total += decode_record("position", found[-1][1])["rows_total"] if found else 0
        reader.close()
    return total


def await_rows(fresh: FreshPreset, rows: int, logs: Mapping[str, Path]) -> None:
    await_that(lambda: consumed(fresh) >= rows, 60, f"{rows} rows are conformed", logs)


# --- readers before, during and after a backfill


def land_history(fresh: FreshPreset, symbol: str, blocks: range) -> None:
    """Settled bars of whole blocks, each block a transaction."""
    partition = partition_of(symbol, fresh.preset.partitions)
    producer = TransactionalProducer(
        fresh.world.cluster, f"seamline.{fresh.preset.id}.backfill.{partition}"
    )
    producer.init()
    for number in blocks:
        start_ns = START_NS + number * fresh.preset.block_ns
        minutes = range(number * 240, number * 240 + 240)
        columns = ConformedColumns.of_landing(columns_of([(m, 50.0 + m % 17, 0) for m in minutes]))
        block = Block(
            symbol=symbol,
            block_start_ns=start_ns,
            block_end_ns=start_ns + fresh.preset.block_ns,
            interval_ns=fresh.preset.interval_ns,
            range_start_ns=start_ns,
            complete_through_ns=start_ns + fresh.preset.block_ns,
            columns=columns,
            digest=block_digest(symbol, columns),
            landing=True,
        )
        producer.begin()
        value = encode_block(block, fresh.ids["bar_block"])
        producer.send(fresh.topic("backfill"), partition, symbol.encode(), value)
        producer.commit()
    producer.close()


@pytest.fixture
def followers() -> Iterator[list[Follower]]:
    started: list[Follower] = []
    yield started
    for each in started:
        each.stop()


def values_of(kept: Kept) -> dict[int, tuple[float, float, int]]:
    """Content and revision by minute. A confirmation by a higher authority is no event, so the
    source is the one that a reader saw."""
    return {
        (time_ns - START_NS) // MINUTE_NS: (bar.open, bar.close, bar.revision)
        for (_, time_ns), bar in kept.bars.items()
    }


def await_held(follower: Follower, prices: Mapping[int, float], logs: Mapping[str, Path]) -> None:
    """Until the reader holds exactly these minutes with these opens."""

    def held() -> bool:
        follower.check()
        return {m: value[0] for m, value in values_of(follower.kept).items()} == prices

    await_that(held, 60, "a reader has every bar and value", logs)


def test_readers_before_during_and_after_a_backfill_end_alike(
    world: World,
    make: Callable[..., FreshPreset],
    tmp_path: Path,
    followers: list[Follower],
) -> None:
    fresh = make()
    symbol = "B0/USDT"
    log = {"worker": tmp_path / "w" / "worker.log"}
    worker = WorkerProcess("w", tmp_path / "w", world, worker_command(fresh, tmp_path / "w"))
    worker.start()
    producer = IdempotentProducer(world.cluster)
    live = [(m, 50.0 + m % 17 + (1 if m % 50 == 0 else 0), 1) for m in range(480, 1100)]

    def land_live(rows: list[tuple[int, float, int]]) -> None:
        values = encode_bars([symbol] * len(rows), columns_of(rows), fresh.ids["bar"])
        for value in values:
            producer.send(fresh.topic("live"), symbol.encode(), value)
        producer.flush()

    def follow() -> Follower:
        follower = Follower(
            lambda: stitch(
                fresh.preset.id,
                [symbol],
                format_time(START_NS),
                on_gap="flag",
                world=world,
                presets=fresh.presets,
            )
        )
        followers.append(follower)
        follower.start()
        return follower

    try:
        land_live(live[:600])
        await_rows(fresh, 600, log)
        before = follow()
        await_that(lambda: before.kept.certificate is not None, 30, "the first reader", log)
        land_history(fresh, symbol, range(2))
        await_rows(fresh, 600 + 480, log)
        during = follow()
        # The blocks from 480 on were live: history confirms most of their bars and revises some.
        land_history(fresh, symbol, range(2, 4))
        await_rows(fresh, 600 + 960, log)
        land_live(live[600:])
        await_rows(fresh, 620 + 960, log)
        after = follow()
        prices = {m: 50.0 + m % 17 for m in range(960)} | {m: p for m, p, _ in live if m >= 960}
        for follower in (before, during, after):
            await_held(follower, prices, log)
    finally:
        producer.close()
        worker.end()
    found = [values_of(follower.kept) for follower in (before, during, after)]
    assert found[0] == found[1] == found[2]
    assert before.kept.late == {symbol: 480}
    assert before.kept.revisions >= 9
    assert after.kept.late == {}
    assert after.kept.revisions == 0
    assert all(follower.kept.duplicates == 0 for follower in (before, during, after))
