"""A stack of three brokers: one lost and started again, what it holds, what a start refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preset_making import make_preset
from seamline.connectors.embedded.processes import strays
from seamline.connectors.embedded.single import await_in_sync, kill_broker, start_broker
from seamline.connectors.embedded.stack import down, status, up
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.schemas.errors import SeamlineError, UsageError
from seamline.sdk.cli.main import app
from stack_fixture import ClusterOfThree

pytestmark = pytest.mark.integration


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
