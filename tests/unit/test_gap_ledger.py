"""The causes that the worker writes into the gap ledger, and how they follow the bars."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine_world import (
    FIVE,
    MINUTE_NS,
    PARENT,
    START_NS,
    SYMBOLS,
    Row,
    World,
    block_value,
    minute_of,
    preset,
)
from seamline.schemas.outages import encode_outages
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_S, parse_time
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.coverage import Coverage
from seamline.streams.kernel.seal import ledger_changes

A = SYMBOLS[0]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.machine.close()


def numbered(minutes: range, *, empty: range = range(0), source: int = 1) -> list[Row]:
    """Two trades in each minute, none in the minutes `empty`; those have no bar."""
    rows, number = [], 100
    for minute in minutes:
        if minute not in empty:
            rows.append(Row(A, minute, 100.0, source, ids=(number, number + 1)))
            number += 2
    return rows


def numbered_at(minute: int, first: int, last: int, source: int = 1) -> Row:
    return Row(A, minute, 100.0, source, ids=(first, last))


def history(block: int, rows: list[Row]) -> bytes:
    inside = [row for row in rows if block <= row.minute < block + 240]
    return block_value(PARENT, A, block, inside, start=block, through=block + 240)


def test_ids_that_join_prove_that_nobody_traded(world: World) -> None:
    world.land_bars("live", numbered(range(1300), empty=range(50, 55)))
    world.run("live")
    assert world.causes() == {(A, 50, 55): "no_trades"}
    assert world.causes(FIVE) == {(A, 50, 55): "no_trades"}


def test_ids_that_jump_prove_a_loss(world: World) -> None:
    world.land_bars("live", [r for r in numbered(range(260)) if r.minute not in range(50, 55)])
    world.run("live")
    assert world.causes() == {(A, 50, 55): "our_loss"}


def test_a_derived_gap_is_no_loss_where_the_bars_beside_it_lack_inputs(world: World) -> None:
    world.land_bars("live", [r for r in numbered(range(1300)) if r.minute not in range(49, 55)])
    world.run("live")
    assert world.causes() == {(A, 49, 55): "our_loss"}
    assert world.causes(FIVE) == {(A, 50, 55): "unknown"}


@pytest.mark.parametrize("source", [2, 3])
def test_ids_of_a_bar_that_may_have_been_open_prove_nothing(world: World, source: int) -> None:
    rows = numbered(range(260), empty=range(50, 55))
    rows[49] = numbered_at(49, *rows[49].ids, source=source)
    world.land_bars("live", rows)
    world.run("live")
    assert world.causes() == {(A, 50, 55): "unknown"}
    world.land_bars("live", [numbered_at(49, *rows[49].ids, source=0)])
    world.run("live")
    assert world.causes() == {(A, 50, 55): "no_trades"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_gap_at_the_frontier_gets_its_cause_with_the_next_bar(world: World, crash: bool) -> None:
    rows = numbered(range(260), empty=range(238, 241))
    world.land_bars("live", [r for r in rows if r.minute < 240])
    world.land_heartbeat(242)
    world.run("live")
    assert world.causes() == {(A, 238, 240): "late"}
    if crash:
        world.crash()
    world.land_bars("live", [numbered_at(240, *rows[238].ids)])
    seals = world.seals()
    world.run("live")
    assert world.causes() == {(A, 238, 240): "no_trades"}
    assert world.seals() == seals
    if crash:
        world.crash()
    # A revision of its ids takes the proof away.
    world.land_bars("live", [numbered_at(240, 3, 4)])
    world.run("live")
    assert world.causes() == {(A, 238, 240): "late"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_cause_follows_revisions_of_the_bars_beside_it(world: World, crash: bool) -> None:
    rows = numbered(range(800), empty=range(100, 110))
    world.land_bars("live", rows)
    world.run("live")
    for last, cause in ((301, "unknown"), (298, "our_loss"), (299, "no_trades"), (300, "unknown")):
        if crash:
            world.crash()
        world.land_bars("live", [numbered_at(99, 298, last, source=0)])
        world.run("live")
        assert world.causes() == {(A, 100, 110): cause}


@pytest.mark.parametrize("crash", [False, True])
def test_a_gap_that_is_split_or_filled_is_judged_anew(world: World, crash: bool) -> None:
    world.land_bars("live", numbered(range(800), empty=range(100, 110)))
    world.run("live")
    assert world.causes() == {(A, 100, 110): "no_trades"}
    if crash:
        world.crash()
    world.land_bars("live", [Row(A, 104, 100.0)])
    world.run("live")
    assert world.causes() == {(A, 100, 104): "unknown", (A, 105, 110): "unknown"}
    if crash:
        world.crash()
    for minute in (105, 106, 107, 108, 109):
        world.land_bars("live", [Row(A, minute, 100.0)])
    world.run("live")
    assert world.causes() == {(A, 100, 104): "unknown"}


@pytest.mark.parametrize("order", [(0, 240, 480), (480, 0, 240), (480, 240, 0), (240, 480, 0)])
@pytest.mark.parametrize("crash", [False, True])
def test_the_bars_beside_a_gap_may_lie_in_other_blocks(
    world: World, order: tuple[int, ...], crash: bool
) -> None:
    rows = numbered(range(960), empty=range(230, 500))
    world.land_bars("live", [r for r in rows if r.minute >= 720])
    world.run("live")
    for block in order:
        if crash:
            world.crash()
        world.land("backfill", A.encode(), history(block, rows))
        world.run("backfill")
    assert world.causes() == {(A, 230, 500): "no_trades"}
    if crash:
        world.crash()
    world.land_bars("live", [Row(A, 499, 100.0, 0)])
    world.run("live")
    assert world.causes() == {(A, 230, 499): "unknown"}


def quiet(minutes: range, missing: range) -> list[Row]:
    """Bars without trade ids."""
    return [Row(A, minute, 100.0) for minute in minutes if minute not in missing]


def stated(*spans: tuple[float, float | None]) -> bytes:
    """Outages in minutes."""

    def time_of(minute: float) -> int:
        return START_NS + int(minute * 60) * NS_PER_S

    return encode_outages(
        (time_of(start), None if end is None else time_of(end)) for start, end in spans
    )


@pytest.mark.parametrize("crash", [False, True])
def test_what_the_venue_says_of_its_outage_is_evidence(world: World, crash: bool) -> None:
    world.land_bars("live", quiet(range(1300), range(50, 55)))
    world.land_heartbeat(1300)
    world.run("live")
    assert world.causes() == {(A, 50, 55): "unknown"} and world.reasons() == {None}
    if crash:
        world.crash()
    # It comes and goes inside two minutes: the bars of 50 to 54 closed while it was down.
    world.land_heartbeat(1301, stated((50.5, 55.5)))
    world.run("live")
    assert world.causes() == world.causes(FIVE) == {(A, 50, 55): "venue_outage"}
    assert world.reasons() == {"the venue itself said that it was down all the while"}
    if crash:
        world.crash()
    # Bars that come later are judged by the statement that was heard before.
    world.land_bars("live", [Row(A, 52, 100.0)])
    world.run("live")
    assert set(world.causes().values()) == {"venue_outage"} and len(world.causes()) == 2
    if crash:
        world.crash()
    world.land_heartbeat(1302, stated((50.5, 54.5)))
    world.run("live")
    assert world.causes() == {(A, 50, 52): "venue_outage", (A, 53, 55): "unknown"}
    if crash:
        world.crash()
    world.land_heartbeat(1303, stated())
    world.run("live")
    assert set(world.causes().values()) == {"unknown"}


def test_an_outage_that_goes_on_reaches_to_the_watermark(world: World) -> None:
    world.land_bars("live", quiet(range(300), range(230, 242)))
    world.land_heartbeat(235, stated((230, None)))
    world.run("live")
    assert world.causes() == {(A, 230, 240): "late"}
    world.land_heartbeat(241, stated((230, None)))
    world.run("live")
    assert world.causes() == {(A, 230, 240): "venue_outage"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_gap_is_late_until_it_has_settled(world: World, crash: bool) -> None:
    world.land_bars("live", quiet(range(300), range(236, 240)))
    world.land_heartbeat(244)
    world.run("live")
    assert world.causes() == {(A, 236, 240): "late"}
    if crash:
        world.crash()
    world.land_heartbeat(245)  # the settle time is five minutes
    world.run("live")
    assert world.causes() == {(A, 236, 240): "unknown"} and world.reasons() == {None}


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("first", ["live", "backfill"])
def test_trades_that_settled_history_lacks_were_lost_at_the_venue(
    world: World, first: str, crash: bool
) -> None:
    """A whole block and more; the answer comes before the bars, or after them. Its last part lies
    above the frontier when it comes first."""
    there = [row for row in numbered(range(1300)) if row.minute not in range(200, 505)]
    roles = ("live", "backfill") if first == "live" else ("backfill", "live")
    for role in roles:
        if role == "live":
            world.land_bars("live", [row for row in there if row.minute >= 510])
        for block in (0, 240, 480) if role == "backfill" else ():
            inside = [row for row in there if block <= row.minute < min(block + 240, 510)]
            through = min(block + 240, 510)
            value = block_value(PARENT, A, block, inside, start=block, through=through)
            world.land("backfill", A.encode(), value)
        world.run("live" if role == "live" else "backfill")
        if crash:
            world.crash()
    assert world.causes() == {(A, 200, 505): "venue_outage"}
    assert world.causes(FIVE) == {(A, 200, 505): "venue_outage"}
    assert all("the venue lost it" in (reason or "") for reason in world.reasons())


def test_an_answer_makes_a_loss_of_ours_one_of_the_venue_or_fills_it(world: World) -> None:
    rows = numbered(range(1300))
    world.land_bars("live", [r for r in rows if r.minute not in (*range(50, 55), *range(60, 65))])
    world.run("live")
    causes = {(A, 50, 55): "our_loss", (A, 60, 65): "our_loss"}
    assert world.causes() == world.causes(FIVE) == causes
    assert all("a backfill brings them" in (reason or "") for reason in world.reasons())
    world.land(
        "backfill", A.encode(), history(0, [r for r in rows if r.minute not in range(50, 55)])
    )
    world.run("backfill")
    assert world.causes() == world.causes(FIVE) == {(A, 50, 55): "venue_outage"}


@pytest.mark.parametrize("nonsense", [b"nonsense", b"1:-,5:6", b"9:8", stated((0, 10**7))])
def test_a_statement_that_lies_is_counted_and_its_watermark_holds(
    world: World, nonsense: bytes
) -> None:
    world.land_bars("live", quiet(range(300), range(50, 55)))
    world.land_heartbeat(300, stated((50, 55)))
    world.run("live")
    world.land_heartbeat(478, nonsense)
    world.land_heartbeat(483, nonsense)
    world.run("live")
    assert world.causes()[A, 50, 55] == "venue_outage"
    assert world.seals()[A]["frontier_ns"] == START_NS + 480 * MINUTE_NS
    assert world.steps[-1].counts["invalid_outages"] == 2
    assert world.steps[-1].counts["heartbeats"] == 2 and not world.steps[-1].quarantined


def test_a_full_statement_takes_back_no_cause_that_it_has_no_room_for(world: World) -> None:
    world.land_bars("live", quiet(range(300), range(50, 55)))
    world.land_heartbeat(300, stated((50, 55)))
    world.run("live")
    world.land_heartbeat(301, stated(*[(100 + 2 * i, 101 + 2 * i) for i in range(16)]))
    world.land_bars("live", [Row(A, 51, 100.0)])
    world.run("live")
    assert world.causes() == {(A, 50, 51): "venue_outage", (A, 52, 55): "venue_outage"}


def test_the_ledger_names_only_what_the_calendar_expects(tmp_path: Path) -> None:
    """Daily bars of an exchange: weekends and holidays are no gaps, a session without a bar is."""
    daily = preset("ohlcv.test.us_equity.1d", 1440, calendar="XNYS", block_rows=12)
    world = World(tmp_path, (daily,))
    friday = minute_of(parse_time("2024-06-28T00:00:00Z", now_ns=0, parameter="start"))
    # 2024-07-04, the sixth day after it, is a holiday; the bars of days 7 and 10 are missing.
    for day in (0, 3, 4, 5, 11, 12, 13, 14, 17):
        world.land_bars("live", [Row(A, friday + 1440 * day, 100.0, 1)])
    world.land_heartbeat(friday + 1440 * 40)
    world.run("live")
    before = world.causes()
    world.crash()
    world.land_bars("live", [Row(A, friday + 1440 * 10, 100.0, 1)])
    world.run("live")
    world.machine.close()
    days = [(start - friday) // 1440 for _, start, _ in before]
    assert days[:2] == [7, 10] and (A, friday + 1440 * 7, friday + 1440 * 8) in before
    assert not any(world_day % 7 in (1, 2) for world_day in days)  # Saturday, Sunday
    assert before.keys() - world.causes().keys() == {(A, friday + 1440 * 10, friday + 1440 * 11)}


def test_a_report_counts_as_missing_what_the_ledger_names(tmp_path: Path) -> None:
    """Minutes of sessions: the night is not missing, neither from the ledger nor from a report."""
    minutes = preset("ohlcv.test.us_equity.1m", calendar="XNYS")
    world = World(tmp_path, (minutes,))
    monday = minute_of(parse_time("2024-07-08T13:30:00Z", now_ns=0, parameter="start"))
    days = [range(monday + 1440 * day, monday + 1440 * day + 390) for day in range(3)]
    there = [m for day in days for m in day if not monday + 100 <= m < monday + 110]
    world.land_bars("live", [Row(A, minute, 100.0, 1) for minute in there])
    world.land_heartbeat(monday + 1440 * 3)
    world.run("live")
    reports = world.log.latest(topic_name(minutes.id, "reports"))
    missing = [decode_record("report", value)["missing"] for _, value, _ in reports]
    world.machine.close()
    assert world.gaps() == {(A, monday + 100, monday + 110)}
    assert sorted(missing)[-2:] == [0, 10]


def test_what_changed_in_a_ledger_is_what_two_dicts_say() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        cells = [[c for c in range(12) if rng.random() < 0.5] for _ in range(2)]
        if rng.random() < 0.5:  # alike but for one cell
            cells[1] = sorted({*cells[0]} ^ {rng.randrange(12)})
        before, after = (Coverage.of_cells([(c, c + 1) for c in some]) for some in cells)
        old, new = dict(before.intervals), dict(after.intervals)
        wanted = {at: new.get(at) for at in sorted({*old, *new}) if old.get(at) != new.get(at)}
        assert ledger_changes(before, after) == wanted
