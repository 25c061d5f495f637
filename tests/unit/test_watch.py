"""Who is broken off for standing still, and who is only busy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from seamline.connectors.metrics import Metrics
from seamline.schemas.errors import TransportError
from seamline.streams.apps.owner import Owner
from seamline.streams.apps.tenure import Place
from seamline.streams.apps.watch import STALLED_S, Watch
from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.inbox import Budget, Inbox
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.owner_states import State
from seamline.streams.kernel.protocol import Role

PLACE = Place("p", 0, {"live": "p.live", "backfill": "p.backfill"})
ENDS = {("p.live", 0): 1_000, ("p.backfill", 0): 1_000}


@dataclass
class Standing:
    """What a watch sees of an owner."""

    place: Place = PLACE
    state: State = State.RUNNING
    beat_s: float = 0.0
    inbox: Inbox = field(default_factory=lambda: Inbox(Budget()))
    at: dict[str, int] = field(default_factory=lambda: {"live": 0, "backfill": 0})
    breaks: list[str] = field(default_factory=list)

    def covered(self, role: Role) -> int:
        return self.at[role]

    def break_(self, cause: str) -> None:
        self.breaks.append(cause)

    def queue(self, role: Role) -> None:
        self.inbox.begin({role: 1})
        records = [MemoryRecord(PLACE.topics[role], 0, n, 0, None, b"") for n in range(3)]
        self.inbox.offer(role, Chunk(PLACE.topics[role], 0, 1, None, records, 10))


def looked_at(owner: Standing, live_per_look: int, looks: int = 20) -> list[str]:
    watch = Watch(cast("Any", None), Metrics(CollectorRegistry()), dict)
    for number in range(looks):
        now = 2.0 * number
        owner.beat_s = now
        owner.at["live"] += live_per_look
        watch.look({0: cast("Owner", owner)}, ENDS, now)
    return owner.breaks


def test_rows_that_wait_behind_a_moving_topic_are_no_stall() -> None:
    owner = Standing()
    owner.queue("backfill")
    assert looked_at(owner, live_per_look=7) == []


def test_a_topic_of_which_nothing_arrives_is_a_stall_whatever_the_other_does() -> None:
    (cause, *_) = looked_at(Standing(), live_per_look=7)
    assert cause.startswith("backfill did not move")


def test_rows_that_wait_in_an_owner_that_gets_on_with_nothing_are_a_stall() -> None:
    owner = Standing()
    owner.queue("backfill")
    assert any("backfill" in cause for cause in looked_at(owner, live_per_look=0))


def test_an_other_topic_that_has_nothing_to_do_excuses_no_stall() -> None:
    owner = Standing(at={"live": 1_000, "backfill": 0})
    owner.queue("backfill")
    assert any("backfill" in cause for cause in looked_at(owner, live_per_look=0))


def test_an_owner_that_gives_no_sign_ends_the_worker() -> None:
    watch = Watch(cast("Any", None), Metrics(CollectorRegistry()), dict)
    with pytest.raises(TransportError, match="no sign"):
        watch.look({0: cast("Owner", Standing())}, ENDS, 10 * STALLED_S)
