"""Which topics a preset has and how they are set; what differs is shown, never changed silently.

Decides: the topic table of the design as data, what counts as a difference, and what `apply` may
do: make what is missing, and change settings only when told to; and how often a topic is held: as
the cluster states, never less than three times where there are three brokers. Invariants: partition
counts never change; nothing is made while something that exists is wrong. Must not know: what the
records mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.topics import (
    AUDIT_TOPIC,
    LANDING_ROLES,
    PINS_TOPIC,
    ROLES,
    SCHEMA_MODES_TOPIC,
    topic_name,
)

REPLICATION: Final = 3
IN_SYNC: Final = 2
DEFAULT_REPLICATION: Final = "default.replication.factor"
DAY_MS: Final = 86_400_000

_COMPACTED: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    # Else the active segment never compacts, and a new owner reads all of it.
    "segment.bytes": str(16 * 1_048_576),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "1800000",
}
_NEVER_DELETED: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}


def _deleted(retention_ms: int) -> Mapping[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        # Replayed history must not expire on arrival.
        "message.timestamp.type": "LogAppendTime",
    }


# role -> settings; `conformed` has the preset's own retention.
ROLE_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "live": _deleted(7 * DAY_MS),
    "backfill": _deleted(7 * DAY_MS),
    "conformed": _deleted(14 * DAY_MS),
    "storage": _COMPACTED,
    "superseded": _NEVER_DELETED,
    "seals": _COMPACTED,
    "positions": _COMPACTED,
    "gaps": _COMPACTED,
    "quarantine": _deleted(30 * DAY_MS),
    "reports": {**_COMPACTED, **_deleted(30 * DAY_MS), "cleanup.policy": "compact,delete"},
    "chunks": _COMPACTED,
}
# Of all presets together, one partition each.
SHARED_SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    SCHEMA_MODES_TOPIC: _COMPACTED,
    PINS_TOPIC: _COMPACTED,
    AUDIT_TOPIC: _NEVER_DELETED,
}


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """Where a topic is not as the table says. `field` is `topic` (missing), `partitions`,
    `replication` or the name of a setting; `have` is None for what is missing."""

    topic: str
    field: str
    have: str | None
    want: str

    @property
    def missing(self) -> bool:
        return self.field == "topic"

    @property
    def alterable(self) -> bool:
        return self.field not in ("topic", "partitions", "replication")

    @property
    def refused(self) -> bool:
        """Whether `apply` stops at it. Replication is placement, which another tool changes."""
        return self.field not in ("topic", "replication")


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: names of the topics made, the settings changed, and what it left: topics
    that are held by fewer brokers than they should be."""

    created: tuple[str, ...]
    altered: tuple[TopicDifference, ...]
    left: tuple[TopicDifference, ...] = ()


def roles_of(preset: Preset) -> tuple[str, ...]:
    """A derived preset has no landing topics: its parent's worker writes it."""
    return tuple(r for r in ROLES if preset.derive_from is None or r not in LANDING_ROLES)


def replication_on(brokers: int, stated: int) -> int:
    """Replicas of each topic on so many live brokers whose own default is `stated`.

    Kafka's default where nobody states one is 1, with which the loss of a broker is a loss of data;
    and a broker that is down just now must not make new topics poorer than the cluster's default.
    """
    return max(1, stated, min(REPLICATION, brokers))


def wanted_topics(preset: Preset, replication: int) -> tuple[TopicSettings, ...]:
    """The topics of a preset as they should be, each with so many replicas."""
    retention_ms = preset.conformed_retention_ns // NS_PER_MS
    return tuple(
        _wanted(
            topic_name(preset.id, role),
            preset.partitions,
            _deleted(retention_ms) if role == "conformed" else ROLE_SETTINGS[role],
            replication,
        )
        for role in roles_of(preset)
    )


def shared_topics(replication: int) -> tuple[TopicSettings, ...]:
    """The topics of the whole plane as they should be."""
    return tuple(_wanted(name, 1, config, replication) for name, config in SHARED_SETTINGS.items())


def plan(cluster: Cluster, preset: Preset) -> list[TopicDifference]:
    """What is missing or differs, of the preset and of the shared topics. Changes nothing.

    Raises TransportError when the broker does not answer.
    """
    admin = Admin(cluster)
    return _differences(admin, _all_wanted(admin, preset))


def apply(cluster: Cluster, preset: Preset, *, alter: bool = False) -> Applied:
    """Make the topics that are missing; with `alter` also set the settings that differ.

    Raises ContractError (field `differences`) before anything is done when an existing topic
    differs: settings without `alter`, partition counts always. TransportError when the broker
    does not answer.
    """
    admin = Admin(cluster)
    wanted = _all_wanted(admin, preset)
    differences = _differences(admin, wanted)
    _refuse([d for d in differences if d.refused and not (alter and d.alterable)], preset.id)
    altered = tuple(d for d in differences if d.alterable)
    for topic in {d.topic: None for d in altered}:
        admin.alter(topic, {d.field: d.want for d in altered if d.topic == topic})
    missing = {d.topic for d in differences if d.missing}
    created = admin.create(topic for topic in wanted if topic.name in missing)
    if len(created) < len(missing):  # another made some meanwhile, perhaps not as we would
        _refuse([d for d in _differences(admin, wanted) if d.refused], preset.id)
    return Applied(created, altered, tuple(d for d in differences if d.field == "replication"))


def ensure_shared(cluster: Cluster, names: Iterable[str]) -> tuple[str, ...]:
    """Make those of these shared topics that are missing; the names of those made.

    Raises ContractError when one exists with other settings, TransportError when the broker does
    not answer.
    """
    admin = Admin(cluster)
    chosen = set(names)
    wanted = [topic for topic in shared_topics(_replication(admin)) if topic.name in chosen]
    differences = _differences(admin, wanted)
    missing = {d.topic for d in differences if d.missing}
    created = admin.create(topic for topic in wanted if topic.name in missing)
    if len(created) < len(missing):
        differences = _differences(admin, wanted)
    _refuse([d for d in differences if d.refused and not d.missing], "PRESET")
    return created


def shared_differences(cluster: Cluster, names: Iterable[str]) -> list[TopicDifference]:
    """How those of these shared topics that exist differ from the table. Changes nothing.

    Raises TransportError when the broker does not answer.
    """
    admin = Admin(cluster)
    chosen = set(names)
    wanted = [topic for topic in shared_topics(_replication(admin)) if topic.name in chosen]
    return [d for d in _differences(admin, wanted) if not d.missing]


def assert_partitions(cluster: Cluster, preset: Preset, roles: Iterable[str] | None = None) -> None:
    """For start-up: every topic of the preset (or of `roles`) exists with the preset's count.

    Raises ContractError (fields `topic`, `have`, `want`) for the first that does not.
    """
    names = [topic_name(preset.id, role) for role in (roles or roles_of(preset))]
    counts = Admin(cluster).partitions(names)
    for name in names:
        have = counts.get(name)
        if have is None:
            raise ContractError(
                f"topic {name} does not exist",
                parameter="topic",
                value=name,
                fix=f"Run: seamline topics apply {preset.id}",
                topic=name,
                have=None,
                want=preset.partitions,
            )
        if have != preset.partitions:
            raise ContractError(
                f"topic {name} has {have} partitions, the preset {preset.partitions}",
                parameter="partitions",
                value=have,
                fix=_FIX_PARTITIONS,
                topic=name,
                have=have,
                want=preset.partitions,
            )


_FIX_PARTITIONS: Final = (
    "A partition count is fixed when a preset is created (a symbol's partition depends on it): "
    "set the preset's partitions to the topic's, or make a new preset and replay into it"
)


def _wanted(
    name: str, partitions: int, config: Mapping[str, str], replication: int
) -> TopicSettings:
    # One of three may be down without a write being refused or held by one broker alone.
    safety = {"min.insync.replicas": str(IN_SYNC)} if replication >= REPLICATION else {}
    return TopicSettings(name, partitions, replication, {**config, **safety})


def _all_wanted(admin: Admin, preset: Preset) -> tuple[TopicSettings, ...]:
    replication = _replication(admin)
    return (*wanted_topics(preset, replication), *shared_topics(replication))


def _replication(admin: Admin) -> int:
    stated = admin.broker_setting(DEFAULT_REPLICATION)
    return replication_on(len(admin.brokers()), int(stated) if stated is not None else 1)


def _differences(admin: Admin, wanted: Iterable[TopicSettings]) -> list[TopicDifference]:
    wanted = list(wanted)
    found = admin.topics(topic.name for topic in wanted)
    differences: list[TopicDifference] = []
    for want in wanted:
        have = found.get(want.name)
        if have is None:
            text = f"{want.partitions} partitions, replication {want.replication}"
            differences.append(TopicDifference(want.name, "topic", None, text))
        else:
            differences.extend(compare(have, want))
    return differences


def compare(have: TopicSettings, want: TopicSettings) -> list[TopicDifference]:
    """The differences of a topic that exists; only settings that `want` states count."""
    differences = []
    if have.partitions != want.partitions:
        differences.append(
            TopicDifference(want.name, "partitions", str(have.partitions), str(want.partitions))
        )
    if have.replication < want.replication:
        differences.append(
            TopicDifference(want.name, "replication", str(have.replication), str(want.replication))
        )
    for name, value in want.config.items():
        held = have.config.get(name)
        if held is None or not _same(held, value):
            differences.append(TopicDifference(want.name, name, held, value))
    return differences


def _same(have: str, want: str) -> bool:
    if have == want:
        return True
    if "," in want or "," in have:  # cleanup policies come in any order
        return sorted(have.split(",")) == sorted(want.split(","))
    try:
        return float(have) == float(want)
    except ValueError:
        return False


def _refuse(differences: list[TopicDifference], preset_id: str) -> None:
    if not differences:
        return
    first = differences[0]
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    altering = f"Look at them with: seamline topics plan {preset_id}; change with --alter"
    raise ContractError(
        f"topic {first.topic} exists with {first.field} = {first.have}, wanted {first.want}{more}",
        parameter=first.field,
        value=first.have,
        fix=_FIX_PARTITIONS if first.field == "partitions" else altering,
        topic=first.topic,
        have=first.have,
        want=first.want,
        differences=[
            {"topic": d.topic, "field": d.field, "have": d.have, "want": d.want}
            for d in differences
        ],
    )
