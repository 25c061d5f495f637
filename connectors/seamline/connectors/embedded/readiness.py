"""When is a started process ready, and if it never will be, why.

Decides: what counts as ready (the broker answers with the id of *our* cluster, the registry lists
its subjects), how long that may take, and which sentence a person gets from a log. Invariants:
every wait has a deadline; only what was logged after this start is blamed. Must not know: how to
start anything.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seamline.connectors.embedded.ports import HOST
from seamline.connectors.embedded.processes import Running, is_alive
from seamline.connectors.embedded.settings import REGISTRY_API
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.probe import ClusterFacts, ask_cluster
from seamline.schemas.errors import TransportError

POLL_S = 0.05
ASK_S = 5.0
TAIL_BYTES = 64 << 10
SHOWN_CHARS = 300


class PortTakenError(TransportError):
    """Somebody took the port between our question and the server's bind."""


# What the logs say -> what it means and what to do. First match wins.
CAUSES = (
    (
        "No space left on device",
        "the disk is full",
        "Free some space, or name another directory with --dir",
    ),
    (
        "File too large",
        "a file may not grow (a limit of the process, ulimit -f)",
        "Lift the limit, and start again",
    ),
    (
        "Failed to acquire lock on file",
        "another broker uses this directory",
        "End it, or name another directory with --dir",
    ),
    (
        "Database may be already in use",
        "another registry uses this directory",
        "End it, or name another directory with --dir",
    ),
    (
        "UnsupportedClassVersionError",
        "this Java is too old",
        "Use Java 21 or newer, or unset SEAMLINE_JAVA",
    ),
    ("OutOfMemoryError", "Java has not enough memory", "Free some memory"),
    ("insufficient memory for the Java", "Java has not enough memory", "Free some memory"),
    ("Permission denied", "a file may not be read or written", "Mend the directory's permissions"),
)
# Where the cause above it was not logged: the broker ends when it can write no more.
LOG_DIR_FAILED = "log dirs in"
BEGINS = "starting (kafka.server.KafkaRaftServer)"
FULL_BYTES = 16 << 20
PORT_TAKEN = ("Address already in use", "BindException", "seems to be in use by another process")


@dataclass(frozen=True, slots=True)
class Started:
    """A server on its way up. `logs` are its log files with the size each had before the start."""

    name: str
    process: Running
    directory: Path
    port: int
    logs: tuple[tuple[Path, int], ...]


def await_brokers(
    servers: Sequence[Started], cluster_id: str, deadline: float, members: frozenset[int]
) -> None:
    """Return when each answers and knows `members` as live. `deadline` is on the monotonic clock.

    Raises TransportError as soon as one ends or when one stays silent, PortTakenError for another
    cluster.
    """
    waiting = list(servers)
    while waiting:
        # All of them each time: the first may wait for a majority that the last was part of.
        for server in servers:
            _require_alive(server, deadline)
        waiting = [server for server in waiting if not _serves(server, cluster_id, members)]
        if waiting:
            time.sleep(POLL_S)


def _serves(server: Started, cluster_id: str, members: frozenset[int]) -> bool:
    facts = _facts(Cluster(f"{HOST}:{server.port}")) if _accepts(server.port) else None
    if facts is not None and facts.cluster_id != cluster_id:
        raise PortTakenError(
            "another Kafka cluster answers on this port",
            parameter="kafka_port",
            value=server.port,
            fix="Give another port",
        )
    return facts is not None and members <= set(facts.brokers)


def await_registry(server: Started, deadline: float) -> None:
    """Return when the registry lists its subjects; raises as `await_brokers` does."""
    while True:
        _require_alive(server, deadline)
        if registry_answers(server.port):
            return
        time.sleep(POLL_S)


def registry_answers(port: int) -> bool:
    return registry_complaint(f"http://{HOST}:{port}{REGISTRY_API}") is None


def registry_complaint(url: str, auth: str | None = None, timeout_s: float = ASK_S) -> str | None:
    """None when the registry at `url` lists its subjects, else what is wrong.

    `auth` is `user:password`.
    """
    headers = {"Accept": "application/json"}
    if auth is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    request = urllib.request.Request(f"{url}/subjects", headers=headers)
    # Never by way of a proxy: the embedded one is on this machine, others are named directly.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            listed = response.read(1) == b"["
            return None if listed else "it does not answer as a schema registry"
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)


def why_ended(log: Path) -> str | None:
    """What a broker that ended by itself says of it, as a sentence with what to do.

    On a full disk the log may be cut short too, so the disk is asked as well. None: no idea.
    """
    text = _since(log, 0).rpartition(BEGINS)[2]
    for phrase, meaning, fix in CAUSES:
        if phrase in text:
            return f"{meaning}. {fix}"
    if _is_full(log.parent):
        return "the disk is full. Free some space, then start it: seamline up"
    if LOG_DIR_FAILED in text:
        return f"its data cannot be written. {log} says why"
    return None


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


def sizes_of(paths: tuple[Path, ...]) -> tuple[tuple[Path, int], ...]:
    return tuple((path, path.stat().st_size if path.exists() else 0) for path in paths)


def failure(server: Started, head: str) -> TransportError:
    """The error for a server that will not come up, with the cause that its logs give."""
    text = "\n".join(_since(path, start) for path, start in server.logs)
    log = str(server.logs[0][0])
    if any(phrase in text for phrase in PORT_TAKEN):
        return PortTakenError(
            "something else listens on this port",
            parameter=f"{server.name.partition('-')[0]}_port",
            value=server.port,
            fix="Give another port, or none: a free one is found",
        )
    for phrase, meaning, fix in CAUSES:
        if phrase in text:
            return TransportError(
                f"{head}: {meaning}", parameter=server.name, value=log, fix=fix, retriable=False
            )
    last = _last_complaint(text)
    return TransportError(
        f"{head}{': ' + last if last else ''}",
        parameter=server.name,
        value=log,
        fix="The log says more",
    )


def _require_alive(server: Started, deadline: float) -> None:
    if not is_alive(server.process, server.directory):
        raise failure(server, "it ended while starting")
    if time.monotonic() >= deadline:
        raise failure(server, "it runs but does not answer in time")


def _facts(cluster: Cluster) -> ClusterFacts | None:
    with contextlib.suppress(TransportError):
        return ask_cluster(cluster, ASK_S)
    return None


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(ASK_S)
        return probe.connect_ex((HOST, port)) == 0


def _since(path: Path, start: int) -> str:
    """The end of what was logged after `start` (from the beginning where the file has rolled)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(start if size >= start else 0, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _last_complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bad = [line for line in lines if "ERROR" in line or "Exception" in line or "FATAL" in line]
    return (bad or lines or [""])[-1][:SHOWN_CHARS]
