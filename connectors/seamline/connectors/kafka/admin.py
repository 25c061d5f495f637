"""Questions to the broker and changes of its topics: offsets, partitions, settings.

Decides: what a fence is (the read-committed end, which is the last stable offset), and that a topic
counts as made only when every partition has a leader. Invariants: every wait has a deadline and
names its cause; the client is referenced for as long as its futures run. Must not know: presets,
roles, what a topic should look like.

A commit that has returned may show in a fence a moment later: the coordinator writes its markers
after it has answered. `TransactionalProducer.init` of the same id waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import Causes, error_of, moved, quiet_config, transport_error
from seamline.schemas.errors import SeamlineError, UsageError
from seamline.schemas.times import NS_PER_MS

TP = tuple[str, int]
Isolation = Literal["read_committed", "read_uncommitted"]
T = TypeVar("T")

TIMEOUT_S: Final = 10.0
WAIT_SLICE_S: Final = 0.25
METADATA_SLICE_S: Final = 1.0
METADATA_CHECK_S: Final = 0.02
_ISOLATION: Final = {
    "read_committed": IsolationLevel.READ_COMMITTED,
    "read_uncommitted": IsolationLevel.READ_UNCOMMITTED,
}
_LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic as the broker has it (`config`: all settings in force) or should make it (`config`:
    those to set)."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


class Admin:
    """One admin client. Every method raises TransportError within about `timeout_s`."""

    def __init__(self, cluster: Cluster, timeout_s: float = TIMEOUT_S) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._causes = Causes()
        config: dict[str, Any] = {**quiet_config(cluster), "error_cb": self._causes}
        self._client = AdminClient(config)

    def end_offsets(
        self, tps: Iterable[TP], isolation: Isolation = "read_committed"
    ) -> dict[TP, int]:
        """The offset after the last record of each; read_committed: before any open transaction.

        Raises TransportError (not retriable) for a topic or a partition that does not exist.
        """
        if isolation not in _ISOLATION:
            raise UsageError(
                "read_committed or read_uncommitted", parameter="isolation", value=isolation
            )
        return self._offsets(tps, _LATEST, isolation)

    def begin_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The first offset that is retained. Compaction does not move it: a record may be later."""
        return self._offsets(tps, _EARLIEST, "read_uncommitted")

    def offsets_at(self, tps: Iterable[TP], time_ns: int) -> dict[TP, int | None]:
        """The first offset of each with a record of this time or a later one, whole milliseconds;
        None where there is none. By the append time where the topic is `LogAppendTime`."""
        spec = OffsetSpec.for_timestamp(time_ns // NS_PER_MS)
        found = self._offsets(tps, spec, "read_uncommitted")
        return {tp: offset if offset >= 0 else None for tp, offset in found.items()}

    def brokers(self) -> tuple[int, ...]:
        """Ids of the live brokers."""
        return tuple(sorted(self._metadata().brokers))

    def replicas(self) -> tuple[tuple[int, ...], frozenset[TP]]:
        """The live brokers, and the partitions of any topic that lack a leader or an in-sync
        replica."""
        metadata = self._metadata()
        lagging = {
            (topic, number)
            for topic, found in metadata.topics.items()
            for number, p in found.partitions.items()
            if p.leader < 0 or len(p.isrs) < len(p.replicas)
        }
        return tuple(sorted(metadata.brokers)), frozenset(lagging)

    def leaders(self, topics: Iterable[str]) -> dict[TP, int]:
        """The broker that leads each partition, -1 for one without; a topic that does not exist is
        left out."""
        found = self._leaders(topics)
        return {(topic, n): led for topic, leds in found.items() for n, led in enumerate(leds)}

    def broker_setting(self, name: str) -> str | None:
        """A setting of a live broker; None where there is none, or it may not be asked for."""
        resource = ConfigResource(ResourceType.BROKER, str(self.brokers()[0]))
        answers = self._client.describe_configs([resource], request_timeout=self._timeout_s)
        try:
            entries = self._result(answers[resource], f"broker setting {name}")
        except SeamlineError as error:
            if error.fields.get("code") == "CLUSTER_AUTHORIZATION_FAILED":
                return None
            raise
        return entries[name].value if name in entries else None

    def cluster_id(self) -> str:
        """The id that the cluster was made with."""
        return str(self._metadata().cluster_id)

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Partition counts; a topic that does not exist is left out."""
        return {topic: len(found) for topic, found in self._leaders(topics).items()}

    def topics(self, names: Iterable[str]) -> dict[str, TopicSettings]:
        """The topics that exist, with the settings in force, broker defaults included."""
        metadata = self._metadata().topics
        found = {n: metadata[n] for n in names if n in metadata and metadata[n].error is None}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        if not resources:
            return {}
        answers = self._client.describe_configs(resources, request_timeout=self._timeout_s)
        settings: dict[str, TopicSettings] = {}
        for resource, future in answers.items():
            entries: dict[str, ConfigEntry] = self._result(future, f"settings of {resource.name}")
            partitions = found[resource.name].partitions
            settings[resource.name] = TopicSettings(
                resource.name,
                len(partitions),
                min((len(p.replicas) for p in partitions.values()), default=0),
                {n: e.value for n, e in entries.items() if e.value is not None},
            )
        return settings

    def create(self, topics: Iterable[TopicSettings]) -> tuple[str, ...]:
        """Make those that do not exist, wait for their leaders; the names of those made.

        A topic that another made meanwhile is left as it is.
        """
        wanted = {topic.name: topic for topic in topics}
        if not wanted:
            return ()
        new = [
            NewTopic(t.name, t.partitions, t.replication, config=dict(t.config))
            for t in wanted.values()
        ]
        futures = self._client.create_topics(
            new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s
        )
        made = [name for name, future in futures.items() if self._created(name, future)]
        self._await_leaders({name: topic.partitions for name, topic in wanted.items()})
        return tuple(sorted(made))

    def alter(self, topic: str, config: Mapping[str, str]) -> None:
        """Set these settings on a topic, leave its others alone, and wait until they show."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        futures = self._client.incremental_alter_configs(
            [resource], request_timeout=self._timeout_s
        )
        for future in futures.values():
            self._result(future, f"change of the settings of {topic}")
        # The controller has answered; the broker that is asked next may still have the old ones.
        deadline = time.monotonic() + self._timeout_s
        while any(self.topics([topic])[topic].config.get(n) != v for n, v in config.items()):
            if time.monotonic() >= deadline:
                late = KafkaError(KafkaError._TIMED_OUT, "the new settings do not show")
                raise self._error(late, f"change of the settings of {topic}")
            time.sleep(METADATA_CHECK_S)

    def _offsets(self, tps: Iterable[TP], spec: OffsetSpec, isolation: Isolation) -> dict[TP, int]:
        wanted = sorted(set(tps))
        if not wanted:
            return {}
        self._refuse_missing(wanted)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._offsets_once(wanted, spec, isolation)
            except SeamlineError as error:
                # The client asks a leader that has not begun (a new topic, a broker just
                # started) or no longer is one.
                if not moved(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(METADATA_CHECK_S)

    def _offsets_once(
        self, tps: Iterable[TP], spec: OffsetSpec, isolation: Isolation
    ) -> dict[TP, int]:
        futures = self._client.list_offsets(
            {TopicPartition(topic, partition): spec for topic, partition in tps},
            isolation_level=_ISOLATION[isolation],
            request_timeout=self._timeout_s,
        )
        return {
            (tp.topic, tp.partition): self._result(
                future, f"offsets of {tp.topic}[{tp.partition}]"
            ).offset
            for tp, future in futures.items()
        }

    def _refuse_missing(self, tps: Iterable[TP]) -> None:
        """The client says `no leaders found` of what does not exist, as if it might come."""
        tps = list(tps)
        counts = self.partitions({topic for topic, _ in tps})
        for topic, partition in tps:
            if not 0 <= partition < counts.get(topic, 0):
                missing = KafkaError(
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    f"no partition {partition}" if topic in counts else "no such topic",
                )
                raise self._error(missing, f"offsets of {topic}[{partition}]")

    def _created(self, name: str, future: Future[None]) -> bool:
        try:
            self._result(future, f"making of topic {name}")
        except SeamlineError as error:
            if error.fields.get("code") == "TOPIC_ALREADY_EXISTS":
                return False
            raise
        return True

    def _await_leaders(self, counts: Mapping[str, int]) -> None:
        """Until every partition has a leader: before that, clients fail or wait long."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            leaders = self._leaders(counts)
            lacking = [
                topic
                for topic in counts
                if topic not in leaders or not all(leader >= 0 for leader in leaders[topic])
            ]
            if not lacking:
                return
            if time.monotonic() >= deadline:
                late = KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"no leader: {lacking[:5]}")
                raise self._error(late, "making of topics")
            time.sleep(METADATA_CHECK_S)

    def _leaders(self, topics: Iterable[str]) -> dict[str, list[int]]:
        metadata = self._metadata().topics
        return {
            topic: [p.leader for _, p in sorted(metadata[topic].partitions.items())]
            for topic in topics
            if topic in metadata and metadata[topic].error is None
        }

    def _metadata(self) -> ClusterMetadata:
        """Of all topics: asking for one that does not exist makes the client wait for it."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            left = deadline - time.monotonic()
            try:
                metadata = self._client.list_topics(timeout=max(0.1, min(METADATA_SLICE_S, left)))
            except KafkaException as raised:
                with suppress(KafkaException):
                    self._client.poll(0)  # so that a refusal reaches `error_cb`
                if left <= 0 or self._causes.refusal() is not None:
                    raise self._error(error_of(raised), "metadata") from None
            else:
                self._causes.clear()
                return metadata

    def _result(self, future: Future[T], doing: str) -> T:
        deadline = time.monotonic() + self._timeout_s + WAIT_SLICE_S
        while True:
            try:
                answer = future.result(timeout=WAIT_SLICE_S)
            except FutureTimeoutError:
                refusal = self._causes.refusal()
                if refusal is not None:
                    raise self._error(refusal, doing) from None
                if time.monotonic() >= deadline:
                    late = KafkaError(KafkaError._TIMED_OUT, "no answer in time")
                    raise self._error(late, doing) from None
            except KafkaException as raised:
                raise self._error(error_of(raised), doing) from None
            else:
                self._causes.clear()
                return answer

    def _error(self, error: KafkaError, doing: str) -> SeamlineError:
        return transport_error(error, doing=doing, cluster=self._cluster, causes=self._causes)


def end_offsets(
    cluster: Cluster, tps: Iterable[TP], isolation: Isolation = "read_committed"
) -> dict[TP, int]:
    """`Admin.end_offsets` for one call: with read_committed, the fence."""
    return Admin(cluster).end_offsets(tps, isolation)


def begin_offsets(cluster: Cluster, tps: Iterable[TP]) -> dict[TP, int]:
    """`Admin.begin_offsets` for one call."""
    return Admin(cluster).begin_offsets(tps)
