"""Start a process that outlives us, know it again, end it.

Decides: what makes a process *ours*: pid, start time, and the mark in its command line that names
the stack's directory. All three must fit, so a reused pid is never mistaken and never signalled.
Invariants: a started process is in a session of its own, holds no descriptor of ours and writes to
the file it was given; ending is by pid, politely first, within a bound. Must not know: what runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamline.schemas.errors import TransportError, UsageError

MARK = "-Dseamline.stack.dir="
# /proc counts start times in ticks of 10 ms; a corrected wall clock moves them by a little.
START_TOLERANCE_S = 2.0
POLL_S = 0.05
KILL_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """One process: its pid and its start time (seconds since the epoch)."""

    pid: int
    started: float


def spawn(command: list[str], directory: Path, console: Path, env: Mapping[str, str]) -> Running:
    """Start `command` in a new session; its output goes to the new file `console`.

    `command` must carry `mark(directory)`. Raises UsageError when it cannot be executed.
    """
    assert mark(directory) in command
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(console), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        # Not subprocess.Popen: this process must be able to forget the child.
        pid = os.posix_spawn(command[0], command, env, file_actions=actions, setsid=True)
    except OSError as error:
        raise UsageError(
            f"cannot be started: {error.strerror}", parameter="command", value=command[0]
        ) from error
    return Running(pid, _start_time(pid))


def mark(directory: Path) -> str:
    return f"{MARK}{directory}"


def is_alive(process: Running, directory: Path) -> bool:
    """Whether this very process still runs. When it does not, its ports and files are free."""
    psutil = _psutil()
    _reap(process.pid)
    try:
        found = psutil.Process(process.pid)
        if abs(found.create_time() - process.started) > START_TOLERANCE_S:
            return False
        if words := _words_of(found):
            return mark(directory) in words
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    _await_exit(process.pid)
    return False


def strays(directory: Path) -> list[Running]:
    """Every process that carries the mark of `directory`, whether or not it was written down."""
    psutil = _psutil()
    wanted = mark(directory)
    found = []
    for process in psutil.process_iter():
        try:
            if wanted in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(Running(process.pid, process.create_time()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


def end(process: Running, directory: Path, grace_s: float) -> None:
    """Ask it to stop, and kill it after `grace_s`. Raises TransportError if it survives that."""
    for signal_number, wait_s in ((15, grace_s), (9, KILL_WAIT_S)):
        if not is_alive(process, directory):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal_number)
        if _gone_within(process, directory, wait_s):
            return
    raise TransportError(
        "the process does not end", parameter="pid", value=process.pid, fix="End it by hand"
    )


def _words_of(found: Any) -> list[str]:
    """The command line; empty from the moment on at which a process begins to go."""
    psutil = _psutil()
    try:
        return [] if found.status() == psutil.STATUS_ZOMBIE else list(found.cmdline())
    except psutil.ZombieProcess:
        return []


def _await_exit(pid: int) -> None:
    """A killed JVM has no memory left while its threads, and with them its ports, still go."""
    deadline = time.monotonic() + KILL_WAIT_S
    while not _is_gone(pid) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _reap(pid)


def _is_gone(pid: int) -> bool:
    """Gone, or a zombie whose threads are all gone: only its parent still has to look."""
    psutil = _psutil()
    try:
        found = psutil.Process(pid)
        return bool(found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def _gone_within(process: Running, directory: Path, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while is_alive(process, directory):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def current() -> Running:
    """This process."""
    return Running(os.getpid(), _start_time(os.getpid()))


def still_there(process: Running) -> bool:
    """Whether `process` runs, for one that carries no mark (whoever started a stack)."""
    return abs(_start_time(process.pid) - process.started) <= START_TOLERANCE_S


def _psutil() -> Any:
    """It has no types, and comes with the extra `embedded` only."""
    try:
        return importlib.import_module("psutil")
    except ImportError as error:
        raise extra_missing("psutil") from error


def extra_missing(package: str) -> UsageError:
    return UsageError(
        "the embedded stack needs this package",
        parameter="package",
        value=package,
        fix="pip install 'seamline[embedded]', or set SEAMLINE_BOOTSTRAP_SERVERS and "
        "SEAMLINE_SCHEMA_REGISTRY_URL to use a cluster you have",
    )


def _start_time(pid: int) -> float:
    psutil = _psutil()
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:  # already gone: whoever waits for it will see that
        return 0.0


def _reap(pid: int) -> None:
    """Collect our own child if it has ended; anyone else's is its parent's business."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
