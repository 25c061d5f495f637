"""A venue simulator in this process, on a clock that the test moves.

Decides: how tests start one, move its time and read what a client sees. Must not know: faults,
connectors.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from seamline.connectors.venues.simulated_clock import ManualClock
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults

START_MS = 1_767_225_600_000
MIN_MS = 60_000
DEADLINE_S = 60.0


class Venue:
    """A simulator on a clock that the test moves, and its REST."""

    def __init__(self, server: VenueSimulator, clock: ManualClock, rest: httpx.AsyncClient) -> None:
        self.server, self.clock, self.rest = server, clock, rest

    def to(self, minutes: float) -> None:
        """Move the simulated clock to so many minutes after the start."""
        self.clock.advance_to((START_MS + int(minutes * MIN_MS)) * 1_000_000)

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.rest.get(f"/api/v3/{path}", params=params)).json()

    async def status(self) -> Any:
        return (await self.rest.get("/sim/status")).json()

    def socket(self, path: str) -> connect:
        return connect(self.server.ws_url + path, compression=None, close_timeout=0.2)


@asynccontextmanager
async def venue(
    start_ms: int = START_MS, faults: str = "", **settings: Any
) -> AsyncIterator[Venue]:
    settings.setdefault("symbols", ("BTC/USDT", "ETH/USDT"))
    settings.setdefault("market", MarketSettings(seed=7))
    parsed = parse_faults(faults, start_ns=start_ms * 1_000_000)
    config = SimulatorConfig(start_ns=start_ms * 1_000_000, faults=parsed, **settings)
    clock = ManualClock(config.start_ns)
    async with (
        VenueSimulator(config, clock=clock) as server,
        httpx.AsyncClient(base_url=server.rest_url) as rest,
    ):
        yield Venue(server, clock, rest)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(bounded())


async def receive(socket: ClientConnection, count: int) -> list[Any]:
    return [json.loads(await socket.recv()) for _ in range(count)]


async def ended(socket: ClientConnection) -> int | None:
    """Read until the connection ends; the close code that came, None where it just broke."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else None


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for a condition of this process that nothing signals; `run` bounds it."""
    while not holds():
        await asyncio.sleep(0)
