"""The venue simulator: a local server that speaks Binance's public spot protocol in simulated time.

Decides: settings, start and stop, what the counters say. Invariants: REST and WebSocket show the
same market at the same simulated time; only faults that were asked for happen, and `/sim/status`
counts each by its text. Must not know: who connects, what is answered (`simulator_rest`,
`simulator_sockets`).

Besides the venue's own paths there are `GET /sim/status` (counters) and `POST /sim/drop-sockets`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from seamline.connectors.venues.fault_plan import FaultPlan
from seamline.connectors.venues.faulty_market import FaultyMarket, Settled, settled_klines
from seamline.connectors.venues.file_market import FileMarket
from seamline.connectors.venues.market import Market
from seamline.connectors.venues.simulated_clock import RunningClock, SimulatedClock
from seamline.connectors.venues.simulated_market import MarketSettings, SimulatedMarket
from seamline.connectors.venues.simulator_rest import RestSide
from seamline.connectors.venues.simulator_sockets import Feed, SocketRules
from seamline.connectors.venues.venue_events import EventSchedule
from seamline.connectors.venues.venue_faults import Fault, checked_symbols
from seamline.connectors.venues.weight_limit import WeightRules
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_MS, NS_PER_S, format_time

DAY_NS = 86_400 * NS_PER_S
# A kline is sent some milliseconds after its close: the clock goes on for so long after `until`.
UNTIL_GRACE_NS = NS_PER_S
REAL_UPDATE_MS = 250


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Settings of one simulator. Times are simulated UTC nanoseconds, `_s` are real seconds.

    `speed` is simulated seconds per real second. The clock starts at `start_ns` with the server,
    does not pass the real present, and stops at `until_ns`: klines that close up to then are sent,
    sockets stay open. `data` maps symbols to CSV or parquet files; with it, there is no other
    market and `symbols` may be left empty. `port` 0 takes a free one.
    """

    start_ns: int
    symbols: tuple[str, ...] = ()
    speed: float = 1.0
    until_ns: int | None = None
    market: MarketSettings = field(default_factory=MarketSettings)
    data: Mapping[str, Path] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    weights: WeightRules = field(default_factory=WeightRules)
    kline_update_ms: int = 2_000
    host: str = "127.0.0.1"
    port: int = 0
    session_ns: int = DAY_NS
    ping_interval_s: float = 20.0
    pong_timeout_s: float = 60.0


def _update_ms(config: SimulatorConfig) -> int:
    """Open klines come at most every REAL_UPDATE_MS real milliseconds, at any speed."""
    if not config.kline_update_ms:
        return 0
    return max(config.kline_update_ms, int(REAL_UPDATE_MS * config.speed))


def market_of(config: SimulatorConfig) -> Market:
    """The market that a configuration describes. Raises UsageError for wrong symbols and files."""
    if not config.data:
        return SimulatedMarket(config.symbols, config.market)
    without = sorted(set(config.symbols) - config.data.keys())
    if without:
        raise UsageError(
            "no file for this symbol",
            parameter="data",
            value=without[0],
            fix=f"Add --data {without[0]}=FILE, or leave the symbol out",
        )
    return FileMarket(config.data, config.market.seed)


class VenueSimulator:
    """One server. `async with VenueSimulator(config) as venue:` starts and stops it.

    `clock` and `market` replace what the configuration describes; tests pass a `ManualClock`.
    `market` is what trades, without faults; what the venue says of it follows from `plan`.
    Raises UsageError for wrong settings, on construction, and for a port in use, on `start`.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        *,
        clock: SimulatedClock | None = None,
        market: Market | None = None,
    ) -> None:
        self._config = config
        self.market = market or market_of(config)
        self._given_clock = clock
        self.plan = FaultPlan(config.market.seed, config.faults)
        checked_symbols(config.faults, (one.symbol for one in self.market.listings.values()))
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def rest_url(self) -> str:
        return f"http://{self._config.host}:{self._port}"

    @property
    def ws_url(self) -> str:
        """Without a path; `/ws` and `/stream` are below it."""
        return f"ws://{self._config.host}:{self._port}"

    @property
    def clock(self) -> SimulatedClock:
        return self._clock

    def settled(self, symbol: str, from_ms: int, to_ms: int) -> Iterator[Settled]:
        """What this venue's history says in the end, for any thread; see `settled_klines`."""
        return settled_klines(self.market, self.plan, symbol, from_ms, to_ms)

    async def start(self) -> None:
        config = self._config
        until_ns = None if config.until_ns is None else config.until_ns + UNTIL_GRACE_NS
        self._clock = self._given_clock or RunningClock(config.start_ns, config.speed, until_ns)
        stated = FaultyMarket(self.market, self.plan)
        schedule = EventSchedule(
            stated,
            update_ms=_update_ms(config),
            trade_batch_ms=int(REAL_UPDATE_MS * config.speed),
            shown_ms=self.plan.shown_ms,
        )
        rules = SocketRules(
            config.session_ns // NS_PER_MS, config.ping_interval_s, config.pong_timeout_s
        )
        self._feed = Feed(stated, schedule, self._clock, self.plan, rules)
        self._rest = RestSide(stated, self._clock, self.plan, config.weights, self._feed.note)
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=2.0
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, config.host, config.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen there: {error.strerror}",
                parameter="port",
                value=config.port,
                fix="Give another port, or 0 for a free one",
            ) from error
        self._port = self._runner.addresses[0][1]
        self._pump = asyncio.create_task(self._feed.run())

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set, or when the feed broke; `stop()` raises what broke it then."""
        if self._pump is not None:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, self._pump}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()

    async def stop(self) -> None:
        """Close all sockets and the server. Raises what broke the feed, if something did."""
        if self._runner is None or self._pump is None:
            return
        self._feed.close_all()
        await self._runner.cleanup()
        self._runner = None
        self._pump.cancel()
        try:
            await self._pump
        except asyncio.CancelledError:
            self._pump = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def status(self) -> dict[str, Any]:
        """What `/sim/status` answers; for any thread."""
        tally, config = self._feed.tally, self._config
        return {
            "feeding": self._pump is not None and not self._pump.done(),
            "time": format_time(self._clock.now_ns()),
            "speed": config.speed,
            "symbols": [listing.symbol for listing in self.market.listings.values()],
            "sockets": {
                "open": self._feed.sessions,
                "opened": tally.opened,
                "refused": tally.refused,
                "ended": dict(tally.ended),
            },
            "streams": dict(self._feed.streams()),
            "frames": {
                "sent": tally.frames_sent,
                "lost": tally.frames_lost,
                "left": tally.frames_left,
            },
            "faults": [
                {"fault": fault.text, "hits": tally.fault_hits[index]}
                for index, fault in enumerate(config.faults)
            ],
            "recent_faults": list(tally.recent),
            "requests": dict(self._rest.requests),
            "used_weight": self._rest.used_weight,
        }

    def _application(self) -> web.Application:
        app = web.Application()
        for name, handler in self._rest.handlers().items():
            app.router.add_get(f"/api/v3/{name}", handler)
        app.router.add_get("/ws", self._socket)
        app.router.add_get("/ws/{streams:.+}", self._socket)
        app.router.add_get("/stream", self._combined_socket)
        app.router.add_get("/sim/status", self._sim_status)
        app.router.add_post("/sim/drop-sockets", self._sim_drop)
        return app

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info.get("streams", "")
        return await self._feed.serve(request, [name for name in path.split("/") if name], False)

    async def _combined_socket(self, request: web.Request) -> web.StreamResponse:
        names = request.query.get("streams", "").split("/")
        return await self._feed.serve(request, [name for name in names if name], True)

    async def _sim_status(self, request: web.Request) -> web.Response:
        return web.json_response(self.status())

    async def _sim_drop(self, request: web.Request) -> web.Response:
        return web.json_response({"dropped": self._feed.drop_all("control")})
