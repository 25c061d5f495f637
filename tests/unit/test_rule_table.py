"""The one table of what a rule does in canary and in strict, and machines that agree with it.

For every rule that the agent judges a record that breaks it, and it alone, is sent through the real
machine in both modes; what becomes of it has to be what the table says.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rule_page
from machine_world import (
    CLOCK_NS,
    IDS,
    MINUTE_NS,
    PARENT,
    START_NS,
    SYMBOLS,
    Row,
    World,
    block_value,
    columns_of,
    preset,
    resolve,
)
from seamline.schemas.codec import encode_bars
from seamline.schemas.columns import SNAPPED, SUSPECT
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, MODES, STRICT, Policy
from seamline.schemas.records import encode_record
from seamline.schemas.topics import subject_of, topic_name
from seamline.streams.apps.trades import TradesFactory, TradesMachine
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord
from seamline.streams.kernel.protocol import Step
from seamline.streams.kernel.quarantined import Quarantined
from seamline.streams.kernel.rules import (
    FATES,
    NOT_JUDGED,
    OFF_GRID_POLICY,
    PASS,
    QUARANTINE,
    RULES,
    TOLD,
    UNHEARD,
)
from seamline.streams.kernel.writers import Meaning, meaning_of

A = SYMBOLS[0]
KEY = A.encode()
SUBJECT = subject_of(topic_name(PARENT.id, "live"))
UNSEEN, DRIFTED, DOWN = 900, 901, 902
Headers = tuple[tuple[str, bytes], ...]


def drifted_text(name: str, field: str) -> str:
    """The approved schema with a number as text."""
    schema = json.loads(SCHEMAS[name].text)
    for each in schema["fields"]:
        if each["name"] == field:
            each["type"] = "string"
    return json.dumps(schema)


def known(number: int) -> Meaning | None:
    if number == DOWN:
        raise TransportError("the registry does not answer")
    if number == DRIFTED:
        return meaning_of(drifted_text("bar", "close"), ("bar", "bar_block"))
    return resolve(number)


def bar(row: Row | None = None, **columns: Any) -> bytes:
    """A sound bar of minute 3 but for what is stated."""
    made = columns_of([row or Row(A, 3, 100.0)])
    for name, value in columns.items():
        getattr(made, name)[:] = value
    (value,) = encode_bars([A], made, IDS["bar"])
    return value


def drifted_bar() -> bytes:
    """`bar()` as a producer writes it that has the close as text."""
    value = bytearray(bar())
    close = struct.pack("<d", 100.25)
    at = value.index(close)
    text = b"100.25"
    value[at : at + 8] = bytes([2 * len(text)]) + text
    value[1:5] = DRIFTED.to_bytes(4, "big")
    return bytes(value)


def far_bar() -> bytes:
    """`bar()` with an open time beyond int64 nanoseconds, which milliseconds can hold."""
    value, at = bar(), 5 + 1 + len(KEY)
    end = next(place for place in range(at, len(value)) if value[place] < 128) + 1
    number, far = 2 * (2**63 // 10**6 + 1), bytearray()
    while number > 127:
        far.append(number & 127 | 128)
        number >>= 7
    return value[:at] + bytes([*far, number]) + value[end:]


@dataclass(frozen=True)
class Broken:
    """A record that breaks one rule, and what is sent before it."""

    value: bytes | None
    key: bytes | None = KEY
    headers: Headers = ()
    role: str = "live"
    before: Sequence[Row] = ()
    tombstones: tuple[str, ...] = ()


WATERMARK = str(START_NS + 5 * MINUTE_NS).encode()
BEAT: Headers = (("seamline-venue", b"test"), ("seamline-watermark-ns", WATERMARK))
MINUTES_TO_NOW = (CLOCK_NS - START_NS) // MINUTE_NS
BARS: Mapping[str, Callable[[], Broken]] = {
    "non_finite": lambda: Broken(bar(close=math.nan)),
    "invalid_timestamp": lambda: Broken(far_bar()),
    "off_grid": lambda: Broken(bar(Row(A, 3, 100.0, offset_ns=14 * 10**9))),
    "out_of_order": lambda: Broken(bar(), before=[Row(A, 9, 100.0)]),
    "duplicate_equal": lambda: Broken(bar(), before=[Row(A, 3, 100.0)]),
    "duplicate_conflict": lambda: Broken(bar(), before=[Row(A, 3, 99.0)]),
    "gap": lambda: Broken(bar(Row(A, 300, 100.0)), before=[Row(A, 0, 100.0)]),
    "ohlc_inconsistent": lambda: Broken(bar(high=99.0)),
    "non_positive_price": lambda: Broken(bar(low=0.0)),
    "negative_volume": lambda: Broken(bar(volume=-1.0)),
    "trade_ids": lambda: Broken(bar(trades=5, first_trade_id=1, last_trade_id=9)),
    "future_time": lambda: Broken(bar(Row(A, MINUTES_TO_NOW + 5, 100.0))),
    "undecodable": lambda: Broken(bar()[:-3]),
    "wrong_partition": lambda: Broken(
        encode_bars(["ELSE0/USDT"], columns_of([Row(A, 3, 100.0)]), IDS["bar"])[0], b"ELSE0/USDT"
    ),
    "key_mismatch": lambda: Broken(bar(), b"other"),
    "unknown_schema": lambda: Broken(b"\0" + UNSEEN.to_bytes(4, "big") + bar()[5:]),
    "registry_unavailable": lambda: Broken(b"\0" + DOWN.to_bytes(4, "big") + bar()[5:]),
    "null_value": lambda: Broken(None),
    "invalid_block": lambda: Broken(
        block_value(preset(block_rows=120), A, 0, [Row(A, 3, 100.0)], start=0, through=120),
        role="backfill",
    ),
    "wrong_interval": lambda: Broken(
        encode_bars([A], columns_of([Row(A, 3, 100.0)]), IDS["bar"], 5 * MINUTE_NS)[0]
    ),
    "fingerprint_mismatch": lambda: Broken(bar(), headers=(("seamline-fp", b"0" * 16),)),
    "invalid_outages": lambda: Broken(None, None, (*BEAT, ("seamline-outages", b"["))),
    "tombstoned_schema": lambda: Broken(bar(), tombstones=(SCHEMAS["bar"].fingerprint,)),
    "schema_drift": lambda: Broken(drifted_bar()),
}
# Tested by themselves below: a full table, a fault of the program, a rule of trades.
ELSEWHERE = {"too_many_symbols", "poisoned", "non_positive_size"}
JUDGED = [rule.id for rule in RULES.values() if rule.agent[CANARY] != NOT_JUDGED]


@dataclass(frozen=True)
class Seen:
    """What became of a record. `reason` None: it is not in quarantine."""

    reason: str | None
    kept: tuple[bytes | None, bytes | None] | None
    minutes: dict[int, int]
    step: Step

    @property
    def failed(self) -> int:
        return sum(self.step.failures.values())


def sent(directory: Path, broken: Broken, mode: str, off_grid: str = "reject") -> Seen:
    """The record through the machine of its partition."""
    of = preset(off_grid=off_grid)
    world = World(*(directory, (of,), mode, known), tombstones=frozenset(broken.tombstones))
    role: Any = broken.role
    world.land_bars(role, broken.before)
    world.run(role)
    world.steps.clear()
    world.land(role, broken.key, broken.value, broken.headers)
    world.run(role)
    (step,) = world.steps
    quarantine = world.log.topics.get(topic_name(of.id, "quarantine"), [])
    reason, kept = None, None
    if quarantine:
        (record,) = quarantine
        reason = dict(record.headers)["seamline-reason"].decode()
        kept = (record.key, record.value)
    minutes = {row[1]: row[-1] for row in world.conformed()}
    world.machine.close()
    return Seen(reason, kept, minutes, step)


def test_every_judged_rule_is_sent_through_a_machine() -> None:
    assert set(BARS) | ELSEWHERE == set(JUDGED)
    assert {word for rule in RULES.values() for word in rule.agent.values()} == set(FATES)
    for rule in RULES.values():
        assert tuple(rule.agent) == MODES
        # Strict never lets through what canary sets aside.
        assert rule.agent[CANARY] != QUARANTINE or rule.agent[STRICT] == QUARANTINE
        assert rule.follows_mode is (rule.agent[CANARY] != rule.agent[STRICT])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [rule for rule in BARS if rule != "off_grid"])
def test_a_bar_that_breaks_a_rule_fares_as_the_table_says(
    rule: str, mode: str, tmp_path: Path
) -> None:
    broken = BARS[rule]()
    seen = sent(tmp_path, broken, mode)
    fate = RULES[rule].agent[mode]
    if fate == QUARANTINE:
        assert seen.reason == rule and seen.kept == (broken.key, broken.value)
        assert 3 not in seen.minutes
    else:
        assert seen.reason is None
    assert seen.step.failures == ({(subject(broken), mode): 1} if fate in FAILS else {})
    if fate == PASS:
        assert seen.minutes[3] & SUSPECT
    elif fate == UNHEARD:
        assert seen.step.counts[rule] == 1 and seen.step.counts["heartbeats"] == 1
    elif fate == TOLD:
        told = {"duplicate_equal": "equal", "duplicate_conflict": "conflicts"}.get(rule, rule)
        assert rule == "gap" or seen.step.counts[told] == 1
        assert not any(flags & SUSPECT for flags in seen.minutes.values())
    if fate in FAILS:
        (checked,) = seen.step.checked
        assert (checked.seen, checked.failed) == (1, 1)
        assert checked.blocked == (RULES[rule].follows_mode and fate == QUARANTINE)
        assert list(checked.detail.rules()) == [rule]


FAILS = (QUARANTINE, PASS)


def subject(broken: Broken) -> str:
    return subject_of(topic_name(PARENT.id, broken.role))


@pytest.mark.parametrize("mode", MODES)
def test_a_bar_off_the_grid_fares_as_its_preset_says(mode: str, tmp_path: Path) -> None:
    broken = BARS["off_grid"]()
    assert RULES["off_grid"].agent[mode] == OFF_GRID_POLICY
    rejected = sent(tmp_path / "reject", broken, mode)
    assert (rejected.reason, rejected.kept) == ("off_grid", (KEY, broken.value))
    snapped = sent(tmp_path / "snap", broken, mode, "snap")
    assert snapped.reason is None and snapped.minutes == {3: snapped.minutes[3]}
    assert snapped.minutes[3] & SNAPPED
    assert rejected.failed == snapped.failed == 1


def test_a_snapped_bar_counts_under_the_rule_that_decides(tmp_path: Path) -> None:
    """In strict it is in quarantine for that rule, and the budget counts it."""
    off = bar(Row(A, 3, 100.0, offset_ns=14 * 10**9), high=99.0)
    for mode in MODES:
        seen = sent(tmp_path / mode, Broken(off), mode, "snap")
        (checked,) = seen.step.checked
        assert seen.reason == (None if mode == CANARY else "ohlc_inconsistent")
        assert checked.blocked == (mode == STRICT)
        assert list(checked.detail.rules()) == ["ohlc_inconsistent"]


def test_a_foreign_schema_cannot_make_a_detail_that_no_topic_takes(tmp_path: Path) -> None:
    """The names in it are its writer's: as many letters as it likes, or none that is printed."""
    schema = json.loads(drifted_text("bar", "close"))
    schema["fields"].append({"name": "n" * 60_000, "type": "string", "default": ""})
    meaning = meaning_of(json.dumps(schema), ("bar", "bar_block"))
    assert meaning is not None
    value = b"\0" + DRIFTED.to_bytes(4, "big") + b"\0" * 900_000
    for mode in MODES:
        world = World(tmp_path / mode, (preset(),), mode, lambda _: meaning)
        world.land("live", KEY, value, (("x", b"\0" * 99_000),))
        world.run("live")
        (kept,) = world.log.topics[topic_name(PARENT.id, "quarantine")]
        detail = dict(kept.headers)["seamline-detail"]
        assert len(detail) <= 1_000 and b"added, not read" not in detail
        assert kept.value == value
        world.machine.close()
    odd = Quarantined(kept, "unknown_schema", "a\nb\ud800\x00").headers(1)
    assert dict(odd)["seamline-detail"] == b"a?b??"


@pytest.mark.parametrize("mode", MODES)
def test_a_symbol_too_many_goes_to_quarantine(mode: str, tmp_path: Path) -> None:
    world = World(tmp_path, mode=mode)
    intake = world.machine._intake
    for number in range(65_536):
        intake._decoder.table.intern(f"S{number}")
    intake._ids = np.full(65_536, -1)  # all of another partition
    broken = Broken(bar())
    world.land("live", broken.key, broken.value)
    world.run("live")
    assert world.steps[0].quarantined == {"too_many_symbols": 1}
    assert world.steps[0].failures == {(SUBJECT, mode): 1}
    world.machine.close()


def test_what_no_step_can_take_is_no_failure_of_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.land("live", KEY, bar())
    step = world.machine.refuse("live", world.landed["live"][0], "why", world.clock_ns)
    assert step.quarantined == {"poisoned": 1} and not step.failures
    world.machine.close()


# -- trades

TRADES = replace(PARENT, id="trades.test.spot", kind="trades")
TRADE: Mapping[str, Any] = {
    "symbol": A,
    "trade_id": 7,
    "time_ns": START_NS,
    "price": 100.0,
    "size": 1.0,
    "side": "buy",
    "source": None,
    "received_time_ns": START_NS,
}


def trade(**changes: Any) -> bytes:
    return encode_record("trade", {**TRADE, **changes}, IDS["trade"])


def drifted_trade() -> bytes:
    value = bytearray(trade())
    at = value.index(struct.pack("<d", 100.0))
    value[at : at + 8] = bytes([6]) + b"100"
    value[1:5] = DRIFTED.to_bytes(4, "big")
    return bytes(value)


TRADE_CASES: Mapping[str, Callable[[], Broken]] = {
    "non_finite": lambda: Broken(trade(price=math.inf)),
    "non_positive_price": lambda: Broken(trade(price=0.0)),
    "non_positive_size": lambda: Broken(trade(size=-1.0)),
    "future_time": lambda: Broken(trade(time_ns=CLOCK_NS + 60 * 10**9)),
    "undecodable": lambda: Broken(trade()[:-1]),
    "wrong_partition": lambda: Broken(trade(symbol="ELSE0/USDT"), b"ELSE0/USDT"),
    "key_mismatch": lambda: Broken(trade(), b"other"),
    "unknown_schema": lambda: Broken(b"\0" + UNSEEN.to_bytes(4, "big") + trade()[5:]),
    "registry_unavailable": lambda: Broken(b"\0" + DOWN.to_bytes(4, "big") + trade()[5:]),
    "null_value": lambda: Broken(None),
    "fingerprint_mismatch": lambda: Broken(trade(), headers=(("seamline-fp", b"0" * 16),)),
    "tombstoned_schema": lambda: Broken(trade(), tombstones=(SCHEMAS["trade"].fingerprint,)),
    "schema_drift": lambda: Broken(drifted_trade()),
}


def of_trades(number: int) -> Meaning | None:
    if number == DRIFTED:
        return meaning_of(drifted_text("trade", "price"), ("trade",))
    return known(number)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", TRADE_CASES)
def test_a_trade_that_breaks_a_rule_fares_as_the_table_says(rule: str, mode: str) -> None:
    broken, log = TRADE_CASES[rule](), MemoryLog(0)
    policy = Policy(mode, 0, frozenset(broken.tombstones))
    factory = TradesFactory(TRADES, IDS, of_trades, lambda _: policy, "test")
    machine: TradesMachine = factory.rebuild(log)
    topic = topic_name(TRADES.id, "live")
    records = [MemoryRecord(topic, 0, 0, 0, broken.key, broken.value, broken.headers)]
    step = machine.step("live", records, 0, CLOCK_NS, policy)
    log.commit(machine, step)
    kept = log.topics.get(topic_name(TRADES.id, "quarantine"), [])
    set_aside = RULES[rule].agent[mode] == QUARANTINE
    assert [(r.key, r.value) for r in kept] == [(broken.key, broken.value)] * set_aside
    assert step.quarantined == ({rule: 1} if set_aside else {})
    assert step.rows == (not set_aside)
    assert step.failures == {(subject_of(topic), mode): 1}
    (checked,) = step.checked
    assert checked.blocked == (set_aside and RULES[rule].follows_mode)
    assert list(checked.detail.rules()) == [rule]


def test_the_documentation_has_the_table_of_the_code() -> None:
    text = rule_page.PAGE.read_text(encoding="utf-8")
    assert text == rule_page.with_table(text), "run: python tests/rule_page.py"
