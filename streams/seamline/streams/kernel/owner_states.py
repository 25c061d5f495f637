"""The protocol of an owner as a table: which state follows which event, and what entering it drops.

Decides: the order take -> restart -> run, and that every failure leads back to a new take through a
wait. Invariants: `running` is reached only through `taking` and `restarting`; after a failure or a
fence no machine and no producer of before is used; `closed` is final. Must not know: Kafka, tasks,
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    TAKING = "taking"  # fence the former owner, rebuild the machine from the log
    RESTARTING = "restarting"  # ask the lane to fetch from the machine's positions
    RUNNING = "running"  # chunks in, transactions out
    WAITING = "waiting"  # before the next take, a little longer each time in the same place
    CLOSED = "closed"


class Event(StrEnum):
    TAKEN = "taken"
    RESTARTED = "restarted"
    BROKEN = "broken"  # a chunk is missing, a position left the topic, or a session ended
    FAILED = "failed"
    FENCED = "fenced"
    WAITED = "waited"
    CLOSE = "close"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.TAKING, Event.TAKEN): State.RESTARTING,
    (State.TAKING, Event.FAILED): State.WAITING,
    (State.TAKING, Event.FENCED): State.WAITING,
    (State.RESTARTING, Event.RESTARTED): State.RUNNING,
    (State.RESTARTING, Event.FAILED): State.WAITING,
    (State.RESTARTING, Event.FENCED): State.WAITING,
    (State.RUNNING, Event.BROKEN): State.RESTARTING,
    (State.RUNNING, Event.FAILED): State.WAITING,
    (State.RUNNING, Event.FENCED): State.WAITING,
    (State.WAITING, Event.WAITED): State.TAKING,
    (State.TAKING, Event.CLOSE): State.CLOSED,
    (State.RESTARTING, Event.CLOSE): State.CLOSED,
    (State.RUNNING, Event.CLOSE): State.CLOSED,
    (State.WAITING, Event.CLOSE): State.CLOSED,
}

# Entered: what was fetched before is not used. A restart keeps the machine, whose committed state
# is good; a failure keeps nothing, because the outcome of its transaction is unknown.
DROPS_CHUNKS: Final = frozenset({State.RESTARTING, State.WAITING, State.CLOSED})
DROPS_MACHINE: Final = frozenset({State.WAITING, State.CLOSED})


def transition(state: State, event: Event) -> State:
    """The next state. Raises KeyError for a pair that cannot happen: a fault of this program."""
    return TRANSITIONS[(state, event)]
