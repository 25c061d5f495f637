"""Landed records of one partition, judged as strict would have judged them when they landed.

Decides: what strict refuses, what canary refuses of it, and which closed bars that concerns. The
judgement itself is the worker's: an `Intake` over a scratch level, asked in each mode; no rule is
written here a second time. Invariants: a record is judged by the clock of its own append time, as a
worker that keeps up judges it; heartbeats are no records, but one that intake would refuse is;
every record is judged once, whatever the batches. Must not know: Kafka, totals.

Good flat bars are columns all the way. Only records that are refused, blocks, and bars that close
after they were appended (which need a clock of their own) are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.codec import BarDecoder, DecodedBars, schema_ids
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import I8, Bool
from seamline.schemas.drift import Drift
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.topics import HEADER_PRODUCER
from seamline.schemas.wire import FRAME_BYTES
from seamline.streams.kernel.intake import Intake, watermark_of
from seamline.streams.kernel.level import BLOCK_BAR, CELL, EVENT, Level
from seamline.streams.kernel.protocol import BACKFILL, LIVE, STEP_ROWS_MAX, Header, Record, Role
from seamline.streams.kernel.writers import Drifted, Resolve, version_read

UNKNOWN: Final = "unknown"
NO_SCHEMA: Final = "none"
NAME_CHARS_MAX: Final = 64


class Blocked(NamedTuple):
    """A record that strict refuses, wholly or in part (`bars` of it). `in_canary`: canary refuses
    something of it as well. `schema`, `producer` and `symbol` are names for people."""

    partition: int
    offset: int
    reason: str
    in_canary: bool
    schema: str
    producer: str
    symbol: str
    bars: int


class Bars(NamedTuple):
    """Closed bars in the order of the log, one row each: the index of the symbol in the judge's
    `symbols`, the cell of the grid, whether strict and whether canary accepts it. What is no bar
    has a time as its cell, and who it is in `series` (another index) and `numbers`."""

    symbols: I8
    cells: I8
    strict: Bool
    canary: Bool
    series: I8 | None = None
    numbers: I8 | None = None


@dataclass(slots=True)
class Judged:
    """What a batch of one partition was. `records` without heartbeats, `times_ms` their append
    times; `accepted`: closed bars that strict takes. `inexact`: some are not in `bars`."""

    records: int = 0
    accepted: int = 0
    blocked: list[Blocked] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)
    times_ms: I8 = field(default_factory=lambda: np.empty(0, np.int64))
    inexact: bool = False


class _Seen(NamedTuple):
    """One mode's answer about some records of the same clock: offset -> stated reason."""

    refused: Mapping[int, str]
    bars: int
    cells: set[int]


class LandingJudge:
    """Judges the records of one partition of a landing topic. One thread at a time.

    `symbols` grows; a number in it never changes.
    """

    def __init__(
        self,
        preset: Preset,
        partition: int,
        role: str,
        resolve: Resolve,
        tombstones: frozenset[str] = frozenset(),
    ) -> None:
        self._preset = preset
        self._role: Role = BACKFILL if role == BACKFILL else LIVE
        self._partition = partition
        self._resolve = resolve
        self._strict = Policy(STRICT, tombstones=tombstones)
        self._canary = Policy(CANARY, tombstones=tombstones)
        # A level that only numbers symbols: nothing is merged in a rehearsal.
        level = Level(span=preset.block_rows, stabilization_bars=preset.stabilization_bars)
        self._intake = Intake(preset, partition, level, resolve)
        self._decoder = BarDecoder()

    @property
    def symbols(self) -> Sequence[str]:
        return self._decoder.symbols

    def judge(self, records: Sequence[Record]) -> Judged:
        """Judge records in the order of their offsets. Raises nothing for what they hold."""
        records = self._without_heartbeats(records)
        judged = Judged(len(records))
        if not records:
            return judged
        times_ms = np.fromiter((r.timestamp for r in records), np.int64, len(records))
        judged.times_ms = times_ms
        ids = schema_ids([record.value or b"" for record in records])
        writers = {number: self._writer_of(number) for number in np.unique(ids).tolist()}
        flat = _places(ids, writers, "bar")
        values = [record.value or b"" for record in records]
        if any(writer.drift is not None for writer in writers.values()):
            values = [writers[n].read(value) for n, value in zip(ids.tolist(), values, strict=True)]
        decoded = self._decoder.decode(
            [values[at] for at in flat.tolist()],
            np.array([writers[number].version for number in ids[flat].tolist()], np.uint8),
        )
        late = decoded.ok & decoded.columns.closed
        # It closes after it was appended: whether too long after is intake's to say, by that clock.
        append_ns = times_ms[flat] * NS_PER_MS
        late &= decoded.columns.open_time_ns > append_ns - self._preset.interval_ns
        alone = np.zeros(len(records), bool)
        alone[flat[late]] = True
        blocks = _places(ids, writers, "bar_block")
        alone[blocks] = True
        alone |= np.array([record.value is None for record in records])
        refused: dict[int, Blocked] = {}
        labels = [writers[number].label for number in ids.tolist()]
        noted = _Noted(labels, flat, decoded, self._decoder.symbols)
        bulk = np.flatnonzero(~alone)
        if len(bulk):
            clock_ns = int(times_ms.max()) * NS_PER_MS
            self._same_clock(records, bulk.tolist(), clock_ns, judged, noted, refused)
        single = np.flatnonzero(alone & ~_mask(len(records), blocks)).tolist()
        for time_ms, group in groupby(single, key=lambda at: int(times_ms[at])):
            self._same_clock(records, list(group), time_ms * NS_PER_MS, judged, noted, refused)
        self._flat_bars(records, flat, decoded, refused, judged)
        for at in blocks.tolist():
            version = writers[int(ids[at])].version
            self._block(records[at], values[at], version, labels[at], judged, refused)
        judged.blocked = [refused[at] for at in sorted(refused)]
        return judged

    def _same_clock(
        self,
        records: Sequence[Record],
        places: Sequence[int],
        clock_ns: int,
        judged: Judged,
        noted: _Noted,
        refused: dict[int, Blocked],
    ) -> None:
        part = [records[at] for at in places]
        strict = self._see(self._strict, part, clock_ns)
        judged.accepted += strict.bars
        if not strict.refused:
            return
        place_of = {records[at].offset: at for at in places}
        again = [records[place_of[offset]] for offset in sorted(strict.refused)]
        canary = self._see(self._canary, again, clock_ns)
        for offset, reason in strict.refused.items():
            at = place_of[offset]
            label, symbol, closed = noted.of(at, records[at])
            refused[offset] = Blocked(
                *(self._partition, offset, reason, offset in canary.refused),
                *(label, producer_of(records[at]), symbol, int(closed)),
            )

    def _flat_bars(
        self,
        records: Sequence[Record],
        flat: NDArray[np.intp],
        decoded: DecodedBars,
        refused: Mapping[int, Blocked],
        judged: Judged,
    ) -> None:
        closed = decoded.ok & decoded.columns.closed
        strict, canary = closed.copy(), closed.copy()
        if refused:
            place_of = {records[at].offset: row for row, at in enumerate(flat.tolist())}
            for offset, blocked in refused.items():
                if offset in place_of:
                    strict[place_of[offset]] = False
                    canary[place_of[offset]] &= not blocked.in_canary
        cells = self._cells(decoded.columns.open_time_ns)
        symbols = decoded.sid.astype(np.int64)
        judged.bars.append(Bars(symbols[closed], cells[closed], strict[closed], canary[closed]))

    def _block(
        self,
        record: Record,
        value: bytes,
        version: int,
        label: str,
        judged: Judged,
        refused: dict[int, Blocked],
    ) -> None:
        """A block message alone: which of its bars each mode takes, and the record's reason."""
        clock_ns = record.timestamp * NS_PER_MS
        strict = self._see(self._strict, [record], clock_ns)
        canary = self._see(self._canary, [record], clock_ns) if strict.refused else strict
        judged.accepted += strict.bars
        symbol, number, cells = self._block_of(record, value, version)
        taken = np.isin(cells, list(strict.cells))
        if len(cells):
            symbols = np.full(len(cells), number, np.int64)
            judged.bars.append(Bars(symbols, cells, taken, np.isin(cells, list(canary.cells))))
        for offset, reason in strict.refused.items():
            refused[offset] = Blocked(
                *(self._partition, offset, reason, bool(canary.refused), label),
                *(producer_of(record), symbol, int(np.count_nonzero(~taken))),
            )

    def _block_of(self, record: Record, value: bytes, version: int) -> tuple[str, int, I8]:
        """Symbol, its number and the cells of a block; no cells where it cannot be read."""
        try:
            block = decode_block(value, version)
            number = self._decoder.table.intern(block.symbol)
        except ContractError:
            return key_text(record), -1, np.empty(0, np.int64)
        return block.symbol, number, self._cells(block.columns.open_time_ns)

    def _see(self, policy: Policy, records: Sequence[Record], clock_ns: int) -> _Seen:
        refused: dict[int, str] = {}
        cells: set[int] = set()
        bars = at = 0
        while at < len(records):
            taken = self._intake.take(self._role, records, at, STEP_ROWS_MAX, clock_ns, policy)
            at = taken.next_index
            bars += taken.bars
            refused.update((each.record.offset, each.reason) for each in taken.quarantined)
            if len(records) == 1:
                rows = taken.rows()
                cells.update(rows.cols[rows.cols[:, EVENT] == BLOCK_BAR, CELL].tolist())
        return _Seen(refused, bars, cells)

    def _without_heartbeats(self, records: Sequence[Record]) -> Sequence[Record]:
        if all(record.value is not None for record in records):
            return records
        return [r for r in records if r.value is not None or not self._is_heartbeat(r)]

    @staticmethod
    def _is_heartbeat(record: Record) -> bool:
        """A true one: of a watermark beyond its own append time intake has to judge."""
        watermark_ns = watermark_of(record)
        return watermark_ns is not None and watermark_ns <= record.timestamp * NS_PER_MS

    def _writer_of(self, number: int) -> _Writer:
        """What a schema id means, whatever a mode makes of it."""
        if number < 0:
            return _Writer("", NO_SCHEMA, None)
        try:
            found = self._resolve(number)
        except TransportError:
            found = None
        if found is None:
            return _Writer("", f"id {number}", None)
        if isinstance(found, Drifted):
            schema = found.drift.schema
            return _Writer(schema.name, f"id {number}", found.drift, schema.version)
        label = f"{found.name} v{found.version}"
        return _Writer(found.name, label, None, version_read(found))

    def _cells(self, times_ns: I8) -> I8:
        """`Preset.cell_of` of a column, without a difference that could leave int64."""
        interval_ns, origin_ns = self._preset.interval_ns, self._preset.grid_origin_ns
        first, line = divmod(origin_ns, interval_ns)
        return times_ns // interval_ns - first - (times_ns % interval_ns < line)


class _Writer(NamedTuple):
    """The record that values of a schema id are of (empty: none), its label for people, how a
    drifted one is read, and of which version the values are."""

    name: str
    label: str
    drift: Drift | None
    version: int = 0

    def read(self, value: bytes) -> bytes:
        """The value as the approved schema has it; empty where it does not resolve."""
        return value if self.drift is None else self.drift.translate(value) or b""


class _Noted(NamedTuple):
    """What is known of the records of a batch beside the judgement; `labels` by place."""

    labels: Sequence[str]
    flat: NDArray[np.intp]
    decoded: DecodedBars
    symbols: Sequence[str]

    def of(self, at: int, record: Record) -> tuple[str, str, bool]:
        """Schema, symbol, and whether it is a closed bar that can be read."""
        label = self.labels[at]
        row = int(np.searchsorted(self.flat, at))
        if row < len(self.flat) and self.flat[row] == at and self.decoded.ok[row]:
            symbol = self.symbols[self.decoded.sid[row]]
            return label, symbol, bool(self.decoded.columns.closed[row])
        return label, key_text(record), False


@dataclass(frozen=True, slots=True)
class _Reread:
    """A record of a proposed schema, its value as the approved one has it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


def as_approved(
    records: Sequence[Record], resolve: Resolve, proposed: Callable[[int], Drift | None]
) -> Sequence[Record]:
    """The records, those of a writer schema that only a proposal has translated for this program.
    One that does not translate keeps its frame alone, so that it is undecodable and never misread.
    """
    ids = schema_ids([record.value or b"" for record in records])
    drifts: dict[int, Drift] = {}
    for number in np.unique(ids).tolist():
        try:
            drift = proposed(number) if number >= 0 and resolve(number) is not None else None
        except TransportError:
            continue
        if drift is not None:
            drifts[number] = drift
    if not drifts:
        return records
    return [
        record if number not in drifts else _reread(record, drifts[number])
        for record, number in zip(records, ids.tolist(), strict=True)
    ]


def _reread(record: Record, drift: Drift) -> _Reread:
    value = record.value or b""
    place = (record.topic, record.partition, record.offset, record.timestamp, record.key)
    return _Reread(*place, drift.translate(value) or value[:FRAME_BYTES], record.headers)


def producer_of(record: Record) -> str:
    """Who wrote the record, by its header; `unknown` where it does not say."""
    for name, value in record.headers:
        if name == HEADER_PRODUCER and value:
            return value[:NAME_CHARS_MAX].decode("utf-8", "replace")
    return UNKNOWN


def key_text(record: Record) -> str:
    key = record.key or b""
    return key[:NAME_CHARS_MAX].decode("utf-8", "replace") or UNKNOWN


def _places(ids: I8, writers: Mapping[int, _Writer], name: str) -> NDArray[np.intp]:
    wanted = [number for number, writer in writers.items() if writer.name == name]
    return np.flatnonzero(np.isin(ids, wanted))


def _mask(length: int, places: NDArray[np.intp]) -> Bool:
    mask = np.zeros(length, bool)
    mask[places] = True
    return mask
