"""The live feed as a value: what leaves, what waits, what is asked, how far it is complete."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

import pytest

from seamline.schemas.errors import ContractError
from seamline.streams.kernel.feed import (
    BarDedupe,
    BarFeed,
    Cause,
    FeedBar,
    FeedLimits,
    Hole,
    Ladder,
    LogConsumer,
    TradeDedupe,
)

MIN = 60_000_000_000
SEC = 1_000_000_000
BTC = "BTC/USDT"
ETH = "ETH/USDT"
NAN = float("nan")


def bar(minute: int, *, ids: tuple[int, int] = (-1, -1), close: float = 1.0) -> FeedBar:
    return FeedBar(minute * MIN, 1.0, 1.0, 1.0, close, 1.0, NAN, -1, *ids, 1, 0)


def rest(minute: int, **changes: float) -> FeedBar:
    return replace(bar(minute), source=0, **changes)  # type: ignore[arg-type]


def minutes(bars: Iterable[FeedBar]) -> list[int]:
    return [b.open_time_ns // MIN for b in bars]


def feed(*symbols: str, limits: FeedLimits | None = None) -> BarFeed:
    return BarFeed(dict.fromkeys(symbols or (BTC,), 10 * MIN), MIN, limits=limits)


def test_contiguous_bars_leave_at_once_and_carry_the_watermark() -> None:
    f = feed()
    assert minutes(f.on_bar(BTC, bar(10))) == [10]
    assert minutes(f.on_bar(BTC, bar(11))) == [11]
    assert f.holes() == ()
    assert f.watermark_ns == 12 * MIN


def test_newer_bars_wait_until_the_hole_is_filled() -> None:
    f = feed()
    f.on_bar(BTC, bar(10))
    assert f.on_bar(BTC, bar(13)) == []
    assert f.on_bar(BTC, bar(14)) == []
    assert f.holes() == (Hole(BTC, 11 * MIN, 13 * MIN, Cause.MISSING),)
    assert f.watermark_ns == 11 * MIN
    sent = f.on_answer(BTC, 11 * MIN, 13 * MIN, [rest(12), rest(11)])
    assert minutes(sent) == [11, 12, 13, 14]
    assert f.holes() == () and f.watermark_ns == 15 * MIN
    assert (f.counters.held, f.held) == (2, 0)


def test_an_answer_of_nothing_opens_the_way() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_bar(BTC, bar(13, ids=(6, 9)))
    assert minutes(f.on_answer(BTC, 11 * MIN, 13 * MIN, [])) == [13]
    assert f.counters.empty_cells == 2
    assert f.counters.empty_proved == 2, "ids 5 and 6 prove that nobody traded between"


def test_an_empty_answer_proves_nothing_when_ids_are_missing() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_bar(BTC, bar(12, ids=(8, 9)))
    f.on_answer(BTC, 11 * MIN, 12 * MIN, [])
    assert (f.counters.empty_cells, f.counters.empty_proved) == (1, 0)


def test_a_long_hole_is_answered_page_by_page() -> None:
    f = feed()
    f.on_connected(20 * MIN)
    assert f.on_bar(BTC, bar(20)) == []
    assert minutes(f.on_answer(BTC, 10 * MIN, 15 * MIN, map(rest, range(10, 15)))) == [
        *range(10, 15)
    ]
    assert f.holes() == (Hole(BTC, 15 * MIN, 20 * MIN, Cause.CONNECTED),)
    assert f.watermark_ns == 15 * MIN
    assert minutes(f.on_answer(BTC, 15 * MIN, 20 * MIN, map(rest, range(15, 20)))) == [
        *range(15, 21)
    ]


def test_an_answer_behind_the_expected_bar_moves_nothing() -> None:
    f = feed()
    assert f.on_answer(BTC, 12 * MIN, 13 * MIN, [rest(12)]) == []
    assert f.watermark_ns == 10 * MIN


def test_reordered_frames_fill_their_own_hole() -> None:
    f = feed()
    assert f.on_bar(BTC, bar(11)) == []
    assert minutes(f.on_bar(BTC, bar(10))) == [10, 11]
    assert f.holes() == ()


def test_settled_history_that_differs_leaves_again_and_equal_bars_do_not() -> None:
    f = feed()
    for minute in (10, 11, 12):
        f.on_bar(BTC, bar(minute, ids=(minute, minute)))
    asked = [rest(10), rest(11, close=2.0), rest(12), rest(13)]
    assert minutes(f.on_settled(BTC, asked)) == [11], "13 has not left: the feed decides on it"
    assert f.on_settled(BTC, asked) == []
    assert (f.counters.settled_compared, f.counters.settled_differ) == (6, 1)
    assert f.watermark_ns == 13 * MIN


def test_what_is_remembered_is_not_sent_and_takes_no_place_in_the_chain() -> None:
    f = feed()
    f.remember(BTC, [bar(8), bar(9)])
    assert f.on_settled(BTC, [rest(8), rest(9, close=3.0)]) == [rest(9, close=3.0)]
    assert f.repeats == 1 and f.holes() == ()


def test_a_socket_speaks_for_its_own_symbols() -> None:
    f = feed(BTC, ETH)
    f.on_connected(12 * MIN, (ETH,))
    assert [hole.symbol for hole in f.holes()] == [ETH]


def test_a_late_correction_leaves_and_a_repeat_does_not() -> None:
    f = feed()
    f.on_bar(BTC, bar(10))
    assert f.on_bar(BTC, bar(10)) == []
    assert minutes(f.on_bar(BTC, bar(10, close=2.0))) == [10]
    assert (f.repeats, f.counters.late) == (1, 1)


def test_history_and_socket_disagree_on_a_cell_both_leave_higher_authority_last() -> None:
    f = feed()
    f.on_bar(BTC, bar(11))
    f.on_bar(BTC, bar(12))
    f.on_connected(13 * MIN)
    fresh = replace(rest(11, close=3.0), source=2)
    sent = f.on_answer(BTC, 10 * MIN, 13 * MIN, [rest(10), fresh])
    assert [(b.open_time_ns // MIN, b.source) for b in sent] == [(10, 0), (11, 2), (11, 1), (12, 1)]


def test_trade_ids_that_do_not_go_on_ask_the_bar_before_again() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    assert f.on_bar(BTC, bar(11, ids=(8, 9))) == []
    assert f.holes() == (Hole(BTC, 10 * MIN, 11 * MIN, Cause.TRADE_IDS),)
    assert f.counters.id_breaks == 1
    healed = replace(rest(10), first_trade_id=1, last_trade_id=7)
    assert minutes(f.on_answer(BTC, 10 * MIN, 11 * MIN, [healed])) == [10, 11]
    assert f.watermark_ns == 12 * MIN


def test_trade_ids_that_stay_broken_are_counted_and_let_through() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_bar(BTC, bar(11, ids=(8, 9)))
    unchanged = replace(rest(10), first_trade_id=1, last_trade_id=5)
    assert minutes(f.on_answer(BTC, 10 * MIN, 11 * MIN, [unchanged])) == [11]
    assert (f.holes(), f.counters.id_breaks) == ((), 1)


def test_history_without_ids_keeps_the_chain_by_its_counts() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_bar(BTC, bar(13, ids=(10, 12)))
    sent = f.on_answer(BTC, 11 * MIN, 13 * MIN, [rest(11, trades=4)])
    assert minutes(sent) == [11, 13]
    assert (f.counters.id_breaks, f.counters.empty_cells, f.counters.empty_proved) == (0, 1, 1)


def test_a_count_that_does_not_fit_asks_everything_since_the_last_known_id() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_bar(BTC, bar(12, ids=(10, 12)))
    assert minutes(f.on_answer(BTC, 11 * MIN, 12 * MIN, [rest(11, trades=3)])) == [11]
    assert f.holes() == (Hole(BTC, 10 * MIN, 12 * MIN, Cause.TRADE_IDS),)
    again = [rest(10, trades=5), rest(11, trades=4, close=2.0)]
    assert minutes(f.on_answer(BTC, 10 * MIN, 12 * MIN, again)) == [10, 11, 12]
    assert f.counters.id_breaks_kept == 0


def test_an_anchor_too_far_behind_is_not_asked_again() -> None:
    f = feed(limits=FeedLimits(reasked_bars=2))
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    f.on_connected(13 * MIN)
    f.on_answer(BTC, 11 * MIN, 13 * MIN, [rest(11, trades=1), rest(12, trades=1)])
    assert minutes(f.on_bar(BTC, bar(13, ids=(99, 99)))) == [13]
    assert (f.counters.id_breaks, f.counters.id_breaks_kept) == (0, 1)


def test_a_null_says_nothing_and_a_value_for_a_null_is_new() -> None:
    d = BarDedupe()
    full = bar(1, ids=(1, 5))
    assert d.new(BTC, [rest(1)]) and d.new(BTC, [full]) == [full]
    assert d.new(BTC, [rest(1), full]) == []


def test_bars_without_trades_do_not_break_the_chain_of_ids() -> None:
    f = feed()
    f.on_bar(BTC, bar(10, ids=(1, 5)))
    assert minutes(f.on_bar(BTC, bar(11))) == [11]
    assert minutes(f.on_bar(BTC, bar(12, ids=(6, 6)))) == [12]
    assert f.counters.id_breaks == 0


def test_a_bar_that_never_comes_is_asked_when_patience_ends() -> None:
    f = feed(limits=FeedLimits(overdue_ns=2 * SEC))
    f.on_tick(0, 11 * MIN + 1)
    f.on_tick(1 * SEC, 12 * MIN)
    assert f.holes() == ()
    f.on_tick(2 * SEC, 13 * MIN)
    # Bars that closed while waiting may still be on their way: only what was closed at first.
    assert f.holes() == (Hole(BTC, 10 * MIN, 11 * MIN, Cause.OVERDUE),)


def test_a_feed_that_advances_is_not_overdue_at_any_speed_of_the_venue() -> None:
    f = feed(limits=FeedLimits(overdue_ns=2 * SEC))
    for step in range(100):
        f.on_tick(step * SEC, (11 + step) * MIN)
        f.on_bar(BTC, bar(10 + step))
    assert f.counters.holes == 0


def test_the_watermark_waits_for_the_slowest_symbol() -> None:
    f = feed(BTC, ETH)
    f.on_bar(BTC, bar(10))
    assert f.watermark_ns == 10 * MIN
    f.on_bar(ETH, bar(10))
    assert f.watermark_ns == 11 * MIN


def test_what_the_hold_cannot_keep_is_asked_again() -> None:
    f = feed(limits=FeedLimits(held_bars=2))
    for minute in (12, 13, 14, 15):
        f.on_bar(BTC, bar(minute))
    assert (f.counters.hold_overflow, f.held) == (2, 2)
    assert minutes(f.on_answer(BTC, 10 * MIN, 12 * MIN, [rest(10), rest(11)])) == [10, 11, 12, 13]
    f.on_bar(BTC, bar(16))
    assert f.holes() == (Hole(BTC, 14 * MIN, 16 * MIN, Cause.MISSING),)


def test_off_grid_bars_pass_and_leave_their_cell_open() -> None:
    f = feed()
    odd = replace(bar(10), open_time_ns=10 * MIN + 14 * SEC)
    assert f.on_bar(BTC, odd) == [odd]
    assert (f.counters.off_grid, f.watermark_ns) == (1, 10 * MIN)


def test_a_seeded_bar_is_known_and_not_sent() -> None:
    f = feed()
    f.seed(BTC, bar(9, ids=(1, 5)))
    assert f.on_bar(BTC, bar(9, ids=(1, 5))) == []
    f.on_bar(BTC, bar(10, ids=(7, 8)))
    assert f.holes() == (Hole(BTC, 9 * MIN, 10 * MIN, Cause.TRADE_IDS),)


def test_memory_of_bars_is_bounded_and_forgets_towards_repeating() -> None:
    d = BarDedupe(remembered=2)
    d.new(BTC, [bar(1), bar(2), bar(3)])
    assert minutes(d.new(BTC, [bar(3), bar(1)])) == [1]


def test_a_bar_with_nan_is_given_once() -> None:
    d = BarDedupe()
    odd = bar(1, close=NAN)
    assert len(d.new(BTC, [odd, odd])) == 1


def test_trades_by_id_with_missing_ids_counted_until_they_come() -> None:
    d = TradeDedupe(remembered=4)
    assert d.new(BTC, [1, 2, 2, 5]) == [0, 1, 3]
    assert (d.repeats, d.missing) == (1, 2)
    assert d.new(BTC, [3]) == [0]
    assert d.missing == 1


def test_ladder_needs_no_end() -> None:
    ladder = Ladder((100, 250))
    pauses = []
    for _ in range(4):
        ladder, pause = ladder.failed()
        pauses.append(pause)
    assert pauses == [100, 250, 250, 250]
    assert ladder.connected().failed()[1] == 100


def test_a_record_is_done_only_after_it_is_done() -> None:
    seen: list[Hashable] = []

    def fails_on_two(record: Hashable) -> None:
        if record == "r2":
            raise OSError("no")
        seen.append(record)

    consumer = LogConsumer(fails_on_two, attempts_max=3)
    with pytest.raises(ContractError) as raised:
        consumer.consume_all(["r1", "r2", "r3"])
    assert raised.value.fields == {"record": "r2", "attempts": 3}
    assert (seen, consumer.done("r1"), consumer.done("r2")) == (["r1"], True, False)
    assert consumer.consume_all(["r1"]) == [] and consumer.redelivered == 1
