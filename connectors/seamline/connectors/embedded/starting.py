"""How what is missing of a stack is started, and what is undone when that fails.

Decides: which ports a stack takes, the order of a start, which servers are awaited. Invariants: the
caller holds the stack's lock; a server that runs is never started again; each started process is
written down at once; when a start fails, all that it started is ended again. Must not know:
commands, who uses the stack.

The brokers of a quorum know each other's controllers by port, so while one of them runs the others
come back on the ports they had.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from seamline.connectors.embedded.launch import (
    Launch,
    broker_folder,
    format_data,
    start_broker,
    start_registry,
)
from seamline.connectors.embedded.ports import BrokerPlace, pick, require_free
from seamline.connectors.embedded.processes import Running, end, is_alive, strays
from seamline.connectors.embedded.readiness import (
    PortTakenError,
    Started,
    await_brokers,
    await_registry,
)
from seamline.connectors.embedded.state import BrokerState, StackState, write_state
from seamline.schemas.errors import SeamlineError, UsageError

# Of one broker; several share the machine's cores.
READY_S = 90.0
GRACE_S = 15.0
PORT_ATTEMPTS = 3

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asked of a start. `kafka_port` is the first broker's."""

    brokers: int
    kafka_port: int | None
    registry_port: int | None
    owner: Running | None
    versions: Mapping[str, str]


def start_stack(launch: Launch, before: StackState | None, wish: Wish, say: Notify) -> StackState:
    """Start every server of the stack that does not run, and await them all.

    `before`: the state as `alive_in` gives it. Raises UsageError for a port that is taken.
    """
    runs = before is not None and bool(before.processes)
    for attempt in range(1, PORT_ATTEMPTS + 1):
        state = _choose_ports(before, wish)
        try:
            return start_missing(launch, state, say)
        except PortTakenError as error:
            # Lost a race for a port that nobody asked for: take another.
            given = wish.registry_port if error.parameter == "registry_port" else wish.kafka_port
            if given is not None or attempt == PORT_ATTEMPTS:
                raise UsageError(
                    error.message, parameter=error.parameter, value=error.value, fix=error.fix
                ) from error
            before = before if runs else None
    raise AssertionError("the loop returns or raises")


def start_missing(
    launch: Launch, state: StackState, say: Notify, only: int | None = None
) -> StackState:
    """Start the registry and the brokers that do not run, or broker `only`; await what was started.

    Without `only` the servers that ran before are awaited too.
    """
    home, before = launch.directory, state
    started: list[Started] = []
    deadline = time.monotonic() + READY_S * (1 if len(state.brokers) == 1 else 2)
    try:
        write_state(home, state)
        if state.registry is None and only is None:
            say("starting the registry")
            started.append(start_registry(launch, state.registry_port))
            state = replace(state, registry=started[-1].process)
            write_state(home, state)
        missing = [b.place.number for b in state.brokers if b.process is None]
        missing = [number for number in missing if only in (None, number)]
        if missing:
            which = f"brokers {', '.join(map(str, missing))}" if len(state.brokers) > 1 else ""
            say(f"starting {which or 'the broker'}")
        identity = format_data(launch, state.places)
        for number in missing:
            started.append(start_broker(launch, number, state.places))
            state = state.with_broker(number, started[-1].process)
            write_state(home, state)
        say("waiting until all answer")
        _await(state, home, started, identity, deadline, only)
    except BaseException:
        end_all([server.process for server in started], home)
        # The first fault is the one to tell.
        with suppress(OSError):
            write_state(home, before)
        raise
    return state


def alive_in(state: StackState | None, home: Path) -> StackState | None:
    """The state without the processes that have ended."""
    if state is None:
        return None
    brokers = tuple(replace(b, process=_alive(b.process, home)) for b in state.brokers)
    return replace(state, brokers=brokers, registry=_alive(state.registry, home))


def processes_of(state: StackState | None, home: Path) -> list[Running]:
    """Every process of the stack, written down or not."""
    found = alive_in(state, home)
    written = {p.pid: p for p in found.processes} if found is not None else {}
    return list((written | {p.pid: p for p in strays(home) if p.pid not in written}).values())


def end_all(processes: list[Running], home: Path) -> None:
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


def _await(
    state: StackState,
    home: Path,
    started: list[Started],
    identity: str,
    deadline: float,
    only: int | None,
) -> None:
    """Each broker that is asked for must know all that run: then it serves, and is served."""
    fresh = {server.process.pid: server for server in started}
    members = frozenset(b.place.number for b in state.brokers if b.process is not None)
    servers = []
    for broker in state.brokers:
        if broker.process is not None and only in (None, broker.place.number):
            place = broker.place
            folder = broker_folder(home, place.number, len(state.brokers))
            found = _found(folder.name, broker.process, home, place.port)
            servers.append(fresh.get(broker.process.pid, found))
    await_brokers(servers, identity, deadline, members)
    if only is None:
        assert state.registry is not None
        found = _found("registry", state.registry, home, state.registry_port)
        await_registry(fresh.get(state.registry.pid, found), deadline)


def _found(name: str, process: Running, home: Path, port: int) -> Started:
    """A server that was found running: its whole log may tell why it does not answer."""
    log = "registry.log" if name == "registry" else "kafka.log"
    return Started(
        name, process, home, port, tuple((home / name / f, 0) for f in (log, "console.log"))
    )


def _choose_ports(before: StackState | None, wish: Wish) -> StackState:
    """The ports of what runs, else as wished, else as last time if free, else any free ones."""
    if wish.kafka_port is not None and wish.kafka_port == wish.registry_port:
        raise UsageError(
            "the broker has this port too", parameter="registry_port", value=wish.registry_port
        )
    last = {broker.place.number: broker for broker in before.brokers} if before else {}
    quorum_runs = wish.brokers > 1 and any(b.process is not None for b in last.values())
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

    brokers = []
    for number in range(1, wish.brokers + 1):
        known = last.get(number)
        place = known.place if known else None
        process = known.process if known else None
        given = wish.kafka_port if number == 1 else None
        port = choose(process is not None, given, place.port if place else None, "kafka_port")
        if place is not None and process is None and quorum_runs:
            controller = _require_old(place.controller_port)
        else:
            old = place.controller_port if place else None
            controller = choose(process is not None, None, old, "controller_port")
        brokers.append(BrokerState(BrokerPlace(number, port, controller), process))
    registry = before.registry if before else None
    old = before.registry_port if before else None
    registry_port = choose(registry is not None, wish.registry_port, old, "registry_port")
    return StackState(tuple(brokers), registry_port, registry, wish.owner, wish.versions)


def _require_old(port: int) -> int:
    try:
        return require_free(port, "controller_port")
    except UsageError as error:
        raise UsageError(
            "something else listens on this port, by which the other brokers know this one",
            parameter=error.parameter,
            value=port,
            fix="End what listens there, or move the whole stack: seamline down, seamline up",
        ) from error


def _alive(process: Running | None, home: Path) -> Running | None:
    return process if process is not None and is_alive(process, home) else None
