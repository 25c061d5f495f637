"""The SDK producer on the real broker and registry: what lands, what is refused, who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mode_setting import set_mode
from seamline.connectors.metrics import ValidationFailures
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder, decode_block, schema_ids
from seamline.schemas.columns import SOURCES
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import SchemaValidationError, UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.preset import Preset
from seamline.schemas.topics import partition_of, producer_of, subject_of, topic_name
from seamline.sdk import Producer
from venue_world import all_records, fresh_preset, registered

A, B = "BTC/USDT", "ETH/USDT"
START = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_S = 60.0


def bars(count: int, first: int = 0, **changes: Any) -> list[dict[str, Any]]:
    prices = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0, **changes}
    return [{"open_time": START + timedelta(minutes=first + at), **prices} for at in range(count)]


def producer(world: World, preset: Preset, **changes: Any) -> Producer:
    more: dict[str, Any] = {"name": "desk-7", "presets": {preset.id: preset}, "world": world}
    return Producer(preset.id, **more | changes)


def await_mode(sender: Producer, mode: str) -> None:
    until(lambda: sender.mode == mode, f"mode {mode}")


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not in {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def test_bars_land_as_the_worker_asks_for_them_and_modes_are_followed(world: World) -> None:
    """Canary counts and sends, strict refuses whole calls, the quarantine takes what may not pass,
    and back; each record once, under its producer's name."""
    preset = fresh_preset(world)
    live, ids = subject_of(topic_name(preset.id, "live")), registered(world, preset)
    bad = bars(1, 5, high=8.0)
    with producer(world, preset) as sender:
        assert sender.failures.counts() == {(live, CANARY): 0, (live, STRICT): 0}
        assert sender.mode == CANARY
        sent = sender.send_bars(A, bars(5))
        assert (sent.sent, sent.failed, sent.quarantined, sent.rules) == (5, 0, 0, {})
        sent = sender.send_bars(B, [*bad, *bars(1, 6)])
        assert (sent.sent, sent.failed, dict(sent.rules)) == (2, 1, {"ohlc_inconsistent": 1})
        assert sender.failures.counts() == {(live, CANARY): 1, (live, STRICT): 0}

        set_mode(world, live, STRICT)
        await_mode(sender, STRICT)
        before = sender.counts.sent
        with pytest.raises(SchemaValidationError) as raised:
            sender.send_bars(A, [*bars(2, 10), *bad, *bad])
        error = raised.value
        assert (error.subject, error.field, error.value) == (live, "high", 8.0)
        assert (error.rule, error.writer_schema) == ("ohlc_inconsistent", "bar v1")
        assert error.fields["invalid"] == 2 and error.fields["row"] == 2
        assert sender.counts.sent == before, "nothing of the call was sent"
        assert sender.failures.counts() == {(live, CANARY): 1, (live, STRICT): 2}
        sender.send_bars(A, bars(2, 10))

        set_mode(world, live, CANARY)
        await_mode(sender, CANARY)
        assert sender.send_bars(A, bars(1, 12, volume=-1.0)).failed == 1
        sender.flush()
        assert (sender.counts.delivered, sender.counts.failed) == (10, 0)

    landed = all_records(world, preset, "live")
    assert len(landed) == 10
    values = [record.value for record in landed if record.value is not None]
    decoder = BarDecoder()
    decoded = decoder.decode(values)
    assert decoded.ok.all() and decoded.columns.closed.all()
    assert {SOURCES[source] for source in decoded.columns.source} == {"ws_closed"}
    assert set(schema_ids(values).tolist()) == {ids["bar"]}
    for record, sid in zip(landed, decoded.sid.tolist(), strict=True):
        symbol = decoder.symbols[sid]
        assert record.key == symbol.encode()
        assert record.partition == partition_of(symbol, preset.partitions)
        assert producer_of(record.headers) == "desk-7"
        assert dict(record.headers)["seamline-fp"] == SCHEMAS["bar"].header
    assert all_records(world, preset, "quarantine") == []


def test_what_may_not_pass_goes_to_quarantine_where_that_was_asked(world: World) -> None:
    preset = fresh_preset(world)
    failures = ValidationFailures()
    live = subject_of(topic_name(preset.id, "live"))
    set_mode(world, live, STRICT)
    with producer(world, preset, on_invalid="quarantine", failures=failures) as sender:
        mixed = [*bars(1), *bars(1, 1, low=11.5), *bars(1, 2, open=float("nan")), *bars(1, 3)]
        sent = sender.send_bars(A, mixed)
        assert (sent.sent, sent.failed, sent.quarantined) == (2, 0, 2)
    kept = all_records(world, preset, "quarantine")
    assert [dict(record.headers)["seamline-reason"] for record in kept] == [
        b"ohlc_inconsistent",
        b"non_finite",
    ]
    decoded = BarDecoder().decode([record.value or b"" for record in kept])
    assert decoded.columns.low[0] == 11.5 and decoded.columns.open[1] != decoded.columns.open[1]
    for record in kept:
        headers = dict(record.headers)
        assert record.key == A.encode() and producer_of(record.headers) == "desk-7"
        assert headers["seamline-schema-id"] == str(registered(world, preset)["bar"]).encode()
        assert int(headers["seamline-first-failure-ns"]) > 0
    assert len(all_records(world, preset, "live")) == 2
    assert failures.counts()[live, STRICT] == 2


def test_history_goes_into_blocks(world: World) -> None:
    preset = fresh_preset(world)
    with producer(world, preset, topic="backfill", source="rest_settled") as sender:
        assert sender.send_bars(A, bars(500, 230)[::-1]).sent == 500
        with pytest.raises(UsageError, match=r"bars\[1\]\.open_time"):
            sender.send_bars(A, [*bars(1), *bars(1)])
    blocks = [decode_block(m.value or b"") for m in all_records(world, preset, "backfill")]
    assert [len(block.columns) for block in blocks] == [10, 240, 240, 10]
    for block in blocks:
        assert block.complete_through_ns is None and block.landing
        assert block.digest == block_digest(A, block.columns)
        assert block.block_start_ns % preset.block_ns == 0


def test_a_wrong_call_is_named_and_sends_nothing(world: World) -> None:
    preset = fresh_preset(world)
    with producer(world, preset) as sender:
        for wrong in ({"open": "oops"}, {"open_time": datetime(2026, 1, 1)}, {"trades": 2**63}):
            with pytest.raises(UsageError, match=r"bars\[1\]\."):
                sender.send_bars(A, [*bars(1), {**bars(1)[0], **wrong}])
        with pytest.raises(SchemaValidationError, match="non_finite") as raised:
            sender.send_bars(A, [*bars(1), *bars(1, 1, close=float("inf"))])
        assert (raised.value.field, raised.value.value) == ("close", float("inf"))
        with pytest.raises(SchemaValidationError, match="future_time"):
            sender.send_bars(A, [{**bars(1)[0], "open_time": datetime(2200, 1, 1, tzinfo=UTC)}])
        for symbol in ("", "x" * 65, None, "a\nb"):
            with pytest.raises(UsageError, match="symbol"):
                sender.send_bars(symbol, bars(1))  # type: ignore[arg-type]
        assert sender.send_bars(A, []).sent == 0
        assert sender.counts.sent == 0
    sender.close()
    with pytest.raises(UsageError, match="closed"):
        sender.send_bars(A, bars(1))
