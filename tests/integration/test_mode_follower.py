"""The modes of subjects, followed on a real broker: changes, junk, an absent topic.

A lost broker is in `test_worker_outages`, which has one to lose.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from e2e.workers import await_that
from seamline.connectors.governance.follow import ModeFollower
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError, UsageError
from seamline.schemas.modes import CANARY, STRICT, Policy, SubjectState, encode_state

SUBJECT = "seamline.ohlcv.x.1m.live-value"
OTHER = "seamline.ohlcv.x.1m.backfill-value"
STATE = SubjectState(SUBJECT, STRICT, 1, 1_700_000_000_000_000_000, "ann", "clean", "ab" * 32)


Pair = tuple[bytes, bytes | None]


def write(cluster: Cluster, topic: str, *records: SubjectState | Pair) -> None:
    producer = IdempotentProducer(cluster)
    for record in records:
        if isinstance(record, SubjectState):
            key, value = record.subject.encode(), encode_state(record)
        else:
            key, value = record  # type: ignore[assignment]
        producer.send(topic, key, value)
    producer.close(30)


@pytest.fixture
def topic(world: World) -> str:
    name = f"test-modes-{secrets.token_hex(6)}"
    Admin(world.cluster).create([TopicSettings(name, 1, 1, {"cleanup.policy": "compact"})])
    return name


@pytest.fixture
def followers() -> Iterator[list[ModeFollower]]:
    made: list[ModeFollower] = []
    yield made
    for follower in made:
        follower.stop()


def test_modes_are_known_at_the_start_and_followed(
    world: World, topic: str, followers: list[ModeFollower], caplog: pytest.LogCaptureFixture
) -> None:
    """A change, junk between, an old version again, and what is not committed yet."""
    caplog.set_level(logging.INFO, logger="seamline.connectors.governance.follow")
    write(world.cluster, topic, STATE, (b"seamline.audit", b"a head"), (b"junk", b"{"))
    follower = ModeFollower(world.cluster, CANARY, topic=topic)
    followers.append(follower)
    follower.start()
    assert follower.policy(SUBJECT) == Policy(STRICT, 1)
    assert follower.policy(OTHER) == Policy(CANARY)
    assert follower.unreadable == 1
    two = replace(STATE, mode=CANARY, version=2, tombstones=("cd" * 32,))
    junk = encode_state(two)[:-1]
    old = replace(STATE, reason="comes again")
    other = replace(STATE, subject=OTHER)
    write(world.cluster, topic, two, (two.subject.encode(), junk), (SUBJECT.encode(), None), old)
    write(world.cluster, topic, other)
    await_that(lambda: follower.policy(OTHER).mode == STRICT, 60, "a change of mode", {})
    assert follower.policy(SUBJECT) == Policy(CANARY, 2, frozenset({"cd" * 32}))
    assert follower.unreadable == 3 and not follower.lost
    assert f"{SUBJECT} is canary (version 2, 1 writer schemas withdrawn), was strict" in caplog.text
    assert "is no state of a subject and changes no mode" in caplog.text
    # What changes while it runs is a warning, once, and what it began with is none.
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.split(" (")[0] for text in told] == [f"{SUBJECT} is canary", f"{OTHER} is strict"]
    assert all(text.endswith("set by ann: clean") for text in told)

    governance = TransactionalProducer(world.cluster, f"test-{secrets.token_hex(6)}")
    governance.init()
    three = replace(STATE, version=3, reason="in a transaction")
    governance.begin()
    governance.send(topic, 0, three.subject.encode(), encode_state(three))
    late = ModeFollower(world.cluster, STRICT, topic=topic)
    followers.append(late)
    late.start()
    assert late.policy(SUBJECT).version == 2, "an open transaction is not in force"
    assert late.policy("another-value") == Policy(STRICT)
    governance.commit()
    governance.close()
    for each in (follower, late):
        await_that(lambda e=each: e.policy(SUBJECT).version == 3, 60, "a committed change", {})  # type: ignore[misc]


def test_a_topic_that_comes_later_is_found(world: World, followers: list[ModeFollower]) -> None:
    name = f"test-modes-{secrets.token_hex(6)}"
    follower = ModeFollower(world.cluster, CANARY, topic=name)
    followers.append(follower)
    follower.start()
    assert follower.policy(SUBJECT) == Policy(CANARY)
    Admin(world.cluster).create([TopicSettings(name, 1, 1)])
    write(world.cluster, name, STATE)
    await_that(lambda: follower.policy(SUBJECT).mode == STRICT, 60, "the topic", {})


def test_nobody_starts_without_the_modes_or_with_another_word() -> None:
    with pytest.raises(TransportError):
        ModeFollower(Cluster("127.0.0.1:9"), CANARY).start()
    with pytest.raises(UsageError, match="default_mode = 'audit'"):
        ModeFollower(Cluster("127.0.0.1:9"), "audit")
