"""The flow of trades: from frames to Kafka, each trade once.

Decides: which frames are trades of ours and which trades are new. Invariants: a trade is its id, so
trades of one instant are all kept; ids that never came are counted and hold the watermark where it
was, because nothing here can fill them yet; what cannot be read goes to quarantine with its bytes.
Must not know: sockets, how records are encoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from seamline.connectors.live_bars import HEARTBEAT_S
from seamline.connectors.live_clock import VenueWatch
from seamline.connectors.live_records import FeedTrade, LivePublisher
from seamline.connectors.live_share import Keep
from seamline.connectors.venues.binance import VenueSymbol
from seamline.connectors.venues.binance_parse import Frame, Malformed, TradeFrame
from seamline.schemas.times import NS_PER_MS
from seamline.streams.kernel.feed import TradeDedupe


@dataclass(slots=True)
class TradeCounters:
    sent: int = 0
    malformed: int = 0
    foreign: int = 0
    future: int = 0
    quarantined: int = 0
    heartbeats: int = 0


class TradeFlow:
    """One preset's trades of some symbols. Satisfies `Flow`.

    `last_ids` are the ids that landed last, from an earlier run.
    """

    def __init__(
        self,
        symbols: Mapping[str, VenueSymbol],
        last_ids: Mapping[str, int],
        publisher: LivePublisher,
        watch: VenueWatch,
    ) -> None:
        self._by_venue = {venue.venue_symbol: name for name, venue in symbols.items()}
        self._publisher = publisher
        self._watch = watch
        self._moving = asyncio.Lock()
        self._complete_ns = 0
        self.dedupe = TradeDedupe()
        self.counters = TradeCounters()
        for symbol, trade_id in last_ids.items():
            self.dedupe.new(symbol, [trade_id])

    @property
    def watermark_ns(self) -> int:
        """All trades before it have been sent; stands still once ids are missing."""
        return self._complete_ns

    def keep(self, frame: Frame) -> Keep:
        return Keep.ALWAYS

    async def connected(self, venue_ns: int, symbols: tuple[str, ...] | None) -> None:
        if not self._complete_ns and not self.dedupe.missing:
            self._complete_ns = venue_ns

    async def ticked(self, venue_ns: int) -> None:
        """A quiet symbol has no frame that moves the watermark; the clock alone proves nothing
        about frames still on their way, so it does not move it either."""

    async def frame(self, frame: Frame, raw: bytes) -> None:
        counters = self.counters
        if isinstance(frame, Malformed):
            counters.malformed += 1
            await self._quarantine(raw, frame.reason, frame.received_ns, frame.size)
            return
        symbol = self._symbol_of(frame)
        if symbol is None or not isinstance(frame, TradeFrame):
            counters.foreign += 1
            await self._quarantine(raw, "unexpected_frame", time.time_ns())
            return
        if not await self._watch.believes(frame.time_ms * NS_PER_MS):
            counters.future += 1
            await self._quarantine(raw, "in_the_future", frame.received_ns)
            return
        async with self._moving:
            if self.dedupe.new(symbol, [frame.first_trade_id]):
                await self._publisher.trades(symbol, [trade_of(frame)])
                counters.sent += 1
            if not self.dedupe.missing:
                self._complete_ns = max(self._complete_ns, frame.time_ms * NS_PER_MS)

    async def beat(self, period_s: float = HEARTBEAT_S) -> None:
        """Send heartbeats, for ever."""
        while True:
            await asyncio.sleep(period_s)
            async with self._moving:
                if self._complete_ns:
                    await self._publisher.heartbeat(self._complete_ns, self._watch.outages())
                    self.counters.heartbeats += 1

    def _symbol_of(self, frame: Frame) -> str | None:
        if not isinstance(frame, TradeFrame) or frame.aggregate:
            return None
        return self._by_venue.get(frame.venue_symbol)

    async def _quarantine(
        self, raw: bytes, reason: str, now_ns: int, size: int | None = None
    ) -> None:
        self.counters.quarantined += 1
        async with self._moving:
            await self._publisher.quarantine(raw, reason, "binance.ws", now_ns, size)


def trade_of(frame: TradeFrame) -> FeedTrade:
    """A trade of the socket. The buyer made the offer: the taker sold."""
    return FeedTrade(
        trade_id=frame.first_trade_id,
        time_ns=frame.time_ms * NS_PER_MS,
        price=frame.price,
        size=frame.size,
        side="sell" if frame.buyer_is_maker else "buy",
        received_time_ns=frame.received_ns,
    )
