"""The fingerprint of what a worker seals: data that came live equals data that was backfilled."""

from __future__ import annotations

from pathlib import Path

from machine_world import PARENT, START_NS, SYMBOLS, Row, World, block_value, preset
from seamline.schemas.columns import REST_SETTLED, WS_CLOSED
from seamline.schemas.fingerprint_tree import FingerprintTree, tree_of
from seamline.schemas.times import DAY_NS

MINUTES = 1_680  # a day and a part of the next


def rows_of(symbol: str, source: int) -> list[Row]:
    number = SYMBOLS.index(symbol)
    return [
        Row(symbol, minute, 100.0 + number + minute / 8, source)
        for minute in range(MINUTES)
        if minute % 97  # holes are holes on both ways
    ]


def sealed(world: World) -> FingerprintTree:
    blocks = world.blocks(world.presets[0]).values()
    return tree_of((block.symbol, block.columns) for block in blocks)


def test_live_and_backfill_of_other_blocks_are_one_fingerprint(tmp_path: Path) -> None:
    live = World(tmp_path / "live", presets=(PARENT,))
    for symbol in SYMBOLS[:2]:
        rows = rows_of(symbol, WS_CLOSED)
        early = [row for row in rows if row.minute == 500]
        live.land_bars("live", [Row(symbol, 500, 1.0, 3), *rows, *early])
    live.land_heartbeat(MINUTES + 10)
    live.run("live")

    small = preset(block_rows=60)
    filled = World(tmp_path / "backfill", presets=(small,))
    for symbol in SYMBOLS[:2]:
        rows = rows_of(symbol, REST_SETTLED)
        for start in range(0, MINUTES, 60):
            part = [row for row in rows if start <= row.minute < start + 60]
            value = block_value(small, symbol, start, part, start=start, through=start + 60)
            filled.land("backfill", symbol.encode(), value)
    filled.run("backfill")

    tree = sealed(live)
    assert sealed(filled) == tree
    assert len(live.blocks(PARENT)) < len(filled.blocks(small))
    assert [len(branch.days) for branch in tree.symbols] == [2, 2]
    assert tree.symbols[0].days[0].day == START_NS // DAY_NS
    assert tree.rows == 2 * len(rows_of(SYMBOLS[0], WS_CLOSED))
