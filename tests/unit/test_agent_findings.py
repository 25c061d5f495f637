"""What the worker's reports count, by the rules of the conformance vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine_world import PARENT, SYMBOLS, Row, World, block_value
from seamline.schemas.records import decode_record
from seamline.schemas.topics import topic_name

A, B = SYMBOLS[:2]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.machine.close()


def findings(world: World) -> Counter[tuple[str, str]]:
    """(symbol, rule) -> count, over every report that was written; `gap` as the newest says."""
    found: Counter[tuple[str, str]] = Counter()
    missing: dict[tuple[str, int], int] = {}
    for record in world.log.topics.get(topic_name(PARENT.id, "reports"), []):
        report = decode_record("report", record.value or b"")
        assert report["missing"] == report["findings"].get("gap", 0)
        missing[report["symbol"], report["window_start_ns"]] = report["missing"]
        for rule, count in report["findings"].items():
            assert count > 0
            if rule != "gap":
                found[report["symbol"], rule] += count
    for (symbol, _), count in missing.items():
        if count:
            found[symbol, "gap"] += count
    return found


def seal(world: World, symbol: str) -> None:
    """Three bars of the next block bring the first one to its seal."""
    world.land_bars("live", [Row(symbol, m, 100.0) for m in range(240, 243)])
    world.run("live")


def test_arrivals_with_equal_content_are_counted_whatever_their_authority(world: World) -> None:
    world.land_bars("live", [Row(A, m, 100.0) for m in range(240)])
    same = [Row(A, 239, 100.0, source) for source in (1, 0, 2, 3)]
    completing = Row(A, 239, 100.0, 3, quote_volume=5.0)
    other_field = Row(A, 239, 100.0, 2, quote_volume=6.0)  # revises the field: another content
    world.land_bars("live", [*same, completing, other_field])
    seal(world, A)
    assert findings(world) == {(A, "duplicate_equal"): 5}


def test_other_content_is_a_conflict_only_at_the_authority_that_stands(world: World) -> None:
    world.land_bars("live", [Row(A, m, 100.0) for m in range(240)])
    others = [Row(A, 239, 101.0, source) for source in (2, 1, 0, 0, 1)]
    world.land_bars("live", [*others, Row(A, 239, 102.0, 0)])
    seal(world, A)
    # Discarded; conflict; raised; equal, equal; conflict.
    assert findings(world) == {(A, "duplicate_conflict"): 2, (A, "duplicate_equal"): 3}


def test_rows_are_out_of_order_by_arrival_and_symbol_dropped_ones_too(world: World) -> None:
    rows = [Row(A, m, 100.0) for m in range(230)]
    half_ns = 30 * 10**9
    rows += [
        Row(B, 7, 100.0),
        Row(A, 235, 100.0, offset_ns=half_ns),  # off the grid: dropped, and the latest so far
        Row(A, 235, 100.0),  # after it
        Row(A, 233, 100.0, 3, closed=False),  # a preview is not the bar
        Row(A, 10_000_000, 100.0),  # of the future: dropped, and no time to believe
        Row(A, 10, 100.0),  # a duplicate
        Row(A, 9, float("nan")),  # quarantined
        Row(A, 236, 100.0),
        Row(A, 236, 100.0),  # an equal time is in order
    ]
    world.land_bars("live", rows)
    seal(world, A)
    found = findings(world)
    assert found[A, "out_of_order"] == 3
    assert found[B, "out_of_order"] == 0
    assert (found[A, "off_grid"], found[A, "non_finite"], found[A, "future_time"]) == (1, 1, 1)
    assert found[A, "duplicate_equal"] == 2
    assert sum(step.counts.get("out_of_order", 0) for step in world.steps) == 3


@pytest.mark.parametrize("cut", [None, 100, 300])
def test_blocks_and_bars_of_one_fetch_are_ordered_by_arrival(world: World, cut: int | None) -> None:
    block = block_value(
        PARENT, A, 0, [Row(A, m, 100.0, 0) for m in range(240)], start=0, through=240
    )
    world.land_bars("live", [Row(A, m, 100.0) for m in range(120)])
    world.land("live", A.encode(), block)
    world.land_bars("live", [Row(A, 200, 100.0)])
    if cut is not None:
        world.run("live", cut)
    world.run("live")
    seal(world, A)
    assert sum(step.counts["out_of_order"] for step in world.steps) == 119 + 1


def test_a_restart_knows_the_newest_bar(world: World) -> None:
    world.land_bars("live", [Row(A, m, 100.0) for m in range(100)])
    world.run("live")
    world.crash()
    world.land_bars("live", [Row(A, 50, 100.0), Row(A, 99, 100.0), Row(A, 100, 100.0)])
    world.run("live")
    assert world.steps[-1].counts["out_of_order"] == 1


def test_gap_counts_what_the_ledger_names_in_the_window(world: World) -> None:
    world.land_bars("live", [Row(A, m, 100.0) for m in range(3, 240) if m not in (7, 8, 100)])
    seal(world, A)
    assert findings(world) == {(A, "gap"): 3}
    assert sum(end - start for _, start, end in world.gaps()) == 3
    world.land_bars("live", [Row(A, 8, 100.0)])
    world.run("live")
    assert findings(world)[A, "gap"] == 2
