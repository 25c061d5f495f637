"""`seamline schema rehearse SUBJECT --since 48h`: what strict would have blocked.

Decides: how the evidence is shown, and that it is recorded in the audit log before it is shown.
Exit status 0 when the rehearsal is complete, whatever it found, 1 when it is not. Invariant: no
record of a preset is written or changed. Must not know: rules, how a topic is read.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.actor import ActorOption, actor_named
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.kafka.cluster import Cluster
    from seamline.schemas.bundle import Bundle
    from seamline.schemas.modes import SubjectState
    from seamline.streams.kernel.rehearsal import Evidence

_AGO = re.compile(r"[0-9]+[a-z]+")
_SINCE_FIX = "Write how far back to read: 48h, 7d, or an ISO time with a zone"
BLOCKED_COLUMNS = ("by", "name", "blocked", "samples")


def register(app: typer.Typer) -> None:
    app.command("rehearse")(rehearse)


@answers
def rehearse(
    subject: Annotated[str, typer.Argument(help="PRESET.ROLE, its topic, or its subject")],
    since: Annotated[
        str, typer.Option(help="how far back: 48h, 7d, or an ISO time with a zone")
    ] = "48h",
    bundle: Annotated[
        Path | None, typer.Option(help="directory of a proposed bundle to rehearse under")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="file to go on from, and to keep what was found in")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="write the evidence into the audit log")
    ] = True,
    actor: ActorOption = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Judge a retained topic as strict would have, and say what it would have blocked."""
    from seamline.connectors.governance import rehearsing
    from seamline.connectors.registry.client import RemoteSchemaRegistryClient
    from seamline.connectors.registry.meanings import Meanings
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.schemas.contract import subject_rules
    from seamline.schemas.topics import parse_subject, subject_named

    who = actor_named(actor, os.environ) if record else ""
    name = subject_named(subject)
    preset = loader.get(loader.load(None, os.environ), parse_subject(name)[0])
    chosen = _bundle(bundle)
    now_ns = time.time_ns()
    since_ns = _since_ns(since, now_ns)
    world = World.resolve(os.environ, directory)
    state = _state(world.cluster, name)
    plan = rehearsing.Plan(
        subject=name,
        preset=preset,
        since=since,
        since_ns=since_ns,
        now_ns=now_ns,
        bundle_sha256=chosen.sha256,
        mode_version=0 if state is None else state.version,
        tombstones=frozenset() if state is None else frozenset(state.tombstones),
        resume=resume,
    )
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        names = subject_rules(preset.kind)[plan.role].schemas
        resolve = Meanings(client, names, chosen)
        evidence = rehearsing.rehearse(world.cluster, plan, resolve)
    finally:
        client.close()
    if record:
        number = _record(world.cluster, evidence, who, bundle)
        notices.print(f"recorded as entry {number} of the audit log")
    if resume is not None:
        resume.unlink(missing_ok=True)
    _show(evidence, output, "trades" if preset.kind == "trades" else "bars")
    if not evidence.complete:
        raise typer.Exit(1)


def _since_ns(text: str, now_ns: int) -> int:
    """48h means 48 hours before now, as -48h does. Raises UsageError for what is not before now."""
    from seamline.schemas.times import parse_time

    bare = text.strip()
    ago = f"-{bare}" if _AGO.fullmatch(bare) else bare
    since_ns = max(0, parse_time(ago, now_ns=now_ns, parameter="since"))
    if since_ns >= now_ns:
        raise UsageError("not in the past", parameter="since", value=text, fix=_SINCE_FIX)
    return since_ns


def _bundle(directory: Path | None) -> Bundle:
    """The approved bundle, or the one of a directory."""
    from seamline.connectors.registry.bundle_files import read_bundle
    from seamline.schemas.bundle import approved_bundle

    return approved_bundle() if directory is None else read_bundle(directory)


def _state(cluster: Cluster, subject: str) -> SubjectState | None:
    from seamline.connectors.governance.log import GovernanceLog

    return GovernanceLog(cluster).read().book.state_of(subject)


def _record(cluster: Cluster, evidence: Evidence, actor: str, bundle: Path | None) -> int:
    """Write the entry; its number."""
    from seamline.connectors.governance.log import Change, GovernanceLog
    from seamline.schemas.audit import Draft

    draft = Draft(
        action="rehearse",
        subject=evidence.subject,
        actor=actor,
        reason="rehearsal" if bundle is None else "rehearsal under a proposed bundle",
        bundle_sha256=evidence.bundle_sha256,
        window_ns=(evidence.since_ns, evidence.ended_ns),
        evidence=evidence.to_json(),
    )
    (entry,) = GovernanceLog(cluster).commit(lambda _: Change(drafts=(draft,)))
    return entry.number


def _show(evidence: Evidence, output: Format, unit: str) -> None:
    plain = evidence.to_json()
    if output is Format.JSON:
        emit_object(plain, output)
        return
    rows = list(_rows(evidence))
    if output is Format.TABLE:
        emit_object(_summary(evidence, unit), output, title=f"Rehearsal of {evidence.subject}")
        sys.stdout.flush()
        if not rows:
            return
    emit_rows(rows, BLOCKED_COLUMNS, output, title="What strict would have blocked")


def _rows(evidence: Evidence) -> Iterator[Mapping[str, Any]]:
    for by in ("rule", "schema", "producer", "symbol"):
        for name, blocked in getattr(evidence, f"by_{by}").items():
            places = evidence.samples.get(name, ()) if by == "rule" else ()
            shown = " ".join(f"{partition}/{offset}" for partition, offset in places)
            yield {"by": by, "name": name, "blocked": blocked, "samples": shown}


def _summary(evidence: Evidence, unit: str) -> dict[str, Any]:
    """What people look at first; `unit`: what is counted, bars or trades."""
    from seamline.schemas.times import format_duration, format_time

    traffic = evidence.traffic
    read = f"{format_time(traffic.first_ns)} to {format_time(traffic.last_ns)}"
    return {
        "asked": f"{format_time(evidence.since_ns)} to {format_time(evidence.ended_ns)}",
        "read": read if traffic.records else "nothing",
        "longest silence": format_duration(traffic.longest_silence_ns),
        "bundle": evidence.bundle_sha256,
        "records": evidence.records,
        f"{unit} accepted": evidence.bars,
        "records blocked": evidence.blocked_records,
        "of them in canary too": evidence.blocked_in_canary,
        f"{unit} blocked": evidence.blocked_bars,
        f"{unit} missing": evidence.missing_bars,
        "stale minutes": evidence.stale_minutes,
        "complete": evidence.complete,
        **({"notes": "; ".join(evidence.notes)} if evidence.notes else {}),
    }
