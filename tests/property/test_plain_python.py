"""Compiled kernels and the same sources as plain Python agree, bit for bit."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import plain_runs
from seamline.streams.kernel.rollup import exact_sum

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    """What the runs answer where nothing is compiled and every warning is an error."""
    environment = os.environ | {
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", ""))),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", str(TESTS / "plain_runs.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers: dict[str, str] = json.loads(run.stdout)
    return answers


@pytest.mark.parametrize("name", plain_runs.RUNS)
def test_plain_python_gives_the_same_bits(name: str, plain: dict[str, str]) -> None:
    assert plain_runs.RUNS[name]() == plain[name]


def test_this_process_is_the_compiled_one() -> None:
    """Else the test above compares a thing with itself; a plain run of the suite may."""
    if os.environ.get("NUMBA_DISABLE_JIT") != "1":
        assert hasattr(exact_sum, "signatures")


def test_a_sum_is_correctly_rounded() -> None:
    for values in plain_runs.finite_lists(3_000, seed=6):
        ours, exact = plain_runs.summed(values), math.fsum(values) + 0.0
        assert struct.pack("<d", ours) == struct.pack("<d", exact), values
