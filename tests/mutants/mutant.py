"""One broken place: what is changed where, and the source text after the change.

Decides: that a change is exact. The text that is replaced occurs exactly once in the function that
is named, so a table that no longer fits the sources is refused and never passed over. Must not
know: which tests there are, how they are run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

# First part of a place -> the source root that holds it.
REAL = "integration/"
ROOTS = ("schemas", "streams", "connectors", "presets", "sdk")


class StaleMutant(Exception):  # noqa: N818 - a state of the table, not a fault of the program
    """The place does not exist, or its text is not what the table says."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`place` is `module:function` or `module:Class.method`, below the package `seamline` (nothing
    after the colon: the whole module). `old` becomes `new` there. `why` is what a user would
    suffer. `tests` are node ids below `tests/`, the likely one first."""

    name: str
    place: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    @property
    def needs_broker(self) -> bool:
        return any(test.startswith(REAL) for test in self.tests)

    @property
    def path(self) -> Path:
        """The file, relative to the root of the tree."""
        parts = self.place.partition(":")[0].split(".")
        if parts[0] not in ROOTS:
            raise StaleMutant(f"{self.name}: {self.place} is below none of {', '.join(ROOTS)}")
        return Path(parts[0], "seamline", *parts).with_suffix(".py")

    def applied(self, root: Path) -> str:
        """The file's text with the place broken. Raises StaleMutant."""
        path = root / self.path
        if not path.is_file():
            raise StaleMutant(f"{self.name}: {self.path} does not exist")
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        start, end = self._span(text, tree)
        found = text[start:end].count(self.old)
        if found != 1:
            raise StaleMutant(f"{self.name}: {self.old!r} occurs {found} times in {self.place}")
        broken = text[:start] + text[start:end].replace(self.old, self.new) + text[end:]
        try:
            changed = ast.dump(ast.parse(broken)) != ast.dump(tree)
        except SyntaxError as error:
            raise StaleMutant(f"{self.name}: {self.new!r} is not Python: {error.msg}") from None
        if not changed:
            raise StaleMutant(f"{self.name}: {self.new!r} says the same as {self.old!r}")
        return broken

    def _span(self, text: str, tree: ast.Module) -> tuple[int, int]:
        names = self.place.partition(":")[2]
        if not names:
            return 0, len(text)
        node: ast.AST = tree
        for name in names.split("."):
            node = self._child(node, name)
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        lines = text.splitlines(keepends=True)
        start = sum(map(len, lines[: node.lineno - 1]))
        return start, start + sum(map(len, lines[node.lineno - 1 : node.end_lineno]))

    def _child(self, parent: ast.AST, name: str) -> ast.AST:
        for node in ast.iter_child_nodes(parent):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name == name
            ):
                return node
        raise StaleMutant(f"{self.name}: {self.place} does not exist")
