"""The venue simulator through real sockets: Binance's protocol, in time that the test moves."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from manual_venue import MIN_MS, START_MS, Venue, ended, eventually, receive, run, venue
from seamline.connectors.venues.simulated_clock import RunningClock
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.weight_limit import WeightRules
from seamline.schemas.errors import UsageError

DATA = Path(__file__).parent.parent / "data"
COINBASE = DATA / "crypto_1m/coinbase_btcusd_20161007_3d.csv"


def shape(value: Any) -> Any:
    """Keys in order and types, without values."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    return type(value).__name__


def test_frames_have_the_shape_of_recorded_ones() -> None:
    recorded: dict[str, Any] = {}
    for path in (DATA / "binance_ws").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            frame = json.loads(line)
            recorded.setdefault(frame["data"]["e"], shape(frame))
            assert shape(frame) == recorded[frame["data"]["e"]]

    async def test() -> None:
        path = "/stream?streams=btcusdt@kline_1m/btcusdt@aggTrade"
        async with venue() as v, v.socket(path) as socket:
            v.to(2.1)
            frames = await receive(socket, 60)
            assert {frame["data"]["e"] for frame in frames} == recorded.keys()
            assert {frame["data"]["k"]["x"] for frame in frames if "k" in frame["data"]} == {
                True,
                False,
            }
            for frame in frames:
                assert shape(frame) == recorded[frame["data"]["e"]]

    run(test)


def test_the_trade_stream_has_every_trade_once() -> None:
    async def test() -> None:
        async with venue() as v, v.socket("/ws/ethusdt@trade") as socket:
            market = v.server.market
            trades = market.trades("ETHUSDT", START_MS, START_MS + 3 * MIN_MS)
            v.to(1.3)
            v.to(3)
            frames = await receive(socket, len(trades) - 1)
            for frame, trade in zip(frames, trades, strict=False):
                assert list(frame) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
                assert (frame["t"], frame["p"], frame["q"]) == (trade.id, trade.price, trade.size)
                assert (frame["T"], frame["m"]) == (trade.time_ms, trade.buyer_is_maker)

    run(test)


def test_rest_and_websocket_show_the_same_closed_klines() -> None:
    async def test() -> None:
        async with venue() as v, v.socket("/stream?streams=btcusdt@kline_1m") as socket:
            v.to(90.5)
            frames: list[Any] = []
            while len(frames) < 90:
                (frame,) = await receive(socket, 1)
                if frame["data"]["k"]["x"] and frame["data"]["k"]["t"] >= START_MS:
                    frames.append(frame["data"])
            rows = await v.get("klines", symbol="BTCUSDT", interval="1m", startTime=START_MS)
            assert len(rows) == 91
            for frame, row in zip(frames, rows, strict=False):
                k = frame["k"]
                assert row == [
                    *(k[name] for name in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")),
                    "0",
                ]
                assert 0 < frame["E"] - k["T"] < 100
            assert all(a["k"]["L"] + 1 == b["k"]["f"] for a, b in pairwise(frames))
            assert [frame["E"] for frame in frames] == sorted(frame["E"] for frame in frames)

    run(test)


def test_the_last_kline_over_rest_is_open_and_grows() -> None:
    async def test() -> None:
        async with venue() as v:
            seen = []
            for minutes in (5.2, 5.6, 5.99, 6.0):
                v.to(minutes)
                rows = await v.get("klines", symbol="BTCUSDT", interval="1m", limit=2)
                seen.append(rows[-1] if rows[-1][0] == START_MS + 5 * MIN_MS else rows[-2])
            counts = [row[8] for row in seen]
            assert counts == sorted(counts)
            assert counts[0] < counts[-1]
            assert (await v.get("time"))["serverTime"] == START_MS + 6 * MIN_MS

    run(test)


def test_start_end_and_limit_of_klines() -> None:
    async def opens(v: Venue, **params: Any) -> list[float]:
        rows = await v.get("klines", symbol="BTCUSDT", interval="1m", **params)
        return [(row[0] - START_MS) / MIN_MS for row in rows]

    async def test() -> None:
        async with venue() as v:
            v.to(2_000.5)
            at = {n: START_MS + n * MIN_MS for n in (10, 12, 1_000)}
            assert await opens(v, startTime=at[10], endTime=at[12]) == [10, 11, 12]
            assert await opens(v, startTime=at[10] + 1, endTime=at[12] - 1) == [11]
            assert await opens(v, startTime=at[10], limit=2) == [10, 11]
            assert await opens(v, endTime=at[12], limit=2) == [11, 12]
            assert await opens(v, startTime=at[12], endTime=at[10]) == []
            assert await opens(v) == list(range(1_501, 2_001))
            assert len(await opens(v, limit=5_000)) == 1_000
            assert await opens(v, startTime=at[1_000] * 2) == []
            deep = await opens(v, startTime=0, limit=1)
            assert deep == [-START_MS / MIN_MS]

    run(test)


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("klines", {"symbol": "NOPE", "interval": "1m"}, -1121),
        ("klines", {"symbol": "btcusdt", "interval": "1m"}, -1121),
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "-1"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "0"}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "x"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "endTime": ""}, -1100),
        ("exchangeInfo", {"symbol": "NOPE"}, -1121),
        ("exchangeInfo", {"symbols": '["BTCUSDT","NOPE"]'}, -1121),
    ],
)
def test_wrong_requests_are_answered_as_the_venue_does(
    path: str, params: dict[str, str], code: int
) -> None:
    async def test() -> None:
        async with venue() as v:
            answer = await v.rest.get(f"/api/v3/{path}", params=params)
            assert answer.status_code == 400
            assert list(answer.json()) == ["code", "msg"]
            assert answer.json()["code"] == code
            if code == -1121:
                assert answer.json()["msg"] == "Invalid symbol."

    run(test)


def test_symbols_of_the_exchange() -> None:
    async def test() -> None:
        async with venue() as v:
            assert await v.get("ping") == {}
            info = await v.get("exchangeInfo")
            found = [(s["symbol"], s["baseAsset"], s["quoteAsset"]) for s in info["symbols"]]
            assert found == [("BTCUSDT", "BTC", "USDT"), ("ETHUSDT", "ETH", "USDT")]
            assert {s["status"] for s in info["symbols"]} == {"TRADING"}
            assert info["rateLimits"][0]["limit"] == 6_000
            one = await v.get("exchangeInfo", symbols='["ETHUSDT"]')
            assert [s["symbol"] for s in one["symbols"]] == ["ETHUSDT"]

    run(test)


def test_weight_is_told_and_its_limit_enforced() -> None:
    async def test() -> None:
        rules = WeightRules(limit=5, window_s=3_600.0, strikes_max=1, ban_s=120.0)
        async with venue(weights=rules) as v:
            params = {"symbol": "BTCUSDT", "interval": "1m"}
            answers = [await v.rest.get("/api/v3/klines", params=params) for _ in range(4)]
            assert [a.status_code for a in answers] == [200, 200, 429, 418]
            used = [a.headers["X-MBX-USED-WEIGHT-1M"] for a in answers]
            assert used == ["2", "4", "6", "8"]
            assert 1 <= int(answers[2].headers["Retry-After"]) <= 3_600
            assert answers[3].headers["Retry-After"] == "120"
            assert answers[2].json()["code"] == -1003
            status = await v.status()
            assert status["requests"] == {"klines 200": 2, "klines 429": 1, "klines 418": 1}

    run(test)


def test_subscribing_listing_and_unsubscribing() -> None:
    async def ask(socket: ClientConnection, method: str, *params: Any, id_: Any = 1) -> Any:
        await socket.send(json.dumps({"method": method, "params": list(params), "id": id_}))
        return (await receive(socket, 1))[0]

    async def test() -> None:
        names = ("btcusdt@kline_1m", "ethusdt@kline_1m", "nope@kline_1m")
        async with venue() as v, v.socket("/ws") as socket:
            assert await ask(socket, "SUBSCRIBE", *names, id_="a") == {"result": None, "id": "a"}
            assert await ask(socket, "LIST_SUBSCRIPTIONS") == {"result": list(names), "id": 1}
            assert (await ask(socket, "UNSUBSCRIBE", names[1]))["result"] is None
            assert await ask(socket, "GET_PROPERTY", "combined") == {"result": False, "id": 1}
            v.to(0.05)
            raw = await receive(socket, 2)
            assert [(f["e"], f["s"], f["k"]["x"]) for f in raw] == [
                ("kline", "BTCUSDT", True),
                ("kline", "BTCUSDT", False),
            ]
            assert await ask(socket, "SET_PROPERTY", "combined", True) == {"result": None, "id": 1}
            v.to(0.08)
            (wrapped,) = await receive(socket, 1)
            assert list(wrapped) == ["stream", "data"]
            assert await ask(socket, "UNSUBSCRIBE", *names) == {"result": None, "id": 1}
            v.to(10)
            assert await ask(socket, "LIST_SUBSCRIPTIONS") == {"result": [], "id": 1}

    run(test)


@pytest.mark.parametrize(
    ("text", "code", "id_"),
    [
        ("{", 3, None),
        ("[]", 2, None),
        ('{"id":1}', 2, 1),
        ('{"method":"FLY","id":1}', 2, 1),
        ('{"method":"SUBSCRIBE","id":1}', 2, 1),
        ('{"method":"SUBSCRIBE","params":"x","id":1}', 2, 1),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, 1),
        ('{"method":"SUBSCRIBE","params":["a"],"id":{}}', 2, None),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1, 1),
        ('{"method":"SET_PROPERTY","params":["colour",true],"id":1}', 0, 1),
        (json.dumps({"method": "SUBSCRIBE", "params": [str(n) for n in range(1_025)]}), 2, None),
    ],
)
def test_wrong_messages_get_an_error_reply_and_change_nothing(
    text: str, code: int, id_: int | None
) -> None:
    async def test() -> None:
        async with venue() as v, v.socket("/stream?streams=btcusdt@trade") as socket:
            await socket.send(text)
            (reply,) = await receive(socket, 1)
            assert (reply["code"], reply["id"]) == (code, id_)
            await socket.send('{"method":"LIST_SUBSCRIPTIONS","id":2}')
            assert await receive(socket, 1) == [{"result": ["btcusdt@trade"], "id": 2}]

    run(test)


def test_nothing_from_before_the_subscription_comes() -> None:
    async def test() -> None:
        async with venue() as v:
            v.to(600)
            async with v.socket("/stream?streams=btcusdt@kline_1m") as socket:
                v.to(600.05)
                (frame,) = await receive(socket, 1)
                assert frame["data"]["E"] > START_MS + 600 * MIN_MS

    run(test)


def test_a_socket_is_cut_after_its_simulated_day() -> None:
    async def test() -> None:
        async with venue(session_ns=600_000_000_000) as v, v.socket("/ws") as first:
            v.to(9)
            async with v.socket("/stream?streams=btcusdt@kline_1m") as second:
                v.to(10.5)
                assert await ended(first) == 1001
                v.to(18)
                await receive(second, 5)
                v.to(19.5)
                assert await ended(second) == 1001
            assert (await v.status())["sockets"]["ended"] == {"session_cut": 2}

    run(test)


def test_a_client_that_answers_no_ping_is_dropped() -> None:
    async def test() -> None:
        settings: dict[str, Any] = {"ping_interval_s": 0.01, "pong_timeout_s": 0.05}
        async with venue(**settings) as v, aiohttp.ClientSession() as session:
            async with session.ws_connect(v.server.ws_url + "/ws", autoping=False) as deaf:
                kinds = {(await deaf.receive()).type for _ in range(2)}
                assert kinds == {aiohttp.WSMsgType.PING}
                while not deaf.closed:
                    await deaf.receive()
            await eventually(lambda: v.server.status()["sockets"]["open"] == 0)
            assert (await v.status())["sockets"]["ended"] == {"pong_timeout": 1}

    run(test)


def test_a_client_ping_is_answered() -> None:
    async def test() -> None:
        async with venue() as v, v.socket("/ws") as socket:
            await (await socket.ping())

    run(test)


def test_sockets_are_dropped_at_a_simulated_time_and_by_hand() -> None:
    async def test() -> None:
        async with venue(faults="drop-socket:at=+3m") as v:
            path = "/stream?streams=btcusdt@kline_1m"
            async with v.socket(path) as one, v.socket(path) as two:
                v.to(5)
                assert [await ended(one), await ended(two)] == [None, None]
            async with v.socket(path) as three:
                assert (await v.rest.post("/sim/drop-sockets")).json() == {"dropped": 1}
                assert await ended(three) is None
            status = await v.status()
            assert status["faults"] == [{"fault": "drop-socket:at=+3m", "hits": 1}]
            assert status["sockets"]["ended"] == {"fault": 2, "control": 1}

    run(test)


def test_a_client_that_does_not_read_is_ended_and_what_was_left_is_counted() -> None:
    async def test() -> None:
        async with venue() as v, v.socket("/stream?streams=btcusdt@kline_1m"):
            v.to(60 * 24 * 2)
            await eventually(lambda: bool(v.server.status()["sockets"]["ended"]))
            status = v.server.status()
            assert status["sockets"]["ended"] == {"slow_consumer": 1}
            assert status["frames"]["left"] > 0

    run(test)


def test_lost_frames_are_lost_counted_and_named() -> None:
    async def test() -> None:
        faults = "lose-frames:at=+3m|+4m,symbol=BTC/USDT,only=closed; lose-frames:p=0.2,only=closed"
        path = "/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m"
        async with venue(faults=faults) as v, v.socket(path) as socket:
            v.to(60.5)
            got: list[Any] = []
            while not got or got[-1]["E"] < START_MS + 60 * MIN_MS + 4_000:
                (frame,) = await receive(socket, 1)
                got.append(frame["data"])
            # The minute before the start closes after it, too.
            closed = {(k["s"], k["k"]["t"]) for k in got if k["k"]["x"]}
            status = await v.status()
            hits = [fault["hits"] for fault in status["faults"]]
            assert hits[0] == 2
            assert 8 < hits[1] < 40
            assert len(closed) == 122 - sum(hits)
            assert status["frames"]["lost"] == sum(hits) == len(status["recent_faults"])
            lost = {
                (f["stream"].partition("@")[0].upper(), f["open_ms"])
                for f in status["recent_faults"]
            }
            assert not lost & closed
            assert {("BTCUSDT", START_MS + n * MIN_MS) for n in (3, 4)} <= lost
            rows = await v.get("klines", symbol="BTCUSDT", interval="1m", startTime=START_MS)
            assert len(rows) == 61

    run(test)


def test_a_file_is_served_as_it_is() -> None:
    first_ms, hole_ms = 1_475_798_400_000, 0
    lines = COINBASE.read_text().splitlines()[1:]
    texts = {int(line.split(",")[0]): line.split(",")[1:] for line in lines}
    hole_ms = next(t for t in range(first_ms, first_ms + 10**9, MIN_MS) if t not in texts)

    async def test() -> None:
        settings: dict[str, Any] = {"symbols": (), "data": {"BTC/USD": COINBASE}}
        path = "/stream?streams=btcusd@kline_1m"
        async with venue(first_ms, **settings) as v, v.socket(path) as socket:
            v.clock.advance_to((hole_ms + 3 * MIN_MS) * 1_000_000)
            closed: dict[int, list[str]] = {}
            wanted = [t for t in texts if t < hole_ms + 2 * MIN_MS]
            while len(closed) < len(wanted):
                (frame,) = await receive(socket, 1)
                k = frame["data"]["k"]
                assert k["t"] != hole_ms
                if k["x"]:
                    closed[k["t"]] = [k[name] for name in "ohlcv"]
            assert closed == {t: texts[t] for t in wanted}
            v.clock.advance_to((first_ms + 5 * 86_400_000) * 1_000_000)
            rows: list[list[Any]] = []
            params: dict[str, Any] = {"symbol": "BTCUSD", "interval": "1m", "limit": 1_000}
            while page := await v.get("klines", **params, startTime=rows[-1][0] + 1 if rows else 0):
                rows += page
            assert {row[0]: row[1:6] for row in rows} == texts
            assert len(rows) == 4_216

    run(test)


def test_time_runs_at_speed_and_stops_at_until() -> None:
    async def test() -> None:
        until_ns = (START_MS + 5 * MIN_MS) * 1_000_000
        config = SimulatorConfig(
            symbols=("BTC/USDT",), start_ns=START_MS * 1_000_000, speed=600.0, until_ns=until_ns
        )
        async with VenueSimulator(config) as server:
            url = server.ws_url + "/stream?streams=btcusdt@kline_1m"
            async with connect(url, compression=None) as socket:
                last = {"k": {"t": 0}}
                while last["k"]["t"] < START_MS + 4 * MIN_MS:
                    last = (await receive(socket, 1))[0]["data"]
                await eventually(lambda: server.clock.now_ns() == until_ns + 1_000_000_000)
                await (await socket.ping())
                assert server.clock.now_ns() == until_ns + 1_000_000_000

    run(test)


def test_a_running_clock_stays_out_of_the_future() -> None:
    clock = RunningClock(time.time_ns() - 1_000_000, 100_000.0, None)
    for _ in range(1_000):
        assert clock.now_ns() <= time.time_ns()
    with pytest.raises(UsageError, match="future"):
        RunningClock(time.time_ns() + 10**12, 1.0, None)
    for settings in ((0, 0.0, None), (0, -1.0, None), (0, float("nan"), None), (10, 1.0, 9)):
        with pytest.raises(UsageError):
            RunningClock(*settings)


def test_settings_without_sense_are_refused() -> None:
    async def test() -> None:
        async with venue() as v:
            port = int(v.server.rest_url.rpartition(":")[2])
            with pytest.raises(UsageError) as caught:
                async with venue(port=port):
                    pass
            assert caught.value.parameter == "port"
        with pytest.raises(UsageError) as caught:
            VenueSimulator(SimulatorConfig(0, ("BTC/USD", "ETH/USD"), data={"BTC/USD": COINBASE}))
        assert (caught.value.parameter, caught.value.value) == ("data", "ETH/USD")

    run(test)


def test_a_day_of_twenty_symbols_arrives_in_order() -> None:
    bases = "BTC ETH SOL BNB XRP ADA DOGE DOT LTC LINK AVAX ATOM UNI ETC XLM FIL TRX NEAR APT OP"
    symbols = tuple(f"{base}/USDT" for base in bases.split())

    async def test() -> None:
        streams = "/".join(f"{s.replace('/', '').lower()}@kline_1m" for s in symbols)
        settings: dict[str, Any] = {"symbols": symbols, "kline_update_ms": 0}
        async with (
            venue(**settings) as v,
            v.socket(f"/stream?streams={streams}") as socket,
        ):
            last: dict[str, Any] = {}
            times = []
            notices: list[Any] = []
            closed = 0
            for hour in range(1, 25):
                v.to(60 * hour + 0.01)
                while closed < 20 * 60 * hour:
                    frame = json.loads(await socket.recv())
                    if "data" not in frame:
                        notices.append(frame)
                        continue
                    data = frame["data"]
                    k = data["k"]
                    times.append(data["E"])
                    if k["x"]:
                        closed += 1
                        before = last.get(k["s"])
                        assert before is None or before["L"] + 1 == k["f"]
                        last[k["s"]] = k
            assert times == sorted(times)
            day_ms = 24 * 60 * MIN_MS
            assert notices == [{"e": "serverShutdown", "E": START_MS + day_ms - 10 * MIN_MS}]

    run(test)
