"""How a command answers: the answer on stdout, everything else on stderr, and the exit status.

Decides: the three formats and the exit statuses (0 done, 1 refused or failed check, 2 wrong usage,
3 world unreachable), and what a table leaves out: of a digest all but its beginning, and columns in
which no row says anything. Invariants: with `-o json` stdout holds JSON and nothing else, and every
value is whole there and in csv.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seamline.schemas.errors import SeamlineError, TransportError, UsageError

P = ParamSpec("P")

# How a table shows a SHA-256: enough to tell two apart and to find one in `-o json`.
DIGEST_SHOWN = 12
_DIGEST = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")

notices = Console(stderr=True, highlight=False)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format, typer.Option("-o", "--output", help="table, json, or csv for rows")
]


def answers(command: Callable[P, None]) -> Callable[P, None]:
    """Turn Seamline's errors into one line on stderr and the exit status of their kind."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SeamlineError as error:
            notices.print(f"[red]{type(error).__name__}[/red]: ", end="")
            notices.print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(exit_status(error)) from None

    return wrapped


def exit_status(error: SeamlineError) -> int:
    if isinstance(error, UsageError):
        return 2
    return 3 if isinstance(error, TransportError) else 1


def emit_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    fmt: Format,
    *,
    title: str | None = None,
) -> None:
    """Rows as a table, a JSON array or CSV with a header.

    A table is without the columns that no row fills, but for the first; one without rows has all.
    """
    if fmt is Format.JSON:
        sys.stdout.write(json.dumps([{c: row.get(c) for c in columns} for row in rows]) + "\n")
    elif fmt is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(c) for c in columns] for row in rows)
    else:
        table = Table()
        held = list(rows)
        filled = [c for c in columns[1:] if not held or any(_cell(row.get(c)) for row in held)]
        for at, column in enumerate((columns[0], *filled)):
            # Names stay whole and can be copied; the rest folds, and nothing is cut off.
            table.add_column(column, no_wrap=at == 0, overflow="fold")
        for row in held:
            table.add_row(*(_cell(row.get(c)) for c in (columns[0], *filled)))
        _print(table, title)


def emit_object(answer: Mapping[str, Any], fmt: Format, *, title: str | None = None) -> None:
    """One object: its fields as a table of two columns, or one JSON object."""
    if fmt is Format.JSON:
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    if fmt is Format.CSV:
        raise UsageError(
            "csv is for rows", parameter="output", value="csv", fix="Use table or json"
        )
    table = Table("field", "value")
    for key, value in answer.items():
        shown = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        table.add_row(key, _cell(shown))
    _print(table, title)


def _print(table: Table, title: str | None) -> None:
    """The title stays on one line, also where it is wider than its table."""
    console = Console(highlight=False)
    if title is not None:
        console.print(title, style="italic", markup=False, soft_wrap=True)
    console.print(table)


def _cell(value: object) -> Text:
    """What a person wrote may hold anything: brackets are no markup, and no character but a new
    line reaches the terminal as a command. Digests are shown by their beginning."""
    text = _DIGEST.sub(lambda found: found[0][:DIGEST_SHOWN], "" if value is None else str(value))
    return Text("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))
