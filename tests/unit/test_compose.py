"""docker-compose.yml and what it mounts, checked without an engine.

Whether the containers run is for a machine with an engine: see tests/integration/test_compose.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from seamline.connectors.embedded.artifacts import load_lock
from seamline.connectors.embedded.settings import (
    BROKER,
    KAFKA_HEAP_MB,
    REGISTRY_API,
    REGISTRY_HEAP_MB,
    container_environment,
    registry_command,
)
from seamline.connectors.metrics import LiveMetrics, Metrics
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.sdk.cli.main import app

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"topics"}
# Where the broker runs, which cannot be as in the embedded stack.
PLACE = {
    *("CLUSTER_ID", "KAFKA_HEAP_OPTS", "KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS"),
    *("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "KAFKA_CONTROLLER_QUORUM_VOTERS", "KAFKA_LOG_DIRS"),
}
PINNED = re.compile(r"[a-z/\-]+:v?\d+\.\d+\.\d+")
COMMANDS = ("worker", "live", "topics")


def test_the_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {
        *("kafka", "registry", "topics", "worker", "live", "prometheus", "grafana"),
    }


def test_the_broker_has_the_settings_of_the_embedded_stack() -> None:
    told = SERVICES["kafka"]["environment"]
    assert set(told) - PLACE == set(container_environment(BROKER))
    assert {k: v for k, v in told.items() if k not in PLACE} == container_environment(BROKER)
    assert told["KAFKA_HEAP_OPTS"] == f"-Xmx{KAFKA_HEAP_MB}m -XX:+UseSerialGC"


def test_the_registry_stores_as_the_embedded_one() -> None:
    told = SERVICES["registry"]["environment"]
    command = registry_command(Path("j"), Path("h"), Path("/var/lib/registry"), "-Dm", 8080)
    flags = dict(w[2:].split("=", 1) for w in command if w.startswith("-Dapicurio"))
    assert {k.upper().replace(".", "_"): v for k, v in flags.items()}.items() <= told.items()
    assert told["JAVA_OPTS_APPEND"] == f"-Xmx{REGISTRY_HEAP_MB}m -XX:+UseSerialGC"


def test_versions_are_pinned_and_those_of_the_embedded_stack() -> None:
    versions = load_lock().versions
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{versions['kafka']}"
    assert SERVICES["registry"]["image"] == f"apicurio/apicurio-registry:{versions['registry']}"
    for name, service in SERVICES.items():
        assert PINNED.fullmatch(service["image"]), f"{name}: {service['image']} is not pinned"
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.findall(r"^FROM python:\d+\.\d+\.\d+-\S+$", dockerfile, re.MULTILINE)
    assert "-c constraints.txt" in dockerfile


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_every_service_says_whether_it_is_well(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_services_wait_for_what_they_need() -> None:
    needed = {
        name: {of: how["condition"] for of, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    both = {"kafka": "service_healthy", "registry": "service_healthy"}
    assert needed["topics"] == both
    made = both | {"topics": "service_completed_successfully"}
    assert needed["worker"] == needed["live"] == made
    for name, others in needed.items():
        for of, condition in others.items():
            assert of in SERVICES, f"{name} waits for {of}, which is no service"
            assert condition != "service_healthy" or "healthcheck" in SERVICES[of]


def test_our_services_find_the_broker_and_the_registry() -> None:
    for name in ("topics", "worker", "live"):
        env = {k: str(v) for k, v in SERVICES[name]["environment"].items()}
        world = World.resolve(env)
        listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert f"BROKER://{world.cluster.bootstrap}" in listeners.split(",")
        assert world.registry_url == f"http://registry:8080{REGISTRY_API}"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_commands_of_seamline(name: str) -> None:
    """Parsed by the real command line, not run."""
    words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(word)) for word in SERVICES[name]["command"]]
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context(name, words)
    asked = context.params.get("presets") or [context.params.get("preset")]
    known = loader.load(None, {})
    assert set(asked) <= set(known)


def test_what_is_mounted_is_there_and_every_volume_is_declared() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert mount.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]


def test_ports_are_published_on_this_machine_only_and_once() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_prometheus_scrapes_the_ports_that_are_served() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    for name in ("worker", "live"):
        command = SERVICES[name]["command"]
        port = command[command.index("--metrics-port") + 1]
        assert jobs[f"seamline-{name}"] == [f"{name}:{port}"]
        assert f":{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
        assert SERVICES[name]["environment"]["SEAMLINE_METRICS_HOST"] == "0.0.0.0"


def test_prometheus_itself_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (Debian: prometheus)")
    config = ROOT / "deploy" / "prometheus.yml"
    done = subprocess.run(
        [promtool, "check", "config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def exported() -> Iterator[str]:
    """Names of the series that worker and live connector export."""
    live = LiveMetrics("p", lambda: {"delivered": 1}, lambda: {"open_holes": 1, "watermark_ns": 1})
    for registry in (Metrics().registry, live.registry):
        for family in registry.collect():
            end = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            yield from (family.name + suffix for suffix in end.get(family.type, ("",)))


def test_the_dashboard_asks_for_series_that_exist() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "seamline.json").read_text())
    source = yaml.safe_load(
        (
            ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
        ).read_text()
    )
    known = set(exported())
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == source["datasources"][0]["uid"]
        for target in panel["targets"]:
            asked = set(re.findall(r"seaml\w+", target["expr"]))
            assert asked and asked <= known, f"{panel['title']}: {asked - known}"
