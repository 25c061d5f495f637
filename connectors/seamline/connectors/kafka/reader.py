"""How committed records are read: a tail without a group, ranges up to a fence, single records.

Decides: the consumers' settings, and when a fence is reached: the start was at it, or the position
or the end that the broker reported has come to it. Invariants: read_committed, but for settings
that say otherwise; no group and no committed offset decides anything; a start that is no longer
retained raises, it never skips; every batch and queue is bounded. Must not know: what the records
mean.

Offsets are not dense: transaction markers and compaction leave holes. Nothing here counts them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as ClientMessage

from seamline.connectors.kafka.admin import TP, Admin, Isolation
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import (
    PASSING,
    Causes,
    error_of,
    quiet_config,
    transport_error,
)
from seamline.schemas.errors import ContractError, SeamlineError, UsageError

Headers = tuple[tuple[str, bytes], ...]

BATCH_MAX: Final = 10_000
STALL_S: Final = 30.0
POLL_S: Final = 0.5
_OUT_OF_RANGE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class Message(NamedTuple):
    """One record as the broker gave it. A tuple because it is made a million times a second and a
    frozen dataclass costs three times as much."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def timestamp(self) -> int:
        """As a landed record calls it (`streams.kernel.protocol.Record`): milliseconds."""
        return self.timestamp_ms


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """`queue_kbytes` bounds what the client holds ahead of the caller, over all partitions."""

    queue_kbytes: int = 65_536
    queue_messages_min: int = 50_000
    partition_fetch_bytes: int = 8_388_608
    # How long the broker holds an empty answer: a partition's end is known only after it.
    fetch_wait_ms: int = 100
    # read_uncommitted gives everything that lies there, open and aborted records too: evidence,
    # never data.
    isolation: Isolation = "read_committed"


RANGE_SETTINGS: Final = ReaderSettings(fetch_wait_ms=10)
UNCOMMITTED: Final = ReaderSettings(fetch_wait_ms=10, isolation="read_uncommitted")
POINT_SETTINGS: Final = ReaderSettings(
    queue_kbytes=2_048, queue_messages_min=1, partition_fetch_bytes=1_048_576, fetch_wait_ms=20
)


def consumer_config(cluster: Cluster, settings: ReaderSettings) -> dict[str, Any]:
    return {
        **quiet_config(cluster),
        # The client demands a name; nothing is joined or committed under it.
        "group.id": "seamline-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": settings.isolation,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        # The default of 1000 ms throttles to a fifth of the speed once the queue was full.
        "fetch.queue.backoff.ms": 5,
        "topic.metadata.propagation.max.ms": 5_000,
        "fetch.wait.max.ms": settings.fetch_wait_ms,
        "max.partition.fetch.bytes": settings.partition_fetch_bytes,
        "queued.min.messages": settings.queue_messages_min,
        "queued.max.messages.kbytes": settings.queue_kbytes,
    }


class Tail:
    """A long-lived reader of chosen partitions. Not for use by two threads at once.

    Its methods raise TransportError for a broker that refuses, and ContractError when an offset
    to read from is not (or no longer) in the log, with `topic`, `partition`, `offset` and the
    retained `begin` and `end` as fields.
    """

    def __init__(self, cluster: Cluster, settings: ReaderSettings | None = None) -> None:
        self._cluster = cluster
        self._causes = Causes()
        config = consumer_config(cluster, settings or ReaderSettings())
        try:
            self._consumer = Consumer({**config, "error_cb": self._causes})
        except KafkaException as raised:
            raise UsageError(
                f"the client refuses these settings: {error_of(raised).str()}",
                parameter="SEAMLINE_KAFKA_*",
                value=cluster.bootstrap,
            ) from None
        self._next: dict[TP, int] = {}
        self._end: dict[TP, int] = {}
        self._failed: ClientMessage | None = None
        self._closed = False

    @property
    def partitions(self) -> tuple[TP, ...]:
        return tuple(self._next)

    @property
    def cause(self) -> str | None:
        """What the client complains of since something last arrived, None when nothing."""
        return self._causes.text()

    def add(self, tp: TP, offset: int) -> None:
        """Read `tp` from `offset` on. Whether that offset is retained shows in `poll`."""
        if tp in self._next:
            raise UsageError("is read already", parameter="tp", value=tp)
        if offset < 0:
            raise UsageError("not an offset", parameter="offset", value=offset)
        self._consumer.incremental_assign([TopicPartition(*tp, offset)])
        self._next[tp] = offset

    def remove(self, tp: TP) -> None:
        """Stop reading `tp`; its records that were fetched but not handed out are dropped."""
        del self._next[tp]
        self._end.pop(tp, None)
        self._consumer.incremental_unassign([TopicPartition(*tp)])

    def poll(self, timeout_s: float, max_records: int = BATCH_MAX) -> list[Message]:
        """The records that are there, in order per partition; waits only while there are none.

        May return nothing before the time is up, when a partition came to its end: ask `reached`.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            self._fail(failed)
        first = self._poll_one(timeout_s)
        if first is None:
            refusal = self._causes.refusal()
            if refusal is not None:
                raise self._error(refusal)
            return []
        # consume(n, timeout) would wait for n; what is fetched already costs no wait.
        try:
            rest = self._consumer.consume(max_records - 1, 0) if max_records > 1 else []
        except KafkaException as raised:
            raise self._error(error_of(raised)) from None
        records: list[Message] = []
        for message in (first, *rest):
            error = message.error()
            if error is None:
                record = _record(message)
                tp = (record.topic, record.partition)
                if tp in self._next:
                    records.append(record)
                    self._next[tp] = record.offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._at_end(message)
            elif error.code() not in PASSING and self._failed is None:
                self._failed = message
        if records:
            self._causes.clear()
        elif self._failed is not None:
            return self.poll(0)
        return records  # a failure beside records waits for the next call: positions are ahead

    def position(self, tp: TP) -> int:
        """Everything of `tp` before this offset, from its start, has been returned by `poll`."""
        return self._next[tp]

    def reached(self, tp: TP, fence: int) -> bool:
        """Whether everything of `tp` before `fence` has been returned."""
        return self._next[tp] >= fence

    def at_end(self, tp: TP) -> bool:
        """Whether the broker said that nothing committed follows the position."""
        return self._end.get(tp, -1) >= self._next[tp]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _poll_one(self, timeout_s: float) -> ClientMessage | None:
        try:
            return self._consumer.poll(timeout_s)
        except KafkaException as raised:
            raise self._error(error_of(raised)) from None

    def _at_end(self, message: ClientMessage) -> None:
        """The end steps over markers and aborted records, which no record would tell of."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            return
        tp = (topic, partition)
        if tp in self._next:
            self._end[tp] = offset
            self._next[tp] = max(self._next[tp], offset)

    def _fail(self, message: ClientMessage) -> None:
        error, topic, partition = message.error(), message.topic(), message.partition()
        assert error is not None
        if topic is None or partition is None:
            raise self._error(error)
        if (topic, partition) not in self._next:
            return
        if error.code() in _OUT_OF_RANGE:
            raise self._not_retained((topic, partition))
        raise self._error(error, f"reading of {topic}[{partition}]")

    def _not_retained(self, tp: TP) -> ContractError:
        wanted = self._next[tp]
        admin = Admin(self._cluster)
        begin = admin.begin_offsets([tp])[tp]
        end = admin.end_offsets([tp], "read_uncommitted")[tp]
        what = (
            f"offsets {wanted} to {begin} are no longer retained"
            if wanted < begin
            else f"offset {wanted} is beyond the end {end}"
        )
        return ContractError(
            f"{tp[0]}[{tp[1]}]: {what}",
            parameter="offset",
            value=wanted,
            topic=tp[0],
            partition=tp[1],
            offset=wanted,
            begin=begin,
            end=end,
        )

    def _error(self, error: KafkaError, doing: str = "reading") -> SeamlineError:
        return transport_error(error, doing=doing, cluster=self._cluster, causes=self._causes)


def read_range(
    cluster: Cluster,
    starts: Mapping[TP, int],
    fences: Mapping[TP, int],
    *,
    max_records: int = BATCH_MAX,
    stall_s: float = STALL_S,
    settings: ReaderSettings | None = None,
) -> Iterator[list[Message]]:
    """Batches of the committed records from each start up to its fence (exclusive), then ends.

    A batch mixes partitions and is in order within each. Raises UsageError when the two mappings
    name different partitions, ContractError when a start is not retained, TransportError when
    nothing moves for `stall_s`.
    """
    if starts.keys() != fences.keys():
        raise UsageError(
            "starts and fences name different partitions",
            parameter="fences",
            value=sorted(starts.keys() ^ fences.keys()),
        )
    open_tps = {tp for tp, start in starts.items() if start < fences[tp]}
    if not open_tps:
        return
    with Tail(cluster, settings or RANGE_SETTINGS) as tail:
        for tp in sorted(open_tps):
            tail.add(tp, starts[tp])
        deadline = time.monotonic() + stall_s
        while open_tps:
            before = {tp: tail.position(tp) for tp in open_tps}
            batch = tail.poll(POLL_S, max_records)
            wanted = [m for m in batch if m.offset < fences[m.topic, m.partition]]
            if wanted:
                yield wanted
            moved = any(tail.position(tp) != before[tp] for tp in open_tps)
            for tp in [tp for tp in open_tps if tail.reached(tp, fences[tp])]:
                tail.remove(tp)
                open_tps.discard(tp)
            now = time.monotonic()
            if moved:
                deadline = now + stall_s
            elif open_tps and now >= deadline:
                raise _stalled(cluster, tail, sorted(open_tps), stall_s)


class PointReader:
    """Reads single records by their offsets, over one connection. Not for two threads at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tail = Tail(cluster, POINT_SETTINGS)

    def read(self, topic: str, partition: int, offset: int, *, stall_s: float = STALL_S) -> Message:
        """The record at `offset`.

        Raises ContractError when there is none to read: compacted away, expired, aborted, a
        marker, or not committed yet. TransportError when the broker does not answer.
        """
        tp = (topic, partition)
        deadline = time.monotonic() + stall_s
        self._tail.add(tp, offset)
        try:
            while time.monotonic() < deadline:
                batch = self._tail.poll(POLL_S, 1)
                if batch and batch[0].offset == offset:
                    return batch[0]
                if batch or self._tail.at_end(tp):
                    raise self._absent(tp, offset)
            raise _stalled(self._cluster, self._tail, [tp], stall_s)
        finally:
            self._tail.remove(tp)

    def close(self) -> None:
        self._tail.close()

    def __enter__(self) -> PointReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @staticmethod
    def _absent(tp: TP, offset: int) -> ContractError:
        return ContractError(
            f"{tp[0]}[{tp[1]}] has no committed record at this offset",
            parameter="offset",
            value=offset,
            topic=tp[0],
            partition=tp[1],
            offset=offset,
        )


def read_one(cluster: Cluster, topic: str, partition: int, offset: int) -> Message:
    """`PointReader.read` for one record; use a PointReader for several."""
    with PointReader(cluster) as reader:
        return reader.read(topic, partition, offset)


def _stalled(cluster: Cluster, tail: Tail, tps: list[TP], stall_s: float) -> SeamlineError:
    late = KafkaError(KafkaError._TIMED_OUT, f"nothing arrived for {stall_s:g} s")
    at = ", ".join(f"{topic}[{p}]@{tail.position((topic, p))}" for topic, p in tps[:5])
    cause = tail.cause
    doing = f"reading of {at}" if cause is None else f"reading of {at} ({cause})"
    return transport_error(late, doing=doing, cluster=cluster)


# Not `message.headers()`: over a name that is no UTF-8 the client returns a list with holes and an
# error beside it. The interpreter looks for that error in every call but the one it has specialized
# (3.11 and later), and whoever touches such a list then ends the process.
_headers_of: Final = methodcaller("headers")


def _record(message: ClientMessage) -> Message:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None
    try:
        headers = _headers_of(message)
    except SystemError:
        # A name that is no UTF-8, which a broker takes; the client cannot say the others either. A
        # record of ours has none: without headers it is refused wherever they say what it is.
        headers = None
    return Message(
        topic,
        partition,
        offset,
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(headers) if headers else (),
    )
