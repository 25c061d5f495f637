"""The guards of the lane and of assignments, each at the moment that it is there for.

A fetch is held in the middle, a session is changed beside it, a chunk comes back from the dead:
what luck would bring about once in a thousand rebalances is done here on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from integration.app_harness import Harness, app_running, marked, numbered
from integration.plain_preset import fresh
from seamline.connectors.kafka import fetching
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, TransportError
from seamline.streams.apps.lane import LaneConsumer, Restart
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.owner_states import State

EAGER = OwnerSettings(lost_s=0.5, tick_s=0.2)


class HeldFetch:
    """Lets the lane's next fetch that brings something come back only when it is released."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        consumer: Any = harness.app.app.consumer
        self.consumer = consumer
        self.caught, self.released = asyncio.Event(), asyncio.Event()
        self._getmany = consumer._getmany
        monkeypatch.setattr(self.consumer, "_getmany", self._held)

    @property
    def under_way(self) -> bool:
        return self.caught.is_set() and not self.released.is_set()

    async def _held(self, active: Any, timeout: float) -> Any:
        found = await self._getmany(active, timeout)
        if found and not self.caught.is_set():
            self.caught.set()
            await self.released.wait()
        return found


def offered(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """Every chunk that reaches the agent from now on."""
    chunks: list[Chunk] = []
    offer = harness.app._offer

    def note(chunk: Chunk) -> None:
        chunks.append(chunk)
        offer(chunk)

    monkeypatch.setattr(harness.app, "_offer", note)
    return chunks


async def broken_off(harness: Harness) -> None:
    """One break, until the owner runs in sessions of after it."""
    consumer: Any = harness.app.app.consumer
    sessions = dict(consumer._sessions)
    harness.app.owners[0].break_("a test")
    await harness.until(
        lambda: (
            harness.running()
            and consumer._sessions.keys() == sessions.keys()
            and not sessions.items() & consumer._sessions.items()
        ),
        "new sessions",
    )


def test_a_restart_waits_for_the_fetch_that_is_under_way(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            held = HeldFetch(harness, monkeypatch)
            thread, sought = held.consumer._thread, []
            seek = thread.seek_wait

            async def seek_wait(positions: Any) -> None:
                sought.append(held.under_way)
                await seek(positions)

            monkeypatch.setattr(thread, "seek_wait", seek_wait)
            values = numbered("v", 100)
            harness.feed("live", 0, values)
            await asyncio.wait_for(held.caught.wait(), 20)
            harness.app.owners[0].break_("a test")
            await harness.until(lambda: bool(held.consumer._restarts or sought), "the wish")
            held.released.set()
            await harness.until_out(0, marked("L", values))
            assert sought == [False], "a position moved beside a fetch"

    asyncio.run(run())


def test_what_a_fetch_brings_belongs_to_the_sessions_of_before_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=EAGER) as harness:
            held, chunks = HeldFetch(harness, monkeypatch), offered(harness, monkeypatch)
            values = numbered("v", 100)
            harness.feed("live", 0, values)
            await asyncio.wait_for(held.caught.wait(), 20)
            # As if a restart had been served beside the fetch.
            later = 10**9
            held.consumer._sessions[TP(harness.topic("live"), 0)] = later
            held.released.set()
            await harness.until_out(0, marked("L", values))
            assert later not in {chunk.session for chunk in chunks}

    asyncio.run(run())


def test_a_chunk_that_outlives_its_session_fits_no_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            chunks = offered(harness, monkeypatch)
            first, second = numbered("first", 50), numbered("second", 50)
            harness.feed("live", 0, first)
            await harness.until_out(0, marked("L", first))
            await broken_off(harness)
            harness.app._offer(chunks[0])
            harness.feed("live", 0, second)
            await harness.until_out(0, marked("L", first + second))
            troubles = harness.metrics.troubles
            counts = [
                troubles.labels(preset.id, kind)._value.get() for kind in ("broken", "failed")
            ]
            assert counts == [1, 0], "it was taken for a chunk of the new session"

    asyncio.run(run())


def test_an_owner_knows_a_session_before_anything_of_it_is_fetched(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)
    begin = LaneConsumer._begin_sessions
    known: list[bool] = []

    async def run() -> None:
        async with app_running(world, preset, tmp_path, ready=False) as harness:

            async def checked(self: LaneConsumer, wish: Restart) -> None:
                await begin(self, wish)
                sides = harness.app.owners[0].inbox._sides
                sessions = {role: self._sessions[TP(harness.topic(role), 0)] for role in sides}
                known.append({role: side.session for role, side in sides.items()} == sessions)

            monkeypatch.setattr(LaneConsumer, "_begin_sessions", checked)
            await harness.until(harness.running, "an owner", 30)
            await broken_off(harness)
            assert known == [True, True]

    asyncio.run(run())


def test_a_restart_that_was_given_up_or_is_of_another_worker_begins_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path, owner=EAGER) as harness:
            consumer: Any = harness.app.app.consumer
            tp, begun = TP(harness.topic("live"), 0), []

            def began(sessions: Mapping[Any, int]) -> None:
                begun.append(sessions)

            with pytest.raises(TransportError, match="not assigned"):
                await consumer.restart_at({TP(tp.topic, 7): 0}, began)
            seek = consumer._thread.seek_wait
            wish = Restart({tp: 0}, began, asyncio.get_running_loop().create_future())

            async def seek_and_give_up(positions: Any) -> None:
                await seek(positions)
                wish.done.cancel()

            with monkeypatch.context() as patch:
                patch.setattr(consumer._thread, "seek_wait", seek_and_give_up)
                with pytest.raises(LookupError, match="given up"):
                    await consumer._begin_sessions(wish)
            assert begun == []
            assert tp not in consumer._sessions
            values = numbered("v", 50)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))

    asyncio.run(run())


def test_a_consumer_that_ignores_the_isolation_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client of another version might, which keeps the setting under another name."""
    preset = fresh(world.cluster, 1)
    prepare = fetching.prepare

    def prepare_in_vain(consumer: Any, settings: fetching.FetchSettings) -> None:
        prepare(consumer, settings)
        consumer._isolation_level = "read_uncommitted"

    monkeypatch.setattr(fetching, "prepare", prepare_in_vain)

    async def run() -> None:
        async with app_running(world, preset, tmp_path):
            raise AssertionError("it started")

    with pytest.raises(ContractError, match="isolation_level"):
        asyncio.run(run())


def test_assignments_end_what_was_before_them(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions end with a revocation, owners with the next assignment, and a worker that would hold
    one landing topic of a partition without the other refuses it."""
    preset = fresh(world.cluster, 1)

    async def run() -> None:
        async with app_running(world, preset, tmp_path) as harness:
            app, consumer = harness.app, harness.app.app.consumer
            assert isinstance(consumer, LaneConsumer)
            both = {TP(topic, 0) for topic in app.topics.values()}
            former = app.owners[0]
            await app._assigned(app.app, both, signal=None)
            assert former.state is State.CLOSED
            await harness.until(harness.running, "the next owner")
            values = numbered("v", 50)
            harness.feed("live", 0, values)
            await harness.until_out(0, marked("L", values))
            with pytest.raises(ContractError, match="different partitions"):
                await app._assigned(app.app, both - {TP(app.topics["live"], 0)}, signal=None)
            await app._assigned(app.app, both, signal=None)
            await harness.until(harness.running, "owners again")
            left: list[dict[Any, int]] = []
            close = app.close_owners

            async def note_and_close() -> None:
                left.append(dict(consumer._sessions))
                await close()

            monkeypatch.setattr(app, "close_owners", note_and_close)
            await consumer.on_partitions_revoked(both)
            # Closing takes a while: nothing may be fetched for the next owner meanwhile.
            assert left == [{}]

    asyncio.run(run())
