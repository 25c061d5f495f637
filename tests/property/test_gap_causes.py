"""The cause of a gap: a total table that more evidence never makes less sure."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.schemas.columns import REST_FRESH, REST_SETTLED, SUSPECT, WS_CLOSED, WS_OPEN
from seamline.streams.kernel.gap_causes import (
    LATE,
    NO_TRADES,
    OUR_LOSS,
    PROVED,
    TABLE,
    UNKNOWN,
    VENUE_OUTAGE,
    Evidence,
    Facts,
    Ids,
    Interval,
    Side,
    cause,
    touching,
    verdict,
    written_as,
)

IDS: tuple[Ids, ...] = ("join", "jump", "silent")
BOOLS = (False, True)
cells = st.integers(-20, 20)
intervals = st.lists(st.tuples(cells, cells), max_size=4).map(tuple)
ids = st.none() | st.integers(0, 12)
gaps = st.tuples(cells, st.integers(1, 8)).map(lambda gap: (gap[0], gap[0] + gap[1]))
evidences = st.builds(
    Evidence,
    last_id_before=ids,
    first_id_after=ids,
    whole_sides=st.booleans(),
    sent=intervals,
    outages=intervals,
    answered=intervals,
    settled_through=st.none() | cells,
    forgotten_before=st.none() | cells,
    stated_down=st.booleans(),
)


@pytest.mark.parametrize("facts", list(product(IDS, BOOLS, BOOLS, BOOLS, BOOLS)))
def test_exactly_one_row_fits_every_combination(
    facts: tuple[Ids, bool, bool, bool, bool],
) -> None:
    assert len([rule for rule in TABLE if rule.fits(Facts(*facts))]) == 1


def points(of: tuple[Interval, ...]) -> set[int]:
    return {cell for start, end in of for cell in range(start, end)}


def by_hand(gap: Interval, known: Evidence) -> str:
    """The words of the design, cell by cell."""
    missing = set(range(*gap))
    before, after = known.last_id_before, known.first_id_after
    if before is not None and after is not None and after > before:
        between = set(range(before + 1, after))
        if not between:
            return NO_TRADES
        if known.whole_sides:
            return VENUE_OUTAGE if missing <= points(known.answered) else OUR_LOSS
    if missing & points(known.sent):
        return OUR_LOSS
    if missing <= points(known.outages):
        return VENUE_OUTAGE
    forgotten = known.forgotten_before
    if known.stated_down and forgotten is not None and max(missing) < forgotten:
        return VENUE_OUTAGE
    young = known.settled_through is not None and max(missing) >= known.settled_through
    return LATE if young and missing - points(known.answered) else UNKNOWN


@given(gaps, evidences)
def test_the_table_says_what_the_words_say(gap: Interval, known: Evidence) -> None:
    assert cause(gap, known) == by_hand(gap, known)


@given(gaps, evidences, evidences)
def test_more_evidence_never_makes_a_proved_cause_unknown(
    gap: Interval, known: Evidence, more: Evidence
) -> None:
    """Ids are added where none were; ranges and notices are added; time passes."""
    first, second = known.last_id_before, known.first_id_after
    grown = replace(
        known,
        last_id_before=more.last_id_before if first is None else first,
        first_id_after=more.first_id_after if second is None else second,
        sent=known.sent + more.sent,
        outages=known.outages + more.outages,
        answered=known.answered + more.answered,
        settled_through=None,
    )
    if cause(gap, known) in PROVED:
        assert cause(gap, grown) in PROVED
        assert written_as(cause(gap, grown), verdict(gap, grown).because) == verdict(gap, grown)
    if None not in (first, second) and cause(gap, known) == NO_TRADES:
        assert cause(gap, grown) == NO_TRADES


@given(gaps, st.integers(0, 5), st.integers(0, 5))
def test_no_evidence_of_absence(gap: Interval, before: int, backwards: int) -> None:
    """Neither an empty answer nor ids that run backwards prove anything."""
    known = Evidence(before + backwards, before, answered=(gap,), settled_through=gap[0])
    assert cause(gap, known) == UNKNOWN
    assert cause(gap, replace(known, answered=())) == LATE


@pytest.mark.parametrize("source", [REST_SETTLED, WS_CLOSED, REST_FRESH, WS_OPEN])
def test_ids_count_only_from_a_source_that_states_closed_bars(source: int) -> None:
    side = Side(5, 9, REST_SETTLED, source << 12 | REST_FRESH << 14)
    trusted = source in (REST_SETTLED, WS_CLOSED)
    assert side.trusted_first(derived=False) == (5 if trusted else None)
    assert side.trusted_last(derived=False) is None
    assert side.trusted_last(derived=True) == 9
    suspect = replace(side, flags=SUSPECT)
    assert suspect.trusted_first(derived=False) is suspect.trusted_first(derived=True) is None
    assert replace(side, first_id=-1, flags=0).trusted_first(derived=False) is None
    low = replace(side, source=source, flags=0)
    assert low.trusted_last(derived=True) == (9 if trusted else None)


@given(st.sets(cells), cells, st.integers(0, 6))
def test_touching_gaps_are_those_in_which_or_beside_which_a_cell_lies(
    missing: set[int], start: int, length: int
) -> None:
    runs: list[Interval] = []
    for cell in sorted(missing):
        if runs and runs[-1][1] == cell:
            runs[-1] = (runs[-1][0], cell + 1)
        else:
            runs.append((cell, cell + 1))
    end = start + length
    expected = [run for run in runs if run[1] >= start and run[0] <= end]
    gaps = np.array(runs, np.int64).reshape(-1, 2)
    assert touching(gaps, start, end) == expected


def test_a_statement_that_has_no_more_room_takes_nothing_back() -> None:
    """A full statement no longer names the oldest outage: a gap in it stays one."""
    known = Evidence(stated_down=True, settled_through=100)
    assert cause((3, 5), known) == UNKNOWN  # the venue took it back
    assert cause((3, 5), replace(known, forgotten_before=5)) == VENUE_OUTAGE
    assert cause((3, 6), replace(known, forgotten_before=5)) == UNKNOWN


def test_trades_that_settled_history_lacks_were_lost_at_the_venue() -> None:
    """Whether it said that it was down or not: our own loss would have been filled."""
    jump = Evidence(5, 9)
    assert cause((3, 5), jump) == OUR_LOSS
    assert cause((3, 5), replace(jump, outages=((0, 9),))) == OUR_LOSS
    assert cause((3, 5), replace(jump, answered=((0, 4),))) == OUR_LOSS
    for outages in ((), ((0, 9),)):
        answered = replace(jump, answered=((0, 4), (4, 9)), outages=outages)
        assert cause((3, 5), answered) == VENUE_OUTAGE
        assert "the venue lost it" in (verdict((3, 5), answered).because or "")
    assert cause((3, 5), replace(jump, first_id_after=6, answered=((0, 9),))) == NO_TRADES


def test_each_row_but_the_last_says_why() -> None:
    reasons = [rule.because for rule in TABLE]
    assert None not in reasons[:-1] and len(set(reasons)) == len(TABLE)
    for rule in TABLE:
        assert written_as(rule.cause, rule.because) is rule
        assert written_as(rule.cause, None).cause == rule.cause  # written before there were reasons


def test_a_gap_is_late_until_its_last_cell_has_settled() -> None:
    assert cause((0, 10), Evidence(settled_through=9)) == LATE
    assert cause((0, 10), Evidence(settled_through=10)) == UNKNOWN
