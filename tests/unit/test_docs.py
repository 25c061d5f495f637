"""The documentation says what the code does: commands, files, tests and names in it exist.

Decides: which files are documentation. Must not know: whether a sentence is true.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

import seamline.sdk
from seamline.connectors.metrics import OWNER_STATES, ROW_KINDS, TROUBLES, Metrics
from seamline.sdk.cli.main import app
from seamline.streams.kernel.validate import RULES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(p for p in ROOT.glob("*/README.md") if not p.parent.name.startswith(".")),
    ]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# A command in code: after a backquote, at the start of a line of code, or in a repair.
COMMAND = re.compile(r"(?:`|^ {4}|Run: |: )seamline ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)", re.M)
# A call of it with its arguments, up to the end of the line of code, and the options in it.
CALL = re.compile(r"(?:`|^ {4}|^\$ )seamline ([^`|\n]+)", re.M)
OPTION = re.compile(r"(?<=\s)(-[a-z]|--[a-z][a-z-]*)\b")
SERIES = re.compile(r"\b(?:seamless|seamline_worker|seamline_schema)_[a-z_]+\b")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
MODULE = re.compile(r"`((?:schemas|streams|connectors|presets|sdk)(?:\.[a-z_]+)+)")
SOURCES = ("schemas", "streams", "connectors", "presets", "sdk")
PYTHON = re.compile(r"```python\n(.*?)```", re.S)
# Absolute paths of some machine, and hosts that are not of a venue, a standard or this machine.
PLACES = re.compile(r"(?<![\w.:/-])/(?:home|root|work|mnt|srv|Users)/")
URL = re.compile(r"https?://([\w.-]+)")
HOSTS = frozenset(
    (
        *("localhost", "127.0.0.1", "api.binance.com", "www.apache.org", "keepachangelog.com"),
        *("semver.org", "www.bryantmoscon.com", "registry.example"),
    )
)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands() -> dict[str, set[str]]:
    """Command -> its sub-commands (none for a plain command)."""
    group: Any = typer.main.get_command(app)
    return {name: set(getattr(command, "commands", ())) for name, command in group.commands.items()}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_exists(page: Path) -> None:
    known = commands()
    for words in COMMAND.findall(read(page)):
        name, _, sub = words.partition(" ")
        assert name in known, f"seamline {words}"
        if known[name] and sub:
            assert sub in known[name], f"seamline {words}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(read(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, name in TEST.findall(read(page)):
        assert (ROOT / file).is_file(), file
        if name:
            assert re.search(rf"^(?:async )?def {name}\(", read(ROOT / file), re.M), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_module_that_is_named_exists(page: Path) -> None:
    for dotted in MODULE.findall(read(page)):
        first, *rest = dotted.split(".")
        place = ROOT / first / "seamline" / first
        for part in rest:
            if not (place / part).is_dir() and not (place / f"{part}.py").is_file():
                defined = place.with_suffix(".py")
                assert defined.is_file() and re.search(rf"\b{part}\b", read(defined)), dotted
                break
            place = place / part


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_address_and_no_path_of_a_machine(page: Path) -> None:
    text = read(page)
    assert PLACES.search(text) is None
    assert set(URL.findall(text)) <= HOSTS


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_examples_compile_and_use_what_the_sdk_exports(page: Path) -> None:
    for source in PYTHON.findall(read(page)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "seamline.sdk":
                for alias in node.names:
                    assert alias.name in seamline.sdk.__all__
                    assert hasattr(seamline.sdk, alias.name)


def test_the_readme_begins_with_two_commands_and_has_the_example() -> None:
    text = read(ROOT / "README.md")
    assert text.index("make demo") < text.index("make test") < text.index("## ")
    assert any("stitch(" in source for source in PYTHON.findall(text))


def test_every_command_is_in_the_readme() -> None:
    text = read(ROOT / "README.md")
    for name, subs in commands().items():
        for words in [f"{name} {sub}" for sub in sorted(subs)] or [name]:
            assert f"`seamline {words}`" in text, words


def test_the_page_for_ops_knows_every_series_of_the_worker_and_every_rule() -> None:
    text = read(ROOT / "docs" / "operations.md")
    metrics = Metrics()
    for family in metrics.registry.collect():
        if family.name.startswith("seam"):
            assert f"`{family.name}" in text, family.name
    for word in (*RULES.values(), *OWNER_STATES, *TROUBLES):
        assert f"`{word}`" in text, word


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_series_that_is_named_exists(page: Path) -> None:
    samples: set[str] = set()
    for family in Metrics().registry.collect():
        ends = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("_total",)
        samples.update((family.name, *(family.name + end for end in ends)))
    for name in SERIES.findall(read(page)):
        assert name in samples, name


def test_the_page_for_ops_knows_every_series_of_the_live_connector() -> None:
    """Its counters are the fields of classes named …Counters; see `LiveConnector.counters`."""
    text = read(ROOT / "docs" / "operations.md")
    kernel = ROOT / "streams" / "seamline" / "streams" / "kernel" / "feed.py"
    names = set(ROW_KINDS)
    for path in (*(ROOT / "connectors" / "seamline" / "connectors").glob("live*.py"), kernel):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Counters"):
                names.update(n.target.id for n in node.body if isinstance(n, ast.AnnAssign))  # type: ignore[union-attr]
    assert {"frames", "clock_polls", "settled_differ", "inserted"} <= names
    for name in sorted(names):
        assert f"`{name}`" in text, name


def test_the_page_for_ops_knows_every_command_of_governance() -> None:
    text = read(ROOT / "docs" / "operations.md")
    group: Any = typer.main.get_command(app)
    for name in ("schema", "quarantine"):
        for sub, command in group.commands[name].commands.items():
            for words in [f"{sub} {part}" for part in getattr(command, "commands", ())] or [sub]:
                assert f"seamline {name} {words}" in text, f"{name} {words}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_that_is_shown_exists(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for line in CALL.findall(read(page).replace("\\\n", " ")):
        command, words = group, line.split()
        while words and words[0] in getattr(command, "commands", ()):
            command = command.commands[words.pop(0)]
        if not hasattr(command, "commands"):
            known = {"--help"}
            for each in command.params:
                known.update((*each.opts, *each.secondary_opts))
            for option in OPTION.findall(line):
                assert option in known, f"seamline {line}"


def test_every_module_of_governance_is_on_the_map() -> None:
    text = read(ROOT / "ARCHITECTURE.md")
    for package in ("governance", "registry"):
        for path in (ROOT / "connectors" / "seamline" / "connectors" / package).glob("*.py"):
            assert f"`connectors.{package}.{path.stem}`" in text, path.name


def test_the_page_for_ops_knows_every_variable() -> None:
    text = read(ROOT / "docs" / "operations.md")
    named: set[str] = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            named.update(re.findall(r'"(SEAMLINE_[A-Z_]*[A-Z])"', read(path)))
    assert named
    for variable in sorted(named - {"SEAMLINE_KAFKA_SASL_MECHANISM"}):
        assert f"`{variable}`" in text, variable


def test_every_decision_is_listed_once() -> None:
    folder = ROOT / "docs" / "decisions"
    notes = sorted(path.name for path in folder.glob("0*.md"))
    numbers = [name[:4] for name in notes]
    assert len(numbers) == len(set(numbers))
    index = read(folder / "README.md")
    for note in notes:
        assert f"({note})" in index, note
        for part in ("**Context.**", "**Choice.**", "**Rejected.**", "**Consequence.**"):
            assert part in read(folder / note), f"{note}: {part}"


def test_every_top_level_folder_says_what_lives_there() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    folders = {line.split("/")[0] for line in listed if "/" in line} or set(SOURCES)
    for folder in sorted(folders - {"docs", ".ci"}):
        assert (ROOT / folder / "README.md").is_file(), folder
