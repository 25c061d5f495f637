"""A partition's own topics in memory: what a machine writes can be read back without a broker.

Decides: nothing; it keeps what it is given. A transaction ends with a marker that takes an offset
in each of its topics, as on a broker. Used to compile every kernel before a worker joins its group,
and by tests of the machine alone. Must not know: what is in a record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from seamline.schemas.errors import ContractError
from seamline.streams.kernel.protocol import Header, Machine, Step, Stored


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """A record with the attributes of a landed and of a stored one."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()

    @property
    def timestamp_ms(self) -> int:
        return self.timestamp


@dataclass(slots=True)
class MemoryLog:
    """Topics of one partition; also its reader, always at the end of what was committed."""

    partition: int
    topics: dict[str, list[MemoryRecord]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[Header] = ()
    ) -> int:
        offset = self.ends.get(topic, 0)
        record = MemoryRecord(topic, self.partition, offset, 0, key, value, tuple(headers))
        self.topics.setdefault(topic, []).append(record)
        self.ends[topic] = offset + 1
        return offset

    def commit(self, machine: Machine, step: Step) -> None:
        """What an owner does with a step, with a commit that never fails."""
        if not step.batches:
            return
        offsets: dict[int, Sequence[int]] = {}
        for number, batch in enumerate(step.batches):
            headers = batch.headers
            placed = [
                self.append(
                    batch.topic, key, value, headers[i] if isinstance(headers, list) else headers
                )
                for i, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True))
            ]
            if batch.want != "none":
                offsets[number] = placed if batch.want == "all" else placed[:1]
        for topic in {batch.topic for batch in step.batches}:
            self.ends[topic] += 1  # the marker
        machine.committed(step, offsets)

    def fence(self, topic: str) -> int:
        return self.ends.get(topic, 0)

    def latest(self, topic: str) -> list[tuple[bytes, bytes, int]]:
        newest: Mapping[bytes | None, MemoryRecord] = {
            record.key: record for record in self.topics.get(topic, ())
        }
        found = [
            (record.key, record.value, record.offset)
            for record in newest.values()
            if record.key is not None and record.value is not None
        ]
        return sorted(found, key=lambda entry: entry[2])

    def range(self, topic: str, start_offset: int | None) -> Iterator[Sequence[Stored]]:
        records = self.topics.get(topic, [])
        records = records[self._place(records, start_offset or 0) :]
        if records:
            yield records

    def one(self, topic: str, offset: int) -> MemoryRecord:
        records = self.topics.get(topic, [])
        at = self._place(records, offset)
        if at == len(records) or records[at].offset != offset:
            raise ContractError("not retained", parameter="offset", value=offset)
        return records[at]

    @staticmethod
    def _place(records: Sequence[MemoryRecord], offset: int) -> int:
        return bisect_left(records, offset, key=lambda record: record.offset)
