"""What a simulated venue trades: klines and trades as the venue writes them, decimal texts
included.

Decides: the values of a market and the three questions that the simulator asks it. Invariants: a
market answers the same question with the same answer for ever; a kline that is asked for as of a
time inside its minute holds exactly the trades up to that time; trade ids are contiguous, so
`last_id + 1 == first_id` of the next kline that has trades. Must not know: clocks, sockets, faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Protocol

from seamline.schemas.errors import UsageError

MINUTE_MS = 60_000
MASK64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol of a venue. `symbol` is `BASE/QUOTE`, `venue_symbol` is `BASEQUOTE`."""

    symbol: str
    base: str
    quote: str
    price_decimals: int
    size_decimals: int

    @property
    def venue_symbol(self) -> str:
        return self.base + self.quote


@dataclass(frozen=True, slots=True)
class Kline:
    """One minute. Texts are decimal; ids are -1 and `trades` 0 when nothing traded in it."""

    open_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    taker_volume: str
    taker_quote_volume: str
    first_id: int
    last_id: int
    trades: int


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade. `buyer_is_maker` tells that the taker sold."""

    id: int
    time_ms: int
    price: str
    size: str
    buyer_is_maker: bool


class Market(Protocol):
    """What the simulator needs of a market. Symbols are the venue's (`BTCUSDT`); spans are
    half-open."""

    @property
    def listings(self) -> Mapping[str, Listing]:
        """The listed symbols by venue symbol."""

    def page(
        self, venue_symbol: str, start_ms: int, end_ms: int, limit: int, newest: bool
    ) -> list[Kline]:
        """Whole klines with `start_ms <= open_ms < end_ms`, oldest first: the newest `limit` of
        them, or the oldest."""

    def as_of(self, venue_symbol: str, open_ms: int, at_ms: int) -> Kline | None:
        """The kline of one minute with its trades up to and including `at_ms`; None where the
        market has no kline for this minute."""

    def trades(self, venue_symbol: str, start_ms: int, end_ms: int) -> list[Trade]:
        """The trades with `start_ms <= time_ms < end_ms`, in the order of their ids."""


def listing_of(symbol: str, *, price_decimals: int = 8, size_decimals: int = 8) -> Listing:
    """The listing of a `BASE/QUOTE` symbol. Raises UsageError for another form."""
    base, slash, quote = symbol.partition("/")
    if not slash or not (base.isalnum() and quote.isalnum() and symbol == symbol.upper()):
        raise UsageError(
            "not a spot symbol",
            parameter="symbols",
            value=symbol,
            fix="Write BASE/QUOTE in capitals: BTC/USDT",
        )
    return Listing(symbol, base, quote, price_decimals, size_decimals)


def listings_by_venue_symbol(listings: Iterable[Listing]) -> dict[str, Listing]:
    """Raises UsageError when there is none, or when two symbols have the same name at the venue."""
    found: dict[str, Listing] = {}
    for listing in listings:
        other = found.setdefault(listing.venue_symbol, listing)
        if other is not listing:
            raise UsageError(
                f"the venue calls {other.symbol} and {listing.symbol} alike",
                parameter="symbols",
                value=listing.symbol,
                fix="Name each symbol once",
            )
    if not found:
        raise UsageError(
            "no symbol", parameter="symbols", value=[], fix="Name at least one: BTC/USDT"
        )
    return found


def fixed_text(units: int, decimals: int, shown: int = 8) -> str:
    """`units * 10**-decimals` with `shown` decimals, as the venue writes numbers
    (`13.72120000`)."""
    whole, rest = divmod(units * 10 ** (shown - decimals), 10**shown)
    return f"{whole}.{rest:0{shown}d}"


def empty_kline(open_ms: int, price: str) -> Kline:
    """A minute without a trade: the last price four times, no volume, ids -1, as the venue does."""
    zero = fixed_text(0, 8)
    return Kline(open_ms, price, price, price, price, zero, zero, zero, zero, -1, -1, 0)


def kline_of_trades(open_ms: int, trades: Sequence[Trade]) -> Kline:
    """The kline of one minute that has these trades, at least one, in order."""
    with localcontext(prec=60):
        prices = [Decimal(trade.price) for trade in trades]
        sizes = [Decimal(trade.size) for trade in trades]
        money = [price * size for price, size in zip(prices, sizes, strict=True)]
        bought = [index for index, trade in enumerate(trades) if not trade.buyer_is_maker]
        eight = Decimal("0.00000001")
        return Kline(
            open_ms=open_ms,
            open=trades[0].price,
            high=trades[prices.index(max(prices))].price,
            low=trades[prices.index(min(prices))].price,
            close=trades[-1].price,
            volume=f"{sum(sizes, Decimal(0)):f}",
            quote_volume=f"{sum(money, Decimal(0)).quantize(eight):f}",
            taker_volume=f"{sum((sizes[i] for i in bought), Decimal(0)):f}",
            taker_quote_volume=f"{sum((money[i] for i in bought), Decimal(0)).quantize(eight):f}",
            first_id=trades[0].id,
            last_id=trades[-1].id,
            trades=len(trades),
        )


def mixed(value: int) -> int:
    """A 64-bit avalanche of `value` (the finaliser of splitmix64), the source of all chance
    here."""
    value = (value + 0x9E3779B97F4A7C15) & MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)
