"""Drivers of `governance.json`: which mode is in force (`mode`), and what it does to a payload
(`payload`): the worker's machine takes bars, and its counters are asked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine_world import PARENT, SYMBOLS, Row, World
from seamline.connectors.metrics import Metrics
from seamline.schemas.modes import MODES, effective_mode, parse_mode
from seamline.schemas.topics import subject_of, topic_name
from vectors.engine import Case, driver, outcome_of

LIVE = topic_name(PARENT.id, "live")
SUBJECT = subject_of(LIVE)
COUNTER = "seamless_schema_validation_failures_total"


def mode(case: Case) -> Mapping[str, Any]:
    given, call = case.given, case.call["call"]
    if call == "parse_mode":
        return outcome_of(lambda: {"mode": parse_mode(given["mode"])})
    assert call == "effective_mode", f"unknown call {call}"
    return outcome_of(lambda: {"mode": effective_mode(given["subject_mode"], given["env"])})


def payload(case: Case) -> Mapping[str, Any]:
    """Each record is one bar of its own minute, each a step; a bad one has a volume below zero."""
    assert case.call["call"] == "consume"
    given = case.given
    script: Sequence[Mapping[str, Any]] = (
        given["script"] if "script" in given else [{"mode": given["mode"]}, *given["records"]]
    )
    with tempfile.TemporaryDirectory() as directory:
        world, metrics = World(Path(directory), (PARENT,)), Metrics()
        metrics.create(PARENT.id, ("live", "backfill"), [(SUBJECT, each) for each in MODES])
        before = counted(metrics)
        assert before == dict.fromkeys(MODES, 0), "every mode is there at 0"
        for minute, line in enumerate(script):
            if "mode" in line:
                world.mode = parse_mode(line["mode"])
                continue
            volume = 1.0 if line["good"] else -1.0
            world.land_bars("live", [Row(SYMBOLS[0], minute, 100.0, volume=volume)])
            world.run("live")
        for step in world.steps:
            metrics.committed(
                PARENT.id,
                commit_s=0.0,
                counts=step.counts,
                quarantined=step.quarantined,
                failures=step.failures,
                seals=step.seals,
            )
        world.machine.close()
        by_mode = counted(metrics)
        kept = world.log.topics.get(topic_name(PARENT.id, "quarantine"), [])
        assert [r.value for r in kept] == [r.value for r in world.landed["live"] if is_in(r, kept)]
        return {
            "passed": len(world.conformed()),
            "quarantined": len(kept),
            "failure_counter_added": sum(by_mode.values()),
            "failure_counter_by_mode": by_mode,
        }


def is_in(record: Any, kept: Sequence[Any]) -> bool:
    """Whether the record of this offset is among what was set aside."""
    places = {dict(each.headers)["seamline-origin-offset"] for each in kept}
    return str(record.offset).encode() in places


def counted(metrics: Metrics) -> dict[str, int]:
    values = {
        each: metrics.registry.get_sample_value(COUNTER, {"subject": SUBJECT, "mode": each})
        for each in MODES
    }
    return {each: int(value) for each, value in values.items() if value is not None}


driver("governance", "mode")(mode)
driver("governance", "payload")(payload)
