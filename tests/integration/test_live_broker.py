"""The live connector and its broker: away for a moment, away for long, and a connector killed.

The broker that is stopped is this module's own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from held_clock import HeldClock
from live_world import (
    FAST,
    connector,
    feed,
    held_venue,
    landed_whole,
    prepare,
    run,
    running,
)
from seamline.connectors.embedded.stack import running as own_stack
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.live_records import DeliveryError
from seamline.connectors.venues.simulator import VenueSimulator
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder
from venue_world import (
    MIN_NS,
    START_NS,
    SYMBOLS,
    all_records,
    aside,
    command_environment,
    fresh_preset,
    until,
    watermarks,
    write_presets,
)

pytestmark = pytest.mark.integration
KILLS = 20 if os.environ.get("SEAMLINE_SOAK") else 1


@pytest.fixture(scope="module")
def stoppable() -> Iterator[tuple[World, int]]:
    """A broker of our own, and its process id."""
    with own_stack() as ready:
        yield World(Cluster(ready.bootstrap), ready.registry_url), ready.kafka_pid


def test_a_broker_away_for_a_moment_costs_nothing_and_one_away_for_long_ends_loudly(
    stoppable: tuple[World, int],
) -> None:
    world, pid = stoppable

    async def away_for_a_moment() -> None:
        preset = fresh_preset(world)
        await asyncio.to_thread(prepare, world, preset)
        small = replace(FAST.link, inbox_items=40)
        async with held_venue(minutes=120, speed=600.0) as (venue, clock):
            live = connector(world, preset, venue, link=small, previews=True)
            async with running(live, clock=clock) as task:
                await aside(task, lambda: live.counters()["delivered"] > 20, "records")
                os.kill(pid, signal.SIGSTOP)
                try:
                    await aside(
                        task, lambda: live.counters()["frames_spilled"] > 40, "a full inbox"
                    )
                    assert live.gauges()["waiting_frames"] <= 40
                    await aside(task, lambda: live.counters()["broker_waits"] > 0, "patience")
                finally:
                    os.kill(pid, signal.SIGCONT)
                end_ns = START_NS + 120 * MIN_NS
                await aside(task, lambda: live.gauges()["watermark_ns"] >= end_ns, "the end")
                beats = live.counters()["heartbeats"]
                await aside(task, lambda: live.counters()["heartbeats"] > beats, "a heartbeat")
            counters = live.counters()
            await landed_whole(world, preset, venue, 120)
        assert counters["spills"] >= 1 and counters["fills"] > 0
        assert counters["disconnections"] == 0, "the sockets were read all the while"

    async def away_for_long() -> None:
        preset = fresh_preset(world)
        await asyncio.to_thread(prepare, world, preset)
        async with held_venue(minutes=60, speed=600.0) as (venue, clock):
            live = connector(world, preset, venue, broker_patience_s=2.0)
            with pytest.raises(DeliveryError) as raised:
                async with running(live, clock=clock) as task:
                    await aside(task, lambda: live.counters()["delivered"] > 20, "records")
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        await task
                    finally:
                        os.kill(pid, signal.SIGCONT)
            assert not raised.value.retriable
            clock.hold()
            live = connector(world, preset, venue)
            await feed(live, START_NS + 60 * MIN_NS, clock=clock)
            await landed_whole(world, preset, venue, 60)

    async def both() -> None:
        await away_for_a_moment()
        await away_for_long()

    run(both())


def test_killed_at_seeded_points_it_goes_on_from_what_landed(world: World, tmp_path: Path) -> None:
    rng = random.Random(5)
    minutes = 25 * (KILLS + 1)
    points = [25 * number + rng.randrange(5, 20) for number in range(KILLS)]

    async def test() -> None:
        preset = fresh_preset(world)
        await asyncio.to_thread(prepare, world, preset)
        write_presets(tmp_path, preset)

        def marked() -> bool:
            marks = watermarks(all_records(world, preset, "live")).values()
            return bool(marks) and min(max(m) for m in marks) >= START_NS + minutes * MIN_NS

        async def life(venue: VenueSimulator, clock: HeldClock, point: int | None) -> None:
            """From a start to SIGKILL at `point`, or to SIGTERM when everything landed."""
            opened = venue.status()["sockets"]["opened"]
            urls = ("--rest-url", venue.rest_url, "--ws-url", venue.ws_url)
            command = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "seamline.sdk.cli", "live", preset.id),
                *("--symbols", ",".join(SYMBOLS), *urls),
                env=command_environment(world, tmp_path),
            )
            try:
                await until(lambda: venue.status()["sockets"]["opened"] > opened, "a socket")
                clock.go()
                if point is None:
                    await until(marked, "the watermark")
                else:
                    at_ns = START_NS + point * MIN_NS
                    await until(lambda: clock.now_ns() >= at_ns, "the point")
            finally:
                command.send_signal(signal.SIGTERM if point is None else signal.SIGKILL)
                await command.wait()
                clock.hold()

        async with held_venue("lose-frames:p=0.05", minutes=minutes, speed=300.0) as held:
            for point in (*points, None):
                await life(*held, point)
            await landed_whole(world, preset, held[0], minutes)
        records = await asyncio.to_thread(all_records, world, preset, "live")
        ids_join([r.value for r in records if r.value is not None])

    run(test())


def ids_join(values: list[bytes]) -> None:
    """Every trade of the span is in a bar: ids go on where there are some, counts where not."""
    decoder = BarDecoder()
    decoded = decoder.decode(values)
    c = decoded.columns
    for number in range(len(decoder.symbols)):
        rows = {int(c.open_time_ns[n]): n for n in range(len(c)) if decoded.sid[n] == number}
        next_id: int | None = None
        told = 0
        for time_ns in sorted(rows):
            n = rows[time_ns]
            if c.first_trade_id[n] >= 0:
                assert next_id in (None, int(c.first_trade_id[n]))
                next_id, told = int(c.first_trade_id[n]), told + 1
            if next_id is not None:
                next_id += int(c.trades[n])
        assert told > len(rows) // 3
