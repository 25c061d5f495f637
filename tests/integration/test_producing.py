"""The SDK producer on the real broker and registry: what lands, what is refused, who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from mode_setting import set_mode
from preset_fixture import MakePreset
from seamline.connectors.kafka.producer import ProducerSettings
from seamline.connectors.metrics import ValidationFailures
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder, decode_block, schema_ids
from seamline.schemas.columns import SOURCES
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import (
    ContractError,
    SchemaValidationError,
    TransportError,
    UsageError,
)
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import CANARY, STRICT
from seamline.schemas.preset import Preset
from seamline.schemas.topics import partition_of, producer_of, subject_of, topic_name
from seamline.sdk import Producer
from venue_world import all_records, registered
from venue_world import fresh_preset as fresh

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


def refused_for(sender: Producer) -> str | None:
    """The rule that refuses a bar without fault, None where it is sent."""
    try:
        sender.send_bars(B, bars(1, 50))
    except SchemaValidationError as error:
        return error.rule
    return None


def test_bars_land_as_the_worker_asks_for_them_and_modes_are_followed(world: World) -> None:
    """Canary counts and sends, strict refuses whole calls, the quarantine takes what may not pass,
    and back; each record once, under its producer's name."""
    preset = fresh(world)
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
        assert (error.rule, error.writer_schema) == ("ohlc_inconsistent", "bar v2")
        assert error.fields["invalid"] == 2 and error.fields["row"] == 2
        assert sender.counts.sent == before, "nothing of the call was sent"
        assert sender.failures.counts() == {(live, CANARY): 1, (live, STRICT): 2}
        sender.send_bars(A, bars(2, 10))

        set_mode(world, live, STRICT, (SCHEMAS["bar"].fingerprint,))
        until(lambda: refused_for(sender) == "tombstoned_schema", "the schema is withdrawn")
        set_mode(world, live, CANARY)
        await_mode(sender, CANARY)
        assert sender.send_bars(A, bars(1, 12, volume=-1.0)).failed == 1
        sender.flush()
        sent_in_all = sender.counts.sent
        assert (sender.counts.delivered, sender.counts.failed) == (sent_in_all, 0)

    landed = all_records(world, preset, "live")
    assert len(landed) == sent_in_all >= 10
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
    preset = fresh(world)
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
    preset = fresh(world)
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
    preset = fresh(world)
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


def test_what_does_not_arrive_is_told_by_symbol(world: World) -> None:
    preset = fresh(world)
    quick = ProducerSettings(linger_ms=1, message_timeout_ms=2_000)
    with pytest.raises(TransportError, match="1 records were not delivered: ETH/USDT 1"):  # noqa: SIM117
        with producer(world, preset, settings=quick) as sender:
            sender.send_bars(A, bars(1))
            sender.flush()
            admin = AdminClient(world.cluster.client_config())
            for future in admin.delete_topics([topic_name(preset.id, "live")]).values():
                future.result(30)
            sender.send_bars(A, bars(3, 1))
            with pytest.raises(TransportError) as raised:
                sender.flush(DEADLINE_S)
            assert raised.value.fields["undelivered"] == {A: 3}
            assert "BTC/USDT 3 (the first at 2026-01-01T00:01:00Z)" in raised.value.message
            assert (sender.counts.delivered, sender.counts.failed) == (1, 3)
            sender.send_bars(B, bars(1))
            until(lambda: sender.counts.failed == 4, "the loss is known")
            with pytest.raises(TransportError, match="ETH/USDT 1"):
                sender.send_bars(A, bars(1, 9))  # it says what was lost before and sends nothing
            assert sender.counts.sent == 5
            sender.send_bars(B, bars(1, 1))


def test_nobody_sends_without_topics_or_a_registry(world: World) -> None:
    preset = fresh(world)
    with pytest.raises(TransportError, match="registry"):
        producer(World(world.cluster, "http://127.0.0.1:9/apis"), preset)
    with pytest.raises(ContractError, match="topics apply"):
        producer(world, replace(preset, id="ohlcv.nobody.has.1m"))
    for wrong in (
        {"topic": "conformed"},
        {"topic": "backfill"},
        {"topic": "backfill", "source": "ws_open"},
        {"source": "binance"},
        {"on_invalid": "ignore"},
        {"name": ""},
    ):
        with pytest.raises(UsageError) as raised:
            producer(world, preset, **wrong)
        assert raised.value.parameter in (*wrong, "source") and raised.value.fix
    for other in (replace(preset, kind="trades"), replace(preset, derive_from="ohlcv.x.1m")):
        with pytest.raises(UsageError, match="preset"):
            producer(world, other)


EXAMPLE = """
from datetime import UTC, datetime

from seamline.sdk import Producer

bar = {"open_time": datetime(2026, 1, 1, tzinfo=UTC), "open": 10.0, "high": 12.0, "low": 9.0,
       "close": 11.0, "volume": 5.0}
with Producer("ohlcv.binance.spot.1m", name="my-feed") as producer:
    sent = producer.send_bars("BTC/USDT", [bar])  # strict: raises for a bar that may not pass
    producer.flush()  # raises, naming what did not arrive
    print(sent.sent, "bar sent in", producer.mode)
"""


def test_the_example(
    fresh_preset: MakePreset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fresh_preset()
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    exec(EXAMPLE.replace("ohlcv.binance.spot.1m", made.preset.id), {})
    assert capsys.readouterr().out == "1 bar sent in canary\n"
