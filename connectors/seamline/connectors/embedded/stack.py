"""The embedded stack: the brokers and the registry of a directory, up, down and found again.

Decides: when a running stack is left alone, what counts as running, how a temporary one ends, and
that a directory is of one number of brokers for good. Invariants: one `up` or `down` at a time per
directory (file lock); after a failed `up` nothing that it started runs; a server that already ran
is never restarted by `up`; processes are signalled only when pid, start time and mark all fit. Must
not know: topics, schemas, who uses the stack.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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
    broker_folder,
    cluster_id_of,
    find_java,
    made_for,
)
from seamline.connectors.embedded.processes import Running, current, still_there, strays
from seamline.connectors.embedded.readiness import registry_answers, why_ended
from seamline.connectors.embedded.settings import BROKER_COUNTS
from seamline.connectors.embedded.starting import (
    Notify,
    Wish,
    alive_in,
    end_all,
    processes_of,
    start_stack,
)
from seamline.connectors.embedded.state import (
    DIRECTORY_VARIABLE,
    BrokerState,
    StackState,
    read_state,
    stack_directory,
    write_state,
)
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ask_cluster
from seamline.schemas.errors import TransportError, UsageError

LOCK_WAIT_S = 240.0
# Of each broker: where less is free, a start would fail half-way.
SPACE_BYTES = 256 << 20
ASK_S = 3.0
TEMPORARY_PREFIX = "seamline-stack-"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a ready stack is reached. `already_running`: this `up` had nothing to start.

    `bootstrap` lists every broker, `kafka_pids` those that run, by their numbers.
    """

    bootstrap: str
    registry_url: str
    kafka_pids: Mapping[int, int]
    registry_pid: int
    directory: Path
    already_running: bool
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def kafka_pid(self) -> int:
        """Of the first broker that runs."""
        return self.kafka_pids[min(self.kafka_pids)]


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """One broker: `state` is answering, silent (it runs but does not answer) or stopped. `cause`:
    why it ended by itself and what to do, where it did and said so."""

    number: int
    address: str
    state: str
    pid: int | None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a stack. `state`: running, degraded (not all answer) or stopped.

    `kafka` and `registry`: answering, silent (it runs but does not answer) or stopped; of several
    brokers also `partly answering`. `kafka_pid` is of the first broker that runs.
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
    brokers: tuple[BrokerStatus, ...] = ()


def up(
    directory: Path | None = None,
    *,
    brokers: int | None = None,
    kafka_port: int | None = None,
    registry_port: int | None = None,
    heap_mb: int | None = None,
    env: Mapping[str, str] | None = None,
    notify: Notify | None = None,
    owner: Running | None = None,
) -> Endpoints:
    """Make the stack of `directory` run, and return when all its servers answer.

    1. files present and checked; 2. under the lock: strays ended, ports chosen; 3. the missing
    servers started, each written down at once; 4. all awaited; 5. on any failure what was started
    here is ended. `brokers`: 1, 3 or 5 at the first start (default 1), after that as it was made.
    `heap_mb` is of each broker. `owner`: the process at whose end a temporary stack may be swept
    away.

    Raises UsageError (port in use, no Java, unusable directory, another number of brokers) and
    TransportError (download, checksum, disk full, a server that does not come up).
    """
    env = os.environ if env is None else env
    say = notify or (lambda _: None)
    home = stack_directory(directory, env)
    if brokers is not None and brokers not in BROKER_COUNTS:
        raise UsageError(
            "not a number of brokers that keeps a majority when one is lost",
            parameter="brokers",
            value=brokers,
            fix=f"One of {', '.join(map(str, BROKER_COUNTS))}",
        )
    _count(home, brokers)  # told before anything is downloaded
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
            count = _count(home, brokers)
            return _up(launch, Wish(count, kafka_port, registry_port, owner, lock.versions), say)
    except OSError as error:
        raise disk_fault(error, home, DIRECTORY_VARIABLE) from error


def down(directory: Path | None = None, *, env: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """End all servers of `directory`, politely first; returns the pids ended (none: not running).

    The data stays. Raises TransportError if a process survives being killed.
    """
    env = os.environ if env is None else env
    home = stack_directory(directory, env)
    if not home.exists():
        return ()
    with held(home / "stack.lock", LOCK_WAIT_S):
        state = read_state(home)
        found = processes_of(state, home)
        end_all(found, home)
        if state is not None:
            # On a full disk it stays as it is: what it names is gone, and that shows.
            with suppress(OSError):
                stopped = tuple(replace(broker, process=None) for broker in state.brokers)
                write_state(home, replace(state, brokers=stopped, registry=None, owner=None))
        return tuple(process.pid for process in found)


def status(directory: Path | None = None, *, env: Mapping[str, str] | None = None) -> Status:
    """What runs in `directory` and whether it answers (3 s at most for each server)."""
    env = os.environ if env is None else env
    home = stack_directory(directory, env)
    written = read_state(home)
    state = alive_in(written, home)
    if written is None or state is None:
        return Status("stopped", home, "stopped", "stopped", None, None, None, None, {})
    brokers = tuple(
        _broker_status(broker, state, home, ended=was.process is not None)
        for was, broker in zip(written.brokers, state.brokers, strict=True)
    )
    broker_says = _together([broker.state for broker in brokers])
    answers = state.registry is not None and registry_answers(state.registry_port)
    registry_says = "stopped" if state.registry is None else "answering" if answers else "silent"
    both = (broker_says, registry_says)
    whole = {("answering", "answering"): "running", ("stopped", "stopped"): "stopped"}
    pids = [broker.pid for broker in brokers if broker.pid is not None]
    return Status(
        whole.get(both, "degraded"),
        home,
        broker_says,
        registry_says,
        state.bootstrap if pids else None,
        state.registry_url if state.registry else None,
        pids[0] if pids else None,
        state.registry.pid if state.registry else None,
        dict(state.versions),
        brokers,
    )


def endpoints(directory: Path | None, env: Mapping[str, str]) -> Endpoints:
    """The running stack of `directory`, by its state file and live processes; nothing is asked.

    Of several brokers one must run: clients find the others by it. Raises TransportError when the
    stack does not run, naming what is missing.
    """
    home = stack_directory(directory, env)
    state = alive_in(read_state(home), home)
    if state is None or not _brokers_run(state) or state.registry is None:
        raise _not_running(state, home)
    return _endpoints(state, home, already_running=True)


def addresses(directory: Path | None, env: Mapping[str, str]) -> tuple[str, str]:
    """Bootstrap servers and registry URL of the stack of `directory`, of which a broker runs.

    A registry that ended keeps its port, so its address stays: what needs the broker alone (a
    demotion, the modes, the audit) goes on without it, and what asks it is told that it does not
    answer. Raises TransportError when no broker runs.
    """
    home = stack_directory(directory, env)
    state = alive_in(read_state(home), home)
    if state is None or not _brokers_run(state):
        raise _not_running(state, home)
    return state.bootstrap, state.registry_url


@contextmanager
def running(
    directory: Path | None = None,
    *,
    brokers: int | None = None,
    heap_mb: int | None = None,
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
        ready = up(home, brokers=brokers, heap_mb=heap_mb, env=env, notify=notify, owner=owner)
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
            end_all(processes_of(state, home.resolve()), home.resolve())
            shutil.rmtree(home, ignore_errors=True)
            swept.append(home)
    return tuple(swept)


def _count(home: Path, given: int | None) -> int:
    """How many brokers the stack is to have. UsageError when its data is of another number."""
    made = made_for(home)
    if made is None or given is None or given == made:
        return given or made or 1
    raise UsageError(
        f"the data of this directory is of {_brokers(made)}, and that cannot be changed",
        parameter="brokers",
        value=given,
        fix=f"Use --brokers {made} or leave it out; for {_brokers(given)} name another directory "
        "with --dir",
    )


def _brokers(count: int) -> str:
    return "one broker" if count == 1 else f"{count} brokers"


def _up(launch: Launch, wish: Wish, say: Notify) -> Endpoints:
    home = launch.directory
    before = read_state(home)
    if before is not None and len(before.brokers) != wish.brokers:
        before = None  # it was written before anything was made
    before = alive_in(before, home)
    known = {p.pid for p in before.processes} if before is not None else set()
    end_all([p for p in strays(home) if p.pid not in known], home)
    if before is not None:
        _require_same_ports(before, wish)
    require_space(home, SPACE_BYTES * wish.brokers, DIRECTORY_VARIABLE)
    state = start_stack(launch, before, wish, say)
    return _endpoints(state, home, already_running=len(known) == wish.brokers + 1)


def _require_same_ports(state: StackState, wish: Wish) -> None:
    first = state.brokers[0]
    for runs, given, port, parameter in (
        (first.process, wish.kafka_port, first.place.port, "kafka_port"),
        (state.registry, wish.registry_port, state.registry_port, "registry_port"),
    ):
        if runs is not None and given is not None and given != port:
            raise UsageError(
                f"the stack of this directory already runs on port {port}",
                parameter=parameter,
                value=given,
                fix="Run seamline down first, or name another directory with --dir",
            )


def _broker_status(
    broker: BrokerState, state: StackState, home: Path, *, ended: bool
) -> BrokerStatus:
    """`ended`: it was running when the state was written."""
    place, process = broker.place, broker.process
    folder = broker_folder(home, place.number, len(state.brokers))
    if process is None:
        cause = why_ended(folder / "kafka.log") if ended else None
        return BrokerStatus(place.number, place.address, "stopped", None, cause)
    try:
        facts = ask_cluster(Cluster(place.address), ASK_S)
        # A broker that is not among the live ones has lost its controllers.
        serves = (
            facts.cluster_id == cluster_id_of(folder / "data") and place.number in facts.brokers
        )
    except TransportError:
        serves = False
    return BrokerStatus(
        place.number, place.address, "answering" if serves else "silent", process.pid
    )


def _together(states: list[str]) -> str:
    """One word for all brokers."""
    if len(set(states)) == 1:
        return states[0]
    return "partly answering" if "answering" in states else "silent"


def _brokers_run(state: StackState) -> bool:
    return any(broker.process for broker in state.brokers)


def _not_running(state: StackState | None, home: Path) -> TransportError:
    parts = (
        ("broker", state is not None and _brokers_run(state)),
        ("registry", state is not None and state.registry is not None),
    )
    gone = " and ".join(name for name, runs in parts if not runs)
    return TransportError(
        f"no embedded stack runs here ({gone} not running)",
        parameter="dir",
        value=str(home),
        fix="Start it: seamline up; or set SEAMLINE_BOOTSTRAP_SERVERS and "
        "SEAMLINE_SCHEMA_REGISTRY_URL to use a cluster you have",
    )


def _endpoints(state: StackState, home: Path, *, already_running: bool) -> Endpoints:
    assert state.registry is not None
    return Endpoints(
        state.bootstrap,
        state.registry_url,
        {b.place.number: b.process.pid for b in state.brokers if b.process is not None},
        state.registry.pid,
        home,
        already_running,
        dict(state.versions),
    )
