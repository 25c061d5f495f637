"""When a simulated venue says what: the frames of one stream in a span of simulated time.

Decides: stream names, the moment of each frame, its JSON. Invariants: a function of (market,
shown clock, stream, span): asking for two halves of a span gives what asking for the whole gives;
spans are `(after_ms, upto_ms]`; a closed kline comes once, some milliseconds after its close. Must
not know: sockets, clocks, faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from seamline.connectors.venues.binance_shapes import (
    INTERVAL,
    agg_trade_event,
    kline_event,
    trade_event,
)
from seamline.connectors.venues.market import MINUTE_MS, Market, mixed

CLOSE_DELAY_MIN_MS = 2
CLOSE_DELAY_SPREAD_MS = 38
KLINE, TRADE, AGG_TRADE = f"kline_{INTERVAL}", "trade", "aggTrade"


@dataclass(frozen=True, slots=True)
class Event:
    """One frame. `data` is the JSON of the payload; `open_ms` is None for a trade.

    `event_ms` is when it is sent; what the frame says of it is what the venue's clock shows then.
    """

    event_ms: int
    stream: str
    symbol: str
    data: str
    open_ms: int | None
    closed: bool

    @property
    def enveloped(self) -> str:
        return f'{{"stream":"{self.stream}","data":{self.data}}}'


def dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class EventSchedule:
    """The events of a market. `update_ms` is the time between two frames of an open kline (0:
    none), `trade_batch_ms` how far ahead a stream of trades is asked for, `shown_ms` what the
    venue's clock shows at a time.
    """

    def __init__(
        self,
        market: Market,
        update_ms: int,
        trade_batch_ms: int,
        shown_ms: Callable[[int], int] = lambda at_ms: at_ms,
    ) -> None:
        self._market, self._shown_ms = market, shown_ms
        self._update_ms = update_ms if 0 < update_ms < MINUTE_MS else 0
        self._trade_batch_ms = max(trade_batch_ms, 1)

    def knows(self, stream: str) -> bool:
        """Whether the stream is one of this venue. Another is silent, as at Binance."""
        venue_symbol, _, kind = stream.partition("@")
        upper = venue_symbol.upper()
        return (
            # Some letters outside of ASCII become letters of a symbol in capitals.
            stream.isascii()
            and venue_symbol == venue_symbol.lower()
            and upper in self._market.listings
            and kind in (KLINE, TRADE, AGG_TRADE)
        )

    def events(self, stream: str, after_ms: int, upto_ms: int) -> list[Event]:
        """The frames of a known stream with `after_ms < event_ms <= upto_ms`, in order."""
        lower, _, kind = stream.partition("@")
        venue_symbol = lower.upper()
        if kind == KLINE:
            found = [*self._closed(stream, venue_symbol, after_ms, upto_ms)]
            found += self._open(stream, venue_symbol, after_ms, upto_ms)
            return sorted(found, key=lambda event: event.event_ms)
        symbol = self._market.listings[venue_symbol].symbol
        shape = trade_event if kind == TRADE else agg_trade_event
        found = []
        for trade in self._market.trades(venue_symbol, after_ms, upto_ms):
            sent_ms = trade.time_ms + 1
            data = dumped(shape(venue_symbol, trade, self._shown_ms(sent_ms)))
            found.append(Event(sent_ms, stream, symbol, data, None, closed=False))
        return found

    def next_ms(self, stream: str, after_ms: int) -> int:
        """No frame of the stream comes after `after_ms` and before this time."""
        lower, _, kind = stream.partition("@")
        if kind != KLINE:
            return after_ms + self._trade_batch_ms
        minute_ms = after_ms - after_ms % MINUTE_MS
        close_ms = minute_ms + close_delay_ms(lower, minute_ms)
        if close_ms <= after_ms:
            close_ms = minute_ms + MINUTE_MS + close_delay_ms(lower, minute_ms + MINUTE_MS)
        if not self._update_ms:
            return close_ms
        update_ms = minute_ms + self._update_ms * ((after_ms - minute_ms) // self._update_ms + 1)
        return min(close_ms, update_ms)

    def _closed(
        self, stream: str, venue_symbol: str, after_ms: int, upto_ms: int
    ) -> Iterator[Event]:
        symbol = self._market.listings[venue_symbol].symbol
        first_ms = after_ms - MINUTE_MS - CLOSE_DELAY_MIN_MS - CLOSE_DELAY_SPREAD_MS
        last_ms = upto_ms - MINUTE_MS
        limit = (last_ms - first_ms) // MINUTE_MS + 2
        lower = stream.partition("@")[0]
        for kline in self._market.page(venue_symbol, first_ms, last_ms + 1, limit, newest=False):
            close_ms = kline.open_ms + MINUTE_MS
            event_ms = close_ms + close_delay_ms(lower, close_ms)
            if after_ms < event_ms <= upto_ms:
                shown_ms = self._shown_ms(event_ms)
                data = dumped(kline_event(venue_symbol, kline, shown_ms, closed=True))
                yield Event(event_ms, stream, symbol, data, kline.open_ms, closed=True)

    def _open(self, stream: str, venue_symbol: str, after_ms: int, upto_ms: int) -> Iterator[Event]:
        if not self._update_ms:
            return
        symbol = self._market.listings[venue_symbol].symbol
        for minute_ms in range(after_ms - after_ms % MINUTE_MS, upto_ms + 1, MINUTE_MS):
            end_ms = min(minute_ms + MINUTE_MS, upto_ms + 1)
            for event_ms in range(minute_ms + self._update_ms, end_ms, self._update_ms):
                if event_ms <= after_ms:
                    continue
                kline = self._market.as_of(venue_symbol, minute_ms, event_ms)
                if kline is not None:
                    shown_ms = self._shown_ms(event_ms)
                    data = dumped(kline_event(venue_symbol, kline, shown_ms, closed=False))
                    yield Event(event_ms, stream, symbol, data, minute_ms, closed=False)


def close_delay_ms(lower_symbol: str, close_ms: int) -> int:
    """How long after its close a kline is sent: a few milliseconds, not the same each time."""
    key = int.from_bytes(lower_symbol.encode()[:8], "big") ^ close_ms
    return CLOSE_DELAY_MIN_MS + mixed(key) % CLOSE_DELAY_SPREAD_MS
