"""Owners under trouble: slow, poisoned, fenced, misled and closed. The broker is the real one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from faust.types import TP

from integration.app_harness import app_running, marked, numbered, position_record
from integration.copy_machine import POISON, SLOW, SLOW_S, CopyFactory, CopyMachine
from integration.plain_preset import fresh
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.world import World
from seamline.schemas.topics import POSITION_KEY, topic_name
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.apps.tenure import Place
from seamline.streams.kernel.protocol import PartitionReader

FULL = OwnerSettings(chunks_max=4, rows_max=1)


def test_a_slow_owner_is_held_and_stalls_nobody(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 2)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=FULL) as harness:
            owner = harness.app.owners[0]
            slow = [SLOW + b"-%d" % n for n in range(4)]
            for value in slow:  # one chunk each: the queue of the topic takes two
                harness.feed("live", 0, [value])
                await asyncio.sleep(0.15)
            consumer: Any = harness.app.app.consumer
            await harness.until(lambda: owner.inbox.full("live"), "a full queue")
            # What lands from now on waits at the broker, not in this process.
            assert consumer._held == {TP(harness.topic("live"), 0)}
            values = numbered("fast", 20)
            began = time.monotonic()
            harness.feed("live", 1, values)
            await harness.until_out(1, marked("L", values))
            assert time.monotonic() - began < 3 * SLOW_S, "it waited for the slow one"
            await harness.until_out(0, marked("L", slow))
            assert harness.metrics.troubles.labels(preset.id, "broken")._value.get() == 0

    asyncio.run(run())


def test_live_gets_in_while_backfill_is_full(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=FULL) as harness:
            slow = [SLOW + b"-%d" % n for n in range(5)]
            harness.feed("backfill", 0, slow)
            await harness.until(lambda: not harness.app.owners[0].inbox.empty, "backfill queued")
            harness.feed("live", 0, [b"now"])
            await harness.until_out(0, [*marked("B", slow), b"Lnow"])
            order = harness.out(0)
            assert order.index(b"Lnow") < len(order) - 1, "live waited for all of the backfill"

    asyncio.run(run())


def test_a_record_that_cannot_be_processed_is_put_aside_and_holds_up_nobody_for_long(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 2)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            before, after = numbered("before", 30), numbered("after", 5)
            # Its own topic and what is behind it there, live as backfill.
            harness.feed("live", 0, [*before, POISON, *after])
            harness.feed("backfill", 0, [POISON, *after])
            harness.feed("live", 1, before)
            await harness.until_out(1, marked("L", before))
            expected = [*marked("L", before + after), *marked("B", after)]
            await harness.until_out(0, expected, within_s=60)
            assert harness.app.owners[0].position == {"live": 36, "backfill": 6}
            poisoned = harness.metrics.quarantined.labels(preset.id, "poisoned")
            assert poisoned._value.get() == 2
            # Five attempts each and a few to find it; every failure is a take.
            assert harness.metrics.takes.labels(preset.id)._value.get() <= 2 + 2 * (5 + 3)

    asyncio.run(run())


def test_a_fenced_owner_takes_again_and_repeats_nothing(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            first, second = numbered("first", 500), numbered("second", 500)
            harness.feed("live", 0, first)
            await harness.until_out(0, marked("L", first))
            other = TransactionalProducer(world.cluster, Place(preset.id, 0, {}).transactional_id)
            await asyncio.to_thread(other.init)
            harness.feed("live", 0, second)
            await harness.until_out(0, marked("L", first + second))
            other.close()
            assert harness.metrics.takes.labels(preset.id)._value.get() >= 2

    asyncio.run(run())


def test_a_position_beyond_its_topic_is_an_error_and_is_not_read_from_the_start(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 1)
    producer = TransactionalProducer(world.cluster, f"liar-{preset.id}")
    producer.init()
    producer.begin()
    positions = topic_name(preset.id, "positions")
    producer.send(positions, 0, POSITION_KEY, position_record(live=99, backfill=0))
    producer.commit()
    producer.close()

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            raise AssertionError(f"it runs: {harness.app.owners[0].state}")

    try:
        asyncio.run(asyncio.wait_for(run(), 8))
    except TimeoutError:
        return
    raise AssertionError("it ended")


class Stuck(CopyFactory):
    """Its machines take longer to rebuild than anybody waits for an owner to close."""

    def rebuild(self, reader: PartitionReader) -> CopyMachine:
        time.sleep(4)
        return super().rebuild(reader)


def test_closing_does_not_wait_for_a_call_that_is_stuck(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> float:
        async with app_running(
            world, preset, tmp_path, factory=Stuck(preset.id), ready=False
        ) as harness:
            await harness.until(lambda: bool(harness.app.owners), "an owner that takes")
            began = time.monotonic()
            await harness.app.close_owners()
            return time.monotonic() - began

    assert asyncio.run(run()) < 1.6


def test_an_open_transaction_of_a_killed_owner_is_settled_by_the_next(
    world: World, tmp_path: Path
) -> None:
    """What a killed owner had sent and not committed is not seen, and does not hold anybody up."""
    preset = fresh(world.cluster, 1)
    conformed = topic_name(preset.id, "conformed")
    killed = TransactionalProducer(world.cluster, Place(preset.id, 0, {}).transactional_id)
    killed.init()
    killed.begin()
    killed.send(conformed, 0, b"k", b"Lnever")
    # Its bytes reach the log before it dies; nothing settles them but the next owner.
    killed._producer.flush(10)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            harness.feed("live", 0, numbered("v", 100))
            await harness.until_out(0, marked("L", numbered("v", 100)), within_s=8)

    asyncio.run(run())
    killed.close()
