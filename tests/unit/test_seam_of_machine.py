"""The reader's pure machine on what the worker's machine really writes: they keep one protocol."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import machine_world
from log_writer import MemorySink, Record, Row
from machine_world import IDS, START_NS, SYMBOLS, World, block_value
from paper_reader import Cut, PaperReader
from seamline.schemas.codec import ConformedDecoder, decode_record
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import CONTENT_FIELDS, ConformedColumns
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.topics import parse_gap_key, topic_name
from seamline.streams.kernel.seam import GapFacts, OnGap, Request, SealFacts
from seamline.streams.kernel.seam_broken import unexplained_error
from seamline.streams.kernel.seam_cells import Grid

PARENT = machine_world.preset("ohlcv.seam.spot.1m", block_rows=20)
CHILD = machine_world.preset("ohlcv.seam.spot.5m", 5, PARENT.id, block_rows=8)
ROLES = ("conformed", "storage", "seals", "gaps")


def as_sink(world: World, preset: Preset) -> MemorySink:
    """The machine's log as values of the reader."""
    sink = MemorySink()
    for role in ROLES:
        for record in world.log.topics.get(topic_name(preset.id, role), []):
            assert record.key is not None
            decoded = _decoded(role, record.key, record.value)
            sink.logs.setdefault(role, []).append((record.offset, decoded))
    return sink


def _decoded(role: str, key: bytes, value: bytes | None) -> Record:
    if role == "gaps":
        symbol, start_ns = parse_gap_key(key)
        facts = None
        if value is not None:
            gap = decode_record("gap", value)
            facts = GapFacts(gap["start_ns"], gap["end_ns"], gap["cause"], gap["known_time_ns"])
        return Record(role, symbol, facts, start_ns)
    assert value is not None
    if role == "storage":
        block = decode_block(value)
        return Record(role, block.symbol, block, block.block_start_ns)
    if role == "seals":
        seal = decode_record("seal", value)
        names = SealFacts.__dataclass_fields__
        return Record(role, seal["symbol"], SealFacts(**{name: seal[name] for name in names}))
    decoder = ConformedDecoder()
    decoded = decoder.decode([value])
    return Record(role, decoder.symbols[int(decoded.sid[0])], row_of(decoded.columns))


def row_of(columns: ConformedColumns) -> Row:
    def at(name: str) -> Any:
        return getattr(columns, name)[0].item()

    return Row(
        at("open_time_ns"),
        {name: at(name) for name in CONTENT_FIELDS},
        at("revision"),
        at("flags"),
        at("known_time_ns"),
        at("source"),
    )


def live(world: World, rng: random.Random, minute: int) -> None:
    """A fetch of live: some symbols' bars, doubled, late, conflicting, and a heartbeat."""
    rows = []
    for symbol in SYMBOLS:
        for at in range(minute, minute + 3):
            if rng.random() < 0.85:
                rows.append(machine_world.Row(symbol, at, 100.0 + at))
        if rng.random() < 0.3:
            late = rng.randrange(max(0, minute - 30), minute + 1)
            rows.append(
                machine_world.Row(symbol, late, 100.0 + late + rng.randrange(2), rng.randrange(3))
            )
        if rng.random() < 0.2:
            at = rng.randrange(max(0, minute - 10), minute + 1)
            rows.append(machine_world.Row(symbol, at, 100.0 + at, 0, quote_volume=5.0))
    rng.shuffle(rows)
    world.land_bars("live", rows)
    if rng.random() < 0.5:
        world.land_heartbeat(minute + 3)
    world.run("live")


def backfill(world: World, rng: random.Random, minute: int) -> None:
    """One block of history, with holes, below or above what there is."""
    block = rng.randrange(-3, max(1, minute // 20)) * 20
    symbol = rng.choice(SYMBOLS)
    rows = [
        machine_world.Row(symbol, at, 100.0 + at, 0)
        for at in range(block, block + 20)
        if rng.random() < 0.9
    ]
    value = block_value(PARENT, symbol, block, rows, start=block, through=block + 20)
    world.land("backfill", symbol.encode(), value)
    world.run("backfill")


def request_of(preset: Preset, start_minute: int) -> Request:
    grid = Grid(preset.interval_ns)
    start_ns = grid.up(START_NS + start_minute * 60 * 1000 * NS_PER_MS)
    return Request(preset.id, tuple(SYMBOLS), start_ns, None, OnGap.FLAG, grid, preset.block_ns, 2)


def ends_of(world: World, preset: Preset) -> dict[str, int]:
    return {role: world.log.fence(topic_name(preset.id, role)) for role in ROLES}


@pytest.mark.parametrize("preset", [PARENT, CHILD], ids=["parent", "derived"])
@pytest.mark.parametrize("seed", range(12))
def test_a_reader_of_the_machines_log_ends_with_its_final_state(
    tmp_path: Path, preset: Preset, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(tmp_path, presets=(PARENT, CHILD))
    assert set(IDS) >= {"conformed_bar", "bar_block", "seal", "gap"}
    ends = [ends_of(world, preset)]
    minute = 0
    for _ in range(30):
        if rng.random() < 0.25:
            backfill(world, rng, minute)
        else:
            live(world, rng, minute)
            minute += 3
        if rng.random() < 0.1:
            world.crash()
        ends.append(ends_of(world, preset))
    world.land_heartbeat(minute + 60)
    world.run("live")
    ends.append(ends_of(world, preset))
    sink = as_sink(world, preset)
    first = rng.choice((-60, 0, 7))
    for _ in range(4):
        reader = PaperReader(request_of(preset, first), sink)
        cut = settled_cut(reader, ends, rng)
        follower = reader.begin(cut)
        queues = [
            list(reader.read(role, getattr(cut, role), 2**62))
            for role in ("conformed", "storage", "gaps")
        ]
        while any(queues):
            reader.feed(follower, rng.choice([queue for queue in queues if queue]).pop(0))
        read, stands = prices(reader), standing(world, preset, reader.request.start_ns)
        assert {at: bar[:3] for at, bar in read.items()} == {
            at: bar[:3] for at, bar in stands.items()
        }
        # A value that came back: a reader that met its block first saw no revision of it.
        assert all(bar[3] <= stands[at][3] for at, bar in read.items())


def settled_cut(reader: PaperReader, ends: list[dict[str, int]], rng: random.Random) -> Cut:
    """Transactions are atomic per topic, and each topic may be some transactions ahead."""
    at = rng.randrange(len(ends))
    for storage in range(at, len(ends)):
        seals = min(len(ends) - 1, storage + rng.randrange(3))
        gaps = min(len(ends) - 1, seals + rng.randrange(3))
        for further in range(seals, len(ends)):
            cut = Cut(
                ends[at]["conformed"],
                ends[storage]["storage"],
                ends[further]["seals"],
                ends[max(gaps, further)]["gaps"],
            )
            if reader.snapshot(cut).unsettled():
                continue
            if unexplained_error(reader.request, reader.parts(cut)) is None:
                return cut
    raise AssertionError("the last transaction always settles")


def prices(reader: PaperReader) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {
        where: (bar.open, bar.volume, bar.quote_volume, bar.revision)
        for where, bar in reader.delivered.items()
    }


def standing(world: World, preset: Preset, start_ns: int) -> dict[tuple[str, int], tuple[Any, ...]]:
    found = {}
    for (symbol, minute), row in world.final(preset).items():
        time_ns = START_NS + minute * 60 * 1000 * NS_PER_MS
        if time_ns >= start_ns:
            found[symbol, time_ns] = (row[2], row[3], row[4], row[6])
    assert np.all([isinstance(row[0], float) for row in found.values()])
    return found
