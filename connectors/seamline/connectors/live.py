"""The live connector: one preset's feed from its venue onto `seamline.P.live`, until told to stop.

Decides: from where each symbol goes on after a start, which tasks run, how it ends. Invariants: it
goes on from what landed, not from what it remembers; a symbol that landed before the resume limit
is filled from the limit on, and that is said; the first fault that waiting cannot mend ends
everything with its cause; what was sent is acknowledged before it returns. Must not know: how a
command line talks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.topics import assert_partitions
from seamline.connectors.live_bars import HEARTBEAT_S, BarFlow
from seamline.connectors.live_records import LivePublisher, compile_codec, last_bars, last_trade_ids
from seamline.connectors.live_socket import CLOCK_S, LADDER_MS, Flow, VenueLink
from seamline.connectors.live_trades import TradeFlow
from seamline.connectors.venues.binance import (
    BinanceEndpoints,
    BinanceRest,
    RestRules,
    VenueSymbol,
)
from seamline.presets.sources import require_available
from seamline.schemas.errors import UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_duration, format_time
from seamline.streams.kernel.feed import BarFeed, FeedBar, FeedLimits

VENUE: Final = "binance"
DAY_NS: Final = 86_400_000_000_000
CLOSE_TIMEOUT_S: Final = 30.0
# One attempt a call: the ladders here say when to ask again, and a ban of any length is waited for.
REST_RULES: Final = RestRules(attempts=1, timeout_s=5.0, wait_s_max=7 * 86_400.0)
_STREAMS: Final = {"binance.ws.kline.1m": "kline_1m", "binance.ws.trade": "trade"}


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """`resume_limit_ns` is the longest time that a start fills over REST; `_s` are real seconds."""

    ladder_ms: tuple[int, ...] = LADDER_MS
    resume_limit_ns: int = DAY_NS
    heartbeat_s: float = HEARTBEAT_S
    clock_s: float = CLOCK_S
    limits: FeedLimits = field(default_factory=FeedLimits)


class _Running(Flow, Protocol):
    async def beat(self, period_s: float) -> None: ...


class LiveConnector:
    """One preset, some symbols, one process. `run` may be called once.

    `ids` are the registered schema ids of the preset's topics. Raises UsageError on construction
    for a preset without a live feed, or with one that is not built yet.
    """

    def __init__(
        self,
        cluster: Cluster,
        preset: Preset,
        ids: Mapping[str, int],
        endpoints: BinanceEndpoints,
        settings: LiveSettings | None = None,
        *,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._stream = stream_of(preset)
        self._cluster = cluster
        self._preset = preset
        self._ids = ids
        self._endpoints = endpoints
        self._settings = settings or LiveSettings()
        self._notice = notice
        self._feed: BarFeed | None = None
        self._link: VenueLink | None = None
        self._flow: BarFlow | TradeFlow | None = None
        self._publisher: LivePublisher | None = None
        self.ready = asyncio.Event()

    async def run(self, symbols: Sequence[str], stop: asyncio.Event) -> None:
        """Feed `live` until `stop` is set.

        Raises UsageError for unknown symbols (naming near ones), ContractError when a topic is
        missing or has another partition count, TransportError when the venue cannot be asked on
        start, DeliveryError when a record did not reach the broker.
        """
        producer = IdempotentProducer(self._cluster)
        async with BinanceRest(self._endpoints, REST_RULES) as rest:
            try:
                flow, link = await self._start(rest, producer, symbols)
                tasks = [
                    link.run(flow),
                    link.follow_clock(flow, self._settings.clock_s),
                    flow.beat(self._settings.heartbeat_s),
                ]
                if isinstance(flow, BarFlow):
                    tasks.append(flow.fill_holes())
                self.ready.set()
                await until_stopped(tasks, stop)
            except BaseException:
                # The cause matters, not that the rest could not be flushed either.
                with suppress(Exception):
                    await asyncio.to_thread(producer.close, 1.0)
                raise
            await asyncio.to_thread(producer.close, CLOSE_TIMEOUT_S)

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by name."""
        found: dict[str, int] = {}
        for part in (self._link, self._flow):
            if part is not None:
                found |= asdict(part.counters)
        if self._feed is not None:
            found |= asdict(self._feed.counters) | {"repeats": self._feed.repeats}
        if isinstance(self._flow, TradeFlow):
            found |= {
                "repeats": self._flow.dedupe.repeats,
                "missing_ids": self._flow.dedupe.missing,
            }
        if self._publisher is not None:
            found["delivered"] = self._publisher.delivered
        return found

    def gauges(self) -> dict[str, int]:
        """How it stands right now."""
        found: dict[str, int] = {}
        if self._feed is not None:
            found |= {
                "open_holes": len(self._feed.holes()),
                "held_bars": self._feed.held,
                "watermark_ns": self._feed.watermark_ns,
            }
        if isinstance(self._flow, TradeFlow):
            found["watermark_ns"] = self._flow.watermark_ns
        return found

    async def _start(
        self, rest: BinanceRest, producer: IdempotentProducer, symbols: Sequence[str]
    ) -> tuple[BarFlow | TradeFlow, VenueLink]:
        roles = ("live", "quarantine")
        await asyncio.to_thread(assert_partitions, self._cluster, self._preset, roles)
        # Compiled now: a loop that compiles while frames come answers neither them nor pings.
        await asyncio.to_thread(compile_codec)
        venues = await rest.resolve(symbols)
        streams = [venue.stream(self._stream) for venue in venues.values()]
        link = VenueLink(
            self._endpoints,
            rest,
            streams,
            ladder_ms=self._settings.ladder_ms,
            notice=self._notice,
        )
        venue_ns = await link.poll_clock()
        publisher = LivePublisher(producer, self._preset, self._ids, VENUE)
        flow: BarFlow | TradeFlow
        if self._preset.kind == "trades":
            last_ids = await asyncio.to_thread(
                last_trade_ids, self._cluster, self._preset, tuple(venues), self._ids["trade"]
            )
            flow = TradeFlow(venues, last_ids, publisher, link)
        else:
            landed = await asyncio.to_thread(
                last_bars, self._cluster, self._preset, tuple(venues), self._ids["bar"]
            )
            self._feed = self._resumed(venues, landed, venue_ns)
            flow = BarFlow(
                *(self._preset, venues, self._feed, publisher, link, rest), notice=self._notice
            )
        self._link, self._flow, self._publisher = link, flow, publisher
        return flow, link

    def _resumed(
        self, venues: Mapping[str, VenueSymbol], landed: Mapping[str, FeedBar], venue_ns: int
    ) -> BarFeed:
        """The feed as it goes on from what landed; a new symbol begins with the bar open now."""
        preset = self._preset
        limit_ns = venue_ns - self._settings.resume_limit_ns
        expected = {}
        for symbol in venues:
            last = landed.get(symbol)
            next_ns = venue_ns if last is None else last.open_time_ns + preset.interval_ns
            if next_ns < limit_ns:
                self._notice(
                    f"{symbol}: nothing landed since {format_time(next_ns)}, longer than the "
                    f"resume limit of {format_duration(self._settings.resume_limit_ns)}: "
                    f"seamline backfill run {preset.id} --symbols {symbol} "
                    f"--start {format_time(next_ns)}"
                )
                next_ns = limit_ns
            expected[symbol] = next_ns
        feed = BarFeed(expected, preset.interval_ns, preset.grid_origin_ns, self._settings.limits)
        for symbol, bar in landed.items():
            if bar.open_time_ns + preset.interval_ns == feed.expected_ns(symbol):
                feed.seed(symbol, bar)
        return feed


def stream_of(preset: Preset) -> str:
    """The venue's stream that a preset's live feed means. Raises UsageError."""
    if preset.derive_from is not None:
        raise UsageError(
            "a derived preset has no feed of its own",
            parameter="preset",
            value=preset.id,
            fix=f"Run: seamline live {preset.derive_from}",
        )
    if preset.live is None:
        raise UsageError(
            "the preset has no live feed",
            parameter="preset",
            value=preset.id,
            fix="Give it one in the presets file: live: {feed: binance.ws.kline.1m, …}",
        )
    require_available(preset.live.feed, parameter="feed")
    if preset.live.feed not in _STREAMS:
        raise UsageError(
            "no built-in feed",
            parameter="feed",
            value=preset.live.feed,
            fix=f"One of {', '.join(_STREAMS)}",
        )
    return _STREAMS[preset.live.feed]


async def until_stopped(work: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    """Run all until `stop` is set or one of them raises; none is left running."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, stopped, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
