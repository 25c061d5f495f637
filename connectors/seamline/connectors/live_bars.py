"""The flow of klines: from frames and history, through the feed's decisions, to Kafka.

Decides: which frames are closed klines of ours, when history is asked for a hole and from which
cell to which. Invariants: what the feed hands out is sent before it is asked anything else, so the
watermark never runs ahead of the log; a frame that cannot be read, is of no symbol of ours or ends
in the venue's future goes to quarantine with its bytes; history is asked again until it answers,
and only of bars that are over for sure; open klines move nothing, as previews they may leave.
Must not know: sockets, how records are encoded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from seamline.connectors.live_clock import VenueWatch, retry_after_s
from seamline.connectors.live_records import LivePublisher, bars_of
from seamline.connectors.live_share import Keep
from seamline.connectors.venues.binance import PAGE_ROWS_MAX, BinanceRest, KlinePage, VenueSymbol
from seamline.connectors.venues.binance_parse import INTERVALS, Frame, KlineFrame, Malformed
from seamline.schemas.columns import REST_FRESH, REST_SETTLED, WS_CLOSED, WS_OPEN
from seamline.schemas.errors import TransportError
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.streams.kernel.feed import BarFeed, FeedBar, Hole, Ladder
from seamline.streams.kernel.previews import PreviewGate

FILL_LADDER_MS: Final = (250, 500, 1_000, 2_000, 5_000, 10_000)
FILLS_AT_ONCE: Final = 4
FILL_CHECK_S: Final = 0.25
HEARTBEAT_S: Final = 1.0
YOUNG_NS: Final = 10_000_000_000  # by the venue's clock
DOUBT_S: Final = 3.0  # by ours


@dataclass(slots=True)
class BarCounters:
    """Frames and questions that did not become bars, and why. Bars are counted by the feed."""

    closed_klines: int = 0
    open_klines: int = 0
    previews: int = 0
    previews_refused: int = 0
    malformed: int = 0
    foreign: int = 0
    future: int = 0
    quarantined: int = 0
    fills: int = 0
    fill_failures: int = 0
    fill_rows_malformed: int = 0
    heartbeats: int = 0


class BarFlow:
    """One preset's klines of some symbols. Satisfies `Flow`."""

    def __init__(
        self,
        preset: Preset,
        symbols: Mapping[str, VenueSymbol],
        feed: BarFeed,
        publisher: LivePublisher,
        watch: VenueWatch,
        rest: BinanceRest,
        *,
        previews: bool = False,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._preset = preset
        self._symbols = symbols
        self._by_venue = {venue.venue_symbol: name for name, venue in symbols.items()}
        self._interval = preset.interval_ns
        self._interval_text = INTERVALS[preset.interval_ns]
        self._feed = feed
        self._publisher = publisher
        self._watch = watch
        self._rest = rest
        self._gate = PreviewGate() if previews else None
        self._notice = notice
        # The feed and the log move together: nobody sees one without the other.
        self._moving = asyncio.Lock()
        self._holes = asyncio.Event()
        self._doubted: dict[str, tuple[int, float]] = {}
        self._ladders: dict[str, tuple[Ladder, float]] = {}
        self.counters = BarCounters()

    def keep(self, frame: Frame) -> Keep:
        symbol = self._symbol_of(frame)
        if symbol is None or not isinstance(frame, KlineFrame):
            return Keep.ALWAYS
        open_ns = frame.open_ms * NS_PER_MS
        if frame.closed:
            self._watch.shows(open_ns + self._interval)
            return Keep.ALWAYS
        self._watch.shows(open_ns)
        self.counters.open_klines += 1
        wanted = self._gate is not None and self._gate.allows(symbol, time.monotonic_ns())
        return Keep.IF_ROOM if wanted else Keep.NO

    async def connected(self, venue_ns: int, symbols: tuple[str, ...] | None) -> None:
        async with self._moving:
            self._feed.on_connected(venue_ns, symbols)
        self._holes.set()

    async def ticked(self, venue_ns: int) -> None:
        async with self._moving:
            self._feed.on_tick(time.monotonic_ns(), venue_ns)
        self._holes.set()

    async def frame(self, frame: Frame, raw: bytes) -> None:
        counters = self.counters
        if isinstance(frame, Malformed):
            counters.malformed += 1
            await self._quarantine(raw, frame.reason, frame.received_ns, size=frame.size)
            return
        symbol = self._symbol_of(frame)
        if symbol is None or not isinstance(frame, KlineFrame):
            counters.foreign += 1
            await self._quarantine(raw, "unexpected_frame", time.time_ns())
            return
        if not frame.closed:
            async with self._moving:
                sent = self._publisher.preview(symbol, bar_of(frame))
            counters.previews += sent
            counters.previews_refused += not sent
            return
        open_ns = frame.open_ms * NS_PER_MS
        if not await self._watch.believes(open_ns + self._interval):
            counters.future += 1
            await self._quarantine(raw, "not_closed_yet", frame.received_ns)
            return
        counters.closed_klines += 1
        async with self._moving:
            await self._publisher.bars(symbol, self._feed.on_bar(symbol, bar_of(frame)))
        if self._feed.holes():
            self._holes.set()

    async def settled(self, symbol: str, bars: Sequence[FeedBar]) -> int:
        """Settled history of bars that have left; sends what differs, and says how many did."""
        async with self._moving:
            sent = self._feed.on_settled(symbol, bars)
            await self._publisher.bars(symbol, sent)
        return len(sent)

    async def fill_holes(self) -> None:
        """Ask history for every hole, for ever; a question that fails is asked again."""
        while True:
            try:
                async with asyncio.timeout(FILL_CHECK_S):
                    await self._holes.wait()
            except TimeoutError:
                pass
            self._holes.clear()
            for part in self._due():
                for result in await asyncio.gather(*map(self._fill, part), return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result

    def _due(self) -> list[list[Hole]]:
        """Holes to ask for now, in parts of FILLS_AT_ONCE: of bars that are over, when the venue
        does not want to be left alone."""
        if self._watch.quiet_s:
            return []
        now, edge_ns = time.monotonic(), self._feed.floor(self._watch.sure_ns)
        due = [
            hole
            for hole in self._feed.holes()
            if hole.start_ns < edge_ns and self._ladders.get(hole.symbol, _NOW)[1] <= now
        ]
        return [due[n : n + FILLS_AT_ONCE] for n in range(0, len(due), FILLS_AT_ONCE)]

    async def beat(self, period_s: float = HEARTBEAT_S) -> None:
        """Send heartbeats, for ever."""
        while True:
            await asyncio.sleep(period_s)
            async with self._moving:
                outages = self._watch.outages()
                await self._publisher.heartbeat(self._feed.watermark_ns, outages)
            self.counters.heartbeats += 1

    async def _fill(self, hole: Hole) -> None:
        """One page of one hole. An answer speaks for what was over when it was asked."""
        if self._watch.quiet_s:
            return
        edge_ns = self._feed.floor(self._watch.sure_ns)
        end_ns = min(hole.end_ns, hole.start_ns + PAGE_ROWS_MAX * self._interval)
        try:
            page = await self.page(hole.symbol, hole.start_ns, end_ns)
        except TransportError as error:
            if not error.retriable:
                raise
            self._wait_longer(hole.symbol, error)
            return
        self._ladders.pop(hole.symbol, None)
        self.counters.fills += 1
        answered_ns = self._believed(hole, page, min(page.end_ns, edge_ns))
        if answered_ns <= hole.start_ns:
            return
        bars = self.bars_over(page, answered_ns, edge_ns)
        async with self._moving:
            sent = self._feed.on_answer(hole.symbol, hole.start_ns, answered_ns, bars)
            await self._publisher.bars(hole.symbol, sent)
        if self._feed.holes():
            self._holes.set()

    async def page(self, symbol: str, start_ns: int, end_ns: int) -> KlinePage:
        """One page of history; what cannot be read of it goes to quarantine, what it shows of the
        market is noted. Raises TransportError."""
        pages = self._rest.pages(
            *(self._symbols[symbol], start_ns, end_ns),
            interval_ns=self._interval,
            settle_ns=self._preset.settle_ns,
        )
        page = await self._watch.ask(anext(pages))
        await pages.aclose()
        for bad in page.malformed:
            self.counters.fill_rows_malformed += 1
            await self._quarantine(bad.raw, bad.reason, bad.received_ns, source="rest.klines")
        if len(page.columns):
            self._watch.shows(int(page.columns.open_time_ns[-1]))
        return page

    def bars_over(self, page: KlinePage, end_ns: int, edge_ns: int) -> list[FeedBar]:
        """The rows before `end_ns` as bars. `edge_ns`: all that ends there was over when the page
        was asked for; what was over for as long as the preset says is settled."""
        times = page.columns.open_time_ns.tolist()
        settled_ns = edge_ns - self._preset.settle_ns - self._interval
        return [
            replace(bar, source=REST_SETTLED if bar.open_time_ns <= settled_ns else REST_FRESH)
            for bar in bars_of(page.columns, [n for n, at in enumerate(times) if at < end_ns])
        ]

    def _believed(self, hole: Hole, page: KlinePage, over_ns: int) -> int:
        """End of what the answer settles. A bar that closed a moment ago may only not be there yet:
        its absence counts once it is no longer young, or has been asked about for a while."""
        there = set(page.columns.open_time_ns.tolist())
        young_ns = self._watch.market_ns - YOUNG_NS
        for cell in range(hole.start_ns, over_ns, self._interval):
            if cell in there or cell + self._interval <= young_ns:
                continue
            asked, since = self._doubted.get(hole.symbol, (-1, 0.0))
            if asked != cell:
                self._doubted[hole.symbol] = (cell, time.monotonic())
                return cell
            if time.monotonic() - since < DOUBT_S:
                return cell
        self._doubted.pop(hole.symbol, None)
        return over_ns

    def _wait_longer(self, symbol: str, error: TransportError) -> None:
        self.counters.fill_failures += 1
        ladder, pause_ms = self._ladders.get(symbol, _NOW)[0].failed()
        pause_s = max(pause_ms / 1_000, retry_after_s(error))
        self._ladders[symbol] = (ladder, time.monotonic() + pause_s)
        self._notice(f"{symbol}: a hole cannot be filled yet: {error}; again in {pause_s:g} s")

    def _symbol_of(self, frame: Frame) -> str | None:
        if not isinstance(frame, KlineFrame) or frame.interval != self._interval_text:
            return None
        return self._by_venue.get(frame.venue_symbol)

    async def _quarantine(
        self, raw: bytes, reason: str, now_ns: int, *, source: str = "ws", size: int | None = None
    ) -> None:
        self.counters.quarantined += 1
        async with self._moving:
            await self._publisher.quarantine(raw, reason, f"binance.{source}", now_ns, size)


_NOW: Final = (Ladder(FILL_LADDER_MS), 0.0)


def bar_of(frame: KlineFrame) -> FeedBar:
    """A kline of the socket as a bar."""
    return FeedBar(
        open_time_ns=frame.open_ms * NS_PER_MS,
        open=frame.open,
        high=frame.high,
        low=frame.low,
        close=frame.close,
        volume=frame.volume,
        quote_volume=frame.quote_volume,
        trades=frame.trades,
        first_trade_id=frame.first_trade_id,
        last_trade_id=frame.last_trade_id,
        source=WS_CLOSED if frame.closed else WS_OPEN,
        received_time_ns=frame.received_ns,
    )
