"""Worker processes that a test starts, stops, wakes and kills; each with a log of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from seamline.connectors.world import World

TESTS = Path(__file__).parent.parent


class WorkerProcess:
    """One worker of a series, restarted under the same directory. `command` makes its argv."""

    def __init__(
        self,
        name: str,
        directory: Path,
        world: World,
        command: list[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.directory = directory
        self.log = directory / "worker.log"
        self._command = command
        # Of the paths that lead to this code, so that a child runs the same.
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {
            **os.environ,
            **world.environment(),
            "PYTHONPATH": os.pathsep.join(paths),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        assert self._process is None or self._process.poll() is not None
        with self.log.open("ab") as log:
            log.write(b"--- start\n")
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )

    def signal(self, number: signal.Signals) -> None:
        if self.status is None and self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def said(self, text: str) -> int:
        """How often `text` is in its log."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0


def copy_worker(preset_id: str, partitions: int, directory: Path, session_s: float) -> list[str]:
    """The product's lane, owner and worker around the copying machine."""
    module = ["-m", "integration.copy_worker"]
    return [sys.executable, *module, preset_id, str(partitions), str(directory), str(session_s)]


def await_that(
    condition: Callable[[], bool],
    deadline_s: float,
    what: str,
    logs: Mapping[str, Path] | None = None,
) -> float:
    """Poll until true; how long it took. Fails with the ends of `logs` when it is not in time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > deadline_s:
            tails = [f"--- {n}\n{tail(path)}" for n, path in (logs or {}).items()]
            raise AssertionError("\n".join([f"not within {deadline_s:g} s: {what}", *tails]))
        time.sleep(0.05)
    return time.monotonic() - began


def tail(path: Path, lines: int = 40) -> str:
    return (
        "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
    )
