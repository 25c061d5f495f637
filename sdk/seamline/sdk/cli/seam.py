"""`seamline seam verify`: check a certificate against Kafka alone.

Decides: the exit status: 0 for `verified`, 1 for `revised`, `expired` and `unexplained`; a file
that was changed is refused with 1, one that is no certificate with 2.
Must not know: how it is checked.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows
from seamline.sdk.cli.stack import DirOption

seam = typer.Typer(help="The seam between history and live.", no_args_is_help=True)

CHANGE_COLUMNS = ("symbol", "start", "status", "by", "revised", "added")


def register(app: typer.Typer) -> None:
    app.add_typer(seam, name="seam")


@seam.callback()
def group() -> None:
    """A callback keeps `verify` a name while it is the only command."""


@seam.command("verify")
@answers
def verify(
    certificate: Annotated[Path, typer.Argument(help="file of `seamline read --certificate`")],
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Recompute a certificate from Kafka alone: verified, revised, expired or unexplained."""
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.sdk.certificate import load
    from seamline.sdk.certificate import verify as check
    from seamline.streams.kernel.seam_proof import VERIFIED

    held = load(certificate)
    verdict, answer = check(
        held, world=World.resolve(os.environ, directory), presets=loader.load(None, os.environ)
    )
    if output is Format.CSV:
        emit_rows(answer["changes"], CHANGE_COLUMNS, output)
    elif output is Format.JSON:
        emit_object(answer, output)
    else:
        emit_object({name: value for name, value in answer.items() if name != "changes"}, output)
        if answer["changes"]:
            sys.stdout.flush()
            emit_rows(answer["changes"], CHANGE_COLUMNS, output, title="Changed since")
    if verdict.status != VERIFIED:
        raise typer.Exit(1)
