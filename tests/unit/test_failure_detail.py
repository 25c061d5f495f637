"""Who breaks which rule: numbers that add up, lines that are bounded, records that count once."""

from __future__ import annotations

from pathlib import Path

from machine_world import PARENT, SYMBOLS, Row, World, block_value
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.topics import subject_of, topic_name
from seamline.streams.kernel.failure_detail import (
    KEYS_MAX,
    SAMPLES,
    TOP,
    Checked,
    FailedRecords,
    FailureWindows,
)
from seamline.streams.kernel.memory_log import MemoryRecord

A = SYMBOLS[0]
MINUTE_NS = 60 * 10**9
FRAMED = b"\0\0\0\0\7rest"


def record(number: int, symbol: str = A, producer: bytes | None = b"acme") -> MemoryRecord:
    headers = () if producer is None else (("seamline-producer", producer),)
    return MemoryRecord("seamline.p.live", 3, number, 0, symbol.encode(), FRAMED, headers)


def checked(*records: tuple[MemoryRecord, str]) -> Checked:
    detail = FailedRecords()
    for one, rule in records:
        detail.add(one, rule, "why")
    return Checked("s", STRICT, 1, len(records), len(records), len(records), detail)


def test_a_line_names_producer_schema_and_symbol_and_where_it_was_first() -> None:
    windows = FailureWindows()
    windows.add(checked((record(9), "off_grid"), (record(10), "off_grid"), (record(11), "gap")))
    one, two = windows.lines(0)
    assert one == (
        f"s in strict: 2 records broke off_grid: 2 producer=acme schema_id=7 symbol={A}; first: "
        f"seamline.p.live[3]@9 producer=acme schema_id=7 symbol={A} why; "
        f"seamline.p.live[3]@10 producer=acme schema_id=7 symbol={A} why"
    )
    assert two.startswith("s in strict: 1 records broke gap")


def test_a_rule_is_told_at_once_and_then_once_a_minute() -> None:
    windows = FailureWindows()
    windows.add(checked((record(1), "off_grid")))
    assert len(windows.lines(1_000)) == 1 and windows.lines(1_001) == []
    for number in range(2, 50):
        windows.add(checked((record(number), "off_grid")))
        assert windows.lines(1_000 + number) == []
    (line,) = windows.lines(1_000 + MINUTE_NS)
    assert line.startswith("s in strict: 48 records broke off_grid: 48 producer=acme")
    assert line.count("why") == SAMPLES
    windows.add(checked((record(99), "off_grid")))
    assert len(windows.lines(0)) == 1, "a clock that went back holds no line back"


def test_what_makes_names_up_gets_no_memory_and_the_numbers_still_add_up() -> None:
    windows, many = FailureWindows(), 3 * KEYS_MAX
    for number in range(many):
        windows.add(checked((record(number, f"S{number}", None), "off_grid")))
    windows.add(checked(*((record(number), "off_grid") for number in range(5))))
    held = windows._held["s", STRICT, "off_grid"]
    assert len(held.counts) == KEYS_MAX and held.rules() == {"off_grid": many + 5}
    (line,) = windows.lines(0)
    assert f"{many + 5} records" in line and line.count("producer=unknown") <= TOP + SAMPLES
    assert f"{many + 5 - TOP} others" in line and len(line) < 5_000


def test_what_is_not_printable_is_shown_as_such_and_cut() -> None:
    detail = FailedRecords()
    detail.add(record(1, "\x1b[31m" + "x" * 200, b"a\nb"), "gap", "one\ntwo" * 100)
    ((failure, _),) = detail.counts.items()
    assert failure.symbol == "?[31m" + "x" * 59 and failure.producer == "a?b"
    assert "\n" not in detail.samples["gap"][0] and len(detail.samples["gap"][0]) < 400


def test_a_block_is_one_record_and_counts_once(tmp_path: Path) -> None:
    """Ten bars of it break a rule; in canary and in strict one record failed."""
    rows = [Row(A, minute, 100.0, 0, volume=-1.0 if minute < 10 else 1.0) for minute in range(20)]
    value = block_value(PARENT, A, 0, rows, start=0, through=20)
    for mode in (CANARY, STRICT):
        world = World(tmp_path / mode, (PARENT,), mode)
        world.land("backfill", A.encode(), value)
        world.run("backfill")
        (found,) = world.steps[0].checked
        assert (found.seen, found.failed, found.blocked) == (1, 1, int(mode == STRICT))
        subject = subject_of(topic_name(PARENT.id, "backfill"))
        assert world.steps[0].failures == {(subject, mode): 1}
        assert len(world.final()) == (20 if mode == CANARY else 10)
        world.machine.close()


def test_a_preview_that_fails_is_counted_when_something_is_committed(tmp_path: Path) -> None:
    """Alone it is worth no commit, and no count is lost for it; each under the mode of its time."""
    world = World(tmp_path, (PARENT,), CANARY)
    world.land_bars("live", [Row(A, 0, 100.0)])
    world.run("live")
    world.land_bars("live", [Row(A, 1, 100.0, 3, volume=-1.0, closed=False)])
    world.run("live")
    assert not world.steps[-1].batches and not world.steps[-1].checked
    world.mode = STRICT
    world.land_bars("live", [Row(A, 2, 100.0, volume=-1.0)])
    world.run("live")
    found = [(each.mode, each.seen, each.failed, each.blocked) for each in world.steps[-1].checked]
    assert found == [(CANARY, 1, 1, 0), (STRICT, 1, 1, 1)]
    world.machine.close()
