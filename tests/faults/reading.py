"""A reader as a process that may be killed at any instant: it appends each event together with the
position behind it as one line, and goes on from the last whole line.

Decides: the form of a line. Invariants: a line is one write, so a kill leaves it whole or torn, and
a torn end is cut off before the next one is written. Must not know: who kills, what is fed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seamline.sdk import Bar, CaughtUp, Event, Gap, LateBar, Position, Revision


def line_of(event: Event, position: Position) -> bytes:
    return json.dumps([_fields(event), position.to_json()]).encode() + b"\n"


def _fields(event: Event) -> list[Any]:
    kind = type(event).__name__
    if isinstance(event, Gap):
        span = [event.symbol, event.start_ns, event.end_ns, event.bars]
        return [kind, *span, event.cause, event.provisional]
    if isinstance(event, CaughtUp):
        return [kind, event.certificate.contiguous]
    if isinstance(event, Revision):
        previous = None if event.previous is None else list(event.previous)
        return [kind, list(event.bar), previous, event.completed]
    return [kind, list(event.bar if isinstance(event, LateBar) else event)]


def event_of(fields: list[Any]) -> Event | None:
    """None for the moment of CaughtUp."""
    kind, *rest = fields
    if kind == "CaughtUp":
        return None
    if kind == "Gap":
        return Gap(*rest)
    bar = Bar(*rest[0])
    if kind == "Revision":
        return Revision(bar, None if rest[1] is None else Bar(*rest[1]), rest[2])
    return LateBar(bar) if kind == "LateBar" else bar


def lines(path: Path) -> Iterator[tuple[list[Any], Position]]:
    """Whole lines of a file."""
    text = path.read_bytes() if path.exists() else b""
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        fields, position = json.loads(line)
        yield fields, position


def last_position(path: Path) -> Position | None:
    """Of the last whole line; what is torn behind it is cut off."""
    if not path.exists():
        return None
    with path.open("rb+") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
    whole = text[: text.rfind(b"\n") + 1].splitlines()
    return Position.from_json(json.loads(whole[-1])[1]) if whole else None


def main() -> None:
    preset, symbols, start, end, name = sys.argv[1:]
    from seamline.sdk import stitch

    path = Path(name)
    resume = last_position(path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with stitch(preset, symbols.split(","), start, end=end, on_gap="flag", resume=resume) as stream:
        for event in stream:
            assert stream.position is not None
            os.write(file, line_of(event, stream.position))


if __name__ == "__main__":
    main()
