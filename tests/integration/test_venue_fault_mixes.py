"""Random mixes of faults, and random requests: the simulator lives on and its truth is coherent.

A client that connects again and again sees only what the market states; in the end the venue's
history is what `settled_klines` says, whatever struck meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.exceptions import InvalidHandshake, WebSocketException

from manual_venue import MIN_MS, START_MS, Venue, eventually, run, venue
from seamline.connectors.venues.binance_parse import KlineFrame, parse_frame
from seamline.connectors.venues.binance_shapes import kline_row
from seamline.connectors.venues.faulty_market import FaultyMarket
from seamline.connectors.venues.market import Kline

SEEDS = range(100 if os.environ.get("SEAMLINE_SOAK") else 6)
MINUTES = 120
SYMBOLS = ("BTC/USDT", "ETH/USDT")
STREAMS = ("btcusdt@kline_1m", "ethusdt@kline_1m", "ethusdt@trade")


def mix(rng: random.Random) -> str:
    """Some faults of any kind, all over after MINUTES."""

    def span() -> str:
        first = rng.randrange(1, MINUTES - 10)
        return f"from=+{first}m,to=+{first + rng.randrange(1, 9)}m"

    def when() -> str:
        ways = (f"p={rng.choice((0.01, 0.1, 0.5))}", f"every={rng.randrange(2, 60)}")
        return f"{rng.choice(ways)},to=+{MINUTES}m"

    def minute() -> str:
        return f"at=+{rng.randrange(1, MINUTES)}m"

    kinds: list[Callable[[], str]] = [
        *(
            lambda kind=kind: f"{kind}:{rng.choice((when, minute))()}"
            for kind in ("lose-frames", "duplicate-frames", "reorder-frames", "malformed-frames")
        ),
        lambda: f"delay-frames:{when()},by={rng.choice((1, 30, 200))}s",
        lambda: f"oversized-frames:{minute()}",
        lambda: f"wrong-symbol:{when()}",
        lambda: f"drop-socket:{rng.choice((when, minute))()}",
        lambda: f"shutdown:{minute()},notice={rng.randrange(12)}m",
        lambda: f"outage:{span()},only={rng.choice(('both', 'rest', 'ws'))}",
        lambda: f"halt:{span()}",
        lambda: f"lose-history:{rng.choice((when, minute))()}",
        lambda: f"correct-klines:{when()},after={rng.choice((0, 5, 60))}m",
        lambda: f"slow-rest:{when()},by=20ms",
        lambda: f"limit-rest:{when()},status={rng.choice((429, 418))},retry_after=1s",
        lambda: f"clock:{span()},by={rng.choice((-90, 5))}s",
    ]
    return ";".join(rng.choice(kinds)() for _ in range(rng.randrange(4, 10)))


async def client(v: Venue, seen: list[KlineFrame]) -> None:
    """Connect again and again; keep the closed klines that say the symbol of their stream."""
    while True:
        try:
            async with v.socket("/stream?streams=" + "/".join(STREAMS)) as socket:
                while True:
                    raw = await socket.recv(decode=False)
                    frame = parse_frame(raw, 0)
                    if isinstance(frame, KlineFrame) and frame.closed:
                        stream = json.loads(raw)["stream"]
                        if stream.startswith(frame.venue_symbol.lower()):
                            seen.append(frame)
        except (WebSocketException, InvalidHandshake, OSError):
            await asyncio.sleep(0.005)


async def whole_history(v: Venue, venue_symbol: str) -> list[Any]:
    params = {"symbol": venue_symbol, "interval": "1m", "startTime": str(START_MS)}
    params["endTime"] = str(START_MS + MINUTES * MIN_MS - 1)
    while True:  # a ban may still last; `run` bounds it
        answer = await v.rest.get("/api/v3/klines", params=params)
        if answer.status_code == 200:
            rows: list[Any] = answer.json()
            return rows
        assert answer.status_code in (418, 429)
        await asyncio.sleep(0.05)


def settled(v: Venue, symbol: str) -> list[Kline]:
    end_ms = START_MS + MINUTES * MIN_MS
    found = (one.kline for one in v.server.settled(symbol, START_MS, end_ms))
    return [kline for kline in found if kline is not None]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_strikes_the_truth_stays_coherent(seed: int) -> None:
    rng = random.Random(seed)
    faults = mix(rng)

    async def test() -> None:
        settings: dict[str, Any] = {
            "session_ns": rng.choice((40, 1_440)) * MIN_MS * 1_000_000,
            "kline_update_ms": rng.choice((0, 20_000)),
        }
        async with venue(faults=faults, **settings) as v:
            seen: list[KlineFrame] = []
            reader = asyncio.create_task(client(v, seen))
            at = 0.0
            while at < MINUTES:
                at += rng.choice((0.3, 1, 4))
                v.to(at)
                await eventually_quiet(v)
                await v.rest.get("/api/v3/time")
            v.to(MINUTES * 13)
            for symbol in SYMBOLS:
                rows = await whole_history(v, symbol.replace("/", ""))
                assert rows == [kline_row(kline) for kline in settled(v, symbol)]
            status = await v.status()
            assert status["feeding"]
            assert sum(fault["hits"] for fault in status["faults"]) > 0
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            stated = FaultyMarket(v.server.market, v.server.plan)
            assert seen
            for frame in seen:
                span = (frame.open_ms, frame.open_ms + 1)
                (kline,) = stated.page(frame.venue_symbol, *span, 1, newest=False)
                assert frame.close == float(kline.close) and frame.volume == float(kline.volume)
                assert (frame.first_trade_id, frame.last_trade_id) == (
                    kline.first_id,
                    kline.last_id,
                )

    run(test)


async def eventually_quiet(v: Venue) -> None:
    """Until the client has had time to read: the venue has a socket, or refuses one."""
    before = v.server.status()["sockets"]
    if not before["open"]:
        await eventually(lambda: v.server.status()["sockets"] != before)


def test_any_query_gets_an_answer_of_the_venue() -> None:
    rng = random.Random(7)
    names = ["symbol", "interval", "limit", "startTime", "endTime", "symbols", "x", "", "%ff", "ſ"]
    values = ["BTCUSDT", "1m", "0", "1", "-1", "1" * 18, "9" * 30, '["BTCUSDT"]', "[", '"', "%00"]
    values += [
        "",
        "ß",
        "\ud7ff",
        "1e3",
        "٣",
        "%ff%fe",
        str(START_MS),
        str(START_MS + 10**7),
        "null",
    ]

    async def test() -> None:
        async with venue() as v:
            v.to(600)
            for _ in range(200):
                path = rng.choice(["klines", "klines", "klines", "exchangeInfo", "time", "ping"])
                pairs = [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(6))]
                if path == "klines" and rng.random() < 0.7:
                    pairs += [("symbol", "BTCUSDT"), ("interval", "1m")]
                query = urlencode(pairs)
                answer = await v.rest.get(f"/api/v3/{path}?{query}")
                assert answer.status_code in (200, 400)
                body = answer.json()
                assert answer.status_code == 200 or list(body) == ["code", "msg"]
            for raw in ("symbol=%ff&interval=%fe", "symbol=BTCUSDT&interval=1m&startTime=%ff"):
                assert (await v.rest.get(f"/api/v3/klines?{raw}")).status_code == 400
            assert (await v.status())["feeding"]

    run(test)
