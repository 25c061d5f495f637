"""The venue's clock as its answers tell it."""

from __future__ import annotations

from seamline.streams.kernel.venue_clock import VenueClock

S = 1_000_000_000


def test_a_frame_ahead_of_the_venue_is_not_plausible() -> None:
    clock = VenueClock.first(1_000 * S, 0)
    assert clock.plausible(1_004 * S, 1 * S)
    assert not clock.plausible(1_360 * S, 1 * S)


def test_the_speed_of_a_simulated_venue_is_measured() -> None:
    clock = VenueClock.first(0, 0).polled(600 * S, 1 * S)
    assert clock.speed == 600
    assert clock.plausible(1_500 * S, 2 * S)
    assert not clock.plausible(86_400 * S, 2 * S)


def test_the_clock_never_moves_back() -> None:
    clock = VenueClock.first(1_000 * S, 0).stated(1_002 * S, 0).polled(1_001 * S, 1 * S)
    assert clock.now_ns == 1_002 * S
    assert clock.polled(900 * S, 2 * S).now_ns == 1_002 * S


def test_two_answers_at_once_measure_no_speed() -> None:
    clock = VenueClock.first(0, 0).polled(10 * S, 1_000)
    assert (clock.speed, clock.now_ns) == (1.0, 10 * S)


def test_an_old_frame_does_not_move_the_clock_back() -> None:
    clock = VenueClock.first(1_000, 0).stated(5_000, 0)
    assert clock.stated(4_000, 0).now_ns == 5_000
    assert clock.stated(6_000, 0).now_ns == 6_000


def test_only_what_the_venue_showed_ends_a_bar_where_clocks_do_not_agree() -> None:
    clock = VenueClock.first(1_090 * S, 0, offset_ns=90 * S)
    assert clock.sure_ns(0) == 0
    clock = clock.showed(960 * S, 1 * S)
    assert clock.sure_ns(2 * S) == 960 * S, "an hour's offset would end bars that are open"
    assert clock.showed(900 * S, 2 * S).sure_ns(2 * S) == 960 * S, "an older frame proves less"


def test_a_clock_behind_holds_nothing_back_that_the_venue_showed() -> None:
    clock = VenueClock.first(1_000 * S, 0, offset_ns=-3_600 * S)
    assert clock.showed(4_560 * S, 1 * S).sure_ns(1 * S) == 4_560 * S


def test_clocks_that_agree_need_no_frames() -> None:
    clock = VenueClock.first(1_000 * S, 0, offset_ns=S)
    assert clock.agrees and clock.sure_ns(0) == 1_000 * S


def test_a_venue_that_shows_nothing_is_taken_by_its_clock_after_patience() -> None:
    clock = VenueClock.first(1_000 * S, 0, offset_ns=-90 * S, patience_ns=90 * S)
    clock = clock.showed(960 * S, 10 * S)
    assert clock.sure_ns(99 * S) == 960 * S
    assert clock.sure_ns(100 * S) == 1_000 * S


def test_a_clock_that_jumps_ahead_and_back_ends_no_bar_meanwhile_or_after() -> None:
    clock = VenueClock.first(1_000 * S, 0, offset_ns=0).showed(960 * S, 0)
    ahead = clock.polled(8_200 * S, 1 * S, 7_199 * S)
    assert ahead.sure_ns(1 * S) == 960 * S
    back = ahead.polled(1_002 * S, 2 * S, 0)
    assert back.sure_ns(2 * S) == 1_002 * S, "not where it was while it was off"


def test_a_clock_that_jumps_back_stops_no_frames() -> None:
    clock = VenueClock.first(10_000 * S, 0).stated(10_020 * S, 20 * S)
    clock = clock.polled(6_420 * S, 21 * S)
    for minute in range(1, 60):
        stated = (10_020 + 60 * minute) * S
        assert clock.plausible(stated, (20 + 60 * minute) * S)
        clock = clock.stated(stated, (20 + 60 * minute) * S)
        clock = clock.polled((6_420 + 60 * minute) * S, (21 + 60 * minute) * S)
    assert not clock.plausible(clock.now_ns + 600 * S, clock.now_local_ns + 60 * S)


def test_one_slow_answer_does_not_make_the_venue_fast() -> None:
    """An outage that began then would end, by our account, far in the future."""
    clock = VenueClock.first(1_000 * S, 0, 0, took_ns=S // 100)
    # Asked a second later, and answered after nearly five, as it stood by then.
    clock = clock.polled(1_005_800_000_000, S, 0, took_ns=4_900_000_000)
    assert clock.speed == 1.0
    assert clock.estimate_ns(3_600 * S) < 4_610 * S
    quick = clock.polled(1_006 * S, 6 * S, 0, took_ns=S // 100)
    assert quick.speed == 1.0


def test_the_speed_moves_as_far_as_the_answers_prove() -> None:
    clock = VenueClock.first(0, 0, took_ns=S // 10).polled(600 * S, S, took_ns=S // 10)
    assert 540 < clock.speed < 600
    closer = clock.polled(1_200 * S, 2 * S, took_ns=S // 100)
    assert clock.speed < closer.speed < 700
