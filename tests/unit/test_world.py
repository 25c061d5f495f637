"""Where the broker and the registry are: environment, secrets, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ask_cluster
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError, UsageError
from seamline.sdk.cli.main import app

NAMED = {
    "SEAMLINE_BOOTSTRAP_SERVERS": "a:9092,b:9092",
    "SEAMLINE_SCHEMA_REGISTRY_URL": "http://r:8080/apis/ccompat/v7/",
}
SECURED = NAMED | {
    "SEAMLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "SEAMLINE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "SEAMLINE_KAFKA_SASL_USERNAME": "ops",
    "SEAMLINE_KAFKA_SASL_PASSWORD": "hunter2",
    "SEAMLINE_SCHEMA_REGISTRY_AUTH": "ops:hunter3",
}


def test_the_environment_names_a_cluster() -> None:
    world = World.resolve(NAMED)
    assert world == World(Cluster("a:9092,b:9092"), "http://r:8080/apis/ccompat/v7")
    assert world.cluster.client_config() == {"bootstrap.servers": "a:9092,b:9092"}
    assert Cluster.from_environment({}) is None


def test_security_is_passed_through_and_its_secrets_never_show() -> None:
    world = World.resolve(SECURED)
    assert world.cluster.client_config() == {
        "bootstrap.servers": "a:9092,b:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ops",
        "sasl.password": "hunter2",
    }
    assert "hunter" not in repr(world)
    assert "sasl.password" in repr(world.cluster)
    assert World.resolve(world.environment()) == world
    config = world.cluster.aiokafka_config()
    assert config.pop("ssl_context").check_hostname
    assert config == {
        "bootstrap_servers": ["a:9092", "b:9092"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ops",
        "sasl_plain_password": "hunter2",
    }


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"SEAMLINE_BOOTSTRAP_SERVERS": "a:9092"}, "SEAMLINE_SCHEMA_REGISTRY_URL = None: not set"),
        ({"SEAMLINE_SCHEMA_REGISTRY_URL": "http://r"}, "SEAMLINE_BOOTSTRAP_SERVERS = None"),
        (NAMED | {"SEAMLINE_BOOTSTRAP_SERVERS": "a"}, "'a' is not host:port"),
        (NAMED | {"SEAMLINE_BOOTSTRAP_SERVERS": "a:1,"}, "'' is not host:port"),
        (NAMED | {"SEAMLINE_BOOTSTRAP_SERVERS": "a:70000"}, "is not host:port"),
        (NAMED | {"SEAMLINE_SCHEMA_REGISTRY_URL": "r:8080"}, "not a URL of a schema registry"),
        (NAMED | {"SEAMLINE_SCHEMA_REGISTRY_URL": "http://u:hunter2@r"}, "would show in logs"),
        (NAMED | {"SEAMLINE_KAFKA_GROUP_ID": "x"}, "SEAMLINE_KAFKA_GROUP_ID = 'x': not a setting"),
        (NAMED | {"SEAMLINE_KAFKA_ISOLATION_LEVEL": "x"}, "not a setting that the environment"),
        (NAMED | {"SEAMLINE_KAFKA_MY_PASSWORD": "hunter2"}, "not a setting that the environment"),
    ],
)
def test_what_is_malformed_is_refused_without_its_secrets(env: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        World.resolve(env)
    assert says in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_no_cluster_and_no_stack_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"no embedded stack runs here.*seamline up"):
        World.resolve({"SEAMLINE_DIR": str(tmp_path)})


def test_a_broker_that_is_not_there_is_told_with_its_address() -> None:
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1.*no Kafka broker answers.*refused"):
        ask_cluster(Cluster("127.0.0.1:1"), 2.0)


def test_with_a_cluster_of_ones_own_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEAMLINE_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SEAMLINE_SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SEAMLINE_DIR", str(tmp_path / "never"))
    run = CliRunner().invoke
    assert run(app, ["up"]).exit_code == 3
    assert run(app, ["status", "-o", "json"]).exit_code == 1
    ended = run(app, ["down", "-o", "json"])
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["ended"] == []
    refused = run(app, ["up", "--dir", str(tmp_path)])
    assert refused.exit_code == 2
    assert "Unset it to use the embedded stack" in refused.stderr
    assert not (tmp_path / "never").exists()


def test_the_status_of_nothing_is_an_answer(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["status", "--dir", str(tmp_path), "-o", "json"])
    assert said.exit_code == 1
    assert json.loads(said.stdout)["state"] == "stopped"
    assert CliRunner().invoke(app, ["up", "--dir", str(tmp_path), "-o", "csv"]).exit_code == 2
