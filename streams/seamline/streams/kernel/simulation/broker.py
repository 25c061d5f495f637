"""A broker in memory, as far as the plane can tell the difference.

Decides: offsets, transactions, who is fenced, what read_committed shows, what compaction and
retention remove. As in Kafka: `init` of a transactional id fences its former producer and aborts
what that left open; a fenced producer may send without an error and only its commit fails; the
markers of a commit take an offset in each partition and appear one after the other, so a commit
shows in one topic before it shows in another; an open transaction holds readers back at its first
record; compaction keeps the newest record per key below the active tail and leaves holes.
Must not know: what is in a record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import Batch, Header

TRANSACTION_TIMEOUT_NS: Final = 10 * NS_PER_S
FETCH_MAX: Final = 100_000

Place = tuple[str, int]  # topic, partition


class Fenced(TransportError):  # noqa: N818 - as the broker's code
    """A newer producer of the same transactional id exists, or its transaction timed out."""

    retriable = False


@dataclass(slots=True)
class Transaction:
    """`first`: its first offset in each partition; `unmarked`: decided, and no marker there yet."""

    number: int
    begun_ns: int
    first: dict[Place, int] = field(default_factory=dict)
    records: list[MemoryRecord] = field(default_factory=list)
    committed: bool | None = None
    unmarked: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Session:
    """A producer: its transactional id and the epoch that `init` gave it."""

    producer: str
    epoch: int


@dataclass(slots=True)
class Log:
    """One partition of one topic. `held`: transactions without a marker here -> first offset."""

    records: list[MemoryRecord] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    transactions: list[Transaction | None] = field(default_factory=list)
    begin: int = 0
    end: int = 0
    held: dict[int, int] = field(default_factory=dict)

    @property
    def stable(self) -> int:
        """The last stable offset: nothing at or after it is shown to read_committed."""
        return min(self.held.values(), default=self.end)

    def committed(self, start: int, stop: int, limit: int = FETCH_MAX) -> list[MemoryRecord]:
        """At most `limit` committed records of [start, stop), never beyond what is stable."""
        found: list[MemoryRecord] = []
        stop = min(stop, self.stable)
        for at in range(bisect_left(self.offsets, start), len(self.offsets)):
            if self.offsets[at] >= stop or len(found) >= limit:
                break
            transaction = self.transactions[at]
            if transaction is None or transaction.committed:
                found.append(self.records[at])
        return found

    def keep(self, places: Sequence[int]) -> None:
        self.records = [self.records[at] for at in places]
        self.offsets = [self.offsets[at] for at in places]
        self.transactions = [self.transactions[at] for at in places]


class Broker:
    """All topics. Time is an argument: `now_ns` is set by the world before it does anything."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.now_ns = 0
        self.logs: dict[Place, Log] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[Session, Transaction] = {}
        self.number = 0
        self.expired = 0

    def log(self, topic: str, partition: int) -> Log:
        log = self.logs.get((topic, partition))
        if log is None:
            log = self.logs[topic, partition] = Log()
        return log

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header] = (),
        transaction: Transaction | None = None,
    ) -> MemoryRecord:
        log = self.log(topic, partition)
        now_ms = self.now_ns // NS_PER_MS
        record = MemoryRecord(topic, partition, log.end, now_ms, key, value, tuple(headers))
        log.records.append(record)
        log.offsets.append(log.end)
        log.transactions.append(transaction)
        if transaction is not None:
            place = (topic, partition)
            if place not in transaction.first:
                transaction.first[place] = log.held[transaction.number] = log.end
            transaction.records.append(record)
        log.end += 1
        return record

    # --- transactions

    def init(self, producer: str) -> Session:
        """A new producer of the id: the former one is fenced, its transaction settled."""
        for former in [session for session in self.open if session.producer == producer]:
            self.settle(former)
            self._abort(former)
        self.epochs[producer] = self.epochs.get(producer, 0) + 1
        return Session(producer, self.epochs[producer])

    def fenced(self, session: Session) -> bool:
        return self.epochs[session.producer] != session.epoch

    def begin(self, session: Session) -> None:
        """Begin a transaction; what was committed before is shown everywhere first."""
        if self.fenced(session):
            return
        self.settle(session)
        self.number += 1
        self.open[session] = Transaction(self.number, self.now_ns)

    def send(self, session: Session, partition: int, batch: Batch) -> list[int]:
        """Offsets of the records; of a fenced producer nothing arrives and nothing is said."""
        if self.fenced(session):
            return []
        transaction = self.open[session]
        lists = isinstance(batch.headers, list)
        return [
            self.append(
                *(batch.topic, partition, key, value),
                batch.headers[i] if lists else batch.headers,  # type: ignore[arg-type]
                transaction,
            ).offset
            for i, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True))
        ]

    def commit(self, session: Session) -> Transaction:
        """Decide. The markers follow by `settle`. Raises Fenced."""
        if self.fenced(session):
            raise Fenced("fenced", parameter="transactional_id", value=session.producer)
        transaction = self.open[session]
        transaction.committed = True
        transaction.unmarked = sorted(transaction.first)
        return transaction

    def abort(self, session: Session) -> None:
        if not self.fenced(session):
            self._abort(session)

    def _abort(self, session: Session) -> None:
        transaction = self.open.get(session)
        if transaction is not None and transaction.committed is None:
            transaction.committed = False
            transaction.unmarked = sorted(transaction.first)
            self.settle(session)

    def settle(self, session: Session, markers: int = FETCH_MAX, turn: int = 0) -> None:
        """Write so many markers of its decided transaction, beginning at place `turn`."""
        transaction = self.open.get(session)
        if transaction is None or transaction.committed is None:
            return
        for _ in range(min(markers, len(transaction.unmarked))):
            place = transaction.unmarked.pop(turn % len(transaction.unmarked))
            log = self.logs[place]
            del log.held[transaction.number]
            log.end += 1  # the marker
        if not transaction.unmarked:
            del self.open[session]

    def settle_all(self) -> None:
        for session in list(self.open):
            self.settle(session)

    def expire(self) -> None:
        """Abort what has been open for too long; its producer is fenced by that."""
        for session, transaction in list(self.open.items()):
            undecided = transaction.committed is None
            if undecided and self.now_ns - transaction.begun_ns >= TRANSACTION_TIMEOUT_NS:
                self._abort(session)
                self.epochs[session.producer] += 1
                self.expired += 1

    @property
    def unsettled(self) -> bool:
        """Whether some transaction is open or not shown everywhere yet."""
        return bool(self.open)

    # --- what is removed

    def compact(self, topic: str, partition: int, tail: int) -> int:
        """Keep the newest committed record per key before the last `tail`; returns how many went.
        Null values are kept: their time to be removed is a day."""
        log = self.log(topic, partition)
        clean = bisect_left(log.offsets, log.stable)
        clean = min(clean, len(log.offsets) - tail)
        newest: dict[bytes | None, int] = {}
        for at in range(clean):
            transaction = log.transactions[at]
            if transaction is None or transaction.committed:
                newest[log.records[at].key] = at
        kept = set(newest.values())
        before = len(log.records)
        log.keep([at for at in range(before) if at >= clean or at in kept])
        return before - len(log.records)

    def expire_records(self, topic: str, partition: int, retention_ns: int) -> int:
        """Delete the oldest records, as retention does; returns how many went."""
        log = self.log(topic, partition)
        oldest_ms = (self.now_ns - retention_ns) // NS_PER_MS
        stable = bisect_left(log.offsets, log.stable)
        gone = 0
        while gone < stable and log.records[gone].timestamp < oldest_ms:
            gone += 1
        if gone:
            log.begin = log.offsets[gone] if gone < len(log.offsets) else log.end
            log.keep(range(gone, len(log.records)))
        return gone


@dataclass(slots=True)
class LogReader:
    """Reads one partition of the plane's topics for an owner, each up to a fence kept for its life
    (`PartitionReader`)."""

    broker: Broker
    partition: int
    fences: dict[str, int] = field(default_factory=dict)

    def fence(self, topic: str) -> int:
        if topic not in self.fences:
            self.fences[topic] = self.broker.log(topic, self.partition).stable
        return self.fences[topic]

    def latest(self, topic: str) -> list[tuple[bytes, bytes, int]]:
        newest: Mapping[bytes | None, MemoryRecord] = {
            record.key: record
            for record in self.broker.log(topic, self.partition).committed(0, self.fence(topic))
        }
        found = [
            (record.key, record.value, record.offset)
            for record in newest.values()
            if record.key is not None and record.value is not None
        ]
        return sorted(found, key=lambda entry: entry[2])

    def range(self, topic: str, start_offset: int | None) -> Iterator[Sequence[MemoryRecord]]:
        log = self.broker.log(topic, self.partition)
        start = log.begin if start_offset is None else start_offset
        if start < log.begin:
            raise ContractError("not retained", parameter="offset", value=start, begin=log.begin)
        records = log.committed(start, self.fence(topic))
        if records:
            yield records

    def one(self, topic: str, offset: int) -> MemoryRecord:
        log = self.broker.log(topic, self.partition)
        at = bisect_left(log.offsets, offset)
        if at == len(log.offsets) or log.offsets[at] != offset:
            raise ContractError("not retained", parameter="offset", value=offset)
        return log.records[at]
