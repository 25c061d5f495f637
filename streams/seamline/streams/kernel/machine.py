"""All decisions for one partition of one preset: landed records in, transactions out.

Decides: the order inside a step, the known time, when a heartbeat alone is worth a commit, when
open bars have waited long enough. Invariants: everything that a step causes is in its batches, the
position last; the position never covers a record whose effects are not in it; known time grows from
step to step. Must not know: Kafka clients, Faust, how records are fetched.

Commit order of a step (one transaction, so readers see all of it or nothing):
  1. log rows of the preset          2. its blocks, superseded values, ledger, reports, seals
  3. the same for each derived preset   4. quarantine    5. position
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from seamline.schemas.columns import I8
from seamline.schemas.modes import Policy
from seamline.schemas.outages import parse_outages
from seamline.schemas.records import encode_record
from seamline.schemas.times import NS_PER_S, NS_PER_US
from seamline.schemas.topics import HEADER_OUTAGES, POSITION_KEY, subject_of, topic_name
from seamline.streams.kernel.failure_detail import Account, Untold
from seamline.streams.kernel.intake import (
    INVALID_OUTAGES,
    POISONED,
    QUARANTINED,
    Intake,
    Taken,
)
from seamline.streams.kernel.level import (
    B_BLOCK,
    CELL,
    COUNTED,
    EVENT,
    FRONTIER,
    KNOWN,
    OFFSET,
    PRESENT,
    REG_SYMBOLS,
    REG_WATERMARK,
    S_COUNTS,
    S_FRONTIER,
    S_MOVED,
    S_NEWEST,
    S_STABLE,
    SYMBOL,
    UNSET,
    Rows,
)
from seamline.streams.kernel.protocol import STEP_ROWS_MAX, Batch, Record, Role, Step
from seamline.streams.kernel.quarantined import Quarantined, quarantine_batch
from seamline.streams.kernel.rules import OUT_OF_ORDER
from seamline.streams.kernel.stage import Stage, fingerprint_header

# Records that change nothing but the watermark are worth one commit in this time.
HEARTBEAT_COMMIT_NS: Final = NS_PER_S
# How often open bars and idle symbols are looked over.
CARE_NS: Final = 10 * NS_PER_S
RESEAL_NS: Final = 24 * 3_600 * NS_PER_S
# An open bar may wait for its seal for this part of the log's retention.
RETENTION_PARTS: Final = 8
# A symbol whose newest bars have waited for this part of it gets no newer ones: it has ended.
ENDED_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Sent:
    """Where in a step's batches the offsets of a stage are, and how many log rows it has."""

    stage: int
    log: int | None
    log_rows: int
    blocks: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """What `committed` needs to know of its step."""

    position: Mapping[str, int]
    sent: tuple[Sent, ...]


@dataclass(slots=True)
class Clockwork:
    """Times that the machine remembers (ns)."""

    known_ns: int
    committed_ns: int = 0
    cared_ns: int = 0


@dataclass(slots=True)
class Pending:
    """What has happened since the last step that had something to write."""

    untold: Untold = field(default_factory=Untold)
    checked: Account = field(default_factory=Account)


class PartitionMachine:
    """The machine of one partition. `stages[0]` is the preset, the others are derived from it."""

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        intake: Intake,
        partition: int,
        owner: str,
        position: Mapping[str, int],
        known_ns: int,
        rows_total: int,
        ids: Mapping[str, int],
        outages: bytes | None = None,
        modes_version: int = 0,
    ) -> None:
        self._stages = stages
        self._parent = stages[0]
        self._intake = intake
        self._partition = partition
        self._owner = owner
        self._position = dict(position)
        self._next = dict(position)
        self._clock = Clockwork(known_ns)
        self._rows_total = rows_total
        self._ids = ids
        # The newest statement of the venue's outages, as it came.
        self._outages = outages
        # Of the mode under which the last records were judged.
        self._modes_version = modes_version
        self._pending = Pending()
        self._counts = self._counted()
        self._tell()  # what was heard before a restart, so that a change of it shows

    @property
    def position(self) -> Mapping[str, int]:
        return self._position

    @property
    def frontier_ns(self) -> int | None:
        state = self._parent.level.state
        frontiers = state.sym[: state.reg[REG_SYMBOLS], S_FRONTIER]
        frontiers = frontiers[frontiers != UNSET]
        return self._parent.time_of(int(frontiers.min())) if len(frontiers) else None

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        """Decide for records[start:], at most STEP_ROWS_MAX rows of it."""
        taken = self._intake.take(role, records, start, STEP_ROWS_MAX, clock_ns, policy)
        self._next[role] = records[taken.next_index - 1].offset + 1
        self._pending.untold.findings.update(taken.findings)
        self._modes_version = policy.version
        self._account(taken, role, taken.next_index - start, policy)
        if taken.outages is not None:
            self._outages = taken.outages
        known_ns = self._known(clock_ns)
        self._merge(taken.rows(), known_ns)
        self._pending.untold.fail(taken.detail, self._has_bars)
        return self._step(taken, known_ns, clock_ns)

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        """Quarantine and position alone: whatever cannot take the record is not asked again."""
        self._next[role] = record.offset + 1
        self._pending.untold.findings.update({(-1, POISONED): 1, (-1, QUARANTINED): 1})
        self._clock.known_ns = self._known(clock_ns)
        self._clock.committed_ns = clock_ns
        refused = Quarantined(record, POISONED, detail)
        return Step(
            batches=(
                quarantine_batch(self._parent.preset.id, [refused], clock_ns),
                self._position_batch(self._clock.known_ns),
            ),
            next_index=1,
            rows=0,
            quarantined={POISONED: 1},
            note=Note(dict(self._next), ()),
        )

    def _known(self, clock_ns: int) -> int:
        """The owner's clock, but never the same microsecond twice."""
        return max(clock_ns - clock_ns % NS_PER_US, self._clock.known_ns + NS_PER_US)

    def _merge(self, rows: Rows, known_ns: int) -> None:
        if not len(rows.cols):
            return
        derived = self._parent.merge(rows, known_ns)
        for stage, part in zip(self._stages[1:], derived, strict=True):
            if len(part.cols):
                for name in self._parent.level.symbols[len(stage.level.symbols) :]:
                    stage.level.symbol_id(name)
                stage.merge(part, known_ns)

    def _has_bars(self, symbol: str) -> bool:
        level = self._parent.level
        number = level.ids.get(symbol)
        return number is not None and bool(level.state.sym[number, S_NEWEST] != UNSET)

    def _account(self, taken: Taken, role: Role, records: int, policy: Policy) -> None:
        subject = subject_of(topic_name(self._parent.preset.id, role))
        self._pending.checked.add(
            *(subject, policy.mode, policy.version),
            seen=records - taken.heartbeats,
            failed=taken.failed,
            blocked=taken.blocked,
            detail=taken.detail,
        )

    def _step(self, taken: Taken | None, known_ns: int, clock_ns: int) -> Step:
        untold = self._pending.untold
        sealed = sum(stage.sealed for stage in self._stages)
        self._tell()
        for number, stage in enumerate(self._stages):
            stage.seal(known_ns, untold if number == 0 else Untold())
        sealed = sum(stage.sealed for stage in self._stages) - sealed
        batches: list[Batch] = []
        sent = [self._collect(number, batches) for number in range(len(self._stages))]
        bars = 0 if taken is None else taken.bars
        next_index = 0 if taken is None else taken.next_index
        if taken is not None and taken.quarantined:
            batches.append(quarantine_batch(self._parent.preset.id, taken.quarantined, clock_ns))
        idle = (
            not batches and not bars and clock_ns - self._clock.committed_ns < HEARTBEAT_COMMIT_NS
        )
        if idle or (taken is None and not batches):
            return Step((), next_index, bars)
        self._clock.known_ns = known_ns
        self._clock.committed_ns = clock_ns
        self._rows_total += bars
        batches.append(self._position_batch(known_ns))
        checked = self._pending.checked.taken()
        self._pending = Pending(untold)
        return Step(
            batches=tuple(batches),
            next_index=next_index,
            rows=bars,
            counts=self._count(taken),
            quarantined=_by_reason(taken),
            checked=checked,
            seals=sealed,
            note=Note(dict(self._next), tuple(sent)),
        )

    def _tell(self) -> None:
        """Let the ledgers know what the venue says: its outages, and its time."""
        outages, watermark_ns = parse_outages(self._outages or b"") or (), self._watermark_ns()
        for stage in self._stages:
            stage.book.hear(outages, watermark_ns, self._parent.preset.settle_ns)

    def _collect(self, number: int, batches: list[Batch]) -> Sent:
        log = blocks = None
        rows = 0
        for role, batch in self._stages[number].take_batches():
            if role == "conformed":
                log, rows = len(batches), len(batch.values)
            elif role == "storage":
                blocks = len(batches)
            batches.append(batch)
        return Sent(number, log, rows, blocks)

    def _position_batch(self, known_ns: int) -> Batch:
        parent = self._parent
        record = {
            "partition": self._partition,
            "live_offset": self._next["live"],
            "backfill_offset": self._next["backfill"],
            "watermark_ns": self._watermark_ns(),
            "known_time_ns": known_ns,
            "owner": self._owner,
            "conformed_offset": parent.bound,
            "rows_total": self._rows_total,
            "modes_version": self._modes_version,
        }
        value = encode_record("position", record, self._ids["position"])
        stated = () if self._outages is None else ((HEADER_OUTAGES, self._outages),)
        return Batch(
            topic=topic_name(parent.preset.id, "positions"),
            keys=[POSITION_KEY],
            values=[value],
            headers=(*fingerprint_header("position"), *stated),
        )

    def _watermark_ns(self) -> int | None:
        watermark = int(self._parent.level.state.reg[REG_WATERMARK])
        return None if watermark == UNSET else self._parent.time_of(watermark)

    def _counted(self) -> I8:
        state = self._parent.level.state
        total: I8 = state.sym[: state.reg[REG_SYMBOLS], S_COUNTS:].sum(axis=0)
        return total

    def _count(self, taken: Taken | None) -> dict[str, int]:
        now = self._counted()
        fresh = dict(zip(COUNTED, (now - self._counts).tolist(), strict=True))
        self._counts = now
        if taken is not None:
            fresh["previews"] = taken.previews
            fresh["heartbeats"] = taken.heartbeats
            fresh[INVALID_OUTAGES] = taken.invalid_outages
            fresh[OUT_OF_ORDER] = sum(
                n for (_, rule), n in taken.findings.items() if rule == OUT_OF_ORDER
            )
        return fresh

    def tick(self, clock_ns: int) -> Step | None:
        """Seal what has been open for too long; give idle symbols a newer log offset."""
        if clock_ns - self._clock.cared_ns < CARE_NS:
            return None
        self._clock.cared_ns = clock_ns
        known_ns = self._known(clock_ns)
        for number, stage in enumerate(self._stages):
            self._seal_partial(number, clock_ns, known_ns)
            # The log must not forget what a seal points at, however short its retention is.
            reseal_ns = min(RESEAL_NS, stage.preset.conformed_retention_ns // RETENTION_PARTS)
            for symbol, facts in stage.seals.items():
                idle = clock_ns - facts.offset_ns >= reseal_ns
                # A moved frontier gets its seal with its blocks: one without them would fit to the
                # blocks of before, and a reader between the two topics would take it.
                moved = stage.level.state.sym[symbol, S_MOVED]
                if idle and not moved and facts.conformed_offset < stage.bound:
                    stage.reseal(symbol, known_ns)
        return self._step(None, known_ns, clock_ns)

    def _seal_partial(self, number: int, clock_ns: int, known_ns: int) -> None:
        """Move the frontier into the open block where a bar waits for too long: to what is stable,
        and past the newest bars of a symbol that seems to have ended, before the log forgets them.
        """
        stage = self._stages[number]
        sym = stage.level.state.sym
        retention_ns = stage.preset.conformed_retention_ns
        for symbol in range(int(stage.level.state.reg[REG_SYMBOLS])):
            since_ns = self._waiting_since(stage, symbol)
            if since_ns is None or since_ns >= clock_ns - retention_ns // RETENTION_PARTS:
                continue
            target = int(sym[symbol, S_STABLE])
            if number == 0 and since_ns < clock_ns - retention_ns // ENDED_PARTS:
                target = max(target, int(sym[symbol, S_NEWEST]) + 1)
            if target <= sym[symbol, S_FRONTIER]:
                continue
            sym[symbol, S_FRONTIER] = target
            sym[symbol, S_STABLE] = max(int(sym[symbol, S_STABLE]), target)
            sym[symbol, S_MOVED] = 1
            if number == 0:
                self._push_frontier(symbol, target, known_ns)

    @staticmethod
    def _waiting_since(stage: Stage, symbol: int) -> int | None:
        """Known time of the oldest bar of a symbol that is only in the log."""
        state = stage.level.state
        frontier = int(state.sym[symbol, S_FRONTIER])
        oldest: int | None = None
        for slot in stage.level.slots_of(symbol):
            # What lies before the frontier is sealed already.
            cells = state.cells[slot, max(0, frontier - int(state.slot[slot, B_BLOCK])) :]
            known = cells[(cells[:, PRESENT] != 0) & (cells[:, OFFSET] >= 0), KNOWN]
            if len(known):
                first = int(known.min())
                oldest = first if oldest is None else min(oldest, first)
        return oldest

    def _push_frontier(self, symbol: int, frontier: int, known_ns: int) -> None:
        for stage, ratio in zip(self._stages[1:], self._parent.level.ratios.tolist(), strict=True):
            rows = Rows.empty(1)
            rows.cols[0, EVENT] = FRONTIER
            rows.cols[0, SYMBOL] = symbol
            rows.cols[0, CELL] = frontier // ratio
            stage.merge(rows, known_ns)

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        """The step's transaction is committed; note where the broker put it."""
        note: Note = step.note
        self._position = dict(note.position)
        for sent in note.sent:
            self._stages[sent.stage].committed(
                sent.log_rows,
                None if sent.log is None else offsets[sent.log][0],
                () if sent.blocks is None else offsets[sent.blocks],
            )

    def close(self) -> None:
        for stage in self._stages:
            stage.index.close()


def _by_reason(taken: Taken | None) -> dict[str, int]:
    if taken is None:
        return {}
    return dict(Counter(refused.reason for refused in taken.quarantined))
