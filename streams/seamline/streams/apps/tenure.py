"""One tenure of a partition, from fencing the former owner to the first failure: the blocking side.

Decides: the order of the calls to the broker. Taking: 1 a new producer, 2 `init` fences the former
owner and settles its open transaction, 3 what a killed broker left open all the same is completed,
4 the machine is rebuilt from what is committed then. A step: 1 the machine decides, 2 begin, 3 the
batches, 4 commit, 5 the machine learns the offsets.

Invariants: a step's outputs and its position are one transaction; after any error the tenure is
closed and never used again; every wait has a limit. All calls come from the owner's one thread.
Must not know: the event loop, chunks, Faust.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.schemas.errors import ContractError, TransportError
from seamline.streams.apps.lost_markers import COMMIT_TIMEOUT_S, complete_open
from seamline.streams.kernel.protocol import ROLES, Machine, MachineFactory, Record, Role, Step

INIT_TIMEOUT_S: Final = 30.0
# Raised inside a machine, these say nothing of the records that it was given.
NOT_OF_THE_RECORDS: Final = (TransportError, OSError, MemoryError)


@dataclass(frozen=True, slots=True)
class Place:
    """Which partition of which preset. `topics`: its landing topics by role."""

    preset_id: str
    partition: int
    topics: Mapping[Role, str]

    @property
    def transactional_id(self) -> str:
        return f"seamline.{self.preset_id}.conform.{self.partition}"

    def __str__(self) -> str:
        return f"{self.preset_id}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a step. `busy_s` is deciding and sending, `commit_s` the commit alone."""

    step: Step
    position: Mapping[str, int]
    frontier_ns: int | None
    busy_s: float
    commit_s: float

    @property
    def committed(self) -> bool:
        return bool(self.step.batches)


@dataclass(frozen=True, slots=True)
class Points:
    """Where to fetch from. `lost`: role -> (position, first retained offset) where rows expired."""

    positions: Mapping[Role, int]
    lost: Mapping[Role, tuple[int, int]]


class UndecidedError(Exception):
    """The machine failed by itself on these records; its cause is what it raised."""

    def __init__(self, role: Role, records: Sequence[Record], cause: str) -> None:
        super().__init__(f"{cause} ({role}, {len(records)} from offset {records[0].offset})")
        self.role, self.records, self.cause = role, records, cause


class Tenure:
    """Raises FencedError when another owner took the partition, else TransportError, UndecidedError
    from a step, and whatever the machine raises elsewhere."""

    def __init__(
        self, place: Place, cluster: Cluster, admin: Admin, factory: MachineFactory
    ) -> None:
        self._place, self._policy = place, factory.policy
        self._producer = TransactionalProducer(cluster, place.transactional_id)  # 1
        self._reader: LogReader | None = None
        self._machine: Machine | None = None
        try:
            self._producer.init(INIT_TIMEOUT_S)  # 2
            self.completed = complete_open(  # 3
                self._producer, cluster, admin, place.partition, factory.outputs()
            )
            self._reader = LogReader(cluster, place.partition, admin)
            self._machine = factory.rebuild(self._reader)  # 4
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> Mapping[str, int]:
        return dict(self._live_machine.position)

    @property
    def frontier_ns(self) -> int | None:
        return self._live_machine.frontier_ns

    def points(self) -> Points:
        """The machine's positions, moved to what the topics still hold.

        Raises ContractError when a position lies beyond the end of its topic: the topic is another.
        """
        assert self._reader is not None
        topics = self._place.topics
        first, end = self._reader.offsets([topics[role] for role in ROLES])
        positions: dict[Role, int] = {}
        lost: dict[Role, tuple[int, int]] = {}
        for role in ROLES:
            topic, at = topics[role], self.position.get(role, 0)
            if at > end[topic]:
                raise ContractError(
                    f"the position is beyond the end {end[topic]} of {topic}",
                    parameter="position",
                    value=at,
                    fix="The topic was made anew: use a new preset, or make all its topics anew",
                    retriable=False,
                )
            if 0 < at < first[topic]:
                lost[role] = (at, first[topic])
            positions[role] = max(at, first[topic])
        return Points(positions, lost)

    def step(self, role: Role, records: Sequence[Record], clock_ns: int) -> Done:
        started = time.perf_counter()
        try:
            step = self._live_machine.step(  # 1
                role, records, 0, clock_ns, self._policy(role)
            )
        except NOT_OF_THE_RECORDS:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise UndecidedError(role, records, cause) from error
        if not 0 < step.next_index <= len(records):
            raise ContractError(
                "the machine did not move on", parameter="next_index", value=step.next_index
            )
        return self._transact(step, started)

    def pass_over(self, role: Role, record: Record, detail: str, clock_ns: int) -> Done:
        """The record into quarantine, with the position behind it."""
        started = time.perf_counter()
        return self._transact(self._live_machine.refuse(role, record, detail, clock_ns), started)

    def tick(self, clock_ns: int) -> Done | None:
        started = time.perf_counter()
        step = self._live_machine.tick(clock_ns)
        return None if step is None else self._transact(step, started)

    def _transact(self, step: Step, started: float) -> Done:
        machine, producer, partition = self._live_machine, self._producer, self._place.partition
        committing = time.perf_counter()
        if step.batches:
            producer.begin()  # 2
            for batch in step.batches:  # 3
                each = batch.headers if isinstance(batch.headers, list) else None
                producer.send_many(
                    batch.topic,
                    partition,
                    batch.keys,
                    batch.values,
                    () if isinstance(batch.headers, list) else batch.headers,
                    each_headers=each,
                    want=batch.want,
                )
            committing = time.perf_counter()
            offsets = producer.commit(COMMIT_TIMEOUT_S)  # 4
            machine.committed(step, offsets)  # 5
        done = time.perf_counter()
        position = dict(machine.position)
        return Done(step, position, machine.frontier_ns, committing - started, done - committing)

    @property
    def _live_machine(self) -> Machine:
        if self._machine is None:
            raise ContractError("the tenure is over", parameter="place", value=str(self._place))
        return self._machine

    def close(self) -> None:
        """Let go without waiting: an open transaction is settled by the next owner's `init`."""
        machine, self._machine = self._machine, None
        try:
            if machine is not None:
                machine.close()
        finally:
            if self._reader is not None:
                self._reader.close()
            self._producer.close()
