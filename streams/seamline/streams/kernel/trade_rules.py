"""Which rules a landed trade breaks: the one judgement of the worker, a rehearsal and a redrive.

Decides: the rules that a record of a `trades` preset breaks under a policy, the first of which says
what becomes of it. Invariants: whether a heartbeat is one is not decided here; a record that breaks
nothing is a trade of this partition under the key of its symbol; nothing is remembered between two
records, so batches do not matter. Must not know: what follows from a broken rule, bars.

A rule of a trade's fields is a mask over the columns of a batch, for whoever asks; only records
that break one are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.codec import schema_ids
from seamline.schemas.codec_trades import DecodedTrades, TradeDecoder
from seamline.schemas.columns import I8, Bool
from seamline.schemas.modes import Policy
from seamline.schemas.preset import Preset
from seamline.schemas.times import INT64_MAX, NS_PER_MS
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
_MS_MAX: Final = INT64_MAX // NS_PER_MS


class Broken(NamedTuple):
    """The rules that a record breaks, the one that decides first."""

    rules: tuple[str, ...]
    detail: str


class JudgedTrades(NamedTuple):
    """A batch of records. `broken`, by place in it; every other record is right. `trades`: a row
    for each record whose bytes were looked at; row i is of the record at `places[i]`."""

    broken: Mapping[int, Broken]
    places: NDArray[np.intp]
    trades: DecodedTrades


class TradeRules:
    """Judges the landed records of one partition. One thread at a time."""

    def __init__(self, preset: Preset, partition: int, resolve: Resolve) -> None:
        self._preset = preset
        self._partition = partition
        self._resolve = resolve
        self._decoder = TradeDecoder()
        # By number of the symbol: whether its trades belong into this partition.
        self._mine: Bool = np.empty(0, bool)

    def writers(self, records: Sequence[Record], policy: Policy) -> list[Writer]:
        """The writer of each record. The registry is asked about an id once."""
        ids = schema_ids([record.value or b"" for record in records]).tolist()
        found = {
            number: writer_of(number, self._resolve, policy, NAMES) for number in sorted(set(ids))
        }
        return [found[number] for number in ids]

    @property
    def symbols(self) -> Sequence[str]:
        """By number of the symbol in the trades that were judged here."""
        return self._decoder.symbols

    def symbol(self, trades: DecodedTrades, row: int) -> str:
        """The symbol of a trade that was judged here."""
        sid = int(trades.sid[row])
        return self._decoder.symbols[sid] if sid >= 0 else trades.others[row]

    def judge(
        self, records: Sequence[Record], writers: Sequence[Writer], latest_ns: I8 | int
    ) -> JudgedTrades:
        """What is wrong with records that are no heartbeats. `latest_ns`: the last time that a
        trade may have by the clock of whoever takes it, for all records or one a record."""
        headers = {key: one.header for key, one in {id(each): each for each in writers}.items()}
        broken: dict[int, Broken] = {}
        places: list[int] = []
        values: list[bytes] = []
        for at, (record, writer) in enumerate(zip(records, writers, strict=True)):
            value = _readable(record, writer, headers[id(writer)])
            if isinstance(value, Broken):
                broken[at] = value
            else:
                places.append(at)
                values.append(value)
        of = [writers[at] for at in places]
        trades = self._decoder.decode(values, np.array([one.version for one in of], np.uint8))
        rows = np.array(places, np.intp)
        latest = latest_ns if isinstance(latest_ns, int) else latest_ns[rows]
        keys = [records[at].key for at in places]
        for row, found in self._broken(trades, keys, of, latest):
            broken[places[row]] = found
        return JudgedTrades(broken, rows, trades)

    def _broken(
        self,
        trades: DecodedTrades,
        keys: Sequence[bytes | None],
        writers: Sequence[Writer],
        latest_ns: I8 | int,
    ) -> Iterator[tuple[int, Broken]]:
        """The rows that break a rule, and which."""
        # In the order in which they decide: the first alone counts.
        first = (
            (UNDECODABLE, ~trades.ok),
            (KEY_MISMATCH, self._under_another_key(trades, keys)),
            (WRONG_PARTITION, ~self._belong_here(trades)),
            (NON_FINITE, ~(np.isfinite(trades.price) & np.isfinite(trades.size))),
            (FUTURE_TIME, trades.time_ns > latest_ns),
        )
        # All of these count that are broken.
        every = tuple(
            (rule, column, column <= 0)
            for rule, column in zip(VALUE_RULES, (trades.price, trades.size), strict=True)
        )
        marked = np.array([bool(writer.broken) for writer in writers], bool)
        for mask in (*(mask for _, mask in first), *(mask for *_, mask in every)):
            marked |= mask
        for row in np.flatnonzero(marked).tolist():
            rule = next((rule for rule, mask in first if mask[row]), None)
            if rule is not None:
                yield row, Broken((rule,), _detail(rule, trades, row))
                continue
            values = [(rule, f"{float(column[row])}") for rule, column, mask in every if mask[row]]
            rules = (*(rule for rule, _ in values), *writers[row].broken)
            yield row, Broken(rules, values[0][1] if values else writers[row].detail)

    def _under_another_key(self, trades: DecodedTrades, keys: Sequence[bytes | None]) -> Bool:
        encoded, sids = self._decoder.table.encoded, trades.sid.tolist()
        wrong = np.array(
            [sid < 0 or key != encoded[sid] for sid, key in zip(sids, keys, strict=True)], bool
        )
        for row, symbol in trades.others.items():
            wrong[row] = keys[row] != symbol.encode()
        return wrong

    def _belong_here(self, trades: DecodedTrades) -> Bool:
        fresh = self._decoder.symbols[len(self._mine) :]
        if fresh:
            mine = np.array([self._is_mine(symbol) for symbol in fresh], bool)
            self._mine = np.concatenate([self._mine, mine])
        here = np.zeros(len(trades), bool)
        known = trades.sid >= 0
        here[known] = self._mine[trades.sid[known]]
        for row, symbol in trades.others.items():
            here[row] = self._is_mine(symbol)
        return here

    def _is_mine(self, symbol: str) -> bool:
        return partition_of(symbol, self._preset.partitions) == self._partition


def latest_of(clock_ms: I8) -> I8:
    """The last time, in ns, that a trade may have by each of these clocks; a clock outside the
    times of 64 bits ends there."""
    # An append time is whatever its producer said: nothing may run over.
    ms = np.clip(clock_ms, -2 * _MS_MAX, 2 * _MS_MAX) + CLOCK_SKEW_NS // NS_PER_MS
    latest = np.clip(ms, -_MS_MAX, _MS_MAX) * NS_PER_MS
    latest[ms > _MS_MAX] = INT64_MAX
    latest[ms < -_MS_MAX] = -INT64_MAX - 1
    return latest


def is_heartbeat(record: Record, clock_ns: int) -> bool:
    """Whether a record is a heartbeat that the clock allows."""
    if record.value is not None:
        return False
    watermark_ns = watermark_of(record)
    return watermark_ns is not None and watermark_ns <= clock_ns + CLOCK_SKEW_NS


def _readable(record: Record, writer: Writer, header: bytes) -> bytes | Broken:
    """The bytes of the approved record that are to be decoded, or why there are none. `header`:
    what the header of the writer's fingerprint has to say."""
    value = record.value
    if value is None:
        watermark_ns = watermark_of(record)
        if watermark_ns is not None:
            return Broken((FUTURE_TIME,), f"watermark {watermark_ns} ns")
        return Broken((NULL_VALUE,), "no heartbeat headers")
    if not writer.name:
        return Broken((writer.reason,), writer.detail)
    for key, stated in record.headers:
        if key == HEADER_FINGERPRINT and stated != header:
            return Broken((FINGERPRINT_MISMATCH,), f"{writer.detail}, the header says another")
    if writer.drift is not None:
        value = writer.drift.translate(value)
        if value is None:
            return Broken((UNKNOWN_SCHEMA,), "does not resolve as trade")
    return value


def _detail(rule: str, trades: DecodedTrades, row: int) -> str:
    if rule == UNDECODABLE:
        return trades.reasons[row]
    if rule == KEY_MISMATCH:
        return "the key is not the UTF-8 symbol of the value"
    if rule == WRONG_PARTITION:
        return "the producer does not partition by murmur2 of the key"
    return "price or size" if rule == NON_FINITE else f"{int(trades.time_ns[row])} ns"
