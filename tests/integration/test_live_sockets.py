"""The sockets of the live connector: planned cuts, silence, half-open connections, many shares.

The cases of one test run side by side, each with a venue and a preset of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

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
from seamline.connectors.live_socket import LinkSettings
from seamline.connectors.venues.binance_stream import StreamRules
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder
from seamline.schemas.columns import WS_OPEN
from seamline.streams.kernel.socket_rota import RotaRules
from venue_world import MIN_NS, START_NS, SYMBOLS, all_records, aside, fresh_preset

S = 1_000_000_000
ROTA = FAST.link.rota


def linked(rota: RotaRules = ROTA, **changes: Any) -> LinkSettings:
    return replace(FAST.link, rota=rota, **changes)


class Wire:
    """A TCP wire to a venue's sockets. `freeze` leaves the connections of now open and passes
    nothing on any more, in either direction; new ones pass."""

    def __init__(self, ws_url: str) -> None:
        host, _, port = ws_url.removeprefix("ws://").partition(":")
        self._target = (host, int(port))
        self._frozen: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.ws_url = ""

    def freeze(self) -> None:
        for event in self._frozen:
            event.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        frozen = asyncio.Event()
        self._frozen.append(frozen)
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        both = ((reader, up_writer), (up_reader, writer))
        try:
            await asyncio.gather(*(self._pass(*ends, frozen) for ends in both))
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            up_writer.close()
            writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frozen: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                if not frozen.is_set():
                    writer.write(part)
                    await writer.drain()
            if not frozen.is_set():
                writer.close()


@asynccontextmanager
async def wire(ws_url: str) -> AsyncIterator[Wire]:
    found = Wire(ws_url)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.ws_url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        await found.close()


async def planned_cuts_open_no_hole_and_ask_no_history(world: World) -> None:
    preset = fresh_preset(world)
    await asyncio.to_thread(prepare, world, preset)
    rota = replace(ROTA, life_ns=30 * 60 * S, jitter_ns=60 * S, linger_ns=S // 2)
    venue_faults = "shutdown:at=+20m,notice=60m"
    async with held_venue(venue_faults, minutes=90, speed=600.0, session_ns=60 * MIN_NS) as (
        venue,
        clock,
    ):
        live = connector(world, preset, venue, link=linked(rota))
        counters = await feed(live, START_NS + 90 * MIN_NS, clock=clock)
        await landed_whole(world, preset, venue, 90)
        ended = venue.status()["sockets"]["ended"]
    assert counters["handovers"] >= 2 and counters["notices"] >= 1
    assert (counters["joins"], counters["disconnections"]) == (1, 0)
    assert (counters["holes"], counters["fills"]) == (0, 0), "nothing was missed"
    assert counters["repeats"] > 0, "two sockets overlapped"
    assert set(ended) <= {"client_closed", "server_stopped"}, "none was left to the cut"


async def a_socket_without_frames_is_dead_when_the_venue_goes_on(world: World) -> None:
    preset = fresh_preset(world)
    await asyncio.to_thread(prepare, world, preset)
    faults = "lose-frames:p=1,from=+20m,to=+100m"
    async with held_venue(faults, minutes=110, speed=1_200.0) as (venue, clock):
        live = connector(world, preset, venue, link=linked(replace(ROTA, silence_ns=S)))
        counters = await feed(live, START_NS + 110 * MIN_NS, clock=clock)
        await landed_whole(world, preset, venue, 110)
    assert counters["silences"] >= 1 and counters["connections"] > counters["silences"]
    assert counters["fills"] > 0


async def a_half_open_connection_is_noticed_by_our_pings(world: World) -> None:
    preset = fresh_preset(world)
    await asyncio.to_thread(prepare, world, preset)
    async with (
        held_venue(minutes=40, speed=300.0) as (venue, clock),
        wire(venue.ws_url) as through,
    ):
        stream = StreamRules(ping_interval_s=0.5, ping_timeout_s=0.5, silence_s=None)
        link = linked(replace(ROTA, silence_ns=3_600 * S), stream=stream)
        live = connector(world, preset, venue, ws_url=through.ws_url, link=link)
        async with running(live, clock=clock) as task:
            await aside(task, lambda: live.counters()["sent"] > 0, "a bar")
            through.freeze()
            end_ns = START_NS + 40 * MIN_NS
            await aside(task, lambda: live.gauges()["watermark_ns"] >= end_ns, "the end")
        counters = live.counters()
    assert counters["disconnections"] >= 1 and counters["connections"] >= 2
    assert counters["silences"] == 0


async def symbols_spread_over_connections_and_open_bars_go_out_as_previews(world: World) -> None:
    preset = fresh_preset(world)
    await asyncio.to_thread(prepare, world, preset)
    faults = "drop-socket:every=25"
    # A faster venue shows no open bars.
    async with held_venue(faults, minutes=20, speed=120.0) as (venue, clock):
        live = connector(world, preset, venue, link=linked(streams_per_socket=1), previews=True)
        counters = await feed(live, START_NS + 20 * MIN_NS, clock=clock)
        assert venue.status()["sockets"]["opened"] >= 2 * len(SYMBOLS)
    assert counters["joins"] >= len(SYMBOLS) and counters["disconnections"] > 0
    found = await asyncio.to_thread(all_records, world, preset, "live")
    records = [r for r in found if r.value is not None]
    decoder = BarDecoder()
    columns = decoder.decode([r.value for r in records if r.value is not None]).columns
    still_open = ~columns.closed
    assert still_open.sum() == counters["previews"] > 0
    assert counters["open_klines"] > counters["previews"], "at most one a second a symbol"
    assert set(columns.source[still_open].tolist()) == {WS_OPEN}
    assert WS_OPEN not in columns.source[columns.closed].tolist()
    for number, symbol in enumerate(decoder.symbols):
        mine = [
            columns.open_time_ns[n].item()
            for n, record in enumerate(records)
            if columns.closed[n] and record.key == symbol.encode()
        ]
        assert sorted(set(mine)) == list(range(min(mine), max(mine) + 1, MIN_NS)), number


def test_sockets(world: World) -> None:
    async def together() -> None:
        await asyncio.gather(
            planned_cuts_open_no_hole_and_ask_no_history(world),
            a_socket_without_frames_is_dead_when_the_venue_goes_on(world),
            a_half_open_connection_is_noticed_by_our_pings(world),
            symbols_spread_over_connections_and_open_bars_go_out_as_previews(world),
        )

    run(together())
