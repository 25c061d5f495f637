"""Small files that are whole at every instant: written beside, synced, renamed, the folder synced.

Decides: the order of these steps. Invariant: a crash leaves the former file or the new one. Must
not know: what is in the file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Put `text` into the file in one step. Raises OSError; the former file is kept then."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
