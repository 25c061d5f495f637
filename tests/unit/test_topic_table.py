"""The topic table of the design as data, and what counts as a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seamline.connectors.kafka.admin import TopicSettings
from seamline.connectors.kafka.topics import (
    ROLE_SETTINGS,
    SHARED_SETTINGS,
    TopicDifference,
    compare,
    replication_on,
    roles_of,
    shared_topics,
    wanted_topics,
)
from seamline.presets import loader
from seamline.schemas.topics import LANDING_ROLES, ROLES

DAY_MS = 86_400_000
PRESETS = loader.load(None, {})
MINUTE = PRESETS["ohlcv.binance.spot.1m"]
CLEANUP = {
    "live": ("delete", 7 * DAY_MS),
    "backfill": ("delete", 7 * DAY_MS),
    "conformed": ("delete", 14 * DAY_MS),
    "storage": ("compact", None),
    "superseded": ("delete", -1),
    "seals": ("compact", None),
    "positions": ("compact", None),
    "gaps": ("compact", None),
    "quarantine": ("delete", 30 * DAY_MS),
    "reports": ("compact,delete", 30 * DAY_MS),
    "chunks": ("compact", None),
}


def test_every_role_has_its_row() -> None:
    assert set(ROLE_SETTINGS) == set(ROLES) == set(CLEANUP)


@pytest.mark.parametrize("role", ROLES)
def test_cleanup_retention_and_timestamps(role: str) -> None:
    policy, retention_ms = CLEANUP[role]
    settings = ROLE_SETTINGS[role]
    assert settings["cleanup.policy"] == policy
    assert settings.get("retention.ms") == (None if retention_ms is None else str(retention_ms))
    expires = retention_ms is not None and retention_ms > 0
    assert settings.get("message.timestamp.type") == ("LogAppendTime" if expires else None)
    if "compact" in policy:
        assert settings["segment.bytes"] == "16777216"
        assert settings["segment.ms"] == "600000"
        assert settings["min.cleanable.dirty.ratio"] == "0.1"
        assert settings["max.compaction.lag.ms"] == "1800000"


def test_a_presets_topics_share_the_count_and_conformed_has_its_own_retention() -> None:
    preset = replace(MINUTE, partitions=5, conformed_retention_ns=3_600_000_000_000)
    topics = wanted_topics(preset, replication=1)
    assert {t.name.rpartition(".")[2] for t in topics} == set(ROLES)
    assert {t.partitions for t in topics} == {5}
    conformed = next(t for t in topics if t.name.endswith(".conformed"))
    assert conformed.config["retention.ms"] == "3600000"


def test_a_derived_preset_has_no_landing_topics() -> None:
    derived = PRESETS["ohlcv.binance.spot.5m"]
    assert not set(roles_of(derived)) & set(LANDING_ROLES)
    assert len(roles_of(derived)) == len(ROLES) - len(LANDING_ROLES)


def test_the_shared_topics_have_one_partition() -> None:
    topics = {t.name: t for t in shared_topics(replication=1)}
    assert set(topics) == set(SHARED_SETTINGS)
    assert {t.partitions for t in topics.values()} == {1}
    assert topics["seamline.audit"].config["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("brokers", "stated", "replication"),
    [(0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 3), (9, 1, 3), (2, 3, 3), (6, 5, 5), (3, 2, 3)],
)
def test_replication_is_what_the_cluster_states_and_never_less_than_three_of_three(
    brokers: int, stated: int, replication: int
) -> None:
    assert replication_on(brokers, stated) == replication


@pytest.mark.parametrize("replication", [1, 2, 3, 5])
def test_of_three_replicas_two_must_be_in_sync(replication: int) -> None:
    topics = wanted_topics(MINUTE, replication)
    assert {t.replication for t in topics} == {replication}
    in_sync = {t.config.get("min.insync.replicas") for t in topics}
    assert in_sync == ({"2"} if replication >= 3 else {None})


def test_what_differs_and_what_may_be_done_about_it() -> None:
    want = TopicSettings("t", 4, 3, {"cleanup.policy": "compact,delete", "retention.ms": "5"})
    same = TopicSettings("t", 4, 3, {"cleanup.policy": "delete,compact", "retention.ms": "5"})
    assert compare(same, want) == []
    have = TopicSettings("t", 8, 1, {"cleanup.policy": "delete", "x": "y"})
    differences = compare(have, want)
    assert differences == [
        TopicDifference("t", "partitions", "8", "4"),
        TopicDifference("t", "replication", "1", "3"),
        TopicDifference("t", "cleanup.policy", "delete", "compact,delete"),
        TopicDifference("t", "retention.ms", None, "5"),
    ]
    assert [d.alterable for d in differences] == [False, False, True, True]
    assert [d.refused for d in differences] == [True, False, True, True]


def test_numbers_are_compared_as_numbers() -> None:
    want = TopicSettings("t", 1, 1, {"min.cleanable.dirty.ratio": "0.1"})
    have = TopicSettings("t", 1, 1, {"min.cleanable.dirty.ratio": "0.10"})
    assert compare(have, want) == []
