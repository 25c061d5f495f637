"""A copy of the tree in which places are broken, and what the tests say about each.

Decides: caught, survived, or neither. Invariants: the sources that people work on are never
touched; the tests run as plain Python (compiling each change would take minutes), with a deadline,
with the same seeds every time; only a failing test counts as caught, not a usage error, a test that
cannot be collected, or the deadline. Must not know: which places there are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final, Literal

from mutants.mutant import ROOTS, Mutant

Verdict = Literal["caught", "survived", "undecided"]

DEADLINE_S: Final = 300.0
TESTS_FAILED: Final = 1  # pytest's exit status
# A node id may have parameters with spaces; a message may follow it.
FIRST_FAILURE: Final = re.compile(
    r"^(?:FAILED|ERROR) tests/(\S+?\.py(?:::[^\s\[]+(?:\[.*?\])?)?)(?: - |$)", re.M
)


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one mutant. `by` is the first failing test, or why nothing is known."""

    name: str
    verdict: Verdict
    by: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of tests: exit status (None: the deadline), the first failing test, what it said."""

    status: int | None
    first: str | None
    said: str


class Workbench:
    """A private copy of a tree, in `root`. One run at a time. `environment` is added to that of the
    tests: where their broker is."""

    def __init__(
        self,
        root: Path,
        deadline_s: float = DEADLINE_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root
        self._deadline_s = deadline_s
        self._added = dict(environment or {})

    @classmethod
    def of(
        cls,
        source: Path,
        root: Path,
        deadline_s: float = DEADLINE_S,
        environment: Mapping[str, str] | None = None,
    ) -> Workbench:
        """A copy of the sources and tests of `source`, without bytecode."""
        for folder in (*ROOTS, "tests"):
            shutil.copytree(
                source / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(source / "pyproject.toml", root)
        return cls(root, deadline_s, environment)

    def twin(self, root: Path) -> Workbench:
        """The same once more, bytecode included."""
        shutil.copytree(self._root, root, dirs_exist_ok=True)
        return Workbench(root, self._deadline_s, self._added)

    def run(self, tests: tuple[str, ...], *, keep_bytecode: bool = False) -> Outcome:
        """The tests on the tree as it stands, until the first that fails. The deadline is of one
        place; the run that fills the bytecode is of all."""
        deadline_s = None if keep_bytecode else self._deadline_s
        places = [f"tests/{test}" for test in tests]
        command = [
            *(sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib"),
            *("-x", "-q", "-rfE", "-p", "no:cacheprovider", "--tb=line"),
            *("--basetemp", str(self._root / ".tmp"), *places),
        ]
        try:
            run = subprocess.run(
                command,
                cwd=self._root,
                env=self._environment(keep_bytecode),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(None, None, f"no answer within {deadline_s:g} s")
        first = FIRST_FAILURE.search(run.stdout)
        return Outcome(run.returncode, first[1] if first else None, run.stdout)

    def _environment(self, keep_bytecode: bool) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join(str(self._root / f) for f in (*ROOTS, "tests")),
            "NUMBA_DISABLE_JIT": "1",
            "NUMBA_CACHE_DIR": str(self._root / ".numba"),
            "PYTHONHASHSEED": "0",
            "CI": "1",  # Hypothesis draws the same examples every time and keeps none
        }
        environment |= self._added
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if not keep_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return environment

    def check_unbroken(self, tests: tuple[str, ...]) -> str | None:
        """Why no verdict of these tests would mean anything; None when they pass."""
        run = self.run(tests, keep_bytecode=True)
        return None if run.status == 0 else run.said

    def judge(self, mutant: Mutant) -> Found:
        """Break the place, run its tests, mend the place."""
        path = self._root / mutant.path
        sound, broken = path.read_bytes(), mutant.applied(self._root)
        # Bytecode is matched by size and whole seconds: two texts of one length could be confused.
        Path(cache_from_source(str(path))).unlink(missing_ok=True)
        path.write_text(broken, encoding="utf-8")
        try:
            run = self.run(mutant.tests)
        finally:
            path.write_bytes(sound)
        if run.status == 0:
            return Found(mutant.name, "survived", "")
        if run.status == TESTS_FAILED and run.first is not None:
            return Found(mutant.name, "caught", run.first)
        last = run.said.strip().splitlines()[-1:] or ["no output"]
        return Found(mutant.name, "undecided", last[0])
