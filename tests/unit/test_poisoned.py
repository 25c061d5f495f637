"""A record that no step can take: how it is found, how often it is tried, how a machine lets go of
it, and what is never held against a record."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from machine_world import (
    CLOCK_NS,
    IDS,
    MINUTE_NS,
    PARENT,
    START_NS,
    SYMBOLS,
    Row,
    World,
    block_value,
    in_canary,
)
from seamline.schemas.errors import TransportError
from seamline.schemas.records import decode_record
from seamline.schemas.topics import topic_name
from seamline.streams.apps.trades import TradesFactory
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord
from seamline.streams.kernel.protocol import LIVE, Record
from seamline.streams.kernel.suspects import ATTEMPTS_MAX, NARROWED_BY, Suspects

A = SYMBOLS[0]


def records(count: int, start: int = 0) -> list[MemoryRecord]:
    return [MemoryRecord("t", 0, start + n, 0, b"k", b"v") for n in range(count)]


@pytest.mark.parametrize("seed", range(30))
def test_a_culprit_is_found_by_few_failures_and_tried_alone(seed: int) -> None:
    """An owner's loop over one topic: everything else goes through, in order, once."""
    rng = random.Random(seed)
    landed = records(rng.choice((1, 2, 40, 20_000)))
    bad = set(rng.sample(range(len(landed)), min(len(landed), rng.choice((1, 2)))))
    suspects, at, failures = Suspects(), 0, 0
    passed: list[int] = []
    over: list[int] = []
    alone = dict.fromkeys(bad, 0)
    while at < len(landed):
        step = suspects.narrowed(LIVE, landed[at : at + 20_000])
        poisoned = suspects.poisoned(LIVE, step)
        if poisoned is not None:
            assert poisoned.attempts == ATTEMPTS_MAX and poisoned.cause == "broken"
            over.append(poisoned.offset)
            step = step[:1]
        elif any(record.offset in bad for record in step):
            attempts = suspects.failed(LIVE, step, "broken")
            failures += 1
            if len(step) == 1:
                alone[step[0].offset] += 1
            assert attempts == (alone[step[0].offset] if len(step) == 1 else 0)
            continue
        else:
            passed += [record.offset for record in step]
        suspects.passed(LIVE, step[-1].offset)
        at += len(step)
    assert set(over) == bad
    assert alone == dict.fromkeys(bad, ATTEMPTS_MAX)
    assert passed == [n for n in range(len(landed)) if n not in bad]
    narrowing = math.ceil(math.log(max(2, len(landed)), NARROWED_BY)) + 1
    assert failures <= len(bad) * (narrowing + ATTEMPTS_MAX)


def test_a_failure_among_others_is_no_attempt_of_anybody() -> None:
    suspects = Suspects(attempts_max=1)
    for _ in range(10):
        assert suspects.failed(LIVE, records(2), "x") == 0
        assert suspects.poisoned(LIVE, records(2)) is None


def test_a_record_that_went_through_in_the_end_is_not_held_under_suspicion() -> None:
    suspects = Suspects(attempts_max=2)
    assert suspects.failed(LIVE, records(1), "x") == 1
    suspects.passed(LIVE, 0)
    assert suspects.failed(LIVE, records(1), "x") == 1
    assert suspects.poisoned(LIVE, records(1)) is None
    assert suspects.failed(LIVE, records(1), "x") == 2
    assert suspects.poisoned(LIVE, records(1)) is not None


def test_the_topics_are_under_suspicion_apart() -> None:
    suspects = Suspects(attempts_max=1)
    suspects.failed(LIVE, records(1), "x")
    assert suspects.poisoned("backfill", records(1)) is None
    assert suspects.narrowed("backfill", records(9)) == records(9)


# --- a machine lets go of it


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def headers_of(record: Record) -> dict[str, bytes]:
    return dict(record.headers)


def test_a_machine_passes_over_a_record_with_its_bytes_and_goes_on(world: World) -> None:
    world.land_bars("live", [Row(A, minute, 100.0) for minute in range(3)])
    world.run("live", 1)
    poisoned = world.landed["live"][1]
    refused_ns = world.clock_ns
    step = world.machine.refuse("live", poisoned, "ValueError: no", refused_ns)
    assert [batch.topic.rpartition(".")[2] for batch in step.batches] == ["quarantine", "positions"]
    assert (step.next_index, step.quarantined) == (1, {"poisoned": 1})
    world.log.commit(world.machine, step)
    assert world.machine.position == {"live": 2, "backfill": 0}
    world.crash()
    world.run("live")
    assert [row[1] for row in world.conformed()] == [0, 2]
    (kept,) = world.log.topics[topic_name(PARENT.id, "quarantine")]
    assert (kept.key, kept.value) == (poisoned.key, poisoned.value)
    assert headers_of(kept) == {
        "seamline-reason": b"poisoned",
        "seamline-detail": b"ValueError: no",
        "seamline-schema-id": str(IDS["bar"]).encode(),
        "seamline-first-failure-ns": str(refused_ns).encode(),
        "seamline-origin-topic": topic_name(PARENT.id, "live").encode(),
        "seamline-origin-partition": b"0",
        "seamline-origin-offset": b"1",
        "seamline-origin-timestamp-ms": b"0",
    }


def test_heartbeats_before_it_are_covered_by_its_position(world: World) -> None:
    """They are worth no commit of their own; the position that passes over it has them in it."""
    world.land_bars("live", [Row(A, 0, 100.0)])
    world.run("live")
    for _ in range(2):
        world.land_heartbeat(5)
        world.run("live")
    assert world.machine.position["live"] == 2
    world.land("live", b"x", b"anything")
    step = world.machine.refuse("live", world.landed["live"][3], "x", world.clock_ns)
    world.log.commit(world.machine, step)
    (entry,) = world.log.latest(topic_name(PARENT.id, "positions"))
    position = decode_record("position", entry[1])
    assert position["live_offset"] == 4
    assert position["watermark_ns"] == START_NS + 5 * MINUTE_NS


def test_a_trade_that_no_step_can_take_is_passed_over() -> None:
    log = MemoryLog(0)
    preset = replace(PARENT, id="trades.test.spot", kind="trades")
    factory = TradesFactory(preset, IDS, lambda number: None, in_canary, "test")
    machine = factory.rebuild(log)
    (record,) = records(1)
    log.commit(machine, machine.refuse("live", record, "why", CLOCK_NS))
    assert factory.rebuild(log).position == {"live": 1, "backfill": 0}
    (kept,) = log.topics[topic_name(preset.id, "quarantine")]
    assert headers_of(kept)["seamline-reason"] == b"poisoned"


def test_an_index_that_is_wrong_is_no_fault_of_a_record_and_is_made_anew(world: World) -> None:
    rows = [Row(A, minute, 100.0, 0) for minute in range(240)]
    for block in (0, 240):
        moved = [replace(row, minute=row.minute + block) for row in rows]
        value = block_value(PARENT, A, block, moved, start=block, through=block + 240)
        world.land("backfill", A.encode(), value)
    world.run("backfill")
    index = world.machine._parent.index
    held = index.of_symbol(A)
    index.load([replace(held[0], offset=99)], index.next_offset)
    world.land_bars("live", [Row(A, 3, 101.0, 0)])
    with pytest.raises(TransportError, match="made anew"):
        world.run("live")
    world.crash()
    assert world.machine._parent.index.of_symbol(A) == held
    world.run("live")
    assert world.final()[A, 3][2] == 101.0
