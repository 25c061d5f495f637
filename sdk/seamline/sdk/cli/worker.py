"""`seamline worker PRESET…`: conform presets until told to stop.

Decides: where a worker keeps its files, what it says and what it keeps quiet. Invariants: two
workers never share a directory; a derived preset is refused by the name of its parent; stdout stays
empty. Must not know: how a partition is owned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from seamline.schemas.errors import TransportError, UsageError
from seamline.schemas.times import parse_duration
from seamline.sdk.cli.output import answers, notices
from seamline.sdk.cli.stack import DirOption

# Workers of one machine and directory at the same time.
SLOTS_MAX = 64
# Of other packages: what they say in trouble reaches people as our errors.
QUIET = ("faust", "mode", "aiokafka", "seamline.kafka")


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)


@answers
def worker(
    presets: Annotated[list[str], typer.Argument(help="ids of presets", metavar="PRESET...")],
    metrics_port: Annotated[
        int | None, typer.Option(help="serve Prometheus metrics there (0: any free port)")
    ] = None,
    directory: DirOption = None,
    session_timeout: Annotated[
        str, typer.Option(help="after so long without a sign another worker takes over")
    ] = "6s",
    verbose: Annotated[bool, typer.Option("--verbose", help="also what Faust logs")] = False,
) -> None:
    """Conform what lands on PRESET... until SIGTERM or Ctrl-C; presets derived from them too."""
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.streams.apps.factory import make_factory
    from seamline.streams.apps.worker import Told, WorkerSettings, check_presets, run_worker

    session_ns = parse_duration(session_timeout, parameter="session_timeout")
    listed = loader.load(None, os.environ)
    chosen = [loader.get(listed, preset_id) for preset_id in presets]
    check_presets(chosen, {p.id: loader.root_of(listed, p.id).id for p in chosen})
    derived = {p.id: loader.derived_of(listed, p.id) for p in chosen}
    world = World.resolve(os.environ, directory)
    logs(verbose)
    with own_directory(directory) as data:
        run_worker(
            chosen,
            derived,
            world,
            make_factory,
            WorkerSettings(data, session_timeout_ns=session_ns, metrics_port=metrics_port),
            Told(owned=say_owned, scraped=say_scraped),
        )


def say_owned(preset_id: str, partitions: list[int]) -> None:
    which = ", ".join(map(str, partitions)) or "none"
    notices.print(f"{preset_id}: owns partitions {which}", markup=False, soft_wrap=True)


def say_scraped(port: int) -> None:
    notices.print(f"metrics on http://127.0.0.1:{port}/metrics", markup=False, soft_wrap=True)


@contextmanager
def own_directory(directory: Path | None) -> Iterator[Path]:
    """A directory below the stack's that no other worker uses: the first free one, so that a
    worker started again finds its files. Raises UsageError when it cannot be written."""
    from seamline.connectors.embedded.held import held
    from seamline.connectors.embedded.state import stack_directory

    base = stack_directory(directory, os.environ) / "workers"
    with ExitStack() as stack:
        for slot in range(SLOTS_MAX):
            place = base / str(slot)
            try:
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(place / "lock", 0))
            except OSError as error:
                raise UsageError(
                    f"cannot be written: {error.strerror}", parameter="dir", value=str(place)
                ) from None
            except TransportError:
                continue
            yield place
            return
        raise UsageError(
            f"{SLOTS_MAX} workers use this directory",
            parameter="dir",
            value=str(base),
            fix="Give another directory",
        )


def logs(verbose: bool) -> None:
    """Warnings of ours on stderr; all that Faust and its clients say only when asked."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL + 1)
