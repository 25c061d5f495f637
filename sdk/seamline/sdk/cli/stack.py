"""`seamline up | down | status`: the embedded stack, or the cluster that the environment names.

Decides: what is shown of a stack and the exit statuses (`status`: 0 when all answers, else 1).
Invariant: with `SEAMLINE_BOOTSTRAP_SERVERS` set nothing is started or ended; asking for the
embedded stack by an option then is refused. Must not know: how a stack is started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import TransportError, UsageError
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, notices

if TYPE_CHECKING:
    from seamline.connectors.embedded.stack import BrokerStatus
    from seamline.connectors.embedded.starting import Notify
    from seamline.connectors.world import World

DirOption = Annotated[
    Path | None,
    typer.Option("--dir", help="directory of the stack (default: SEAMLINE_DIR, or your own state)"),
]
BrokersOption = Annotated[
    int | None,
    typer.Option(help="1, 3 or 5, chosen at the first start (default 1): of 3 one may be lost"),
]
PortOption = Annotated[int | None, typer.Option(help="default: the last one, or a free one")]


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


@answers
def up(
    directory: DirOption = None,
    brokers: BrokersOption = None,
    kafka_port: PortOption = None,
    registry_port: PortOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start the brokers and the registry of this machine; those that run are left alone."""
    from seamline.connectors.embedded import stack

    _require_object(output)
    if (world := _external(directory, brokers, kafka_port, registry_port)) is not None:
        _check(world)
        emit_object(_shown(world, {"state": "running"}), output, title="Existing cluster")
        return
    began = time.monotonic()
    with _spinner() as say:
        ready = stack.up(
            directory,
            brokers=brokers,
            kafka_port=kafka_port,
            registry_port=registry_port,
            notify=say,
        )
    answer = {
        "state": "running",
        "mode": "embedded",
        "bootstrap": ready.bootstrap,
        "registry_url": ready.registry_url,
        "kafka_pid": ready.kafka_pid,
        **_several({n: f"pid {pid}" for n, pid in ready.kafka_pids.items()}),
        "registry_pid": ready.registry_pid,
        "dir": str(ready.directory),
        "versions": dict(ready.versions),
        "already_running": ready.already_running,
        "ready_s": round(time.monotonic() - began, 2),
    }
    emit_object(answer, output, title="Embedded stack")
    if directory is not None:
        notices.print(f"other commands find it with SEAMLINE_DIR={ready.directory}", markup=False)


@answers
def down(directory: DirOption = None, output: FormatOption = Format.TABLE) -> None:
    """End the brokers and the registry of this machine; their data stays."""
    from seamline.connectors.embedded import stack
    from seamline.connectors.embedded.state import stack_directory

    _require_object(output)
    if (world := _external(directory)) is not None:
        emit_object(_shown(world, {"ended": []}), output, title="Existing cluster: left alone")
        return
    ended = stack.down(directory)
    home = stack_directory(directory, os.environ)
    answer = {"state": "stopped", "mode": "embedded", "dir": str(home), "ended": list(ended)}
    emit_object(answer, output, title="Embedded stack")


@answers
def status(directory: DirOption = None, output: FormatOption = Format.TABLE) -> None:
    """What runs and answers; exit status 1 unless all do."""
    from seamline.connectors.embedded import stack

    _require_object(output)
    if (world := _external(directory)) is not None:
        fault = _fault(world)
        answer = _shown(world, {"state": "running" if fault is None else "unreachable"})
        emit_object(answer, output, title="Existing cluster")
        if fault is not None:
            notices.print(str(fault), markup=False, soft_wrap=True)
            raise typer.Exit(1)
        return
    found = stack.status(directory)
    answer = {
        "state": found.state,
        "mode": "embedded",
        "kafka": found.kafka,
        "registry": found.registry,
        "bootstrap": found.bootstrap,
        "registry_url": found.registry_url,
        "kafka_pid": found.kafka_pid,
        **_several({broker.number: _told(broker) for broker in found.brokers}),
        "registry_pid": found.registry_pid,
        "dir": str(found.directory),
        "versions": dict(found.versions),
    }
    emit_object(answer, output, title="Embedded stack")
    for broker in found.brokers:
        if broker.cause is not None:
            told = f"broker {broker.number} ended: {broker.cause}"
            notices.print(told, markup=False, soft_wrap=True)
    if found.state == "degraded":
        notices.print("start what is missing: seamline up; or end all: seamline down")
    if found.state != "running":
        raise typer.Exit(1)


def _several(brokers: Mapping[int, object]) -> dict[str, object]:
    """A field for each broker where there are several."""
    return {f"broker {n}": told for n, told in brokers.items()} if len(brokers) > 1 else {}


def _told(broker: BrokerStatus) -> str:
    pid = "" if broker.pid is None else f", pid {broker.pid}"
    return f"{broker.state} at {broker.address}{pid}"


def _external(directory: Path | None, *options: int | None) -> World | None:
    """The cluster of the environment, or None. UsageError when both it and a stack are named."""
    from seamline.connectors.kafka.cluster import BOOTSTRAP_VARIABLE
    from seamline.connectors.world import REGISTRY_VARIABLE, World

    named = [v for v in (BOOTSTRAP_VARIABLE, REGISTRY_VARIABLE) if os.environ.get(v)]
    if not named:
        return None
    if directory is not None or any(option is not None for option in options):
        raise UsageError(
            "names a cluster that exists, while an option names the embedded stack",
            parameter=named[0],
            value=os.environ[named[0]],
            fix="Unset it to use the embedded stack, or leave the option out",
        )
    return World.resolve(os.environ)


def _check(world: World) -> None:
    if (fault := _fault(world)) is not None:
        raise fault


def _fault(world: World) -> TransportError | None:
    from seamline.connectors.kafka.probe import ask_cluster
    from seamline.connectors.registry.client import RegistrySettings, RemoteSchemaRegistryClient

    try:
        ask_cluster(world.cluster)
    except TransportError as error:
        return error
    registry = RemoteSchemaRegistryClient(
        world.registry_url, world.registry_auth, RegistrySettings(retries=0)
    )
    try:
        registry.ready()
    except TransportError as error:
        return error
    finally:
        registry.close()
    return None


def _shown(world: World, more: Mapping[str, Any]) -> dict[str, Any]:
    where = {"bootstrap": world.cluster.bootstrap, "registry_url": world.registry_url}
    return {"mode": "external", **where, **more}


def _spinner() -> AbstractContextManager[Notify]:
    """Says what is being waited for, on a terminal only."""
    if not notices.is_terminal:
        return nullcontext(lambda _: None)
    return _Spinner()


class _Spinner:
    def __init__(self) -> None:
        self._status = notices.status("")

    def __enter__(self) -> Notify:
        self._status.start()
        return self._status.update

    def __exit__(self, *_: object) -> None:
        self._status.stop()


def _require_object(output: Format) -> None:
    """Said before anything is started: the answer of these commands is no table of rows."""
    if output is Format.CSV:
        raise UsageError(
            "csv is for rows", parameter="output", value="csv", fix="Use table or json"
        )
