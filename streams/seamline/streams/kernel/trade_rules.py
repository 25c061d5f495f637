"""Which rules a landed trade breaks: the one judgement of the worker, a rehearsal and a redrive.

Decides: the rules that a record of a `trades` preset breaks under a policy, the first of which says
what becomes of it. Invariants: whether a heartbeat is one is not decided here; a record that breaks
nothing is a trade of this partition under the key of its symbol; nothing is remembered between two
records. Must not know: what follows from a broken rule, bars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.codec import schema_ids
from seamline.schemas.errors import ContractError
from seamline.schemas.modes import Policy
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import HEADER_FINGERPRINT, partition_of
from seamline.streams.kernel.intake import (
    CLOCK_SKEW_NS,
    FINGERPRINT_MISMATCH,
    KEY_MISMATCH,
    NULL_VALUE,
    WRONG_PARTITION,
    watermark_of,
)
from seamline.streams.kernel.protocol import Record
from seamline.streams.kernel.writers import UNDECODABLE, UNKNOWN_SCHEMA, Resolve, Writer, writer_of

NON_FINITE: Final = "non_finite"
FUTURE_TIME: Final = "future_time"
NAMES: Final = ("trade",)
# Rules that follow the mode.
VALUE_RULES: Final = ("non_positive_price", "non_positive_size")
# Symbols whose partition is remembered; it is computed anew beyond.
SYMBOLS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class JudgedTrade:
    """The rules that a record breaks, the one that decides first; none: it is right. `trade`: its
    fields, wherever they could be read."""

    rules: tuple[str, ...] = ()
    detail: str = ""
    trade: Mapping[str, Any] | None = None


class TradeRules:
    """Judges the landed records of one partition."""

    def __init__(self, preset: Preset, partition: int, resolve: Resolve) -> None:
        self._preset = preset
        self._partition = partition
        self._resolve = resolve
        self._mine: dict[str, bool] = {}

    def writers(self, records: Sequence[Record], policy: Policy) -> list[Writer]:
        """The writer of each record. The registry is asked about an id once."""
        ids = schema_ids([record.value or b"" for record in records]).tolist()
        found = {
            number: writer_of(number, self._resolve, policy, NAMES) for number in sorted(set(ids))
        }
        return [found[number] for number in ids]

    def judge(self, record: Record, writer: Writer, clock_ns: int) -> JudgedTrade:
        """What is wrong with a record that is no heartbeat, by the clock of whoever takes it."""
        if record.value is None:
            watermark_ns = watermark_of(record)
            if watermark_ns is not None:
                return JudgedTrade((FUTURE_TIME,), f"watermark {watermark_ns} ns")
            return JudgedTrade((NULL_VALUE,), "no heartbeat headers")
        if not writer.name:
            return JudgedTrade((writer.reason,), writer.detail)
        for key, stated in record.headers:
            if key == HEADER_FINGERPRINT and stated != writer.header:
                detail = f"{writer.detail}, the header says another"
                return JudgedTrade((FINGERPRINT_MISMATCH,), detail)
        value: bytes | None = record.value
        if writer.drift is not None:
            value = writer.drift.translate(record.value)
            if value is None:
                return JudgedTrade((UNKNOWN_SCHEMA,), "does not resolve as trade")
        try:
            trade = decode_record("trade", value or b"", writer.version)
        except ContractError as error:
            return JudgedTrade((UNDECODABLE,), str(error.fields.get("reason", "")))
        rules, detail = self._broken(record, trade, writer, clock_ns)
        return JudgedTrade(rules, detail, trade)

    def _broken(
        self, record: Record, trade: Mapping[str, Any], writer: Writer, clock_ns: int
    ) -> tuple[tuple[str, ...], str]:
        symbol = trade["symbol"]
        if record.key != symbol.encode():
            return (KEY_MISMATCH,), "the key is not the UTF-8 symbol of the value"
        if not self._is_mine(symbol):
            return (WRONG_PARTITION,), "the producer does not partition by murmur2 of the key"
        if not (math.isfinite(trade["price"]) and math.isfinite(trade["size"])):
            return (NON_FINITE,), "price or size"
        if trade["time_ns"] > clock_ns + CLOCK_SKEW_NS:
            return (FUTURE_TIME,), f"{trade['time_ns']} ns"
        broken = [
            (rule, f"{trade[field]}")
            for rule, field in zip(VALUE_RULES, ("price", "size"), strict=True)
            if trade[field] <= 0
        ]
        rules = (*(rule for rule, _ in broken), *writer.broken)
        return rules, broken[0][1] if broken else writer.detail

    def _is_mine(self, symbol: str) -> bool:
        mine = self._mine.get(symbol)
        if mine is None:
            mine = partition_of(symbol, self._preset.partitions) == self._partition
            if len(self._mine) < SYMBOLS_MAX:
                self._mine[symbol] = mine
        return mine


def is_heartbeat(record: Record, clock_ns: int) -> bool:
    """Whether a record is a heartbeat that the clock allows."""
    if record.value is not None:
        return False
    watermark_ns = watermark_of(record)
    return watermark_ns is not None and watermark_ns <= clock_ns + CLOCK_SKEW_NS
