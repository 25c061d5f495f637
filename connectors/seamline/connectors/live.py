"""The live connector: one preset's feed from its venue onto `seamline.P.live`, until told to stop.

Decides: from where each symbol goes on after a start, which tasks run, how it ends. Invariants: it
goes on from what landed, not from what it remembers; a symbol that landed before the resume limit
is filled from the limit on, and that is said; the first fault that waiting cannot mend ends
everything with its cause; what was sent is acknowledged before it returns. Must not know: how a
command line talks.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer, ProducerSettings
from seamline.connectors.kafka.topics import assert_partitions
from seamline.connectors.live_bars import HEARTBEAT_S, BarFlow
from seamline.connectors.live_clock import PATIENCE_S, VenueWatch
from seamline.connectors.live_records import (
    BROKER_PATIENCE_S,
    LivePublisher,
    compile_codec,
    landed,
    last_trade_ids,
)
from seamline.connectors.live_settled import SettledTask
from seamline.connectors.live_socket import CLOCK_S, LinkSettings, VenueLink
from seamline.connectors.live_tasks import until_stopped
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
from seamline.schemas.times import DAY_NS, format_duration, format_time
from seamline.streams.kernel.feed import BarFeed, FeedBar, FeedLimits
from seamline.streams.kernel.settled_check import SettledCheck, SettledRules

VENUE: Final = "binance"
CLOSE_TIMEOUT_S: Final = 30.0
# A landed bar may end so long after both clocks; the same slack as frames have.
LATEST_NS: Final = 300_000_000_000
# One attempt a call: the ladders here say when to ask again, and a ban of any length is waited for.
REST_RULES: Final = RestRules(attempts=1, timeout_s=5.0, wait_s_max=7 * 86_400.0)
_STREAMS: Final = {"binance.ws.kline.1m": "kline_1m", "binance.ws.trade": "trade"}


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """`resume_limit_ns` is the longest time that a start fills over REST; `_s` are real seconds.

    `previews`: open klines are sent too. `broker_patience_s`: how long a broker may be away.
    `clock_patience_s`: how long a venue may show nothing until its clock alone says what is over.
    """

    resume_limit_ns: int = DAY_NS
    heartbeat_s: float = HEARTBEAT_S
    clock_s: float = CLOCK_S
    clock_patience_s: float = PATIENCE_S
    broker_patience_s: float = BROKER_PATIENCE_S
    previews: bool = False
    limits: FeedLimits = field(default_factory=FeedLimits)
    link: LinkSettings = field(default_factory=LinkSettings)
    settled: SettledRules = field(default_factory=SettledRules)


class LiveConnector:
    """One preset, some symbols, one process. `run` may be called once.

    `ids` are the registered schema ids of the preset's topics. Raises UsageError on construction
    for a preset without a live feed, or with one that is not built yet. `uniform` (0..1) spreads
    the lives of sockets.
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
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._stream = stream_of(preset)
        self._cluster = cluster
        self._preset = preset
        self._ids = ids
        self._endpoints = endpoints
        self._settings = settings or LiveSettings()
        self._notice = notice
        self._uniform = uniform
        self._watch: VenueWatch | None = None
        self._settled: SettledTask | None = None
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
        patience_ms = int(self._settings.broker_patience_s * 1_000)
        wishes = ProducerSettings(linger_ms=1, message_timeout_ms=patience_ms)
        producer = IdempotentProducer(self._cluster, wishes)
        async with BinanceRest(self._endpoints, REST_RULES) as rest:
            try:
                # From the start on: a venue that is down is waited for, and that can be ended.
                await until_stopped([self._feed_on(rest, producer, symbols)], stop)
            except BaseException:
                # The cause matters, not that the rest could not be flushed either.
                with suppress(Exception):
                    await asyncio.to_thread(producer.close, 1.0)
                raise
            await asyncio.to_thread(producer.close, CLOSE_TIMEOUT_S)

    async def _feed_on(
        self, rest: BinanceRest, producer: IdempotentProducer, symbols: Sequence[str]
    ) -> None:
        flow, link = await self._start(rest, producer, symbols)
        tasks = [
            link.run(flow),
            link.follow_clock(flow, self._settings.clock_s),
            flow.beat(self._settings.heartbeat_s),
        ]
        if isinstance(flow, BarFlow):
            tasks.append(flow.fill_holes())
        if self._settled is not None:
            tasks.append(self._settled.run())
        self.ready.set()
        await until_stopped(tasks)

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by name."""
        found: dict[str, int] = {}
        parts = (self._link, self._flow, self._watch, self._publisher, self._settled)
        for part in parts:
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
        if self._link is not None and self._watch is not None:
            found |= {
                "waiting_frames": self._link.waiting,
                "clock_offset_ns": self._watch.offset_ns,
                "outages": len(self._watch.outages()),
            }
        if self._settled is not None:
            found["settled_through_ns"] = self._settled.through_ns
        return found

    async def _start(
        self, rest: BinanceRest, producer: IdempotentProducer, symbols: Sequence[str]
    ) -> tuple[BarFlow | TradeFlow, VenueLink]:
        settings, preset = self._settings, self._preset
        roles = ("live", "quarantine")
        await asyncio.to_thread(assert_partitions, self._cluster, preset, roles)
        # Compiled now: a loop that compiles while frames come answers neither them nor pings.
        await asyncio.to_thread(compile_codec)
        watch = VenueWatch(
            rest,
            interval_ns=preset.interval_ns,
            patience_s=settings.clock_patience_s,
            notice=self._notice,
        )
        await watch.poll()
        venues = await watch.insist(lambda: rest.resolve(symbols))
        how: dict[str, Any] = {"uniform": self._uniform, "notice": self._notice}
        link = VenueLink(self._endpoints, watch, venues, self._stream, settings.link, **how)
        publisher = LivePublisher(
            *(producer, preset, self._ids, VENUE),
            patience_s=settings.broker_patience_s,
            notice=self._notice,
        )
        flow: BarFlow | TradeFlow
        if preset.kind == "trades":
            last_ids = await asyncio.to_thread(
                last_trade_ids, self._cluster, preset, tuple(venues), self._ids["trade"]
            )
            flow = TradeFlow(venues, last_ids, publisher, watch)
        else:
            flow = await self._bar_flow(rest, venues, publisher, watch)
        self._link, self._flow, self._publisher, self._watch = link, flow, publisher, watch
        return flow, link

    async def _bar_flow(
        self,
        rest: BinanceRest,
        venues: Mapping[str, VenueSymbol],
        publisher: LivePublisher,
        watch: VenueWatch,
    ) -> BarFlow:
        settings, preset = self._settings, self._preset
        newest = settings.settled.remembered_bars
        # Ours as well: a venue's clock that is behind must not hide what landed.
        latest_ns = max(watch.polled_ns, time.time_ns()) + LATEST_NS
        schema_id = self._ids["bar"]
        before = await asyncio.to_thread(
            lambda: landed(self._cluster, preset, tuple(venues), schema_id, newest, latest_ns)
        )
        watch.ledger.resume(before.outages)
        feed = self._resumed(venues, before.bars, await self._market_ns(watch, venues))
        flow = BarFlow(
            *(preset, venues, feed, publisher, watch, rest),
            previews=settings.previews,
            notice=self._notice,
        )
        # What is not remembered cannot be compared: the check begins where memory does.
        from_ns = {symbol: feed.expected_ns(symbol) for symbol in venues}
        limit_ns = feed.floor(watch.polled_ns - settings.resume_limit_ns)
        for symbol, bars in before.bars.items():
            first_ns = max(feed.floor(bars[0].open_time_ns), limit_ns)
            from_ns[symbol] = min(from_ns[symbol], first_ns)
        check = SettledCheck(from_ns, preset.interval_ns, preset.settle_ns, settings.settled)
        self._settled = SettledTask(
            *(check, lambda: {s: feed.expected_ns(s) for s in venues}, flow, watch, rest),
            notice=self._notice,
        )
        self._feed = feed
        return flow

    async def _market_ns(self, watch: VenueWatch, venues: Mapping[str, VenueSymbol]) -> int:
        """Where a new symbol begins: where the market is, because a clock ahead would skip the
        bar that is open now; the venue's clock where there is no market to look at."""
        newest_ns = await watch.look(tuple(venues.values()))
        clock_ns = watch.polled_ns
        if newest_ns is None or newest_ns < clock_ns - self._settings.resume_limit_ns:
            return clock_ns
        return min(clock_ns, newest_ns)

    def _resumed(
        self,
        venues: Mapping[str, VenueSymbol],
        before: Mapping[str, Sequence[FeedBar]],
        market_ns: int,
    ) -> BarFeed:
        """The feed as it goes on from what landed; a new symbol begins with the bar open now."""
        preset = self._preset
        limit_ns = market_ns - self._settings.resume_limit_ns
        expected = {}
        for symbol in venues:
            bars = before.get(symbol)
            next_ns = bars[-1].open_time_ns + preset.interval_ns if bars else market_ns
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
        for symbol, bars in before.items():
            feed.remember(symbol, bars[:-1])
            if bars[-1].open_time_ns + preset.interval_ns == feed.expected_ns(symbol):
                feed.seed(symbol, bars[-1])
            else:
                feed.remember(symbol, bars[-1:])
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
