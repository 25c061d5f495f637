"""What makes a kept rehearsal another one: its file is refused then, and left as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from machine_world import PARENT
from seamline.connectors.governance import rehearsal_file
from seamline.connectors.governance.rehearsal_file import Progress
from seamline.connectors.governance.rehearsing import Plan, identity
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.rehearsal_tally import Tally

PLAN = Plan(
    subject=f"seamline.{PARENT.id}.live-value",
    preset=PARENT,
    since="48h",
    since_ns=1_000,
    now_ns=2_000,
    bundle_sha256="a" * 64,
    mode_version=3,
)


def progress() -> Progress:
    tally = Tally(since_ns=1_000, ended_ns=2_000, interval_ns=PARENT.interval_ns)
    return Progress(1_000, 2_000, {0: 0}, {0: 5}, {0: 9}, tally)


@pytest.mark.parametrize(
    ("changed", "cluster", "named"),
    [
        ({"subject": f"seamline.{PARENT.id}.backfill-value"}, "c", "subject"),
        ({"since": "24h"}, "c", "since"),
        ({"bundle_sha256": "b" * 64}, "c", "bundle"),
        ({"tombstones": frozenset({"c" * 64})}, "c", "tombstones"),
        # It was promoted and demoted since: evidence of before says nothing of the state now.
        ({"mode_version": 5}, "c", "mode version is 3, not 5"),
        ({"preset": replace(PARENT, partitions=8)}, "c", "preset"),
        ({}, "another", "cluster"),
    ],
)
def test_the_file_of_another_rehearsal_is_refused(
    changed: dict[str, Any], cluster: str, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    rehearsal_file.save(file, identity(PLAN, "c"), progress())
    before = file.read_bytes()
    with pytest.raises(UsageError, match=named):
        rehearsal_file.load(file, identity(replace(PLAN, **changed), cluster))
    found = rehearsal_file.load(file, identity(replace(PLAN, now_ns=9_000, since_ns=8_000), "c"))
    assert found is not None and found.positions == {0: 5} and found.ended_ns == 2_000
    assert file.read_bytes() == before


def test_no_torn_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    rehearsal_file.save(file, identity(PLAN, "c"), progress())
    whole = file.read_bytes()
    for cut in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:cut])
        with pytest.raises(UsageError, match="resume"):
            rehearsal_file.load(file, identity(PLAN, "c"))
