"""A stack of three brokers: one lost and started again, what it holds, what a start refuses."""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faults.broker_cases import one_of_three
from faults.case import Ground
from preset_making import make_preset
from seamline.connectors.embedded.processes import strays
from seamline.connectors.embedded.single import await_in_sync, kill_broker, start_broker
from seamline.connectors.embedded.stack import down, status, up
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.kafka.reader import Tail, read_range
from seamline.schemas.errors import SeamlineError, TransportError, UsageError
from seamline.sdk.cli.main import app
from stack_fixture import ClusterOfThree

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))


def test_one_broker_is_lost_and_started_again(cluster_of_three: ClusterOfThree) -> None:
    home, cluster = cluster_of_three.directory, cluster_of_three.world.cluster
    seen = status(home, env={})
    assert (seen.state, [b.state for b in seen.brokers]) == ("running", ["answering"] * 3)
    assert seen.bootstrap == cluster.bootstrap
    assert len(cluster.bootstrap.split(",")) == 3
    with pytest.raises(UsageError, match=r"brokers = 1: .* is of 3 brokers"):
        up(home, brokers=1, env={})

    killed = kill_broker(home, 2, env={})
    seen = status(home, env={})
    assert (seen.state, seen.kafka, seen.registry) == ("degraded", "partly answering", "answering")
    assert [(b.state, b.pid is None) for b in seen.brokers] == [
        ("answering", False),
        ("stopped", True),
        ("answering", False),
    ]
    told = CliRunner().invoke(app, ["status", "--dir", str(home), "-o", "json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)["broker 2"].startswith("stopped at 127.0.0.1:")
    again = up(home, env={})
    assert not again.already_running
    assert again.bootstrap == cluster.bootstrap
    assert again.kafka_pids[2] != killed
    assert up(home, brokers=3, env={}).already_running
    assert start_broker(home, 2, env={}) == again.kafka_pids[2]
    await_in_sync(cluster.bootstrap, 3)


def test_topics_are_held_by_three_and_one_that_is_not_is_told(
    cluster_of_three: ClusterOfThree, tmp_path: Path
) -> None:
    cluster = cluster_of_three.world.cluster
    fresh = make_preset(cluster_of_three.world, tmp_path, partitions=1)
    admin = Admin(cluster)
    made = admin.topics([fresh.topic("live"), "seamline.audit"])
    assert {t.replication for t in made.values()} == {3}
    assert {t.config["min.insync.replicas"] for t in made.values()} == {"2"}
    assert topics.plan(cluster, fresh.preset) == []
    other = replace(fresh.preset, id=f"{fresh.preset.id}x")
    poor = topics.wanted_topics(other, 1)[0]
    admin.create([TopicSettings(poor.name, 1, 1, {**poor.config, "min.insync.replicas": "2"})])
    (difference,) = (d for d in topics.plan(cluster, other) if d.topic == poor.name)
    assert (difference.field, difference.have, difference.want) == ("replication", "1", "3")
    assert topics.apply(cluster, other).left == (difference,)


def test_a_start_of_three_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "stack"
    for number in (1, 2, 3):
        data = home / f"kafka-{number}" / "data"
        data.mkdir(parents=True)
        node = 7 if number == 3 else number
        data.joinpath("meta.properties").write_text(
            f"version=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id={node}\n"
        )
    try:
        with pytest.raises(SeamlineError, match="it ended while starting: "):
            up(home, env={})
        assert strays(home) == []
        assert status(home, env={}).state == "stopped"
        home.joinpath("kafka-2", "data", "meta.properties").write_text("cluster.id=other\n")
        with pytest.raises(SeamlineError, match="the broker's data is damaged"):
            up(home, env={})
        assert strays(home) == []
    finally:
        down(home, env={})


def test_clients_get_over_the_loss_of_a_leader_and_of_a_replica(
    cluster_of_three: ClusterOfThree,
) -> None:
    """What needs two replicas goes on; what needs three is told, and comes once when it can."""
    home, cluster = cluster_of_three.directory, cluster_of_three.world.cluster
    admin = Admin(cluster)
    two, three = (f"clients.{secrets.token_hex(4)}.{n}" for n in ("two", "three"))
    admin.create(
        [
            TopicSettings(two, 3, -1),
            TopicSettings(three, 1, 3, {"min.insync.replicas": "3"}),
        ]
    )
    tps = [(two, n) for n in range(3)]
    producer = IdempotentProducer(cluster)
    transactional = TransactionalProducer(cluster, two)
    transactional.init()
    with Tail(cluster) as tail:
        for tp in tps:
            tail.add(tp, 0)
        for n in range(3):
            producer.send(two, None, b"before", partition=n)
        producer.flush()
        lost = admin.leaders([two])[two, 0]
        kill_broker(home, lost, env={})
        for n in range(3):
            producer.send(two, None, b"after", partition=n)
        producer.flush(60)
        transactional.begin()
        transactional.send(two, 0, None, b"in a transaction")
        transactional.commit(60)
        assert min(Admin(cluster, 60).end_offsets(tps).values()) >= 2
        seen: list[bytes | None] = []
        deadline = time.monotonic() + 60
        while len(seen) < 7:
            assert time.monotonic() < deadline, seen
            seen += [message.value for message in tail.poll(0.5)]
    assert sorted(filter(None, seen)) == [b"after"] * 3 + [b"before"] * 3 + [b"in a transaction"]

    producer.send(three, None, b"once", partition=0)
    with pytest.raises(TransportError, match="1 records not acknowledged in time") as told:
        producer.flush(1.0)
    assert told.value.retriable
    start_broker(home, lost, env={})
    producer.flush(60)
    assert producer.counts.delivered == producer.counts.sent == 7
    found = read_range(cluster, {(three, 0): 0}, Admin(cluster, 60).end_offsets([(three, 0)]))
    assert [m.value for batch in found for m in batch] == [b"once"]
    producer.close()
    transactional.close()
    await_in_sync(cluster.bootstrap, 3)


@pytest.mark.parametrize("seed", range(5) if SOAK else range(1))
def test_leaders_killed_and_brokers_restarted_in_turn_under_load_lose_nothing(
    seed: int, cluster_of_three: ClusterOfThree, tmp_path: Path
) -> None:
    ground = Ground(cluster_of_three.world, tmp_path, cluster_of_three.directory)
    outcome = one_of_three(ground, seed, kills=2 if SOAK else 1, rolls=1 if SOAK else 0)
    print(outcome.story())
    assert outcome.ok, outcome.story()
    assert outcome.bars > 1_000, "too little was fed to mean anything"
