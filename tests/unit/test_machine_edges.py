"""What the machine must not get wrong by one: each case is a place that a script broke unseen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from machine_world import (
    CLOCK_NS,
    FIVE,
    HOUR,
    IDS,
    PARENT,
    SYMBOLS,
    Row,
    World,
    block_value,
    minute_of,
)
from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.columns import PARTIAL, PROVISIONAL, SUSPECT, ConformedColumns
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import topic_name
from seamline.streams.kernel import machine

A = SYMBOLS[0]
DAY_NS = 86_400 * NS_PER_S


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.machine.close()


def bars(minutes: range, source: int = 1) -> list[Row]:
    return [Row(A, minute, 100.0 + minute % 7, source) for minute in minutes]


def land_history(world: World, start: int, through: int, rows: list[Row]) -> None:
    """A claim on [start, through), all in one block."""
    block = start // 240 * 240
    value = block_value(PARENT, A, block, rows, start=start, through=through)
    world.land("backfill", A.encode(), value)


def log_of(world: World, of: Preset = PARENT, role: str = "conformed") -> ConformedColumns:
    records = world.log.topics.get(topic_name(of.id, role), [])
    return ConformedDecoder().decode([record.value or b"" for record in records]).columns


def tick(world: World, clock_ns: int) -> None:
    world.clock_ns = clock_ns
    step = world.machine.tick(clock_ns)
    assert step is not None
    world.log.commit(world.machine, step)


def position(world: World) -> dict[str, int]:
    (entry,) = world.log.latest(topic_name(PARENT.id, "positions"))
    return dict(decode_record("position", entry[1]))


def test_a_revision_is_known_later_than_the_value_it_replaced(world: World) -> None:
    world.land_bars("live", [Row(A, 0, 100.0)])
    world.run("live")
    world.land_bars("live", [Row(A, 0, 101.0)])
    world.run("live")
    log = log_of(world)
    assert log.revision.tolist() == [0, 1]
    assert log.known_time_ns[1] > log.known_time_ns[0]
    world.land_bars("live", bars(range(1, 250)))
    world.run("live")
    (old,) = log_of(world, role="superseded").known_time_ns.tolist()
    assert old == log.known_time_ns[0]
    (block,) = world.blocks().values()
    assert block.columns.known_time_ns[0] == log.known_time_ns[1]


def test_a_bar_that_comes_late_counts_among_the_newest(world: World) -> None:
    world.land_bars("live", [*bars(range(240)), *bars(range(241, 242))])
    world.run("live")
    assert world.blocks() == {}
    world.land_bars("live", bars(range(240, 241)))
    world.run("live")
    assert len(world.blocks()) == 1


def test_a_seal_names_the_bars_behind_its_frontier_that_a_reader_compares(world: World) -> None:
    """Those that were the newest when the frontier passed them, and one more."""
    world.land_bars("live", bars(range(240)))
    world.run("live")
    for minute in (240, 241, 242):
        world.land_bars("live", bars(range(minute, minute + 1)))
        world.run("live")
    seal = world.seals()[A]
    assert minute_of(seal["frontier_ns"]) == 240
    behind = {row[1] for row in world.conformed()[seal["conformed_offset"] :] if row[1] < 240}
    assert {237, 238, 239} <= behind


def test_a_derived_bar_is_provisional_while_an_input_is(world: World) -> None:
    world.land_bars("live", bars(range(12)))
    world.run("live")
    assert [bool(row[-1] & PROVISIONAL) for row in world.conformed(FIVE)] == [True, True]
    # Minute 12 is the second newer bar of minutes to 10: the window [5, 10) changes as a final one.
    world.land_bars("live", [Row(A, 7, 500.0, 0)])
    world.run("live")
    *_, late = world.conformed(FIVE)
    assert (late[1], late[-1] & PROVISIONAL) == (5, 0)
    world.land_bars("live", [Row(A, 10, 100.0), Row(A, 11, 100.0), Row(A, 14, 100.0)])
    world.run("live")
    *_, newest = world.conformed(FIVE)
    assert (newest[1], newest[-1] & PROVISIONAL) == (10, PROVISIONAL)


def test_a_derived_bar_of_a_suspect_input_is_suspect(world: World) -> None:
    world.land_bars(
        "live", [replace(row, volume=-1.0 if row.minute == 7 else 1.0) for row in bars(range(15))]
    )
    world.run("live")
    assert [bool(row[-1] & SUSPECT) for row in world.conformed(FIVE)] == [False, True, False]


def test_an_equal_derived_bar_is_not_written_again(world: World) -> None:
    """An input may change without changing the window: not its first, last, highest or lowest."""
    world.land_bars(
        "live", [Row(A, m, (100.0, 120.0, 110.0, 90.0, 100.0)[m % 5]) for m in range(15)]
    )
    world.run("live")
    before = world.conformed(FIVE)
    world.land_bars("live", [Row(A, 2, 111.0)])
    world.run("live")
    assert world.conformed()[-1][6] == 1, "the input was revised"
    assert world.conformed(FIVE) == before


def test_two_claims_with_a_hole_between_them_are_not_joined(world: World) -> None:
    world.land_bars("live", bars(range(480, 500)))
    world.run("live")
    for start, through in ((100, 110), (150, 200)):
        land_history(world, start, through, bars(range(start, through), 0))
        world.run("backfill")
    (block,) = world.blocks().values()
    assert minute_of(block.range_start_ns) == 150
    assert minute_of(block.complete_through_ns or 0) == 200
    land_history(world, 110, 150, bars(range(110, 150), 0))
    world.run("backfill")
    (block,) = world.blocks().values()
    assert minute_of(block.range_start_ns) == 110


def test_a_block_that_is_not_what_its_digest_says_goes_to_quarantine(world: World) -> None:
    land_history(world, 0, 240, bars(range(240), 0))
    block = decode_block(world.landed["backfill"].pop().value or b"")
    changed = replace(block.columns, close=block.columns.close + 0.125)
    value = encode_block(replace(block, columns=changed), IDS["bar_block"])
    world.land("backfill", A.encode(), value)
    world.run("backfill")
    (record,) = world.log.topics[topic_name(PARENT.id, "quarantine")]
    assert record.value == value
    assert dict(record.headers)["seamline-reason"] == b"invalid_block"
    assert world.blocks() == {}


def test_a_position_covers_no_record_that_a_step_did_not_take(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "STEP_ROWS_MAX", 10)
    world.land_bars("live", bars(range(25)))
    step = world.machine.step("live", world.landed["live"], 0, world.clock_ns, world.policy)
    assert step.next_index == 10
    world.log.commit(world.machine, step)
    assert position(world)["live_offset"] == 10
    world.crash()
    world.run("live")
    assert [row[1] for row in world.conformed()] == list(range(25))


def test_repeats_alone_advance_the_position(world: World) -> None:
    """They change nothing; but nobody may have to read them again, and lag must not grow."""
    for _ in range(2):
        world.land_bars("live", bars(range(5)))
        world.run("live")
    assert position(world)["live_offset"] == 10
    assert len(world.conformed()) == 5


def test_an_idle_symbol_is_sealed_again_with_a_newer_offset_each_day(world: World) -> None:
    other = SYMBOLS[1]
    land_history(world, 0, 240, bars(range(240), 0))
    world.run("backfill")
    first = world.seals()[A]
    world.land_bars("live", [Row(other, minute, 1.0) for minute in range(50)])
    world.run("live")
    tick(world, CLOCK_NS + DAY_NS // 2)
    assert world.seals()[A] == first
    tick(world, CLOCK_NS + DAY_NS + 60 * NS_PER_S)
    again = world.seals()[A]
    assert again["sequence"] == first["sequence"] + 1
    assert again["storage_sequence"] == first["storage_sequence"]
    assert again["conformed_offset"] > first["conformed_offset"]
    assert again["merkle_root"] == first["merkle_root"]


def test_a_watermark_never_moves_back(world: World) -> None:
    for minute in (50, 20):
        world.land_bars("live", bars(range(minute, minute + 1)))
        world.land_heartbeat(minute)
        world.run("live")
    assert minute_of(position(world)["watermark_ns"]) == 50


def test_a_partial_block_promises_no_more_than_it_holds(world: World) -> None:
    world.land_bars("live", bars(range(100)))
    world.run("live")
    value = block_value(PARENT, A, 0, bars(range(90), 0), start=0, through=120)
    world.land("backfill", A.encode(), value)
    world.run("backfill")
    tick(world, CLOCK_NS + 2 * DAY_NS)
    (block,) = world.blocks().values()
    frontier = minute_of(world.seals()[A]["frontier_ns"])
    assert 0 < frontier < 120
    assert minute_of(block.complete_through_ns or 0) == frontier
    assert minute_of(block.range_start_ns) == 0


def test_a_late_bar_keeps_the_evidence_that_the_venue_was_asked(world: World) -> None:
    world.land_bars("live", bars(range(480, 500)))
    world.run("live")
    land_history(world, 0, 240, bars(range(10, 240), 0))
    world.run("backfill")
    world.land_bars("live", [Row(A, 100, 7.0, 0)])
    world.run("live")
    (block,) = world.blocks().values()
    assert block.columns.revision[90] == 1
    assert (minute_of(block.range_start_ns), minute_of(block.complete_through_ns or 0)) == (0, 240)
    assert minute_of(world.seals()[A]["asked_start_ns"]) == 0


def test_a_window_of_sealed_inputs_is_given_out_after_a_restart(world: World) -> None:
    """All inputs so far are sealed inside their open block, and the log is not read for them."""
    world.land_bars("live", bars(range(100)))
    world.run("live")
    tick(world, CLOCK_NS + 8 * DAY_NS)
    assert minute_of(world.seals()[A]["frontier_ns"]) == 100
    assert [row[1] for row in world.conformed(HOUR)] == [0]
    world.crash()
    world.land_heartbeat(120)
    world.run("live")
    *_, last = world.conformed(HOUR)
    assert (last[1], last[2], last[3]) == (60, 100.0 + 60 % 7, 40.0)
    assert last[-1] & PARTIAL


def test_a_window_that_was_given_out_is_revised_after_a_restart(world: World) -> None:
    """Its newest input completed it, and nothing newer has come."""
    world.land_bars("live", bars(range(5)))
    world.run("live")
    assert [row[1] for row in world.conformed(FIVE)] == [0]
    world.crash()
    world.land_bars("live", [Row(A, 2, 500.0, 0, volume=9.0)])
    world.run("live")
    assert [(row[1], row[3], row[6]) for row in world.conformed(FIVE)] == [
        (0, 5.0, 0),
        (0, 13.0, 1),
    ]


def test_a_value_that_was_replaced_at_the_frontier_of_a_partial_block_is_kept(
    world: World,
) -> None:
    world.land_bars("live", [*bars(range(100)), Row(A, 98, 7.0, 0), Row(A, 50, 7.0, 0)])
    world.run("live")
    tick(world, CLOCK_NS + 2 * DAY_NS)
    assert minute_of(world.seals()[A]["frontier_ns"]) == 98
    assert log_of(world, role="superseded").open.tolist() == [bars(range(50, 51))[0].price]
    world.land_bars("live", bars(range(100, 250)))
    world.run("live")
    replaced = [bars(range(m, m + 1))[0].price for m in (50, 98)]
    assert log_of(world, role="superseded").open.tolist() == replaced
