"""What became of the broken places, for people, for programs, and as a page of the documentation.

Decides: the form. Must not know: how a verdict came about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from mutants.mutant import Mutant
from mutants.workbench import Found

PAGE_HEAD = """\
# Broken places

Tests that cannot fail prove nothing. `make mutants` breaks the code in each of the places below,
one at a time, in a copy of the tree, and runs the tests that are named for the place, as plain
Python (`NUMBA_DISABLE_JIT=1`). Before that the same tests must pass on the unbroken copy. A place
counts as caught only when a test fails; a test that cannot be collected, or a deadline, does not
count. Places with a test below `tests/integration` are judged on a broker that is started once
(`--group broker`; `--group pure` are the others). This page is the table of such runs.
`tests/unit/test_mutants.py` holds it to the list: every change fits the sources exactly once, and
every place of the list is here.

To try one place: `PYTHONPATH=tests python -m mutants --only NAME`.

"""
ROW = re.compile(r"^\| `([a-z0-9-]+)` \|", re.M)
WHOLE_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*$", re.M)


def page(mutants: Sequence[Mutant], found: Mapping[str, Found], before: str = "") -> str:
    """The page of the documentation; every mutant was caught. Of those that are not in `found` the
    row of the page `before` stays; what is on neither is left out."""
    kept = {match[1]: match[0] for match in WHOLE_ROW.finditer(before)}
    mutants = [mutant for mutant in mutants if mutant.name in found or mutant.name in kept]
    lines = [
        f"{len(mutants)} places, {len(mutants)} caught.",
        "",
        "| name | place | broken | what a user would suffer | caught by |",
        "|---|---|---|---|---|",
    ]
    for mutant in mutants:
        if mutant.name not in found:
            lines.append(kept[mutant.name])
            continue
        cells = (
            f"`{mutant.name}`",
            _code(mutant.place.rstrip(":").replace(":", " ")),
            _change(mutant),
            mutant.why,
            f"`{test_of(found[mutant.name].by)}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return PAGE_HEAD + "\n".join(lines) + "\n"


def names_on(text: str) -> list[str]:
    """The mutants that a page names, in its order."""
    return ROW.findall(text)


def test_of(node: str) -> str:
    """A failing test as the documentation names it: without its parameters."""
    return "tests/" + node.partition("[")[0]


test_of.__test__ = False  # type: ignore[attr-defined]


def table(mutants: Sequence[Mutant], found: Mapping[str, Found]) -> str:
    """Columns for a terminal, and a last line with the counts."""
    rows = [(found[m.name].verdict, m.name, m.place.rstrip(":"), found[m.name].by) for m in mutants]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
        for row in rows
    ]
    verdicts = [row[0] for row in rows]
    counts = (f"{verdicts.count(v)} {v}" for v in ("caught", "survived", "undecided"))
    return "\n".join([*(line.rstrip() for line in lines), "", ", ".join(counts)])


def as_json(mutants: Sequence[Mutant], found: Mapping[str, Found]) -> str:
    return json.dumps(
        [
            {
                "name": m.name,
                "place": m.place,
                "old": m.old,
                "new": m.new,
                "why": m.why,
                "verdict": found[m.name].verdict,
                "by": found[m.name].by,
            }
            for m in mutants
        ],
        indent=1,
    )


def _change(mutant: Mutant) -> str:
    old, new = (_code(" ".join(text.split())) for text in (mutant.old, mutant.new))
    return f"{old} → {new}"


def _code(text: str) -> str:
    """Code in a cell of a table. A bar would end the cell even between backquotes."""
    return f"`{text}`".replace("|", "\\|")
