"""The venue's clock as its answers tell it."""

from __future__ import annotations

from seamline.streams.kernel.venue_clock import VenueClock

S = 1_000_000_000


def test_a_frame_ahead_of_the_venue_is_not_plausible() -> None:
    clock = VenueClock.first(1_000 * S, 0)
    assert clock.plausible(1_004 * S, 1 * S)
    assert not clock.plausible(1_060 * S, 1 * S)


def test_the_speed_of_a_simulated_venue_is_measured() -> None:
    clock = VenueClock.first(0, 0).polled(600 * S, 1 * S)
    assert clock.speed == 600
    assert clock.plausible(1_500 * S, 2 * S)
    assert not clock.plausible(86_400 * S, 2 * S)


def test_the_clock_never_moves_back() -> None:
    clock = VenueClock.first(1_000 * S, 0).stated(1_002 * S).polled(1_001 * S, 1 * S)
    assert clock.now_ns == 1_002 * S
    assert clock.polled(900 * S, 2 * S).now_ns == 1_002 * S


def test_two_answers_at_once_measure_no_speed() -> None:
    clock = VenueClock.first(0, 0).polled(10 * S, 1_000)
    assert (clock.speed, clock.now_ns) == (1.0, 10 * S)


def test_an_old_frame_does_not_move_the_clock_back() -> None:
    clock = VenueClock.first(1_000, 0).stated(5_000)
    assert clock.stated(4_000).now_ns == 5_000
    assert clock.stated(6_000).now_ns == 6_000
