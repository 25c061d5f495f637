"""The list of broken places fits the sources, the page of the documentation, and a planted tree."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mutants.mutant import ROOTS, Mutant, StaleMutant
from mutants.report import names_on, page, table
from mutants.table import MUTANTS
from mutants.workbench import Found, Workbench

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mutants.md"


def test_every_change_fits_its_place_exactly_once() -> None:
    """`applied` refuses a place that is not there, or whose text is not exactly once."""
    for mutant in MUTANTS:
        assert mutant.applied(ROOT) != (ROOT / mutant.path).read_text(encoding="utf-8")


def test_there_are_many_and_each_has_a_name_a_reason_and_tests() -> None:
    assert len(MUTANTS) >= 30
    assert Counter(mutant.name for mutant in MUTANTS).most_common(1)[0][1] == 1
    for mutant in MUTANTS:
        assert re.fullmatch(r"[a-z0-9-]+", mutant.name), mutant.name
        assert mutant.why.endswith("."), mutant.name
        assert mutant.tests, mutant.name


def test_many_modules_are_broken() -> None:
    assert len({mutant.path for mutant in MUTANTS}) >= 20


def test_the_tests_that_are_named_exist() -> None:
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or f"def {name.partition('[')[0]}(" in text, test


def test_the_page_names_exactly_these_places() -> None:
    assert names_on(PAGE.read_text(encoding="utf-8")) == [mutant.name for mutant in MUTANTS]


# --- a planted tree

SOURCE = '''\
def larger(a: int, b: int) -> int:
    """The larger of two."""
    return a if a > b else b


class Counter:
    def up(self) -> int:
        return 1
'''
TEST = """\
from seamline.sdk.planted import larger


def test_larger() -> None:
    assert larger(2, 1) == 2
"""
PLANTED = Mutant("planted", "sdk.planted:larger", "a > b", "a < b", "Wrong.", ("test_planted.py",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in (*ROOTS, "tests"):
        (tmp_path / folder).mkdir()
    module = tmp_path / PLANTED.path
    module.parent.mkdir(parents=True)
    module.write_text(SOURCE)
    (module.parent / "__init__.py").touch()
    (tmp_path / "tests" / "test_planted.py").write_text(TEST)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return tmp_path


def test_a_place_is_caught_survives_or_proves_nothing(tree: Path, tmp_path: Path) -> None:
    bench = Workbench.of(tree, tmp_path / "copy")
    assert bench.check_unbroken(PLANTED.tests) is None
    node = "test_planted.py::test_larger"
    assert bench.judge(PLANTED) == Found("planted", "caught", node)
    harmless = replace(PLANTED, old="a > b", new="a >= b")
    assert bench.judge(harmless) == Found("planted", "survived", "")
    broken = replace(PLANTED, place="sdk.planted:", old="def larger", new="def smaller")
    assert bench.judge(broken).verdict == "undecided", "a test that is not collected proves nothing"
    # Every place was mended, and the sources were never touched.
    assert (tmp_path / "copy" / PLANTED.path).read_text() == SOURCE
    assert (tree / PLANTED.path).read_text() == SOURCE
    assert bench.twin(tmp_path / "twin").judge(PLANTED).verdict == "caught"


def test_tests_that_fail_unbroken_are_told(tree: Path, tmp_path: Path) -> None:
    (tree / PLANTED.path).write_text(PLANTED.applied(tree))
    said = Workbench.of(tree, tmp_path / "copy").check_unbroken(PLANTED.tests)
    assert said is not None and "test_larger" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"old": "return"},
        {"old": "a == b"},
        {"new": "a  >  b"},
        {"new": "a > > b"},
        {"place": "sdk.planted:smaller"},
        {"place": "sdk.planted:Counter.down"},
        {"place": "sdk.missing:larger"},
        {"place": "elsewhere.planted:larger"},
        {"place": "sdk.planted:", "old": "return"},
    ],
    ids=[
        *("not_code", "not_there", "says_the_same", "not_python", "no_function", "no_method"),
        *("no_module", "no_root", "twice"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(changes: dict[str, Any], tree: Path) -> None:
    with pytest.raises(StaleMutant, match="planted"):
        replace(PLANTED, **changes).applied(tree)


def test_a_place_is_looked_for_in_its_function_alone(tree: Path) -> None:
    up = replace(PLANTED, place="sdk.planted:Counter.up", old="return 1", new="return 2")
    assert up.applied(tree) == SOURCE.replace("return 1", "return 2")


def test_a_table_counts_its_verdicts() -> None:
    other = replace(PLANTED, name="other")
    found = {
        "planted": Found("planted", "caught", "test_planted.py::test_larger"),
        "other": Found("other", "survived", ""),
    }
    *rows, _, last = table((PLANTED, other), found).splitlines()
    assert last == "1 caught, 1 survived, 0 undecided"
    assert rows[1].split() == ["survived", "other", "sdk.planted:larger"]


def test_a_page_keeps_the_rows_of_places_that_were_not_run_again() -> None:
    other = replace(PLANTED, name="other")
    caught = {name: Found(name, "caught", f"test_{name}.py::t") for name in ("planted", "other")}
    whole = page((PLANTED, other), caught)
    again = {"other": Found("other", "caught", "test_new.py::t[7]")}
    changed = page((PLANTED, other), again, whole)
    assert changed == whole.replace("test_other.py", "test_new.py")
    assert names_on(page((PLANTED, other), again)) == ["other"]


def test_places_with_a_test_on_a_broker_are_a_group() -> None:
    real = [mutant for mutant in MUTANTS if mutant.needs_broker]
    assert {"seek-beside-the-fetch", "read-back-before-the-fence"} <= {m.name for m in real}
    assert len(real) < len(MUTANTS) / 2
