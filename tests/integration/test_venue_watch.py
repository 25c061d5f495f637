"""What a connector knows of its venue's clock, asked of a simulated venue."""

from __future__ import annotations

import asyncio
import time

from manual_venue import MIN_MS, START_MS, eventually, run, venue
from seamline.connectors.live_clock import DOUBT_NS, VenueWatch
from seamline.connectors.venues.binance import BinanceEndpoints, BinanceRest, RestRules

RULES = RestRules(attempts=1)
MIN_NS = MIN_MS * 1_000_000


def test_a_first_answer_after_refusals_counts_from_its_own_question() -> None:
    """From the first of them the venue would seem ahead by all the waiting."""

    async def test() -> None:
        said: list[str] = []
        async with venue(faults="outage:from=+0m,to=+10m") as found:
            endpoints = BinanceEndpoints(found.server.rest_url, found.server.ws_url)
            async with BinanceRest(endpoints, RULES) as rest:
                watch = VenueWatch(rest, interval_ns=MIN_NS, notice=said.append)
                polling = asyncio.create_task(watch.poll())
                await eventually(lambda: len(said) >= 2)
                refused_ns = time.monotonic_ns()
                found.to(11)
                polled_ns = await polling
                ahead_ns = watch.market_ns - polled_ns
                assert 0 <= ahead_ns <= time.monotonic_ns() - refused_ns

    run(test)


def test_many_frames_of_the_future_do_not_each_ask_the_venue() -> None:
    async def test() -> None:
        async with venue() as found:
            endpoints = BinanceEndpoints(found.server.rest_url, found.server.ws_url)
            async with BinanceRest(endpoints, RULES) as rest:
                watch = VenueWatch(rest, interval_ns=MIN_NS)
                await watch.poll()
                began_ns, before = time.monotonic_ns(), watch.counters.clock_polls
                for _ in range(200):
                    assert not await watch.believes(START_MS * 1_000_000 + 5_000 * MIN_NS)
                asked = watch.counters.clock_polls - before
                assert asked <= 1 + (time.monotonic_ns() - began_ns) // DOUBT_NS

    run(test)
