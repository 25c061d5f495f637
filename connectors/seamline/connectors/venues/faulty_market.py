"""A market as a venue states it: with its halts, its lost history and its late corrections.

Decides: which trades and klines are missing, how trade ids run on, what a correction changes, what
the settled history says. Invariants: a pure function of market and plan, so that each answer of the
venue agrees with each other one; klines and trades agree; trade ids join across a halt (nobody
traded) and jump across lost history (it was traded); a corrected kline is one that trades could
have made. Must not know: sockets, HTTP, clocks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from itertools import accumulate
from typing import Literal

from seamline.connectors.venues.fault_plan import FaultPlan
from seamline.connectors.venues.market import (
    MINUTE_MS,
    Kline,
    Listing,
    Market,
    Trade,
    empty_kline,
    kline_of_trades,
)
from seamline.connectors.venues.venue_faults import CORRECT_KLINES, LOSE_HISTORY
from seamline.schemas.errors import UsageError

PAGE_MINUTES = 1_000
# A page that lost rows is filled up by at least so many at once, so many times: what is all but
# wholly lost gives short pages, not an endless search.
FILL_MINUTES = 16
FILLS_MAX = 64
Missing = Literal["no_trades", "halt", "lost_history"]


@dataclass(frozen=True, slots=True)
class Settled:
    """One minute of the settled history: its kline, or why there is none."""

    open_ms: int
    kline: Kline | None
    missing: Missing | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A minute that the venue lost (`at_ms`: its close) or corrected (`at_ms`: from then on)."""

    at_ms: int
    fault: int
    symbol: str
    open_ms: int


def settled_klines(
    market: Market, plan: FaultPlan, symbol: str, from_ms: int, to_ms: int
) -> Iterator[Settled]:
    """What the venue's history says in the end of each minute that opens in `[from_ms, to_ms)`.

    `market` is the one without faults, `symbol` is `BASE/QUOTE`. A minute is missing by `halt`
    where a halt left it without a trade, by `lost_history` where the venue lost what was traded,
    and by `no_trades` where the market has no kline; a kline without trades is a kline. Raises
    UsageError for a symbol that the market does not list.
    """
    names = {listing.symbol: name for name, listing in market.listings.items()}
    if symbol not in names:
        raise UsageError(
            "the market does not list it",
            parameter="symbol",
            value=symbol,
            fix=f"One of {', '.join(names)}",
        )
    stated, name = FaultyMarket(market, plan), names[symbol]
    first_ms = -(-from_ms // MINUTE_MS) * MINUTE_MS
    for page_ms in range(first_ms, to_ms, PAGE_MINUTES * MINUTE_MS):
        end_ms = min(page_ms + PAGE_MINUTES * MINUTE_MS, to_ms)
        rows = stated.page(name, page_ms, end_ms, PAGE_MINUTES, newest=False)
        by_open = {kline.open_ms: kline for kline in rows}
        for open_ms in range(page_ms, end_ms, MINUTE_MS):
            kline = by_open.get(open_ms)
            if kline is None:
                yield Settled(open_ms, None, stated.why_missing(name, open_ms))
            else:
                yield Settled(open_ms, stated.corrected(name, kline), None)


class FaultyMarket:
    """`market` with the halts and the lost history of `plan`; satisfies `Market`.

    What `page` gives is what sockets say. `in_history` and `corrected` give what REST says.
    """

    def __init__(self, market: Market, plan: FaultPlan) -> None:
        self._market, self._plan = market, plan
        self._halts = plan.halts()
        self._starts = [from_ms for from_ms, _ in self._halts]
        self._loses = any(plan.of_kind(LOSE_HISTORY))
        self._corrects = any(plan.of_kind(CORRECT_KLINES))
        self._untouched = not self._halts and not self._loses
        # By venue symbol: how many trades the first n halts prevented.
        self._prevented: dict[str, list[int]] = {}

    @property
    def listings(self) -> Mapping[str, Listing]:
        return self._market.listings

    def page(
        self, venue_symbol: str, start_ms: int, end_ms: int, limit: int, newest: bool
    ) -> list[Kline]:
        if self._untouched:
            return self._market.page(venue_symbol, start_ms, end_ms, limit, newest)
        found: list[Kline] = []
        ask = max(limit, FILL_MINUTES)
        for _ in range(FILLS_MAX):
            rows = self._market.page(venue_symbol, start_ms, end_ms, ask, newest)
            stated = [self._stated(venue_symbol, row) for row in rows]
            kept = [kline for kline in stated if kline is not None]
            found = [*kept, *found] if newest else [*found, *kept]
            if len(rows) < ask or len(found) >= limit:
                break
            if newest:
                end_ms = self._out_of_halt(rows[0].open_ms - 1, forward=False) + 1
            else:
                start_ms = self._out_of_halt(rows[-1].open_ms + 1, forward=True)
        return found[-limit:] if newest else found[:limit]

    def as_of(self, venue_symbol: str, open_ms: int, at_ms: int) -> Kline | None:
        if self._untouched:
            return self._market.as_of(venue_symbol, open_ms, at_ms)
        kline = self._market.as_of(venue_symbol, open_ms, at_ms)
        if kline is None or not self._halted(open_ms, open_ms + MINUTE_MS):
            return None if kline is None else self._stated(venue_symbol, kline)
        upto_ms = min(open_ms + MINUTE_MS, at_ms + 1)
        traded = self.trades(venue_symbol, open_ms, upto_ms)
        return kline_of_trades(open_ms, traded) if traded else None

    def trades(self, venue_symbol: str, start_ms: int, end_ms: int) -> list[Trade]:
        found = self._market.trades(venue_symbol, start_ms, end_ms)
        if self._untouched:
            return found
        symbol = self.listings[venue_symbol].symbol
        kept = []
        lost: dict[int, bool] = {}
        for trade in found:
            open_ms = trade.time_ms - trade.time_ms % MINUTE_MS
            if open_ms not in lost:
                lost[open_ms] = self._plan.lost(symbol, open_ms) >= 0
            if lost[open_ms] or self._halted(trade.time_ms, trade.time_ms + 1):
                continue
            fewer = self._before(venue_symbol, trade.time_ms)
            kept.append(replace(trade, id=trade.id - fewer) if fewer else trade)
        return kept

    def in_history(self, venue_symbol: str, kline: Kline, now_ms: int) -> Kline:
        """What history says at `now_ms` of a minute that `page` gives as `kline`."""
        if not self._corrects:
            return kline
        fault = self._correction(venue_symbol, kline)
        if fault < 0 or now_ms < self._corrected_from_ms(fault, kline.open_ms):
            return kline
        return self.corrected(venue_symbol, kline)

    def corrected(self, venue_symbol: str, kline: Kline) -> Kline:
        """What history says in the end."""
        fault = self._correction(venue_symbol, kline) if self._corrects else -1
        if fault < 0:
            return kline
        listing = self.listings[venue_symbol]
        chance = self._plan.minute_chance(fault, listing.symbol, kline.open_ms)
        return corrected_kline(kline, listing.price_decimals, chance)

    def why_missing(self, venue_symbol: str, open_ms: int) -> Missing:
        """Why `page` gives no kline of this minute."""
        fewer = self._market.page(venue_symbol, open_ms, open_ms + 1, 1, newest=False)
        halted = self._halted(open_ms, open_ms + MINUTE_MS)
        if halted and not self._traded_beside_halts(venue_symbol, open_ms):
            return "halt"
        return "lost_history" if fewer and fewer[0].trades else "no_trades"

    def changes(self, after_ms: int, upto_ms: int) -> list[Changed]:
        """The minutes that were lost or corrected in `(after_ms, upto_ms]`, in order of time."""
        found = []
        for index, fault in self._plan.of_kind(LOSE_HISTORY, CORRECT_KLINES):
            later_ms = MINUTE_MS + (fault.after_ms if fault.kind == CORRECT_KLINES else 0)
            first_ms = (after_ms - later_ms) // MINUTE_MS * MINUTE_MS + MINUTE_MS
            for open_ms in range(first_ms, upto_ms - later_ms + 1, MINUTE_MS):
                for name, listing in self.listings.items():
                    if self._changes(fault.kind, name, open_ms) == index:
                        found.append(Changed(open_ms + later_ms, index, listing.symbol, open_ms))
        return sorted(found, key=lambda change: change.at_ms)

    def _changes(self, kind: str, venue_symbol: str, open_ms: int) -> int:
        symbol = self.listings[venue_symbol].symbol
        lost = self._plan.lost(symbol, open_ms)
        if kind == LOSE_HISTORY:
            if lost < 0 or not self._market.page(venue_symbol, open_ms, open_ms + 1, 1, False):
                return -1
            return lost if self.why_missing(venue_symbol, open_ms) == "lost_history" else -1
        if self._plan.correction(symbol, open_ms) < 0:
            return -1
        rows = self.page(venue_symbol, open_ms, open_ms + 1, 1, newest=False)
        return self._correction(venue_symbol, rows[0]) if rows else -1

    def _correction(self, venue_symbol: str, kline: Kline) -> int:
        """A minute without trades is never corrected: its ids say that nobody traded."""
        symbol = self.listings[venue_symbol].symbol
        return self._plan.correction(symbol, kline.open_ms) if kline.trades else -1

    def _corrected_from_ms(self, fault: int, open_ms: int) -> int:
        return open_ms + MINUTE_MS + self._plan.faults[fault].after_ms

    def _halted(self, from_ms: int, to_ms: int) -> bool:
        """Whether a halt has a part of `[from_ms, to_ms)`."""
        last = bisect_left(self._starts, to_ms) - 1
        return last >= 0 and self._halts[last][1] > from_ms

    def _before(self, venue_symbol: str, at_ms: int) -> int:
        """How many trades the halts prevented that began at or before a time outside of them."""
        if venue_symbol not in self._prevented:
            counts = (len(self._market.trades(venue_symbol, *halt)) for halt in self._halts)
            self._prevented[venue_symbol] = list(accumulate(counts, initial=0))
        return self._prevented[venue_symbol][bisect_right(self._starts, at_ms)]

    def _out_of_halt(self, at_ms: int, *, forward: bool) -> int:
        """The time, or the nearest one after or before it that is in no halt."""
        last = bisect_right(self._starts, at_ms) - 1
        if last < 0 or at_ms >= self._halts[last][1]:
            return at_ms
        if not forward:
            return self._starts[last] - 1
        # The minute in which a halt ends may have trades again.
        return max(at_ms, self._halts[last][1] // MINUTE_MS * MINUTE_MS)

    def _traded_beside_halts(self, venue_symbol: str, open_ms: int) -> list[str]:
        """The prices of the trades of a minute that no halt prevented."""
        trades = self._market.trades(venue_symbol, open_ms, open_ms + MINUTE_MS)
        return [t.price for t in trades if not self._halted(t.time_ms, t.time_ms + 1)]

    def _stated(self, venue_symbol: str, kline: Kline) -> Kline | None:
        """What the venue says of a kline of the market, whole or still open; None: nothing."""
        open_ms = kline.open_ms
        if self._loses and self._plan.lost(self.listings[venue_symbol].symbol, open_ms) >= 0:
            return None
        if self._halted(open_ms, open_ms + MINUTE_MS):
            traded = self.trades(venue_symbol, open_ms, open_ms + MINUTE_MS)
            return kline_of_trades(open_ms, traded) if traded else None
        if not kline.trades:
            return self._empty(venue_symbol, kline)
        fewer = self._before(venue_symbol, open_ms)
        if not fewer:
            return kline
        return replace(kline, first_id=kline.first_id - fewer, last_id=kline.last_id - fewer)

    def _empty(self, venue_symbol: str, kline: Kline) -> Kline:
        """An empty minute states the last price; that of a trade which a halt prevented is none."""
        if not bisect_right(self._starts, kline.open_ms):
            return kline
        end_ms, ask = kline.open_ms, 1
        for _ in range(FILLS_MAX):
            rows = self._market.page(venue_symbol, 0, end_ms, ask, newest=True)
            for row in reversed(rows):
                if not row.trades:
                    continue
                if not self._halted(row.open_ms, row.open_ms + MINUTE_MS):
                    return empty_kline(kline.open_ms, row.close)
                prices = self._traded_beside_halts(venue_symbol, row.open_ms)
                if prices:
                    return empty_kline(kline.open_ms, prices[-1])
            if len(rows) < ask:
                break
            end_ms, ask = self._out_of_halt(rows[0].open_ms - 1, forward=False) + 1, FILL_MINUTES
        return kline


def corrected_kline(kline: Kline, price_decimals: int, chance: int) -> Kline:
    """Another kline that the same number of trades could have made: it reaches a little higher or
    lower, may close there, and has a little more volume at the same mean price."""
    with localcontext(prec=60):
        unit = Decimal(1).scaleb(-price_decimals)
        high, low = Decimal(kline.high), Decimal(kline.low)
        step = max(unit, (high / 10_000).quantize(unit))
        upwards = bool(chance & 1) or low <= step
        high, low = (high + step, low) if upwards else (high, low - step)
        closes_there = bool(chance & 2) and kline.trades > 1
        extreme = high if upwards else low
        more = 1 + Decimal(1 + (chance >> 8) % 9) / 1_000
        return replace(
            kline,
            high=f"{high:f}",
            low=f"{low:f}",
            close=f"{extreme:f}" if closes_there else kline.close,
            volume=_more(kline.volume, more),
            quote_volume=_more(kline.quote_volume, more),
            taker_volume=_more(kline.taker_volume, more),
            taker_quote_volume=_more(kline.taker_quote_volume, more),
        )


def _more(text: str, factor: Decimal) -> str:
    value = Decimal(text)
    return f"{(value * factor).quantize(value):f}"
