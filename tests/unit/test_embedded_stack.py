"""Ports, processes, state and log reading of the embedded stack, without starting it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seamline.connectors.embedded import settings, stack
from seamline.connectors.embedded.launch import (
    clean_environment,
    cluster_id_of,
    find_java,
    made_for,
)
from seamline.connectors.embedded.ports import BrokerPlace, is_free, pick, require_free
from seamline.connectors.embedded.processes import (
    Running,
    current,
    end,
    is_alive,
    mark,
    spawn,
    still_there,
    strays,
)
from seamline.connectors.embedded.readiness import (
    PortTakenError,
    Started,
    failure,
    sizes_of,
    why_ended,
)
from seamline.connectors.embedded.single import kill_broker, start_broker
from seamline.connectors.embedded.stack import down, endpoints, status, up
from seamline.connectors.embedded.state import (
    STATE_NAME,
    BrokerState,
    StackState,
    read_state,
    stack_directory,
    write_state,
)
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError, UsageError

PLACES = (BrokerPlace(1, 9092, 9093), BrokerPlace(2, 9192, 9193), BrokerPlace(3, 9292, 9293))

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(120)"
)

LISTENER = (
    "import socket, threading, time; s = socket.create_server(('127.0.0.1', 0));"
    "memory = bytearray(400 << 20);"
    "[threading.Thread(target=time.sleep, args=(99,), daemon=True).start() for _ in range(30)];"
    "print(s.getsockname()[1], flush=True); time.sleep(99)"
)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[Running]:
    """A marked process that ignores SIGTERM."""
    console = tmp_path / "console"
    command = [sys.executable, "-c", STUBBORN, mark(tmp_path)]
    process = spawn(command, tmp_path, console, dict(os.environ))
    deadline = time.monotonic() + 20
    while not (console.exists() and console.read_text() == "up\n"):
        assert time.monotonic() < deadline, "the process does not come up"
    yield process
    if is_alive(process, tmp_path):
        os.kill(process.pid, signal.SIGKILL)


def test_a_taken_port_is_refused_by_name(taken_port: int) -> None:
    assert not is_free(taken_port)
    with pytest.raises(UsageError, match=f"kafka_port = {taken_port}: something else listens"):
        require_free(taken_port, "kafka_port")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="not a port"):
        require_free(port, "registry_port")


def test_a_port_of_ours_is_below_the_range_for_clients_and_keeps_the_last_one(
    taken_port: int,
) -> None:
    rng = random.Random(1)
    first = pick(rng)
    assert 20_000 <= first < 32_000
    assert pick(rng, preferred=first) == first
    assert pick(rng, taken=(first,), preferred=first) != first
    assert pick(rng, preferred=taken_port) != taken_port


def test_a_process_is_known_by_pid_start_time_and_mark(stubborn: Running, tmp_path: Path) -> None:
    assert is_alive(stubborn, tmp_path)
    assert not is_alive(replace(stubborn, started=stubborn.started - 60), tmp_path)
    assert not is_alive(stubborn, tmp_path / "other")
    assert [p.pid for p in strays(tmp_path)] == [stubborn.pid]
    assert os.getsid(stubborn.pid) == stubborn.pid != os.getsid(0)


def test_a_process_of_someone_else_is_never_signalled(tmp_path: Path) -> None:
    end(current(), tmp_path, 0.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        end(Running(other.pid, time.time()), tmp_path, 0.0)
        assert other.poll() is None
        other.communicate(b"\n")
        assert other.returncode == 0


def test_what_ignores_a_polite_end_is_killed(stubborn: Running, tmp_path: Path) -> None:
    end(stubborn, tmp_path, 0.2)
    assert not is_alive(stubborn, tmp_path)
    assert strays(tmp_path) == []


def test_what_is_no_longer_alive_has_left_its_port(tmp_path: Path) -> None:
    """A killed process loses its memory, then its files: in between it must count as alive."""
    console = tmp_path / "console"
    command = [sys.executable, "-c", LISTENER, mark(tmp_path)]
    for _ in range(3):
        process = spawn(command, tmp_path, console, dict(os.environ))
        deadline = time.monotonic() + 20
        while not console.read_text().endswith("\n"):
            assert time.monotonic() < deadline, "the process does not come up"
        os.kill(process.pid, signal.SIGKILL)
        while is_alive(process, tmp_path):
            assert time.monotonic() < deadline, "the process does not go"
        assert is_free(int(console.read_text()))


def test_this_process_is_still_there_and_an_earlier_one_of_its_pid_is_not() -> None:
    assert still_there(current())
    assert not still_there(replace(current(), started=current().started - 60))


def test_state_is_read_back_and_only_by_its_owner(tmp_path: Path) -> None:
    broker = BrokerState(BrokerPlace(1, 9092, 9093), Running(7, 1.5))
    state = StackState((broker,), 8080, None, Running(9, 2.5), {"kafka": "4.3.1"})
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert (tmp_path / STATE_NAME).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [STATE_NAME]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 2, "kafka_port": 1}', "\x00"]
)
def test_a_state_that_cannot_be_understood_counts_as_absent(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_NAME).write_text(text)
    assert read_state(tmp_path) is None
    assert status(tmp_path, env={}).state == "stopped"
    assert down(tmp_path, env={}) == ()


def test_a_stale_state_is_seen_through(tmp_path: Path) -> None:
    """Its pids belong to others now: this process, and none at all."""
    broker = BrokerState(BrokerPlace(1, 1, 2), current())
    write_state(tmp_path, StackState((broker,), 3, Running(2**22 + 1, 1.0)))
    found = status(tmp_path, env={})
    assert (found.state, found.kafka_pid, found.bootstrap) == ("stopped", None, None)
    with pytest.raises(TransportError, match=r"broker and registry not running.*seamline up"):
        endpoints(tmp_path, {})
    with pytest.raises(TransportError, match=r"broker and registry not running.*seamline up"):
        World.resolve({"SEAMLINE_DIR": str(tmp_path)})
    assert down(tmp_path, env={}) == ()


def test_a_stack_whose_registry_ended_keeps_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demotion needs the broker alone, and must find it."""
    broker = BrokerState(BrokerPlace(1, 1, 2), current())
    # Whether the process is a broker of this directory is not what is asked here.
    monkeypatch.setattr(stack, "alive_in", lambda state, home: state)
    write_state(tmp_path, StackState((broker,), 3, None))
    world = World.resolve({"SEAMLINE_DIR": str(tmp_path)})
    assert world.cluster.bootstrap == "127.0.0.1:1"
    assert world.registry_url.startswith("http://127.0.0.1:3/")
    with pytest.raises(TransportError, match=r"\(registry not running\).*seamline up"):
        endpoints(tmp_path, {})


def test_the_directory_is_given_or_named_or_the_users(tmp_path: Path) -> None:
    env = {"SEAMLINE_DIR": str(tmp_path / "named")}
    assert stack_directory(tmp_path / "given", env) == tmp_path / "given"
    assert stack_directory(None, env) == tmp_path / "named"
    assert stack_directory(None, {}).name == "seamline"


@pytest.mark.parametrize("name", ["a;b", "a,b", "a\nb", "a\\b"])
def test_a_directory_that_settings_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="characters that Kafka's settings cannot hold"):
        up(tmp_path / name, env={})
    assert not (tmp_path / name).exists()


def test_no_java_is_told_before_anything_else(tmp_path: Path) -> None:
    env = {"SEAMLINE_JAVA": str(tmp_path / "java"), "SEAMLINE_CACHE_DIR": str(tmp_path / "cache")}
    with pytest.raises(UsageError, match=r"SEAMLINE_JAVA = .*: no Java runtime there"):
        up(tmp_path / "stack", env=env)
    assert list(tmp_path.iterdir()) == []
    assert find_java({}).name == "java"


def test_a_program_that_cannot_be_executed_is_told(tmp_path: Path) -> None:
    (tmp_path / "java").write_bytes(b"\x00")
    (tmp_path / "java").chmod(0o755)
    command = [str(tmp_path / "java"), mark(tmp_path)]
    with pytest.raises(UsageError, match="cannot be started: Exec format error"):
        spawn(command, tmp_path, tmp_path / "console", {})


@pytest.mark.parametrize(
    ("logged", "says"),
    [
        ("java.io.IOException: No space left on device", "it ended: the disk is full"),
        ("Failed to acquire lock on file .lock in /d", "another broker uses this directory"),
        ("Database may be already in use: locked", "another registry uses this directory"),
        ("java.lang.UnsupportedClassVersionError: x", "this Java is too old"),
        ("java.lang.OutOfMemoryError: Java heap space", "Java has not enough memory"),
        ("INFO fine\nERROR [x] the cause (y)\nINFO bye", r"it ended: ERROR \[x\] the cause"),
        ("", "it ended. The log says more"),
    ],
)
def test_a_log_is_told_in_a_sentence(tmp_path: Path, logged: str, says: str) -> None:
    log = tmp_path / "kafka.log"
    log.write_text("No space left on device, but that was yesterday\n")
    sizes = sizes_of((log, tmp_path / "console.log"))
    with log.open("a") as file:
        file.write(logged)
    server = Started("kafka", Running(1, 1.0), tmp_path, 9092, sizes)
    with pytest.raises(TransportError, match=says):
        raise failure(server, "it ended")


@pytest.mark.parametrize(
    ("logged", "says"),
    [
        (
            "IOException: No space left on device\nall log dirs in /d have failed",
            "the disk is full",
        ),
        ("IOException: File too large", "a file may not grow"),
        ("Shutdown broker because all log dirs in /d have failed", "its data cannot be written"),
        ("INFO shut down completed", None),
    ],
)
def test_a_broker_that_ended_by_itself_says_why(
    tmp_path: Path, logged: str, says: str | None
) -> None:
    log = tmp_path / "kafka.log"
    log.write_text(f"No space left on device\nstarting (kafka.server.KafkaRaftServer)\n{logged}\n")
    told = why_ended(log)
    assert told is None if says is None else says in str(told)
    folder = tmp_path / "kafka"
    folder.mkdir()
    (folder / "kafka.log").write_text(log.read_text())
    gone = Running(2**22 + 1, 1.0)
    write_state(tmp_path, StackState((BrokerState(PLACES[0], gone),), 8080))
    assert status(tmp_path, env={}).brokers[0].cause == (told and why_ended(folder / "kafka.log"))
    down(tmp_path, env={})
    assert status(tmp_path, env={}).brokers[0].cause is None


def test_a_port_taken_meanwhile_is_its_own_fault(tmp_path: Path) -> None:
    log = tmp_path / "registry.log"
    server = Started("registry", Running(1, 1.0), tmp_path, 8080, sizes_of((log,)))
    log.write_text("java.net.BindException: Address already in use")
    error = failure(server, "it ended")
    assert isinstance(error, PortTakenError)
    assert (error.parameter, error.value) == ("registry_port", 8080)


def test_damaged_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_text("version=1\n")
    with pytest.raises(TransportError, match="the broker's data is damaged"):
        cluster_id_of(tmp_path)


def test_the_servers_take_no_settings_from_our_environment() -> None:
    env = {"PATH": "/bin", "KAFKA_OPTS": "x", "JAVA_TOOL_OPTIONS": "y", "QUARKUS_HTTP_PORT": "1"}
    assert clean_environment(env) == {"PATH": "/bin", "LANG": "C.UTF-8"}


def test_the_settings_that_the_design_names() -> None:
    text = settings.broker_properties(Path("/data"), 1, PLACES[:1])
    told = dict(line.split("=", 1) for line in text.splitlines())
    assert told["process.roles"] == "broker,controller"
    assert told["controller.quorum.bootstrap.servers"] == "127.0.0.1:9093"
    assert told["group.initial.rebalance.delay.ms"] == "0"
    assert told["auto.create.topics.enable"] == "false"
    assert told["transaction.abort.timed.out.transaction.cleanup.interval.ms"] == "1000"
    assert told["transaction.max.timeout.ms"] == "30000"
    replicas = {v for k, v in told.items() if k.endswith("replication.factor")}
    assert replicas == {"1"}
    assert "127.0.0.1" in told["listeners"]
    assert "0.0.0.0" not in text
    command = settings.registry_command(Path("j"), Path("/home"), Path("/here"), "-Dm", 8080)
    assert "-Dapicurio.datasource.url=jdbc:h2:file:/here/registry" in command
    assert {"-Dapicurio.storage.kind=sql", "-Dapicurio.storage.sql.kind=h2"} < set(command)
    assert {"-Dquarkus.http.host=127.0.0.1", "-Dquarkus.http.port=8080"} < set(command)


def test_three_brokers_replicate_and_know_each_other() -> None:
    text = settings.broker_properties(Path("/data"), 2, PLACES)
    told = dict(line.split("=", 1) for line in text.splitlines())
    assert told["node.id"] == "2"
    voters = "1@127.0.0.1:9093,2@127.0.0.1:9193,3@127.0.0.1:9293"
    assert told["controller.quorum.voters"] == voters
    assert "controller.quorum.bootstrap.servers" not in told
    assert told["listeners"] == "BROKER://127.0.0.1:9192,CONTROLLER://127.0.0.1:9193"
    assert {v for k, v in told.items() if k.endswith("replication.factor")} == {"3"}
    assert {v for k, v in told.items() if k.endswith((".min.isr", "insync.replicas"))} == {"2"}
    assert told["broker.session.timeout.ms"] == "3000"
    assert settings.heap_mb(3) < settings.heap_mb(1)


def test_a_state_of_three_brokers_is_read_back(tmp_path: Path) -> None:
    brokers = tuple(BrokerState(place, Running(place.number, 1.5)) for place in PLACES)
    state = StackState(brokers, 8080).with_broker(2, None)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert state.bootstrap == "127.0.0.1:9092,127.0.0.1:9192,127.0.0.1:9292"
    assert [p.pid for p in state.processes] == [1, 3]


def test_the_state_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_text(
        '{"format": 1, "bootstrap": "127.0.0.1:9092", "registry_url": "http://127.0.0.1:8080/x", '
        '"kafka_port": 9092, "controller_port": 9093, "registry_port": 8080, '
        '"kafka": {"pid": 7, "started": 1.5}, "registry": null, "owner": null, '
        '"versions": {"kafka": "4.3.1"}}'
    )
    broker = BrokerState(PLACES[0], Running(7, 1.5))
    assert read_state(tmp_path) == StackState((broker,), 8080, versions={"kafka": "4.3.1"})


def test_a_directory_is_of_one_number_of_brokers(tmp_path: Path) -> None:
    assert made_for(tmp_path) is None
    for number in (1, 2, 3):
        (tmp_path / f"kafka-{number}").mkdir()
    assert made_for(tmp_path) is None
    (tmp_path / "kafka-2" / "data").mkdir()
    assert made_for(tmp_path) == 3
    with pytest.raises(UsageError, match=r"brokers = 1: .* is of 3 brokers.*Use --brokers 3"):
        up(tmp_path, brokers=1, env={})
    (tmp_path / "one" / "kafka" / "data").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"brokers = 3: .* is of one broker.*another directory"):
        up(tmp_path / "one", brokers=3, env={})


@pytest.mark.parametrize("brokers", [-1, 0, 2, 4, 7])
def test_a_number_of_brokers_without_use_is_refused(tmp_path: Path, brokers: int) -> None:
    with pytest.raises(UsageError, match=r"brokers = .*One of 1, 3, 5"):
        up(tmp_path / "stack", brokers=brokers, env={})
    assert not (tmp_path / "stack").exists()


def test_a_broker_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stack was made here"):
        start_broker(tmp_path, 1, env={})
    write_state(tmp_path, StackState(tuple(BrokerState(place) for place in PLACES), 8080))
    with pytest.raises(UsageError, match=r"number = 4: the stack has no such broker"):
        kill_broker(tmp_path, 4, env={})
    with pytest.raises(UsageError, match=r"number = 1: this broker does not run"):
        kill_broker(tmp_path, 1, env={})
    with pytest.raises(UsageError, match=r"1 of 3 would run: no majority.*seamline up"):
        start_broker(tmp_path, 1, env={})


def test_settings_become_the_images_variables() -> None:
    told = settings.container_environment({"a.b-c_d": "1"})
    assert told == {"KAFKA_A_B___C__D": "1"}
