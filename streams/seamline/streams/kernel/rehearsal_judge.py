"""Landed records of one partition, judged as strict would have judged them when they landed.

Decides: what strict refuses, what canary refuses of it, and which closed bars that concerns. The
judgement itself is the worker's: two `Intake`s over scratch levels, one in each mode; no rule is
written here a second time. Invariants: a record is judged by the clock of its own append time, as a
worker that keeps up judges it; heartbeats are no records, but one that intake would refuse is;
every record is judged once, whatever the batches. Must not know: Kafka, totals.

Good flat bars are columns all the way. Only records that are refused, blocks, and bars that close
after they were appended (which need a clock of their own) are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.codec import BarDecoder, DecodedBars, schema_ids
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import I8, Bool
from seamline.schemas.contract import Schema
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.topics import HEADER_PRODUCER
from seamline.streams.kernel.intake import Intake, Taken, watermark_of
from seamline.streams.kernel.level import BLOCK_BAR, CELL, EVENT, Level
from seamline.streams.kernel.protocol import BACKFILL, LIVE, STEP_ROWS_MAX, Record, Role
from seamline.streams.kernel.writers import Resolve

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
    `symbols`, the cell of the grid, whether strict and whether canary accepts it."""

    symbols: I8
    cells: I8
    strict: Bool
    canary: Bool


@dataclass(slots=True)
class Judged:
    """What a batch of one partition was. `records` without heartbeats, `times_ms` their append
    times; `accepted`: closed bars that strict takes."""

    records: int = 0
    accepted: int = 0
    blocked: list[Blocked] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)
    times_ms: I8 = field(default_factory=lambda: np.empty(0, np.int64))


class _Seen(NamedTuple):
    """One mode's answer about some records of the same clock: offset -> stated reason."""

    refused: Mapping[int, str]
    bars: int
    cells: set[int]


class _Mode(NamedTuple):
    """A worker's intake, and the mode that it judges in."""

    intake: Intake
    name: str


class LandingJudge:
    """Judges the records of one partition of a landing topic. One thread at a time.

    `symbols` grows; a number in it never changes.
    """

    def __init__(self, preset: Preset, partition: int, role: str, resolve: Resolve) -> None:
        self._preset = preset
        self._role: Role = BACKFILL if role == BACKFILL else LIVE
        self._partition = partition
        self._resolve = resolve
        self._strict = _Mode(Intake(preset, partition, _scratch(preset), resolve), STRICT)
        self._canary = _Mode(Intake(preset, partition, _scratch(preset), resolve), CANARY)
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
        names = {number: self._name_of(number) for number in np.unique(ids).tolist()}
        flat = _places(ids, names, "bar")
        decoded = self._decoder.decode([records[at].value or b"" for at in flat.tolist()])
        late = decoded.ok & decoded.columns.closed
        # It closes after it was appended: whether too long after is intake's to say, by that clock.
        append_ns = times_ms[flat] * NS_PER_MS
        late &= decoded.columns.open_time_ns > append_ns - self._preset.interval_ns
        alone = np.zeros(len(records), bool)
        alone[flat[late]] = True
        blocks = _places(ids, names, "bar_block")
        alone[blocks] = True
        alone |= np.array([record.value is None for record in records])
        refused: dict[int, Blocked] = {}
        labels = {number: label for number, (_, label) in names.items()}
        noted = _Noted(ids.tolist(), labels, flat, decoded, self._decoder.symbols)
        bulk = np.flatnonzero(~alone)
        if len(bulk):
            clock_ns = int(times_ms.max()) * NS_PER_MS
            self._same_clock(records, bulk.tolist(), clock_ns, judged, noted, refused)
        single = np.flatnonzero(alone & ~_mask(len(records), blocks)).tolist()
        for time_ms, group in groupby(single, key=lambda at: int(times_ms[at])):
            self._same_clock(records, list(group), time_ms * NS_PER_MS, judged, noted, refused)
        self._flat_bars(records, flat, decoded, refused, judged)
        for at in blocks.tolist():
            self._block(records[at], labels[int(ids[at])], judged, refused)
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
        self, record: Record, label: str, judged: Judged, refused: dict[int, Blocked]
    ) -> None:
        """A block message alone: which of its bars each mode takes, and the record's reason."""
        clock_ns = record.timestamp * NS_PER_MS
        strict = self._see(self._strict, [record], clock_ns)
        canary = self._see(self._canary, [record], clock_ns) if strict.refused else strict
        judged.accepted += strict.bars
        symbol, number, cells = self._block_of(record)
        taken = np.isin(cells, list(strict.cells))
        if len(cells):
            symbols = np.full(len(cells), number, np.int64)
            judged.bars.append(Bars(symbols, cells, taken, np.isin(cells, list(canary.cells))))
        for offset, reason in strict.refused.items():
            refused[offset] = Blocked(
                *(self._partition, offset, reason, bool(canary.refused), label),
                *(producer_of(record), symbol, int(np.count_nonzero(~taken))),
            )

    def _block_of(self, record: Record) -> tuple[str, int, I8]:
        """Symbol, its number and the cells of a block; no cells where it cannot be read."""
        try:
            block = decode_block(record.value or b"")
            number = self._decoder.table.intern(block.symbol)
        except ContractError:
            return key_text(record), -1, np.empty(0, np.int64)
        return block.symbol, number, self._cells(block.columns.open_time_ns)

    def _see(self, mode: _Mode, records: Sequence[Record], clock_ns: int) -> _Seen:
        refused: dict[int, str] = {}
        cells: set[int] = set()
        bars = at = 0
        while at < len(records):
            taken: Taken = mode.intake.take(
                self._role, records, at, STEP_ROWS_MAX, clock_ns, Policy(mode.name)
            )
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

    def _name_of(self, number: int) -> tuple[str, str]:
        """The approved record of a schema id, empty for none, and its label for people."""
        if number < 0:
            return "", NO_SCHEMA
        try:
            schema = self._resolve(number)
        except TransportError:
            schema = None
        if not isinstance(schema, Schema):
            return "", f"id {number}"
        return schema.name, f"{schema.name} v{schema.version}"

    def _cells(self, times_ns: I8) -> I8:
        """`Preset.cell_of` of a column, without a difference that could leave int64."""
        interval_ns, origin_ns = self._preset.interval_ns, self._preset.grid_origin_ns
        first, line = divmod(origin_ns, interval_ns)
        return times_ns // interval_ns - first - (times_ns % interval_ns < line)


class _Noted(NamedTuple):
    """What is known of the records of a batch beside the judgement."""

    ids: Sequence[int]
    labels: Mapping[int, str]
    flat: NDArray[np.intp]
    decoded: DecodedBars
    symbols: Sequence[str]

    def of(self, at: int, record: Record) -> tuple[str, str, bool]:
        """Schema, symbol, and whether it is a closed bar that can be read."""
        label = self.labels[self.ids[at]]
        row = int(np.searchsorted(self.flat, at))
        if row < len(self.flat) and self.flat[row] == at and self.decoded.ok[row]:
            symbol = self.symbols[self.decoded.sid[row]]
            return label, symbol, bool(self.decoded.columns.closed[row])
        return label, key_text(record), False


def producer_of(record: Record) -> str:
    """Who wrote the record, by its header; `unknown` where it does not say."""
    for name, value in record.headers:
        if name == HEADER_PRODUCER and value:
            return value[:NAME_CHARS_MAX].decode("utf-8", "replace")
    return UNKNOWN


def key_text(record: Record) -> str:
    key = record.key or b""
    return key[:NAME_CHARS_MAX].decode("utf-8", "replace") or UNKNOWN


def _scratch(preset: Preset) -> Level:
    """A level that only numbers symbols: nothing is merged in a rehearsal."""
    return Level(span=preset.block_rows, stabilization_bars=preset.stabilization_bars)


def _places(ids: I8, names: Mapping[int, tuple[str, str]], name: str) -> NDArray[np.intp]:
    wanted = [number for number, (found, _) in names.items() if found == name]
    return np.flatnonzero(np.isin(ids, wanted))


def _mask(length: int, places: NDArray[np.intp]) -> Bool:
    mask = np.zeros(length, bool)
    mask[places] = True
    return mask
