"""The quarantine of one preset: what lies in it, what is open, and how it is read within bounds.

Decides: what "open" means: kept, still retained, and without a mark of a committed redrive or fix.
Invariants: everything is read committed and up to a fence taken at the start; values pass through
and are not held, but for the records that are asked for, and those within LOADED_MAX records and
LOADED_BYTES_MAX bytes; a record that is no kept one is left alone. Must not know: what is done with
an open record.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, ReaderSettings, read_one, read_range
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.redrive import Kept, Mark, read

# Of one run of a command: how many open records it holds with their values.
LOADED_MAX: Final = 100_000
LOADED_BYTES_MAX: Final = 256 * 2**20
# Groups that `top` tells apart; what comes beyond is one group.
GROUPS_MAX: Final = 10_000
OTHERS: Final = "others"
SETTINGS: Final = ReaderSettings(
    queue_kbytes=16_384, queue_messages_min=1_000, partition_fetch_bytes=2_097_152, fetch_wait_ms=10
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which kept records are meant: those that fit all that is given. `places`: (partition, offset)
    in the quarantine topic; `since_ns`: failed first at that time or later."""

    rules: frozenset[str] = frozenset()
    producers: frozenset[str] = frozenset()
    symbols: frozenset[str] = frozenset()
    schema_ids: frozenset[int] = frozenset()
    since_ns: int | None = None
    places: frozenset[tuple[int, int]] = frozenset()

    def fits(self, kept: Kept) -> bool:
        return (
            (not self.rules or kept.reason in self.rules)
            and (not self.producers or kept.producer in self.producers)
            and (not self.symbols or kept.symbol in self.symbols)
            and (not self.schema_ids or kept.schema_id in self.schema_ids)
            and (self.since_ns is None or kept.first_failure_ns >= self.since_ns)
            and (not self.places or (kept.partition, kept.offset) in self.places)
        )


@dataclass(slots=True)
class Group:
    """Open records that failed alike. Times are of their first failures, UTC ns."""

    rule: str
    producer: str
    schema_id: int | None
    records: int = 0
    bytes: int = 0
    first_ns: int = 2**63 - 1
    last_ns: int = 0


class Quarantine:
    """A preset's quarantine, or some of its partitions, as it is when this is made; `refresh`
    learns of marks since.

    Raises ContractError where the preset has no quarantine topic, TransportError when the broker
    does not answer.
    """

    def __init__(
        self, cluster: Cluster, preset: Preset, partitions: Collection[int] | None = None
    ) -> None:
        self.preset = preset
        self.topic = topic_name(preset.id, "quarantine")
        self._cluster = cluster
        self._admin = Admin(cluster)
        count = self._admin.partitions([self.topic]).get(self.topic)
        if count is None:
            raise ContractError(
                "there is no such topic",
                parameter="topic",
                value=self.topic,
                fix=f"Make it: seamline topics apply {preset.id}",
            )
        read_of = range(count) if partitions is None else sorted(partitions)
        self._tps: list[TP] = [(self.topic, number) for number in read_of]
        self._starts = self._admin.begin_offsets(self._tps)
        self._fences = self._admin.end_offsets(self._tps)
        # Offsets that are settled, by partition, sorted.
        self._settled = {number: array("q") for _, number in self._tps}
        self._read_to = dict(self._starts)
        self._learn(self._fences)

    @property
    def settled(self) -> int:
        """Marks that are there."""
        return sum(map(len, self._settled.values()))

    def is_settled(self, partition: int, offset: int) -> bool:
        marks = self._settled[partition]
        at = bisect_left(marks, offset)
        return at < len(marks) and marks[at] == offset

    def refresh(self) -> None:
        """Learn of the marks that were committed since."""
        self._learn(self._admin.end_offsets(self._tps))

    def kept(self, choice: Choice) -> Iterator[Kept]:
        """The chosen records up to the fence, settled ones too, in order within each partition."""
        for message in self._messages(self._starts, self._fences):
            found = read(message)
            if isinstance(found, Kept) and choice.fits(found):
                yield found

    def open(self, choice: Choice) -> Iterator[Kept]:
        """The chosen records that are open."""
        return (
            each for each in self.kept(choice) if not self.is_settled(each.partition, each.offset)
        )

    def loaded(self, choice: Choice) -> list[Kept]:
        """The chosen open records with their values. Raises ContractError for more than a run may
        hold: nothing is left out in silence."""
        found: list[Kept] = []
        size = 0
        for each in self.open(choice):
            found.append(each)
            size += len(each.value or b"")
            if len(found) > LOADED_MAX or size > LOADED_BYTES_MAX:
                raise ContractError(
                    f"more than {LOADED_MAX} records or {LOADED_BYTES_MAX >> 20} MiB are chosen",
                    parameter="choice",
                    value=f"{len(found)} records, {size} bytes",
                    fix="Choose fewer: --rule, --producer, --symbol, --schema-id, --since",
                )
        return found

    def one(self, partition: int, offset: int) -> Kept:
        """The record at one place, open or settled. Raises ContractError where there is none."""
        if (self.topic, partition) not in self._fences:
            raise ContractError(
                f"{self.topic} has no such partition",
                parameter="partition",
                value=partition,
                fix="Take the place that `seamline quarantine export` or a plan names",
            )
        found = read(read_one(self._cluster, self.topic, partition, offset))
        if not isinstance(found, Kept):
            raise ContractError(
                "not a record of quarantine but a mark of one",
                parameter="offset",
                value=offset,
                fix="Places are in: seamline quarantine export",
            )
        return found

    def groups(self, choice: Choice) -> list[Group]:
        """The open records by rule, producer and schema id, the most first."""
        groups: dict[tuple[str, str, int | None], Group] = {}
        for each in self.open(choice):
            key = each.reason, each.producer, each.schema_id
            if key not in groups and len(groups) >= GROUPS_MAX:
                key = OTHERS, OTHERS, None
            group = groups.setdefault(key, Group(*key))
            group.records += 1
            group.bytes += len(each.value or b"")
            group.first_ns = min(group.first_ns, each.first_failure_ns)
            group.last_ns = max(group.last_ns, each.first_failure_ns)
        return sorted(groups.values(), key=lambda group: (-group.records, group.rule))

    def _learn(self, fences: dict[TP, int]) -> None:
        fresh: dict[int, list[int]] = {}
        for message in self._messages(self._read_to, fences):
            found = read(message) if message.value is None else None
            if isinstance(found, Mark):
                fresh.setdefault(message.partition, []).append(found.offset)
        for partition, offsets in fresh.items():
            settled = np.frombuffer(self._settled[partition], np.int64)
            self._settled[partition] = array("q", np.union1d(settled, offsets).tobytes())
        self._read_to = dict(fences)

    def _messages(self, starts: dict[TP, int], fences: dict[TP, int]) -> Iterator[Message]:
        for batch in read_range(self._cluster, starts, fences, settings=SETTINGS):
            yield from batch
