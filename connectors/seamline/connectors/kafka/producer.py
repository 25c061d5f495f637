"""How records reach the broker: in transactions that a newer owner fences, or idempotent singly.

Decides: the producers' settings, that a full local queue is waited for (bounded) and never dropped
from, and that no result goes uncounted. Invariants: a record whose delivery failed makes `commit`
or `flush` raise; a wanted offset is known before its transaction commits; after a fatal error the
object refuses all work. Must not know: what the records mean.

A fenced idle producer may begin and send without an error; only `commit` tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from confluent_kafka import KafkaError, Message, Producer

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import (
    RAISED,
    Causes,
    error_of,
    is_fenced,
    quiet_config,
    transport_error,
)
from seamline.schemas.errors import SeamlineError, TransportError, UsageError

Headers = Sequence[tuple[str, bytes]]
Want = Literal["none", "first", "all"]
Delivery = Callable[[KafkaError | None, Message], None]
Settled = Callable[[bytes | None, bytes | None, str | None], None]
WireHeaders = list[tuple[str, str | bytes | None]] | None
# Positional, because 20,000 keyword calls a transaction are measurable: topic, value, key,
# partition, callback, on_delivery, timestamp, headers.
ProduceArguments = tuple[
    str, bytes | None, bytes | None, int, Delivery | None, None, int, WireHeaders
]

# init_transactions blocks without serving `error_cb`; between slices a refusal is seen at once.
INIT_SLICE_S: Final = 1.0
ROOM_SLICE_S: Final = 0.05
CLOSE_ABORT_S: Final = 2.0
ABORT_FLUSH_S: Final = 1.0
UNKNOWN_OFFSET: Final = 0  # offsets below this are librdkafka's names, not offsets


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """Times in the unit of their name; `queue_*` bound what waits in this process.

    `message_timeout_ms` is how long an idempotent record is retried; in a transaction it is the
    transaction's own timeout.
    """

    # A commit sends at once whatever waits, so this costs no delay; without it a fast broker gets
    # requests of a few records each.
    linger_ms: float = 5
    queue_messages: int = 100_000
    queue_kbytes: int = 65_536
    room_timeout_s: float = 30.0
    transaction_timeout_ms: int = 10_000
    message_timeout_ms: int = 120_000


def transactional_config(
    cluster: Cluster, transactional_id: str, settings: ProducerSettings
) -> dict[str, object]:
    return {
        **_shared_config(cluster, settings),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": settings.transaction_timeout_ms,
        # A commit right after another meets CONCURRENT_TRANSACTIONS; the default waits 100 ms then.
        "retry.backoff.ms": 10,
        "retry.backoff.max.ms": 250,
        # Topics are made before their producers: one that is unknown for so long does not exist.
        "topic.metadata.propagation.max.ms": 5_000,
    }


def idempotent_config(cluster: Cluster, settings: ProducerSettings) -> dict[str, object]:
    return {
        **_shared_config(cluster, settings),
        "message.timeout.ms": settings.message_timeout_ms,
    }


def _shared_config(cluster: Cluster, settings: ProducerSettings) -> dict[str, object]:
    return {
        **quiet_config(cluster),
        "acks": "all",
        "enable.idempotence": True,
        # librdkafka's own default is another hash than Java's and breaks per-symbol order.
        "partitioner": "murmur2_random",
        "linger.ms": settings.linger_ms,
        # As much as a topic takes by default: the client's own limit is lower, and what landed must
        # fit into quarantine.
        "message.max.bytes": 1_048_000,
        "queue.buffering.max.messages": settings.queue_messages,
        "queue.buffering.max.kbytes": settings.queue_kbytes,
    }


# (state, event) -> state. `faulty`: may only abort or close; `dead`: only a new object helps. A
# producer whose delivery failed is not used again even after its abort: with brokers of 2024 and
# later its next transaction fails with "skipped sequence numbers" (measured on 4.3.1).
_TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    ("new", "init"): "ready",
    ("ready", "begin"): "open",
    ("open", "send"): "open",
    ("open", "commit"): "ready",
    ("open", "abort"): "ready",
    ("open", "fault"): "faulty",
    ("faulty", "fault"): "faulty",
    ("faulty", "abort"): "dead",
    **{(state, "fatal"): "dead" for state in ("new", "ready", "open", "faulty", "dead")},
    **{(state, "close"): "dead" for state in ("new", "ready", "open", "faulty", "dead")},
}


class TransactionalProducer:
    """One transactional id. Not for use by two threads at once.

    Order: `init`, then `begin`, `send`/`send_many`, `commit` (or `abort`) again and again. Every
    method may raise FencedError or TransportError, whose `retriable` says whether the same work can
    succeed later. Either way the object is done for, except after a failed `init`: discard it with
    `close` and make a new one.
    """

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        settings: ProducerSettings | None = None,
    ) -> None:
        self.transactional_id = transactional_id
        self._cluster = cluster
        self._settings = settings or ProducerSettings()
        self._causes = Causes()
        config = transactional_config(cluster, transactional_id, self._settings)
        self._handle: Producer | None = _make(config, cluster, self._causes)
        self._state = "new"
        self._batches = 0
        self._wanted: dict[int, tuple[int, list[int]]] = {}
        self._failed: list[KafkaError] = []

    def init(self, timeout_s: float = 30.0) -> None:
        """Fence the former owner of the id and settle its open transaction."""
        self._next("init")
        self._state = "new"  # stays so until the broker answered
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                self._producer.init_transactions(max(0.1, min(INIT_SLICE_S, left)))
            except RAISED as raised:
                error = error_of(raised)
                with suppress(*RAISED):
                    self._producer.poll(0)
                again = error.retriable() and not error.fatal() and left > 0
                if not again or self._causes.refusal() is not None:
                    self._fail(error, "init of the transactions")
            else:
                self._causes.clear()
                self._state = "ready"
                return

    def begin(self) -> None:
        """Open a transaction. Batches of `send_many` are numbered from 0 in it."""
        self._next("begin")
        self._batches = 0
        self._wanted.clear()
        self._failed.clear()
        try:
            self._producer.begin_transaction()
        except RAISED as raised:
            self._fail(error_of(raised), "begin of a transaction")

    def send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        want: Want = "none",
    ) -> int:
        """One record as a batch of its own; its number."""
        return self.send_many(topic, partition, (key,), (value,), headers, want=want)

    def send_many(
        self,
        topic: str,
        partition: int,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Headers = (),
        *,
        each_headers: Sequence[Headers] | None = None,
        want: Want = "none",
    ) -> int:
        """Hand over a batch in order; its number in this transaction.

        `headers` go on every record, `each_headers` (one per record) replace them. `want` names the
        records whose offsets `commit` returns. Raises TransportError when the local queue stays
        full for `room_timeout_s`.
        """
        self._next("send")
        number, count = self._batches, len(values)
        self._batches += 1
        if len(keys) != count or (each_headers is not None and len(each_headers) != count):
            raise UsageError("as many as values are needed", parameter="keys", value=len(keys))
        first, rest = self._deliveries(number, want, count)
        produce = self._producer.produce
        shared: WireHeaders = list(headers) or None
        on_delivery = first
        try:
            if each_headers is None:
                for key, value in zip(keys, values, strict=True):
                    try:
                        produce(topic, value, key, partition, on_delivery, None, 0, shared)
                    except BufferError:
                        self._produce_when_room(
                            topic, value, key, partition, on_delivery, None, 0, shared
                        )
                    on_delivery = rest
            else:
                for key, value, own in zip(keys, values, each_headers, strict=True):
                    self._produce_when_room(
                        topic, value, key, partition, on_delivery, None, 0, list(own) or None
                    )
                    on_delivery = rest
            self._producer.poll(0)
        except RAISED as raised:
            self._fail(error_of(raised), f"send to {topic}[{partition}]")
        return number

    def commit(self, timeout_s: float = 30.0) -> Mapping[int, list[int]]:
        """Make all of the transaction visible at once, or raise.

        Returns, for each batch that wanted some, the offsets in the order of its records. After a
        raise the outcome may be unknown: what was written shows only after a new `init`.
        """
        self._next("commit")
        self._state = "open"  # until the broker answered
        if self._wanted:
            self._settle_wanted(timeout_s)
        try:
            self._producer.commit_transaction(timeout_s)
        except RAISED as raised:
            error = error_of(raised)
            if self._failed and not is_fenced(error):
                error = self._failed[0]  # says why; the commit may only say how many
            self._fail(error, "commit of a transaction")
        if self._failed:  # librdkafka fails such a commit itself; never trust one guard with this
            self._fail(self._failed[0], "delivery of a record")
        self._causes.clear()
        self._state = "ready"
        return {number: offsets for number, (_, offsets) in self._wanted.items()}

    def abort(self, timeout_s: float = 30.0) -> None:
        """Drop the open transaction; nobody who reads committed records sees any of it."""
        before = self._state
        self._next("abort")
        after, self._state = self._state, before  # until the broker answered
        try:
            if before == "open":
                # An abort that overtakes the registration of its partitions is refused as
                # INVALID_TXN_STATE (1 in 100 measured); after the deliveries it cannot.
                self._producer.flush(ABORT_FLUSH_S)
            self._producer.abort_transaction(timeout_s)
        except RAISED as raised:
            self._fail(error_of(raised), "abort of a transaction")
        self._state = after

    def close(self) -> None:
        """Leave; what is not committed is dropped. Never raises.

        An open transaction holds back every reader of its partitions, so it is aborted here when
        the broker answers within a moment, else by the next `init` or the transaction timeout.
        The client goes with this object: one that lives on repeats its requests behind our back,
        and an `init` that comes through at last fences the producer that was made after it.
        """
        if self._handle is None:
            return
        if self._state in ("open", "faulty"):
            with suppress(SeamlineError):
                self.abort(CLOSE_ABORT_S)
        self._next("close")
        with suppress(*RAISED):  # a dead client raises its fatal error again on every call
            self._producer.purge(blocking=False)
            self._producer.poll(0)
        self._handle = None

    @property
    def _producer(self) -> Producer:
        assert self._handle is not None  # the states let nothing through after `close`
        return self._handle

    def __enter__(self) -> TransactionalProducer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _deliveries(
        self, number: int, want: Want, count: int
    ) -> tuple[Delivery | None, Delivery | None]:
        """The delivery reports of the first record and of the others.

        A failure fails the commit whether it was reported or not; the first record is always
        reported because it names the cause (no such topic, no permission), the others only on
        demand because a report costs as much as the sending.
        """
        if want == "none" or count == 0:
            return self._note_failure, None
        offsets: list[int] = []
        self._wanted[number] = (1 if want == "first" else count, offsets)

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed.append(error)
                return
            offset = message.offset()
            if offset is not None and offset >= UNKNOWN_OFFSET:
                offsets.append(offset)

        return report, report if want == "all" else None

    def _note_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _produce_when_room(self, *record: *ProduceArguments) -> None:
        """`produce`, waiting for the local queue to drain where it is full."""
        deadline = time.monotonic() + self._settings.room_timeout_s
        while True:
            try:
                self._producer.produce(*record)
                return
            except BufferError:
                self._producer.poll(ROOM_SLICE_S)
                if time.monotonic() >= deadline or self._causes.refusal() is not None:
                    full = KafkaError(KafkaError._QUEUE_FULL, "the local queue stayed full")
                    self._fail(full, f"send to {record[0]}[{record[3]}]")

    def _settle_wanted(self, timeout_s: float) -> None:
        """All deliveries known before the commit: a commit without its offsets is of no use."""
        try:
            left = self._producer.flush(timeout_s)
        except RAISED as raised:
            self._fail(error_of(raised), "delivery of a transaction")
        if self._failed:
            self._fail(self._failed[0], "delivery of a record")
        if left:
            late = KafkaError(KafkaError._TIMED_OUT, f"{left} records not acknowledged in time")
            self._fail(late, "delivery of a transaction")
        for number, (expected, offsets) in self._wanted.items():
            if len(offsets) != expected:
                unknown = KafkaError(KafkaError._INCONSISTENT, "the broker gave no offset")
                self._fail(unknown, f"delivery of batch {number}")

    def _next(self, event: str) -> None:
        state = _TRANSITIONS.get((self._state, event))
        if state is None:
            raise UsageError(
                f"not possible on a producer that is {self._state}",
                parameter=self.transactional_id,
                value=event,
                fix="Make a new producer" if self._state == "dead" else None,
            )
        self._state = state

    def _fail(self, error: KafkaError, doing: str) -> NoReturn:
        fatal = error.fatal() or is_fenced(error)
        if fatal or self._state in ("open", "faulty"):
            self._next("fatal" if fatal else "fault")
        doing = f"{doing} of {self.transactional_id}"
        raise transport_error(error, doing=doing, cluster=self._cluster, causes=self._causes)


@dataclass(slots=True)
class DeliveryCounts:
    """Of one producer since it was made: `sent == delivered + failed` after a flush."""

    sent: int = 0
    delivered: int = 0
    failed: int = 0


class IdempotentProducer:
    """Records one by one, retried by the client in order and without duplicates.

    `settled(key, value, why)` is called for each record whose result is known, in the thread that
    sends, polls or flushes; `why` is None for a record that was delivered. Not for use by two
    threads at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: ProducerSettings | None = None,
        *,
        settled: Settled | None = None,
    ) -> None:
        self._cluster = cluster
        self._settled = settled
        self._settings = settings or ProducerSettings(linger_ms=1)
        self._causes = Causes()
        config = idempotent_config(cluster, self._settings)
        self._producer = _make(config, cluster, self._causes)
        self._counts = DeliveryCounts()
        self._failure: KafkaError | None = None

    @property
    def counts(self) -> DeliveryCounts:
        return self._counts

    @property
    def unsettled(self) -> int:
        """Records handed over whose result is not known yet."""
        return self._counts.sent - self._counts.delivered - self._counts.failed

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        partition: int | None = None,
    ) -> None:
        """Hand over one record; without `partition` that of its key, as Java clients choose it.

        Raises TransportError when the local queue stays full for `room_timeout_s`.
        """
        chosen = -1 if partition is None else partition
        deadline = time.monotonic() + self._settings.room_timeout_s
        while True:
            try:
                self._producer.produce(
                    topic, value, key, chosen, self._report, None, 0, list(headers) or None
                )
                break
            except BufferError:
                self._producer.poll(ROOM_SLICE_S)
                if time.monotonic() >= deadline:
                    full = KafkaError(KafkaError._QUEUE_FULL, "the local queue stayed full")
                    raise self._error(full, f"send to {topic}") from None
            except RAISED as raised:
                raise self._error(error_of(raised), f"send to {topic}") from None
        self._counts.sent += 1
        self.poll()

    def poll(self, timeout_s: float = 0.0) -> None:
        """Count the results that arrived; call it when nothing is sent for long."""
        try:
            self._producer.poll(timeout_s)
        except RAISED as raised:
            raise self._error(error_of(raised), "delivery") from None

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every record so far is acknowledged.

        Raises TransportError when any failed since the last flush, or when some are not
        acknowledged in time (they stay queued, flush may be called again).
        """
        deadline = time.monotonic() + timeout_s
        while self._flush_slice(deadline - time.monotonic()):
            if self._failure is not None or self._causes.refusal() is not None:
                break
            if time.monotonic() >= deadline:
                break
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._error(failure, f"delivery ({self._counts.failed} failed in all)")
        if self.unsettled:
            late = KafkaError(
                KafkaError._TIMED_OUT, f"{self.unsettled} records not acknowledged in time"
            )
            raise self._error(late, "flush")
        self._causes.clear()

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and leave. Raises as `flush` does; what was not acknowledged then is dropped."""
        try:
            self.flush(timeout_s)
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of what still waits. Never raises."""
        with suppress(*RAISED):
            self._producer.purge()
            self._producer.poll(0)

    def _flush_slice(self, left_s: float) -> int:
        """Records still queued after a slice of the wait: between slices a refusal is seen."""
        try:
            return self._producer.flush(max(0.0, min(INIT_SLICE_S, left_s)))
        except RAISED as raised:
            raise self._error(error_of(raised), "delivery") from None

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._counts.delivered += 1
        else:
            self._counts.failed += 1
            self._failure = error
        if self._settled is not None:
            self._settled(message.key(), message.value(), None if error is None else error.str())

    def _error(self, error: KafkaError, doing: str) -> TransportError:
        return transport_error(error, doing=doing, cluster=self._cluster, causes=self._causes)


def _make(config: dict[str, object], cluster: Cluster, causes: Causes) -> Producer:
    try:
        return Producer({**config, "error_cb": causes})
    except RAISED as raised:
        error = error_of(raised)
        raise UsageError(
            f"the client refuses these settings: {error.str()}",
            parameter="SEAMLINE_KAFKA_*",
            value=cluster.bootstrap,
        ) from None
