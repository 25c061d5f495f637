"""The embedded stack itself: start, reuse, loss of either process, stale state, two at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seamline.connectors.embedded.processes import current, is_alive, strays
from seamline.connectors.embedded.stack import (
    TEMPORARY_PREFIX,
    down,
    running,
    status,
    sweep,
    up,
)
from seamline.connectors.embedded.state import read_state, write_state
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError, UsageError

pytestmark = pytest.mark.integration

SCHEMA = '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}]}'


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory whose processes are ended, whatever a test leaves."""
    directory = tmp_path / "a stack"
    yield directory
    down(directory, env={})
    assert strays(directory) == []


def cli(directory: Path, *words: str) -> dict[str, Any]:
    """One `seamline` command in a process of its own; its JSON."""
    done = subprocess.run(
        [sys.executable, "-c", "from seamline.sdk.cli.main import run; run()", *words],
        env={**os.environ, "SEAMLINE_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def register(registry_url: str, subject: str) -> int:
    body = json.dumps({"schema": SCHEMA}).encode()
    kind = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(f"{registry_url}/subjects/{subject}/versions", body, kind)
    with urllib.request.urlopen(request, timeout=10) as response:
        return int(json.load(response)["id"])


def kill(pid: int, directory: Path) -> None:
    (process,) = (p for p in strays(directory) if p.pid == pid)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(process, directory):
        assert time.monotonic() < deadline, "the process does not die"


def topics_of(bootstrap: str) -> dict[str, int]:
    return Admin(Cluster(bootstrap)).partitions(["kept"])


def test_a_stack_outlives_its_command_and_each_of_its_losses(home: Path) -> None:
    first = cli(home, "up", "-o", "json")
    assert first["state"] == "running"
    assert cli(home, "status", "-o", "json")["state"] == "running"
    Admin(Cluster(first["bootstrap"])).create([TopicSettings("kept", 2, 1)])
    identity = register(first["registry_url"], "kept")
    again = cli(home, "up", "-o", "json")
    assert again["already_running"] is True
    assert {k: again[k] for k in ("kafka_pid", "registry_pid", "bootstrap")} == {
        k: first[k] for k in ("kafka_pid", "registry_pid", "bootstrap")
    }

    kill(first["kafka_pid"], home)
    seen = status(home, env={})
    assert (seen.state, seen.kafka, seen.registry) == ("degraded", "stopped", "answering")
    with pytest.raises(TransportError, match=r"broker not running.*seamline up"):
        World.resolve({"SEAMLINE_DIR": str(home)})
    second = up(home, env={})
    assert second.registry_pid == first["registry_pid"]
    assert second.bootstrap == first["bootstrap"]
    assert topics_of(second.bootstrap) == {"kept": 2}

    kill(second.registry_pid, home)
    assert status(home, env={}).registry == "stopped"
    third = up(home, env={})
    assert third.kafka_pid == second.kafka_pid
    assert register(third.registry_url, "kept") == identity

    ended = cli(home, "down", "-o", "json")["ended"]
    assert sorted(ended) == sorted([third.kafka_pid, third.registry_pid])
    assert cli(home, "status", "-o", "json")["state"] == "stopped"
    last = up(home, env={})
    assert last.bootstrap == first["bootstrap"]
    assert topics_of(last.bootstrap) == {"kept": 2}
    assert register(last.registry_url, "kept") == identity
    assert World.resolve({"SEAMLINE_DIR": str(home)}).cluster.bootstrap == last.bootstrap


def test_other_ports_stale_pids_and_both_servers_killed(home: Path) -> None:
    first = up(home, env={})
    kill(first.kafka_pid, home)
    kill(first.registry_pid, home)
    state = read_state(home)
    assert state is not None
    # Both pids now belong to somebody else, who must not be taken for them, nor ended.
    write_state(home, replace(state.with_broker(1, current()), registry=current()))
    assert status(home, env={}).state == "stopped"
    with socket.create_server(("127.0.0.1", state.places[0].port)):
        # The old port is taken: another is found, and the data comes along.
        second = up(home, env={})
        assert second.bootstrap != first.bootstrap
        assert second.registry_url == first.registry_url
        assert status(home, env={}).state == "running"
    with pytest.raises(UsageError, match=r"kafka_port = 1: the stack .* already runs on port"):
        up(home, kafka_port=1, env={})
    # Without its state a stack is ended by the mark of its processes, and started anew.
    (home / "stack.json").unlink()
    third = up(home, env={})
    assert not {second.kafka_pid, second.registry_pid} & {third.kafka_pid, third.registry_pid}


def test_two_stacks_at_once_and_two_starts_of_one(tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    try:
        with ThreadPoolExecutor(3) as pool:
            one, two, same = pool.map(lambda home: up(home, env={}), homes)
        assert (two.kafka_pid, two.registry_pid) == (same.kafka_pid, same.registry_pid)
        assert one.bootstrap != two.bootstrap
        assert one.registry_url != two.registry_url
        Admin(Cluster(one.bootstrap)).create([TopicSettings("kept", 1, 1)])
        assert topics_of(two.bootstrap) == {}
        assert len(down(homes[0], env={})) == 2
        assert status(homes[1], env={}).state == "running"
    finally:
        for home in homes:
            down(home, env={})


def test_a_port_in_use_starts_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for wish in ({"kafka_port": port}, {"registry_port": port}):
            with pytest.raises(UsageError, match=f"{port}: something else listens on this port"):
                up(home, env={}, **wish)
            assert strays(home) == []
    with pytest.raises(UsageError, match="the broker has this port too"):
        up(home, kafka_port=31_999, registry_port=31_999, env={})


def test_a_start_that_fails_leaves_nothing_running(home: Path) -> None:
    data = home / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\n")
    with pytest.raises(TransportError, match="the broker's data is damaged"):
        up(home, env={})
    assert strays(home) == []
    assert status(home, env={}).state == "stopped"
    meta = "version=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id=7\n"
    (data / "meta.properties").write_text(meta)
    with pytest.raises(TransportError, match="it ended while starting: "):
        up(home, env={})
    assert strays(home) == []


def test_a_command_killed_while_starting_does_not_matter(home: Path) -> None:
    code = "from seamline.sdk.cli.main import run; run()"
    env = {**os.environ, "SEAMLINE_DIR": str(home)}
    with subprocess.Popen([sys.executable, "-c", code, "up"], env=env) as starting:
        deadline = time.monotonic() + 60
        while not strays(home):
            assert time.monotonic() < deadline, "nothing was started"
        starting.kill()
    ready = up(home, env={})
    assert {p.pid for p in strays(home)} == {ready.kafka_pid, ready.registry_pid}


def test_logs_are_where_they_should_be_and_a_wedged_broker_is_told(home: Path) -> None:
    ready = up(home, env={})
    assert ready.versions == {"kafka": "4.3.1", "registry": "3.3.3"}
    assert "started (kafka.server.KafkaRaftServer)" in (home / "kafka" / "kafka.log").read_text()
    assert "Listening on" in (home / "registry" / "registry.log").read_text()
    assert (home / "registry" / "registry.mv.db").exists()
    for name in ("kafka", "registry"):
        assert (home / name / "console.log").stat().st_size < 10_000
    os.kill(ready.kafka_pid, signal.SIGSTOP)
    seen = status(home, env={})
    assert (seen.state, seen.kafka, seen.kafka_pid) == ("degraded", "silent", ready.kafka_pid)
    os.kill(ready.kafka_pid, signal.SIGCONT)
    assert up(home, env={}).already_running


def test_a_temporary_stack_ends_with_its_block_and_is_swept_after_a_kill() -> None:
    with running(env={}) as ready:
        assert status(ready.directory, env={}).state == "running"
        assert ready.directory.name.startswith(TEMPORARY_PREFIX)
    assert not ready.directory.exists()
    assert strays(ready.directory) == []
    code = (
        "import os, signal\n"
        "from seamline.connectors.embedded.stack import running\n"
        "with running(env={}) as ready:\n"
        "    print(ready.directory, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    left = Path(killed.stdout.strip())
    assert len(strays(left)) == 2
    assert left in sweep()
    assert strays(left) == []
    assert not left.exists()
