"""A rehearsal of trades refuses exactly what their worker puts into quarantine in strict, and
counts trades by their ids and times."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from machine_world import IDS, PARENT, START_NS, SYMBOLS, resolve
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.modes import MODES, STRICT, Policy
from seamline.schemas.records import encode_record
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.schemas.topics import HEADER_PRODUCER, partition_of, topic_name
from seamline.streams.apps.trades import TradesFactory
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord
from seamline.streams.kernel.rehearsal import Evidence
from seamline.streams.kernel.rehearsal_judge import Bars
from seamline.streams.kernel.rehearsal_tally import Tally
from seamline.streams.kernel.rehearsal_trades import ID_BITS, TradesJudge

TRADES = replace(PARENT, id="trades.test.spot", kind="trades", interval_ns=0)
TOPIC = topic_name(TRADES.id, "live")
A, B = SYMBOLS[:2]
HOUR_NS = 3_600 * NS_PER_S


def trade(trade_id: int, second: float = 0.0, **changes: Any) -> bytes:
    fields = {
        "symbol": A,
        "trade_id": trade_id,
        "time_ns": START_NS + int(second * NS_PER_S),
        "price": 100.0,
        "size": 1.0,
        "side": "buy",
        "source": None,
        "received_time_ns": START_NS,
    }
    return encode_record("trade", {**fields, **changes}, IDS["trade"])


def landed(
    values: Sequence[bytes | None], second: float = HOUR_NS / NS_PER_S
) -> list[MemoryRecord]:
    """Records of A, appended one second apart from `second` on."""
    first_ms = (START_NS + int(second * NS_PER_S)) // NS_PER_MS
    feed = ((HEADER_PRODUCER, b"feed-7"),)
    return [
        MemoryRecord(TOPIC, 0, at, first_ms + 1_000 * at, A.encode(), value, feed)
        for at, value in enumerate(values)
    ]


def evidence(
    records: Sequence[MemoryRecord], batch: int = 1_000, resumed: bool = False
) -> Evidence:
    tally = Tally(since_ns=START_NS, ended_ns=START_NS + 2 * HOUR_NS, interval_ns=1_000)
    judge = TradesJudge(TRADES, 0, resolve)
    for at in range(0, len(records), batch):
        tally.take(0, judge.judge(records[at : at + batch]), judge.symbols)
        if resumed:
            tally, judge = Tally.from_json(tally.to_json()), TradesJudge(TRADES, 0, resolve)
    found = tally.evidence(
        subject=f"{TOPIC}-value", topic=TOPIC, bundle_sha256="0" * 64, partitions={}, mode_version=0
    )
    return Evidence.from_json(found.to_json())


def broken(rng: random.Random, trade_id: int) -> MemoryRecord:
    """One landed record that is right or breaks something, appended an hour after it happened."""
    (record,) = landed([trade(trade_id, rng.randrange(100))])
    value: bytes | None = record.value
    match rng.randrange(12):
        case 0:
            value = trade(trade_id, price=rng.choice((0.0, -1.0, math.nan)))
        case 1:
            value = trade(trade_id, size=rng.choice((0.0, -1.0, math.inf)))
        case 2:
            value = trade(trade_id, second=3_600 + rng.choice((5, 15)))
        case 3:
            value = rng.choice((None, b"", b"no frame", (record.value or b"")[:-1]))
        case 4:
            value = b"\0" + (900).to_bytes(4, "big") + (record.value or b"")[5:]
        case 5:
            value = trade(trade_id, symbol="ELSE0/USDT")
        case 6:
            return replace(record, headers=(("seamline-fp", b"0" * 16),))
        case 7:
            mark = str(START_NS + rng.choice((3_600, 3_605, 3_615)) * NS_PER_S).encode()
            beat = (("seamline-venue", b"test"), ("seamline-watermark-ns", mark))
            return replace(record, value=None, headers=beat)
    return replace(record, value=value)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("withdrawn", [False, True])
def test_what_is_refused_is_what_the_worker_puts_into_quarantine(
    seed: int, withdrawn: bool
) -> None:
    rng = random.Random(seed)
    tombstones = frozenset({SCHEMAS["trade"].fingerprint} if withdrawn else ())
    records = [replace(broken(rng, at), offset=at) for at in range(60)]
    judged = TradesJudge(TRADES, 0, resolve, tombstones).judge(records)
    for mode in MODES:
        policy = Policy(mode, 0, tombstones)
        machine = TradesFactory(TRADES, IDS, resolve, lambda _, p=policy: p, "w").rebuild(  # type: ignore[misc]
            MemoryLog(0)
        )
        refused: dict[int, str] = {}
        passed = 0
        for record in records:
            step = machine.step("live", [record], 0, record.timestamp * NS_PER_MS, policy)
            refused.update((record.offset, reason) for reason in step.quarantined)
            passed += step.rows
        found = {each.offset: each.reason for each in judged.blocked}
        if mode == STRICT:
            assert (found, judged.accepted) == (refused, passed)
            assert judged.records == len(refused) + passed
        else:
            assert {each.offset for each in judged.blocked if each.in_canary} == refused.keys()


def test_trades_are_counted_by_id_and_staleness_by_their_times() -> None:
    records = landed(
        [
            trade(1, 0),
            trade(2, 10, price=-1.0),  # stale until trade 3: 20 s
            trade(2, 10, price=-2.0),  # the same trade, blocked again
            trade(3, 30),
            trade(4, 31, size=0.0),  # it comes again and right: not missing
            trade(4, 31),
            trade(5, 40, price=math.nan),  # canary refuses it as well: nothing gets staler
            trade(6, 50),
        ]
    )
    found = evidence(records)
    assert (found.records, found.bars) == (8, 4)
    assert (found.blocked_records, found.blocked_in_canary, found.blocked_bars) == (4, 1, 4)
    assert found.missing_bars == 2  # trades 2 and 5
    assert found.stale_minutes == pytest.approx(20 / 60)
    assert found.by_rule == {"non_positive_price": 2, "non_positive_size": 1, "non_finite": 1}
    assert found.by_producer == {"feed-7": 4} and found.by_schema == {"trade v2": 4}
    assert found.complete and not found.clean
    for batch in (1, 3):
        assert evidence(records, batch) == found
        assert evidence(records, batch, resumed=True) == found


def test_trades_of_a_withdrawn_schema_are_missing() -> None:
    tally = Tally(since_ns=START_NS, ended_ns=START_NS + 2 * HOUR_NS, interval_ns=1_000)
    judge = TradesJudge(TRADES, 0, resolve, frozenset({SCHEMAS["trade"].fingerprint}))
    tally.take(0, judge.judge(landed([trade(1, 0), trade(2, 30), trade(2, 30)])), judge.symbols)
    assert (tally.totals["blocked_bars"], tally.totals["blocked_in_canary"]) == (3, 0)
    assert tally.missing() == 2  # strict has read none of them, canary both
    assert tally.stale_minutes() == pytest.approx(0.5)


def test_ids_of_any_size_are_told_apart() -> None:
    large = 1 << ID_BITS
    ids = (5, 5 + large, 5 - large, 2**63 - 1, -(2**63))
    accepted = landed([trade(number) for number in ids])
    for number in ids:
        others = [r for r, n in zip(accepted, ids, strict=True) if n != number]
        blocked = replace(landed([trade(number, price=0.0)])[0], offset=9)
        assert evidence([*others, blocked]).missing_bars == 1
        assert evidence([*accepted, blocked]).missing_bars == 0


def test_symbols_that_no_table_holds_are_counted_as_any_other() -> None:
    long = [f"{'x' * 65}{n}" for n in range(200)]
    here = [name for name in long if partition_of(name, TRADES.partitions) == 0][:3]
    records = [
        replace(landed([value])[0], offset=at, key=name.encode())
        for at, (name, value) in enumerate(
            [
                *((name, trade(7, 1, symbol=name)) for name in (*here, here[0])),
                (here[1], trade(8, 2, symbol=here[1], price=-1.0)),
                (here[2], trade(7, 2, symbol=here[2], price=-1.0)),
            ]
        )
    ]
    found = evidence(records)
    assert (found.bars, found.blocked_bars, found.missing_bars) == (4, 2, 1)
    assert found.by_symbol == dict.fromkeys(here[1:], 1)
    assert evidence(records, batch=1) == found


def numbers_of(bars: Bars) -> list[int]:
    assert bars.numbers is not None
    return [int(number) for number in bars.numbers]


def test_a_series_too_many_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seamline.streams.kernel.rehearsal_trades.SERIES_MAX", 2)
    large = 1 << ID_BITS
    records = landed([trade(number) for number in (large, 5, 5 + 2 * large, 6)])
    for batch in (1, 2, 4):
        judge = TradesJudge(TRADES, 0, resolve)
        parts = [judge.judge(records[at : at + batch]) for at in range(0, 4, batch)]
        assert list(judge.symbols) == [f"0 {A}", f"1 {A}"]
        rows = [row for part in parts for bars in part.bars for row in numbers_of(bars)]
        assert rows == [0, 5, 6] and any(part.inexact for part in parts)
    assert not evidence(records).complete


def test_another_symbol_is_no_newer_state() -> None:
    other = replace(landed([trade(1, 60, symbol=B)])[0], key=B.encode(), offset=1)
    (blocked,) = landed([trade(1, 0, price=0.0)])
    found = evidence([blocked, other])
    assert (found.missing_bars, found.by_symbol) == (1, {A: 1})
    assert 0 < found.stale_minutes < 1e-6  # no newer trade of its symbol says for how long
    assert evidence([other]).clean
