"""The machine of a partition against what the design says, on a log in memory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from machine_world import (
    CLOCK_NS,
    FIVE,
    HOUR,
    IDS,
    MINUTE_NS,
    PARENT,
    START_NS,
    SYMBOLS,
    Row,
    World,
    block_value,
    columns_of,
    minute_of,
    preset,
    without_flags,
)
from seamline.schemas.codec import encode_bars
from seamline.schemas.columns import COMPLETED, CONFIRMED, PARTIAL, PROVISIONAL, SNAPPED, SUSPECT
from seamline.schemas.records import decode_record
from seamline.schemas.topics import partition_of
from seamline.streams.kernel.protocol import Role

A = SYMBOLS[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.machine.close()


def history(symbol: str, block: int, rows: list[Row]) -> bytes:
    """A landing block of history, complete from its first minute to its last."""
    return block_value(PARENT, symbol, block, rows, start=block, through=block + 240)


def bars(symbol: str, minutes: range, source: int = 1, price: float = 100.0) -> list[Row]:
    return [Row(symbol, m, price + m % 7, source, volume=0.1 * (m % 11 + 1)) for m in minutes]


def test_a_full_block_is_sealed_when_two_newer_bars_closed(world: World) -> None:
    world.land_bars("live", bars(A, range(241)))
    world.run("live")
    assert world.blocks() == {}
    world.land_bars("live", bars(A, range(241, 242)))
    world.run("live")
    assert [len(block.columns) for block in world.blocks().values()] == [240]
    assert minute_of(world.seals()[A]["frontier_ns"]) == 240
    assert world.gaps() == set()
    world.check_seals(PARENT)


def test_the_newest_bars_are_provisional_and_a_heartbeat_makes_them_stable(world: World) -> None:
    world.land_bars("live", bars(A, range(240)))
    world.run("live")
    assert all(row[-1] & PROVISIONAL for row in world.conformed())
    world.land_heartbeat(241)
    world.run("live")
    assert world.blocks() == {}
    world.land_heartbeat(242)
    world.run("live")
    assert len(world.blocks()) == 1
    late = [Row(A, 3, 999.0, 0)]
    world.land_bars("live", late)
    world.run("live")
    (block,) = world.blocks().values()
    assert block.columns.revision[3] == 1
    assert block.columns.open[3] == 999.0
    assert len(world.conformed()) == 240, "a value for sealed history is not in the log"
    assert len(world.log.topics["seamline.ohlcv.test.spot.1m.superseded"]) == 1
    world.check_seals(PARENT)


def test_authority_decides_and_equal_values_confirm(world: World) -> None:
    first = Row(A, 0, 100.0, 1)
    world.land_bars("live", [first, first, Row(A, 0, 101.0, 2), Row(A, 0, 100.0, 0)])
    world.land_bars("live", [Row(A, 0, 102.0, 0), Row(A, 0, 100.0, 1), Row(A, 0, 103.0, 3)])
    world.run("live")
    rows = world.conformed()
    assert [(row[2], row[5], row[6], row[7] & CONFIRMED) for row in rows] == [
        (100.0, 1, 0, 0),
        (100.0, 0, 0, CONFIRMED),
        (102.0, 0, 1, 0),
    ]
    counts: dict[str, int] = {}
    for step in world.steps:
        for name, n in step.counts.items():
            counts[name] = counts.get(name, 0) + n
    assert counts["discarded"] == 3
    assert counts["conflicts"] == 1
    assert counts["confirmed"] == 1
    assert counts["raised"] == 1


def test_a_null_is_completed_without_a_revision(world: World) -> None:
    world.land_bars("live", [Row(A, 0, 100.0, 0), Row(A, 0, 100.0, 2, quote_volume=7.0)])
    world.land_bars("live", [Row(A, 0, 100.0, 1)])
    world.run("live")
    rows = world.conformed()
    assert [(row[4], row[6], row[7] & COMPLETED) for row in rows] == [
        (None, 0, 0),
        (7.0, 0, COMPLETED),
    ]


def test_closed_history_costs_blocks_and_not_bars(world: World) -> None:
    for block in (0, 240, 480):
        rows = bars(A, range(block, block + 240), 0)
        value = history(A, block, rows)
        world.land("backfill", A.encode(), value)
    world.run("backfill")
    assert world.conformed() == []
    assert len(world.blocks()) == 3
    assert minute_of(world.seals()[A]["frontier_ns"]) == 720
    again = len(world.log.topics["seamline.ohlcv.test.spot.1m.storage"])
    world.land("backfill", A.encode(), world.landed["backfill"][1].value)
    world.run("backfill")
    assert len(world.log.topics["seamline.ohlcv.test.spot.1m.storage"]) == again
    world.check_seals(PARENT)


def test_history_below_a_running_live_stream(world: World) -> None:
    world.land_bars("live", bars(A, range(480, 500)))
    world.run("live")
    assert minute_of(world.seals()[A]["asked_start_ns"]) == 480
    for block in (0, 240):
        rows = bars(A, range(block, block + 240), 0)
        world.land(
            "backfill",
            A.encode(),
            history(A, block, rows),
        )
    world.run("backfill", 1)
    assert world.gaps() == {(A, 240, 480)}
    world.run("backfill")
    assert world.gaps() == set()
    assert minute_of(world.seals()[A]["asked_start_ns"]) == 0
    assert sorted(minute for _, minute in world.final()) == list(range(500))
    world.check_seals(PARENT)


def test_nothing_was_asked_before_the_first_live_bar_of_a_block(world: World) -> None:
    world.land_bars("live", bars(A, range(127, 130)))
    world.run("live")
    assert minute_of(world.seals()[A]["frontier_ns"]) == 0
    assert minute_of(world.seals()[A]["asked_start_ns"]) == 127


def test_an_empty_answer_of_the_venue_is_kept_as_evidence(world: World) -> None:
    world.land_bars("live", bars(A, range(480, 483)))
    world.run("live")
    for block in (0, 240):
        world.land(
            "backfill",
            A.encode(),
            history(A, block, []),
        )
    world.run("backfill")
    assert minute_of(world.seals()[A]["asked_start_ns"]) == 0
    assert minute_of(world.seals()[A]["history_start_ns"]) == 480
    assert world.gaps() == set()
    world.check_seals(PARENT)


def test_a_watermark_says_nothing_of_symbols_that_the_feed_does_not_carry(world: World) -> None:
    other = SYMBOLS[1]
    rows = bars(other, range(240), 0)
    world.land("backfill", other.encode(), history(other, 0, rows))
    world.run("backfill")
    world.land_bars("live", bars(A, range(1000)))
    world.land_heartbeat(1000)
    world.run("live")
    assert minute_of(world.seals()[other]["frontier_ns"]) == 240
    assert world.gaps() == set()
    world.land_bars("live", bars(other, range(990, 991)))
    world.run("live")
    assert minute_of(world.seals()[other]["frontier_ns"]) == 960
    assert world.gaps() == {(other, 240, 960)}
    world.crash()
    world.land_heartbeat(1210)
    world.run("live")
    assert minute_of(world.seals()[other]["frontier_ns"]) == 1200


def test_missing_bars_are_in_the_ledger_and_leave_it_when_they_come(world: World) -> None:
    present = [m for m in range(260) if m not in (7, 8, 9, 100)]
    world.land_bars("live", [Row(A, m, 100.0) for m in present])
    world.run("live")
    assert world.gaps() == {(A, 7, 10), (A, 100, 101)}
    world.land_bars("live", [Row(A, 8, 100.0, 2)])
    world.run("live")
    assert world.gaps() == {(A, 7, 8), (A, 9, 10), (A, 100, 101)}


def test_derived_bars_are_correctly_rounded_and_revised(world: World) -> None:
    rows = bars(A, range(130))
    world.land_bars("live", rows)
    world.run("live")
    five = world.conformed(FIVE)
    assert len(five) == 26
    for i, row in enumerate(five):
        inputs = rows[5 * i : 5 * i + 5]
        assert row[2] == inputs[0].price
        assert row[3] == math.fsum(r.volume for r in inputs)
        assert row[-1] & ~PROVISIONAL & 0xFF == 0
    assert len(world.conformed(HOUR)) == 2
    world.land_bars("live", [Row(A, 3, 500.0, 0, volume=9.0)])
    world.run("live")
    revised = world.conformed(FIVE)[26:]
    assert [(r[1], r[6]) for r in revised] == [(0, 1)]
    assert world.conformed(HOUR)[2][6] == 1


def test_a_window_with_a_hole_is_partial(world: World) -> None:
    world.land_bars("live", bars(A, range(4)) + bars(A, range(6, 12)))
    world.run("live")
    flags = [row[-1] & PARTIAL for row in world.conformed(FIVE)]
    assert flags == [PARTIAL, PARTIAL]


def test_block_seals_reach_the_derived_presets(world: World) -> None:
    for block in range(0, 240 * 10, 240):
        rows = bars(A, range(block, block + 240), 0)
        world.land(
            "backfill",
            A.encode(),
            history(A, block, rows),
        )
    world.run("backfill")
    assert len(world.blocks(FIVE)) == 2
    assert len(world.final(FIVE)) == 2400 // 5
    assert len(world.final(HOUR)) == 40
    world.check_seals(FIVE)
    world.check_seals(HOUR)


Block = tuple[str, int, list[Row]]
Event = Row | int | Block


def script(seed: int) -> list[Event]:
    """Landed events in order: duplicates, disorder, conflicts, late values, heartbeats, blocks."""
    rng = random.Random(seed)
    events: list[Event] = []
    values = {(s, m): 100.0 + rng.random() for s in SYMBOLS for m in range(900)}
    for base in range(240, 900):
        for symbol in SYMBOLS:
            if rng.random() < 0.02:
                continue
            minute = base if rng.random() > 0.05 else rng.randrange(240, base + 1)
            source = rng.choice((1, 1, 1, 2))
            price = values[symbol, minute] + (source if rng.random() < 0.03 else 0)
            events.append(Row(symbol, minute, price, source, volume=rng.random()))
        if rng.random() < 0.05:
            events.append(base - rng.randrange(3))
        if rng.random() < 0.03:
            block = 240 * rng.randrange(0, max(1, base // 240))
            symbol = rng.choice(SYMBOLS)
            rows = [
                Row(symbol, m, values[symbol, m], 0, volume=1.0)
                for m in range(block, block + 240)
                if rng.random() > 0.01
            ]
            events.append((symbol, block, rows))
    return events


def play(world: World, events: list[Event], cuts: random.Random, crash: float) -> None:
    """Land the events in one topic, in this order, in fetches of random length."""
    for event in events:
        if isinstance(event, Row):
            world.land_bars("live", [event])
        elif isinstance(event, int):
            world.land_heartbeat(event)
        else:
            symbol, block, rows = event
            value = history(symbol, block, rows)
            world.land("live", symbol.encode(), value)
    end = len(world.landed["live"])
    while world.machine._next["live"] < end:
        world.run("live", world.machine._next["live"] + cuts.randrange(1, 120))
        if cuts.random() < crash:
            world.crash()


@pytest.mark.parametrize("seed", range(3))
def test_neither_cuts_nor_crashes_change_the_log(seed: int, tmp_path: Path) -> None:
    events = script(seed)
    whole, cut = World(tmp_path / "whole"), World(tmp_path / "cut")
    play(whole, events, random.Random(1), 0.0)
    play(cut, events, random.Random(seed + 100), 0.3)
    for of in (PARENT, FIVE, HOUR):
        assert cut.conformed(of) == whole.conformed(of)
        assert cut.final(of) == whole.final(of)
        assert cut.gaps(of) == whole.gaps(of)
        digests = {k: b.digest for k, b in cut.blocks(of).items()}
        assert digests == {k: b.digest for k, b in whole.blocks(of).items()}
        cut.check_seals(of)
    superseded = "seamline.ohlcv.test.spot.1m.superseded"
    assert len(cut.log.topics[superseded]) == len(whole.log.topics[superseded])
    whole.machine.close()
    cut.machine.close()


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_live_and_backfill_does_not_change_the_final_state(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    live = [Row(A, m, 100.0 + m % 5, 1, volume=2.0) for m in range(300, 700) if rng.random() > 0.1]
    settled = [Row(A, m, 100.0 + m % 6, 0, volume=2.0) for m in range(720) if rng.random() > 0.1]
    finals = []
    for order in ("live", "backfill", "mixed"):
        world = World(tmp_path / order)
        world.land_bars("live", live)
        for block in (0, 240, 480):
            rows = [r for r in settled if block <= r.minute < block + 240]
            value = history(A, block, rows)
            world.land("backfill", A.encode(), value)
        if order == "mixed":
            for n in (1, 2, 3):
                world.run("live", n * 100)
                world.run("backfill", n)
        roles: tuple[Role, ...] = ("live", "backfill")
        for role in reversed(roles) if order == "backfill" else roles:
            world.run(role)
        rows_left = without_flags(sorted(world.final().values()))
        finals.append([row[:6] for row in rows_left])
        for of in (PARENT, FIVE, HOUR):
            world.check_seals(of)
        world.machine.close()
    assert finals[0] == finals[1] == finals[2]


QUARANTINED: dict[str, tuple[str, Callable[[], list[Row]]]] = {
    "nan": ("non_finite", lambda: [Row(A, 0, math.nan)]),
    "off_grid": ("off_grid", lambda: [Row(A, 0, 100.0, offset_ns=MINUTE_NS // 2)]),
    "future": ("future_time", lambda: [Row(A, (CLOCK_NS - START_NS) // MINUTE_NS + 9, 100.0)]),
}


@pytest.mark.parametrize("case", QUARANTINED)
def test_what_cannot_be_a_bar_goes_to_quarantine_in_canary(case: str, world: World) -> None:
    reason, rows = QUARANTINED[case]
    world.land_bars("live", rows())
    world.run("live")
    (record,) = world.log.topics["seamline.ohlcv.test.spot.1m.quarantine"]
    assert record.value == world.landed["live"][0].value
    assert record.key == A.encode()
    headers = dict(record.headers)
    assert headers["seamline-reason"] == reason.encode()
    assert headers["seamline-origin-offset"] == b"0"
    assert world.conformed() == []
    assert world.steps[0].failures == {("seamline.ohlcv.test.spot.1m.live-value", "canary"): 1}


def foreign(case: str) -> tuple[bytes | None, bytes | None, str]:
    good = encode_bars([A], columns_of([Row(A, 0, 100.0)]), IDS["bar"])[0]
    other = next(f"X{i}" for i in range(99) if f"X{i}" != A and _elsewhere(f"X{i}"))
    elsewhere = encode_bars([other], columns_of([Row(other, 0, 100.0)]), IDS["bar"])[0]
    return {
        "not_avro": (A.encode(), b"hello", "undecodable"),
        "truncated": (A.encode(), good[:-4], "undecodable"),
        "unknown_id": (A.encode(), b"\x00\x00\x00\xff\xff" + good[5:], "unknown_schema"),
        "wrong_key": (b"other", good, "key_mismatch"),
        "wrong_partition": (other.encode(), elsewhere, "wrong_partition"),
        "null": (A.encode(), None, "null_value"),
    }[case]


def _elsewhere(symbol: str) -> bool:
    return partition_of(symbol, 4) != 0


@pytest.mark.parametrize(
    "case", ["not_avro", "truncated", "unknown_id", "wrong_key", "wrong_partition", "null"]
)
def test_foreign_records_go_to_quarantine_and_hold_nothing_up(case: str, world: World) -> None:
    key, value, reason = foreign(case)
    world.land_bars("live", [Row(A, 0, 100.0)])
    world.land("live", key, value)
    world.land_bars("live", [Row(A, 1, 100.0)])
    world.run("live")
    (record,) = world.log.topics["seamline.ohlcv.test.spot.1m.quarantine"]
    assert (record.key, record.value) == (key, value)
    assert dict(record.headers)["seamline-reason"] == reason.encode()
    assert len(world.conformed()) == 2


def test_value_rules_follow_the_mode(tmp_path: Path) -> None:
    for mode, passes in (("canary", True), ("strict", False)):
        world = World(tmp_path / mode, mode=mode)
        world.land_bars("live", [Row(A, 0, 100.0, volume=-1.0)])
        world.run("live")
        rows = world.conformed()
        assert bool(rows) is passes
        assert all(row[-1] & SUSPECT for row in rows)
        assert ("seamline.ohlcv.test.spot.1m.quarantine" in world.log.topics) is not passes
        world.machine.close()


def test_off_grid_bars_snap_where_the_preset_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, presets=(preset(off_grid="snap"),))
    world.land_bars("live", [Row(A, 4, 100.0, offset_ns=14 * 10**9)])
    world.run("live")
    assert [(row[1], row[-1] & SNAPPED) for row in world.conformed()] == [(4, SNAPPED)]
    world.machine.close()


def test_an_open_kline_is_a_preview(world: World) -> None:
    world.land_bars("live", [Row(A, 0, 100.0, 3, closed=False), Row(A, 0, 101.0, 1)])
    world.run("live")
    assert [row[2] for row in world.conformed()] == [101.0]
    assert world.steps[0].counts["previews"] == 1


def test_a_bar_that_is_open_now_is_a_preview_and_no_bar_of_the_future(world: World) -> None:
    now = (CLOCK_NS - START_NS) // MINUTE_NS
    world.land_bars("live", [Row(A, now, 100.0, 3, closed=False)])
    world.run("live")
    assert world.steps[0].counts["previews"] == 1
    assert world.steps[0].quarantined == {}


def test_a_position_covers_what_was_written(world: World) -> None:
    world.land_bars("live", bars(A, range(5)))
    world.land_heartbeat(3)
    world.run("live")
    (entry,) = world.log.latest("seamline.ohlcv.test.spot.1m.positions")
    position = decode_record("position", entry[1])
    assert (position["live_offset"], position["backfill_offset"]) == (6, 0)
    assert minute_of(position["watermark_ns"]) == 3
    assert position["rows_total"] == 5


def test_bars_that_wait_too_long_are_sealed_inside_their_block(world: World) -> None:
    world.land_bars("live", bars(A, range(100)))
    world.run("live")
    assert world.blocks() == {}
    world.clock_ns += 2 * 86_400 * 10**9
    step = world.machine.tick(world.clock_ns)
    assert step is not None
    world.log.commit(world.machine, step)
    (block,) = world.blocks().values()
    assert len(block.columns) == 98
    assert minute_of(world.seals()[A]["frontier_ns"]) == 98
    world.crash()
    world.land_bars("live", [*bars(A, range(100, 260)), Row(A, 50, 1.0, 0)])
    world.run("live")
    (block,) = world.blocks().values()
    assert np.array_equal(block.columns.revision, [1 if m == 50 else 0 for m in range(240)])
    for of in (PARENT, FIVE, HOUR):
        world.check_seals(of)


@pytest.mark.parametrize(
    "watermark",
    [None, b"9" * 30, b"soon", str(CLOCK_NS + 10**12).encode()],
    ids=["null", "huge", "words", "future"],
)
def test_a_false_heartbeat_goes_to_quarantine_and_moves_nothing(
    watermark: bytes | None, world: World
) -> None:
    headers = (("seamline-venue", b"test"), ("seamline-watermark-ns", watermark))
    world.land("live", None, None, headers)
    world.land_bars("live", bars(A, range(3)))
    world.run("live")
    assert len(world.log.topics["seamline.ohlcv.test.spot.1m.quarantine"]) == 1
    assert len(world.conformed()) == 3


def test_a_partition_may_begin_with_a_record_that_is_cut_off(world: World) -> None:
    good = encode_bars([A], columns_of([Row(A, 0, 100.0)]), IDS["bar"])[0]
    world.land("live", A.encode(), good[:-4])
    world.run("live")
    assert len(world.log.topics["seamline.ohlcv.test.spot.1m.quarantine"]) == 1


def test_the_newest_bars_of_a_symbol_that_ended_are_sealed_before_the_log_forgets(
    world: World,
) -> None:
    world.land_bars("live", bars(A, range(100)))
    world.run("live")
    for days, rows in ((2, 98), (8, 100)):
        world.clock_ns = CLOCK_NS + days * 86_400 * 10**9
        step = world.machine.tick(world.clock_ns)
        assert step is not None
        world.log.commit(world.machine, step)
        (block,) = world.blocks().values()
        assert len(block.columns) == rows
    assert minute_of(world.seals()[A]["frontier_ns"]) == 100
    world.check_seals(PARENT)


def test_a_promise_of_the_future_goes_to_quarantine(world: World) -> None:
    now = (CLOCK_NS - START_NS) // MINUTE_NS
    start = now - now % 240
    value = block_value(PARENT, A, start, [], start=start, through=start + 240)
    world.land("backfill", A.encode(), value)
    world.run("backfill")
    (record,) = world.log.topics["seamline.ohlcv.test.spot.1m.quarantine"]
    assert dict(record.headers)["seamline-reason"] == b"future_time"
    assert world.seals() == {}
