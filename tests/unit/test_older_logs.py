"""A partition whose log a program of version 1 of every schema wrote, under today's machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from machine_world import (
    IDS,
    MINUTE_NS,
    PARENT,
    SYMBOLS,
    Row,
    World,
    block_value,
    columns_of,
    resolve,
)
from older_records import FIRST, as_first, as_first_log, names_of
from seamline.schemas.codec import encode_bars
from seamline.schemas.contract import SCHEMAS, Schema
from seamline.schemas.errors import ContractError
from seamline.schemas.modes import Policy
from seamline.schemas.records import decode_record
from seamline.schemas.topics import HEADER_FINGERPRINT, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord

A, B = SYMBOLS[:2]
OLD_IDS = {name: number + 100 for name, number in IDS.items()}


def known(number: int) -> Schema | None:
    """A registry that has both versions of each record."""
    first = {OLD_IDS[name]: schema for name, schema in FIRST.items()}
    return first.get(number) or resolve(number)


def first_half(world: World) -> None:
    """Live bars with a hole, a heartbeat that seals, a backfilled block that is revised later."""
    world.land_bars(
        "live", [Row(A, minute, 100.0 + minute) for minute in range(500) if minute != 7]
    )
    world.land_bars("live", [Row(B, minute, 50.0) for minute in range(300)])
    world.land_heartbeat(500)
    world.run("live")
    rows = [Row(A, minute - 240, 90.0, 0) for minute in range(240)]
    value = block_value(PARENT, A, -240, rows, start=-240, through=0)
    world.land("backfill", A.encode(), value)
    world.run("backfill")


def second_half(world: World) -> None:
    """Late bars of sealed blocks, revisions of stored and of open bars, the hole, new bars."""
    world.land_bars("live", [Row(A, minute, 101.0 + minute, 0) for minute in (3, 7, 490)])
    world.land_bars("live", [Row(A, -100, 91.0, 0), Row(B, 20, 51.0, 0)])
    world.land_bars("live", [Row(A, minute, 100.0) for minute in range(500, 800)])
    world.land_heartbeat(800)
    world.run("live")


def test_the_next_owner_goes_on_from_a_log_of_version_1(tmp_path: Path) -> None:
    """It decides as one whose log is all of today, and writes today's version behind it."""
    outcomes = []
    for older in (False, True):
        world = World(tmp_path / str(older))
        first_half(world)
        if older:
            as_first_log(world.log)
            sizes = {topic: len(records) for topic, records in world.log.topics.items()}
            versions = names_of([r for records in world.log.topics.values() for r in records])
            assert {version for _, version in versions} == {1}
            assert {"conformed_bar", "bar_block", "seal", "gap", "report"} <= dict(versions).keys()
        world.crash()
        second_half(world)
        if older:
            fresh = [r for t, rs in world.log.topics.items() for r in rs[sizes.get(t, 0) :]]
            assert {version for _, version in names_of(fresh)} == {2}
            as_first_log(world.log)  # what is read below is read as one version
            outcomes.append(told(world))
            world.crash()
        else:
            as_first_log(world.log)
            outcomes.append(told(world))
        world.machine.close()
    assert outcomes[0] == outcomes[1]


def told(world: World) -> dict[str, list[tuple[bytes | None, bytes | None]]]:
    return {
        topic: [(record.key, record.value) for record in records]
        for topic, records in world.log.topics.items()
    }


def test_landed_bars_and_blocks_of_both_versions_are_taken(tmp_path: Path) -> None:
    """In one fetch, in their order; each is read as the version that its id means."""
    worlds = {}
    for older in (False, True):
        world = World(tmp_path / str(older), presets=(PARENT,), resolve=known)
        for minute in range(20):
            (value,) = encode_bars(
                *([A], columns_of([Row(A, minute, 100.0)]), IDS["bar"], MINUTE_NS)
            )
            if older and minute % 2:
                value = under(OLD_IDS["bar"], as_first("bar", value))
            world.land("live", A.encode(), value)
        rows = [Row(A, minute - 240, 90.0, 0) for minute in range(240)]
        block = block_value(PARENT, A, -240, rows, start=-240, through=0)
        if older:
            block = under(OLD_IDS["bar_block"], as_first("bar_block", block))
        world.land("backfill", A.encode(), block)
        world.run("live")
        world.run("backfill")
        assert not world.log.topics.get(topic_name(PARENT.id, "quarantine"))
        worlds[older] = world
    assert worlds[False].conformed() == worlds[True].conformed()
    assert len(worlds[True].conformed()) == 20
    assert worlds[False].blocks().keys() == worlds[True].blocks().keys() != set()


def under(schema_id: int, value: bytes) -> bytes:
    return value[:1] + schema_id.to_bytes(4, "big") + value[5:]


@pytest.mark.parametrize("mode", ["canary", "strict"])
def test_a_bar_of_another_interval_is_never_conformed(tmp_path: Path, mode: str) -> None:
    """On the grid and right in every value, but five minutes long: no other rule can tell."""
    world = World(tmp_path, presets=(PARENT,), mode=mode)
    for minute, interval_ns in ((0, MINUTE_NS), (5, 5 * MINUTE_NS), (6, 0)):
        (value,) = encode_bars([A], columns_of([Row(A, minute, 1.5)]), IDS["bar"], interval_ns)
        world.land("live", A.encode(), value)
    world.run("live")
    assert [row[1] for row in world.conformed()] == [0, 6]
    (refused,) = world.log.topics[topic_name(PARENT.id, "quarantine")]
    assert dict(refused.headers)["seamline-reason"] == b"wrong_interval"
    assert dict(refused.headers)["seamline-detail"] == b"a bar of 300000000000 ns"


@pytest.mark.parametrize("role", ["positions", "seals", "gaps", "storage"])
def test_a_record_that_no_approved_version_wrote_stops_the_next_owner(
    tmp_path: Path, role: str
) -> None:
    """Of a newer program, or of nobody: it is refused by name, not read as something else."""
    world = World(tmp_path, presets=(PARENT,))
    first_half(world)
    topic = topic_name(PARENT.id, role)
    held: MemoryRecord = world.log.topics[topic][-1]
    for headers in ((), ((HEADER_FINGERPRINT, SCHEMAS["trade"].header),)):
        world.log.topics[topic][-1] = replace(held, headers=headers)
        with pytest.raises(ContractError, match="no approved version"):
            World(tmp_path / "next", presets=(PARENT,), log=world.log)
    world.log.topics[topic][-1] = held
    world.crash()
    world.machine.close()


def test_a_position_says_under_which_mode_its_records_were_judged(tmp_path: Path) -> None:
    """The next owner goes on with it until it judges something itself."""
    world = World(tmp_path, presets=(PARENT,))
    world.land_bars("live", [Row(A, minute, 1.0) for minute in range(3)])
    step = world.machine.step("live", world.landed["live"], 0, world.clock_ns, Policy("canary", 7))
    world.log.commit(world.machine, step)
    for refused in range(2):
        _, value, _ = world.log.latest(topic_name(PARENT.id, "positions"))[-1]
        assert decode_record("position", value)["modes_version"] == 7, refused
        world.crash()
        record = world.landed["live"][-1]
        step = world.machine.refuse("live", record, "broken", world.clock_ns)
        world.log.commit(world.machine, step)
    world.machine.close()
