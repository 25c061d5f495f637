"""The Binance client against the simulator, and against a server that answers by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from seamline.connectors.venues.binance import (
    BinanceEndpoints,
    BinanceRest,
    KlinePage,
    RestRules,
    VenueSymbol,
)
from seamline.connectors.venues.binance_parse import Frame, KlineFrame, Malformed, Notice, Reply
from seamline.connectors.venues.binance_stream import STREAMS_MAX, BinanceStream, StreamRules
from seamline.connectors.venues.simulated_clock import ManualClock
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.connectors.venues.weight_limit import WeightRules
from seamline.schemas.columns import REST_FRESH, REST_SETTLED
from seamline.schemas.errors import TransportError, UsageError

MIN_NS = 60_000_000_000
START_NS = 1_767_225_600_000_000_000
BTC = VenueSymbol("BTC/USDT", "BTCUSDT", "TRADING")
COINBASE = Path(__file__).parent.parent / "data/crypto_1m/coinbase_btcusd_20161007_3d.csv"
DEADLINE_S = 20.0
Answer = tuple[int, dict[str, str], Any]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(bounded())


@asynccontextmanager
async def venue(
    minutes: float = 0, start_ns: int = START_NS, faults: str = "", **settings: Any
) -> AsyncIterator[tuple[VenueSimulator, ManualClock, BinanceEndpoints]]:
    settings.setdefault("symbols", ("BTC/USDT", "ETH/USDT", "ETC/USDT"))
    settings.setdefault("market", MarketSettings(seed=7))
    parsed = parse_faults(faults, start_ns=start_ns)
    config = SimulatorConfig(start_ns=start_ns, faults=parsed, **settings)
    clock = ManualClock(start_ns + int(minutes * MIN_NS))
    async with VenueSimulator(config, clock=clock) as server:
        yield server, clock, BinanceEndpoints(server.rest_url, server.ws_url)


@asynccontextmanager
async def scripted(answers: Sequence[Answer]) -> AsyncIterator[BinanceEndpoints]:
    """A server that gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def answer(request: web.Request) -> web.Response:
        status, headers, body = left.pop(0) if len(left) > 1 else left[0]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, headers=headers, text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with serving(app) as url:
        yield BinanceEndpoints(url, url.replace("http", "ws"))


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Sleeps(list[float]):
    """Stands for `asyncio.sleep`: remembers and does not wait."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def minutes_of(page: KlinePage) -> list[float]:
    return [(open_ns - START_NS) / MIN_NS for open_ns in page.columns.open_time_ns.tolist()]


async def history(rest: BinanceRest, start: int, end: int, settle: int = 5) -> KlinePage:
    return await rest.klines(
        *(BTC, START_NS + start * MIN_NS, START_NS + end * MIN_NS),
        interval_ns=MIN_NS,
        settle_ns=settle * MIN_NS,
    )


def test_symbols_are_resolved_and_unknown_ones_named_with_near_ones() -> None:
    async def test() -> None:
        async with venue() as (_, _, at), BinanceRest(at) as rest:
            found = await rest.resolve(["ETH/USDT", "BTC/USDT"])
            assert list(found) == ["ETH/USDT", "BTC/USDT"]
            assert found["BTC/USDT"] == BTC
            assert found["BTC/USDT"].stream("kline_1m") == "btcusdt@kline_1m"
            assert list(await rest.listings()) == ["BTC/USDT", "ETH/USDT", "ETC/USDT"]
            for asked in (
                "EHT/USDT",
                "eth/usdt",
                "ETHUSDT",
                "E/THUSDT",
                "",
                '"],',
                "ETH/USDT:USDT",
            ):
                with pytest.raises(UsageError) as caught:
                    await rest.resolve(["BTC/USDT", asked])
                assert (caught.value.parameter, caught.value.value) == ("symbols", asked)
                if asked[:1] in "Ee" and asked:
                    assert "ETH/USDT" in caught.value.fields["near"]

    run(test)


def test_history_is_paged_without_a_hole_or_a_repeat() -> None:
    async def test() -> None:
        async with venue(10_000) as (server, _, at), BinanceRest(at) as rest:
            page = await history(rest, -500, 2_000)
            assert minutes_of(page) == list(range(-500, 2_000))
            klines = server.market.page(
                *("BTCUSDT", START_NS // 10**6 - 500 * 60_000, START_NS // 10**6 + 2_000 * 60_000),
                *(5_000, False),
            )
            columns = page.columns.check()
            for name in ("open", "high", "low", "close", "volume", "quote_volume", "trades"):
                expected = [float(getattr(kline, name)) for kline in klines]
                assert getattr(columns, name).tolist() == expected
            assert set(columns.source.tolist()) == {REST_SETTLED}
            assert columns.closed.all()
            assert set(columns.first_trade_id.tolist()) == {-1}
            assert page.complete_through_ns == START_NS + 2_000 * MIN_NS
            assert page.malformed == ()
            # One question for the venue's clock and three pages: settled history needs no more.
            assert (rest.requests, rest.used_weight, rest.retries) == (4, 7, 0)

    run(test)


def test_the_head_is_closed_and_settled_by_the_clock_of_the_venue() -> None:
    async def test() -> None:
        async with venue(10.5) as (_, clock, at), BinanceRest(at) as rest:
            page = await history(rest, 0, 60)
            assert minutes_of(page) == list(range(11))
            assert page.columns.closed.tolist() == [True] * 10 + [False]
            # Bar 4 ended 5.5 minutes ago, bar 5 4.5 minutes ago.
            assert page.columns.source.tolist() == [REST_SETTLED] * 5 + [REST_FRESH] * 6
            assert page.complete_through_ns == START_NS + 10 * MIN_NS
            assert page.venue_time_ns == clock.now_ns()
            clock.advance_to(START_NS + 11 * MIN_NS)
            page = await history(rest, 0, 11)
            assert page.columns.closed.all()
            assert page.complete_through_ns == START_NS + 11 * MIN_NS
            assert abs(await rest.venue_time_ns() - clock.now_ns()) < 10**6

    run(test)


def test_ranges_that_hold_nothing() -> None:
    async def test() -> None:
        async with venue(10) as (_, _, at), BinanceRest(at) as rest:
            page = await history(rest, 5, 5)
            assert (len(page.columns), page.complete_through_ns) == (0, page.start_ns)
            page = await history(rest, 500, 600)
            assert (len(page.columns), page.complete_through_ns) == (0, page.start_ns)
            with pytest.raises(UsageError) as caught:
                await history(rest, 6, 5)
            assert caught.value.parameter == "start"
            with pytest.raises(UsageError) as caught:
                await rest.klines(BTC, 0, 1, interval_ns=7 * MIN_NS, settle_ns=0)
            assert caught.value.parameter == "interval_ns"

    run(test)


def test_missing_minutes_of_a_file_stay_missing() -> None:
    texts = [line.split(",") for line in COINBASE.read_text().splitlines()[1:]]
    first_ns, last_ns = int(texts[0][0]) * 10**6, int(texts[-1][0]) * 10**6

    async def test() -> None:
        settings: dict[str, Any] = {"symbols": (), "data": {"BTC/USD": COINBASE}}
        async with venue(10_000, first_ns, **settings) as (_, _, at), BinanceRest(at) as rest:
            listed = (await rest.resolve(["BTC/USD"]))["BTC/USD"]
            page = await rest.klines(
                listed, first_ns, last_ns + MIN_NS, interval_ns=MIN_NS, settle_ns=0
            )
            columns = page.columns
            assert len(columns) == 4_216
            assert columns.open_time_ns.tolist() == [int(row[0]) * 10**6 for row in texts]
            for index, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
                assert getattr(columns, name).tolist() == [float(row[index]) for row in texts]
            assert page.complete_through_ns == last_ns + MIN_NS

    run(test)


def test_failures_are_tried_again_with_growing_waits() -> None:
    ok: Answer = (200, {"X-MBX-USED-WEIGHT-1M": "17"}, {"serverTime": 5})
    answers: list[Answer] = [
        (500, {}, "oops"),
        (429, {"Retry-After": "7"}, {"code": -1003, "msg": "slow down"}),
        (200, {}, "<html>"),
        (418, {"Retry-After": "60"}, {"code": -1003, "msg": "banned"}),
        ok,
    ]

    async def test() -> None:
        sleeps = Sleeps()
        async with (
            scripted(answers) as at,
            BinanceRest(at, RestRules(backoff_ms=100), sleep=sleeps, uniform=lambda: 0.4) as rest,
        ):
            assert await rest.venue_time_ns() == 5_000_000
            assert sleeps == pytest.approx([0.1 * 1.1, 7.0, 0.4 * 1.1, 60.0])
            assert (rest.requests, rest.retries, rest.used_weight) == (5, 4, 17)

    run(test)


@pytest.mark.parametrize(
    ("answer", "requests", "retriable", "fields"),
    [
        ((500, {}, "oops"), 3, True, {"status": 500}),
        ((200, {}, "oops"), 3, True, {}),
        ((200, {}, {"serverTime": "5"}), 1, True, {}),
        ((429, {"Retry-After": "1"}, {}), 3, True, {"status": 429, "retry_after_s": 1.0}),
        ((418, {"Retry-After": "9999"}, {}), 1, False, {"status": 418, "retry_after_s": 9999.0}),
        ((403, {}, "<html>"), 1, False, {"status": 403}),
        ((451, {}, {"code": 0, "msg": "restricted location"}), 1, False, {"status": 451}),
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), 1, False, {"status": 302}),
    ],
)
def test_failures_that_stay_are_errors_with_fields(
    answer: Answer, requests: int, retriable: bool, fields: dict[str, Any]
) -> None:
    async def test() -> None:
        sleeps = Sleeps()
        async with (
            scripted([answer]) as at,
            BinanceRest(at, RestRules(attempts=3), sleep=sleeps) as rest,
        ):
            with pytest.raises(TransportError) as caught:
                await rest.venue_time_ns()
            assert caught.value.retriable is retriable
            assert rest.requests == requests
            assert caught.value.fix
            for name, value in fields.items():
                assert caught.value.fields[name] == value

    run(test)


def test_a_venue_that_is_not_there() -> None:
    async def test() -> None:
        sleeps = Sleeps()
        at = BinanceEndpoints("http://127.0.0.1:1", "ws://127.0.0.1:1")
        async with BinanceRest(at, RestRules(attempts=3), sleep=sleeps) as rest:
            with pytest.raises(TransportError) as caught:
                await rest.venue_time_ns()
            assert (caught.value.parameter, caught.value.value) == ("rest_url", at.rest_url)
            assert len(sleeps) == 2
        with pytest.raises(TransportError) as caught:
            async with BinanceStream(at, ["btcusdt@kline_1m"]):
                pass
        assert caught.value.parameter == "ws_url"

    run(test)


def test_the_weight_limit_of_the_venue_is_waited_out() -> None:
    async def test() -> None:
        rules = WeightRules(limit=4, window_s=1.0)
        async with venue(5_000, weights=rules) as (server, _, at), BinanceRest(at) as rest:
            page = await history(rest, 0, 4_000)
            assert minutes_of(page) == list(range(4_000))
            assert rest.retries == server.status()["requests"]["klines 429"] > 0

    run(test)


def test_requests_are_paced_below_the_weight_limit() -> None:
    now_ns = START_NS + 45_000_000_000
    answers: list[Answer] = [
        (200, {"X-MBX-USED-WEIGHT-1M": "5399"}, {"serverTime": 5}),
        (200, {"X-MBX-USED-WEIGHT-1M": "5400"}, {"serverTime": 5}),
        (200, {"X-MBX-USED-WEIGHT-1M": "1"}, {"serverTime": 5}),
    ]

    async def test() -> None:
        sleeps = Sleeps()
        async with (
            scripted(answers) as at,
            BinanceRest(at, sleep=sleeps, now_ns=lambda: now_ns) as rest,
        ):
            await rest.venue_time_ns()
            await rest.venue_time_ns()
            assert sleeps == []
            await rest.venue_time_ns()
            assert sleeps == [15.0]

    run(test)


@pytest.mark.parametrize(
    "opens",
    [[START_NS - MIN_NS], [START_NS + MIN_NS, START_NS], [START_NS, START_NS], [START_NS + 2**60]],
)
def test_rows_that_were_not_asked_for_are_an_error(opens: list[int]) -> None:
    rows = [[ns // 10**6, "1", "1", "1", "1", "1", 0, "1", 1, "1", "1", "0"] for ns in opens]
    answers: list[Answer] = [(200, {}, {"serverTime": 2**50}), (200, {}, rows)]

    async def test() -> None:
        async with scripted(answers) as at, BinanceRest(at) as rest:
            with pytest.raises(TransportError):
                await history(rest, 0, 100)

    run(test)


def test_rows_that_cannot_be_read_come_out_with_their_bytes() -> None:
    good: list[Any] = [START_NS // 10**6, "1", "2", "0.5", "1.5", "9", 0, "9", 3, "1", "1", "0"]
    bad = [good[0] + 60_000, "1", "nan", *good[3:]]
    answers: list[Answer] = [(200, {}, {"serverTime": 2**42}), (200, {}, [good, bad, 7])]

    async def test() -> None:
        async with scripted(answers) as at, BinanceRest(at) as rest:
            page = await history(rest, 0, 100)
            assert minutes_of(page) == [0]
            assert [(m.reason, json.loads(m.raw)) for m in page.malformed] == [
                ("bad_high", bad),
                ("not_a_row", 7),
            ]

    run(test)


async def frames_of(stream: BinanceStream, count: int) -> list[Frame]:
    found: list[Frame] = []
    async for frame in stream.frames():
        found.append(frame)
        if len(found) == count:
            break
    return found


def test_frames_come_parsed_and_in_order_until_the_cut() -> None:
    async def test() -> None:
        names = ["btcusdt@kline_1m", "ethusdt@kline_1m"]
        settings: dict[str, Any] = {"kline_update_ms": 0, "session_ns": 60 * MIN_NS}
        async with venue(**settings) as (server, clock, at), BinanceStream(at, names) as stream:
            assert server.status()["streams"] == dict.fromkeys(names, 1)
            clock.advance_to(START_NS + 61 * MIN_NS)
            klines: list[KlineFrame] = []
            notices: list[int] = []
            with pytest.raises(TransportError) as caught:
                async for frame in stream.frames():
                    if isinstance(frame, Notice):
                        notices.append(frame.event_ms)
                        continue
                    assert isinstance(frame, KlineFrame)
                    klines.append(frame)
            assert caught.value.fields["code"] == 1001
            assert notices == [START_NS // 10**6 + 50 * 60_000]
            for name in ("BTCUSDT", "ETHUSDT"):
                own = [kline for kline in klines if kline.venue_symbol == name]
                assert [kline.open_ms for kline in own] == [
                    START_NS // 10**6 + n * 60_000 for n in range(-1, 59)
                ]
                assert all(a.last_trade_id + 1 == b.first_trade_id for a, b in pairwise(own))

    run(test)


def test_a_dropped_socket_is_an_error_without_a_close_code() -> None:
    async def test() -> None:
        faults = "drop-socket:every=5"
        async with (
            venue(faults=faults) as (_, clock, at),
            BinanceStream(at, ["btcusdt@kline_1m"]) as stream,
        ):
            clock.advance_to(START_NS + MIN_NS)
            seen = 0
            with pytest.raises(TransportError) as caught:
                async for _ in stream.frames():
                    seen += 1
            assert (seen, caught.value.fields["code"]) == (4, None)
            assert caught.value.retriable

    run(test)


def test_many_streams_are_subscribed_in_several_messages() -> None:
    async def test() -> None:
        names = [f"s{n}usdt@kline_1m" for n in range(450)]
        rules = StreamRules(between_messages_s=0.0)
        async with venue() as (server, _, at), BinanceStream(at, names, rules):
            assert list(server.status()["streams"]) == names
            for wrong in ([], names * 3):
                with pytest.raises(UsageError):
                    BinanceStream(at, wrong)

    run(test)


@asynccontextmanager
async def talking(
    *said: str | bytes, reply: str = '{"result":null,"id":1}'
) -> AsyncIterator[BinanceEndpoints]:
    """A server that says these texts around its reply to the subscription, then nothing."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for index, text in enumerate(said):
            if index == 1:
                await socket.send_str(reply)
            if isinstance(text, str):
                await socket.send_str(text)
            else:
                await socket.send_bytes(text)
        if len(said) < 2:
            await socket.send_str(reply)
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/stream", talk)
    async with serving(app) as url:
        yield BinanceEndpoints(url, url.replace("http", "ws"))


def test_nothing_that_a_socket_says_is_left_out() -> None:
    async def test() -> None:
        said: tuple[str | bytes, ...] = (
            "before the reply",
            "{",
            b"\xff\x00",
            '{"result":1,"id":9}',
        )
        async with talking(*said) as at, BinanceStream(at, ["x@trade"]) as stream:
            frames = await frames_of(stream, 4)
            assert [f.raw for f in frames[:3] if isinstance(f, Malformed)] == [
                b"before the reply",
                b"{",
                b"\xff\x00",
            ]
            assert isinstance(frames[3], Reply)

    run(test)


def test_control_messages_are_paced_under_the_venues_limit() -> None:
    async def test() -> None:
        async with venue() as (server, _, at):
            sleeps = Sleeps()
            names = [f"no{number}@kline_1m" for number in range(STREAMS_MAX)]
            async with BinanceStream(at, names, sleep=sleeps):
                assert len(server.status()["streams"]) == STREAMS_MAX
            assert sleeps == [StreamRules().between_messages_s] * 5
            # With a pong for each of its pings: fewer than 5 messages a second.
            assert 1 / StreamRules().between_messages_s + 1 < 5
            with pytest.raises(UsageError, match="several connections"):
                BinanceStream(at, [*names, "one@kline_1m"])

    run(test)


def test_a_refused_handshake_says_its_status_and_how_long_to_wait() -> None:
    async def test() -> None:
        async with scripted([(503, {"Retry-After": "7"}, {})]) as at:
            with pytest.raises(TransportError) as raised:
                await BinanceStream(at, ["btcusdt@kline_1m"]).__aenter__()
            assert raised.value.fields["status"] == 503
            assert raised.value.fields["retry_after_s"] == 7

    run(test)


def test_silence_is_an_error() -> None:
    async def test() -> None:
        rules = StreamRules(silence_s=0.05)
        async with talking() as at, BinanceStream(at, ["x@trade"], rules) as stream:
            with pytest.raises(TransportError) as caught:
                await frames_of(stream, 1)
            assert caught.value.fields["silent"] is True

    run(test)


def test_a_refused_subscription_and_a_missing_reply_are_errors() -> None:
    async def test() -> None:
        rules = StreamRules(reply_timeout_s=0.05)
        for reply in ('{"code":2,"msg":"no","id":1}', '{"result":null,"id":8}'):
            async with talking(reply=reply) as at:
                with pytest.raises(TransportError):
                    async with BinanceStream(at, ["x@trade"], rules):
                        pass

    run(test)


def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    async def test() -> None:
        async with talking("a", "x" * 2_000) as at:
            rules = StreamRules(frame_bytes_max=1_000)
            async with BinanceStream(at, ["x@trade"], rules) as stream:
                with pytest.raises(TransportError, match="1009"):
                    await frames_of(stream, 2)

    run(test)


def test_endpoints_come_from_the_environment_both_or_none() -> None:
    rest, ws = "SEAMLINE_BINANCE_REST_URL", "SEAMLINE_BINANCE_WS_URL"
    assert BinanceEndpoints.from_environment({}) == BinanceEndpoints()
    given = {rest: "http://a/", ws: "ws://b"}
    assert BinanceEndpoints.from_environment(given) == BinanceEndpoints("http://a", "ws://b")
    for missing in (rest, ws):
        with pytest.raises(UsageError) as caught:
            BinanceEndpoints.from_environment({k: v for k, v in given.items() if k != missing})
        assert caught.value.parameter == missing
