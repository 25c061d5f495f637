"""What the worker's lane needs of aiokafka's consumer beyond its public settings.

Decides: how a consumer that somebody else made (Faust) is brought to read committed records, to
fail on a lost position instead of jumping, and to fetch in bounded answers; and how its fetch
position is read. Invariants: `settings_refused` says afterwards whether the consumer really runs
so; no header that a broker took ends a fetch.
Must not know: Faust, sessions, owners.

aiokafka copies these attributes when it starts, so `prepare` comes before `start`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError, NoOffsetForPartitionError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

# aiokafka's codes in a fetch request and for `auto_offset_reset`.
READ_COMMITTED_CODE: Final = 1
RESET_NONE_CODE: Final = 0

FetchError = KafkaError


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """Bounds of one fetch. `answer_bytes` is one answer of one broker over all its partitions."""

    partition_bytes: int = 2 * 2**20
    answer_bytes: int = 3 * 2**20
    wait_ms: int = 100


class LandedRecord(NamedTuple):
    """What the lane keeps of a fetched record; `timestamp` is milliseconds.

    The properties are asked for by Faust's driver and mean nothing here.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def timestamp_type(self) -> None:
        return None

    @property
    def checksum(self) -> None:
        return None

    @property
    def serialized_key_size(self) -> int:
        return -1

    @property
    def serialized_value_size(self) -> int:
        return -1


class RawRecords(MemoryRecords):  # type: ignore[misc, valid-type]
    """aiokafka's batches of one fetched partition, and the bytes that they are read from."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class LeanRecords(fetcher.PartitionRecords):
    """aiokafka's records of one fetched partition, each as a tuple of what is read of it.

    aiokafka makes a frozen dataclass of eleven fields, twice the cost of all else it does for a
    record. Deserializers are not asked: the lane has none.
    """

    def _unpack_records(self) -> Iterator[LandedRecord]:
        try:
            yield from super()._unpack_records()  # type: ignore[no-untyped-call]
        except UnicodeDecodeError:
            # A broker takes any bytes for the name of a header, and the compiled reader of batches
            # does not: it would fail here for ever. What is left of the answer is read with care.
            self._records = CarefulRecords(self._records.raw, self.next_fetch_offset)
            yield from super()._unpack_records()  # type: ignore[no-untyped-call]

    def _consumer_record(self, tp: TopicPartition, record: Any) -> LandedRecord:
        return LandedRecord(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers),
        )


class CarefulRecords:
    """The batches of `raw` from the one that holds `offset` on, read by aiokafka's plain Python;
    a letter of a header's name that is no UTF-8 reads as U+FFFD."""

    # https://kafka.apache.org/documentation/#recordbatch: base offset and length, and where the
    # last offset delta is.
    _HEAD: Final = struct.Struct(">qi")
    _DELTA: Final = struct.Struct(">i")
    _DELTA_AT: Final = 23

    def __init__(self, raw: bytes, offset: int) -> None:
        self._raw, self._at = raw, 0
        while self.has_next() and self._last() < offset:
            self._at = self._end()

    def has_next(self) -> bool:
        """Whether another whole batch is there; an answer may end in the middle of one."""
        return len(self._raw) - self._at >= self._HEAD.size and self._end() <= len(self._raw)

    def next_batch(self) -> _CarefulBatch:
        begin, self._at = self._at, self._end()
        return _CarefulBatch(self._raw[begin : self._at])

    def _end(self) -> int:
        length: int = self._HEAD.unpack_from(self._raw, self._at)[1]
        return self._at + self._HEAD.size + length

    def _last(self) -> int:
        base: int = self._HEAD.unpack_from(self._raw, self._at)[0]
        delta: int = self._DELTA.unpack_from(self._raw, self._at + self._DELTA_AT)[0]
        return base + delta


class _CarefulBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _Buffer(bytearray):
    """Only names of headers are decoded, out of a slice of the batch."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return found if isinstance(found, int) else _Name(found)


class _Name(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


def prepare(consumer: Any, settings: FetchSettings) -> None:
    """Set what the next `start` of this AIOKafkaConsumer reads.

    The lean records are set for the process: its one consumer that fetches by aiokafka is the
    lane's, and a fetcher looks the class up by its name.
    """
    fetcher.PartitionRecords = LeanRecords  # type: ignore[misc]
    fetcher.MemoryRecords = RawRecords  # type: ignore[attr-defined]
    consumer._isolation_level = "read_committed"
    consumer._auto_offset_reset = "none"
    consumer._fetch_min_bytes = 1
    consumer._fetch_max_wait_ms = settings.wait_ms
    consumer._fetch_max_bytes = settings.answer_bytes
    consumer._max_partition_fetch_bytes = settings.partition_bytes


def settings_refused(consumer: Any, settings: FetchSettings) -> list[str]:
    """Which of the settings a started consumer does not run with; empty when all is well."""
    made = consumer._fetcher
    right = {
        "isolation_level": made._isolation_level == READ_COMMITTED_CODE,
        "auto_offset_reset": made._default_reset_strategy == RESET_NONE_CODE,
        "fetch_max_bytes": made._fetch_max_bytes == settings.answer_bytes,
        "max_partition_fetch_bytes": made._max_partition_fetch_bytes == settings.partition_bytes,
    }
    return [name for name, fine in right.items() if not fine]


def partition(topic: str, number: int) -> TopicPartition:
    return TopicPartition(topic, number)


def fetch_position(consumer: Any, topic: str, number: int) -> int | None:
    """The next offset that will be fetched, past transaction markers; None while unknown."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    where = TopicPartition(topic, number)
    if assignment is None or where not in assignment.tps:
        return None
    state = assignment.state_value(where)
    return int(state.position) if state.has_valid_position else None


def is_harmless(error: Exception) -> bool:
    """aiokafka tells once of a partition without a committed offset; its reader seeks anyway."""
    return isinstance(error, NoOffsetForPartitionError)


def partitions_named(error: Exception) -> list[tuple[str, int]]:
    """The partitions whose position an OffsetOutOfRangeError says is gone."""
    named = error.args[0] if error.args else None
    return [(tp.topic, tp.partition) for tp in named] if isinstance(named, Mapping) else []
