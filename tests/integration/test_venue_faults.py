"""Each fault of the simulator on the wire: what a client of the real local server sees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from manual_venue import MIN_MS, START_MS, Venue, ended, eventually, receive, run, venue
from seamline.connectors.venues.binance_parse import Malformed, Notice, parse_frame
from seamline.connectors.venues.binance_shapes import kline_row
from seamline.connectors.venues.binance_stream import StreamRules
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.schemas.errors import UsageError

KLINES = "/stream?streams=btcusdt@kline_1m"
ONE = "symbol=BTC/USDT,only=closed"
CLOSED_ONLY: dict[str, Any] = {"kline_update_ms": 0}


def at(minutes: float) -> int:
    return START_MS + int(minutes * MIN_MS)


def opens(frames: list[Any]) -> list[int]:
    """The minutes since the start of closed klines."""
    return [(frame["data"]["k"]["t"] - START_MS) // MIN_MS for frame in frames]


async def hits(v: Venue) -> list[int]:
    return [fault["hits"] for fault in (await v.status())["faults"]]


async def rows(v: Venue, **params: Any) -> list[Any]:
    answer: list[Any] = await v.get("klines", symbol="BTCUSDT", interval="1m", **params)
    return answer


async def raw(socket: ClientConnection) -> bytes:
    return await socket.recv(decode=False)


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("lose-frames:at=+2m", [-1, 0, 1, 3, 4, 5]),
        ("duplicate-frames:at=+2m", [-1, 0, 1, 2, 2, 3, 4, 5]),
        ("reorder-frames:at=+2m|+3m", [-1, 0, 1, 3, 2, 4, 5]),
        ("reorder-frames:every=2", [-1, 1, 0, 3, 2, 5, 4]),
        ("reorder-frames:p=1", [0, -1, 2, 1, 4, 3]),
        ("delay-frames:at=+2m,by=90s", [-1, 0, 1, 3, 2, 4, 5]),
        ("delay-frames:at=+2m,by=150s", [-1, 0, 1, 3, 4, 2, 5]),
    ],
)
def test_frames_are_lost_doubled_swapped_and_delayed(fault: str, wanted: list[int]) -> None:
    async def test() -> None:
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            for minutes in (2.5, 4.6, 6.5):  # as one jump or as several: the same
                v.to(minutes)
            assert opens(await receive(socket, len(wanted))) == wanted
            assert (await hits(v))[0] > 0

    run(test)


def test_malformed_frames_come_and_the_socket_lives_on() -> None:
    async def test() -> None:
        fault = "malformed-frames:every=2"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(40.5)
            frames = [parse_frame(await raw(socket), 0) for _ in range(41)]
            spoiled = [isinstance(frame, Malformed) for frame in frames]
            assert spoiled == [n % 2 == 1 for n in range(41)]
            assert len({frame.reason for frame in frames if isinstance(frame, Malformed)}) > 4
            assert await hits(v) == [20]

    run(test)


def test_an_oversized_frame_ends_a_client_that_takes_no_more() -> None:
    async def test() -> None:
        fault = "oversized-frames:at=+2m"
        async with venue(faults=fault, **CLOSED_ONLY) as v:
            async with v.socket(KLINES) as small:
                v.to(3.5)
                with pytest.raises(ConnectionClosed) as closed:
                    while True:
                        await small.recv()
                assert closed.value.sent is not None and closed.value.sent.code == 1009
            async with v.socket(KLINES) as other:
                v.to(5.5)
                assert opens(await receive(other, 2)) == [3, 4]
            assert (await hits(v)) == [1]
        assert StreamRules().frame_bytes_max == 2**20

    run(test)


def test_a_frame_says_another_symbol_in_the_envelope_of_its_stream() -> None:
    async def test() -> None:
        fault = "wrong-symbol:at=+2m,as=listed; wrong-symbol:at=+3m,as=unlisted"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(4.5)
            frames = await receive(socket, 5)
            said = [(f["stream"], f["data"]["s"], f["data"]["k"]["s"]) for f in frames[-3:]]
            stream = "btcusdt@kline_1m"
            assert said == [
                (stream, "BTCUSDT", "BTCUSDT"),
                (stream, "ETHUSDT", "ETHUSDT"),
                (stream, "NOSUCHCOIN", "NOSUCHCOIN"),
            ] or said[1:] == [(stream, "NOSUCHCOIN", "NOSUCHCOIN")]
            assert await hits(v) == [1, 1]

    run(test)


def test_a_shutdown_is_announced_then_all_old_sockets_are_closed() -> None:
    async def test() -> None:
        fault = "shutdown:at=+5m,notice=3m"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as old:
            v.to(6.5)
            frames = [parse_frame(await raw(old), 0) for _ in range(8)]
            (notice,) = (frame for frame in frames if isinstance(frame, Notice))
            assert (notice.event, notice.event_ms) == ("serverShutdown", at(5))
            async with v.socket(KLINES) as new:
                v.to(9.5)
                assert await ended(old) == 1001
                assert opens(await receive(new, 3)) == [6, 7, 8]
            assert await hits(v) == [1]
            assert (await v.status())["sockets"]["ended"]["fault"] == 1

    run(test)


def test_a_session_is_told_before_it_is_cut() -> None:
    async def test() -> None:
        settings: dict[str, Any] = {"session_ns": 30 * MIN_MS * 1_000_000}
        async with venue(**settings) as v, v.socket("/ws") as socket:
            v.to(19.9)
            await (await socket.ping())
            v.to(20.1)
            assert await receive(socket, 1) == [{"e": "serverShutdown", "E": at(20)}]
            v.to(30.1)
            assert await ended(socket) == 1001

    run(test)


def test_an_outage_refuses_both_sides_and_history_is_whole_afterwards() -> None:
    async def test() -> None:
        fault = "outage:from=+10m,to=+14m"
        async with venue(faults=fault, **CLOSED_ONLY) as v:
            async with v.socket(KLINES) as socket:
                v.to(12)
                assert opens(await receive(socket, 10)) == list(range(-1, 9))
                assert await ended(socket) is None
            answer = await v.rest.get("/api/v3/time")
            assert (answer.status_code, answer.json()["code"]) == (503, -1001)
            with pytest.raises(InvalidStatus) as refused:
                await v.socket(KLINES)
            assert refused.value.response.status_code == 503
            v.to(14)
            async with v.socket(KLINES) as socket:
                v.to(15.5)
                assert opens(await receive(socket, 2)) == [13, 14]
            whole = await rows(v, startTime=START_MS)
            assert [row[0] for row in whole] == [at(n) for n in range(16)]
            status = await v.status()
            assert status["faults"] == [{"fault": fault, "hits": 3}]
            assert status["sockets"]["refused"] == 1
            assert status["requests"]["time 503"] == 1

    run(test)


@pytest.mark.parametrize("side", ["rest", "ws"])
def test_an_outage_of_one_side_leaves_the_other(side: str) -> None:
    async def test() -> None:
        fault = f"outage:from=+2m,to=+9m,only={side}"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(5.5)
            answer = await v.rest.get("/api/v3/ping")
            if side == "rest":
                assert answer.status_code == 503
                assert opens(await receive(socket, 6)) == list(range(-1, 5))
            else:
                assert answer.status_code == 200
                assert await ended(socket) is None

    run(test)


def test_nobody_trades_in_a_halt() -> None:
    async def test() -> None:
        fault = "halt:from=+10m,to=+14m"
        path = KLINES + "/btcusdt@trade"
        async with venue(faults=fault, **CLOSED_ONLY) as v:
            async with v.socket(path) as socket:
                v.to(13)
                before = []
                with pytest.raises(ConnectionClosed):
                    while True:
                        before += await receive(socket, 1)
            v.to(14)
            async with v.socket(path) as socket:
                v.to(15.5)
                after = await receive(socket, 5)
            ids = [frame["data"]["t"] for frame in before + after if "t" in frame["data"]]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
            shown = await rows(v, startTime=START_MS)
            assert [row[0] for row in shown] == [at(n) for n in (*range(10), 14, 15)]
            reasons = [one.missing for one in v.server.settled("BTC/USDT", START_MS, at(15))]
            assert reasons == [None] * 10 + ["halt"] * 4 + [None]

    run(test)


def test_lost_history_lacks_a_minute_that_was_traded() -> None:
    async def test() -> None:
        fault = "lose-history:at=+2m,symbol=BTC/USDT"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(4.5)
            frames = await receive(socket, 4)
            assert opens(frames) == [-1, 0, 1, 3]
            last, first = (frames[n]["data"]["k"][name] for n, name in ((2, "L"), (3, "f")))
            assert first > last + 1
            assert [row[0] for row in await rows(v, startTime=at(1))] == [at(1), at(3), at(4)]
            assert len(await rows(v, limit=3)) == 3
            assert await hits(v) == [1]

    run(test)


def test_history_shows_a_correction_after_its_time_and_for_ever() -> None:
    async def test() -> None:
        fault = "correct-klines:at=+2m,symbol=BTC/USDT,after=5m"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(7.9)
            sent = (await receive(socket, 4))[3]["data"]["k"]
            (early,) = await rows(v, startTime=at(2), limit=1)
            assert [early[n] for n in range(1, 6)] == [sent[name] for name in "ohlcv"]
            assert await hits(v) == [0]
            v.to(8)
            (late,) = await rows(v, startTime=at(2), limit=1)
            assert late != early and late[0] == early[0] and late[8] == early[8]
            v.to(500)
            assert await rows(v, startTime=at(2), limit=1) == [late]
            (truth,) = v.server.settled("BTC/USDT", at(2), at(3))
            assert truth.kline is not None and kline_row(truth.kline) == late
            assert await hits(v) == [1]

    run(test)


def test_requests_are_refused_and_a_ban_lasts() -> None:
    async def test() -> None:
        fault = "limit-rest:every=2,retry_after=3s,to=+1m; limit-rest:every=4,status=418,from=+1m"
        async with venue(faults=fault) as v:
            answers = [await v.rest.get("/api/v3/ping") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 429, 200]
            assert answers[1].headers["Retry-After"] == "3"
            assert answers[1].json()["code"] == -1003
            v.to(1)
            answers = [await v.rest.get("/api/v3/ping") for _ in range(2)]
            assert [answer.status_code for answer in answers] == [418, 418]
            assert {answer.headers["Retry-After"] for answer in answers} <= {"1", "2"}
            assert await hits(v) == [1, 1]
            assert (await v.status())["requests"] == {"ping 200": 2, "ping 429": 1, "ping 418": 2}

    run(test)


def test_a_slow_answer_is_late_and_says_what_was_true_when_it_was_asked() -> None:
    async def test() -> None:
        async with venue(faults="slow-rest:every=2,by=5m") as v:
            assert (await v.get("time"))["serverTime"] == START_MS
            with pytest.raises(httpx.ReadTimeout):
                await v.rest.get("/api/v3/time", timeout=0.05)
            assert await hits(v) == [1]
        async with venue(faults="slow-rest:every=1,by=1ms") as v:
            assert (await v.get("time"))["serverTime"] == START_MS

    run(test)


def test_the_clock_of_the_venue_is_off() -> None:
    async def test() -> None:
        fault = "clock:by=-90s,from=+2m,to=+4m"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(3)
            assert (await v.get("time"))["serverTime"] == at(1.5)
            assert (await v.get("exchangeInfo"))["serverTime"] == at(1.5)
            v.to(5.5)
            assert (await v.get("time"))["serverTime"] == at(5.5)
            frames = [frame["data"] for frame in await receive(socket, 6)]
            off = [frame["E"] - frame["k"]["T"] for frame in frames]
            assert [abs(ms + 90_000) < 100 for ms in off] == [
                False,
                False,
                True,
                True,
                False,
                False,
            ]
            assert await hits(v) == [4]

    run(test)


def test_a_socket_cut_by_count_breaks_without_a_close_frame() -> None:
    async def test() -> None:
        fault = "drop-socket:every=4"
        async with venue(faults=fault, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(9)
            assert opens(await receive(socket, 3)) == [-1, 0, 1]
            assert await ended(socket) is None
            await eventually(lambda: bool(v.server.status()["sockets"]["ended"]))
            assert v.server.status()["sockets"]["ended"] == {"fault": 1}

    run(test)


def test_the_same_seed_causes_the_same_on_another_server() -> None:
    faults = "lose-frames:p=0.2; malformed-frames:p=0.2; duplicate-frames:p=0.2; wrong-symbol:p=0.2"

    async def seen() -> list[bytes]:
        async with venue(faults=faults, **CLOSED_ONLY) as v, v.socket(KLINES) as socket:
            v.to(60.5)
            return [await raw(socket) for _ in range(40)]

    async def test() -> None:
        one = await seen()
        assert one == await seen()
        assert len(one) == len(set(one)) + sum(a == b for a, b in pairwise(one))

    run(test)


def test_a_fault_of_a_symbol_that_is_not_there_is_refused() -> None:
    faults = parse_faults("lose-history:at=+1m,symbol=BTC/USD", start_ns=0)
    with pytest.raises(UsageError, match="BTC/USDT"):
        VenueSimulator(SimulatorConfig(0, ("BTC/USDT",), faults=faults))


def test_help_names_every_kind() -> None:
    from typer.testing import CliRunner

    from seamline.connectors.venues.venue_faults import KINDS
    from seamline.sdk.cli.main import app

    said = CliRunner().invoke(app, ["venue-sim", "--help"], env={"COLUMNS": "200"}).stdout
    assert [kind for kind in KINDS if kind not in said] == []
