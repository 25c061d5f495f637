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
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from seamline.streams.kernel.trade_rules import JudgedTrades, TradeRules, is_heartbeat, latest_of
from seamline.streams.kernel.writers import Drifted, Resolve

# A trade's id is a cell of this many bits; what is above them is part of the series' name, so that
# ids of any size are told apart.
ID_BITS: Final = 42
ABOVE_BITS: Final = 64 - ID_BITS
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
        records = [
            r
            for r in records
            if r.value is not None or not is_heartbeat(r, r.timestamp * NS_PER_MS)
        ]
        found = Judged(len(records))
        if not records:
            return found
        found.times_ms = np.fromiter((r.timestamp for r in records), np.int64, len(records))
        latest_ns = latest_of(found.times_ms)
        writers = self._rules.writers(records, self._strict)
        by_strict = self._rules.judge(records, writers, latest_ns)
        rules = by_strict.broken
        places = [at for at in sorted(rules) if fate(rules[at].rules[0], STRICT) == QUARANTINE]
        found.accepted = len(records) - len(places)
        trades = _Trades(len(records))
        trades.put(np.arange(len(records)), by_strict)
        if places:
            again = [records[at] for at in places]
            writers = self._rules.writers(again, self._canary)
            by_canary = self._rules.judge(again, writers, latest_ns[places])
            reasons = [rules[at].rules[0] for at in places]
            found.blocked = self._blocked(again, reasons, by_canary)
            where = np.array(places, np.intp)
            trades.strict[where] = False
            trades.canary[where] = [not each.in_canary for each in found.blocked]
            trades.put(where, by_canary)
        self._count(trades, found)
        return found

    def _blocked(
        self, records: Sequence[Record], reasons: Sequence[str], by_canary: JudgedTrades
    ) -> list[Blocked]:
        """What strict refuses, for these reasons, and canary says of it."""
        labels: dict[int | None, str] = {}
        trades = by_canary.trades
        rows = {at: row for row, at in enumerate(by_canary.places.tolist()) if trades.ok[row]}
        blocked = []
        for at, (record, reason) in enumerate(zip(records, reasons, strict=True)):
            schema_id = schema_id_of(record.value)
            label = labels.get(schema_id) or self._label(schema_id)
            labels[schema_id] = label
            other = by_canary.broken.get(at)
            in_canary = other is not None and fate(other.rules[0], CANARY) == QUARANTINE
            row = rows.get(at)
            symbol = key_text(record) if row is None else self._rules.symbol(trades, row)
            blocked.append(
                Blocked(
                    *(self._partition, record.offset, reason, in_canary),
                    *(label, producer_of(record), symbol, int(row is not None)),
                )
            )
        return blocked

    def _count(self, trades: _Trades, found: Judged) -> None:
        """The trades that could be read, as rows of `found`."""
        kept = np.flatnonzero(trades.known)
        if not len(kept):
            return
        sids, ids, times_ns = trades.columns[:, kept]
        above, cells = ids >> ID_BITS, ids & ((1 << ID_BITS) - 1)
        # One number for what makes a series; a symbol without one of its own is alone.
        keys = (sids << ABOVE_BITS) + above + (1 << (ABOVE_BITS - 1))
        alone = np.flatnonzero(sids < 0)
        keys[alone] = -1 - alone
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        numbers = np.empty((2, len(first)), np.int64)
        # Numbers are given in the order of the log: the limit then does not depend on batches.
        for at in np.argsort(first).tolist():
            row = int(first[at])
            sid = int(sids[row])
            symbol = self._rules.symbols[sid] if sid >= 0 else trades.others[int(kept[row])]
            numbers[:, at] = self._number(symbol, 0), self._number(symbol, int(above[row]))
        symbols, series = numbers[:, which]
        exact = (symbols >= 0) & (series >= 0)
        found.inexact = not exact.all()
        strict, canary = trades.strict[kept], trades.canary[kept]
        every = (symbols, times_ns // NS_PER_US, strict, canary, series, cells)
        found.bars.append(Bars(*(column[exact] for column in every)))

    def _number(self, symbol: str, above: int) -> int:
        """Of a series; -1 for one too many."""
        number = self._numbers.get((symbol, above), -1)
        if number < 0 and len(self._names) < SERIES_MAX:
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


class _Trades:
    """What is known of the trade of each record of a batch, and which modes take it. Rows of
    `columns`: number of the symbol, id, time in ns."""

    __slots__ = ("canary", "columns", "known", "others", "strict")

    def __init__(self, records: int) -> None:
        self.columns = np.zeros((3, records), np.int64)
        self.known = np.zeros(records, bool)
        self.strict = np.ones(records, bool)
        self.canary = np.ones(records, bool)
        # Symbols without a number, by place.
        self.others: dict[int, str] = {}

    def put(self, where: NDArray[np.intp], judged: JudgedTrades) -> None:
        """Take the trades of a judgement; `where` its records are. A later one counts."""
        trades = judged.trades
        at = where[judged.places]
        self.known[where] = False
        self.known[at] = trades.ok
        self.columns[:, at] = trades.sid, trades.trade_id, trades.time_ns
        self.others.update((int(at[row]), symbol) for row, symbol in trades.others.items())
