"""Seals of symbols that get no bars any more: where in the log they send a reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machine_world import CLOCK_NS, PARENT, SYMBOLS, Row, World, minute_of, preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import topic_name

A = SYMBOLS[0]
HOUR_NS = 3_600 * 10**9
LOG = topic_name(PARENT.id, "conformed")


def bars(minutes: range, source: int = 1, price: float = 100.0) -> list[Row]:
    return [Row(A, minute, price, source) for minute in minutes]


def seals(world: World) -> list[dict[str, Any]]:
    """Every version of the seal."""
    records = world.log.topics[topic_name(PARENT.id, "seals")]
    return [decode_record("seal", record.value or b"") for record in records]


def tick(world: World, hours: float) -> None:
    world.clock_ns = CLOCK_NS + int(hours * HOUR_NS)
    step = world.machine.tick(world.clock_ns)
    if step is not None:
        world.log.commit(world.machine, step)


def test_a_seal_of_an_idle_symbol_moves_past_its_last_rows(tmp_path: Path) -> None:
    world = World(tmp_path, (PARENT,))
    world.land_bars("live", bars(range(240)))
    world.land_heartbeat(300)
    world.run("live")
    assert world.seals()[A]["conformed_offset"] < 240  # some bars are left to compare
    tick(world, 25)
    assert world.seals()[A]["conformed_offset"] == world.log.fence(LOG)
    count = len(seals(world))
    tick(world, 50)
    assert len(seals(world)) == count  # it is as new as can be
    world.land_bars("live", bars(range(5, 6), source=0, price=90.0))
    world.run("live")
    assert world.seals()[A]["conformed_offset"] == world.log.fence(LOG)


def test_corrections_do_not_keep_an_old_offset_alive(tmp_path: Path) -> None:
    """A symbol that ended and is corrected every few hours is idle all the same."""
    world = World(tmp_path, (PARENT,))
    world.land_bars("live", bars(range(240)))
    world.land_heartbeat(300)
    world.run("live")
    for hours in range(10, 40, 10):
        tick(world, hours)
        world.land_bars("live", bars(range(5, 6), source=0, price=float(hours)))
        world.run("live")
    assert world.seals()[A]["conformed_offset"] == world.log.fence(LOG)


@pytest.mark.parametrize("hours", [2, 24])
def test_a_short_retention_is_resealed_in_time(tmp_path: Path, hours: int) -> None:
    of = preset(conformed_retention_ns=hours * HOUR_NS)
    world = World(tmp_path, (of,))
    world.land_bars("live", bars(range(240)))
    world.land_heartbeat(300)
    world.run("live")
    tick(world, hours / 4)
    assert world.seals()[A]["conformed_offset"] == world.log.fence(LOG)


def test_a_frontier_moves_with_its_block_and_in_no_seal_before_it(tmp_path: Path) -> None:
    """Idle for long and open for long at once: a seal with the new frontier that fits to the
    blocks of before would be believed by a reader between storage and seals."""
    world = World(tmp_path, (PARENT,))
    world.land_bars("live", bars(range(250)))
    world.land_heartbeat(260)
    world.run("live")
    tick(world, 60)
    found = seals(world)
    assert minute_of(found[-1]["frontier_ns"]) == 258  # the watermark less two bars
    for seal in found:
        covered = seal["rows"] == min(250, minute_of(seal["frontier_ns"]))
        assert covered, (minute_of(seal["frontier_ns"]), seal["rows"])


def test_an_open_bar_that_holds_the_offset_is_no_reason_for_another_seal(tmp_path: Path) -> None:
    """History alone ends in open bars. Until they are sealed by the clock, a seal for each look
    around would say nothing new."""
    world = World(tmp_path, (PARENT,))
    world.land_bars("backfill", bars(range(250), source=0))
    world.run("backfill")
    for hours in range(1, 41):
        tick(world, hours)
    assert len(seals(world)) == 1
    for hours in range(41, 8 * 24):
        tick(world, hours)
    assert world.seals()[A]["conformed_offset"] == world.log.fence(LOG)
    assert len(seals(world)) <= 4
