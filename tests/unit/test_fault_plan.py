"""Decisions of the simulator's faults: they follow from seed, fault and what it strikes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fault_frames import MIN, START_MS, minute, plan
from seamline.connectors.venues.binance_parse import KlineFrame, Malformed, TradeFrame, parse_frame
from seamline.connectors.venues.binance_shapes import kline_event, trade_event
from seamline.connectors.venues.binance_stream import StreamRules
from seamline.connectors.venues.fault_plan import Fate, FaultPlan, Happening, RequestFate
from seamline.connectors.venues.faulty_frames import (
    UNLISTED,
    malformed,
    oversized,
    wrong_symbol,
)
from seamline.connectors.venues.market import Trade, empty_kline
from seamline.connectors.venues.venue_events import dumped

OF_FRAMES = (
    "lose-frames:p=0.5",
    "duplicate-frames:p=0.5",
    "reorder-frames:p=0.5",
    "delay-frames:p=0.5,by=2s",
    "malformed-frames:p=0.5",
    "oversized-frames:p=0.5",
    "wrong-symbol:p=0.5",
    "drop-socket:p=0.5",
)
KLINE_TEXT = dumped(kline_event("BTCUSDT", empty_kline(START_MS, "1.00000000"), START_MS, True))
TRADE_TEXT = dumped(
    trade_event("BTCUSDT", Trade(7, START_MS, "1.00000000", "2.00000000", True), START_MS)
)


@pytest.mark.parametrize("text", OF_FRAMES)
def test_each_kind_of_frames_has_its_fate(text: str) -> None:
    of = plan(text)
    fates = [of.fate(minute(n))[0] for n in range(200)]
    assert set(fates) == {Fate.SEND, Fate(text.partition(":")[0])}
    assert 60 < fates.count(Fate.SEND) < 140


@settings(deadline=None)
@given(seed=st.integers(0, 2**40), texts=st.permutations(OF_FRAMES))
def test_the_same_seed_gives_the_same_fates_and_another_others(seed: int, texts: list[str]) -> None:
    text = ";".join(texts[:3])
    frames = [minute(n) for n in range(64)]

    def fates(of: FaultPlan) -> list[object]:
        return [(of.fate(f), of.frame_chance(0, f)) for f in frames]

    one = fates(plan(text, seed))
    assert one == fates(plan(text, seed))
    assert one != fates(plan(text, seed + 1))


def test_a_request_is_refused_and_slowed_by_its_number() -> None:
    of = plan("limit-rest:every=3,status=418,retry_after=7s; slow-rest:every=2,by=3s")
    assert of.request(1, START_MS) == RequestFate()
    assert of.request(2, START_MS) == RequestFate(slow_ms=3_000, slowed_by=1)
    assert of.request(3, START_MS) == RequestFate(418, 7, 0)
    assert of.request(6, START_MS) == RequestFate(418, 7, 0, 3_000, 1)
    by_chance = plan("limit-rest:p=0.2,from=+1m")
    refused = [by_chance.request(n, START_MS + MIN).status for n in range(1_000)]
    assert 130 < refused.count(429) < 270 and set(refused) == {200, 429}
    assert {by_chance.request(n, START_MS).status for n in range(1_000)} == {200}


def test_an_outage_is_half_open_and_may_be_of_one_side() -> None:
    of = plan(
        "outage:from=+2m,to=+4m,only=rest; outage:from=+3m,to=+5m,only=ws; halt:from=+9m,to=+10m"
    )
    at = [START_MS + n * MIN for n in range(11)]
    assert [of.down("rest", t) for t in at] == [-1, -1, 0, 0, -1, -1, -1, -1, -1, 2, -1]
    assert [of.down("ws", t) for t in at] == [-1, -1, -1, 1, 1, -1, -1, -1, -1, 2, -1]
    assert of.down("rest", at[4] - 1) == 0
    drops = [(m.at_ms, m.fault, m.happening) for m in of.moments(at[0], at[10])]
    assert drops == [(at[3], 1, Happening.DROP), (at[9], 2, Happening.DROP)]


def test_halts_are_merged() -> None:
    of = plan("halt:from=+5m,to=+9m; halt:from=+1m,to=+2m; halt:from=+9m,to=+10m")
    spans = [(START_MS + a * MIN, START_MS + b * MIN) for a, b in ((1, 2), (5, 10))]
    assert of.halts() == spans


def test_a_shutdown_is_announced_and_spares_who_connects_after_it() -> None:
    of = plan("shutdown:at=+5m,notice=3m")
    said, done = of.moments(START_MS, START_MS + 60 * MIN)
    assert (said.at_ms, said.happening) == (START_MS + 5 * MIN, Happening.ANNOUNCE)
    assert (done.at_ms, done.happening) == (START_MS + 8 * MIN, Happening.CLOSE)
    assert said.opened_before_ms == done.opened_before_ms == START_MS + 5 * MIN
    assert of.next_moment_ms(START_MS + 5 * MIN) == done.at_ms


def test_the_clock_is_off_within_its_span() -> None:
    of = plan("clock:by=-90s,from=+5m,to=+9m; clock:by=+1500ms")
    assert of.clock(START_MS) == (START_MS + 1_500, 1)
    assert of.clock(START_MS + 5 * MIN) == (START_MS + 5 * MIN - 90_000, 0)
    assert of.shown_ms(START_MS + 9 * MIN) == START_MS + 9 * MIN + 1_500
    assert plan("").clock(7) == (7, -1)


@pytest.mark.parametrize("kind", ["lose-history", "correct-klines"])
def test_minutes_are_struck_by_time_count_and_chance(kind: str) -> None:
    def struck(text: str, symbol: str = "BTC/USDT", seed: int = 1) -> list[int]:
        of = plan(f"{kind}:{text}", seed)
        ask = of.lost if kind == "lose-history" else of.correction
        return [n for n in range(1_000) if ask(symbol, START_MS + n * MIN) >= 0]

    assert struck("at=+3m|+7m") == [3, 7]
    assert struck("at=+3m,symbol=ETH/USDT") == []
    assert struck("every=100,from=+150m,to=+401m") == [240, 340]
    by_chance = struck("p=0.1")
    assert 60 < len(by_chance) < 140
    assert by_chance == struck("p=0.1") != struck("p=0.1", seed=2)
    assert by_chance != struck("p=0.1", symbol="ETH/USDT")


@settings(deadline=None)
@given(chance=st.integers(0, 2**64 - 1), enveloped=st.booleans(), trade=st.booleans())
def test_a_malformed_frame_is_no_message(chance: int, enveloped: bool, trade: bool) -> None:
    text = TRADE_TEXT if trade else KLINE_TEXT
    if enveloped:
        text = f'{{"stream":"x","data":{text}}}'
    assert isinstance(parse_frame(malformed(text, chance).encode(), 0), Malformed)


def test_an_oversized_frame_is_the_message_with_more_bytes_than_a_client_takes() -> None:
    big = oversized(KLINE_TEXT)
    assert len(big.encode()) > StreamRules().frame_bytes_max
    assert parse_frame(big.encode(), 0) == parse_frame(KLINE_TEXT.encode(), 0)


def test_a_wrong_symbol_is_unlisted_listed_or_inside_only() -> None:
    def said(text: str, disguise: str, others: tuple[str, ...] = ("ETHUSDT",)) -> object:
        frame = parse_frame(wrong_symbol(text, others, disguise, 0).encode(), 0)
        assert isinstance(frame, KlineFrame | TradeFrame | Malformed)
        return frame.reason if isinstance(frame, Malformed) else frame.venue_symbol

    assert said(KLINE_TEXT, "unlisted") == UNLISTED
    assert said(KLINE_TEXT, "listed") == "ETHUSDT"
    assert said(KLINE_TEXT, "listed", ()) == UNLISTED
    assert said(KLINE_TEXT, "inner") == "bad_s"
    # In an envelope the stream still says whose it is.
    enveloped = f'{{"stream":"btcusdt@kline_1m","data":{KLINE_TEXT}}}'
    assert said(enveloped, "unlisted") == said(enveloped, "listed") == "bad_stream"
    assert said(enveloped, "inner") == "bad_s"
    assert said(TRADE_TEXT, "inner") == "ETHUSDT"
    texts = {wrong_symbol(KLINE_TEXT, ("ETHUSDT",), "any", chance) for chance in range(64)}
    assert len(texts) == 3
