"""The seeded market: the same answer for ever, klines made of trades, contiguous ids."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from seamline.connectors.venues.market import MINUTE_MS, Kline, Trade, fixed_text
from seamline.connectors.venues.simulated_market import (
    CHUNK_MINUTES,
    MarketSettings,
    SimulatedMarket,
)
from seamline.schemas.errors import UsageError

START_MS = 1_767_225_600_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "DOGE/USDT")
# Written down once: a change of it changes what every recorded seed means.
FIRST_KLINE = ("61361.46000000", "61392.69000000", 353445123, 11)
CHUNK_MS = CHUNK_MINUTES * MINUTE_MS


def market(seed: int = 7, empty_share: float = 0.0) -> SimulatedMarket:
    return SimulatedMarket(SYMBOLS, MarketSettings(seed=seed, empty_share=empty_share))


def page(
    of: SimulatedMarket, rows: int, start_ms: int = START_MS, name: str = "BTCUSDT"
) -> list[Kline]:
    return of.page(name, start_ms, start_ms + rows * MINUTE_MS, rows, newest=False)


def of_trades(open_ms: int, trades: list[Trade]) -> Kline:
    """A kline by its definition, from trades alone."""
    prices = [Decimal(t.price) for t in trades]
    sizes = [Decimal(t.size) for t in trades]
    money = [p * s for p, s in zip(prices, sizes, strict=True)]
    taken = [i for i, t in enumerate(trades) if not t.buyer_is_maker]

    def text(value: Decimal) -> str:
        return f"{value:.8f}"

    return Kline(
        open_ms,
        *(text(prices[0]), text(max(prices)), text(min(prices)), text(prices[-1])),
        *(text(sum(sizes, Decimal(0))), text(sum(money, Decimal(0)))),
        text(sum((sizes[i] for i in taken), Decimal(0))),
        text(sum((money[i] for i in taken), Decimal(0))),
        *(trades[0].id, trades[-1].id, len(trades)),
    )


def test_the_same_seed_gives_the_same_market_whatever_was_asked_before() -> None:
    one, other = market(), market()
    page(other, 3_000, START_MS - 10 * CHUNK_MS)
    assert page(one, 500) == page(other, 500)
    assert page(market(seed=8), 500) != page(one, 500)


def test_pages_of_any_cut_agree() -> None:
    whole = page(market(), 1_000)
    cut = [
        kline
        for first in range(0, 1_000, 77)
        for kline in page(market(), min(77, 1_000 - first), START_MS + first * MINUTE_MS)
    ]
    assert cut == whole


@pytest.mark.parametrize("name", ["BTCUSDT", "ETHUSDT", "DOGEUSDT"])
@pytest.mark.parametrize("empty_share", [0.0, 0.3, 0.9])
def test_trade_ids_follow_each_other_across_empty_minutes(name: str, empty_share: float) -> None:
    rows = page(market(empty_share=empty_share), 2_000, START_MS - CHUNK_MS // 2, name)
    traded = [kline for kline in rows if kline.trades]
    assert all(a.open_ms + MINUTE_MS == b.open_ms for a, b in pairwise(rows))
    assert all(a.last_id + 1 == b.first_id for a, b in pairwise(traded))
    assert all(k.last_id - k.first_id + 1 == k.trades for k in traded)
    assert (len(traded) < len(rows)) == (empty_share > 0)


def test_an_empty_minute_repeats_the_last_price() -> None:
    rows = page(market(empty_share=0.5), 2_000)
    empty = [(a, b) for a, b in pairwise(rows) if not b.trades]
    assert empty
    for before, kline in empty:
        assert {kline.open, kline.high, kline.low, kline.close} == {before.close}
        assert (kline.volume, kline.first_id, kline.last_id) == ("0.00000000", -1, -1)


@pytest.mark.parametrize("name", ["BTCUSDT", "DOGEUSDT"])
def test_klines_are_what_their_trades_say(name: str) -> None:
    of = market()
    for kline in page(of, 300, name=name):
        trades = of.trades(name, kline.open_ms, kline.open_ms + MINUTE_MS)
        assert kline == of_trades(kline.open_ms, trades)
        assert [t.time_ms for t in trades] == sorted(t.time_ms for t in trades)
        assert kline == of.as_of(name, kline.open_ms, kline.open_ms + MINUTE_MS)


@pytest.mark.parametrize("at_s", [0, 1, 17, 45, 59])
def test_an_open_kline_holds_the_trades_up_to_its_time(at_s: int) -> None:
    of = market()
    for row in range(0, 2 * CHUNK_MINUTES, 7):
        open_ms = START_MS + row * MINUTE_MS
        at_ms = open_ms + at_s * 1_000
        kline = of.as_of("BTCUSDT", open_ms, at_ms)
        trades = of.trades("BTCUSDT", open_ms, at_ms + 1)
        assert kline is not None
        if trades:
            assert kline == of_trades(open_ms, trades)
        else:
            before = of.page("BTCUSDT", open_ms - MINUTE_MS, open_ms, 1, newest=False)
            assert (kline.open, kline.trades, kline.first_id) == (before[0].close, 0, -1)


def test_a_minute_opens_near_the_close_before_it_and_prices_move() -> None:
    rows = page(market(), 10_000)
    steps = [abs(float(b.open) / float(a.close) - 1) for a, b in pairwise(rows)]
    assert max(steps) < 0.002
    closes = [float(kline.close) for kline in rows]
    assert max(closes) / min(closes) > 1.02


def test_the_newest_rows_of_a_span() -> None:
    of = market()
    end_ms = START_MS + 5_000 * MINUTE_MS
    assert of.page("BTCUSDT", 0, end_ms, 10, newest=True) == page(of, 10, end_ms - 10 * MINUTE_MS)


def test_a_seed_means_the_same_on_every_machine() -> None:
    kline = page(market(), 1)[0]
    assert (kline.open, kline.close, kline.first_id, kline.trades) == FIRST_KLINE


def test_symbols_that_are_none_are_refused() -> None:
    for symbols in (["BTCUSDT"], ["btc/usdt"], ["BTC/USDT:USDT"], ["BTC/"], [], ["A/BC", "AB/C"]):
        with pytest.raises(UsageError) as caught:
            SimulatedMarket(symbols)
        assert caught.value.parameter == "symbols"


def test_decimal_texts_have_the_decimals_of_the_venue() -> None:
    assert fixed_text(1_372_120, 5) == "13.72120000"
    assert fixed_text(0, 2) == "0.00000000"
    assert fixed_text(7, 8) == "0.00000007"
