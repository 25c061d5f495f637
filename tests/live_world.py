"""A live connector on the real broker, run to a time of its venue, and what has to have landed.

Decides: settings that suit a venue at speed, and what "every minute landed" means. Must not know:
which faults a test causes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from held_clock import HeldClock
from seamline.connectors.live import LiveConnector, LiveSettings
from seamline.connectors.live_records import compile_codec
from seamline.connectors.live_socket import LinkSettings
from seamline.connectors.venues.binance import BinanceEndpoints
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.connectors.world import World
from seamline.schemas.preset import Preset
from seamline.schemas.topics import partition_of
from seamline.streams.kernel.feed import FeedLimits
from seamline.streams.kernel.socket_rota import RotaRules
from venue_world import (
    MIN_NS,
    START_NS,
    SYMBOLS,
    Truth,
    all_records,
    aside,
    landed_bars,
    registered,
    truth,
    watermarks,
)

FAST = LiveSettings(
    heartbeat_s=0.2,
    clock_s=0.1,
    clock_patience_s=0.5,
    limits=FeedLimits(overdue_ns=300_000_000),
    link=LinkSettings(rota=RotaRules(ladder_ms=(20, 50))),
)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(280):
            await test

    asyncio.run(bounded())


def connector(
    world: World, preset: Preset, venue: VenueSimulator, *, ws_url: str = "", **settings: Any
) -> LiveConnector:
    endpoints = BinanceEndpoints(venue.rest_url, ws_url or venue.ws_url)
    return LiveConnector(
        world.cluster, preset, registered(world, preset), endpoints, replace(FAST, **settings)
    )


async def feed(
    live: LiveConnector,
    until_ns: int,
    symbols: tuple[str, ...] = SYMBOLS,
    clock: HeldClock | None = None,
) -> dict[str, int]:
    """Run until the watermark has come to `until_ns` and was sent, then stop; the counters. The
    venue's `clock` stands still until the connector listens, and after it stopped."""
    async with running(live, symbols, clock) as task:
        await aside(task, lambda: live.gauges().get("watermark_ns", 0) >= until_ns, "the watermark")
        beats = live.counters()["heartbeats"]
        await aside(task, lambda: live.counters()["heartbeats"] > beats, "one more heartbeat")
    return live.counters()


@asynccontextmanager
async def running(
    live: LiveConnector, symbols: tuple[str, ...] = SYMBOLS, clock: HeldClock | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """A connector's task; at the end of the block it is stopped, and has to end well."""
    stop = asyncio.Event()
    task = asyncio.create_task(live.run(symbols, stop))
    try:
        if clock is not None:
            await aside(task, lambda: live.counters().get("joins", 0) > 0, "a socket")
            clock.go()
        yield task
        if clock is not None:
            clock.hold()
        stop.set()
        await task
    finally:
        task.cancel()


@asynccontextmanager
async def held_venue(
    faults: str = "", *, minutes: int, speed: float, start_ns: int = START_NS, **changes: Any
) -> AsyncIterator[tuple[VenueSimulator, HeldClock]]:
    """A venue from `start_ns` on whose clock is held, and stops after so many minutes."""
    # Within a minute: no bar closes while the first socket connects.
    begin_ns = start_ns + MIN_NS // 2
    clock = HeldClock(begin_ns, speed, start_ns + minutes * MIN_NS + 1_000_000_000)
    config = SimulatorConfig(
        start_ns=start_ns,
        symbols=SYMBOLS,
        speed=speed,
        faults=parse_faults(faults, start_ns=start_ns),
        **({"market": MarketSettings(seed=7)} | changes),
    )
    async with VenueSimulator(config, clock=clock) as venue:
        yield venue, clock


async def landed_whole(world: World, preset: Preset, venue: VenueSimulator, minutes: int) -> None:
    """`check_landed` from the first minute on, beside the event loop: other cases must not stand
    still meanwhile."""
    first = await asyncio.to_thread(first_landed, world, preset)
    assert first == START_NS
    end_ns = START_NS + minutes * MIN_NS
    await asyncio.to_thread(check_landed, world, preset, venue, first, end_ns)


def prepare(world: World, preset: Preset) -> None:
    """What takes a moment, in which a venue at speed would run away."""
    registered(world, preset)
    compile_codec()


def first_landed(world: World, preset: Preset) -> int:
    return min(time_ns for _, time_ns, _, _ in landed_bars(all_records(world, preset, "live")))


def check_landed(
    world: World,
    preset: Preset,
    venue: VenueSimulator,
    start_ns: int,
    end_ns: int,
    wanted: Truth | None = None,
) -> None:
    """Every minute of the venue is on `live`, its last value is the venue's, in order per symbol,
    in its symbol's partition, and no heartbeat said more than was there before it."""
    records = all_records(world, preset, "live")
    wanted = wanted or truth(venue, start_ns, end_ns)
    bars = landed_bars(records)
    assert {bar[:2]: bar[2] for bar in bars} == wanted
    for symbol in SYMBOLS:
        times = [time_ns for name, time_ns, _, _ in bars if name == symbol]
        assert list(dict.fromkeys(times)) == sorted(set(times)), "newer bars before a hole's"
    seen: set[tuple[str, int]] = set()
    for record in records:
        if record.value is not None:
            ((symbol, time_ns, _, _),) = landed_bars([record])
            assert record.key == symbol.encode()
            assert record.partition == partition_of(symbol, preset.partitions)
            seen.add((symbol, time_ns))
            continue
        (mark,) = watermarks([record])[record.partition]
        mine = {k for k in wanted if partition_of(k[0], preset.partitions) == record.partition}
        assert {k for k in mine if k[1] + MIN_NS <= mark} <= seen
    for marks in watermarks(records).values():
        assert marks == sorted(marks)
        assert marks[-1] >= end_ns
