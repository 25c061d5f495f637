"""When strict has blocked too much: the limits, the window, and clocks that do not behave."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seamline.schemas.errors import UsageError
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.failure_budget import (
    SLOTS,
    WINDOW_NS,
    BudgetPolicy,
    FailureBudget,
    Spent,
)

SUBJECT = "seamline.ohlcv.x.spot.1m.live-value"
MINUTE = 60 * NS_PER_S
T0 = 1_760_000_000 * NS_PER_S


def budget(**limits: int) -> FailureBudget:
    return FailureBudget(SUBJECT, BudgetPolicy(**limits))


def test_twenty_blocked_records_are_allowed_and_the_next_is_not() -> None:
    made = budget()
    assert [made.add(STRICT, 1, 1, 1, T0 + i) for i in range(20)] == [None] * 20
    assert made.add(STRICT, 1, 1, 1, T0 + 20) == Spent(SUBJECT, 1, 21, 21, 20, WINDOW_NS)


def test_of_many_records_a_thousandth_is_allowed() -> None:
    made = budget()
    assert made.add(STRICT, 1, 200_000, 200, T0) is None
    spent = made.add(STRICT, 1, 1, 1, T0)
    assert spent is not None and (spent.failed, spent.allowed) == (201, 200)


def test_failures_leave_the_window_and_what_was_seen_leaves_with_them() -> None:
    made = budget()
    made.add(STRICT, 1, 1_000_000, 20, T0)
    late = T0 + WINDOW_NS + WINDOW_NS // SLOTS + 1
    # The million would allow 1,000; it has left the window.
    assert made.add(STRICT, 1, 20, 20, late) is None
    assert made.add(STRICT, 1, 1, 1, late) is not None


def test_failures_within_one_window_count_together() -> None:
    made = budget()
    for minute in range(4):
        assert made.add(STRICT, 1, 5, 5, T0 + minute * MINUTE) is None
    assert made.add(STRICT, 1, 1, 1, T0 + 4 * MINUTE) is not None


def test_canary_spends_nothing_and_a_newer_version_begins_anew() -> None:
    made = budget()
    assert made.add(CANARY, 1, 100, 100, T0) is None
    assert made.add(STRICT, 2, 20, 20, T0) is None
    assert made.add(STRICT, 3, 20, 20, T0) is None
    # A commit that was judged before the change and comes after it.
    assert made.add(STRICT, 2, 20, 20, T0) is None
    assert made.add(STRICT, 3, 1, 1, T0) is not None
    assert made.add(CANARY, 4, 1, 1, T0) is None
    assert made.add(STRICT, 5, 20, 20, T0) is None


def test_a_clock_that_goes_back_forgets_no_failure() -> None:
    made = budget()
    made.add(STRICT, 1, 15, 15, T0)
    assert made.add(STRICT, 1, 5, 5, T0 - 3_600 * NS_PER_S) is None
    assert made.add(STRICT, 1, 1, 1, T0 - 3_599 * NS_PER_S) is not None


def test_a_clock_that_was_an_hour_ahead_holds_no_failure_for_an_hour() -> None:
    made = budget()
    made.add(STRICT, 1, 20, 20, T0 + 3_600 * NS_PER_S)
    made.add(STRICT, 1, 0, 0, T0)
    # A window and a slot later by the clock as it is now.
    assert made.add(STRICT, 1, 20, 20, T0 + WINDOW_NS + WINDOW_NS // SLOTS) is None


def test_what_is_no_limit_and_no_count_is_refused() -> None:
    for limits in ({"records": -1}, {"share_ppm": -1}, {"window_ns": 0}):
        with pytest.raises(UsageError, match=next(iter(limits))):
            budget(**limits)
    with pytest.raises(UsageError, match="seen"):
        budget().add(STRICT, 1, -1, 0, T0)
    assert budget(records=0, share_ppm=0).add(STRICT, 1, 1, 1, T0) is not None


laws = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
COMMITS = st.lists(
    st.tuples(
        st.integers(0, 40),  # seconds since the commit before
        st.integers(0, 5_000),  # seen
        st.integers(0, 12),  # failed
    ),
    max_size=60,
)


@laws
@given(COMMITS, st.integers(0, 30), st.integers(0, 5_000))
def test_it_is_spent_when_a_plain_count_over_the_slots_says_so(
    commits: Sequence[tuple[int, int, int]], records: int, share_ppm: int
) -> None:
    made = budget(records=records, share_ppm=share_ppm)
    slot_ns = WINDOW_NS // SLOTS
    told: list[tuple[int, int, int]] = []
    now = T0
    for after, seen, failed in commits:
        now += after * NS_PER_S
        told.append((now, max(seen, failed), failed))
        at = (now - told[0][0]) // slot_ns
        held = [each for each in told if (each[0] - told[0][0]) // slot_ns >= at - SLOTS]
        all_seen, all_failed = sum(e[1] for e in held), sum(e[2] for e in held)
        spent = made.add(STRICT, 1, seen, failed, now)
        over = all_failed > records and all_failed > all_seen * share_ppm // 1_000_000
        assert (spent is not None) == over
        if spent is not None:
            assert (spent.seen, spent.failed) == (all_seen, all_failed)


@laws
@given(st.lists(st.integers(-(10**18), 10**18), max_size=200))
def test_memory_is_bounded_whatever_the_clock_says(times: Sequence[int]) -> None:
    made = budget()
    for time_ns in times:
        made.add(STRICT, 1, 1, 0, time_ns)
        assert len(made._slots) <= SLOTS + 1
