"""What the worker's reports count, by the rules of the conformance vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from machine_world import IDS, PARENT, SYMBOLS, Row, World, block_value
from seamline.schemas.modes import CANARY, Policy
from seamline.schemas.records import decode_record
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.failure_detail import KEYS_MAX, TOP, FailedRecords, Failure, Untold

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


def failures(world: World) -> list[list[tuple[object, ...]]]:
    """Entries of every report that was written, as tuples."""
    reports = world.log.topics.get(topic_name(PARENT.id, "reports"), [])
    told = [decode_record("report", record.value or b"")["failures"] for record in reports]
    return [[tuple(entry.values()) for entry in entries] for entries in told]


def test_a_report_names_who_broke_which_rule_and_no_later_one_does(world: World) -> None:
    bar = IDS["bar"]
    world.land_bars("live", [Row(A, m, 100.0) for m in range(238)])
    # B has no bar yet: what fails of it is told by whichever report comes first.
    world.land_bars("live", [Row(B, 1, float("nan")), Row(A, 238, float("nan"))])
    world.land_bars("live", [Row(A, m, 100.0, volume=-1.0) for m in (237, 238, 239)])
    feed = (("seamline-producer", b"feed-7"),)
    world.land("live", A.encode(), b"no frame", feed)
    world.run("live")
    assert failures(world) == []
    seal(world, A)
    assert failures(world) == [
        [
            ("negative_volume", "unknown", bar, A, 3),
            ("non_finite", "unknown", bar, B, 1),
            ("non_finite", "unknown", bar, A, 1),
            ("undecodable", "feed-7", -1, A, 1),
        ]
    ]
    world.land_bars("live", [Row(A, m, 100.0) for m in range(243, 483)])
    world.run("live")
    assert failures(world)[1:] == [[]]


def test_a_step_that_is_decided_again_writes_the_same_report(world: World) -> None:
    rng = Random(3)
    rows = [Row(A, m, 100.0, volume=rng.choice((1.0, -1.0))) for m in range(243)]
    world.land_bars("live", rows)
    lost = [world.machine.step("live", world.landed["live"], 0, world.clock_ns, Policy(CANARY))]
    world.crash()  # nothing of it was committed
    world.run("live")
    (batch,) = (b for b in lost[0].batches if b.topic == topic_name(PARENT.id, "reports"))
    (kept,) = world.log.topics[topic_name(PARENT.id, "reports")]
    again, before = (decode_record("report", value or b"") for value in (kept.value, *batch.values))
    assert again["failures"] == before["failures"] != []


def test_what_reports_hold_is_bounded_and_in_one_order() -> None:
    feeds = [f"f{number:04}" for number in range(KEYS_MAX + 50)]
    detail = FailedRecords()
    for number, feed in enumerate(feeds[:KEYS_MAX]):
        detail.counts[Failure("gap", feed, None, A)] = 1 + (number == 700)
    untold, reverse = Untold(), Untold()
    untold.fail(detail, A.__eq__)
    untold.fail(FailedRecords(Counter({Failure("gap", feeds[-1], None, A): 9_999})), A.__eq__)
    reverse.fail(FailedRecords(Counter(dict(reversed(detail.counts.items())))), A.__eq__)
    told = untold.told(A)
    assert [entry["producer"] for entry in told] == ["f0700", *feeds[: TOP - 1]]
    assert told == reverse.told(A) and untold.told(A) == []


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
