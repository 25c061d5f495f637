"""Landed records are judged as the worker's intake judges them, and the totals do not depend on how
they were read."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

from machine_world import IDS, MINUTE_NS, PARENT, START_NS, SYMBOLS, Row, block_value, columns_of
from machine_world import resolve as approved
from seamline.schemas.codec import encode_bars, frame
from seamline.schemas.errors import TransportError
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.schemas.topics import HEADER_PRODUCER, HEADER_WATERMARK_NS, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import Header
from seamline.streams.kernel.rehearsal import Evidence
from seamline.streams.kernel.rehearsal_judge import LandingJudge
from seamline.streams.kernel.rehearsal_tally import Tally
from seamline.streams.kernel.writers import Meaning, Resolve

DOWN = 404


class Landing:
    """One partition of a landing topic; the append time of a bar is two seconds after its close."""

    def __init__(self, role: str = "live") -> None:
        self.role = role
        self.records: list[MemoryRecord] = []
        self.time_ms = START_NS // NS_PER_MS

    def put(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header] = (),
        time_ms: int | None = None,
    ) -> None:
        at = self.time_ms if time_ms is None else time_ms
        topic = topic_name(PARENT.id, self.role)
        self.records.append(MemoryRecord(topic, 0, len(self.records), at, key, value, headers))

    def bar(self, row: Row, *, key: bytes | None = None, producer: bytes = b"live:test") -> None:
        self.time_ms = (START_NS + (row.minute + 1) * MINUTE_NS) // NS_PER_MS + 2_000
        value = encode_bars([row.symbol], columns_of([row]), IDS["bar"])[0]
        chosen = row.symbol.encode() if key is None else key
        self.put(chosen, value, ((HEADER_PRODUCER, producer),))


def registry(number: int) -> Meaning | None:
    if number == DOWN:
        raise TransportError("the registry does not answer")
    return approved(number)


def rehearsed(
    landing: Landing,
    *,
    cuts: Sequence[int] = (),
    resume_at: frozenset[int] = frozenset(),
    resolve: Resolve = registry,
) -> Evidence:
    """The evidence, read in batches that end at `cuts`, saved and taken up again at some."""
    ended_ns = (landing.time_ms + 1_000) * NS_PER_MS
    since_ns = ended_ns - 48 * 3_600 * NS_PER_S
    tally = Tally(since_ns=since_ns, ended_ns=ended_ns, interval_ns=MINUTE_NS)
    judge = LandingJudge(PARENT, 0, landing.role, resolve)
    first = 0
    for end in (*sorted(cuts), len(landing.records)):
        batch = landing.records[first:end]
        if batch:
            tally.take(0, judge.judge(batch), judge.symbols)
        if end in resume_at:
            tally = Tally.from_json(json.loads(json.dumps(tally.to_json())))
            judge = LandingJudge(PARENT, 0, landing.role, resolve)
        first = end
    return tally.evidence(
        subject="s",
        topic="t",
        bundle_sha256="b",
        partitions={0: (0, len(landing.records))},
        mode_version=0,
    )


def mixed(bars: int = 200) -> Landing:
    """Every kind of fault among good bars; the numbers are those of `test_each_fault`."""
    landing = Landing()
    first, second = SYMBOLS[0], SYMBOLS[1]
    for minute in range(bars):
        landing.put(None, None, _heartbeat(minute))
        landing.bar(Row(second, minute, 50.0))
        row = Row(first, minute, 100.0)
        if minute in (10, 11, 12):
            landing.bar(replace(row, volume=-1.0), producer=b"rogue")
        elif minute == 20:
            landing.bar(replace(row, price=float("nan")))
        elif minute == 30:
            landing.bar(replace(row, offset_ns=14 * NS_PER_S))
            landing.bar(row)
        elif minute == 40:
            landing.bar(row, key=b"WRONG")
        elif minute == 50:
            landing.put(first.encode(), frame(IDS["bar"]) + b"garbage")
        elif minute == 60:
            landing.put(first.encode(), frame(99) + b"abc")
        elif minute == 70:
            # A minute too early: it claims to have closed before it can have.
            ahead = landing.time_ms
            landing.bar(replace(row, minute=minute + 1))
            landing.records[-1] = replace(landing.records[-1], timestamp=ahead - 30_000)
            landing.time_ms = ahead
            landing.bar(row)
        else:
            landing.bar(row)
    landing.bar(Row(first, bars, 100.0, volume=-1.0))
    return landing


def _heartbeat(minute: int) -> tuple[Header, ...]:
    return ((HEADER_WATERMARK_NS, str(START_NS + minute * MINUTE_NS).encode()),)


def test_each_fault_is_counted_once_by_rule_producer_symbol_and_schema() -> None:
    found = rehearsed(mixed())
    assert found.by_rule == {
        "negative_volume": 4,
        "non_finite": 1,
        "off_grid": 1,
        "key_mismatch": 1,
        "undecodable": 1,
        "unknown_schema": 1,
        "future_time": 1,
    }
    # Heartbeats are no records.
    assert found.records == 403 and found.blocked_records == 10
    assert found.blocked_in_canary == 6
    assert found.by_producer == {"rogue": 3, "live:test": 5, "unknown": 2}
    assert found.by_symbol == {SYMBOLS[0]: 10}
    assert found.by_schema == {"bar v2": 9, "id 99": 1}
    assert found.bars == 393
    # 4 volumes, the NaN, off the grid, another key, the one of the future.
    assert found.blocked_bars == 8
    # Off the grid and of the future came once more; minutes 50 and 60 have no bar to be named.
    assert found.missing_bars == 6
    assert found.samples["off_grid"] == ((0, 90 + 2),)
    # 10, 11, 12 and the last one: what canary blocks as well makes nothing staler.
    assert found.stale_minutes == 4.0
    assert found.complete and not found.clean


def test_the_numbers_do_not_depend_on_batches_nor_on_a_resume() -> None:
    landing = mixed()
    whole = rehearsed(landing)
    draw = random.Random(5)
    for _ in range(4):
        cuts = sorted(draw.sample(range(1, len(landing.records)), 7))
        assert rehearsed(landing, cuts=cuts) == whole
        assert rehearsed(landing, cuts=cuts, resume_at=frozenset(cuts[::2])) == whole


def test_a_bar_is_judged_by_the_clock_of_its_own_append_time() -> None:
    """In one batch with later records it is still of the future."""
    landing = Landing()
    symbol = SYMBOLS[0]
    landing.bar(Row(symbol, 5, 1.0))
    landing.records[0] = replace(landing.records[0], timestamp=START_NS // NS_PER_MS)
    landing.bar(Row(symbol, 600, 1.0))
    assert rehearsed(landing).by_rule == {"future_time": 1}
    # Twelve seconds early is too early, five are the clocks.
    for early_ms, blocked in ((5_000, 0), (12_000, 1)):
        landing = Landing()
        landing.bar(Row(symbol, 5, 1.0))
        close_ms = (START_NS + 6 * MINUTE_NS) // NS_PER_MS
        landing.records[0] = replace(landing.records[0], timestamp=close_ms - early_ms)
        landing.bar(Row(symbol, 600, 1.0))
        assert rehearsed(landing).blocked_records == blocked


def test_a_preview_is_neither_a_bar_nor_blocked_for_being_open() -> None:
    landing = Landing()
    landing.bar(Row(SYMBOLS[0], 3, 1.0, closed=False))
    landing.bar(Row(SYMBOLS[0], 4, 1.0, closed=False, volume=-1.0))
    found = rehearsed(landing)
    assert (found.records, found.bars, found.blocked_records, found.blocked_bars) == (2, 0, 1, 0)
    assert found.stale_minutes == 0 and found.missing_bars == 0


def test_a_heartbeat_of_the_future_is_a_record_that_is_blocked() -> None:
    landing = Landing()
    landing.put(None, None, _heartbeat(1_000))
    landing.put(None, None, ((HEADER_WATERMARK_NS, b"soon"),))
    found = rehearsed(landing)
    assert found.by_rule == {"future_time": 1, "null_value": 1} and found.records == 2


def test_without_a_registry_the_evidence_is_incomplete() -> None:
    landing = Landing()
    landing.bar(Row(SYMBOLS[0], 0, 1.0))
    landing.put(SYMBOLS[0].encode(), frame(DOWN) + b"x")
    found = rehearsed(landing)
    assert found.by_rule == {"registry_unavailable": 1}
    assert not found.complete and "registry" in found.notes[0]


def test_a_bar_that_came_before_or_after_is_not_missing() -> None:
    landing = Landing()
    symbol = SYMBOLS[0]
    for minute in range(3):
        landing.bar(Row(symbol, minute, 1.0))
    landing.bar(Row(symbol, 1, 1.0, volume=-1.0))  # a repeat of what is there
    landing.bar(Row(symbol, 3, 1.0, volume=-1.0))  # mended two minutes later
    landing.bar(Row(symbol, 4, 1.0))
    landing.bar(Row(symbol, 3, 1.0))
    found = rehearsed(landing)
    assert (found.blocked_bars, found.missing_bars, found.stale_minutes) == (2, 0, 1.0)


def test_a_topic_of_which_nothing_passes_is_missing_whole() -> None:
    landing = Landing()
    for minute in range(3):
        landing.bar(Row(SYMBOLS[0], minute, 1.0, volume=-1.0))
    found = rehearsed(landing, resume_at=frozenset({2}), cuts=[2])
    assert (found.bars, found.blocked_bars, found.missing_bars) == (0, 3, 3)
    assert found.stale_minutes == 3.0


def test_a_block_is_judged_row_by_row_and_counts_as_one_record() -> None:
    landing = Landing("backfill")
    symbol = SYMBOLS[0]
    rows = [
        Row(symbol, minute, 1.0, volume=-1.0 if minute in (3, 4) else 1.0) for minute in range(9)
    ]
    landing.time_ms += 1_000 * MINUTE_NS // NS_PER_MS
    landing.put(symbol.encode(), block_value(PARENT, symbol, 0, rows, start=0, through=240))
    landing.put(
        b"WRONG", block_value(PARENT, symbol, 240, [Row(symbol, 240, 1.0)], start=240, through=480)
    )
    found = rehearsed(landing)
    assert found.by_rule == {"negative_volume": 1, "key_mismatch": 1}
    assert (found.records, found.bars, found.blocked_bars, found.missing_bars) == (2, 7, 3, 3)
    assert found.by_schema == {"bar_block v2": 2} and found.by_symbol == {symbol: 2}
    assert found.blocked_in_canary == 1


def test_one_absurd_time_does_not_outweigh_the_window() -> None:
    landing = Landing()
    symbol = SYMBOLS[0]
    landing.bar(Row(symbol, -20_000_000, 1.0, volume=-1.0))
    landing.bar(Row(symbol, 5, 1.0))
    assert rehearsed(landing).stale_minutes == 48 * 60


def test_the_traffic_is_what_was_there() -> None:
    landing = Landing()
    for minute in (0, 1, 2, 30, 31):
        landing.bar(Row(SYMBOLS[0], minute, 1.0))
    traffic = rehearsed(landing).traffic
    assert traffic.records == 5
    assert traffic.last_ns - traffic.first_ns == 31 * MINUTE_NS
    assert traffic.longest_silence_ns == 28 * MINUTE_NS
