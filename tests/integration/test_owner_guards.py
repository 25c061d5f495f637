"""The guards of taking a partition and of the owner's loop, each at the moment that it is there
for. The broker is the real one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.app_harness import app_running, marked, numbered, position_record
from integration.copy_machine import POISON, SLOW, CopyFactory, CopyMachine
from integration.plain_preset import fresh
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.world import World
from seamline.schemas.modes import Policy
from seamline.schemas.topics import POSITION_KEY, topic_name
from seamline.streams.apps.lane import LaneConsumer
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.apps.tenure import Place, Tenure
from seamline.streams.kernel.owner_states import State
from seamline.streams.kernel.protocol import PartitionReader, Record, Role, Step


def former_owner(world: World, preset_id: str, values: Sequence[bytes]) -> TransactionalProducer:
    """An owner in the middle of a transaction: `values` conformed, and its position behind them."""
    producer = TransactionalProducer(world.cluster, Place(preset_id, 0, {}).transactional_id)
    producer.init()
    producer.begin()
    for value in values:
        producer.send(topic_name(preset_id, "conformed"), 0, b"k", value)
    position = position_record(live=len(values), backfill=0)
    producer.send(topic_name(preset_id, "positions"), 0, POSITION_KEY, position)
    # Its bytes reach the log; nothing settles them but its commit or the next owner.
    producer._producer.flush(10)
    return producer


class Late(CopyFactory):
    """Right after a machine is rebuilt the former owner tries to commit."""

    def __init__(self, preset_id: str, former: TransactionalProducer) -> None:
        super().__init__(preset_id)
        self._former = former
        self.committed: list[bool] = []

    def rebuild(self, reader: PartitionReader) -> CopyMachine:
        machine = super().rebuild(reader)
        if not self.committed:
            try:
                self._former.commit(10)
            except FencedError:
                self.committed.append(False)
            else:
                self.committed.append(True)
        return machine


def test_the_former_owner_is_fenced_before_anything_is_read_back(
    world: World, tmp_path: Path
) -> None:
    """Read first, and what it commits in between is decided a second time."""
    preset = fresh(world.cluster, 1)
    values = numbered("v", 40)
    former = former_owner(world, preset.id, marked("L", values[:20]))
    factory = Late(preset.id, former)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, factory=factory) as harness:
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))

    asyncio.run(run())
    assert factory.committed == [False]
    former.close()


def test_the_position_of_an_open_transaction_is_not_believed(world: World, tmp_path: Path) -> None:
    """It lies in the log, aborted by the take: who reads it skips what it covers. A third party
    with an open transaction on conformed holds up nobody but readers."""
    preset = fresh(world.cluster, 1)
    values = numbered("v", 40)
    former = former_owner(world, preset.id, marked("L", values[:20]))
    third = TransactionalProducer(world.cluster, f"third-{preset.id}")
    third.init()
    third.begin()
    third.send(topic_name(preset.id, "backfill"), 0, b"k", b"never")
    third._producer.flush(10)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))
            third.abort()
            harness.feed("backfill", 0, values)
            await harness.until_out(0, marked("L", values) + marked("B", values))

    asyncio.run(run())
    former.close()
    third.close()


def test_an_owner_that_was_closed_while_it_waited_for_its_thread_fences_nobody(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)
    release, ended = threading.Event(), threading.Event()
    close = Tenure.close

    def slow_close(self: Tenure) -> None:
        release.wait(60)
        close(self)
        ended.set()

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            owner = harness.app.owners[0]
            with monkeypatch.context() as patch:
                patch.setattr(Tenure, "close", slow_close)
                harness.feed("live", 0, [POISON])
                # It failed, its tenure is being closed, and the next take waits behind that.
                await harness.until(lambda: owner.state is State.TAKING, "the next take")
                task = owner.close()
                await asyncio.wait_for(task, 10)
                following = TransactionalProducer(world.cluster, owner.place.transactional_id)
                await asyncio.to_thread(following.init)
                following.begin()
                following.send(harness.topic("conformed"), 0, b"k", b"following")
                release.set()
                # What waited in the thread runs now; its last call ends it.
                await asyncio.to_thread(owner._thread._thread.join, 30)
                assert ended.is_set() and not owner._thread._thread.is_alive()
            await asyncio.to_thread(following.commit)
            following.close()

    asyncio.run(run())


class Ticking(CopyMachine):
    """Writes down its steps and ticks in their order; each step takes a little."""

    told: list[str]

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        time.sleep(0.01)
        self.told.append("step")
        return super().step(role, records, start, clock_ns, policy)

    def tick(self, clock_ns: int) -> Step | None:
        self.told.append("tick")
        return None


class TickingFactory(CopyFactory):
    def __init__(self, preset_id: str) -> None:
        super().__init__(preset_id)
        self.told: list[str] = []

    def rebuild(self, reader: PartitionReader) -> Ticking:
        made = super().rebuild(reader)
        machine = Ticking(self._preset_id, made.position)
        machine.told = self.told
        return machine


def test_the_clock_ticks_while_there_is_always_something_to_do(
    world: World, tmp_path: Path
) -> None:
    """Heartbeats come each second for ever: a tick that waited for silence would never come."""
    preset = fresh(world.cluster, 1)
    factory = TickingFactory(preset.id)
    one_by_one = OwnerSettings(rows_max=1, small_rows=0, tick_s=0.1)

    async def run() -> None:
        async with app_running(
            world, preset, tmp_path, factory=factory, owner=one_by_one
        ) as harness:
            values = numbered("beat", 150)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values), within_s=60)

    asyncio.run(run())
    first = factory.told.index("step")
    last = len(factory.told) - factory.told[::-1].index("step")
    assert factory.told[first + 5 : last - 5].count("tick") >= 3


def test_owners_are_closed_in_time_whatever_they_are_in_the_middle_of(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a full inbox in a slow step, one that waits for a restart that never comes, one that
    waits after a failure: all at once, and the next owners do everything once."""
    preset = fresh(world.cluster, 3)
    values, slow = numbered("v", 20), [SLOW + b"-%d" % n for n in range(4)]

    async def first_run() -> float:
        one_by_one = OwnerSettings(chunks_max=4, rows_max=1, wait_first_s=30, wait_max_s=30)
        async with app_running(world, preset, tmp_path, owner=one_by_one) as harness:
            owners = harness.app.owners
            harness.feed("live", 2, [POISON, *values])
            await harness.until(lambda: owners[2].state is State.WAITING, "a failed owner")
            for value in slow:
                before = harness.metrics.records_in.labels(preset.id, "live")._value.get()
                harness.feed("live", 0, [value])
                await harness.until(
                    lambda n=before: (  # type: ignore[misc]
                        owners[0].inbox.full("live")
                        or harness.metrics.records_in.labels(preset.id, "live")._value.get() > n
                    ),
                    "its chunk",
                )
            await harness.until(lambda: owners[0].inbox.full("live"), "a full inbox")

            async def never(_: LaneConsumer) -> None:
                await asyncio.sleep(0)

            monkeypatch.setattr(LaneConsumer, "_serve_restarts", never)
            owners[1].break_("a test")
            await harness.until(lambda: owners[1].state is State.RESTARTING, "a restart")
            closing = list(owners.values())
            began = time.monotonic()
            await harness.app.close_owners()
            took = time.monotonic() - began
            assert {owner.state for owner in closing} == {State.CLOSED}
            return took

    async def second_run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            harness.feed("live", 1, values)
            await harness.until_out(0, marked("L", slow), 60)
            await harness.until_out(1, marked("L", values), 60)
            await harness.until_out(2, marked("L", values), 60)

    assert asyncio.run(first_run()) < 2.5
    monkeypatch.undo()
    asyncio.run(second_run())
