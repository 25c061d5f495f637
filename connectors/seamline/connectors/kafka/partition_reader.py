"""What a rebuilding owner reads: one partition of our own topics up to a fence.

Decides: that a topic's fence is taken once, read committed, at its first use, and that of a
compacted topic only the newest value of a key counts (compaction is lazy, the log holds older
ones). Invariants: nothing beyond the fence is returned except by `one`; offsets are never assumed
dense; a start that is no longer retained raises. Must not know: what the records mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, PointReader, read_range


class LogReader:
    """For one partition number. Not for use by two threads at once; `admin` may be shared.

    Every method may raise TransportError.
    """

    def __init__(self, cluster: Cluster, partition: int, admin: Admin) -> None:
        self._cluster = cluster
        self._partition = partition
        self._admin = admin
        self._points: PointReader | None = None
        self._fences: dict[str, int] = {}

    @property
    def partition(self) -> int:
        return self._partition

    def fence(self, topic: str) -> int:
        """The read-committed end offset when the topic was first asked for."""
        if topic not in self._fences:
            tp = (topic, self._partition)
            self._fences[topic] = self._admin.end_offsets([tp])[tp]
        return self._fences[topic]

    def latest(self, topic: str) -> list[tuple[bytes, bytes, int]]:
        """`(key, value, offset)` of the newest record per key in offset order, no tombstones."""
        newest: dict[bytes, Message] = {}
        for batch in self.range(topic, None):
            for message in batch:
                if message.key is not None:
                    newest[message.key] = message
        found = sorted(newest.items(), key=lambda item: item[1].offset)
        return [(key, m.value, m.offset) for key, m in found if m.value is not None]

    def range(self, topic: str, start_offset: int | None) -> Iterator[Sequence[Message]]:
        """Batches of records from `start_offset` (None: the first retained one) to the fence.

        Raises ContractError when `start_offset` is no longer retained.
        """
        tp = (topic, self._partition)
        fence = self.fence(topic)
        start = start_offset
        if start is None:
            start = self._admin.begin_offsets([tp])[tp]
        if start < fence:
            yield from read_range(self._cluster, {tp: start}, {tp: fence})

    def one(self, topic: str, offset: int) -> Message:
        """The record at `offset`, also beyond the fence. ContractError when it is gone."""
        if self._points is None:
            self._points = PointReader(self._cluster)
        return self._points.read(topic, self._partition, offset)

    def offsets(self, topics: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """First retained and read-committed end offsets of this partition, as of now."""
        tps = [(topic, self._partition) for topic in topics]
        first, end = self._admin.begin_offsets(tps), self._admin.end_offsets(tps)
        return {tp[0]: first[tp] for tp in tps}, {tp[0]: end[tp] for tp in tps}

    def close(self) -> None:
        if self._points is not None:
            self._points.close()
            self._points = None
