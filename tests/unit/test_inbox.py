"""The chain of chunks and the two bounded queues of an owner."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from seamline.streams.kernel.chunk import RECORD_OVERHEAD_BYTES, Chunk, size_of
from seamline.streams.kernel.inbox import Budget, Inbox, Verdict
from seamline.streams.kernel.protocol import Record, Role


@dataclass(frozen=True, slots=True)
class Landed:
    offset: int
    topic: str = "t"
    partition: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"v"
    headers: tuple[tuple[str, bytes], ...] = field(default=())


def chunk(session: int, prev: int | None, *offsets: int, size: int = 100) -> Chunk:
    records: list[Record] = [Landed(offset) for offset in offsets]
    return Chunk("t", 0, session, prev, records, size)


def inbox(**bounds: int) -> Inbox:
    made = Inbox(Budget(bounds.pop("budget", 10**9)), **bounds)
    made.begin({"live": 1, "backfill": 2})
    return made


def offsets(found: tuple[Role, list[Record]] | None) -> list[int]:
    assert found is not None
    return [record.offset for record in found[1]]


def test_a_chain_is_accepted_although_offsets_have_holes() -> None:
    box = inbox()
    assert box.offer("live", chunk(1, None, 10, 11, 15)) is Verdict.ACCEPTED
    assert box.offer("live", chunk(1, 15, 40)) is Verdict.ACCEPTED
    assert offsets(box.next(100)) == [10, 11, 15, 40]


@pytest.mark.parametrize("prev", [None, 14, 16])
def test_a_chunk_that_does_not_name_the_one_before_it_breaks_the_chain(prev: int | None) -> None:
    box = inbox()
    box.offer("live", chunk(1, None, 15))
    assert box.offer("live", chunk(1, prev, 16)) is Verdict.BROKEN
    assert offsets(box.next(100)) == [15]


def test_the_first_chunk_of_a_session_must_be_the_first() -> None:
    assert inbox().offer("live", chunk(1, 7, 8)) is Verdict.BROKEN


def test_chunks_of_another_session_are_not_even_a_break() -> None:
    box = inbox()
    assert box.offer("live", chunk(2, None, 1)) is Verdict.STALE
    box.begin({"live": 5, "backfill": 6})
    assert box.offer("live", chunk(1, None, 1)) is Verdict.STALE
    assert box.next(10) is None


def test_the_chains_of_the_two_topics_are_apart() -> None:
    box = inbox()
    box.offer("live", chunk(1, None, 1, 2))
    assert box.offer("backfill", chunk(2, None, 900)) is Verdict.ACCEPTED
    assert box.offer("backfill", chunk(2, 2, 901)) is Verdict.BROKEN


def test_a_restart_drops_both_topics() -> None:
    budget = Budget()
    box = Inbox(budget)
    box.begin({"live": 1, "backfill": 2})
    box.offer("live", chunk(1, None, 1, size=70))
    box.offer("backfill", chunk(2, None, 1, size=30))
    assert budget.used == 100
    box.end()
    assert budget.used == 0
    assert box.next(10) is None and box.empty
    assert box.offer("live", chunk(1, 1, 2)) is Verdict.STALE


def test_live_goes_before_backfill_even_in_the_middle_of_a_backfill_chunk() -> None:
    box = inbox()
    box.offer("backfill", chunk(2, None, *range(10)))
    assert offsets(box.next(4)) == [0, 1, 2, 3]
    box.advance("backfill", 4)
    box.offer("live", chunk(1, None, 100))
    assert box.next(4) == ("live", [Landed(100)])
    box.advance("live", 1)
    assert offsets(box.next(4)) == [4, 5, 6, 7]


def test_what_arrived_is_grouped_up_to_the_bound() -> None:
    box = inbox()
    for at in range(5):
        box.offer("live", chunk(1, at - 1 if at else None, at))
    assert offsets(box.next(3)) == [0, 1, 2]
    assert offsets(box.next(3)) == [0, 1, 2], "records stay until they are done with"
    box.advance("live", 3)
    assert offsets(box.next(3)) == [3, 4]


def test_a_full_topic_leaves_room_for_the_other_and_is_relieved_well_below() -> None:
    box = inbox(chunks_max=8)
    for at in range(4):
        assert not box.full("backfill")
        box.offer("backfill", chunk(2, at - 1 if at else None, at))
    assert box.full("backfill") and not box.full("live")
    box.advance("backfill", 1)
    assert not box.full("backfill") and not box.relieved("backfill")
    box.advance("backfill", 1)
    assert box.relieved("backfill")


def test_bytes_bound_a_topic_too() -> None:
    box = inbox(bytes_max=1_000)
    box.offer("live", chunk(1, None, 1, size=499))
    assert not box.full("live")
    box.offer("live", chunk(1, 1, 2, size=1))
    assert box.full("live")


def test_a_spent_process_budget_holds_whoever_has_something_and_lets_the_others_in() -> None:
    budget = Budget(limit=100)
    greedy, other = Inbox(budget), Inbox(budget)
    for box in (greedy, other):
        box.begin({"live": 1, "backfill": 2})
    greedy.offer("live", chunk(1, None, 1, size=100))
    assert greedy.full("live")
    # Else an owner without anything could wait for ever for room that it cannot make itself.
    assert not other.full("live") and other.relieved("live")


def test_lost_in_transit_shows_against_what_the_lane_handed_over() -> None:
    box = inbox()
    assert box.follows("live", (1, None))
    assert not box.follows("live", (1, 3)), "handed over and not arrived"
    box.offer("live", chunk(1, None, 3))
    assert box.follows("live", (1, 3))
    assert not box.follows("live", None), "the session ended"
    assert not box.idle("live", (1, 3))
    box.advance("live", 1)
    assert box.idle("live", (1, 3))


def test_the_size_of_a_chunk_counts_memory() -> None:
    records = [Landed(1, value=b"abc"), Landed(2, value=None)]
    assert size_of(records) == 2 * RECORD_OVERHEAD_BYTES + 3


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_out_is_what_was_accepted_in_order_and_once(seed: int) -> None:
    rng = random.Random(seed)
    budget = Budget()
    box = Inbox(budget, chunks_max=rng.choice([2, 8, 32]))
    sessions: dict[Role, int] = {"live": 1, "backfill": 2}
    box.begin(sessions)
    accepted: dict[Role, list[int]] = {"live": [], "backfill": []}
    taken: dict[Role, list[int]] = {"live": [], "backfill": []}
    last: dict[Role, int | None] = {"live": None, "backfill": None}
    for _ in range(300):
        role: Role = rng.choice(["live", "backfill"])
        if rng.random() < 0.5:
            start = (last[role] or 0) + rng.randint(1, 3)
            names = list(range(start, start + rng.randint(1, 9)))
            lost = rng.random() < 0.1
            prev = (last[role] or 0) + 1_000 if lost else last[role]
            verdict = box.offer(role, chunk(sessions[role], prev, *names))
            assert verdict is (Verdict.BROKEN if lost else Verdict.ACCEPTED)
            if not lost:
                accepted[role] += names
                last[role] = names[-1]
        else:
            found = box.next(rng.randint(1, 12))
            if found is not None:
                count = rng.randint(1, len(found[1]))
                taken[found[0]] += [r.offset for r in found[1][:count]]
                box.advance(found[0], count)
    for role, names in accepted.items():
        assert taken[role] == names[: len(taken[role])]
        assert box.waiting(role) == len(names) - len(taken[role])
    box.end()
    assert budget.used == 0
