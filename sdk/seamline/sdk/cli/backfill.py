"""`seamline backfill run PRESET`: history of a venue onto the landing topic.

Decides: how options become a request, and what is shown of a run. Invariant: times are read by the
venue's clock, so `-2d` means two days before what the venue calls now; a run that was killed is run
again with the same words. Must not know: chunks, transactions.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.schemas.times import format_time
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from seamline.connectors.backfill import Planned
    from seamline.connectors.world import World
    from seamline.schemas.preset import Preset

REST_VARIABLE = "SEAMLINE_BINANCE_REST_URL"


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="History onto the plane.", no_args_is_help=True)
    group.callback()(_group)
    group.command("run")(run)
    app.add_typer(group, name="backfill")


def _group() -> None:
    """A callback keeps `run` a name while it is the only command."""


@answers
def run(
    preset: Annotated[str, typer.Argument(help="id of a preset", metavar="PRESET")],
    symbols: Annotated[str, typer.Option(help="BASE/QUOTE, comma separated")],
    start: Annotated[str, typer.Option(help="-2d, or an ISO time with a zone, on the grid")],
    end: Annotated[str, typer.Option(help="exclusive; now, -1d, or an ISO time")] = "now",
    rest_url: Annotated[
        str, typer.Option(help=f"the venue's REST (default: {REST_VARIABLE}, or Binance itself)")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="also what has landed before")] = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch the bars of [start, end) and land them in blocks, one transaction per chunk.

    What has landed is not fetched again, so a run that was interrupted goes on where it was.
    """
    from seamline.connectors.backfill_request import require_source
    from seamline.connectors.world import World
    from seamline.presets import loader

    if output is Format.CSV:
        raise UsageError(
            "csv is for rows", parameter="output", value="csv", fix="Use table or json"
        )
    chosen = loader.get(loader.load(None, os.environ), preset)
    require_source(chosen)
    named = symbols_of(symbols)
    world = World.resolve(os.environ, directory)
    with _progress() as progress:
        answer = asyncio.run(_run(world, chosen, named, (start, end), rest_url, again, progress))
    emit_object(answer, output, title="Backfill")


async def _run(
    world: World,
    preset: Preset,
    symbols: tuple[str, ...],
    span: tuple[str, str],
    rest_url: str,
    again: bool,
    progress: Callable[[Planned], None],
) -> dict[str, Any]:
    from seamline.connectors.backfill import ROLES, Backfill, BackfillSettings
    from seamline.connectors.backfill_request import grid_of, range_of
    from seamline.connectors.governance.follow import mode_now
    from seamline.connectors.kafka.topics import assert_partitions
    from seamline.connectors.registry.client import RemoteSchemaRegistryClient
    from seamline.connectors.registry.registration import ensure_registered
    from seamline.connectors.venues.binance import (
        REST_URL,
        BinanceEndpoints,
        BinanceRest,
        RestRules,
    )
    from seamline.schemas.modes import default_mode

    began_s = time.monotonic()
    # What is refused here is refused before the venue is asked anything.
    assert_partitions(world.cluster, preset, ROLES)
    registry = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        mode_of = mode_now(world.cluster, default_mode(os.environ))
        ids = ensure_registered(registry, preset, mode_of)
    finally:
        registry.close()
    url = (rest_url or os.environ.get(REST_VARIABLE, "") or REST_URL).rstrip("/")
    async with BinanceRest(BinanceEndpoints(rest_url=url), RestRules(attempts=1)) as rest:
        listed = await rest.resolve(symbols)
        asked = range_of(grid_of(preset), *span, await rest.venue_time_ns())
        settings = BackfillSettings(again=again)
        job = Backfill(world.cluster, preset, ids, rest, settings, progress=progress)
        await job.run(listed, asked.start_ns, asked.end_ns)
        tally = job.tally
        return {
            "preset": preset.id,
            "symbols": list(listed),
            "start": format_time(asked.start_ns),
            "end": format_time(asked.end_ns),
            "chunks": tally.chunks,
            "blocks": tally.blocks,
            "empty_blocks": tally.empty_blocks,
            "bars": tally.bars,
            "not_settled": tally.fresh_bars,
            "skipped": tally.skipped_bars,
            "quarantined": tally.quarantined,
            "calls": rest.requests,
            "weight": tally.weight,
            "retries": tally.retries,
            "elapsed_s": round(time.monotonic() - began_s, 3),
        }


def symbols_of(text: str) -> tuple[str, ...]:
    """The symbols of a comma-separated option. Raises UsageError for none and for one twice."""
    named = tuple(filter(None, (part.strip() for part in text.split(","))))
    if not named:
        raise UsageError(
            "no symbol", parameter="symbols", value=text, fix="Write BTC/USDT,ETH/USDT"
        )
    twice = [symbol for symbol in named if named.count(symbol) > 1]
    if twice:
        raise UsageError("named twice", parameter="symbols", value=twice[0], fix="Name it once")
    return named


@contextmanager
def _progress() -> Iterator[Callable[[Planned], None]]:
    """A bar on stderr, on a terminal only."""
    if not notices.is_terminal:
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("bars"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notices, transient=True) as shown:
        task = shown.add_task("bars", total=None)
        yield lambda planned: shown.update(task, completed=planned.done, total=planned.total)
