"""The compose file where it can be run: the broker's part without an engine, all of it with one.

The image's own set-up program is in the broker's jar. Given the compose file's variables it writes
the properties and formats the storage as it would in the container, and the real broker then starts
on them. Everything else needs an engine and is skipped without one.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from container_stack import require_engine
from seamline.connectors.embedded.artifacts import load_lock
from seamline.connectors.embedded.download import cache_directory, install
from seamline.connectors.embedded.launch import find_java
from seamline.connectors.embedded.ports import pick
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ask_cluster
from seamline.schemas.errors import TransportError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
KAFKA: dict[str, str] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][
    "kafka"
]["environment"]
READY_S = 60.0
ENGINE_READY_S = 900


def test_the_image_set_up_takes_our_variables_and_the_broker_starts_on_them(
    tmp_path: Path,
) -> None:
    installed = install(load_lock(), cache_directory(os.environ), os.environ, print)
    java = [str(find_java(os.environ)), "-XX:+UseSerialGC", "-cp"]
    java.append(":".join(map(str, installed.classpath)))
    folders = {name: tmp_path / name for name in ("default", "mounted", "final", "data")}
    for folder in folders.values():
        folder.mkdir()
    for empty in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (folders["default"] / empty).write_text("")
    ports = Ports()
    env = {name: ports.moved(value) for name, value in KAFKA.items()}
    env["KAFKA_LOG_DIRS"] = str(folders["data"])
    set_up = [*java, "kafka.docker.KafkaDockerWrapper", "setup"]
    for option in ("default", "mounted", "final"):
        set_up += [f"--{option}-configs-dir", str(folders[option])]
    done = subprocess.run(set_up, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folders["data"] / "meta.properties").exists()
    properties = str(folders["final"] / "server.properties")
    with subprocess.Popen(
        [*java, "kafka.Kafka", properties], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as broker:
        try:
            assert cluster_id(ports, broker) == KAFKA["CLUSTER_ID"]
        finally:
            broker.kill()


class Ports:
    """Free ports of this machine in the place of the container's."""

    def __init__(self) -> None:
        rng = random.Random()
        self.taken: dict[str, str] = {}
        for port in ("19092", "9092", "9093"):
            self.taken[port] = str(pick(rng, [int(p) for p in self.taken.values()]))

    def moved(self, value: str) -> str:
        for port, other in self.taken.items():
            value = value.replace(f":{port}", f":{other}")
        return value.replace("//kafka:", "//localhost:").replace("//0.0.0.0:", "//127.0.0.1:")


def cluster_id(ports: Ports, broker: subprocess.Popen[bytes]) -> str:
    """The id, asked by way of the listener that is published to the host."""
    cluster = Cluster(f"127.0.0.1:{ports.taken['9092']}")
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return ask_cluster(cluster, 5.0).cluster_id
        except TransportError:
            assert broker.poll() is None, "the broker ended"
            assert time.monotonic() < deadline, "the broker does not answer"


@pytest.mark.docker
@pytest.mark.timeout(ENGINE_READY_S + 60)
def test_all_of_it_comes_up_healthy() -> None:
    require_engine()
    compose = ["docker", "compose", "-f", str(ROOT / "docker-compose.yml"), "-p", "seamline-test"]
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the container engine here has no `docker compose`")
    try:
        up = [*compose, "up", "--build", "--wait", "--wait-timeout", str(ENGINE_READY_S - 120)]
        done = subprocess.run(
            up, capture_output=True, text=True, timeout=ENGINE_READY_S, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        subprocess.run([*compose, "down", "-v"], capture_output=True, timeout=120, check=False)
