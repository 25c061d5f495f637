"""Positions as files: what `seamline read --position` resumes from and writes.

Decides: what of a file is refused. Invariants: at every instant the file is a whole position, the
former or the new one; a file that is no position is never overwritten, it is refused when it is
loaded. Must not know: what a position means.
"""

from __future__ import annotations

from pathlib import Path

from seamline.connectors.stores.whole_file import replace_file
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.seam_position import TEXT_MAX, Position


def load(path: Path) -> Position | None:
    """None when there is no file. Raises UsageError for what cannot be read or is no position,
    ContractError for a position that was changed."""
    try:
        if path.stat().st_size > TEXT_MAX:
            raise UsageError("too large for a position", parameter="position", value=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot be read: {error}", parameter="position", value=str(path)
        ) from None
    return Position.from_json(text)


def save(position: Position, path: Path) -> None:
    """Replace the file. Raises UsageError when it cannot be written; the former one is kept."""
    try:
        replace_file(path, position.to_json() + "\n")
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error}", parameter="position", value=str(path)
        ) from None
