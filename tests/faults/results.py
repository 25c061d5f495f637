"""Runs as lines of a file, so that a table of many hours can be made in several sittings.

Decides: what a line holds, and that the newest line of a case and seed stands. A line of a case
that no longer exists is left out. Must not know: how a run is made or shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from faults.case import Case, Outcome
from faults.report import Run


def as_record(run: Run) -> dict[str, Any]:
    outcome = None
    if run.outcome is not None:  # a Counter would not survive `asdict`
        outcome = asdict(replace(run.outcome, struck=dict(run.outcome.struck)))
    return {
        "case": run.case.name,
        "seed": run.seed,
        "ok": run.ok,
        "outcome": outcome,
        "failure": run.failure,
    }


def append(file: Path, run: Run) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(as_record(run)) + "\n")


def load(file: Path, cases: Sequence[Case]) -> list[Run]:
    """The newest run of each case and seed, in the order of the cases; none where no file is."""
    known = {case.name: case for case in cases}
    newest: dict[tuple[str, int], Run] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        record = json.loads(line)
        if record["case"] in known:
            run = _run(record, known)
            newest[run.case.name, run.seed] = run
    places = {case.name: place for place, case in enumerate(cases)}
    return sorted(newest.values(), key=lambda run: (places[run.case.name], run.seed))


def _run(record: Mapping[str, Any], known: Mapping[str, Case]) -> Run:
    found = record["outcome"]
    if found is not None:
        found = Outcome(**{**found, "wrong": tuple(found["wrong"])})
    return Run(known[record["case"]], record["seed"], found, record["failure"])
