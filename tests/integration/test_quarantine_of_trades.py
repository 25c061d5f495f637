"""Trades on a real broker: what strict would block is rehearsed with exact numbers, and what it did
block goes back once, but for trades that have passed."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from preset_making import FreshPreset, make_trades_preset
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.governance.quarantine import Choice, Quarantine
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.live_records import last_trade_ids
from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import STRICT, Policy
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.times import NS_PER_S, NS_PER_US
from seamline.schemas.topics import HEADER_PRODUCER, HEADER_REDRIVEN, subject_of
from seamline.sdk.cli.main import app
from seamline.streams.apps.preset_app import PresetApp
from seamline.streams.apps.self_redrive import SelfRedrive
from seamline.streams.apps.trades import TradesFactory
from seamline.streams.kernel.memory_log import MemoryLog

pytestmark = pytest.mark.integration

SYMBOL = "BTC/USDT"
FEED = [(HEADER_PRODUCER, b"feed-7")]
NOW_NS = time.time_ns() // NS_PER_US * NS_PER_US - 60 * NS_PER_S


def run(fresh: FreshPreset, *arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, [*arguments, "-o", "json"], env=fresh.environment())
    assert done.exit_code == status, (done.exit_code, done.stdout, done.stderr, done.exception)
    return json.loads(done.stdout)


def quarantine(fresh: FreshPreset, command: str, *arguments: str, status: int = 0) -> Any:
    return run(fresh, "quarantine", command, fresh.preset.id, *arguments, status=status)


def land(fresh: FreshPreset, *trades: tuple[int, float, float]) -> None:
    """(id, price, second), one after the other."""
    producer = IdempotentProducer(fresh.world.cluster)
    for trade_id, price, second in trades:
        fields = {
            "symbol": SYMBOL,
            "trade_id": trade_id,
            "time_ns": NOW_NS + int(second * NS_PER_S),
            "price": price,
            "size": 1.0,
            "received_time_ns": NOW_NS,
        }
        value = encode_record("trade", fields, fresh.ids["trade"])
        producer.send(fresh.topic("live"), SYMBOL.encode(), value, headers=FEED)
    producer.close(60)


def landed(fresh: FreshPreset, role: str = "live", start: int = 0) -> list[Message]:
    tp = (fresh.topic(role), 0)
    ends = Admin(fresh.world.cluster).end_offsets([tp])
    return [r for batch in read_range(fresh.world.cluster, {tp: start}, ends) for r in batch]


def work(fresh: FreshPreset, start: int = 0, *, registry: bool = True) -> int:
    """What a worker in strict does with `live` from an offset on; the next offset."""

    def resolve(number: int) -> Any:
        if not registry:
            raise TransportError("does not answer", parameter="url", value="http://x")
        return SCHEMAS["trade"] if number == fresh.ids["trade"] else None

    strict = Policy(STRICT)
    factory = TradesFactory(fresh.preset, fresh.ids, resolve, lambda _: strict, "w")
    records = landed(fresh, start=start)
    step = factory.rebuild(MemoryLog(0)).step("live", records, 0, time.time_ns(), strict)
    producer = IdempotentProducer(fresh.world.cluster)
    for batch in step.batches:
        if batch.topic == fresh.topic("quarantine"):
            assert isinstance(batch.headers, list)
            for key, value, headers in zip(batch.keys, batch.values, batch.headers, strict=True):
                producer.send(batch.topic, key, value, headers=list(headers), partition=0)
    producer.close(60)
    return records[-1].offset + 1


def test_what_waited_for_the_registry_goes_back_by_itself(world: World, tmp_path: Path) -> None:
    fresh = make_trades_preset(world, tmp_path)
    land(fresh, (12, 6.0, 12), (13, 6.0, 13))
    end = work(fresh, registry=False)
    assert [row["rule"] for row in quarantine(fresh, "top")] == ["registry_unavailable"]
    like = SimpleNamespace(preset=fresh.preset, owners={0: None}, unavailable=set())
    asyncio.run(until_empty(fresh, SelfRedrive(cast(PresetApp, like), world)))
    again = [decode_record("trade", r.value or b"") for r in landed(fresh, start=end)]
    assert [trade["trade_id"] for trade in again] == [12, 13]


async def until_empty(fresh: FreshPreset, watcher: SelfRedrive) -> None:
    def is_empty() -> bool:
        return not any(Quarantine(fresh.world.cluster, fresh.preset).open(Choice()))

    running = asyncio.create_task(watcher.run())
    deadline = time.monotonic() + 120
    while not await asyncio.to_thread(is_empty):
        assert time.monotonic() < deadline
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_trades_are_rehearsed_and_go_back_once(world: World, tmp_path: Path) -> None:
    fresh = make_trades_preset(world, tmp_path)
    wrong = [(2, -1.0, 1), (3, -1.0, 2), (4, -1.0, 4), (4, -2.0, 4)]
    land(fresh, (1, 5.0, 0), *wrong[:2], (3, 5.0, 3), *wrong[2:], (9, 5.0, 10))

    # 1 a rehearsal: trades 2 and 4 would be missing; at second 3 and at 10 something newer came.
    short = f"{fresh.preset.id}.live"
    found = run(fresh, "schema", "rehearse", short, "--since", "1h", "--actor", "ann")
    numbers = [found[name] for name in ("records", "bars", "blocked_records", "blocked_bars")]
    assert numbers == [7, 3, 4, 4] and found["blocked_in_canary"] == 0
    assert (found["missing_bars"], found["by_rule"]) == (2, {"non_positive_price": 4})
    assert found["by_producer"] == {"feed-7": 4} and found["by_symbol"] == {SYMBOL: 4}
    assert found["stale_minutes"] == pytest.approx((1 + 1 + 6) / 60)
    assert found["complete"] and any("of trades" in note for note in found["notes"])

    # 2 in strict a worker sets aside just those; in canary again, each goes back once.
    after = work(fresh)
    assert [row["records"] for row in quarantine(fresh, "top")] == [4]
    does = [row["does"].partition(" ")[0] for row in quarantine(fresh, "redrive", "--dry-run")]
    assert does == ["lands", "lands", "is", "is"]
    answer = quarantine(fresh, "redrive", "--actor", "ann")
    assert (answer["redriven"], answer["superseded"], answer["refused"]) == (2, 2, 0)
    assert quarantine(fresh, "top") == []
    back = landed(fresh, start=after)
    trades = [decode_record("trade", record.value or b"") for record in back]
    assert [(t["trade_id"], t["price"]) for t in trades] == [(2, -1.0), (4, -2.0)]
    live = fresh.topic("live")
    assert [dict(r.headers)[HEADER_REDRIVEN] for r in back] == [
        *(f"{live}/0/{offset}".encode() for offset in (1, 5))
    ]
    assert quarantine(fresh, "redrive")["entries"] == []
    # The feed goes on behind the newest id, not behind what came back.
    assert last_trade_ids(world.cluster, fresh.preset, [SYMBOL], fresh.ids["trade"]) == {SYMBOL: 9}

    # 3 strict again: a copy of a trade that passed cannot be corrected, a new one can.
    land(fresh, (1, -7.0, 0), (11, -7.0, 11))
    last = work(fresh, back[-1].offset + 1)
    fix = ("--rule", "non_positive_price", "--set", "price=6")
    answer = quarantine(fresh, "fix", *fix, status=1)
    assert (answer["redriven"], answer["superseded"], answer["refused"]) == (1, 0, 1)
    (fixed,) = landed(fresh, start=last)
    assert decode_record("trade", fixed.value or b"")["trade_id"] == 11
    assert [row["records"] for row in quarantine(fresh, "top")] == [1]
    # As it is, it is settled: what passed stands.
    answer = quarantine(fresh, "redrive")
    assert (answer["redriven"], answer["superseded"]) == (0, 1)
    assert quarantine(fresh, "top") == [] and landed(fresh, start=last) == [fixed]
    mine = [
        (entry.action, entry.evidence["records"])
        for entry in GovernanceLog(world.cluster).read().entries
        if entry.subject == subject_of(live)
    ]
    assert mine == [*(("rehearse", 7), ("redrive", 2), ("redrive", 0), ("fix", 1), ("redrive", 0))]
