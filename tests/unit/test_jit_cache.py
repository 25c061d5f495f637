"""Where compiled kernels are kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seamline.connectors import jit_cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(jit_cache.VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "seamline" / "jit"


def test_a_named_directory_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(jit_cache.VARIABLE, str(tmp_path))
    assert jit_cache.use() == tmp_path


def test_the_directory_is_of_the_sources(home: Path) -> None:
    directory = jit_cache.use()
    assert directory.parent == home
    assert directory.is_dir()
    assert os.environ[jit_cache.VARIABLE] == str(directory)


def test_an_edit_anywhere_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    caller, callee = tmp_path / "caller.py", tmp_path / "inner" / "callee.py"
    caller.write_text("import callee")
    callee.write_text("x = 1")
    before = jit_cache.sources_digest([tmp_path])
    assert jit_cache.sources_digest([tmp_path]) == before
    callee.write_text("x = 2")
    assert jit_cache.sources_digest([tmp_path]) != before
    callee.write_text("x = 1")
    callee.rename(tmp_path / "callee.py")
    assert jit_cache.sources_digest([tmp_path]) != before


def test_what_is_old_and_too_many_is_removed(home: Path) -> None:
    for number in range(12):
        directory = home / f"{number:016x}"
        directory.mkdir(parents=True)
        (directory / ".used").touch()
        age_s = jit_cache.UNUSED_S + 60 * number
        os.utime(directory / ".used", (time.time() - age_s,) * 2)
    (home / "young").mkdir()
    (home / "young" / ".used").touch()
    current = jit_cache.use()
    left = {path.name for path in home.iterdir()}
    # the newest of the old ones stay within the limit
    newest = {f"{number:016x}" for number in range(jit_cache.KEPT_MAX - 2)}
    assert left == {current.name, "young", *newest}


def test_a_home_that_cannot_be_written_is_replaced(home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.write_text("a file in the way")
    directory = jit_cache.use()
    assert directory.is_dir()
    assert home not in directory.parents
    directory.rmdir()


def _run(code: str, home: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name != jit_cache.VARIABLE}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "XDG_CACHE_HOME": str(home), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_variable_is_set_before_numba_reads_it(tmp_path: Path) -> None:
    """Whoever starts with the SDK compiles into the directory of the sources."""
    code = (
        "from seamline.sdk import stitch; import os, numba;"
        f"assert numba.config.CACHE_DIR == os.environ['{jit_cache.VARIABLE}'];"
        "print(numba.config.CACHE_DIR)"
    )
    assert Path(_run(code, tmp_path)).is_relative_to(tmp_path)


@pytest.mark.parametrize("first", ["seamline.sdk", "seamline.sdk.cli.main"])
def test_what_only_shows_its_help_imports_no_compiler(first: str, tmp_path: Path) -> None:
    assert _run(f"import {first}, sys; print('numba' in sys.modules)", tmp_path) == "False"
