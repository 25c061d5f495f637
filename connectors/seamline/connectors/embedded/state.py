"""What is written down about a stack, so that another command can find it again.

Decides: the format of `stack.json` in the stack's directory. Invariants: it is replaced as a whole;
a process is written down by pid and start time; one that cannot be read counts as absent, because
the processes themselves carry the mark of the directory. Must not know: how anything is started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seamline.connectors.embedded.download import write_atomically
from seamline.connectors.embedded.ports import HOST, BrokerPlace
from seamline.connectors.embedded.processes import Running
from seamline.connectors.embedded.settings import REGISTRY_API
from seamline.schemas.errors import UsageError

DIRECTORY_VARIABLE = "SEAMLINE_DIR"
STATE_NAME = "stack.json"
STATE_FORMAT = 2
# Format 1 named its one broker by three fields of its own.
ONE_BROKER_FORMAT = 1
# These end a path in a properties file, a JDBC address or a list of directories.
UNUSABLE = set(';,!:\\\n\r\t"')


@dataclass(frozen=True, slots=True)
class BrokerState:
    """One broker: where it listens, and its process unless it was ended."""

    place: BrokerPlace
    process: Running | None = None


@dataclass(frozen=True, slots=True)
class StackState:
    """Ports, processes and versions of one stack; a stopped one keeps its ports for the next start.

    `brokers` are in the order of their numbers. `owner` is the process at whose end a temporary
    stack is to be ended, else None.
    """

    brokers: tuple[BrokerState, ...]
    registry_port: int
    registry: Running | None = None
    owner: Running | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def places(self) -> tuple[BrokerPlace, ...]:
        return tuple(broker.place for broker in self.brokers)

    @property
    def bootstrap(self) -> str:
        return ",".join(place.address for place in self.places)

    @property
    def processes(self) -> tuple[Running, ...]:
        """Those written down, the registry's first."""
        written = (self.registry, *(broker.process for broker in self.brokers))
        return tuple(process for process in written if process is not None)

    def with_broker(self, number: int, process: Running | None) -> StackState:
        """The same with another process for one broker."""
        brokers = tuple(
            replace(b, process=process) if b.place.number == number else b for b in self.brokers
        )
        return replace(self, brokers=brokers)

    @property
    def registry_url(self) -> str:
        return f"http://{HOST}:{self.registry_port}{REGISTRY_API}"


def stack_directory(given: Path | None, env: Mapping[str, str]) -> Path:
    """The stack's directory: as given, else `SEAMLINE_DIR`, else the user's state directory.

    Raises UsageError for a path that the broker's or the registry's settings cannot express.
    """
    if given is None and env.get(DIRECTORY_VARIABLE):
        given = Path(env[DIRECTORY_VARIABLE])
    if given is None:
        from platformdirs import user_state_path

        given = user_state_path("seamline", appauthor=False)
    directory = given.expanduser().resolve()
    if bad := sorted(UNUSABLE & set(str(directory))):
        shown = " ".join(map(repr, bad))
        raise UsageError(
            f"the path has characters that Kafka's settings cannot hold: {shown}",
            parameter="dir",
            value=str(directory),
            fix="Choose a directory without them",
        )
    return directory


def read_state(directory: Path) -> StackState | None:
    """The state in `directory`; None when there is none or it cannot be understood."""
    try:
        document = json.loads((directory / STATE_NAME).read_text("utf-8"))
        if document["format"] not in (STATE_FORMAT, ONE_BROKER_FORMAT):
            return None
        one = document["format"] == ONE_BROKER_FORMAT
        entries = [{**document, "number": 1}] if one else document["brokers"]
        brokers = tuple(_broker(entry) for entry in entries)
        if [b.place.number for b in brokers] != list(range(1, len(brokers) + 1)) or not brokers:
            return None
        return StackState(
            brokers,
            int(document["registry_port"]),
            _process(document["registry"]),
            _process(document["owner"]),
            {str(k): str(v) for k, v in document["versions"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(directory: Path, state: StackState) -> None:
    document = {
        "format": STATE_FORMAT,
        "bootstrap": state.bootstrap,
        "registry_url": state.registry_url,
        "brokers": [
            {
                "number": broker.place.number,
                "kafka_port": broker.place.port,
                "controller_port": broker.place.controller_port,
                "kafka": _written(broker.process),
            }
            for broker in state.brokers
        ],
        "registry_port": state.registry_port,
        "registry": _written(state.registry),
        "owner": _written(state.owner),
        "versions": dict(state.versions),
    }
    write_atomically(directory / STATE_NAME, json.dumps(document, indent=1) + "\n")


def _broker(entry: Any) -> BrokerState:
    place = BrokerPlace(
        int(entry["number"]), int(entry["kafka_port"]), int(entry["controller_port"])
    )
    return BrokerState(place, _process(entry["kafka"]))


def _process(entry: Any) -> Running | None:
    return None if entry is None else Running(int(entry["pid"]), float(entry["started"]))


def _written(process: Running | None) -> dict[str, Any] | None:
    return None if process is None else {"pid": process.pid, "started": process.started}
