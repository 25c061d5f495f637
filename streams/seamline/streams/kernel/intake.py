"""Landed records become rows of a level, or go to quarantine.

Decides: whether a record's bytes, key, partition and values are right under the policy of its
subject, and the order of its rows. Invariants: every record becomes rows, a heartbeat, a counted
preview, or a quarantined record with its original bytes; none disappears; a record that fails is
counted once; rows keep the order of the log. Must not know: what a row does to a bar (the kernel),
how anything is written, who sets a policy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.codec import REASONS, BarDecoder, schema_ids
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import BACKFILL, I8, LIVE, U1, BarColumns, Block, Bool
from seamline.schemas.drift import Drift
from seamline.schemas.errors import ContractError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import Policy
from seamline.schemas.outages import parse_outages
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_OUTAGES,
    HEADER_REDRIVEN,
    HEADER_WATERMARK_NS,
    partition_of,
)
from seamline.streams.kernel.failure_detail import FailedRecords
from seamline.streams.kernel.level import (
    BLOCK_BAR,
    BLOCK_END,
    CELL,
    CLAIM,
    EVENT,
    FLAGS,
    HEARTBEAT,
    ORIGIN,
    REDRIVEN,
    S_NEWEST,
    SYMBOL,
    UNSET,
    UNTIL,
    Level,
    Rows,
)
from seamline.streams.kernel.protocol import Record, Role
from seamline.streams.kernel.quarantined import Quarantined
from seamline.streams.kernel.rules import OUT_OF_ORDER
from seamline.streams.kernel.rules import RULES as TABLE
from seamline.streams.kernel.validate import (
    FUTURE_TIME,
    RULES,
    disorder,
    first_rule,
    judged,
    outcome,
)
from seamline.streams.kernel.writers import UNDECODABLE, UNKNOWN_SCHEMA, Resolve, writer_of

# A closed bar cannot close in the future; clocks of a venue and an owner differ by less than this.
CLOCK_SKEW_NS: Final = 10 * NS_PER_S
I64_END: Final = 2**63
_WATERMARK: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
WRONG_PARTITION: Final = "wrong_partition"
KEY_MISMATCH: Final = "key_mismatch"
NULL_VALUE: Final = "null_value"
INVALID_BLOCK: Final = "invalid_block"
WRONG_INTERVAL: Final = "wrong_interval"
INVALID_TIMESTAMP: Final = "invalid_timestamp"
TOO_MANY_SYMBOLS: Final = "too_many_symbols"
FINGERPRINT_MISMATCH: Final = "fingerprint_mismatch"
POISONED: Final = "poisoned"

# Beside the rules: rows of a symbol that went to quarantine, and statements that were not heard.
QUARANTINED: Final = "quarantined"
INVALID_OUTAGES: Final = "invalid_outages"

# What a record is.
REFUSED, FLAT, BLOCK, BEAT = range(4)

NAMES: Final = ("bar", "bar_block")
BITS: Final = {rule: bit for bit, rule in RULES.items()}


@dataclass(slots=True)
class Taken:
    """What records[start:next_index] were. `findings`: (symbol id, rule) -> rows."""

    next_index: int
    parts: list[Rows] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    findings: Counter[tuple[int, str]] = field(default_factory=Counter)
    # Records that failed, and those that only strict set aside.
    failed: int = 0
    blocked: int = 0
    detail: FailedRecords = field(default_factory=FailedRecords)
    previews: int = 0
    heartbeats: int = 0
    bars: int = 0
    # The newest statement of the venue's outages, None where there was none.
    outages: bytes | None = None
    invalid_outages: int = 0
    # (symbol id, open time) of the rows that could be timed, dropped ones too, and where they came.
    arrivals: list[tuple[I8, I8, NDArray[np.intp]]] = field(default_factory=list)

    def refuse(self, record: Record, reason: str, detail: str, *, symbol: int = -1) -> None:
        """The record is set aside."""
        self.quarantined.append(Quarantined(record, reason, detail))
        self.blocked += TABLE[reason].follows_mode
        self.fail(record, reason, detail)
        self.findings[symbol, reason] += 1
        self.findings[symbol, QUARANTINED] += 1

    def fail(self, record: Record, rule: str, detail: str) -> None:
        """The record broke a rule; once for a record."""
        self.failed += 1
        self.detail.add(record, rule, detail)

    def rows(self) -> Rows:
        return Rows.concat(self.parts) if self.parts else Rows.empty(0)


@dataclass(slots=True)
class Part:
    """Records of one step, and what their writer schemas make of them, by their place in it.

    `marks`: bits of rules that all rows of a record break and pass with; `versions`: of the schemas
    that the values are of; `values`: what is decoded instead of a drifted record's own bytes;
    `why`: schema id, or place, -> reason and detail; `redriven`: those that come back out of
    quarantine.
    """

    records: Sequence[Record]
    ids: I8
    kinds: NDArray[np.uint8]
    marks: I8
    versions: U1
    values: dict[int, bytes] = field(default_factory=dict)
    why: dict[int, tuple[str, str]] = field(default_factory=dict)
    why_at: dict[int, tuple[str, str]] = field(default_factory=dict)
    redriven: set[int] = field(default_factory=set)

    def value(self, at: int) -> bytes:
        return self.values.get(at) or self.records[at].value or b""

    def why_refused(self, at: int) -> tuple[str, str]:
        if self.records[at].value is None:
            return NULL_VALUE, "no heartbeat headers"
        return self.why_at.get(at) or self.why[int(self.ids[at])]


class Intake:
    """Takes the landed records of one partition. One thread at a time."""

    def __init__(self, preset: Preset, partition: int, level: Level, resolve: Resolve) -> None:
        self._preset = preset
        self._partition = partition
        self._level = level
        self._resolve = resolve
        self._decoder = BarDecoder()
        # Symbol number of the decoder -> of the level; -1: belongs to another partition.
        self._ids = np.empty(0, np.int64)
        # Largest open time that arrived, by symbol of the level.
        self._latest = np.empty(0, np.int64)

    def take(
        self,
        role: Role,
        records: Sequence[Record],
        start: int,
        rows_max: int,
        clock_ns: int,
        policy: Policy,
    ) -> Taken:
        """Take records from `start` on, until `rows_max` rows or the end, under one policy."""
        part = self._part(records[start : start + rows_max], policy)
        weight = np.where(part.kinds == BLOCK, self._preset.block_rows, 1)
        fit = max(1, int(np.searchsorted(np.cumsum(weight), rows_max, side="right")))
        kinds = part.kinds[:fit]
        taken = Taken(start + len(kinds))
        for at in np.flatnonzero(kinds == REFUSED).tolist():
            taken.refuse(part.records[at], *part.why_refused(at))
        flat = np.flatnonzero(kinds == FLAT)
        rows, positions = self._flat(role, part, flat, taken, clock_ns, policy)
        done = 0
        for at in np.flatnonzero((kinds == BLOCK) | (kinds == BEAT)).tolist():
            upto = int(np.searchsorted(positions, at))
            if upto > done:
                taken.parts.append(Rows(rows.cols[done:upto], rows.vals[done:upto]))
                done = upto
            if kinds[at] == BEAT:
                self._heartbeat(part.records[at], taken, clock_ns)
                continue
            block = self._block(part, at, taken, clock_ns, policy)
            if block is not None:
                taken.parts.append(block)
        if len(positions) > done:
            taken.parts.append(Rows(rows.cols[done:], rows.vals[done:]))
        self._order(taken)
        # As they landed, wherever the step was cut: above they come kind by kind.
        taken.quarantined.sort(key=lambda refused: refused.record.offset)
        return taken

    def _order(self, taken: Taken) -> None:
        """Count the rows that are out of order, by arrival and exact time. After a restart the
        newest bar that was accepted is the largest time."""
        if not taken.arrivals:
            return
        level, preset = self._level, self._preset
        newest = level.state.sym[len(self._latest) : len(level.symbols), S_NEWEST]
        times_ns = newest * preset.interval_ns + preset.grid_origin_ns
        fresh = np.where(newest == UNSET, -I64_END, times_ns)
        self._latest = np.concatenate([self._latest, fresh])
        symbols, times, places = (
            np.concatenate(part) for part in zip(*taken.arrivals, strict=True)
        )
        order = np.argsort(places, kind="stable")
        late = np.zeros(len(self._latest), np.int64)
        disorder(symbols[order], times[order], self._latest, late)
        for symbol in np.flatnonzero(late).tolist():
            taken.findings[symbol, OUT_OF_ORDER] += int(late[symbol])

    def _part(self, records: Sequence[Record], policy: Policy) -> Part:
        """What each record is, by its writer schema. The registry is asked about an id once,
        however many records name it."""
        ids = schema_ids([record.value or b"" for record in records])
        kinds = np.full(len(records), REFUSED, np.uint8)
        part = Part(
            *(records, ids, kinds, np.zeros(len(records), np.int64)),
            np.zeros(len(records), np.uint8),
        )
        headers: dict[int, bytes] = {}
        for number in np.unique(ids).tolist():
            places = ids == number
            writer = writer_of(number, self._resolve, policy, NAMES)
            part.why[number] = writer.reason, writer.detail
            if writer.name:
                part.kinds[places] = BLOCK if writer.name == "bar_block" else FLAT
                part.marks[places] = sum(BITS[rule] for rule in writer.broken)
                part.versions[places] = writer.version
                headers[number] = writer.header
                part.why[number] = FINGERPRINT_MISMATCH, f"{writer.detail}, the header says another"
                if writer.drift is not None:
                    self._translate(part, np.flatnonzero(places).tolist(), writer.drift)
                continue
            for at in np.flatnonzero(places).tolist():
                if records[at].value is None and watermark_of(records[at]) is not None:
                    part.kinds[at] = BEAT
        numbers = ids.tolist()
        for at, record in enumerate(records):
            for key, value in record.headers:
                if key == HEADER_FINGERPRINT:
                    if value != headers.get(numbers[at], value):
                        part.kinds[at] = REFUSED
                elif key == HEADER_REDRIVEN:
                    part.redriven.add(at)
        return part

    @staticmethod
    def _translate(part: Part, places: list[int], drift: Drift) -> None:
        """Bytes of the approved schema for each record of a drifted one that resolves."""
        for at in places:
            value = drift.translate(part.records[at].value or b"")
            if value is None:
                part.kinds[at] = REFUSED
                detail = f"does not resolve as {drift.schema.name}"
                part.why_at[at] = UNKNOWN_SCHEMA, f"{detail}: {'; '.join(drift.fields[:5])}"
            else:
                part.values[at] = value

    def _heartbeat(self, record: Record, taken: Taken, clock_ns: int) -> None:
        watermark_ns = watermark_of(record) or 0
        if watermark_ns > clock_ns + CLOCK_SKEW_NS:
            # It would close what has not begun: all bars until then would come too late.
            taken.refuse(record, RULES[FUTURE_TIME], f"watermark {watermark_ns} ns")
            return
        rows = Rows.empty(1)
        rows.cols[0, EVENT] = HEARTBEAT
        rows.cols[0, CELL] = self._preset.cell_of(watermark_ns)
        taken.parts.append(rows)
        taken.heartbeats += 1
        self._outages(record, taken, clock_ns)

    @staticmethod
    def _outages(record: Record, taken: Taken, clock_ns: int) -> None:
        """Hear what the venue says of its outages. A statement that cannot be read, or that speaks
        of the future, is not heard and counted, and the one before it stands: the watermark beside
        it is true all the same, and without it nothing more would be sealed."""
        stated = next((value for name, value in record.headers if name == HEADER_OUTAGES), None)
        if stated is None:
            return
        outages = parse_outages(stated)
        latest_ns = clock_ns + CLOCK_SKEW_NS
        if outages is None or any((s if e is None else e) > latest_ns for s, e in outages):
            taken.invalid_outages += 1
        else:
            taken.outages = stated

    def _flat(
        self,
        role: Role,
        part: Part,
        places: NDArray[np.intp],
        taken: Taken,
        clock_ns: int,
        policy: Policy,
    ) -> tuple[Rows, NDArray[np.intp]]:
        """Rows of the flat bars among `part` and the place of each."""
        if not len(places):
            return Rows.empty(0), places
        every = len(places) == len(part.records)
        records = part.records if every else [part.records[at] for at in places.tolist()]
        if part.values:
            values = [part.value(at) for at in places.tolist()]
        else:
            values = [record.value or b"" for record in records]
        decoded = self._decoder.decode(values, part.versions[places])
        self._learn()
        rows, rules = self._judged(decoded.columns, clock_ns)
        rules |= part.marks[places]
        # A bar that is still open closes in the future by its nature.
        rules[~decoded.columns.closed] &= ~FUTURE_TIME
        blocked, flags = outcome(rules, mode=policy.mode, off_grid=self._preset.off_grid)
        # One place more than there are symbols: what has no symbol has the number -1.
        ids = np.append(self._ids, -1)[decoded.sid]
        encoded = [*self._decoder.table.encoded, b""]
        expected = [encoded[sid] for sid in decoded.sid.tolist()]
        keys = [record.key for record in records]
        wrong_key = np.zeros(len(records), bool)
        if keys != expected:
            wrong_key[:] = [a != b for a, b in zip(keys, expected, strict=True)]
        stated = decoded.interval_ns
        other = (stated != 0) & (stated != self._preset.interval_ns)
        timed = decoded.ok & ~wrong_key & (ids >= 0) & ~other
        good = timed & ~blocked
        # A bar of the future has no time to believe, a preview is not the bar.
        timed &= decoded.columns.closed & (rules & FUTURE_TIME == 0)
        taken.arrivals.append((ids[timed], decoded.columns.open_time_ns[timed], places[timed]))
        keep = good & decoded.columns.closed
        taken.previews += int(np.count_nonzero(good & ~decoded.columns.closed))
        taken.bars += int(np.count_nonzero(keep))
        for at in np.flatnonzero(~good).tolist():
            reason, detail = self._flat_reason(decoded.code[at], ids[at], wrong_key[at], rules[at])
            if other[at]:
                reason, detail = WRONG_INTERVAL, f"a bar of {stated[at]} ns"
            taken.refuse(records[at], reason, detail, symbol=int(ids[at]))
        for at in self._count(taken, ids, rules, good):
            taken.fail(records[at], self._first(int(rules[at])), "")
        rows.cols[:, SYMBOL] = ids
        rows.cols[:, FLAGS] = flags
        rows.cols[:, ORIGIN] = LIVE if role == "live" else BACKFILL
        if part.redriven:
            rows.cols[:, REDRIVEN] = np.isin(places, list(part.redriven))
        if keep.all():
            return rows, places
        return Rows(rows.cols[keep], rows.vals[keep]), places[keep]

    def _judged(self, bars: BarColumns, clock_ns: int) -> tuple[Rows, I8]:
        return judged(
            bars,
            interval_ns=self._preset.interval_ns,
            origin_ns=self._preset.grid_origin_ns,
            latest_ns=clock_ns + CLOCK_SKEW_NS,
        )

    def _learn(self) -> None:
        """Number the symbols that the decoder has seen for the first time."""
        names = self._decoder.symbols
        known = len(self._ids)
        if len(names) == known:
            return
        fresh = [self._symbol(name) for name in names[known:]]
        self._ids = np.concatenate([self._ids, np.array(fresh, np.int64)])

    def _symbol(self, name: str) -> int:
        if partition_of(name, self._preset.partitions) != self._partition:
            return -1
        return self._level.symbol_id(name)

    def _flat_reason(self, code: int, symbol: int, wrong_key: bool, rules: int) -> tuple[str, str]:
        if code:
            reason = REASONS[code]
            if reason in (INVALID_TIMESTAMP, TOO_MANY_SYMBOLS):
                return reason, ""
            return UNDECODABLE, reason
        if wrong_key:
            return KEY_MISMATCH, "the key is not the UTF-8 symbol of the value"
        if symbol < 0:
            return WRONG_PARTITION, "the producer does not partition by murmur2 of the key"
        broken = [name for bit, name in RULES.items() if rules & bit]
        return self._first(rules), ",".join(broken)

    def _first(self, rules: int) -> str:
        return first_rule(rules, self._preset.off_grid)

    @staticmethod
    def _count(taken: Taken, ids: I8, rules: I8, good: Bool) -> list[int]:
        """Findings of rows that passed all the same (canary); which rows they were."""
        found: list[int] = np.flatnonzero(good & (rules != 0)).tolist()
        for at in found:
            for bit, name in RULES.items():
                if rules[at] & bit:
                    taken.findings[int(ids[at]), name] += 1
        return found

    def _block(
        self, part: Part, place: int, taken: Taken, clock_ns: int, policy: Policy
    ) -> Rows | None:
        """Rows of one block message: its claim, its bars, its end."""
        record = part.records[place]
        try:
            block = decode_block(part.value(place), int(part.versions[place]))
        except ContractError as error:
            reason = str(error.fields.get("reason", ""))
            shown = INVALID_TIMESTAMP if reason == INVALID_TIMESTAMP else UNDECODABLE
            taken.refuse(record, shown, str(error))
            return None
        problem = self._block_problem(record, block, clock_ns)
        if problem is not None:
            taken.refuse(record, *problem)
            return None
        symbol = self._level.symbol_id(block.symbol)
        columns = block.columns
        bars = BarColumns(
            **{name: getattr(columns, name) for name in BarColumns.DTYPES if name != "closed"},
            closed=np.ones(len(columns), bool),
        )
        rows, rules = self._judged(bars, clock_ns)
        rules |= part.marks[place]
        blocked, flags = outcome(rules, mode=policy.mode, off_grid=self._preset.off_grid)
        if blocked.any():
            reason = self._first(int(np.bitwise_or.reduce(rules[blocked])))
            times = columns.open_time_ns[blocked][:5].tolist()
            detail = f"{int(blocked.sum())} of {len(rules)} rows, the first at {times} ns"
            taken.refuse(record, reason, detail, symbol=symbol)
        ids = np.full(len(rules), symbol)
        timed = rules & FUTURE_TIME == 0
        places = np.full(int(timed.sum()), place)
        taken.arrivals.append((ids[timed], columns.open_time_ns[timed], places))
        failing = self._count(taken, ids, rules, ~blocked)
        # A block is one record: set aside it has been counted, and a mark without rows counts too.
        if not blocked.any() and (failing or part.marks[place]):
            broken = int(np.bitwise_or.reduce(rules) | part.marks[place])
            taken.fail(record, self._first(broken), f"{len(failing)} of {len(rules)} rows")
        rows.cols[:, FLAGS] = flags
        rows.cols[:, EVENT] = BLOCK_BAR
        rows.cols[:, REDRIVEN] = place in part.redriven
        keep = ~blocked
        parts = [self._claim(block), Rows(rows.cols[keep], rows.vals[keep]), self._end(block)]
        whole = Rows.concat([part for part in parts if part is not None])
        whole.cols[:, SYMBOL] = symbol
        whole.cols[:, ORIGIN] = BACKFILL
        taken.bars += int(keep.sum())
        return whole

    def _block_problem(self, record: Record, block: Block, clock_ns: int) -> tuple[str, str] | None:
        preset = self._preset
        if record.key != block.symbol.encode():
            return KEY_MISMATCH, "the key is not the UTF-8 symbol of the value"
        if partition_of(block.symbol, preset.partitions) != self._partition:
            return WRONG_PARTITION, "the producer does not partition by murmur2 of the key"
        start, end = block.block_start_ns, block.block_end_ns
        if block.interval_ns != preset.interval_ns or end - start != preset.block_ns:
            return INVALID_BLOCK, f"not a block of {preset.block_rows} x {preset.interval_ns} ns"
        if preset.block_start_of(start) != start:
            return INVALID_BLOCK, "does not start where a block of the preset starts"
        times = block.columns.open_time_ns
        through = block.complete_through_ns
        if len(times) and (times.min() < start or times.max() >= end):
            return INVALID_BLOCK, "a row lies outside the block"
        if not start <= block.range_start_ns < end or (through is not None and through > end):
            return INVALID_BLOCK, "its range lies outside the block"
        if through is not None and through > clock_ns + CLOCK_SKEW_NS:
            # It would close what has not begun, like a watermark of the future.
            return RULES[FUTURE_TIME], f"complete_through {through} ns"
        if block.digest != block_digest(block.symbol, block.columns):
            return INVALID_BLOCK, "the digest is not that of the rows"
        return None

    def _claim(self, block: Block) -> Rows | None:
        """The range that the source answered for, as whole cells."""
        if block.complete_through_ns is None:
            return None
        rows = Rows.empty(1)
        preset = self._preset
        rows.cols[0, EVENT] = CLAIM
        rows.cols[0, CELL] = -(
            -(block.range_start_ns - preset.grid_origin_ns) // preset.interval_ns
        )
        rows.cols[0, UNTIL] = preset.cell_of(block.complete_through_ns)
        return rows if rows.cols[0, CELL] < rows.cols[0, UNTIL] else None

    def _end(self, block: Block) -> Rows:
        rows = Rows.empty(1)
        rows.cols[0, EVENT] = BLOCK_END
        rows.cols[0, CELL] = self._preset.cell_of(block.block_start_ns)
        return rows


def watermark_of(record: Record) -> int | None:
    """The watermark of a heartbeat in ns; None where the headers are missing or wrong: one plain
    way to write a number, so that nothing else passes for one."""
    for name, value in record.headers:
        if name == HEADER_WATERMARK_NS:
            # A header may have no value at all.
            if value is None or _WATERMARK.fullmatch(value) is None:
                return None
            watermark_ns = int(value)
            return watermark_ns if -I64_END <= watermark_ns < I64_END else None
    return None
