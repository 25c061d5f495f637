"""`seamline quarantine top | show | export | fix | redrive PRESET`: what was refused, and back.

Decides: the columns shown, the lines of an export, how choices and corrections are written.
Invariants: `top`, `show`, `export` and every `--dry-run` change nothing; what is not done is said
and makes the exit status 1. Must not know: rules, transactions.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from seamline.schemas.errors import UsageError
from seamline.schemas.times import format_time, parse_time
from seamline.sdk.cli.actor import ActorOption, ReasonOption, actor_named, reason_given
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.governance.quarantine import Choice
    from seamline.connectors.governance.redriving import Door
    from seamline.streams.kernel.redrive import Kept, Plan

TOP_COLUMNS = ("rule", "producer", "schema_id", "records", "bytes", "first", "last")
PLAN_COLUMNS = ("place", "does", "symbol", "rule", "origin", "why")
FORMAT = 1
LINE_BYTES_MAX = 16 * 2**20
EDITED_MAX = 20_000

PresetArgument = Annotated[str, typer.Argument(help="id of a preset", metavar="PRESET")]
RuleOption = Annotated[
    list[str] | None, typer.Option(help="only what this rule refused; may repeat")
]
ProducerOption = Annotated[list[str] | None, typer.Option(help="only of this producer; may repeat")]
SymbolOption = Annotated[list[str] | None, typer.Option(help="only with this key; may repeat")]
IdOption = Annotated[
    list[int] | None, typer.Option("--schema-id", help="only of this writer schema; may repeat")
]
SinceOption = Annotated[
    str | None, typer.Option(help="only what failed since then: 2026-01-31T00:00:00Z or -3d")
]
OffsetOption = Annotated[
    list[str] | None,
    typer.Option("--offset", help="only this one: PARTITION:OFFSET in quarantine; may repeat"),
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="print what would be done, do nothing")]

quarantine_app = typer.Typer(help="What was refused, and its way back.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(quarantine_app, name="quarantine")


@quarantine_app.command("top")
@answers
def top(
    preset: PresetArgument,
    rule: RuleOption = None,
    producer: ProducerOption = None,
    symbol: SymbolOption = None,
    schema_id: IdOption = None,
    since: SinceOption = None,
    offset: OffsetOption = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Open records by rule, producer and schema id, the most first."""
    from seamline.connectors.governance.quarantine import Quarantine

    choice = _choice(rule, producer, symbol, schema_id, since, offset)
    found = Quarantine(_world(directory).cluster, _preset(preset))
    groups = found.groups(choice)
    rows = [
        {
            "rule": group.rule,
            "producer": group.producer,
            "schema_id": group.schema_id,
            "records": group.records,
            "bytes": group.bytes,
            "first": format_time(group.first_ns),
            "last": format_time(group.last_ns),
        }
        for group in groups
    ]
    emit_rows(rows, TOP_COLUMNS, output, title=f"Open in quarantine of {preset}")
    notices.print(f"{sum(group.records for group in groups)} open, {found.settled} settled")


@quarantine_app.command("show")
@answers
def show(
    preset: PresetArgument,
    offset: Annotated[str, typer.Option("--offset", help="PARTITION:OFFSET in quarantine")],
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """One record: headers, its fields where they can be read, its bytes."""
    from seamline.connectors.governance.quarantine import Quarantine
    from seamline.connectors.governance.redriving import decoder

    world, of = _world(directory), _preset(preset)
    found = Quarantine(world.cluster, of)
    kept = found.one(*_place(offset))
    with decoder(world, of) as decode:
        answer = _line(kept, preset, decode)
    answer["state"] = "settled" if found.is_settled(kept.partition, kept.offset) else "open"
    answer["hex"] = None if kept.value is None else kept.value[:4_096].hex(" ")
    del answer["value_base64"]
    emit_object(answer, output, title=f"{found.topic} {offset}")


@quarantine_app.command("export")
@answers
def export(
    preset: PresetArgument,
    to: Annotated[
        Path | None, typer.Option("--to", help="a new file (default: standard output)")
    ] = None,
    rule: RuleOption = None,
    producer: ProducerOption = None,
    symbol: SymbolOption = None,
    schema_id: IdOption = None,
    since: SinceOption = None,
    offset: OffsetOption = None,
    directory: DirOption = None,
) -> None:
    """Open records as JSON lines: bytes in base64, and fields where they can be read."""
    from seamline.connectors.governance.quarantine import Quarantine
    from seamline.connectors.governance.redriving import decoder

    choice = _choice(rule, producer, symbol, schema_id, since, offset)
    world, of = _world(directory), _preset(preset)
    found = Quarantine(world.cluster, of)
    lines = 0
    with _written_to(to) as out, decoder(world, of) as decode:
        for kept in found.open(choice):
            out.write(json.dumps(_line(kept, preset, decode), allow_nan=False) + "\n")
            lines += 1
    notices.print(f"{lines} records")


@quarantine_app.command("redrive")
@answers
def redrive(
    preset: PresetArgument,
    reason: ReasonOption = "redriven as it is",
    dry_run: DryOption = False,
    rule: RuleOption = None,
    producer: ProducerOption = None,
    symbol: SymbolOption = None,
    schema_id: IdOption = None,
    since: SinceOption = None,
    offset: OffsetOption = None,
    actor: ActorOption = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Land open records again as they are, where the rules of now take them."""
    from seamline.connectors.governance.redriving import Request

    choice = _choice(rule, producer, symbol, schema_id, since, offset)
    request = Request("redrive", actor_named(actor, os.environ), reason_given(reason))
    with closing(_door(preset, directory)) as door:
        _do(door, door.plan(door.quarantine.loaded(choice)), request, dry_run, output)


@quarantine_app.command("fix")
@answers
def fix(
    preset: PresetArgument,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE of every chosen record")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="an edited file of `quarantine export`")
    ] = None,
    reason: ReasonOption = "corrected",
    dry_run: DryOption = False,
    rule: RuleOption = None,
    producer: ProducerOption = None,
    symbol: SymbolOption = None,
    schema_id: IdOption = None,
    since: SinceOption = None,
    offset: OffsetOption = None,
    actor: ActorOption = None,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Land corrected copies of open records; the originals stay where they are."""
    from seamline.connectors.governance.redriving import Request

    if bool(set_) == bool(from_):
        raise UsageError(
            "give corrections in one way",
            parameter="--set, --from",
            value=[set_, None if from_ is None else str(from_)],
            fix="--set FIELD=VALUE for the chosen records, or --from an edited export",
        )
    choice = _choice(rule, producer, symbol, schema_id, since, offset)
    if from_ is None and not _narrow(choice):
        raise UsageError(
            "every open record would get these values",
            parameter="--set",
            value=set_,
            fix="Choose with --offset, --symbol, --rule, --producer, --schema-id or --since",
        )
    request = Request("fix", actor_named(actor, os.environ), reason_given(reason))
    changes = _changes(set_ or [])
    edited = {} if from_ is None else dict(_edited(from_, preset))
    with closing(_door(preset, directory)) as door:
        kept = [
            each
            for each in door.quarantine.loaded(choice)
            if from_ is None or (each.partition, each.offset) in edited
        ]
        gone = edited.keys() - {(each.partition, each.offset) for each in kept}
        for partition, at in sorted(gone)[:10]:
            notices.print(f"{partition}:{at}: not open, or not chosen; left alone")
        fields = {
            (each.partition, each.offset): door.corrected(
                each, changes, edited.get((each.partition, each.offset))
            )
            for each in kept
        }
        _do(door, door.plan(kept, fields), request, dry_run, output, left_out=len(gone))


# -- what is asked


def _preset(name: str) -> Any:
    from seamline.presets import loader

    return loader.get(loader.load(None, os.environ), name)


def _world(directory: Path | None) -> Any:
    from seamline.connectors.world import World

    return World.resolve(os.environ, directory)


def _door(preset: str, directory: Path | None) -> Door:
    from seamline.connectors.governance.redriving import Door

    return Door.open(_world(directory), _preset(preset), os.environ, time.time_ns)


def _choice(
    rule: list[str] | None,
    producer: list[str] | None,
    symbol: list[str] | None,
    schema_id: list[int] | None,
    since: str | None,
    offset: list[str] | None,
) -> Choice:
    from seamline.connectors.governance.quarantine import Choice

    now_ns = time.time_ns()
    return Choice(
        rules=frozenset(rule or ()),
        producers=frozenset(producer or ()),
        symbols=frozenset(symbol or ()),
        schema_ids=frozenset(schema_id or ()),
        since_ns=None if since is None else parse_time(since, now_ns=now_ns, parameter="since"),
        places=frozenset(map(_place, offset or ())),
    )


def _narrow(choice: Choice) -> bool:
    from seamline.connectors.governance.quarantine import Choice

    return choice != Choice()


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()) or len(text) > 40:
        raise UsageError(
            "not a place in quarantine",
            parameter="offset",
            value=text,
            fix="Write PARTITION:OFFSET, such as 3:1207",
        )
    return int(partition), int(offset)


def _changes(pairs: list[str]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for pair in pairs:
        field, sign, value = pair.partition("=")
        if not sign or not field or field in changes:
            raise UsageError(
                "not one FIELD=VALUE for a field", parameter="--set", value=pair, fix="close=101.5"
            )
        changes[field] = value
    return changes


def _edited(path: Path, preset: str) -> Iterator[tuple[tuple[int, int], Mapping[str, Any]]]:
    """The lines of an edited export. Raises UsageError naming the line."""
    seen: set[tuple[int, int]] = set()
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LINE_BYTES_MAX), b""), 1):
                if line.strip():
                    place, fields = _edited_line(line, preset, f"{path}:{number}")
                    if place in seen:
                        raise UsageError(
                            "twice in the file",
                            parameter=f"{path}:{number}",
                            value=f"{place[0]}:{place[1]}",
                            fix="Leave one line of each place",
                        )
                    seen.add(place)
                    if len(seen) > EDITED_MAX:
                        raise UsageError(
                            "too many lines",
                            parameter="--from",
                            value=str(path),
                            fix=f"At most {EDITED_MAX} at once: split the file",
                        )
                    yield place, fields
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}",
            parameter="--from",
            value=str(path),
            fix="Name a file of `seamline quarantine export`",
        ) from None


def _edited_line(line: bytes, preset: str, where: str) -> tuple[tuple[int, int], Mapping[str, Any]]:
    fix = f"Edit the fields below `decoded` of `seamline quarantine export {preset}`, nothing else"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UsageError("not a line of an export", parameter=where, value=line[:80], fix=fix)
    if found.get("preset") != preset:
        raise UsageError("of another preset", parameter=where, value=found.get("preset"), fix=fix)
    place = found.get("partition"), found.get("offset")
    if any(type(number) is not int for number in place):
        raise UsageError("names no record", parameter=where, value=place, fix=fix)
    return place, found  # type: ignore[return-value]


# -- what is answered


def _line(kept: Kept, preset: str, decode: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "preset": preset,
        "partition": kept.partition,
        "offset": kept.offset,
        "rule": kept.reason,
        "detail": kept.detail,
        "producer": kept.producer,
        "source": kept.source,
        "schema_id": kept.schema_id,
        "first_failure": format_time(kept.first_failure_ns),
        "origin": None if kept.origin is None else str(kept.origin),
        "first": None if kept.first is None else str(kept.first),
        "cut": kept.cut,
        "key": kept.symbol,
        "key_base64": _base64(kept.key),
        "headers": [[name, _base64(value)] for name, value in kept.own],
        "value_base64": _base64(kept.value),
        "decoded": decode(kept),
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


@contextmanager
def _written_to(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("x", encoding="utf-8") as out:
            yield out
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}",
            parameter="--to",
            value=str(path),
            fix="Name a file that does not exist yet",
        ) from None


def _do(
    door: Door,
    plan: Plan,
    request: Any,
    dry_run: bool,
    output: Format,
    *,
    left_out: int = 0,
) -> None:
    """Print the plan, or do it and print what came of it."""
    if dry_run or output is not Format.JSON:
        emit_rows(_plan_rows(plan), PLAN_COLUMNS, output, title="Plan")
    if not dry_run:
        done = door.send(plan, request)
        answer = {
            "action": request.action,
            "actor": request.actor,
            "redriven": done.records,
            "superseded": done.superseded,
            "settled_before": done.settled_before,
            "refused": len(plan.refused) + left_out,
            "entries": list(done.entries),
        }
        emit_object(answer, output if output is not Format.CSV else Format.TABLE, title="Done")
    if plan.refused or left_out:
        raise typer.Exit(1)


def _plan_rows(plan: Plan) -> list[dict[str, Any]]:
    def row(kept: Kept, does: str, why: str) -> dict[str, Any]:
        return {
            "place": f"{kept.partition}:{kept.offset}",
            "does": does,
            "symbol": kept.symbol,
            "rule": kept.reason,
            "origin": None if kept.first is None else str(kept.first),
            "why": why,
        }

    return [
        *(row(each.kept, f"lands in {each.topic}[{each.partition}]", "") for each in plan.sent),
        *(
            row(older.kept, "is settled", f"{newer.kept.partition}:{newer.kept.offset} is newer")
            for older, newer in plan.superseded
        ),
        *(row(each.kept, "is settled", f"its id passed at {at}") for each, at in plan.passed),
        *(row(kept, "stays", why) for kept, why in plan.refused),
    ]
