"""The file from which an interrupted rehearsal goes on.

Decides: what of a rehearsal is kept between two batches, and which file is refused: one that is
damaged, or of another rehearsal (subject, since, bundle, cluster, preset). Invariants: the file is
whole at every instant; a file that is refused is left as it is. Must not know: how records are
judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from seamline.connectors.stores.whole_file import replace_file
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.rehearsal_tally import Tally

FORMAT: Final = 1
BYTES_MAX: Final = 512 * 2**20
_ANEW: Final = "Delete it to start anew, or name another file"


@dataclass(slots=True)
class Progress:
    """How far a rehearsal is: by partition the first offset, the next one and the fence."""

    since_ns: int
    ended_ns: int
    starts: dict[int, int]
    positions: dict[int, int]
    fences: dict[int, int]
    tally: Tally
    notes: tuple[str, ...] = ()


def save(path: Path, of: Mapping[str, str], progress: Progress) -> None:
    """Replace the file. `of` says which rehearsal it is. Raises UsageError when it cannot be
    written."""
    body = {
        "format": FORMAT,
        "of": dict(of),
        "since_ns": progress.since_ns,
        "ended_ns": progress.ended_ns,
        "starts": _texts(progress.starts),
        "positions": _texts(progress.positions),
        "fences": _texts(progress.fences),
        "notes": list(progress.notes),
        "tally": progress.tally.to_json(),
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    try:
        replace_file(path, f"{_digest(text)}\n{text}\n")
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error}",
            parameter="resume",
            value=str(path),
            fix="Name a file in a directory that can be written and has room",
        ) from None


def load(path: Path, of: Mapping[str, str]) -> Progress | None:
    """None when there is no file. Raises UsageError for one that cannot be read, that is damaged,
    or that is of another rehearsal, naming what differs."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise _refused(path, "too large for the file of a rehearsal")
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read: {error}") from None
    text = text.removesuffix("\n")
    if digest != _digest(text):
        raise _refused(path, "damaged or cut: its digest is not that of its text")
    try:
        body: dict[str, Any] = json.loads(text)
        if body["format"] != FORMAT:
            raise _refused(path, f"of format {body['format']}, this reads {FORMAT}")
        kept = body["of"]
        for name, value in of.items():
            if kept[name] != value:
                raise _refused(path, f"of another rehearsal: {name} is {kept[name]}, not {value}")
        return Progress(
            since_ns=int(body["since_ns"]),
            ended_ns=int(body["ended_ns"]),
            starts=_numbers(body["starts"]),
            positions=_numbers(body["positions"]),
            fences=_numbers(body["fences"]),
            notes=tuple(body["notes"]),
            tally=Tally.from_json(body["tally"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, f"not the file of a rehearsal: {error!r}") from None


def _refused(path: Path, what: str) -> UsageError:
    return UsageError(what, parameter="resume", value=str(path), fix=_ANEW)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _texts(numbers: Mapping[int, int]) -> dict[str, int]:
    return {str(number): offset for number, offset in numbers.items()}


def _numbers(texts: Mapping[str, int]) -> dict[int, int]:
    return {int(number): int(offset) for number, offset in texts.items()}
