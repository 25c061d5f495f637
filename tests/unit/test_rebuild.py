"""What a rebuilt machine trusts of an index that was there before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from machine_world import IDS, PARENT, SYMBOLS, Row, World, block_value
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.preset import Preset
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.block_index import Entry, MemoryIndex
from seamline.streams.kernel.machine import PartitionMachine
from seamline.streams.kernel.rebuild import Setting, rebuild

A = SYMBOLS[0]
STORAGE = topic_name(PARENT.id, "storage")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, presets=(PARENT,))
    rows = [Row(A, minute, 100.0, 0) for minute in range(240)]
    for block in (0, 240):
        value = block_value(
            PARENT,
            A,
            block,
            [replace(row, minute=row.minute + block) for row in rows],
            start=block,
            through=block + 240,
        )
        made.land("backfill", A.encode(), value)
    made.run("backfill")
    made.machine.close()
    return made


def rebuilt(world: World, index: MemoryIndex) -> PartitionMachine:
    def open_index(preset: str, partition: int, topic: str) -> MemoryIndex:
        return index

    return rebuild(Setting(PARENT, (), IDS, world.resolve, "test", open_index), world.log)


def entries(world: World) -> list[Entry]:
    """What an index of the world's storage holds."""
    index = MemoryIndex()
    rebuilt(world, index)
    return index.of_symbol(A)


def index_with(held: list[Entry]) -> MemoryIndex:
    index = MemoryIndex()
    index.load(held, max(entry.offset for entry in held) + 1)
    return index


def test_an_index_is_advanced_from_where_it_is(world: World) -> None:
    held = entries(world)
    assert [entry.rows for entry in held] == [240, 240]
    index = index_with(held[:1])
    rebuilt(world, index)
    assert index.of_symbol(A) == held
    for entry in held:
        assert (
            entry.digest == decode_block(world.log.one(STORAGE, entry.offset).value or b"").digest
        )


@pytest.mark.parametrize(
    "change",
    [{"digest": bytes(32)}, {"rows": 7}, {"symbol": "OTHER"}, {"claim_end_ns": 1}, {"offset": 5}],
    ids=["digest", "rows", "symbol", "claim", "beyond_the_end"],
)
def test_an_index_of_another_topic_is_made_anew(world: World, change: dict[str, object]) -> None:
    """A topic that was deleted and made again has other records at the same offsets."""
    held = entries(world)
    index = index_with([held[0], replace(held[1], **change)])  # type: ignore[arg-type]
    rebuilt(world, index)
    assert index.of_symbol(A) == held
    assert index.of_symbol("OTHER") == []
    assert index.next_offset == 2


def test_presets_share_no_index(world: World) -> None:
    asked: list[tuple[str, int, str]] = []

    def open_index(preset: str, partition: int, topic: str) -> MemoryIndex:
        asked.append((preset, partition, topic))
        return MemoryIndex()

    child: Preset = replace(PARENT, id="ohlcv.test.spot.2m", interval_ns=2 * PARENT.interval_ns)
    rebuild(Setting(PARENT, (child,), IDS, world.resolve, "test", open_index), world.log)
    assert asked == [(p.id, 0, topic_name(p.id, "storage")) for p in (PARENT, child)]
