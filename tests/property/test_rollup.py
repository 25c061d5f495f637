"""The worker's derived bars are one batch rollup of the parent's final bars, however rows came."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from machine_scripts import Setup, Writer, full, play
from machine_world import World, minute_of, preset
from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.columns import PARTIAL, ConformedColumns
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.level import Level
from seamline.streams.kernel.rebuild import make_level
from seamline.streams.kernel.rollup_windows import Windows, roll_up

PARENT = preset(block_rows=12)
RATIOS = (3, 12, 24, 72)
CHILDREN = tuple(
    preset(f"ohlcv.test.spot.x{ratio}m", ratio, PARENT.id, block_rows=4) for ratio in RATIOS
)


def standing(world: World, of: Preset, symbol: str) -> ConformedColumns:
    """The rows that stand for one symbol in storage and log, ascending."""
    found: dict[int, tuple[ConformedColumns, int]] = {}
    for (name, _), block in world.blocks(of).items():
        if name == symbol:
            for i, time_ns in enumerate(block.columns.open_time_ns.tolist()):
                found[time_ns] = block.columns, i
    decoder = ConformedDecoder()
    records = world.log.topics.get(topic_name(of.id, "conformed"), [])
    decoded = decoder.decode([record.value or b"" for record in records])
    frontier_ns = world.seals(of)[symbol]["frontier_ns"]
    for i, time_ns in enumerate(decoded.columns.open_time_ns.tolist()):
        if decoder.symbols[decoded.sid[i]] == symbol and time_ns >= frontier_ns:
            found[time_ns] = decoded.columns, i
    rows = [found[time_ns] for time_ns in sorted(found)]
    return ConformedColumns.concat([columns.take(slice(i, i + 1)) for columns, i in rows])


def plain(columns: ConformedColumns) -> dict[int, tuple[Any, ...]]:
    """Content, authority and PARTIAL of each bar."""
    rows = {}
    for i, time_ns in enumerate(columns.open_time_ns.tolist()):
        *content, source, _, flags = full(columns, i)
        rows[minute_of(time_ns)] = (*content, source, flags & PARTIAL)
    return rows


def windows_of(child: Preset, columns: ConformedColumns) -> Windows:
    cells = np.unique((columns.open_time_ns - child.grid_origin_ns) // child.interval_ns)
    starts = cells * child.interval_ns + child.grid_origin_ns
    return Windows(starts, starts + child.interval_ns, starts)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cut", [False, True])
def test_derived_rows_are_the_batch_rollup_of_final_rows(
    seed: int, cut: bool, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    setup = Setup((PARENT, *CHILDREN), "canary", 0)
    events = Writer(rng, setup).script(70)
    world = play(setup, events, tmp_path, random.Random(seed + 1) if cut else None)
    rows = 0
    for symbol in world.seals(PARENT):
        inputs = standing(world, PARENT, symbol)
        for child in CHILDREN:
            derived = plain(standing(world, child, symbol))
            batch = roll_up(inputs, windows_of(child, inputs), interval_ns=PARENT.interval_ns)
            expected = plain(batch.columns)
            # What the worker has not given on is still open: the newest window.
            assert set(expected) - set(derived) <= {max(expected)}
            assert derived == {minute: expected[minute] for minute in derived}
            rows += len(derived)
    assert rows > 50
    world.machine.close()


@pytest.mark.parametrize(("span", "ratio"), [(240, 7), (240, 360), (7, 240), (240, 0)])
def test_a_window_that_does_not_fit_blocks_is_refused(span: int, ratio: int) -> None:
    with pytest.raises(ContractError) as raised:
        Level(span=span, stabilization_bars=2, ratios=(ratio,))
    assert raised.value.parameter == "ratios"
    assert "block_rows" in str(raised.value.fix)


@pytest.mark.parametrize("whose", ["parent", "child"])
def test_windows_of_an_exchange_calendar_are_refused(whose: str) -> None:
    parent = preset(calendar="XNYS" if whose == "parent" else "24/7")
    child = preset("ohlcv.test.spot.1d", 1440, parent.id, calendar="XNYS")
    with pytest.raises(ContractError) as raised:
        make_level(parent, parent, (child,))
    assert raised.value.parameter == "calendar"
    assert child.id in str(raised.value.fix)
