"""What bounds a live connector: the inbox, previews, the settled check, the venue's outages."""

from __future__ import annotations

import pytest

from seamline.schemas.errors import UsageError
from seamline.schemas.outages import OUTAGES_MAX, encode_outages
from seamline.streams.kernel.frame_inbox import FrameInbox, Put
from seamline.streams.kernel.outage_ledger import MOMENT_NS, OutageLedger, Side
from seamline.streams.kernel.previews import PreviewGate
from seamline.streams.kernel.settled_check import SettledCheck, SettledRules, Span

S = 1_000_000_000
MIN = 60 * S


def test_the_inbox_keeps_order_and_gives_up_previews_first() -> None:
    inbox = FrameInbox[int](items_max=8, bytes_max=1_000)
    assert [inbox.put(n, 1, spare=True) for n in range(3)] == [Put.KEPT, Put.KEPT, Put.SPARED]
    assert [inbox.put(n, 1) for n in range(10, 16)] == [Put.KEPT] * 6
    assert not inbox.spilling
    assert [inbox.take() for _ in range(9)] == [0, 1, 10, 11, 12, 13, 14, 15, None]
    assert not inbox.recovered(), "nothing that matters was refused"


def test_after_a_spill_all_is_refused_until_the_inbox_is_empty_and_that_is_said_once() -> None:
    inbox = FrameInbox[int](items_max=2, bytes_max=1_000)
    assert [inbox.put(n, 1) for n in range(3)] == [Put.KEPT, Put.KEPT, Put.SPILLED]
    inbox.take()
    assert inbox.put(3, 1) is Put.SPILLED, "a hole in the middle would be silent"
    assert not inbox.recovered()
    inbox.take()
    assert inbox.recovered() and not inbox.recovered()
    assert inbox.put(4, 1) is Put.KEPT


def test_bytes_bound_the_inbox_too() -> None:
    inbox = FrameInbox[int](items_max=100, bytes_max=10)
    assert inbox.put(0, 6) is Put.KEPT
    assert inbox.put(1, 6) is Put.SPILLED


def test_previews_of_a_symbol_are_a_second_apart() -> None:
    gate = PreviewGate(S)
    assert [gate.allows("A", 0), gate.allows("A", S - 1), gate.allows("B", S - 1)] == [
        *(True, False, True)
    ]
    assert gate.allows("A", S)


def check(batch: int = 3) -> SettledCheck:
    rules = SettledRules(batch_bars=batch, span_bars_max=10)
    return SettledCheck({"A": 0, "B": 2 * MIN}, MIN, 5 * MIN, rules)


def test_a_batch_is_due_when_all_of_it_is_settled_and_has_left() -> None:
    c = check()
    left = {"A": 8 * MIN, "B": 8 * MIN}
    assert c.due(8 * MIN - 1, left) is None
    assert c.due(8 * MIN, left) == Span("A", 0, 3 * MIN)
    assert c.due(20 * MIN, {"A": 2 * MIN, "B": 2 * MIN}) is None, "a hole is in front of it"


def test_the_symbol_furthest_behind_comes_first_and_spans_are_bounded() -> None:
    c = check()
    left = {"A": 90 * MIN, "B": 90 * MIN}
    asked = []
    while (span := c.due(60 * MIN, left)) is not None:
        asked.append((span.symbol, span.start_ns // MIN, span.end_ns // MIN))
        c.done(span, span.end_ns)
    for symbol, first in (("A", 0), ("B", 2)):
        spans = [(start, end) for name, start, end in asked if name == symbol]
        assert [start for start, _ in spans] == [first, *(end for _, end in spans[:-1])]
        assert spans[-1][1] == 55 and max(end - start for start, end in spans) == 10
    assert c.through_ns == 55 * MIN


def test_a_short_answer_is_gone_on_from() -> None:
    c = check()
    span = c.due(20 * MIN, {"A": 90 * MIN, "B": 0})
    assert span is not None
    c.done(span, MIN)
    assert c.due(20 * MIN, {"A": 90 * MIN, "B": 0}) == Span("A", MIN, 11 * MIN)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="settled_batch"):
        SettledRules(batch_bars=0)


def test_an_outage_begins_at_the_last_sign_of_life_and_ends_with_an_answer() -> None:
    ledger = OutageLedger()
    ledger.alive(Side.REST, 100 * S, 0)
    ledger.refused(Side.REST, 101 * S, 1 * S)
    ledger.refused(Side.REST, 150 * S, 50 * S)
    assert ledger.stated() == ((100 * S, None),)
    ledger.alive(Side.REST, 160 * S, 60 * S)
    assert ledger.stated() == ((100 * S, 160 * S),)


def test_a_silence_of_our_own_before_a_refusal_is_no_outage() -> None:
    ledger = OutageLedger()
    ledger.alive(Side.REST, 100 * S, 0)
    ledger.refused(Side.REST, 900 * S, MOMENT_NS + 1)
    assert ledger.stated() == ((900 * S, None),)


def test_both_sides_have_to_answer_again() -> None:
    ledger = OutageLedger()
    ledger.refused(Side.REST, 100 * S, 0)
    ledger.refused(Side.WS, 101 * S, 1 * S)
    ledger.alive(Side.REST, 110 * S, 10 * S)
    assert ledger.stated() == ((100 * S, None),)
    ledger.alive(Side.WS, 120 * S, 20 * S)
    assert ledger.stated() == ((100 * S, 120 * S),)


def test_the_newest_spans_are_kept_and_can_be_written() -> None:
    ledger = OutageLedger()
    for n in range(OUTAGES_MAX + 5):
        ledger.refused(Side.REST, (10 * n + 1) * S, n * MIN)
        ledger.alive(Side.REST, (10 * n + 5) * S, n * MIN + S)
    ledger.refused(Side.REST, 1_000 * S, 60 * MIN)
    stated = ledger.stated()
    assert len(stated) == OUTAGES_MAX and stated[-1] == (1_000 * S, None)
    assert stated[0][0] == 61 * S
    assert encode_outages(stated).count(b",") == OUTAGES_MAX - 1


def test_a_clock_that_jumps_back_makes_no_span_that_ends_before_it_begins() -> None:
    ledger = OutageLedger()
    ledger.refused(Side.REST, 100 * S, 0)
    ledger.alive(Side.REST, 50 * S, S)
    assert ledger.stated() == ()
    ledger.refused(Side.REST, 60 * S, 2 * S)
    ledger.alive(Side.REST, 70 * S, 3 * S)
    ledger.refused(Side.REST, 65 * S, 4 * S)
    assert ledger.stated() == ((50 * S, None),), "the span before it is not over"
    assert encode_outages(ledger.stated())


def test_a_venue_that_answers_now_and_then_is_in_one_outage() -> None:
    """Spans that touch are one where they are written: counted as many they would push out the
    older ones, and nobody could tell."""
    ledger = OutageLedger()
    ledger.refused(Side.REST, 10 * S, 0)
    ledger.alive(Side.REST, 20 * S, 10 * S)
    for n in range(2 * OUTAGES_MAX):
        at = (100 + 5 * n) * S
        ledger.alive(Side.REST, at, at)
        ledger.refused(Side.REST, at + S, at + S)
        ledger.alive(Side.REST, at + 5 * S, at + 5 * S)
    end = (100 + 5 * 2 * OUTAGES_MAX) * S
    assert ledger.stated() == ((10 * S, 20 * S), (100 * S, end))
    ledger.refused(Side.REST, end + S, end + S)
    assert ledger.stated() == ((10 * S, 20 * S), (100 * S, None))


def test_a_start_looks_back_over_all_that_may_not_have_been_asked_for() -> None:
    assert SettledRules().remembered_bars == 180
    assert SettledRules(batch_bars=1_000).remembered_bars == 2_000


def test_what_an_earlier_run_stated_goes_on_until_the_venue_answers() -> None:
    ledger = OutageLedger()
    ledger.resume(((10 * S, 20 * S), (50 * S, None)))
    assert ledger.stated() == ((10 * S, 20 * S), (50 * S, None))
    ledger.alive(Side.WS, 60 * S, 0)
    ledger.alive(Side.REST, 70 * S, S)
    assert ledger.stated() == ((10 * S, 20 * S), (50 * S, 70 * S))
