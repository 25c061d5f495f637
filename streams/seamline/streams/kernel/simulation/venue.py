"""An exchange: what was traded, what its socket says at once, what its history says later.

Decides: the truth of each symbol and minute, from the seed alone, so that leaving acts out does not
change it. As at a real venue: a minute without trades has no bar and the trade ids go on without a
hole; some bars are stated early and settle with another value; a settled bar may be corrected
later; history tells no trade ids, lags a moment behind the close, answers in pages, and not at all
during an outage. Invariants: everything that ever left the venue is in `stated`; minutes count from
START_NS. Must not know: who asks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from seamline.schemas.columns import REST_FRESH, REST_SETTLED, WS_CLOSED
from seamline.schemas.errors import TransportError
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.streams.kernel.feed import NULL_ID, FeedBar

MINUTE_NS: Final = 60 * NS_PER_S
START_NS: Final = 1_700_006_400 * NS_PER_S  # where blocks of every length begin
HISTORY_MINUTES: Final = 24  # before the start
HISTORY_LAG_NS: Final = 2 * NS_PER_S
PAGE_BARS: Final = 10
EMPTY_RUN_MAX: Final = 6


def time_of(minute: int) -> int:
    return START_NS + minute * MINUTE_NS


def minute_of(time_ns: int) -> int:
    """The minute that holds the time."""
    return (time_ns - START_NS) // MINUTE_NS


def values_of(bar: FeedBar) -> tuple[Any, ...]:
    """Open to last trade id, None where nothing is stated."""
    return bar.content()


@dataclass(frozen=True, slots=True)
class Correction:
    """From a time on history states another value of a settled bar."""

    from_ns: int
    bar: FeedBar


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of history: its closed bars, the venue's clock, and up to where it speaks."""

    bars: tuple[FeedBar, ...]
    venue_ns: int
    through_ns: int


@dataclass(slots=True)
class Venue:
    """`skew_ns`: its clock against the world's."""

    seed: int
    symbols: Sequence[str]
    minutes: int
    empty_ratio: float
    early_ratio: float
    skew_ns: int = 0
    truth: dict[str, dict[int, FeedBar]] = field(default_factory=dict)
    early: dict[tuple[str, int], FeedBar] = field(default_factory=dict)
    corrected: dict[tuple[str, int], Correction] = field(default_factory=dict)
    stated: dict[tuple[str, int], set[tuple[Any, ...]]] = field(default_factory=dict)
    down_until_ns: int = 0
    cut_until_ns: int = 0
    outages: list[tuple[int, int]] = field(default_factory=list)  # by the world's clock

    def __post_init__(self) -> None:
        for number, symbol in enumerate(self.symbols):
            rng = random.Random(f"{self.seed} {symbol}")
            # The last of several symbols trades seldom.
            idle = number and number == len(self.symbols) - 1 and rng.random() < 0.5
            self.truth[symbol] = self._bars(symbol, rng, 0.5 if idle else self.empty_ratio)

    def _bars(self, symbol: str, rng: random.Random, empty_ratio: float) -> dict[int, FeedBar]:
        bars: dict[int, FeedBar] = {}
        price, trade_id = 100.0 + rng.random(), rng.randrange(1_000, 9_000)
        empty = 0
        for minute in range(-HISTORY_MINUTES, self.minutes):
            if empty == 0 and rng.random() < empty_ratio:
                empty = rng.choice((1, 1, 1, 2, EMPTY_RUN_MAX))
            if empty:
                empty -= 1
                continue
            trades = rng.randrange(1, 9)
            opened, closed = price, round(price * rng.uniform(0.99, 1.01), 2)
            price = closed
            bars[minute] = FeedBar(
                open_time_ns=time_of(minute),
                open=opened,
                high=max(opened, closed) + 0.5,
                low=min(opened, closed) - 0.5,
                close=closed,
                volume=round(rng.uniform(0.1, 5.0), 3),
                quote_volume=round(rng.uniform(10.0, 500.0), 2),
                trades=trades,
                first_trade_id=trade_id,
                last_trade_id=trade_id + trades - 1,
                source=WS_CLOSED,
                received_time_ns=0,
            )
            trade_id += trades
            if rng.random() < self.early_ratio:
                # Its last trade was not in it yet, or was and nobody had counted it.
                counted = trades if rng.random() < 0.5 else max(1, trades - 1)
                self.early[symbol, minute] = replace(
                    bars[minute],
                    volume=round(bars[minute].volume * 0.9, 3),
                    trades=counted,
                    last_trade_id=bars[minute].first_trade_id + counted - 1,
                )
        return bars

    def now_ns(self, now_ns: int) -> int:
        """The venue's clock."""
        return now_ns + self.skew_ns

    def state(self, symbol: str, bars: Iterable[FeedBar]) -> None:
        for bar in bars:
            place = (symbol, minute_of(bar.open_time_ns))
            self.stated.setdefault(place, set()).add(values_of(bar))

    def frame(self, symbol: str, minute: int) -> FeedBar | None:
        """The closed kline that the socket sends once, as far as it is known then."""
        bar = self.early.get((symbol, minute)) or self.truth[symbol].get(minute)
        if bar is not None:
            self.state(symbol, [bar])
        return bar

    def down(self, now_ns: int) -> bool:
        """Neither socket nor history answer."""
        return now_ns < self.down_until_ns

    def go_down(self, now_ns: int, until_ns: int) -> None:
        """Answer nobody until then. An outage in an outage ends it anew."""
        start_ns = self.outages.pop()[0] if self.down(now_ns) else now_ns
        self.outages.append((start_ns, until_ns))
        self.down_until_ns = until_ns

    def come_back(self, now_ns: int) -> None:
        """Answer again, on the socket too."""
        if self.down(now_ns):
            start_ns, _ = self.outages.pop()
            if start_ns < now_ns:
                self.outages.append((start_ns, now_ns))
        self.down_until_ns = self.cut_until_ns = 0

    def stated_outages(self, now_ns: int) -> tuple[tuple[int, int | None], ...]:
        """What the venue says of its outages, in its own time; None: it goes on."""
        return tuple(
            (self.now_ns(start_ns), None if now_ns < end_ns else self.now_ns(end_ns))
            for start_ns, end_ns in self.outages
        )

    def cut(self, now_ns: int) -> bool:
        """The socket is cut; history answers unless all is down."""
        return now_ns < self.cut_until_ns or self.down(now_ns)

    def correct(self, symbol: str, minute: int, from_ns: int, factor: float) -> bool:
        """History states another close of a bar from a time on; False where there is no bar."""
        bar = self.truth[symbol].get(minute)
        if bar is None:
            return False
        close = round(bar.low + (bar.high - bar.low) * factor, 3)
        changed = replace(bar, close=close)
        self.corrected[symbol, minute] = Correction(from_ns, changed)
        return True

    def klines(
        self, symbol: str, start_ns: int, end_ns: int, now_ns: int, settle_ns: int, rows: int
    ) -> Page:
        """History of [start, end), at most `rows` cells. Raises TransportError while down."""
        if self.down(now_ns):
            raise TransportError("the venue does not answer", parameter="klines")
        venue_ns = self.now_ns(now_ns)
        first = minute_of(start_ns)
        closed = minute_of(venue_ns)  # minutes before it have closed
        last = min(first + rows, minute_of(end_ns), closed)
        bars = []
        for minute in range(first, last):
            bar = self._stated_now(symbol, minute, now_ns)
            if bar is None or time_of(minute + 1) > venue_ns - HISTORY_LAG_NS:
                continue
            age_ns = venue_ns - time_of(minute + 1)
            source = REST_SETTLED if age_ns >= settle_ns else REST_FRESH
            settled = self.early.get((symbol, minute), bar) if source == REST_FRESH else bar
            bars.append(
                replace(
                    settled,
                    first_trade_id=NULL_ID,
                    last_trade_id=NULL_ID,
                    source=source,
                    received_time_ns=now_ns - now_ns % NS_PER_MS,
                )
            )
        self.state(symbol, bars)
        return Page(tuple(bars), venue_ns, time_of(max(first, last)))

    def _stated_now(self, symbol: str, minute: int, now_ns: int) -> FeedBar | None:
        correction = self.corrected.get((symbol, minute))
        if correction is not None and now_ns >= correction.from_ns:
            return correction.bar
        return self.truth[symbol].get(minute)

    def settled(self, symbol: str, minute: int, now_ns: int) -> tuple[Any, ...] | None:
        """Open to number of trades as history states them once settled."""
        bar = self._stated_now(symbol, minute, now_ns)
        return None if bar is None else values_of(bar)[:7]
