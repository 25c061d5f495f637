"""What a venue does wrong, and what lands all the same: frames, history, clocks, outages.

The cases of one test run side by side, each with a venue and a preset of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from live_world import connector, feed, held_venue, landed_whole, prepare, run, running
from seamline.connectors.venues.binance_stream import StreamRules
from seamline.connectors.venues.simulator import VenueSimulator
from seamline.connectors.world import World
from seamline.schemas.columns import REST_SETTLED
from seamline.schemas.outages import parse_outages
from seamline.schemas.preset import Preset
from seamline.schemas.topics import HEADER_OUTAGES, HEADER_REASON, HEADER_SIZE
from seamline.streams.kernel.settled_check import SettledRules
from venue_world import (
    MIN_NS,
    START_NS,
    SYMBOLS,
    Truth,
    all_records,
    aside,
    fresh_preset,
    landed_bars,
)

MS = 1_000_000
SOAK = bool(os.environ.get("SEAMLINE_SOAK"))
# Ahead from the start on, and behind for a while: the two that hurt in different ways.
CLOCKS = ("clock:by=2h,from=+0m,to=+30m", "clock:by=-90s,from=+15m,to=+45m")
MORE_CLOCKS = ("clock:by=90s,from=+15m,to=+45m", "clock:by=-2h,from=+15m,to=+45m")


async def ready(world: World, **changes: Any) -> Preset:
    preset = fresh_preset(world, **changes)
    await asyncio.to_thread(prepare, world, preset)
    return preset


def settled_truth(venue: VenueSimulator, first_ns: int, end_ns: int) -> Truth:
    """What the venue's history says in the end."""
    found: Truth = {}
    for symbol in SYMBOLS:
        for minute in venue.settled(symbol, first_ns // MS, end_ns // MS):
            k = minute.kline
            if k is not None:
                texts = (k.open, k.high, k.low, k.close, k.volume, k.quote_volume)
                found[symbol, k.open_ms * MS] = (*map(float, texts), float(k.trades))
    return found


async def bad_frames_are_kept_aside_and_what_they_hid_is_filled(world: World) -> None:
    preset = await ready(world)
    faults = (
        "oversized-frames:every=61;malformed-frames:every=17;wrong-symbol:every=23;"
        "duplicate-frames:every=7;reorder-frames:every=11;delay-frames:by=90s,every=13"
    )
    async with held_venue(faults, minutes=120, speed=900.0) as (venue, clock):
        counters = await feed(connector(world, preset, venue), START_NS + 120 * MIN_NS, clock=clock)
        await landed_whole(world, preset, venue, 120)
    kept = await asyncio.to_thread(all_records, world, preset, "quarantine")
    reasons = {dict(record.headers)[HEADER_REASON].decode() for record in kept}
    assert {"oversized", "not_json"} <= reasons
    assert reasons & {"bad_stream", "bad_s"}, "another symbol's values did not pass"
    assert counters["quarantined"] == len(kept)
    assert counters["oversized"] >= 1 and counters["connections"] > 1
    bytes_max = StreamRules().frame_bytes_max
    for record in kept:
        headers = dict(record.headers)
        if headers[HEADER_REASON] == b"oversized":
            assert record.value == b"" and int(headers[HEADER_SIZE]) > bytes_max


async def a_clock_that_is_off_ends_no_bar_and_stops_nothing(world: World, faults: str) -> None:
    preset = await ready(world)
    async with held_venue(faults, minutes=60, speed=900.0) as (venue, clock):
        # Patience as in life: the venue's clock alone must not decide while frames come.
        live = connector(world, preset, venue, clock_patience_s=90.0)
        await feed(live, START_NS + 60 * MIN_NS, clock=clock)
        await landed_whole(world, preset, venue, 60)
        assert "clock_offset_ns" in live.gauges()


async def corrections_that_come_late_are_landed(world: World) -> None:
    preset = await ready(world, settle_ns=5 * MIN_NS)
    faults = "correct-klines:p=0.2,after=3m"
    settled = SettledRules(batch_bars=5, look_back_bars=60)
    async with held_venue(faults, minutes=95, speed=600.0) as (venue, clock):
        live = connector(world, preset, venue, settled=settled)
        await feed(live, START_NS + 30 * MIN_NS, clock=clock)
        # A second one goes on from a bounded look back, and sends nothing that is equal again.
        live = connector(world, preset, venue, settled=settled)
        through_ns = START_NS + 85 * MIN_NS
        async with running(live, clock=clock) as task:
            await aside(
                task, lambda: live.gauges()["settled_through_ns"] >= through_ns, "the check"
            )
        counters = live.counters()
        bars = landed_bars(await asyncio.to_thread(all_records, world, preset, "live"))
        first = min(bar[1] for bar in bars)
        wanted = settled_truth(venue, first, through_ns)
    assert {b[:2]: b[2] for b in bars if b[1] < through_ns} == wanted
    assert 0 < counters["settled_differ"] < counters["settled_compared"] // 2
    assert sum(b[3] == REST_SETTLED for b in bars) < len(bars) // 2


async def an_outage_that_the_venue_states_is_told_and_filled(world: World) -> None:
    preset = await ready(world)
    faults = "outage:from=+20m,to=+45m;slow-rest:p=0.05,by=300ms;limit-rest:every=40,retry_after=1s"
    async with held_venue(faults, minutes=120, speed=600.0) as (venue, clock):
        await feed(connector(world, preset, venue), START_NS + 60 * MIN_NS, clock=clock)
        live = connector(world, preset, venue)
        await feed(live, START_NS + 120 * MIN_NS, clock=clock)
        await landed_whole(world, preset, venue, 120)
        assert live.gauges()["outages"] >= 1, "a restart reads it back"
    records = await asyncio.to_thread(all_records, world, preset, "live")
    beats = [dict(record.headers) for record in records if record.value is None]
    stated = parse_outages(beats[-1][HEADER_OUTAGES])
    assert stated is not None
    span = (START_NS + 21 * MIN_NS, START_NS + 44 * MIN_NS)
    assert any(s <= span[0] and e is not None and e >= span[1] for s, e in stated), stated


def test_venue_faults(world: World) -> None:
    async def together() -> None:
        await asyncio.gather(
            bad_frames_are_kept_aside_and_what_they_hid_is_filled(world),
            corrections_that_come_late_are_landed(world),
            an_outage_that_the_venue_states_is_told_and_filled(world),
        )

    run(together())


def test_clocks(world: World) -> None:
    lost = "lose-frames:p=0.1;"

    async def together() -> None:
        await asyncio.gather(
            *(
                a_clock_that_is_off_ends_no_bar_and_stops_nothing(world, lost + clock)
                for clock in CLOCKS + (MORE_CLOCKS if SOAK else ())
            )
        )

    run(together())
