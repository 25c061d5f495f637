"""`seamline schema mode | promote | demote | tombstone | rollback`: what is in force for a subject.

Decides: what is shown of a change, of a dry run and of a refusal, and the exit statuses: 0 done, 1
refused (with every reason). Invariants: what changes something has a reason and an actor; with
`--dry-run` nothing is written, neither to the log nor to the registry. Must not know: the order of
a change, what is good enough.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import format_time, parse_duration
from seamline.sdk.cli.actor import ActorOption, ReasonOption, actor_named, reason_given
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.governance.promoting import Outcome, Promoting
    from seamline.connectors.registry.registration import Subject
    from seamline.schemas.modes import SubjectState

MODE_COLUMNS = ("subject", "mode", "version", "since", "actor", "reason", "withdrawn")
REFUSAL_COLUMNS = ("field", "value", "what", "fix")

SubjectArgument = Annotated[
    str, typer.Argument(help="PRESET.live, its topic or its subject", metavar="SUBJECT")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="show the audit entry, write nothing anywhere")
]


def register(schema: typer.Typer) -> None:
    schema.command("mode")(mode)
    schema.command("promote")(promote)
    schema.command("demote")(demote)
    schema.command("tombstone")(tombstone)
    schema.command("rollback")(rollback)


@answers
def mode(
    subject: Annotated[
        str | None, typer.Argument(help="one subject; default: all", metavar="[SUBJECT]")
    ] = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """The mode of each subject that records are landed under, or of one; who set it and why."""
    from seamline.connectors.governance.log import GovernanceLog
    from seamline.connectors.registry.registration import subjects_of
    from seamline.connectors.world import World
    from seamline.presets import loader
    from seamline.schemas.modes import default_mode
    from seamline.schemas.topics import LANDING_ROLES

    default = default_mode(os.environ)
    named = None if subject is None else _subject(subject).name
    book = GovernanceLog(World.resolve(os.environ, directory).cluster).read().book
    landing = [
        each.name
        for preset in loader.load(None, os.environ).values()
        for each in subjects_of(preset)
        if each.role in LANDING_ROLES
    ]
    names = sorted({*landing, *book.states}) if named is None else [named]
    rows = [_mode_row(name, book.state_of(name), default) for name in names]
    emit_rows(rows, MODE_COLUMNS, output, title="Modes")


@answers
def promote(
    subject: SubjectArgument,
    reason: ReasonOption,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="RULE=N: at most N blocked records of that rule, again and again"),
    ] = None,
    canary_window: Annotated[
        str, typer.Option(help="how long in canary and with traffic, at least")
    ] = "24h",
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Canary to strict: needs a fresh, clean rehearsal and a canary window of real traffic."""
    from seamline.streams.kernel.promotion import PromotionPolicy, parse_accepted

    window_ns = parse_duration(canary_window, parameter="canary_window")
    policy = PromotionPolicy(canary_window_ns=window_ns)
    accepted = parse_accepted(accept or ())

    def run(promoting: Promoting, of: Subject) -> Outcome:
        return promoting.promote(of, reason, policy, accepted, dry_run=dry_run)

    _change(run, subject, reason, actor, dry_run, directory, output)


@answers
def demote(
    subject: SubjectArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Back to canary, at once; works while the registry is down."""

    def run(promoting: Promoting, of: Subject) -> Outcome:
        return promoting.demote(of, reason, dry_run=dry_run)

    _change(run, subject, reason, actor, dry_run, directory, output)


@answers
def tombstone(
    subject: SubjectArgument,
    version: Annotated[
        str,
        typer.Argument(
            help="number in the registry, or a fingerprint by 12 digits or more", metavar="VERSION"
        ),
    ],
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Withdraw a writer schema: canary counts its records, strict sets them aside."""

    def run(promoting: Promoting, of: Subject) -> Outcome:
        return promoting.tombstone(of, version, reason, dry_run=dry_run)

    _change(run, subject, reason, actor, dry_run, directory, output)


@answers
def rollback(
    subject: SubjectArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """To what stood before the subject's last change, as the audit log has it."""
    from seamline.streams.kernel.promotion import PromotionPolicy

    def run(promoting: Promoting, of: Subject) -> Outcome:
        return promoting.rollback(of, reason, PromotionPolicy(), dry_run=dry_run)

    _change(run, subject, reason, actor, dry_run, directory, output)


def _change(
    run: Callable[[Promoting, Subject], Outcome],
    subject: str,
    reason: str,
    actor: str | None,
    dry_run: bool,
    directory: Path | None,
    output: Format,
) -> None:
    if output is Format.CSV:
        raise UsageError("csv is for rows", parameter="output", value="csv", fix="Use json")
    reason_given(reason)
    of, who = _subject(subject), actor_named(actor, os.environ)
    with _promoting(who, directory) as promoting:
        try:
            outcome = run(promoting, of)
        except ContractError as error:
            _show_refusals(of.name, error, output)
            raise
    emit_object(_answer(of.name, outcome, dry_run), output, title=_title(outcome, dry_run))
    for left in outcome.left:
        notices.print(f"left for the next command: {left}", markup=False, soft_wrap=True)


@contextmanager
def _promoting(actor: str, directory: Path | None) -> Iterator[Promoting]:
    from seamline.connectors.governance.promoting import Promoting
    from seamline.connectors.registry.client import RemoteSchemaRegistryClient
    from seamline.connectors.world import World
    from seamline.schemas.modes import default_mode

    default = default_mode(os.environ)
    world = World.resolve(os.environ, directory)
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        yield Promoting(world.cluster, client, actor=actor, default_mode=default)
    finally:
        client.close()


def _subject(text: str) -> Subject:
    """Raises UsageError for a preset that is not listed and a topic that it does not have."""
    from seamline.connectors.registry.registration import subjects_of
    from seamline.presets import loader
    from seamline.schemas.topics import parse_subject, subject_named

    name = subject_named(text)
    preset = loader.get(loader.load(None, os.environ), parse_subject(name)[0])
    every = {subject.name: subject for subject in subjects_of(preset)}
    if name not in every:
        raise UsageError(
            "the preset has no such topic",
            parameter="subject",
            value=text,
            fix=f"One of {', '.join(every)}",
        )
    return every[name]


def _mode_row(name: str, state: SubjectState | None, default: str) -> dict[str, Any]:
    if state is None:
        return {"subject": name, "mode": default, "version": 0, "reason": "by default"}
    return {
        "subject": name,
        "mode": state.mode,
        "version": state.version,
        "since": format_time(state.since_ns),
        "actor": state.actor,
        "reason": state.reason,
        "withdrawn": len(state.tombstones),
    }


def _title(outcome: Outcome, dry_run: bool) -> str:
    if dry_run:
        return "Would be written"
    return "Changed" if outcome.entry else "Nothing to change"


def _answer(subject: str, outcome: Outcome, dry_run: bool) -> dict[str, Any]:
    state, draft = outcome.state, outcome.draft
    answer: dict[str, Any] = {"subject": subject, "written": outcome.entry is not None}
    if dry_run:
        answer["dry_run"] = True
    if state is not None:
        answer |= {"mode": state.mode, "version": state.version}
        answer |= {"since": format_time(state.since_ns), "tombstones": list(state.tombstones)}
    if outcome.entry is not None:
        answer |= {"entry": outcome.entry.number, "hash": outcome.entry.hash}
    if draft is not None:
        answer |= {"action": draft.action, "actor": draft.actor, "reason": draft.reason}
        answer |= {"bundle_sha256": draft.bundle_sha256, "evidence": dict(draft.evidence)}
    return answer | {"registry": list(outcome.done), "left": list(outcome.left)}


def _show_refusals(subject: str, error: ContractError, output: Format) -> None:
    """Every reason, not the first alone; the error itself goes to stderr as always."""
    refusals: list[Mapping[str, Any]] = list(error.fields.get("refusals", ()))
    if output is Format.JSON:
        answer = {"subject": subject, "written": False, "refused": refusals or [_plain(error)]}
        emit_object(answer, output)
    elif refusals:
        emit_rows(refusals, REFUSAL_COLUMNS, output, title="Refused")
    sys.stdout.flush()


def _plain(error: ContractError) -> dict[str, Any]:
    value = error.value if isinstance(error.value, str | int | float | None) else str(error.value)
    return {"field": error.parameter, "value": value, "what": error.message, "fix": error.fix}
