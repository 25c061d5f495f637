"""What an owner received and did not commit yet: the chain of each topic, two bounded queues.

Decides: which chunks count (those of the present session that follow the one before), which rows go
into the next transaction (live before backfill, several chunks together), and when a topic is full.
Invariants: accepted chunks of a session are gapless by their names; nothing is dropped while a
session lasts; without sessions nothing is held. Must not know: Kafka, time, who pauses whom.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.protocol import ROLES, Record, Role

CHUNKS_MAX: Final = 32
BYTES_MAX: Final = 64 * 2**20
PROCESS_BYTES_MAX: Final = 24 * 2**20


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    STALE = "stale"  # of a session that is over: not an event
    BROKEN = "broken"  # the chunk before it never arrived


@dataclass(slots=True)
class Budget:
    """What all inboxes of a process hold together, in bytes."""

    limit: int = PROCESS_BYTES_MAX
    used: int = 0

    @property
    def spent(self) -> bool:
        return self.used >= self.limit


@dataclass(slots=True)
class Side:
    """One topic's side of an inbox. `done`: records of `chunks[0]` that are committed already."""

    session: int | None = None
    last: int | None = None
    done: int = 0
    size: int = 0


class Inbox:
    """Both landing topics of one partition. `chunks_max` and `bytes_max` are shared half and half,
    so that a flood on one topic never keeps the other out."""

    def __init__(
        self, budget: Budget, chunks_max: int = CHUNKS_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._budget = budget
        self._chunks_max = max(1, chunks_max // len(ROLES))
        self._bytes_max = bytes_max // len(ROLES)
        self._sides: dict[Role, Side] = {role: Side() for role in ROLES}
        self._chunks: dict[Role, deque[Chunk]] = {role: deque() for role in ROLES}

    def begin(self, sessions: Mapping[Role, int]) -> None:
        """New sessions: what was queued of others is dropped."""
        self.end()
        for role, session in sessions.items():
            self._sides[role].session = session

    def end(self) -> None:
        """No session: every chunk is stale until the next `begin`."""
        for role in ROLES:
            self._budget.used -= self._sides[role].size
            self._chunks[role].clear()
            self._sides[role] = Side()

    def offer(self, role: Role, chunk: Chunk) -> Verdict:
        side = self._sides[role]
        if chunk.session != side.session:
            return Verdict.STALE
        if chunk.prev != side.last:
            return Verdict.BROKEN
        side.last = chunk.last
        side.size += chunk.size
        self._budget.used += chunk.size
        self._chunks[role].append(chunk)
        return Verdict.ACCEPTED

    def next(self, records_max: int) -> tuple[Role, list[Record]] | None:
        """The oldest records of the first topic that has any; they stay until `advance`."""
        for role in ROLES:
            records: list[Record] = []
            start = self._sides[role].done
            for chunk in self._chunks[role]:
                records += chunk.records[start : start + records_max - len(records)]
                start = 0
                if len(records) >= records_max:
                    break
            if records:
                return role, records
        return None

    def advance(self, role: Role, count: int) -> None:
        """The oldest `count` records are done with."""
        side, chunks = self._sides[role], self._chunks[role]
        side.done += count
        while chunks and side.done >= len(chunks[0].records):
            chunk = chunks.popleft()
            side.done -= len(chunk.records)
            side.size -= chunk.size
            self._budget.used -= chunk.size

    def waiting(self, role: Role) -> int:
        """Records queued and not done with."""
        return sum(len(c.records) for c in self._chunks[role]) - self._sides[role].done

    @property
    def empty(self) -> bool:
        return not any(self._chunks.values())

    def follows(self, role: Role, handed: tuple[int, int | None] | None) -> bool:
        """Whether all that the lane has handed over in this session has arrived."""
        side = self._sides[role]
        return handed is not None and handed == (side.session, side.last)

    def idle(self, role: Role, handed: tuple[int, int | None] | None) -> bool:
        """Whether everything that was fetched is done with."""
        return not self._chunks[role] and self.follows(role, handed)

    def full(self, role: Role) -> bool:
        count, size = len(self._chunks[role]), self._sides[role].size
        if count >= self._chunks_max or size >= self._bytes_max:
            return True
        return count > 0 and self._budget.spent

    def relieved(self, role: Role) -> bool:
        """Well below full: holding and releasing do not alternate with every chunk."""
        count, size = len(self._chunks[role]), self._sides[role].size
        if count == 0:
            return True
        half = count * 2 <= self._chunks_max and size * 2 <= self._bytes_max
        return half and not self._budget.spent
