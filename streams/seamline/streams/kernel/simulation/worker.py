"""Workers as processes: owners of partitions that drive the kernel's machine, and the group's view.

Decides: what an owner does in one turn, by the kernel's table `owner_states` and the order of
`apps.tenure`: init, rebuild, restart fetching at the position, then chunks of that session in,
transactions out. Where a turn may die, hang or be told a lie about its commit is decided by the
act. Invariants: as in production a machine is thrown away after any failure; `committed` is called
for committed steps only; only chunks of the present session that follow one another are used.
Must not know: what a record means, what must come out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from seamline.schemas.errors import ContractError
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.block_index import Entry, MemoryIndex
from seamline.streams.kernel.chunk import Chunk, size_of
from seamline.streams.kernel.inbox import Budget, Inbox, Verdict
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.owner_states import (
    DROPS_CHUNKS,
    DROPS_MACHINE,
    Event,
    State,
    transition,
)
from seamline.streams.kernel.protocol import ROLES, Machine, Role, Step
from seamline.streams.kernel.simulation.broker import Fenced, LogReader, Session

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.world import World

TICK_NS: Final = NS_PER_S
LOST_NS: Final = 2 * NS_PER_S
FETCH_RECORDS_MAX: Final = 60
STEP_RECORDS_MAX: Final = 40
MOVES_MAX: Final = 8

# Where a transaction of an owner may go wrong.
CUTS: Final = (
    "before_begin",
    "while_sending",
    "before_commit",
    "after_commit",
    "commit_unknown",
    "commit_failed",
    "pause",
)


@dataclass(slots=True)
class Disk:
    """What a worker's index file holds: the committed entries, and what they are good for."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    next_offset: int = 0


class DiskIndex(MemoryIndex):
    """An index whose committed entries outlive their owner, as in a local file."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        super().load(list(disk.entries.values()), disk.next_offset)
        self._disk = disk

    def clear(self) -> None:
        super().clear()
        self._disk.entries.clear()
        self._disk.next_offset = 0

    def load(self, entries: Iterable[Entry], next_offset: int) -> None:
        taken = list(entries)
        super().load(taken, next_offset)
        self._disk.entries.update({(entry.symbol, entry.start_ns): entry for entry in taken})
        self._disk.next_offset = next_offset


@dataclass(frozen=True, slots=True)
class Taken:
    """Records that the machine has consumed, the owner's clock when it did, and the mode in force
    then."""

    role: Role
    records: Sequence[MemoryRecord]
    clock_ns: int
    mode: str


@dataclass(slots=True)
class Owner:
    """One partition in one worker. `hanging`: a step whose transaction waits for its commit."""

    world: World
    worker: Worker
    partition: int
    state: State = State.TAKING
    session: Session | None = None
    machine: Machine | None = None
    inbox: Inbox = field(init=False)
    fetched: dict[Role, int] = field(default_factory=dict)
    handed: dict[Role, tuple[int, int | None]] = field(default_factory=dict)
    sessions: int = 0
    taken: list[Taken] = field(default_factory=list)
    hanging: tuple[Step, dict[int, list[int]], Role | None] | None = None
    stray: list[tuple[Role, Chunk]] = field(default_factory=list)
    behind_ns: int | None = None
    ticked_ns: int = 0

    def __post_init__(self) -> None:
        self.inbox = self.world.parts.inbox(Budget())

    @property
    def name(self) -> str:
        return self.worker.name

    @property
    def clock_ns(self) -> int:
        return self.world.now_ns + self.worker.skew_ns

    def turn(self, rng: random.Random, cut: str | None, *, moves: int = MOVES_MAX) -> None:
        """Some moves by the table. `cut` is spent at the first transaction."""
        for _ in range(moves):
            if self.state is State.CLOSED or not self.worker.runs:
                return
            try:
                if self.hanging is not None:
                    self._finish_hanging()
                    event: Event | None = None
                else:
                    event, cut = self._move(rng, cut)
            except Fenced:
                self.world.count("fenced", self.name, f"fenced on partition {self.partition}")
                event = Event.FENCED
            except ContractError as error:
                # As in production: taken again from the log. What does not heal fails the run.
                self.world.count("owner_failed", self.name, str(error))
                event = Event.FAILED
            if event is not None:
                self._enter(event)
            elif self.state is State.RUNNING and not self._has_work():
                return

    def _move(self, rng: random.Random, cut: str | None) -> tuple[Event | None, str | None]:
        if self.state is State.TAKING:
            self._take()
            return Event.TAKEN, cut
        if self.state is State.RESTARTING:
            self._restart()
            return Event.RESTARTED, cut
        if self.state is State.WAITING:
            return Event.WAITED, cut
        return self._serve(rng, cut)

    def _enter(self, event: Event) -> None:
        self.state = transition(self.state, event)
        if self.state in DROPS_CHUNKS:
            self.inbox.end()
            self.stray.clear()
        if self.state in DROPS_MACHINE:
            self.drop()

    def drop(self) -> None:
        """Let go of the machine without waiting; an open transaction stays open at the broker."""
        machine, self.machine = self.machine, None
        if machine is not None:
            machine.close()
        self.taken.clear()
        self.hanging = None

    def close(self) -> None:
        if self.state is not State.CLOSED:
            self._enter(Event.CLOSE)

    def _take(self) -> None:
        world = self.world
        producer = f"seamline.{world.preset.id}.conform.{self.partition}"
        self.session = world.broker.init(producer)
        reader = LogReader(world.broker, self.partition)
        self.taken.clear()
        self.machine = world.rebuild(self.worker, reader)
        world.note(self.name, f"takes partition {self.partition}")

    def _restart(self) -> None:
        assert self.machine is not None
        self.sessions += 1
        position = self.machine.position
        self.inbox.begin(dict.fromkeys(ROLES, self.sessions))
        for role in ROLES:
            self.fetched[role] = position.get(role, 0)
            self.handed[role] = (self.sessions, None)
        self.behind_ns = None
        # What was consumed without a commit is offered again; the machine remembers it all the same
        # and its next position may cover it.

    # --- running

    def _serve(self, rng: random.Random, cut: str | None) -> tuple[Event | None, str | None]:
        if self._fetch(rng) is Verdict.BROKEN or self._lost():
            return Event.BROKEN, cut
        if self.clock_ns - self.ticked_ns >= TICK_NS:
            self.ticked_ns = self.clock_ns
            assert self.machine is not None
            step = self.machine.tick(self.clock_ns)
            if step is not None and step.batches:
                return self._transact(step, None, rng, cut), None
        work = self.inbox.next(rng.randrange(1, STEP_RECORDS_MAX))
        if work is None:
            return None, cut
        role, records = work
        assert self.machine is not None
        clock_ns, policy = self.clock_ns, self.world.policy
        step = self.machine.step(role, records, 0, clock_ns, policy)
        consumed = records[: step.next_index]
        self.taken.append(Taken(role, consumed, clock_ns, policy.mode))  # type: ignore[arg-type]
        if not step.batches:
            self.inbox.advance(role, step.next_index)
            return None, cut
        return self._transact(step, role, rng, cut), None

    def _fetch(self, rng: random.Random) -> Verdict | None:
        """What the lane hands over: one chunk per topic, sometimes lost or of a session before."""
        world, rates = self.world, self.world.settings.rates
        verdict: Verdict | None = None
        for role in ROLES:
            topic = topic_name(world.preset.id, role)
            log = world.broker.log(topic, self.partition)
            if self.inbox.full(role):
                continue
            limit = FETCH_RECORDS_MAX if world.calm else rng.randrange(5, FETCH_RECORDS_MAX)
            records = log.committed(self.fetched[role], log.end, limit)
            if not records:
                continue
            session, last = self.handed[role]
            size = size_of(records)
            chunk = Chunk(topic, self.partition, session, last, records, size)
            self.fetched[role] = records[-1].offset + 1
            self.handed[role] = (session, chunk.last)
            if not world.calm and rng.random() < rates.chunk_lost:
                world.count("chunk_lost", self.name, f"{role} chunk to {chunk.last} never arrives")
                continue
            if not world.calm and self.stray and rng.random() < 0.5:
                old_role, old = self.stray.pop()
                world.count("chunk_stale", self.name, f"{old_role} chunk of session {old.session}")
                assert self.inbox.offer(old_role, old) is not Verdict.ACCEPTED
            if self.inbox.offer(role, chunk) is Verdict.BROKEN:
                verdict = Verdict.BROKEN
            elif rng.random() < rates.chunk_stale:
                stale = Chunk(topic, self.partition, session - 1, last, records, size)
                self.stray.append((role, stale))
        return verdict

    def _lost(self) -> bool:
        """Whether something was handed over for so long that it is not coming."""
        if all(self.inbox.follows(role, self.handed[role]) for role in ROLES):
            self.behind_ns = None
            return False
        if self.behind_ns is None:
            self.behind_ns = self.world.now_ns
        return self.world.now_ns - self.behind_ns > LOST_NS

    def _has_work(self) -> bool:
        if not self.inbox.empty:
            return True
        for role in ROLES:
            log = self.world.broker.log(topic_name(self.world.preset.id, role), self.partition)
            if log.committed(self.fetched[role], log.end, 1):
                return True
        return False

    def _transact(
        self, step: Step, role: Role | None, rng: random.Random, cut: str | None
    ) -> Event | None:
        """Begin, send, commit; `cut` says where it goes wrong. Raises Fenced."""
        world, broker, session = self.world, self.world.broker, self.session
        assert session is not None
        if cut is not None:
            world.count(f"cut_{cut}", self.name, f"partition {self.partition}")
        if cut == "before_begin":
            self.worker.crash()
            return None
        broker.begin(session)
        part = rng.randrange(len(step.batches)) if cut == "while_sending" else len(step.batches)
        offsets = {
            number: broker.send(session, self.partition, batch)
            for number, batch in enumerate(step.batches[:part])
        }
        if cut in ("while_sending", "before_commit"):
            self.worker.crash()
            return None
        if cut == "pause":
            self.hanging = (step, offsets, role)
            self.worker.pause()
            return None
        if cut == "commit_failed":
            broker.abort(session)
            return Event.FAILED
        self._commit(step, rng)
        if cut == "after_commit":
            self.worker.crash()
            return None
        if cut == "commit_unknown":
            return Event.FAILED
        self._committed(step, offsets, role)
        return None

    def _commit(self, step: Step, rng: random.Random) -> None:
        world, session = self.world, self.session
        assert session is not None
        transaction = world.decide(session, rng)
        taken, self.taken = self.taken, []
        world.faults["clock_skew"] += self.worker.skew_ns != 0
        world.audit.commit(self.partition, taken, transaction, ticked=not step.next_index)
        world.note(self.name, f"commits {step.rows} rows of partition {self.partition}")

    def _committed(
        self, step: Step, offsets: Mapping[int, Sequence[int]], role: Role | None
    ) -> None:
        assert self.machine is not None
        self.machine.committed(step, offsets)
        if role is not None:
            self.inbox.advance(role, step.next_index)

    def _finish_hanging(self) -> None:
        """A paused owner wakes up inside its transaction and goes on as if nothing had been."""
        assert self.hanging is not None
        step, offsets, role = self.hanging
        self.hanging = None
        assert self.session is not None
        if self.world.broker.epochs.get(self.session.producer) != self.session.epoch:
            self.world.count("zombie", self.name, f"commits what it had begun on {self.partition}")
        self._commit(step, random.Random(0))
        self._committed(step, offsets, role)


@dataclass(slots=True)
class Worker:
    """A process. `assigned`: what the group last told it."""

    world: World
    name: str
    skew_ns: int = 0
    up: bool = True
    paused: bool = False
    assigned: tuple[int, ...] = ()
    owners: dict[int, Owner] = field(default_factory=dict)
    disks: dict[tuple[str, int], Disk] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.up and not self.paused

    def crash(self) -> None:
        """Everything in memory is gone; the index file stays."""
        self.up = self.paused = False
        for owner in self.owners.values():
            owner.drop()
        self.owners.clear()
        self.assigned = ()

    def pause(self) -> None:
        self.paused = True

    def turn(self, rng: random.Random, cut: str | None, *, moves: int = MOVES_MAX) -> None:
        """Hear of the group, then let each owner move. A worker that wakes up finishes first what
        it was in the middle of, and only then hears that it owns nothing any more."""
        if not self.runs:
            return
        for owner in list(self.owners.values()):
            if owner.hanging is not None:
                owner.turn(rng, None, moves=1)
        self._hear()
        for partition in self.assigned:
            if not self.runs:
                return
            self.owners[partition].turn(rng, cut, moves=moves)

    def _hear(self) -> None:
        assigned = self.world.assignment.get(self.name, ())
        if assigned == self.assigned:
            return
        self.assigned = assigned
        for partition in list(self.owners):
            if partition not in assigned:
                self.owners.pop(partition).close()
        for partition in assigned:
            if partition not in self.owners:
                self.owners[partition] = Owner(self.world, self, partition)

    def disk(self, preset_id: str, partition: int) -> Disk:
        return self.disks.setdefault((preset_id, partition), Disk())
