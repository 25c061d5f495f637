"""`seamline schema list | bundle | register | check`: the subjects of presets and their schemas.

Decides: the columns shown, and that a preset stands for itself and for those derived from it.
Invariant: only `register` changes anything, and nothing that `check` refuses. Must not know: the
rules of compatibility, the API of a registry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.sdk.cli import schema_audit, schema_mode, schema_rehearse
from seamline.sdk.cli.actor import ActorOption, ReasonOption, actor_named, reason_given
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.registry.client import Registered, SchemaRegistryClient
    from seamline.connectors.registry.governed import Judged
    from seamline.connectors.world import World
    from seamline.schemas.bundle import Bundle, Proposal
    from seamline.schemas.contract import Schema
    from seamline.schemas.preset import Preset

LIST_COLUMNS = ("subject", "record", "version", "fingerprint", "strict_level")
LIST_SHOWN = ("subject", "holds", "fingerprint", "strict_level")
BUNDLE_COLUMNS = ("record", "version", "fingerprint", "approved", "compatible", "breaking")
CHECK_COLUMNS = (
    *("subject", "record", "mode", "verdict", "registered", "level", "registry_level"),
    *("added", "removed", "breaking"),
)
# In a table the level that is checked is a matter of the subject (`schema list`), and the
# registry's own says something where it is to change.
CHECK_SHOWN = (*CHECK_COLUMNS[:5], "registry_to", *CHECK_COLUMNS[7:])
REGISTER_COLUMNS = ("subject", "record", "mode", "done", "version", "id", "breaking")
UNCHANGED, LEVEL, NEW, BREAKS, REFUSED = "unchanged", "level", "new", "breaks", "refused"

SomePresets = Annotated[
    list[str] | None, typer.Argument(help="ids of presets; default: all", metavar="[PRESET]...")
]

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="a directory with a proposed bundle; default: the approved one"),
]
ThesePresets = Annotated[list[str], typer.Argument(help="ids of presets", metavar="PRESET...")]

schema_app = typer.Typer(name="schema", help="Schemas and their modes.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(schema_app, name="schema")
    schema_audit.register(schema_app)
    schema_mode.register(schema_app)
    schema_rehearse.register(schema_app)


@schema_app.command("list")
@answers
def list_schemas(presets: SomePresets = None, output: FormatOption = Format.TABLE) -> None:
    """Every subject of the presets, and the approved record that it holds."""
    from seamline.connectors.registry.registration import subjects_of
    from seamline.schemas.contract import SCHEMAS

    rows = [
        {
            "subject": subject.name,
            "record": name,
            "version": SCHEMAS[name].version,
            "holds": f"{name} v{SCHEMAS[name].version}",
            "fingerprint": SCHEMAS[name].fingerprint,
            "strict_level": subject.strict_level,
        }
        for preset in _chosen(presets)
        for subject in subjects_of(preset)
        for name in subject.schemas
    ]
    columns = LIST_SHOWN if output is Format.TABLE else LIST_COLUMNS
    emit_rows(rows, columns, output, title="Subjects")


@schema_app.command("bundle")
@answers
def bundle(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="a directory with a proposed bundle; default: the approved one"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="write its files into this new directory")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Every version of every record, and the one SHA-256 of them all. Exit status 1 when a proposed
    version breaks the compatibility of its record."""
    from seamline.connectors.registry.bundle_files import write_bundle
    from seamline.schemas.bundle import proposals

    chosen = _bundle(directory)
    proposed = {p.schema.fingerprint: p for p in proposals(chosen)}
    rows = [_row_of(schema, proposed.get(schema.fingerprint)) for schema in chosen.schemas]
    if export is not None:
        write_bundle(chosen, export)
    if output is Format.JSON:
        whole = {"sha256": chosen.sha256, "approved": not proposed, "schemas": rows}
        emit_object(whole, output)
    else:
        emit_rows(rows, BUNDLE_COLUMNS, output, title=f"Bundle {chosen.sha256}")
    if any(row["compatible"] is False for row in rows):
        raise typer.Exit(1)


@schema_app.command("check")
@answers
def check(
    presets: SomePresets = None,
    bundle: BundleOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="judge every subject as if it were strict")
    ] = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """What `register` would change in the registry, and whether it may. Changes nothing; exit
    status 1 when a subject refuses its schema."""
    from dataclasses import replace

    from seamline.connectors.governance.log import GovernanceLog
    from seamline.connectors.governance.registering import judge_presets
    from seamline.schemas.modes import STRICT, default_mode

    chosen, proposed = _chosen(presets), _bundle(bundle)
    with _world(directory) as (world, client):
        governed = GovernanceLog(world.cluster).read()
        judged = judge_presets(client, chosen, proposed, governed, default_mode(os.environ))
    if strict:
        judged = tuple(replace(one, mode=STRICT) for one in judged)
    columns = {Format.JSON: (*CHECK_COLUMNS, "reasons"), Format.CSV: CHECK_COLUMNS}
    rows = [_checked(one, proposed) for one in judged]
    emit_rows(rows, columns.get(output, CHECK_SHOWN), output, title="Check")
    for one in judged:
        for path, why in one.report.reasons.items() if one.breaks else ():
            notices.print(f"{one.subject}: {path}: {why}", markup=False, soft_wrap=True)
    if any(one.refused for one in judged):
        raise typer.Exit(1)


@schema_app.command("register")
@answers
def register_schemas(
    presets: ThesePresets,
    bundle: BundleOption = None,
    reason: ReasonOption = "",
    actor: ActorOption = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Register the newest version of every record of the presets, all or none, and say so in the
    audit."""
    from seamline.connectors.governance.log import GovernanceLog
    from seamline.connectors.governance.registering import register_presets
    from seamline.schemas.modes import default_mode

    chosen, proposed = _chosen(presets), _bundle(bundle)
    who = actor_named(actor, os.environ)
    what = "approved" if bundle is None else "proposed"
    said = reason_given(reason) if reason else f"registered the {what} bundle"
    with _world(directory) as (world, client):
        done = register_presets(
            GovernanceLog(world.cluster),
            client,
            chosen,
            proposed,
            default_mode=default_mode(os.environ),
            actor=who,
            reason=said,
        )
    rows = [
        _done(one, held, proposed) for one, held in zip(done.judged, done.registered, strict=True)
    ]
    emit_rows(rows, REGISTER_COLUMNS, output, title="Registered")
    for (subject, mode), count in done.failures.items():
        told = f"{subject}: {count} accepted in {mode} although strict would refuse it"
        notices.print(told, markup=False, soft_wrap=True)
    notices.print(f"{len(done.entries)} new entries in the audit")


def _chosen(ids: list[str] | None) -> list[Preset]:
    from seamline.presets import loader

    presets = loader.load(None, os.environ)
    if not ids:
        return list(presets.values())
    found = {name: loader.get(presets, name) for name in ids}
    for name in ids:
        found |= {derived.id: derived for derived in loader.derived_of(presets, name)}
    return list(found.values())


def _bundle(directory: Path | None) -> Bundle:
    from seamline.connectors.registry.bundle_files import read_bundle
    from seamline.schemas.bundle import approved_bundle

    return approved_bundle() if directory is None else read_bundle(directory)


@contextmanager
def _world(directory: Path | None) -> Iterator[tuple[World, SchemaRegistryClient]]:
    from seamline.connectors.registry.client import RemoteSchemaRegistryClient
    from seamline.connectors.world import World

    world = World.resolve(os.environ, directory)
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        client.ready()
        yield world, client
    finally:
        client.close()


def _row_of(schema: Schema, proposal: Proposal | None) -> dict[str, Any]:
    report = None if proposal is None else proposal.report
    return {
        "record": schema.name,
        "version": schema.version,
        "fingerprint": schema.fingerprint,
        "approved": proposal is None,
        "compatible": None if report is None else report.compatible,
        "breaking": None if report is None else _listed(report.breaking),
    }


def _verdict(judged: Judged) -> str:
    if judged.refused:
        return REFUSED
    if judged.breaks:
        return BREAKS
    if judged.same is None:
        return NEW
    return UNCHANGED if not judged.changes else LEVEL


def _checked(judged: Judged, bundle: Bundle) -> dict[str, Any]:
    held, report = judged.same or judged.latest, judged.report
    same = judged.registry_level == judged.registry_wanted
    return {
        "subject": judged.subject,
        "record": _record(judged, bundle),
        "mode": judged.mode,
        "verdict": _verdict(judged),
        "registered": None if held is None else f"version {held.version}, id {held.id}",
        "level": judged.level,
        "registry_level": judged.registry_level
        if same
        else f"{judged.registry_level} -> {judged.registry_wanted}",
        "registry_to": None if same else judged.registry_wanted,
        "added": _listed(report.added),
        "removed": _listed(report.removed),
        "breaking": _listed(report.breaking),
        "reasons": dict(report.reasons),
    }


def _done(judged: Judged, held: Registered, bundle: Bundle) -> dict[str, Any]:
    return {
        "subject": judged.subject,
        "record": _record(judged, bundle),
        "mode": judged.mode,
        "done": _verdict(judged),
        "version": held.version,
        "id": held.id,
        "breaking": _listed(judged.report.breaking),
    }


def _record(judged: Judged, bundle: Bundle) -> str:
    return next(
        f"{schema.name} v{schema.version}"
        for schema in bundle.schemas
        if schema.text == judged.text
    )


def _listed(paths: tuple[str, ...]) -> str | None:
    return ", ".join(paths) or None
