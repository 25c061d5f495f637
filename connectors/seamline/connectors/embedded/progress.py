"""What a person sees while files come down: bars on a terminal, nothing elsewhere.

Decides: the look. Invariant: writes to stderr only, and only when stderr is a terminal.
Must not know: what is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

NAME_WIDTH = 44


class Bars:
    """Progress bars of one download: one for the whole, one for each file on its way."""

    def __init__(self, title: str, total_bytes: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=(console := Console(stderr=True)),
            disable=not console.is_terminal,
            transient=True,
        )
        self._whole = self._progress.add_task(title, total=total_bytes)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def file(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        """A bar for one file; the value is called with each number of bytes that came."""
        task = self._progress.add_task(f"  {name[:NAME_WIDTH]}", total=size)

        def advance(count: int) -> None:
            self._progress.advance(task, count)
            self._progress.advance(self._whole, count)

        try:
            yield advance
        finally:
            self._progress.remove_task(task)
