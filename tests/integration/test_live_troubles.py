"""The live connector in trouble: bytes that are no frame, a broker that refuses, a restart."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from live_world import held_venue
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.live import LiveConnector, LiveSettings
from seamline.connectors.live_records import DeliveryError, columns_of, compile_codec, landed
from seamline.connectors.live_socket import LinkSettings
from seamline.connectors.venues.binance import BinanceEndpoints
from seamline.connectors.venues.simulator import VenueSimulator
from seamline.connectors.world import World
from seamline.schemas.codec import encode_bars
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import (
    HEADER_FIRST_FAILURE_NS,
    HEADER_REASON,
    HEADER_SOURCE,
    producer_of,
    topic_name,
)
from seamline.streams.kernel.feed import FeedBar
from seamline.streams.kernel.socket_rota import RotaRules
from venue_world import (
    MIN_NS,
    START_NS,
    SYMBOLS,
    all_records,
    aside,
    command_environment,
    fresh_preset,
    landed_bars,
    registered,
    simulator,
    truth,
    until,
    watermarks,
    write_presets,
)

FAST = LiveSettings(
    heartbeat_s=0.2, clock_s=0.1, link=LinkSettings(rota=RotaRules(ladder_ms=(20, 50)))
)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(280):
            await test

    asyncio.run(bounded())


@asynccontextmanager
async def injecting(venue: VenueSimulator, frames: Sequence[bytes]) -> AsyncIterator[str]:
    """A socket server that passes everything on from and to the venue, and sends `frames` once
    among what it passes to the first client."""
    left = list(frames)

    async def one_client(client: ServerConnection) -> None:
        assert client.request is not None
        async with connect(venue.ws_url + client.request.path, compression=None) as upstream:

            async def upwards() -> None:
                with suppress(ConnectionClosed):
                    async for message in client:
                        await upstream.send(message)
                await upstream.close()

            passing = asyncio.create_task(upwards())
            with suppress(ConnectionClosed):
                async for number in _counted(upstream, client):
                    if number >= 3 and left:
                        await client.send(left.pop(0), text=True)
            passing.cancel()
            with suppress(ConnectionClosed, asyncio.CancelledError):
                await passing

    async with serve(one_client, "127.0.0.1", 0, compression=None) as server:
        (socket, *_) = server.sockets
        yield f"ws://127.0.0.1:{socket.getsockname()[1]}"


async def _counted(upstream: Any, client: ServerConnection) -> AsyncIterator[int]:
    number = 0
    async for message in upstream:
        await client.send(message)
        number += 1
        yield number


def kline(symbol: str, open_ns: int) -> bytes:
    open_ms = open_ns // 1_000_000
    texts = dict.fromkeys("ochlvqVQ", "1.00000000")
    k = {"t": open_ms, "T": open_ms + 59_999, "s": symbol, "i": "1m", "f": 1, "L": 2, "n": 2}
    event = {"e": "kline", "E": open_ms + 60_005, "s": symbol, "k": {**k, **texts, "x": True}}
    return json.dumps(event).encode()


def test_frames_that_cannot_be_used_go_to_quarantine_byte_for_byte(world: World) -> None:
    bad = {
        b'{"e":"kline","E":17': "not_json",
        b"[1, 2,  3]": "not_an_object",
        b'{"e":"depthUpdate","s":"BTCUSDT"}': "unknown_event",
        kline("BTCUSDT", START_NS).replace(b'"o": "1.00000000"', b'"o": "NaN"'): "bad_o",
        kline("DOGEUSDT", START_NS): "unexpected_frame",
        kline("BTCUSDT", START_NS + 5_000 * MIN_NS): "not_closed_yet",
    }

    async def test() -> None:
        preset = fresh_preset(world)
        ids = registered(world, preset)
        compile_codec()
        async with simulator(minutes=60, speed=600.0) as venue, injecting(venue, list(bad)) as url:
            endpoints = BinanceEndpoints(venue.rest_url, url)
            live = LiveConnector(world.cluster, preset, ids, endpoints, FAST)
            stop = asyncio.Event()
            task = asyncio.create_task(live.run(SYMBOLS, stop))
            end_ns = START_NS + 60 * MIN_NS
            await aside(task, lambda: live.gauges().get("watermark_ns", 0) >= end_ns, "the end")
            stop.set()
            await task
            counters = live.counters()
            bars = landed_bars(all_records(world, preset, "live"))
            first = min(time_ns for _, time_ns, _, _ in bars)
            assert {bar[:2]: bar[2] for bar in bars} == truth(venue, first, end_ns)
        kept = all_records(world, preset, "quarantine")
        assert {r.value: dict(r.headers)[HEADER_REASON].decode() for r in kept} == bad
        for record in kept:
            headers = dict(record.headers)
            assert headers[HEADER_SOURCE] == b"binance.ws"
            assert int(headers[HEADER_FIRST_FAILURE_NS]) > 0
        written = [*kept, *all_records(world, preset, "live")]  # heartbeats too
        assert {producer_of(record.headers) for record in written} == {"live:binance"}
        assert counters["quarantined"] == len(bad)
        assert (counters["malformed"], counters["foreign"], counters["future"]) == (4, 1, 1)

    run(test())


def test_a_delivery_that_fails_ends_the_connector_with_the_cause(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        ids = registered(world, preset)
        compile_codec()
        async with simulator(minutes=10_000) as venue:
            endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
            live = LiveConnector(world.cluster, preset, ids, endpoints, FAST)
            task = asyncio.create_task(live.run(SYMBOLS, asyncio.Event()))
            await aside(task, lambda: live.counters().get("sent", 0) > 0, "a bar")
            live_topic = topic_name(preset.id, "live")
            Admin(world.cluster).alter(live_topic, {"max.message.bytes": "80"})
            with pytest.raises(DeliveryError) as raised:
                await task
            assert raised.value.fields["code"] == "MSG_SIZE_TOO_LARGE"
            assert not raised.value.retriable

    run(test())


def test_a_start_without_topics_says_which_and_what_to_do(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world, partitions=3)
        other = Preset(
            **{name: getattr(preset, name) for name in Preset.__slots__} | {"partitions": 4}
        )
        async with simulator() as venue:
            endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
            live = LiveConnector(world.cluster, other, {}, endpoints, FAST)
            with pytest.raises(ContractError, match="3 partitions"):
                await live.run(SYMBOLS, asyncio.Event())

    run(test())


def test_nothing_goes_on_from_a_bar_that_cannot_have_closed(world: World) -> None:
    """Whoever wrote it to `live`: the feed would wait for what comes after it."""
    preset = fresh_preset(world)
    schema_id = registered(world, preset)["bar"]
    symbol, cells = SYMBOLS[0], (0, 1, 500_000)
    bar = FeedBar(0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1, -1, -1, 0, 0)
    bars = [replace(bar, open_time_ns=START_NS + cell * MIN_NS) for cell in cells]
    producer = IdempotentProducer(world.cluster)
    for value in encode_bars([symbol] * len(bars), columns_of(bars), schema_id):
        producer.send(topic_name(preset.id, "live"), symbol.encode(), value)
    producer.close(60)
    found = landed(world.cluster, preset, SYMBOLS, schema_id, 10, START_NS + 2 * MIN_NS)
    assert [b.open_time_ns for b in found.bars[symbol]] == [b.open_time_ns for b in bars[:2]]


def test_a_start_that_waits_for_the_venue_can_be_ended(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        ids = registered(world, preset)
        said: list[str] = []
        async with held_venue("outage:from=+0m,to=+1000m", minutes=30, speed=1.0) as (venue, _):
            live = LiveConnector(
                *(world.cluster, preset, ids, BinanceEndpoints(venue.rest_url, venue.ws_url), FAST),
                notice=said.append,
            )
            stop = asyncio.Event()
            task = asyncio.create_task(live.run(SYMBOLS, stop))
            await aside(task, lambda: len(said) > 0, "a refusal")
            stop.set()
            async with asyncio.timeout(60):
                await task
        assert not live.ready.is_set()

    run(test())


def test_a_venue_that_is_down_is_tried_again_until_it_is_up(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        ids = registered(world, preset)
        compile_codec()
        said: list[str] = []
        stop = asyncio.Event()
        async with simulator(minutes=30) as venue:
            port = int(venue.rest_url.rpartition(":")[2])
            live = LiveConnector(
                *(world.cluster, preset, ids, BinanceEndpoints(venue.rest_url, venue.ws_url), FAST),
                notice=said.append,
            )
            task = asyncio.create_task(live.run(SYMBOLS, stop))
            await aside(task, lambda: live.counters().get("sent", 0) > 0, "a bar")
        await aside(task, lambda: live.counters()["connection_failures"] > 3, "failures")
        later = START_NS + 60 * MIN_NS
        async with simulator(start_ns=later, until_ns=later + 30 * MIN_NS, port=port) as venue:
            end_ns = later + 30 * MIN_NS
            await aside(task, lambda: live.gauges()["watermark_ns"] >= end_ns, "the end")
            stop.set()
            await task
            bars = landed_bars(all_records(world, preset, "live"))
            first = min(time_ns for _, time_ns, _, _ in bars)
            assert {bar[:2]: bar[2] for bar in bars} == truth(venue, first, end_ns)
        assert any("again in" in text for text in said)

    run(test())


def test_trades_land_once_each_with_their_ids(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world, kind="trades", feed="binance.ws.trade", backfill=None)
        ids = registered(world, preset)
        compile_codec()
        async with simulator(minutes=10, speed=60.0) as venue:
            endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
            live = LiveConnector(world.cluster, preset, ids, endpoints, FAST)
            stop = asyncio.Event()
            task = asyncio.create_task(live.run(SYMBOLS, stop))
            end_ns = START_NS + 9 * MIN_NS
            await aside(task, lambda: live.gauges().get("watermark_ns", 0) >= end_ns, "9 minutes")
            stop.set()
            await task
            records = all_records(world, preset, "live")
            trades = [decode_record("trade", r.value) for r in records if r.value is not None]
            first: dict[str, int] = {}
            for trade in trades:
                symbol = trade["symbol"]
                expected = first.get(symbol, trade["trade_id"])
                assert trade["trade_id"] == expected, "every id, in order, once"
                first[symbol] = expected + 1
            assert set(first) == set(SYMBOLS)
            listing = {v.symbol: name for name, v in venue.market.listings.items()}
            for trade in trades[:200]:
                at_ms = trade["time_ns"] // 1_000_000
                stated = venue.market.trades(listing[trade["symbol"]], at_ms, at_ms + 1)
                (mine,) = [t for t in stated if t.id == trade["trade_id"]]
                assert (trade["price"], trade["size"]) == (float(mine.price), float(mine.size))
                assert trade["side"] == ("sell" if mine.buyer_is_maker else "buy")
            assert watermarks(records)
            assert live.counters()["missing_ids"] == 0

    run(test())


def test_the_command_ends_on_sigterm_with_its_answer(world: World, tmp_path: Path) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        write_presets(tmp_path, preset)
        async with simulator(minutes=100_000, speed=60.0) as venue:
            urls = ("--rest-url", venue.rest_url, "--ws-url", venue.ws_url)
            command = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "seamline.sdk.cli", "live", preset.id),
                *("--symbols", ",".join(SYMBOLS), *urls, "--metrics-port", "0", "-o", "json"),
                env=command_environment(world, tmp_path),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            await until(
                lambda: (
                    command.returncode is not None
                    or bool(watermarks(all_records(world, preset, "live")))
                ),
                "a heartbeat",
            )
            assert command.returncode is None, await command.communicate()
            command.send_signal(signal.SIGTERM)
            out, err = await command.communicate()
            assert command.returncode == 0, err
            answer = json.loads(out)
            assert answer["delivered"] == len(all_records(world, preset, "live"))
            assert answer["watermark"].startswith("2026-01-01T")
            assert b"metrics at port" in err

    run(test())
