"""The embedded stack: one broker and one registry of a directory, up, down and found again.

Decides: the order of a start, what is undone when it fails, when a running stack is left alone.
Invariants: one `up` or `down` at a time per directory (file lock); after a failed `up` nothing that
it started runs; a server that already ran is never restarted by `up`; processes are signalled only
when pid, start time and mark all fit. Must not know: topics, schemas, who uses the stack.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from seamline.connectors.embedded.artifacts import load_lock
from seamline.connectors.embedded.download import (
    cache_directory,
    disk_fault,
    install,
    require_space,
)
from seamline.connectors.embedded.held import held
from seamline.connectors.embedded.launch import (
    Launch,
    cluster_id_of,
    find_java,
    format_data,
    start_broker,
    start_registry,
)
from seamline.connectors.embedded.ports import pick, require_free
from seamline.connectors.embedded.processes import (
    Running,
    current,
    end,
    is_alive,
    still_there,
    strays,
)
from seamline.connectors.embedded.readiness import (
    PortTakenError,
    Started,
    await_broker,
    await_registry,
    registry_answers,
)
from seamline.connectors.embedded.settings import KAFKA_HEAP_MB
from seamline.connectors.embedded.state import (
    DIRECTORY_VARIABLE,
    StackState,
    read_state,
    stack_directory,
    write_state,
)
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ask_cluster
from seamline.schemas.errors import SeamlineError, TransportError, UsageError

READY_S = 90.0
GRACE_S = 15.0
LOCK_WAIT_S = 150.0
PORT_ATTEMPTS = 3
SPACE_BYTES = 256 << 20
ASK_S = 3.0
TEMPORARY_PREFIX = "seamline-stack-"

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a ready stack is reached. `already_running`: this `up` had nothing to start."""

    bootstrap: str
    registry_url: str
    kafka_pid: int
    registry_pid: int
    directory: Path
    already_running: bool
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a stack. `state`: running, degraded (not both answer) or stopped.

    `kafka` and `registry`: answering, silent (it runs but does not answer) or stopped.
    """

    state: str
    directory: Path
    kafka: str
    registry: str
    bootstrap: str | None
    registry_url: str | None
    kafka_pid: int | None
    registry_pid: int | None
    versions: Mapping[str, str]


def up(
    directory: Path | None = None,
    *,
    kafka_port: int | None = None,
    registry_port: int | None = None,
    heap_mb: int = KAFKA_HEAP_MB,
    env: Mapping[str, str] | None = None,
    notify: Notify | None = None,
    owner: Running | None = None,
) -> Endpoints:
    """Make the stack of `directory` run, and return when both servers answer.

    1. files present and checked; 2. under the lock: strays ended, ports chosen; 3. the missing
    servers started, each written down at once; 4. both awaited; 5. on any failure what was started
    here is ended. `owner`: the process at whose end a temporary stack may be swept away.

    Raises UsageError (port in use, no Java, unusable directory) and TransportError (download,
    checksum, disk full, a server that does not come up).
    """
    env = os.environ if env is None else env
    say = notify or (lambda _: None)
    home = stack_directory(directory, env)
    java = find_java(env)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_fault(error, home, DIRECTORY_VARIABLE) from error
    lock = load_lock()
    installed = install(lock, cache_directory(env), env, say)
    launch = Launch(home, installed, java, env, heap_mb)
    try:
        with held(
            home / "stack.lock", LOCK_WAIT_S, lambda: say("another `seamline up` is at work")
        ):
            return _up(launch, _Wish(kafka_port, registry_port, owner, lock.versions), say)
    except OSError as error:
        raise disk_fault(error, home, DIRECTORY_VARIABLE) from error


def down(directory: Path | None = None, *, env: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """End both servers of `directory`, politely first; returns the pids ended (none: not running).

    The data stays. Raises TransportError if a process survives being killed.
    """
    env = os.environ if env is None else env
    home = stack_directory(directory, env)
    if not home.exists():
        return ()
    with held(home / "stack.lock", LOCK_WAIT_S):
        state = read_state(home)
        found = _processes(state, home)
        _end_all(found, home)
        if state is not None:
            # On a full disk it stays as it is: what it names is gone, and that shows.
            with suppress(OSError):
                write_state(home, replace(state, kafka=None, registry=None, owner=None))
        return tuple(process.pid for process in found)


def status(directory: Path | None = None, *, env: Mapping[str, str] | None = None) -> Status:
    """What runs in `directory` and whether it answers (3 s at most for each server)."""
    env = os.environ if env is None else env
    home = stack_directory(directory, env)
    state = read_state(home)
    if state is None:
        return Status("stopped", home, "stopped", "stopped", None, None, None, None, {})
    kafka, registry = _alive(state.kafka, home), _alive(state.registry, home)
    broker_says = "stopped" if kafka is None else _ask_broker(state, home)
    answers = registry is not None and registry_answers(state.registry_port)
    registry_says = "stopped" if registry is None else "answering" if answers else "silent"
    both = (broker_says, registry_says)
    whole = {("answering", "answering"): "running", ("stopped", "stopped"): "stopped"}
    return Status(
        whole.get(both, "degraded"),
        home,
        broker_says,
        registry_says,
        state.bootstrap if kafka else None,
        state.registry_url if registry else None,
        kafka.pid if kafka else None,
        registry.pid if registry else None,
        dict(state.versions),
    )


def endpoints(directory: Path | None, env: Mapping[str, str]) -> Endpoints:
    """The running stack of `directory`, by its state file and live processes; nothing is asked.

    Raises TransportError when it does not run, naming what is missing.
    """
    home = stack_directory(directory, env)
    state = read_state(home)
    kafka = _alive(state.kafka, home) if state else None
    registry = _alive(state.registry, home) if state else None
    if state is None or kafka is None or registry is None:
        gone = [n for n, p in (("broker", kafka), ("registry", registry)) if p is None]
        raise TransportError(
            f"no embedded stack runs here ({' and '.join(gone)} not running)",
            parameter="dir",
            value=str(home),
            fix="Start it: seamline up; or set SEAMLINE_BOOTSTRAP_SERVERS and "
            "SEAMLINE_SCHEMA_REGISTRY_URL to use a cluster you have",
        )
    return _endpoints(state, home, kafka.pid, registry.pid, already_running=True)


@contextmanager
def running(
    directory: Path | None = None,
    *,
    heap_mb: int = KAFKA_HEAP_MB,
    env: Mapping[str, str] | None = None,
    notify: Notify | None = None,
) -> Iterator[Endpoints]:
    """A stack for the length of a `with`; in a temporary directory if none is given.

    A temporary directory is deleted after; what a killed process left of its own is ended and
    deleted at the next use. A stack that ran before is used and left running.
    """
    sweep()
    temporary = directory is None
    home = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX)) if directory is None else directory
    ready: Endpoints | None = None
    try:
        owner = current() if temporary else None
        ready = up(home, heap_mb=heap_mb, env=env, notify=notify, owner=owner)
        yield ready
    finally:
        if ready is not None and not ready.already_running:
            down(home, env=env)
        if temporary:
            shutil.rmtree(home, ignore_errors=True)


def sweep() -> tuple[Path, ...]:
    """End and delete temporary stacks whose owner is gone; returns their directories."""
    swept = []
    for home in sorted(Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*")):
        state = read_state(home.resolve())
        owned = home.stat().st_uid == os.getuid() if home.exists() else False
        if owned and state is not None and state.owner and not still_there(state.owner):
            _end_all(_processes(state, home.resolve()), home.resolve())
            shutil.rmtree(home, ignore_errors=True)
            swept.append(home)
    return tuple(swept)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a caller asked of `up`."""

    kafka_port: int | None
    registry_port: int | None
    owner: Running | None
    versions: Mapping[str, str]


def _up(launch: Launch, wish: _Wish, say: Notify) -> Endpoints:
    home = launch.directory
    before = read_state(home)
    kafka = _alive(before.kafka, home) if before else None
    registry = _alive(before.registry, home) if before else None
    known = {p.pid for p in (kafka, registry) if p is not None}
    _end_all([p for p in strays(home) if p.pid not in known], home)
    if before is not None:
        _require_same_ports(before, kafka, registry, wish)
    require_space(home, SPACE_BYTES, DIRECTORY_VARIABLE)
    for attempt in range(1, PORT_ATTEMPTS + 1):
        state = _choose_ports(before, kafka, registry, wish)
        try:
            return _start_missing(launch, state, say)
        except PortTakenError as error:
            # Lost a race for a port that nobody asked for: take another.
            given = wish.registry_port if error.parameter == "registry_port" else wish.kafka_port
            if given is not None or attempt == PORT_ATTEMPTS:
                raise UsageError(
                    error.message, parameter=error.parameter, value=error.value, fix=error.fix
                ) from error
            before = None if kafka is None and registry is None else before
    raise AssertionError("the loop returns or raises")


def _start_missing(launch: Launch, state: StackState, say: Notify) -> Endpoints:
    home = launch.directory
    started: list[Started] = []
    already = state.kafka is not None and state.registry is not None
    deadline = time.monotonic() + READY_S
    try:
        write_state(home, state)
        if state.registry is None:
            say("starting the registry")
            started.append(start_registry(launch, state.registry_port))
            state = replace(state, registry=started[-1].process)
            write_state(home, state)
        if state.kafka is None:
            say("starting the broker")
            format_data(launch, state.controller_port)
            started.append(start_broker(launch, state.kafka_port, state.controller_port))
            state = replace(state, kafka=started[-1].process)
            write_state(home, state)
        broker, registry = (_server(n, state, home, started) for n in ("kafka", "registry"))
        say("waiting until both answer")
        await_broker(broker, cluster_id_of(home / "kafka" / "data"), deadline)
        await_registry(registry, deadline)
    except BaseException:
        _end_all([server.process for server in started], home)
        names = {server.name for server in started}
        if "kafka" in names:
            state = replace(state, kafka=None)
        if "registry" in names:
            state = replace(state, registry=None)
        # The first fault is the one to tell.
        with suppress(OSError):
            write_state(home, state)
        raise
    return _endpoints(state, home, broker.process.pid, registry.process.pid, already)


def _server(name: str, state: StackState, home: Path, started: list[Started]) -> Started:
    """The server as just started, or as it was found running."""
    for server in started:
        if server.name == name:
            return server
    process = state.kafka if name == "kafka" else state.registry
    assert process is not None
    port = state.kafka_port if name == "kafka" else state.registry_port
    logs = tuple((home / name / file, 0) for file in (f"{name}.log", "console.log"))
    return Started(name, process, home, port, logs)


def _choose_ports(
    before: StackState | None, kafka: Running | None, registry: Running | None, wish: _Wish
) -> StackState:
    """The ports of what runs, else as wished, else as last time if free, else any free ones."""
    rng = random.Random()
    taken: set[int] = set()

    def choose(runs: bool, given: int | None, last: int | None, parameter: str) -> int:
        if runs and last is not None:
            port = last
        elif given is not None:
            port = require_free(given, parameter)
        else:
            port = pick(rng, taken, last)
        taken.add(port)
        return port

    if wish.kafka_port is not None and wish.kafka_port == wish.registry_port:
        raise UsageError(
            "the broker has this port too", parameter="registry_port", value=wish.registry_port
        )
    last_kafka, last_controller, last_registry = (
        (before.kafka_port, before.controller_port, before.registry_port)
        if before is not None
        else (None, None, None)
    )
    port = choose(kafka is not None, wish.kafka_port, last_kafka, "kafka_port")
    registry_port = choose(registry is not None, wish.registry_port, last_registry, "registry_port")
    controller = choose(kafka is not None, None, last_controller, "controller_port")
    return StackState(port, controller, registry_port, kafka, registry, wish.owner, wish.versions)


def _require_same_ports(
    state: StackState, kafka: Running | None, registry: Running | None, wish: _Wish
) -> None:
    for runs, given, port, parameter in (
        (kafka, wish.kafka_port, state.kafka_port, "kafka_port"),
        (registry, wish.registry_port, state.registry_port, "registry_port"),
    ):
        if runs is not None and given is not None and given != port:
            raise UsageError(
                f"the stack of this directory already runs on port {port}",
                parameter=parameter,
                value=given,
                fix="Run seamline down first, or name another directory with --dir",
            )


def _alive(process: Running | None, home: Path) -> Running | None:
    return process if process is not None and is_alive(process, home) else None


def _processes(state: StackState | None, home: Path) -> list[Running]:
    """Every process of the stack, written down or not."""
    written = [_alive(p, home) for p in (state.registry, state.kafka)] if state else []
    found = {p.pid: p for p in written if p is not None}
    return list((found | {p.pid: p for p in strays(home) if p.pid not in found}).values())


def _end_all(processes: list[Running], home: Path) -> None:
    """All are asked to end before any is waited for."""
    faults: list[SeamlineError] = []
    for process in processes:
        if is_alive(process, home):
            os.kill(process.pid, 15)
    for process in processes:
        try:
            end(process, home, GRACE_S)
        except SeamlineError as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _ask_broker(state: StackState, home: Path) -> str:
    try:
        facts = ask_cluster(Cluster(state.bootstrap), ASK_S)
        same = facts.cluster_id == cluster_id_of(home / "kafka" / "data")
    except TransportError:
        same = False
    return "answering" if same else "silent"


def _endpoints(
    state: StackState, home: Path, kafka_pid: int, registry_pid: int, already_running: bool
) -> Endpoints:
    return Endpoints(
        state.bootstrap,
        state.registry_url,
        kafka_pid,
        registry_pid,
        home,
        already_running,
        dict(state.versions),
    )
