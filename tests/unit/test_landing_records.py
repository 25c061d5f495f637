"""Bars as records of a landing topic and of quarantine, and what a producer tells of losses."""

from __future__ import annotations

import numpy as np

from integration.plain_preset import plain_preset
from seamline.schemas.codec import BarDecoder, decode_block
from seamline.schemas.columns import BarColumns
from seamline.schemas.topics import partition_of, producer_of
from seamline.sdk.delivery_ledger import NAMED_MAX, DeliveryLedger
from seamline.sdk.given_bars import columns_of
from seamline.sdk.landing_records import LandingRecords
from seamline.streams.kernel.validate import NEGATIVE_VOLUME, NON_FINITE

PRESET = plain_preset("ohlcv.x.spot.1m", 4)
IDS = {"bar": 3, "bar_block": 4}
MINUTE_NS = 60_000_000_000
SYMBOL = "BTC/USDT"


def made(role: str) -> LandingRecords:
    return LandingRecords(PRESET, role, IDS, b"desk")


def bars(*cells: int) -> BarColumns:
    prices = {name: [10.0] * len(cells) for name in ("open", "high", "low", "close", "volume")}
    given = {"open_time_ns": [cell * MINUTE_NS for cell in cells], **prices}
    return columns_of(SYMBOL, given, source=1, now_ns=7)


def test_live_keeps_the_order_given() -> None:
    records = made("live").of(SYMBOL, bars(5, 3, 3, 900))
    decoded = BarDecoder().decode([record.value for record in records])
    assert (decoded.columns.open_time_ns // MINUTE_NS).tolist() == [5, 3, 3, 900]
    for record in records:
        assert record.topic == "seamline.ohlcv.x.spot.1m.live" and record.bars == 1
        assert record.partition == partition_of(SYMBOL, 4) and record.key == SYMBOL.encode()
        assert producer_of(record.headers) == "desk"


def test_a_block_holds_the_bars_of_one_span() -> None:
    records = made("backfill").of(SYMBOL, bars(700, 241, 239, -1, 240, 0))
    blocks = [decode_block(record.value) for record in records]
    found = [(b.columns.open_time_ns // MINUTE_NS).tolist() for b in blocks]
    assert found == [[-1], [0, 239], [240, 241], [700]]
    assert [record.bars for record in records] == [1, 2, 2, 1]
    assert made("backfill").of(SYMBOL, bars()) == []


def test_a_bar_in_quarantine_says_every_rule_it_broke() -> None:
    rules = np.array([NEGATIVE_VOLUME, NON_FINITE | NEGATIVE_VOLUME])
    records = made("backfill").quarantined(SYMBOL, bars(0, 1), rules, 99)
    headers = [dict(record.headers) for record in records]
    assert [h["seamline-reason"] for h in headers] == [b"negative_volume", b"non_finite"]
    assert headers[1]["seamline-detail"] == b"non_finite,negative_volume"
    assert headers[0]["seamline-first-failure-ns"] == b"99"
    assert {h["seamline-schema-id"] for h in headers} == {b"3"}, "as a bar, not as a block"
    assert BarDecoder().decode([record.value for record in records]).ok.all()


def test_losses_are_named_by_symbol_and_told_once() -> None:
    ledger = DeliveryLedger()
    records = made("live").of(SYMBOL, bars(0, 1))
    for record in records:
        ledger.handed(SYMBOL)
        ledger.settled(record.key, record.value, "gone")
    ledger.handed("ETH/USDT")
    named, words = ledger.undelivered()
    assert named == {SYMBOL: 2, "ETH/USDT": 1}
    assert words == "BTC/USDT 2 (the first at 1970-01-01T00:00:00Z), ETH/USDT 1 (waiting)"
    ledger.settled(b"ETH/USDT", b"", None)
    assert ledger.undelivered() == ({}, "")
    ledger.handed(SYMBOL)
    ledger.never_queued(SYMBOL)
    (block,) = made("backfill").of(SYMBOL, bars(0))
    ledger.handed(SYMBOL)
    ledger.settled(block.key, block.value, "gone")
    assert ledger.undelivered()[1] == "BTC/USDT 1 (the first from 1970-01-01T00:00:00Z)"
    assert not ledger.waiting


def test_the_losses_of_many_symbols_are_told_in_bounds() -> None:
    ledger = DeliveryLedger()
    for at in range(NAMED_MAX + 5):
        for _ in range(at + 1):
            ledger.handed(f"S{at}")
    named, words = ledger.undelivered()
    assert len(named) == NAMED_MAX + 1 and named["others"] == 1 + 2 + 3 + 4 + 5
    assert sum(named.values()) == sum(range(1, NAMED_MAX + 6)) and "5 other symbols 15" in words
