"""Landed trades of one partition, judged as strict would have judged them when they landed.

Decides: what strict refuses, what canary refuses of it, and which trades that concerns. The
judgement itself is the worker's (`trade_rules`), asked in each mode; no rule is written here a
second time. Invariants: a record is judged by the clock of its own append time, as a worker that
keeps up judges it; heartbeats are no records, but one that the worker would refuse is; every record
is judged once, whatever the batches. Must not know: Kafka, totals.

What `Judged` counts as bars are trades here: one is its symbol and id, and the newest of a symbol
is the one of the latest time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS, NS_PER_US
from seamline.schemas.wire import schema_id_of
from seamline.streams.kernel.protocol import Record
from seamline.streams.kernel.rehearsal_judge import (
    NO_SCHEMA,
    Bars,
    Blocked,
    Judged,
    key_text,
    producer_of,
)
from seamline.streams.kernel.rules import QUARANTINE, fate
from seamline.streams.kernel.trade_rules import JudgedTrade, TradeRules, is_heartbeat
from seamline.streams.kernel.writers import Drifted, Resolve, Writer

# A trade's id is a cell of this many bits; what is above them is part of the series' name, so that
# ids of any size are told apart.
ID_BITS: Final = 42
# Series of one partition; a trade of one more is not counted as missing or not, and that is said.
SERIES_MAX: Final = 65_536


class TradesJudge:
    """Judges the records of one partition of a landing topic of trades. One thread at a time.

    `symbols` grows; a number in it never changes. It names series: what of the id lies above a
    cell, and the symbol.
    """

    def __init__(
        self,
        preset: Preset,
        partition: int,
        resolve: Resolve,
        tombstones: frozenset[str] = frozenset(),
    ) -> None:
        self._partition = partition
        self._resolve = resolve
        self._strict = Policy(STRICT, tombstones=tombstones)
        self._canary = Policy(CANARY, tombstones=tombstones)
        self._rules = TradeRules(preset, partition, resolve)
        self._names: list[str] = []
        self._numbers: dict[tuple[str, int], int] = {}

    @property
    def symbols(self) -> Sequence[str]:
        return self._names

    def judge(self, records: Sequence[Record]) -> Judged:
        """Judge records in the order of their offsets. Raises nothing for what they hold."""
        records = [r for r in records if not is_heartbeat(r, r.timestamp * NS_PER_MS)]
        found = Judged(len(records))
        if not records:
            return found
        found.times_ms = np.fromiter((r.timestamp for r in records), np.int64, len(records))
        strict = self._rules.writers(records, self._strict)
        canary = self._rules.writers(records, self._canary)
        labels: dict[int | None, str] = {}
        rows: list[tuple[int, int, int, int, bool, bool]] = []
        for record, by_strict, by_canary in zip(records, strict, canary, strict=True):
            one = self._rules.judge(record, by_strict, record.timestamp * NS_PER_MS)
            trade, in_strict, in_canary = one.trade, True, True
            if one.rules and fate(one.rules[0], STRICT) == QUARANTINE:
                other = self._again(record, by_canary)
                trade, in_strict = other.trade, False
                in_canary = not other.rules or fate(other.rules[0], CANARY) != QUARANTINE
                schema_id = schema_id_of(record.value)
                label = labels.get(schema_id) or self._label(schema_id)
                labels[schema_id] = label
                symbol = key_text(record) if trade is None else trade["symbol"]
                found.blocked.append(
                    Blocked(
                        *(self._partition, record.offset, one.rules[0], not in_canary),
                        *(label, producer_of(record), symbol, int(trade is not None)),
                    )
                )
            found.accepted += in_strict
            if trade is not None:
                row = self._row(trade)
                if row is None:
                    found.inexact = True
                else:
                    rows.append((*row, in_strict, in_canary))
        if rows:
            found.bars.append(_columns(rows))
        return found

    def _again(self, record: Record, writer: Writer) -> JudgedTrade:
        return self._rules.judge(record, writer, record.timestamp * NS_PER_MS)

    def _row(self, trade: Any) -> tuple[int, int, int, int] | None:
        """Number of the symbol, time in microseconds, number of the series and cell of an id."""
        symbol, trade_id = trade["symbol"], trade["trade_id"]
        above, cell = trade_id >> ID_BITS, trade_id & (1 << ID_BITS) - 1
        number, series = self._number(symbol, 0), self._number(symbol, above)
        if number is None or series is None:
            return None
        return number, trade["time_ns"] // NS_PER_US, series, cell

    def _number(self, symbol: str, above: int) -> int | None:
        number = self._numbers.get((symbol, above))
        if number is None and len(self._names) < SERIES_MAX:
            number = self._numbers[symbol, above] = len(self._names)
            self._names.append(f"{above} {symbol}")
        return number

    def _label(self, schema_id: int | None) -> str:
        """What a schema id means, whatever a mode makes of it."""
        if schema_id is None:
            return NO_SCHEMA
        try:
            found = self._resolve(schema_id)
        except TransportError:
            found = None
        if found is None or isinstance(found, Drifted):
            return f"id {schema_id}"
        return f"{found.name} v{found.version}"


def _columns(rows: Sequence[tuple[int, int, int, int, bool, bool]]) -> Bars:
    numbers = np.array([row[:4] for row in rows], np.int64)
    modes = np.array([row[4:] for row in rows], bool)
    symbols, times, series, cells = np.ascontiguousarray(numbers.T)
    in_strict, in_canary = np.ascontiguousarray(modes.T)
    return Bars(symbols, times, in_strict, in_canary, series, cells)
