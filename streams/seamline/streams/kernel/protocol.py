"""What the owner of a partition and the machine that decides for it say to each other.

Decides: the shape of their conversation. The machine holds every decision about data and encodes
every record; the owner holds the broker. Invariants: a `Step` is one transaction, its position
record is one of its batches; `committed` is called after the commit and for no other step; a
machine that saw a failed or fenced commit is thrown away and a new one is rebuilt from the log.
Must not know: Kafka clients, Faust, Avro.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from seamline.schemas.modes import Policy

if TYPE_CHECKING:  # it tells of records, which are defined here
    from seamline.streams.kernel.failure_detail import Checked

Role: TypeAlias = Literal["live", "backfill"]
LIVE: Final[Role] = "live"
BACKFILL: Final[Role] = "backfill"
# The order in which an owner serves them.
ROLES: Final[tuple[Role, ...]] = (LIVE, BACKFILL)

Header: TypeAlias = tuple[str, bytes]
Want: TypeAlias = Literal["none", "first", "all"]

# One transaction holds at most this many rows, whatever asked for it.
STEP_ROWS_MAX: Final = 20_000


class Record(Protocol):
    """A landed record as the lane hands it over (aiokafka's ConsumerRecord has this shape).

    `timestamp` is milliseconds; `key` and `value` are the bytes on the wire or None.
    """

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


class Stored(Protocol):
    """A record read back from one of our own topics."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Records for the owner's partition of one topic, in this order.

    `keys` and `values` have one entry per record. `headers` is one tuple for all of them, or a list
    with one tuple per record. `want` says which broker offsets `committed` must be given.
    """

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: tuple[Header, ...] | list[tuple[Header, ...]] = ()
    want: Want = "none"


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction writes. `records[start:next_index]` were consumed by it.

    A step without batches has nothing to commit; its records stay uncovered by the position until a
    later step covers them. `counts` (kind -> rows), `quarantined` (reason -> rows) and `checked`
    (per landing subject and policy, of all records that the position covers now and did not before)
    go to the metrics after the commit. `note` belongs to the machine; the owner hands it back
    untouched in `committed`.
    """

    batches: tuple[Batch, ...]
    next_index: int
    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    checked: Sequence[Checked] = ()
    seals: int = 0
    note: Any = None

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """(subject, mode) -> failed records."""
        found: Counter[tuple[str, str]] = Counter()
        for each in self.checked:
            if each.failed:
                found[each.subject, each.mode] += each.failed
        return found


class Machine(Protocol):
    """All decisions for one partition. Called by one thread at a time, never by the event loop."""

    @property
    def position(self) -> Mapping[str, int]:
        """Role -> next offset of that landing topic, after the committed steps; 0 at first."""
        ...

    @property
    def frontier_ns(self) -> int | None:
        """The oldest frontier of the partition's symbols, None while there is none."""
        ...

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        """Decide for `records[start:]`, at most STEP_ROWS_MAX rows of it. `policy`: of the subject
        that they landed on, asked once for the step.

        `next_index > start` always; the records may come from several chunks of one topic. Records
        that no committed step covers may be offered again, in the same order.
        """
        ...

    def tick(self, clock_ns: int) -> Step | None:
        """Called about once a second while nothing arrives; `next_index` is ignored."""
        ...

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        """Pass over a record that no step can take: into quarantine as `poisoned` with `detail`.

        Looks at nothing of the record but its bytes and its place. `next_index` is 1.
        """
        ...

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        """The step's transaction is committed. `offsets`: index of a batch -> its offsets.

        Not called for a step without batches.
        """
        ...

    def close(self) -> None:
        """Let go of files. Its last step may have committed or not; it is not used again."""
        ...


class PartitionReader(Protocol):
    """Reads one partition of our own topics, read_committed, up to a fence.

    A fence is taken per topic at its first use and kept until `close`: everything that the fenced
    former owner committed is before it. Each call may raise TransportError.
    """

    @property
    def partition(self) -> int: ...

    def fence(self, topic: str) -> int:
        """The read-committed end offset."""
        ...

    def latest(self, topic: str) -> list[tuple[bytes, bytes, int]]:
        """`(key, value, offset)` of the newest record per key in offset order, no tombstones."""
        ...

    def range(self, topic: str, start_offset: int | None) -> Iterator[Sequence[Stored]]:
        """Batches of records from `start_offset` (None: the first retained one) to the fence.

        Raises ContractError when `start_offset` is no longer retained.
        """
        ...

    def one(self, topic: str, offset: int) -> Stored:
        """The record at `offset`. Valid for the machine's whole life, also beyond the fence.

        Raises ContractError when it is no longer retained.
        """
        ...


class MachineFactory(Protocol):
    """Makes the machines of one preset."""

    def warm(self) -> None:
        """Compile what has to be compiled. Called once, before the worker joins its group."""
        ...

    def series(self) -> Sequence[tuple[str, str]]:
        """Every `(subject, mode)` that `Step.failures` can name: their counters start at 0."""
        ...

    def outputs(self) -> Sequence[str]:
        """Every topic that a step may write to, `positions` among them."""
        ...

    def policy(self, role: Role) -> Policy:
        """How records of the landing subject are judged now. Never blocks, never raises."""
        ...

    def rebuild(self, reader: PartitionReader) -> Machine:
        """A machine for `reader.partition` as the log has it. Called in the owner's thread.

        The machine may keep the reader; the owner closes it after the machine.
        """
        ...
