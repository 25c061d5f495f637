"""`seamline explain [RULE]`: what a rule means, what it does in canary and strict, what to do.

Decides: what is shown of a rule, and which names are near an unknown one. Invariant: nothing is
asked but the registry of rules. Must not know: how a rule is judged.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

import typer

from seamline.schemas.errors import UsageError
from seamline.sdk.cli.output import Format, FormatOption, answers, emit_object, emit_rows

LIST_COLUMNS = ("rule", "canary", "strict", "strict-blocking", "permissive", "title")
NEAR_MAX = 3


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)


@answers
def explain(
    rule: Annotated[str | None, typer.Argument(help="id of a rule; default: list all")] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """A rule in one paragraph: what it means, what happens to the row, what to do.

    Without a rule: what each does with landed records in canary and strict mode, and in frames.
    """
    from seamline.streams.kernel.rules import FATES, RULES

    if rule is None:
        rows = [
            {
                "rule": each.id,
                "title": each.title,
                **each.agent,
                **each.severity,
            }
            for each in RULES.values()
        ]
        emit_rows(rows, LIST_COLUMNS, output, title="Rules")
        return
    found = RULES.get(rule)
    if found is None:
        near = get_close_matches(rule.lower().replace("-", "_"), RULES, n=NEAR_MAX, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UsageError(
            "not a rule",
            parameter="rule",
            value=rule,
            fix=f"{hint}`seamline explain` lists all",
            near=near,
        )
    answer = {
        "rule": found.id,
        "title": found.title,
        "kinds": list(found.kinds),
        "stage": found.stage,
        **{mode: f"{word}: {FATES[word]}" for mode, word in found.agent.items()},
        "severity": dict(found.severity),
        "explanation": found.explanation,
    }
    emit_object(answer, output, title=found.id)
