"""`seamline topics plan | apply PRESET…`: the topics of presets as they are and as they should be.

Decides: that a preset stands for itself and for those derived from it, because its worker writes
them all. Invariant: `plan` changes nothing; `apply` changes the settings of an existing topic only
with `--alter`, and its partition count never. Must not know: the topic table.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seamline.sdk.cli.output import Format, FormatOption, answers, emit_rows, notices
from seamline.sdk.cli.stack import DirOption

if TYPE_CHECKING:
    from seamline.connectors.kafka.topics import TopicDifference
    from seamline.schemas.preset import Preset

PLAN_COLUMNS = ("topic", "field", "have", "want", "apply")
LEFT = "is held by fewer brokers than it should be; move it with kafka-reassign-partitions"
APPLY_COLUMNS = ("topic", "done", "field", "have", "want")

PresetsArgument = Annotated[list[str], typer.Argument(help="ids of presets", metavar="PRESET...")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The topics of presets.", no_args_is_help=True)
    group.command("plan")(plan)
    group.command("apply")(apply)
    app.add_typer(group, name="topics")


@answers
def plan(
    presets: PresetsArgument, directory: DirOption = None, output: FormatOption = Format.TABLE
) -> None:
    """What is missing or differs, and what `apply` would do. Changes nothing."""
    from seamline.connectors.kafka import topics
    from seamline.connectors.world import World

    chosen = _chosen(presets)
    cluster = World.resolve(os.environ, directory).cluster
    # The shared topics are in every preset's plan; they are shown once.
    differences = dict.fromkeys(d for preset in chosen for d in topics.plan(cluster, preset))
    rows = [_row(d) | {"apply": _what_apply_does(d)} for d in differences]
    emit_rows(rows, PLAN_COLUMNS, output, title="Differences")
    if not rows:
        notices.print("all topics are as they should be")


@answers
def apply(
    presets: PresetsArgument,
    alter: Annotated[
        bool, typer.Option("--alter", help="also change settings of existing topics that differ")
    ] = False,
    directory: DirOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make the topics that are missing; refuse when an existing one differs."""
    from seamline.connectors.kafka import topics
    from seamline.connectors.world import World

    chosen = _chosen(presets)
    cluster = World.resolve(os.environ, directory).cluster
    rows: list[dict[str, Any]] = []
    for preset in chosen:
        applied = topics.apply(cluster, preset, alter=alter)
        rows += [{"topic": name, "done": "made"} for name in applied.created]
        rows += [_row(d) | {"done": "changed"} for d in applied.altered]
        for left in applied.left:
            told = f"{left.topic}: replication {left.have}, wanted {left.want}"
            notices.print(f"{told}: it {LEFT}", markup=False, soft_wrap=True)
    emit_rows(rows, APPLY_COLUMNS, output, title="Topics")
    if not rows:
        notices.print("all topics are as they should be")


def _chosen(ids: list[str]) -> list[Preset]:
    from seamline.presets import loader

    presets = loader.load(None, os.environ)
    found = {i: loader.get(presets, i) for i in ids}
    for preset_id in ids:
        found |= {p.id: p for p in loader.derived_of(presets, preset_id)}
    return list(found.values())


def _row(difference: TopicDifference) -> dict[str, Any]:
    return {
        "topic": difference.topic,
        "field": difference.field,
        "have": difference.have,
        "want": difference.want,
    }


def _what_apply_does(difference: TopicDifference) -> str:
    if difference.missing:
        return "makes it"
    if difference.alterable:
        return "refuses; changes it with --alter"
    return "refuses" if difference.refused else f"leaves it: {LEFT}"
