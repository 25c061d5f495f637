"""`seamline presets list | show | check`: which data products there are, what is wrong in a file.

Decides: the columns shown; `check` shows the first fault of every preset and ends with 1.
Invariant: no broker and no registry is asked. Must not know: the rules of the format.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows

if TYPE_CHECKING:
    from seamline.schemas.preset import Preset

LIST_COLUMNS = ("preset", "interval", "partitions", "backfill", "live", "derive_from")
CHECK_COLUMNS = ("key", "ok", "line", "fault", "fix")

FileArgument = Annotated[
    Path | None, typer.Argument(help="default: SEAMLINE_PRESETS_FILE, else the packaged presets")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The data products and their settings.", no_args_is_help=True)
    group.command("list")(list_presets)
    group.command("show")(show)
    group.command("check")(check)
    app.add_typer(group, name="presets")


@answers
def list_presets(output: FormatOption = Format.TABLE) -> None:
    """All presets in force, in the order of their file."""
    from seamline.presets import loader
    from seamline.schemas.times import format_duration

    rows = [
        {
            "preset": p.id,
            "interval": format_duration(p.interval_ns) if p.interval_ns else None,
            "partitions": p.partitions,
            "backfill": p.backfill.source if p.backfill else None,
            "live": p.live.feed if p.live else None,
            "derive_from": p.derive_from,
        }
        for p in loader.load(None, os.environ).values()
    ]
    emit_rows(rows, LIST_COLUMNS, output, title="Presets")


@answers
def show(
    preset: Annotated[str, typer.Argument(help="id of a preset")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Every setting of one preset, defaults included, under the keys of the file."""
    from seamline.presets import loader

    presets = loader.load(None, os.environ)
    found = loader.get(presets, preset)
    derived = [p.id for p in loader.derived_of(presets, preset)]
    emit_object(_settings(found) | {"derived": derived}, output, title=found.id)


@answers
def check(file: FileArgument = None, output: FormatOption = Format.TABLE) -> None:
    """Read a presets file; exit status 1 when a preset is refused."""
    from seamline.presets import loader

    text, name = loader.read(file, os.environ)
    try:
        presets, faults = loader.parse_presets(text, name)
    except UsageError as error:
        presets, faults = {}, [error]
    rows: list[dict[str, Any]] = [{"key": preset, "ok": True} for preset in presets]
    rows += [
        {
            "ok": False,
            "line": error.fields.get("line"),
            "key": error.parameter,
            "fault": error.message,
            "fix": error.fix,
        }
        for error in faults
    ]
    emit_rows(rows, CHECK_COLUMNS, output, title=name)
    if faults:
        raise typer.Exit(1)


def _settings(preset: Preset) -> dict[str, Any]:
    from seamline.schemas.times import NS_PER_MS, NS_PER_S, format_duration, format_time

    backfill, live = preset.backfill, preset.live
    return {
        "preset": preset.id,
        "kind": preset.kind,
        "interval_ms": preset.interval_ns // NS_PER_MS or None,
        "contract_version": preset.contract_version,
        "partitions": preset.partitions,
        "block_rows": preset.block_rows,
        "grid_origin": format_time(preset.grid_origin_ns),
        "storage": preset.storage,
        "backfill": None
        if backfill is None
        else {
            "source": backfill.source,
            "mode": backfill.mode,
            "window_bars": backfill.window_bars,
        },
        "live": None
        if live is None
        else {"feed": live.feed, "max_lag_seconds": live.max_lag_ns / NS_PER_S},
        "conformance_preset": preset.conformance_preset,
        "sla_preset": preset.sla_preset,
        "stabilization_bars": preset.stabilization_bars,
        "calendar": preset.calendar,
        "off_grid": preset.off_grid,
        "authority": list(preset.authority),
        "derive_from": preset.derive_from,
        "settle_seconds": preset.settle_ns / NS_PER_S,
        "conformed_retention": format_duration(preset.conformed_retention_ns),
    }
