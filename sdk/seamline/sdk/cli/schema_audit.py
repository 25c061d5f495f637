"""`seamline schema audit log | verify | export`: the audit chain, for people and for auditors.

Decides: what is shown of an entry, and the exit status: 1 where the chain does not hold, whatever
was asked. Invariants: nothing is written; the whole topic is read each time, from its start to the
fence; what cannot be read as an entry is shown, never left out. Must not know: how a chain is
checked, where it lies.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.sdk.cli.output import (
    Format,
    FormatOption,
    answers,
    emit_object,
    emit_rows,
    notices,
)
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.sdk.audit_export import Audited

LOG_COLUMNS = ("number", "time", "action", "subject", "actor", "reason", "hash")

audit_app = typer.Typer(help="Who changed what, when and why, provably.", no_args_is_help=True)


class Document(StrEnum):
    MD = "md"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.add_typer(audit_app, name="audit")


@audit_app.command("log")
@answers
def log(
    subject: Annotated[str | None, typer.Option(help="entries of this subject alone")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="the newest so many")] = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """The entries, oldest first. A record that is no entry is shown as one without a number."""
    from seamline.schemas.topics import subject_named
    from seamline.sdk.audit_export import row_of

    audited = _audited(directory)
    rows = [row_of(record) for record in audited.records]
    if subject is not None:
        found = [row for row in rows if row["subject"] == subject]
        named = subject if found else subject_named(subject)
        rows = [row for row in rows if row["subject"] == named]
    rows = rows[-last:] if last is not None else rows
    columns = tuple(rows[0]) if rows and output is Format.JSON else LOG_COLUMNS
    emit_rows(rows, columns, output, title="Audit log")
    _say(audited)


@audit_app.command("verify")
@answers
def verify(
    kept: Annotated[
        str | None, typer.Option("--head", help="a head hash that you kept: is it in the chain?")
    ] = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Whether the chain holds, from its first entry to the head that is kept beside it."""
    audited = _audited(directory, kept)
    emit_object(audited.verdict(), output, title="Audit chain")
    _say(audited)


@audit_app.command("export")
@answers
def export(
    document: Annotated[
        Document, typer.Option("--format", help="md for people, json for programs")
    ] = Document.MD,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """The whole log as one document on stdout, beginning with whether it holds."""
    from seamline.sdk.audit_export import as_json, as_markdown

    audited = _audited(directory)
    json_wanted = document is Document.JSON or output is Format.JSON
    sys.stdout.write(as_json(audited) if json_wanted else as_markdown(audited))
    _say(audited)


def _audited(directory: Path | None, kept: str | None = None) -> Audited:
    from seamline.connectors.governance.log import GovernanceLog
    from seamline.connectors.world import World
    from seamline.sdk.audit_export import Audited

    log = GovernanceLog(World.resolve(os.environ, directory).cluster)
    chain = log.chain()
    offsets = tuple(record.offset for record in chain.records)
    states = tuple(chain.book.states.values())
    return Audited.of(chain.values, offsets, chain.head, states, kept, log.deletes())


def _say(audited: Audited) -> None:
    """The head, for a person to keep; and exit status 1 where the chain does not hold."""
    answer: dict[str, Any] = audited.verdict()
    if not answer["ok"]:
        sys.stdout.flush()
        notices.print(f"the chain does not hold: {answer['why']}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    if answer["head"] is not None:
        told = f"keep this: entry {answer['head_number']} has the hash {answer['head']}"
        notices.print(told, markup=False, soft_wrap=True)
