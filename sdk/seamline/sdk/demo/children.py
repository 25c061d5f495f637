"""The processes of the demo: each is the command that a person would run.

Decides: how a child is started, asked for its answer, killed and ended. Invariants: every child is
ended by its own pid when the demo ends, however it ends; what a child says on stderr is kept in a
file of the demo's directory and shown when it fails. Must not know: what the demo tells.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from seamline.schemas.errors import ContractError

TAIL_LINES: Final = 15
END_S: Final = 8.0
POLL_S: Final = 0.1
PIPE_BYTES: Final = 65_536


class Children:
    """The children of one demo. Use as `with`."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._env = {**os.environ, **env}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_all()

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start `seamline ARGUMENTS` in the background."""
        with self._log(name).open("a") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "seamline.sdk.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
            )

    def answer(self, name: str, timeout_s: float) -> dict[str, Any]:
        """The first line that a background child prints, as JSON."""
        child = self._running[name]
        assert child.stdout is not None
        deadline = time.monotonic() + timeout_s
        text = b""
        while not text.endswith(b"\n"):
            readable, _, _ = select.select([child.stdout], [], [], POLL_S)
            if readable:
                text += os.read(child.stdout.fileno(), PIPE_BYTES)
            self.check()
            if time.monotonic() > deadline:
                raise self._failed(name, f"said nothing within {timeout_s:g} s")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        timeout_s: float,
        *,
        statuses: tuple[int, ...] = (0,),
    ) -> dict[str, Any]:
        """Run `seamline ARGUMENTS` to its end with one of `statuses`; its answer as JSON."""
        self.start(name, arguments)
        child = self._running[name]
        try:
            out, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failed(name, f"did not end within {timeout_s:g} s") from None
        if child.returncode not in statuses:
            raise self._failed(name, f"ended with status {child.returncode}")
        del self._running[name]
        answer: dict[str, Any] = json.loads(out)
        return answer

    def kill(self, name: str) -> int:
        """SIGKILL; returns the pid that is gone."""
        child = self._running.pop(name)
        child.kill()
        child.wait(END_S)
        _close(child)
        return child.pid

    def said(self, name: str, text: str) -> bool:
        """Whether `text` is in what a child said on stderr."""
        return text in self._log(name).read_text(errors="replace")

    def check(self) -> None:
        """Raises ContractError when a background child has ended by itself."""
        for name, child in self._running.items():
            if child.poll() is not None and child.returncode:
                raise self._failed(name, f"ended with status {child.returncode}")

    def end_all(self) -> None:
        """SIGTERM to all, SIGKILL to those that do not end."""
        for child in self._running.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._running.values():
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(END_S)
            _close(child)
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _failed(self, name: str, what: str) -> ContractError:
        lines = self._log(name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return ContractError(
            f"{what}. Its last words:\n" + "\n".join(lines),
            parameter="process",
            value=name,
            fix=f"Its whole log is {self._log(name)}",
        )


def _close(child: subprocess.Popen[bytes]) -> None:
    if child.stdout is not None:
        child.stdout.close()
