"""The stack from container images, for machines that have an engine.

Decides: which images, how they are reached. Invariants: the broker's settings are the embedded
stack's own; ports are free ones of the loopback interface; without an engine the test is skipped
with a sentence.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from seamline.connectors.embedded.artifacts import load_lock
from seamline.connectors.embedded.ports import HOST, pick
from seamline.connectors.embedded.readiness import registry_answers
from seamline.connectors.embedded.settings import BROKER, REGISTRY_API, container_environment
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ask_cluster
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError

READY_S = 120.0
CONTROLLER = "9093"


def require_engine() -> None:
    """Skip the test unless a container engine answers."""
    if shutil.which("docker") is None:
        pytest.skip("no container engine here: there is no docker command")
    asked = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if asked.returncode != 0:
        pytest.skip("no container engine answers here: `docker info` fails")


@contextmanager
def container_stack() -> Iterator[World]:
    require_engine()
    from testcontainers.core.container import DockerContainer

    versions = load_lock().versions
    rng = random.Random()
    port = pick(rng)
    registry_port = pick(rng, (port,))
    here = {
        "listeners": f"BROKER://0.0.0.0:{port},CONTROLLER://0.0.0.0:{CONTROLLER}",
        "advertised.listeners": f"BROKER://{HOST}:{port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        # The image formats its storage for static voters.
        "controller.quorum.voters": f"1@localhost:{CONTROLLER}",
        "log.dirs": "/tmp/kraft-combined-logs",
    }
    broker = DockerContainer(f"apache/kafka:{versions['kafka']}").with_bind_ports(port, port)
    for name, value in container_environment({**BROKER, **here}).items():
        broker = broker.with_env(name, value)
    registry = DockerContainer(f"apicurio/apicurio-registry:{versions['registry']}")
    registry = registry.with_bind_ports(8080, registry_port)
    registry = registry.with_env("APICURIO_STORAGE_KIND", "sql")
    registry = registry.with_env("APICURIO_STORAGE_SQL_KIND", "h2")
    with broker, registry:
        cluster = Cluster(f"{HOST}:{port}")
        deadline = time.monotonic() + READY_S
        while not (registry_answers(registry_port) and _broker_answers(cluster)):
            if time.monotonic() > deadline:
                pytest.fail(f"the containers are not ready after {READY_S:g} s")
            time.sleep(0.2)
        yield World(cluster, f"http://{HOST}:{registry_port}{REGISTRY_API}")


def _broker_answers(cluster: Cluster) -> bool:
    try:
        return bool(ask_cluster(cluster, 2.0).brokers)
    except TransportError:
        return False
