"""The live connector as a process: frames and history through the kernel's feed, onto `live`.

Decides: nothing about bars, that is `feed.BarFeed`; here is when it is called, in the order of
`connectors.live_bars`. Invariants: what the feed hands out is sent before it is asked anything
else; a heartbeat goes out after all bars before it; a start goes on from what landed; an answer of
history is believed for a cell that closed a moment ago only after it was asked about for a while.
Must not know: how bars are conformed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from seamline.schemas.codec import BarDecoder, encode_bars, schema_ids
from seamline.schemas.columns import BarColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.outages import OUTAGES_MAX, encode_outages
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_OUTAGES,
    HEADER_VENUE,
    HEADER_WATERMARK_NS,
    partition_of,
    topic_name,
)
from seamline.streams.kernel.feed import BarFeed, FeedBar, FeedLimits, Hole
from seamline.streams.kernel.simulation.model import Bar, Beat
from seamline.streams.kernel.simulation.venue import MINUTE_NS, PAGE_BARS, Page, minute_of, time_of

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.world import World

YOUNG_NS: Final = 10 * NS_PER_S  # by the venue's clock
DOUBT_NS: Final = 3 * NS_PER_S  # by ours
LIMITS: Final = FeedLimits(overdue_ns=2 * NS_PER_S)
QUEUE_MAX: Final = 10_000
PAGES_MAX: Final = 12


def event_of(symbol: str, bar: FeedBar) -> Bar:
    """A feed's bar as the model reads it."""
    content = bar.content()
    prices = (bar.open, bar.high, bar.low, bar.close)
    cell = minute_of(bar.open_time_ns)
    extra = (content[5], *(None if i is None else int(i) for i in content[6:9]))
    shift_ns = bar.open_time_ns - time_of(cell)
    return Bar(symbol, cell, prices, bar.volume, extra, bar.source, shift_ns=shift_ns)  # type: ignore[arg-type]


def columns_of(bars: Sequence[FeedBar]) -> BarColumns:
    """Feed bars as closed landing columns."""
    columns = BarColumns.empty(len(bars))
    for name in BarColumns.DTYPES:
        if name != "closed":
            getattr(columns, name)[:] = [getattr(bar, name) for bar in bars]
    columns.closed[:] = True
    return columns


@dataclass(slots=True)
class Connector:
    """`queue`: frames on their way, in the order of arrival. `skew_ns`: its wall clock's error."""

    world: World
    skew_ns: int = 0
    up: bool = False
    connected: bool = False
    feed: BarFeed | None = None
    queue: list[tuple[str, FeedBar]] = field(default_factory=list)
    doubted: dict[str, tuple[int, int]] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)  # symbol -> first minute ever expected

    def start(self) -> None:
        """Go on from what landed; a symbol that never landed begins with the bar open now."""
        world = self.world
        if self.up:
            return
        self.up, self.connected = True, False
        self.queue.clear()
        self.doubted.clear()
        venue_ns = world.venue.now_ns(world.now_ns)
        landed = self.landed()
        expected = {}
        for symbol in world.symbols:
            last = landed.get(symbol)
            expected[symbol] = venue_ns if last is None else last.open_time_ns + MINUTE_NS
            if last is None:
                self.began[symbol] = minute_of(expected[symbol])
            self.began.setdefault(symbol, minute_of(expected[symbol]))
        self.feed = BarFeed(expected, MINUTE_NS, 0, LIMITS)
        for symbol, bar in landed.items():
            if bar.open_time_ns + MINUTE_NS == self.feed.expected_ns(symbol):
                self.feed.seed(symbol, bar)
        world.note("connector", "starts from what landed")

    def landed(self) -> Mapping[str, FeedBar]:
        """The newest closed bar of each symbol that our own records on `live` show."""
        world = self.world
        found: dict[str, FeedBar] = {}
        topic = topic_name(world.preset.id, "live")
        names = [name for name in BarColumns.DTYPES if name != "closed"]
        for partition in range(world.preset.partitions):
            log = world.broker.log(topic, partition)
            values = [r.value for r in log.committed(log.begin, log.end) if r.value is not None]
            ids = schema_ids(values)
            values = [v for v, i in zip(values, ids, strict=True) if i == world.ids["bar"]]
            if not values:
                continue
            decoder = BarDecoder(world.table)
            decoded = decoder.decode(values)
            columns = decoded.columns
            for row in np.flatnonzero(decoded.ok & columns.closed).tolist():
                symbol = decoder.symbols[decoded.sid[row]]
                time_ns = int(columns.open_time_ns[row])
                if symbol not in found or found[symbol].open_time_ns <= time_ns:
                    found[symbol] = FeedBar(**{n: getattr(columns, n)[row].item() for n in names})
        return {symbol: bar for symbol, bar in found.items() if symbol in world.symbols}

    def crash(self) -> None:
        self.up, self.connected, self.feed = False, False, None
        self.queue.clear()

    def receive(self, symbol: str, bar: FeedBar) -> None:
        """A frame arrives at the socket."""
        if self.up and self.connected and len(self.queue) < QUEUE_MAX:
            self.queue.append((symbol, bar))

    def turn(self, rng: random.Random, *, calm: bool = False) -> None:
        """One look at everything: the socket, the clock, the holes; then a heartbeat."""
        world, feed = self.world, self.feed
        if not self.up or feed is None:
            return
        sent: list[tuple[str, FeedBar]] = []
        venue_ns = world.venue.now_ns(world.now_ns)
        self._link(feed, venue_ns)
        for symbol, bar in self.queue:
            received = self.wall_ns()
            for out in feed.on_bar(symbol, _received(bar, received)):
                sent.append((symbol, out))
        self.queue.clear()
        feed.on_tick(world.now_ns, venue_ns)
        for _ in range(PAGES_MAX):
            filled = [self._fill(feed, hole, sent, rng, calm=calm) for hole in feed.holes()]
            if not any(filled):
                break
        if not calm and sent and rng.random() < world.settings.rates.connector_crash:
            # Some of it is acknowledged, the rest never left.
            self._publish(sent[: rng.randrange(len(sent))], rng, calm=calm)
            world.count("crash", "connector", "dies with bars in hand")
            self.crash()
            return
        self._publish(sent, rng, calm=calm)
        self._beat(feed)

    def wall_ns(self) -> int:
        now_ns = self.world.now_ns + self.skew_ns
        return now_ns - now_ns % 1_000_000

    def _link(self, feed: BarFeed, venue_ns: int) -> None:
        world = self.world
        cut = world.venue.cut(world.now_ns)
        if cut and self.connected:
            self.connected = False
            self.queue.clear()
            world.note("connector", "socket lost")
        elif not cut and not self.connected:
            self.connected = True
            feed.on_connected(venue_ns)
            world.note("connector", "socket connected")

    def _fill(
        self,
        feed: BarFeed,
        hole: Hole,
        sent: list[tuple[str, FeedBar]],
        rng: random.Random,
        *,
        calm: bool,
    ) -> bool:
        """One page of one hole; whether anything was settled by it."""
        world = self.world
        if not calm and rng.random() < world.settings.rates.history_error:
            world.count("history_error", "venue", f"no answer about {hole.symbol}")
            return False
        settle_ns = world.preset.settle_ns
        try:
            page = world.venue.klines(
                *(hole.symbol, hole.start_ns, hole.end_ns, world.now_ns, settle_ns, PAGE_BARS)
            )
        except TransportError:
            return False
        answered_ns = self._believed(hole, page)
        if answered_ns <= hole.start_ns:
            return False
        bars = [bar for bar in page.bars if bar.open_time_ns < answered_ns]
        out = feed.on_answer(hole.symbol, hole.start_ns, answered_ns, bars)
        sent += [(hole.symbol, bar) for bar in out]
        if out:
            world.note("connector", f"refilled {len(out)} of {hole.symbol} ({hole.cause})")
        return True

    def _believed(self, hole: Hole, page: Page) -> int:
        """End of what the answer settles: a cell that closed a moment ago may only be missing
        yet."""
        there = {bar.open_time_ns for bar in page.bars}
        for cell in range(hole.start_ns, page.through_ns, MINUTE_NS):
            if cell in there or cell + MINUTE_NS <= page.venue_ns - YOUNG_NS:
                continue
            asked, since_ns = self.doubted.get(hole.symbol, (-1, 0))
            if asked != cell:
                self.doubted[hole.symbol] = (cell, self.world.now_ns)
                return cell
            if self.world.now_ns - since_ns < DOUBT_NS:
                return cell
        self.doubted.pop(hole.symbol, None)
        return page.through_ns

    def _publish(
        self, sent: Sequence[tuple[str, FeedBar]], rng: random.Random, *, calm: bool
    ) -> None:
        world = self.world
        if not sent:
            return
        if not calm and rng.random() < world.settings.rates.repeated_send:
            # A producer without idempotence that did not hear the acknowledgement.
            at = rng.randrange(len(sent))
            sent = [*sent, *sent[at:]]
            world.count("repeated_send", "connector", f"sent {len(sent) - at} records again")
        values = encode_bars(
            [s for s, _ in sent],
            columns_of([b for _, b in sent]),
            world.ids["bar"],
            world.preset.interval_ns,
        )
        headers = ((HEADER_FINGERPRINT, SCHEMAS["bar"].header),)
        for (symbol, bar), value in zip(sent, values, strict=True):
            partition = partition_of(symbol, world.preset.partitions)
            event = event_of(symbol, bar)
            world.land("live", partition, symbol.encode(), value, headers, event)

    def _beat(self, feed: BarFeed) -> None:
        """To each partition: every closed bar before the watermark has been sent."""
        world = self.world
        watermark_ns = feed.watermark_ns
        stated = world.venue.stated_outages(world.now_ns)
        headers = (
            (HEADER_VENUE, b"simulated"),
            (HEADER_WATERMARK_NS, str(watermark_ns).encode()),
            (HEADER_OUTAGES, encode_outages(stated)),
        )
        outages = tuple(
            (minute_of(start_ns), None if end_ns is None else minute_of(end_ns))
            for start_ns, end_ns in stated[-OUTAGES_MAX:]
        )
        world.audit.heartbeat(minute_of(watermark_ns), self.began)
        for partition in range(world.preset.partitions):
            beat = Beat(minute_of(watermark_ns), outages)
            world.land("live", partition, None, None, headers, beat)


def _received(bar: FeedBar, received_ns: int) -> FeedBar:
    """The frame's bar as the connector took it."""
    return FeedBar(
        *(bar.open_time_ns, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote_volume),
        *(bar.trades, bar.first_trade_id, bar.last_trade_id, bar.source, received_ns),
    )
