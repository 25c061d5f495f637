"""One broker of a stack by its number: killed, ended in order, started again, all in turn.

Decides: when a rolling restart may go on to the next broker: every replica of every partition is in
sync again. Invariants: the stack's lock is held for each step; a broker is never ended by
`rolling_restart` while another is missing; every wait has a deadline. Must not know: what is
written to the brokers.

A process that is killed loses nothing that it acknowledged: what it wrote is in the page cache,
which belongs to the kernel. A power cut loses what was not written to the disk yet; against that
only brokers on several machines help.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from seamline.connectors.embedded.artifacts import load_lock
from seamline.connectors.embedded.download import cache_directory, install
from seamline.connectors.embedded.held import held
from seamline.connectors.embedded.launch import Launch, find_java
from seamline.connectors.embedded.processes import end, is_alive
from seamline.connectors.embedded.starting import (
    GRACE_S,
    Notify,
    alive_in,
    start_missing,
)
from seamline.connectors.embedded.state import (
    BrokerState,
    StackState,
    read_state,
    stack_directory,
    write_state,
)
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.schemas.errors import TransportError, UsageError

LOCK_WAIT_S = 240.0
IN_SYNC_S = 120.0
IN_SYNC_CHECK_S = 0.1
KILL_S = 10.0


def kill_broker(
    directory: Path | None, number: int, *, env: Mapping[str, str] | None = None
) -> int:
    """End a broker by SIGKILL, as a crash would; returns its pid when it is gone.

    Raises UsageError when it does not run.
    """
    return _end_broker(directory, number, env, at_once=True)


def stop_broker(
    directory: Path | None, number: int, *, env: Mapping[str, str] | None = None
) -> int:
    """End a broker in order: it hands its partitions over first. Returns its pid when it is gone.

    Raises UsageError when it does not run.
    """
    return _end_broker(directory, number, env, at_once=False)


def start_broker(
    directory: Path | None,
    number: int,
    *,
    heap_mb: int | None = None,
    env: Mapping[str, str] | None = None,
    notify: Notify | None = None,
) -> int:
    """Start a broker on the ports it had and wait until it serves; returns its pid.

    One that runs is left alone. Raises UsageError where it would not make a majority together with
    those that run (then none of them serves: `up` starts all), or its ports are taken.
    """
    environment = os.environ if env is None else env
    with _locked(directory, env) as (home, state):
        broker = _broker(state, number)
        if broker.process is not None:
            return broker.process.pid
        _require_majority(state, number)
        say = notify or (lambda _: None)
        installed = install(load_lock(), cache_directory(environment), environment, say)
        launch = Launch(home, installed, find_java(environment), environment, heap_mb)
        process = _broker(start_missing(launch, state, say, only=number), number).process
        assert process is not None
        return process.pid


def rolling_restart(
    directory: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    notify: Notify | None = None,
) -> tuple[int, ...]:
    """Restart each broker of the stack in turn, and wait for all replicas between; the new pids.

    Raises UsageError when a broker does not run, TransportError when replicas are not in sync
    within two minutes.
    """
    say = notify or (lambda _: None)
    environment = os.environ if env is None else env
    state = _state(stack_directory(directory, environment))
    for broker in state.brokers:
        _running(state, broker.place.number, stack_directory(directory, environment))
    pids = []
    for place in state.places:
        say(f"waiting until all replicas are in sync, before broker {place.number}")
        await_in_sync(state.bootstrap, len(state.brokers))
        say(f"restarting broker {place.number}")
        stop_broker(directory, place.number, env=env)
        pids.append(start_broker(directory, place.number, env=env, notify=notify))
    await_in_sync(state.bootstrap, len(state.brokers))
    return tuple(pids)


def await_in_sync(bootstrap: str, brokers: int, timeout_s: float = IN_SYNC_S) -> None:
    """Return when so many brokers are live and every replica of every partition is in sync.

    Raises TransportError naming what lags when that takes longer than `timeout_s`.
    """
    admin = Admin(Cluster(bootstrap))
    deadline = time.monotonic() + timeout_s
    while True:
        live, lagging = admin.replicas()
        if len(live) >= brokers and not lagging:
            return
        if time.monotonic() >= deadline:
            shown = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(lagging)[:5])
            raise TransportError(
                f"replicas are not in sync within {timeout_s:g} s: "
                f"{len(live)} of {brokers} brokers are live, {len(lagging)} partitions lag {shown}",
                parameter="brokers",
                value=live,
                fix="Start the missing one: seamline up; its kafka.log tells why it lags",
            )
        time.sleep(IN_SYNC_CHECK_S)


def _end_broker(
    directory: Path | None, number: int, env: Mapping[str, str] | None, *, at_once: bool
) -> int:
    with _locked(directory, env) as (home, state):
        process = _running(state, number, home).process
        assert process is not None
        if at_once:
            os.kill(process.pid, signal.SIGKILL)
        end(process, home, KILL_S if at_once else GRACE_S)
        write_state(home, state.with_broker(number, None))
        return process.pid


@contextmanager
def _locked(
    directory: Path | None, env: Mapping[str, str] | None
) -> Iterator[tuple[Path, StackState]]:
    home = stack_directory(directory, os.environ if env is None else env)
    state = _state(home)
    with held(home / "stack.lock", LOCK_WAIT_S):
        state = _state(home)
        found = alive_in(state, home)
        assert found is not None
        yield home, found


def _state(home: Path) -> StackState:
    state = read_state(home)
    if state is None:
        raise UsageError(
            "no stack was made here",
            parameter="dir",
            value=str(home),
            fix="Start one: seamline up --brokers 3",
        )
    return state


def _broker(state: StackState, number: int) -> BrokerState:
    for broker in state.brokers:
        if broker.place.number == number:
            return broker
    raise UsageError(
        "the stack has no such broker",
        parameter="number",
        value=number,
        fix=f"1 to {len(state.brokers)}",
    )


def _running(state: StackState, number: int, home: Path) -> BrokerState:
    broker = _broker(state, number)
    if broker.process is None or not is_alive(broker.process, home):
        raise UsageError(
            "this broker does not run",
            parameter="number",
            value=number,
            fix="Start what is missing: seamline up",
        )
    return broker


def _require_majority(state: StackState, number: int) -> None:
    running = sum(b.process is not None for b in state.brokers)
    if 2 * (running + 1) <= len(state.brokers):
        raise UsageError(
            f"with it {running + 1} of {len(state.brokers)} would run: no majority, so it could "
            "not serve",
            parameter="number",
            value=number,
            fix="Start all that are missing: seamline up",
        )
