"""Faults of the simulator: their text, and decisions that follow from seed, fault and frame."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fault_frames import FRAME, MIN, START_MS, minute, plan
from seamline.connectors.venues.fault_plan import Fate, FaultPlan, Frame
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.connectors.venues.weight_limit import WeightLimit, WeightRules
from seamline.schemas.errors import UsageError


def fates(of: FaultPlan, frames: list[Frame]) -> list[Fate]:
    return [of.fate(frame)[0] for frame in frames]


def test_no_faults_no_harm() -> None:
    assert plan("").fate(FRAME) == (Fate.SEND, -1)
    assert plan(" ; ").faults == ()


def test_a_probability_is_kept_and_depends_on_seed_socket_and_frame_alone() -> None:
    frames = [minute(number) for number in range(4_000)]
    one = fates(plan("lose-frames:p=0.05"), frames)
    assert 140 < one.count(Fate.LOSE) < 260
    assert one == fates(plan("lose-frames:p=0.05"), frames)
    assert one == list(reversed(fates(plan("lose-frames:p=0.05"), list(reversed(frames)))))
    assert one != fates(plan("lose-frames:p=0.05", seed=2), frames)
    assert one != fates(plan("lose-frames:p=0.05"), [replace(f, session=2) for f in frames])


def test_listed_minutes_of_a_symbol_are_lost() -> None:
    of = plan("lose-frames:at=+2m|2026-01-01T00:05:30Z,symbol=BTC/USDT,only=closed")
    lost = [n for n in range(10) if of.fate(minute(n))[0] is Fate.LOSE]
    assert lost == [2, 5]
    assert of.fate(minute(2, symbol="ETH/USDT"))[0] is Fate.SEND
    assert of.fate(minute(2, closed=False))[0] is Fate.SEND


def test_every_counts_the_frames_of_a_socket() -> None:
    of = plan("drop-socket:every=4")
    dropped = [n for n in range(12) if of.fate(minute(n))[0] is Fate.DROP_SOCKET]
    assert dropped == [3, 7, 11]


def test_from_and_to_bound_a_fault_half_open() -> None:
    of = plan("lose-frames:p=1,from=+3m,to=+5m")
    hit = [n for n in range(10) if of.fate(minute(n, event_ms=START_MS + n * MIN))[0] is Fate.LOSE]
    assert hit == [3, 4]


def test_the_first_fault_that_hits_decides() -> None:
    of = plan("lose-frames:every=2; drop-socket:every=3")
    assert [of.fate(minute(n)) for n in (1, 2, 5)] == [
        (Fate.LOSE, 0),
        (Fate.DROP_SOCKET, 1),
        (Fate.LOSE, 0),
    ]


def test_drops_at_times_are_given_once_each() -> None:
    of = plan("drop-socket:at=+10m|+2m; drop-socket:at=+4m")
    at = [START_MS + n * MIN for n in (2, 4, 10)]
    drops = [(moment.at_ms, moment.fault) for moment in of.moments(START_MS, at[2])]
    assert drops == [(at[0], 0), (at[1], 1), (at[2], 0)]
    assert [moment.at_ms for moment in of.moments(at[0], at[1])] == [at[1]]
    assert of.next_moment_ms(START_MS) == at[0]
    assert of.next_moment_ms(at[2]) is None


@pytest.mark.parametrize(
    "text",
    [
        "lose-frame:p=0.1",
        "lose-frames",
        "lose-frames:q=1",
        "lose-frames:p=",
        "lose-frames:p=0",
        "lose-frames:p=1.5",
        "lose-frames:p=nan",
        "lose-frames:every=0",
        "lose-frames:only=closed",
        "lose-frames:p=0.5,only=shut",
        "drop-socket:at=10",
        "drop-socket:at=2026-01-01T00:00:00",
        "drop-socket:p=0.5,symbol=BTC/USDT",
        "drop-socket:p=0.5,only=closed",
        "duplicate-frames",
        "duplicate-frames:p=0.1,p=0.2",
        "lose-frames:at=+1m,from=+2m",
        "delay-frames:p=0.1",
        "delay-frames:p=0.1,by=0s",
        "delay-frames:p=0.1,by=2",
        "delay-frames:p=0.1,by=2h",
        "wrong-symbol:p=0.1,as=other",
        "correct-klines:after=5m",
        "correct-klines:p=0.1,after=8d",
        "lose-history",
        "lose-history:at=+1m,only=closed",
        "shutdown",
        "shutdown:p=0.1",
        "shutdown:at=+1m,notice=-1m",
        "outage",
        "outage:from=+1m",
        "outage:to=+1m",
        "outage:from=+5m,to=+2m",
        "outage:from=+5m,to=+5m",
        "outage:from=+5m,to=+9m,only=closed",
        "outage:p=0.1,from=+5m,to=+9m",
        "halt:from=+5m",
        "halt:from=+5m,to=+9m,only=ws",
        "slow-rest:p=0.1",
        "slow-rest:by=3s",
        "slow-rest:p=0.1,by=11m",
        "slow-rest:at=+1m,by=3s",
        "limit-rest",
        "limit-rest:p=0.1,status=503",
        "limit-rest:p=0.1,retry_after=0s",
        "limit-rest:p=0.1,retry_after=1500ms",
        "limit-rest:p=0.1,symbol=BTC/USDT",
        "clock",
        "clock:by=0s",
        "clock:by=--5s",
        "clock:by=90",
        "clock:by=25h",
        "clock:by=1s,at=+1m",
        ";".join(["lose-frames:p=0.5"] * 65),
    ],
)
def test_a_fault_without_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(text)
    assert caught.value.parameter == "faults"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("delay-frames:every=3,by=2s", {"every": 3, "by_ms": 2_000}),
        ("wrong-symbol:p=1,as=listed", {"disguise": "listed"}),
        ("correct-klines:p=0.01", {"after_ms": 5 * MIN}),
        ("correct-klines:every=9,after=0s", {"after_ms": 0}),
        ("shutdown:at=+1m|+9m", {"at": (START_MS + MIN, START_MS + 9 * MIN)}),
        ("shutdown:at=+1m,notice=0s", {"notice_ms": 0}),
        ("outage:from=+1m,to=+2m", {"only": "both", "to_ms": START_MS + 2 * MIN}),
        ("outage: from=+1m , to=+2m , only=ws", {"only": "ws"}),
        ("halt:from=2026-01-01T00:01:00Z,to=+2m", {"from_ms": START_MS + MIN}),
        ("slow-rest:p=0.1,by=3s", {"by_ms": 3_000}),
        ("limit-rest:every=5", {"status": 429, "retry_after_s": 2}),
        ("limit-rest:every=5,status=418,retry_after=1m", {"status": 418, "retry_after_s": 60}),
        ("clock:by=-90s", {"by_ms": -90_000, "from_ms": None}),
        ("clock:by=+90s", {"by_ms": 90_000}),
        ("clock:by=90s", {"by_ms": 90_000}),
    ],
)
def test_a_fault_is_read_as_it_is_meant(text: str, wanted: dict[str, object]) -> None:
    (fault,) = parse_faults(text, start_ns=START_MS * 1_000_000)
    assert {name: getattr(fault, name) for name in wanted} == wanted
    assert (fault.text, fault.kind) == (text, text.partition(":")[0])


def test_a_near_name_is_offered() -> None:
    for wrong, near in (
        ("loose-frames:p=0.1", "lose-frames"),
        ("outages:from=+1m,to=+2m", "outage"),
        ("limit-rest:p=0.1,retry-after=2s", "retry_after"),
        ("limit-rest:p=0.1,status=492", "429"),
        ("delay-frames:p=0.1", "by=2s"),
        ("wrong-symbol:p=0.1,as=list", "listed"),
    ):
        with pytest.raises(UsageError, match=near):
            plan(wrong)


def test_over_the_limit_429_then_418_until_the_ban_ends() -> None:
    limit = WeightLimit(WeightRules(limit=10, window_s=60.0, strikes_max=2, ban_s=90.0))
    assert [limit.admit(5, 1.0).status for _ in range(2)] == [200, 200]
    refused = limit.admit(5, 10.5)
    assert (refused.status, refused.used, refused.retry_after_s) == (429, 15, 50)
    assert limit.admit(1, 59.9).retry_after_s == 1
    banned = limit.admit(1, 59.9)
    assert (banned.status, banned.retry_after_s) == (418, 90)
    assert limit.admit(1, 61.0).status == 418
    assert limit.admit(1, 149.8).retry_after_s == 1
    assert limit.admit(1, 149.95).status == 200
    assert limit.used == 1


def test_a_new_window_starts_at_zero() -> None:
    limit = WeightLimit(WeightRules(limit=10))
    assert limit.admit(10, 59.9).status == 200
    assert limit.admit(10, 60.0) == limit.admit(0, 60.0)
