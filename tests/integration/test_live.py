"""The live connector on a real broker, with a venue that drops sockets and loses frames."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from live_world import (
    check_landed,
    connector,
    feed,
    first_landed,
    held_venue,
    landed_whole,
    prepare,
    run,
)
from seamline.connectors.live import LiveConnector, LiveSettings
from seamline.connectors.venues.binance import BinanceEndpoints
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.world import World
from seamline.schemas.errors import UsageError
from venue_world import (
    MIN_NS,
    START_NS,
    SYMBOLS,
    all_records,
    fresh_preset,
    landed_bars,
    registered,
    simulator,
    truth,
)

COINBASE = Path(__file__).parent.parent / "data/crypto_1m/coinbase_btcusd_20161007_3d.csv"
COINBASE_START_NS = 1_475_798_400_000_000_000
GAPS_MINUTE = 1_960  # twenty of the file's missing minutes lie in the three hours after it


@pytest.mark.parametrize(
    "faults",
    [
        "",
        "lose-frames:p=0.2,only=closed",
        "drop-socket:every=60",
        "lose-frames:p=0.1;drop-socket:p=0.004;drop-socket:at=+31m|+70m",
    ],
    ids=["calm", "lost", "dropped", "both"],
)
def test_every_minute_lands_as_the_venue_settled_it(world: World, faults: str) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        prepare(world, preset)
        async with held_venue(faults, minutes=120, speed=1_200.0) as (venue, clock):
            live = connector(world, preset, venue)
            counters = await feed(live, START_NS + 120 * MIN_NS, clock=clock)
            await landed_whole(world, preset, venue, 120)
            if "lose" in faults:
                assert counters["fills"] > 0 and venue.status()["frames"]["lost"] > 0
            if "drop" in faults:
                assert counters["connections"] > 1

    run(test())


def test_minutes_without_trades_and_idle_symbols_do_not_stop_the_watermark(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        quiet = MarketSettings(seed=3, empty_share=0.6)
        faults = "lose-frames:p=0.5"
        async with held_venue(faults, minutes=60, speed=1_200.0, market=quiet) as (venue, clock):
            await feed(connector(world, preset, venue), START_NS + 60 * MIN_NS, clock=clock)
            first = first_landed(world, preset)
            check_landed(world, preset, venue, first, START_NS + 60 * MIN_NS)

    run(test())


def test_a_start_goes_on_from_what_landed(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        prepare(world, preset)
        async with held_venue(minutes=90, speed=1_200.0) as (venue, clock):
            await feed(connector(world, preset, venue), START_NS + 20 * MIN_NS, clock=clock)
            before = len(landed_bars(all_records(world, preset, "live")))
            live = connector(world, preset, venue)
            counters = await feed(live, START_NS + 90 * MIN_NS, clock=clock)
            await landed_whole(world, preset, venue, 90)
            assert counters["sent"] == len(landed_bars(all_records(world, preset, "live"))) - before

    run(test())


def test_the_resume_limit_bounds_the_first_fill_and_says_so(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        prepare(world, preset)
        async with held_venue(minutes=20, speed=1_200.0) as (venue, clock):
            await feed(connector(world, preset, venue), START_NS + 5 * MIN_NS, clock=clock)
        said: list[str] = []
        later = START_NS + 600 * MIN_NS
        async with simulator(start_ns=later, until_ns=later + 10 * MIN_NS) as venue:
            live = LiveConnector(
                *(world.cluster, preset, registered(world, preset)),
                BinanceEndpoints(venue.rest_url, venue.ws_url),
                LiveSettings(resume_limit_ns=60 * MIN_NS, heartbeat_s=0.2, clock_s=0.1),
                notice=said.append,
            )
            await feed(live, later + 10 * MIN_NS)
        assert sum("seamline backfill run" in text for text in said) == len(SYMBOLS)
        times = {b[1] for b in landed_bars(all_records(world, preset, "live"))}
        filled = min(time_ns for time_ns in times if time_ns > START_NS + 30 * MIN_NS)
        assert later - 60 * MIN_NS <= filled < later - 30 * MIN_NS

    run(test())


def test_unknown_symbols_are_answered_with_near_ones(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        prepare(world, preset)
        async with simulator() as venue:
            with pytest.raises(UsageError) as raised:
                await connector(world, preset, venue).run(["BTC/USDTT"], asyncio.Event())
            assert raised.value.parameter == "symbols"
            assert "BTC/USDT" in str(raised.value.fix)

    run(test())


def test_a_preset_without_a_feed_of_ours_is_refused(world: World) -> None:
    endpoints = BinanceEndpoints()
    for changes, word in (
        ({"live": None}, "no live feed"),
        ({"derive_from": "ohlcv.x.spot.1m"}, "seamline live ohlcv.x.spot.1m"),
        ({"feed": "polygon.ws.minute"}, "polygon.ws.minute"),
    ):
        preset = fresh_preset(world, **changes)
        with pytest.raises(UsageError, match=word):
            LiveConnector(world.cluster, preset, {}, endpoints)


def test_minutes_that_nobody_recorded_are_asked_for_and_not_invented(world: World) -> None:
    """Real bars of Coinbase: 104 minutes of three days are nowhere, on the socket or over REST."""

    async def test() -> None:
        preset = fresh_preset(world)
        prepare(world, preset)
        start_ns = COINBASE_START_NS + GAPS_MINUTE * MIN_NS
        end_ns = start_ns + 180 * MIN_NS
        async with simulator(
            symbols=(), data={"BTC/USD": COINBASE}, start_ns=start_ns, until_ns=end_ns
        ) as venue:
            counters = await feed(connector(world, preset, venue), end_ns, ("BTC/USD",))
            first = first_landed(world, preset)
            bars = landed_bars(all_records(world, preset, "live"))
            assert {bar[:2]: bar[2] for bar in bars} == truth(venue, first, end_ns)
            absent = (end_ns - first) // MIN_NS - len({bar[1] for bar in bars})
            assert absent >= 5
            assert counters["empty_cells"] >= absent
            assert counters["empty_proved"] >= 1, "trade ids go on over some of them"

    run(test())
