"""What a venue states of a market: halts, lost history, corrections, and the settled truth."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.connectors.venues.fault_plan import FaultPlan
from seamline.connectors.venues.faulty_market import (
    FaultyMarket,
    Settled,
    corrected_kline,
    settled_klines,
)
from seamline.connectors.venues.market import MINUTE_MS, Kline, kline_of_trades
from seamline.connectors.venues.simulated_market import MarketSettings, SimulatedMarket
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.schemas.errors import UsageError

START_MS = 1_767_225_600_000
SYMBOL, NAME = "BTC/USDT", "BTCUSDT"
MARKET = SimulatedMarket((SYMBOL, "ETH/USDT"), MarketSettings(seed=3, empty_share=0.3))


def at(minutes: float) -> int:
    return START_MS + int(minutes * MINUTE_MS)


def plan(text: str, seed: int = 1) -> FaultPlan:
    return FaultPlan(seed, parse_faults(text, start_ns=START_MS * 1_000_000))


def stated(text: str) -> FaultyMarket:
    return FaultyMarket(MARKET, plan(text))


def settled(text: str, minutes: int = 60) -> list[Settled]:
    return list(settled_klines(MARKET, plan(text), SYMBOL, START_MS, at(minutes)))


def missing(text: str) -> dict[int, str]:
    return {
        (one.open_ms - START_MS) // MINUTE_MS: str(one.missing)
        for one in settled(text)
        if one.kline is None
    }


def traded(klines: list[Kline]) -> list[Kline]:
    return [kline for kline in klines if kline.trades]


def test_without_faults_it_is_the_market() -> None:
    rows = MARKET.page(NAME, START_MS, at(60), 60, newest=False)
    assert [one.kline for one in settled("lose-frames:p=0.5;outage:from=+2m,to=+8m")] == rows
    assert {one.missing for one in settled("")} == {None}


def test_nobody_trades_in_a_halt_and_trade_ids_join_across_it() -> None:
    text = "halt:from=+10m,to=+15m; halt:from=+20m,to=+22m"
    assert missing(text) == dict.fromkeys([*range(10, 15), 20, 21], "halt")
    klines = traded(stated(text).page(NAME, START_MS, at(60), 1_000, newest=False))
    assert all(a.last_id + 1 == b.first_id for a, b in pairwise(klines))
    trades = stated(text).trades(NAME, START_MS, at(60))
    assert [t.id for t in trades] == list(range(trades[0].id, trades[0].id + len(trades)))
    assert sum(kline.trades for kline in klines) == len(trades)


def test_a_halt_inside_a_minute_leaves_the_trades_beside_it() -> None:
    text = "halt:from=2026-01-01T00:07:30Z,to=2026-01-01T00:08:20Z"
    of = stated(text)
    for number in (7, 8):
        trades = of.trades(NAME, at(number), at(number + 1))
        whole = MARKET.trades(NAME, at(number), at(number + 1))
        assert 0 < len(trades) < len(whole)
        (kline,) = of.page(NAME, at(number), at(number) + 1, 1, newest=False)
        assert kline == kline_of_trades(at(number), trades)
        assert kline == of.as_of(NAME, at(number), at(number + 1))
    assert missing(text) == {}
    assert of.as_of(NAME, at(7), at(7.5)) == of.as_of(NAME, at(7), at(8) - 1)


def test_lost_history_lacks_klines_and_trades_and_its_ids_jump() -> None:
    empty = next(k.open_ms for k in MARKET.page(NAME, at(3), at(99), 99, False) if not k.trades)
    number = (empty - START_MS) // MINUTE_MS
    text = f"lose-history:at=+16m|+24m|+{number}m,symbol={SYMBOL}"
    assert missing(text) == {16: "lost_history", 24: "lost_history", number: "no_trades"}
    of = stated(text)
    rows = traded(of.page(NAME, START_MS, at(60), 1_000, newest=False))
    jumps = [b.open_ms for a, b in pairwise(rows) if a.last_id + 1 != b.first_id]
    assert len(jumps) == 2
    assert not of.trades(NAME, at(16), at(17)) and of.trades(NAME, at(15), at(16))
    assert of.as_of(NAME, at(16), at(16.5)) is None
    assert of.page("ETHUSDT", at(16), at(17), 1, False)


def test_pages_are_filled_from_both_ends() -> None:
    of = stated("halt:from=+10m,to=+500m; lose-history:at=+3m|+505m")
    whole = of.page(NAME, START_MS, at(600), 1_000, newest=False)
    assert len(whole) == 600 - 490 - 2
    assert of.page(NAME, START_MS, at(600), 1_000, newest=True) == whole
    for limit in (1, 5, 12, 50):
        assert of.page(NAME, START_MS, at(600), limit, newest=False) == whole[:limit]
        assert of.page(NAME, START_MS, at(600), limit, newest=True) == whole[-limit:]
    assert of.page(NAME, at(1), at(501), 1_000, newest=True)[-1].open_ms == at(500)


def test_what_is_all_lost_gives_a_short_page_and_ends() -> None:
    assert stated("lose-history:p=1").page(NAME, 0, at(1), 10, newest=True) == []


def test_an_empty_minute_states_a_price_that_somebody_paid() -> None:
    text = "halt:from=+1m,to=+9m"
    empties = SimulatedMarket((SYMBOL,), MarketSettings(seed=5, empty_share=0.9))
    before = traded(empties.page(NAME, START_MS - 9 * MINUTE_MS, at(1), 99, False))[-1]
    (row,) = FaultyMarket(empties, plan(text)).page(NAME, at(9), at(10), 1, False)
    if row.trades:
        row_ms = next(
            n for n in range(9, 15) if not empties.page(NAME, at(n), at(n + 1), 1, False)[0].trades
        )
        text = f"halt:from=+1m,to=+{row_ms}m"
        (row,) = FaultyMarket(empties, plan(text)).page(NAME, at(row_ms), at(row_ms + 1), 1, False)
    assert (row.trades, row.close) == (0, before.close)


def test_history_is_corrected_from_after_past_the_close() -> None:
    of = stated("correct-klines:at=+16m,after=5m")
    (sent,) = of.page(NAME, at(16), at(17), 1, newest=False)
    assert of.in_history(NAME, sent, at(22) - 1) == sent
    corrected = of.in_history(NAME, sent, at(22))
    assert corrected != sent
    assert corrected == of.in_history(NAME, sent, at(9_999)) == of.corrected(NAME, sent)
    by_open = {one.open_ms: one.kline for one in settled("correct-klines:at=+16m,after=5m")}
    assert by_open[at(16)] == corrected
    (change,) = of.changes(START_MS, at(60))[:1]
    assert (change.at_ms, change.fault, change.open_ms) == (at(22), 0, at(16))


def test_a_minute_without_trades_is_never_corrected() -> None:
    of = stated("correct-klines:p=1,after=0m")
    rows = MARKET.page(NAME, START_MS, at(60), 60, newest=False)
    corrected = [of.in_history(NAME, row, at(99)) != row for row in rows]
    assert corrected == [row.trades > 0 for row in rows]
    assert 0 < corrected.count(False) < 60
    changed = {c.open_ms for c in of.changes(START_MS, at(61)) if c.symbol == SYMBOL}
    assert changed >= {row.open_ms for row in rows if row.trades}
    assert not changed & {row.open_ms for row in rows if not row.trades}


@settings(deadline=None)
@given(chance=st.integers(0, 2**64 - 1), number=st.integers(0, 500), decimals=st.integers(0, 8))
def test_a_corrected_kline_is_one_that_trades_could_have_made(
    chance: int, number: int, decimals: int
) -> None:
    sent = MARKET.page(NAME, at(number), at(number + 1), 1, newest=False)[0]
    if not sent.trades:
        return
    new = corrected_kline(sent, decimals, chance)
    assert new != sent
    assert (new.trades, new.first_id, new.last_id) == (sent.trades, sent.first_id, sent.last_id)
    open_, high, low, close = (Decimal(x) for x in (new.open, new.high, new.low, new.close))
    assert 0 < low <= min(open_, close) <= max(open_, close) <= high
    volume, quote = Decimal(new.volume), Decimal(new.quote_volume)
    assert volume >= Decimal(sent.volume) and Decimal(new.taker_volume) <= volume
    assert low * volume * Decimal("0.999") <= quote <= high * volume * Decimal("1.001")


def test_changes_are_told_once_each_and_in_order() -> None:
    of = stated("correct-klines:p=0.2,after=3m; lose-history:p=0.1")
    whole = of.changes(START_MS, at(120))
    halves = [*of.changes(START_MS, at(47.3)), *of.changes(at(47.3), at(120))]
    assert whole == halves
    assert [c.at_ms for c in whole] == sorted(c.at_ms for c in whole)
    assert {change.fault for change in whole} == {0, 1}


def test_the_truth_is_the_same_for_the_same_seed() -> None:
    text = "correct-klines:p=0.2;lose-history:p=0.1;halt:from=+5m,to=+9m"

    def truth(seed: int) -> list[Settled]:
        return list(settled_klines(MARKET, plan(text, seed), SYMBOL, START_MS, at(200)))

    assert truth(1) == truth(1) != truth(2)
    part = list(settled_klines(MARKET, plan(text), SYMBOL, at(50) + 1, at(90)))
    assert part == truth(1)[51:90]


def test_a_symbol_that_is_not_listed_is_named() -> None:
    with pytest.raises(UsageError, match="symbol"):
        next(settled_klines(MARKET, plan(""), "NO/PE", 0, 1))
