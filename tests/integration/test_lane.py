"""The traps of the lane, each on the real broker: where chunks can vanish, and what must not move
a position. Nothing may be lost and nothing may come twice in any of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from integration.app_harness import app_running, marked, numbered
from integration.plain_preset import fresh
from seamline.connectors.kafka import fetching
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.apps.preset_app import PresetApp, group_of
from seamline.streams.kernel.chunk import Chunk

MANY = 3_000
# A lost chunk shows by the next one, or not at all.
PATIENT = OwnerSettings(lost_s=3600.0)
EAGER = OwnerSettings(lost_s=0.5, tick_s=0.2)


def client_partition(topic: str) -> Any:
    return fetching.partition(topic, 0)


def set_offset(tool: Consumer, where: TopicPartition) -> None:
    """A broker that was never asked for a group before makes its coordinator first."""
    deadline = time.monotonic() + 20
    while True:
        try:
            tool.commit(offsets=[where], asynchronous=False)
            return
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def lose(app: PresetApp, monkeypatch: pytest.MonkeyPatch, which: set[int]) -> list[Chunk]:
    """Make the agent drop chunks by their number, as Faust does in a rebalance."""
    seen: list[Chunk] = []
    offer = app._offer

    def offer_or_lose(chunk: Chunk) -> None:
        seen.append(chunk)
        if len(seen) - 1 not in which:
            offer(chunk)

    monkeypatch.setattr(app, "_offer", offer_or_lose)
    return seen


def test_both_landing_topics_of_a_partition_come_out_once(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 2)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            live, backfill = numbered("l", MANY), numbered("b", MANY)
            harness.feed("live", 1, live)
            harness.feed("backfill", 1, backfill)
            await harness.until_out(1, marked("L", live) + marked("B", backfill))

    asyncio.run(run())


@pytest.mark.parametrize("role", ["live", "backfill"])
def test_a_lost_chunk_is_seen_by_the_next_and_both_topics_restart(
    role: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=PATIENT) as harness:
            seen = lose(harness.app, monkeypatch, {0})
            first, second = numbered("first", MANY), numbered("second", MANY)
            harness.feed(role, 0, first)
            await harness.until(lambda: len(seen) >= 1, "the chunk that is lost")
            before = {chunk.session for chunk in seen}
            harness.feed(role, 0, second)
            await harness.until_out(0, marked("L" if role == "live" else "B", first + second))
            assert {chunk.session for chunk in seen} - before, "no new session"
            troubles = harness.metrics.troubles.labels(preset.id, "broken")
            assert troubles._value.get() == 1

    asyncio.run(run())


def test_a_lost_chunk_without_a_next_is_missed_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=EAGER) as harness:
            lose(harness.app, monkeypatch, {0})
            values = numbered("only", 10)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))

    asyncio.run(run())


def test_an_agent_that_raises_lives_on_and_its_chunk_is_fetched_again(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=EAGER) as harness:
            offer = harness.app._offer
            failed: list[Chunk] = []

            def fail_once(chunk: Chunk) -> None:
                if not failed:
                    failed.append(chunk)
                    raise RuntimeError("a fault of the program")
                offer(chunk)

            monkeypatch.setattr(harness.app, "_offer", fail_once)
            values = numbered("v", 100)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))
            assert failed
            # The program's fault is told by us; Faust would only start another agent.
            (said,) = (r for r in caplog.records if "was not taken" in r.getMessage())
            assert said.exc_info is not None

    asyncio.run(run())


def test_fausts_seeks_commits_and_acks_decide_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)
    live = f"seamline.{preset.id}.live"
    # Somebody set the group's offset, as tools do, to where Faust's own seek would lose records.
    somewhere = MANY + 500
    tool = Consumer({"bootstrap.servers": world.cluster.bootstrap, "group.id": group_of(preset.id)})
    set_offset(tool, TopicPartition(live, 0, somewhere))
    tool.close()

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            consumer: Any = harness.app.app.consumer
            messages: list[Any] = []
            to_message = consumer._to_message

            def note(tp: Any, record: Any) -> Any:
                messages.append(to_message(tp, record))
                return messages[-1]

            monkeypatch.setattr(consumer, "_to_message", note)
            first, second = numbered("first", MANY), numbered("second", MANY)
            harness.feed("live", 0, first)
            await harness.until_out(0, marked("L", first))
            consumer.hold(TP(live, 0))
            harness.feed("live", 0, second)
            await consumer.perform_seek()
            consumer.release(TP(live, 0))
            assert consumer.ack(messages[0]) is False
            driver.Consumer.ack(consumer, messages[-1])  # as Faust itself would
            assert await consumer.commit() is False
            client = consumer._thread._ensure_consumer()
            committed = await consumer._thread.call_thread(client.committed, client_partition(live))
            assert committed == somewhere
            await harness.until_out(0, marked("L", first + second))

    asyncio.run(run())


def test_what_was_fetched_before_a_restart_is_not_delivered_after_it(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            consumer: Any = harness.app.app.consumer
            tp = TP(harness.topic("live"), 0)
            old = dict(consumer._sessions)
            harness.app.owners[0].break_("a test")
            await harness.until(
                lambda: harness.running() and consumer._sessions.get(tp) not in (None, old[tp]),
                "a new session",
            )
            # A fetch that was under way then comes back now: it names the sessions of before.
            await consumer._deliver(tp, [object()], old)
            assert consumer.handed(tp) == (consumer._sessions[tp], None)
            values = numbered("v", 50)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))

    asyncio.run(run())


def test_a_position_that_expired_is_told_and_never_jumped_over_silently(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 1)
    live = f"seamline.{preset.id}.live"

    async def first_run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            harness.feed("live", 0, numbered("before", 10))
            await harness.until_out(0, marked("L", numbered("before", 10)))

    async def second_run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            expired = harness.metrics.expired.labels(preset.id, "live")
            assert expired._value.get() == 20
            await harness.until(lambda: len(harness.out(0)) == 15, "what is retained")
            assert harness.out(0)[10:] == marked("L", numbered("lost", 25))[20:]

    asyncio.run(first_run())

    producer = TransactionalProducer(world.cluster, f"feeder-{preset.id}")
    producer.init()
    producer.begin()
    for value in numbered("lost", 25):
        producer.send(live, 0, b"k", value)
    producer.commit()
    producer.close()
    admin = AdminClient({"bootstrap.servers": world.cluster.bootstrap})
    for future in admin.delete_records([TopicPartition(live, 0, 30)]).values():
        future.result(10)
    asyncio.run(second_run())


def test_a_position_that_expires_while_running_ends_the_session_and_is_told(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 1)
    live = f"seamline.{preset.id}.live"

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            consumer: Any = harness.app.app.consumer
            tp = TP(live, 0)
            harness.feed("live", 0, numbered("before", 10))
            await harness.until_out(0, marked("L", numbered("before", 10)))
            # The fetch position falls behind retention: move it there, as a slow owner's would.
            admin = AdminClient({"bootstrap.servers": world.cluster.bootstrap})
            for future in admin.delete_records([TopicPartition(live, 0, 5)]).values():
                future.result(10)
            session = consumer._sessions[tp]
            await consumer._thread.seek_wait({client_partition(live): 2})
            await harness.until(
                lambda: harness.running() and consumer._sessions.get(tp, session) != session,
                "a new session",
            )
            harness.feed("live", 0, numbered("after", 10))
            await harness.until_out(0, marked("L", numbered("before", 10) + numbered("after", 10)))

    asyncio.run(run())


def test_uncommitted_and_aborted_records_are_not_seen(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            producer = TransactionalProducer(world.cluster, f"third-{preset.id}")
            await asyncio.to_thread(producer.init)
            producer.begin()
            for value in numbered("aborted", 5):
                producer.send(harness.topic("live"), 0, b"k", value)
            await asyncio.to_thread(producer.abort)
            harness.feed("live", 0, numbered("seen", 5))
            await harness.until_out(0, marked("L", numbered("seen", 5)))
            producer.close()

    asyncio.run(run())


def test_another_assignor_is_refused_at_start(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)
    make = PresetApp._make_app

    def without_standbys(self: PresetApp) -> Any:
        app = make(self)
        app.conf.table_standby_replicas = 0  # Faust uses round robin then
        return app

    monkeypatch.setattr(PresetApp, "_make_app", without_standbys)

    async def run() -> None:
        async with app_running(world, preset, tmp_path):
            raise AssertionError("it started")

    with pytest.raises(ContractError, match="partition_assignment_strategy"):
        asyncio.run(run())
