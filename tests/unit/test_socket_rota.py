"""When sockets are opened and closed: one, two while one relieves the other, never more."""

from __future__ import annotations

import random

from seamline.streams.kernel.socket_rota import (
    AttemptWindow,
    Close,
    Open,
    RotaRules,
    SocketRota,
    Why,
)

S = 1_000_000_000
RULES = RotaRules(
    life_ns=1_000 * S,
    jitter_ns=100 * S,
    linger_ns=1 * S,
    relief_ns=10 * S,
    silence_ns=75 * S,
    ladder_ms=(250, 1_000),
)


def rota(attempts: int = 300) -> SocketRota:
    return SocketRota(RULES, AttemptWindow(attempts, 300 * S))


def standing(r: SocketRota, local_ns: int = 0, venue_ns: int = 0) -> SocketRota:
    assert r.next(local_ns, venue_ns) == [Open(1)]
    assert not r.subscribed(1, local_ns, venue_ns), "nothing stood before"
    r.frame(1, local_ns, venue_ns)
    return r


def test_one_socket_stands_and_no_second_is_opened() -> None:
    r = standing(rota())
    assert [r.next(n * S, n * S) for n in range(60)] == [[]] * 60


def test_an_old_socket_is_relieved_before_the_venue_cuts_it() -> None:
    r = standing(rota())
    r.frame(1, 900 * S, 999 * S)
    assert r.next(900 * S, 999 * S) == []
    assert r.next(901 * S, 1_000 * S) == [Open(2)]
    assert r.next(902 * S, 1_001 * S) == [], "the successor is on its way"
    assert r.subscribed(2, 903 * S, 1_002 * S), "the old one stood all the while"
    assert r.next(904 * S, 1_003 * S) == [], "the new one has shown nothing yet"
    r.frame(2, 905 * S, 1_004 * S)
    assert r.next(905 * S, 1_004 * S) == [], "what is on its way on the old one still counts"
    assert r.next(906 * S, 1_005 * S) == [Close(1, Why.RELIEVED)]
    assert r.ended(1, 906 * S) is None, "a planned end is no failure"
    assert r.next(907 * S, 1_006 * S) == []


def test_an_announced_cut_is_not_waited_for() -> None:
    r = standing(rota())
    r.announced(1)
    assert r.next(1 * S, 1 * S) == [Open(2)]


def test_a_successor_without_frames_relieves_after_a_bound() -> None:
    r = standing(rota())
    r.announced(1)
    assert r.next(1 * S, 1 * S) == [Open(2)]
    assert r.subscribed(2, 2 * S, 2 * S)
    assert r.next(11 * S, 11 * S) == []
    assert r.next(12 * S, 12 * S) == [Close(1, Why.RELIEVED)]


def test_the_cut_of_one_of_two_leaves_the_other() -> None:
    r = standing(rota())
    r.frame(1, 1_000 * S, 1_000 * S)
    assert r.next(1_000 * S, 1_000 * S) == [Open(2)]
    r.subscribed(2, 1_001 * S, 1_001 * S)
    assert r.ended(1, 1_001 * S) is not None, "nobody said so"
    assert r.standing == 1
    r.frame(2, 1_002 * S, 1_002 * S)
    assert r.next(1_020 * S, 1_020 * S) == []


def test_an_announced_cut_with_a_successor_is_no_failure() -> None:
    r = standing(rota())
    r.announced(1)
    r.next(1 * S, 1 * S)
    r.subscribed(2, 2 * S, 2 * S)
    assert r.ended(1, 3 * S) is None


def test_a_successor_that_comes_after_the_cut_follows_on_nothing() -> None:
    r = standing(rota())
    r.announced(1)
    r.next(1 * S, 1 * S)
    r.ended(1, 2 * S)
    assert not r.subscribed(2, 3 * S, 3 * S)


def test_a_silent_socket_is_closed_only_when_the_venues_clock_went_on() -> None:
    r = standing(rota())
    assert r.next(80 * S, 10 * S) == [], "the venue itself stands still"
    assert r.next(81 * S, 80 * S) == [Close(1, Why.SILENT), Open(2)]
    assert r.ended(1, 82 * S) is None


def test_a_clock_that_jumps_back_keeps_nobody_young_or_alive() -> None:
    r = standing(rota(), 0, 5_000 * S)
    assert r.next(1 * S, 100 * S) == []
    assert r.next(2 * S, 1_100 * S) == [Open(2)]
    r = standing(rota(), 0, 5_000 * S)
    assert r.next(70 * S, 100 * S) == []
    assert r.next(75 * S, 175 * S) == [Close(1, Why.SILENT), Open(2)]


def test_jitter_shortens_a_life_and_nothing_else() -> None:
    r = rota()
    r.next(0, 0, jitter=1.0)
    r.subscribed(1, 0, 0)
    r.frame(1, 0, 0)
    r.frame(1, 899 * S, 899 * S)
    assert r.next(899 * S, 899 * S) == []
    assert r.next(900 * S, 900 * S) == [Open(2)]


def test_the_ladder_paces_failures_and_a_frame_resets_it() -> None:
    r = rota()
    now = 0
    pauses = []
    for number in (1, 2, 3):
        assert r.next(now, now) == [Open(number)]
        pause_ns = r.ended(number, now)
        assert pause_ns is not None
        assert r.next(now + pause_ns - 1, now) == []
        pauses.append(pause_ns)
        now += pause_ns
    assert pauses == [S // 4, S, S]
    r.next(now, now)
    r.subscribed(4, now, now)
    assert r.ended(4, now) == S, "accepted and hung up is no success"
    r.next(now + S, now)
    r.subscribed(5, now + S, now)
    r.frame(5, now + S, now)
    assert r.ended(5, now + S) == S // 4


def test_what_the_venue_asks_for_outlasts_the_ladder() -> None:
    r = rota()
    r.next(0, 0)
    assert r.ended(1, 0, 90 * S) == 90 * S
    assert r.next(90 * S - 1, 0) == []
    assert r.next(90 * S, 0) == [Open(2)]


def test_attempts_of_all_shares_stay_inside_the_window() -> None:
    attempts = AttemptWindow(3, 300 * S)
    shares = [SocketRota(RULES, attempts) for _ in range(5)]
    assert [len(share.next(0, 0)) for share in shares] == [1, 1, 1, 0, 0]
    assert shares[3].next(300 * S - 1, 0) == []
    assert shares[3].next(300 * S, 0) == [Open(1)]


def test_at_most_two_stand_whatever_happens() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        r, now, alive = rota(), 0, dict[int, bool]()
        for _ in range(300):
            now += rng.randrange(30 * S)
            for action in r.next(now, now, rng.random()):
                if isinstance(action, Open):
                    alive[action.number] = False
                elif rng.random() < 0.5:
                    del alive[action.number]
                    r.ended(action.number, now)
            assert r.standing <= 2
            for number in list(alive):
                chance = rng.random()
                if not alive[number] and chance < 0.5:
                    r.subscribed(number, now, now)
                    alive[number] = True
                elif chance < 0.2:
                    del alive[number]
                    r.ended(number, now)
                elif alive[number] and chance < 0.9:
                    r.frame(number, now, now)
                elif alive[number]:
                    r.announced(number)
