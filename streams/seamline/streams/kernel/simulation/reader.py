"""A reader as a process: the numbered steps of the seam, one or some a turn, then the tail.

Decides: nothing about bars, that is `seam*.py`; here it is driven as `sdk.seam_engine` drives it,
with the world moving on between any two steps: fence of conformed first, then storage, seals, gaps,
conformed through the fence, history, certificate, the tail of all from their fences. Invariants:
each topic is read on from where the last try stopped; a poll gives rows before blocks before ledger
entries; what was delivered is kept as a consumer would keep it, and every event must fit to it.
Must not know: how the log was written.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from seamline.schemas.columns import ConformedColumns
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import parse_gap_key, partition_of, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.seam import (
    GapFacts,
    OnGap,
    Part,
    Request,
    SealFacts,
    Settled,
    Snapshot,
    assemble,
    by_partition,
    join_offset,
)
from seamline.streams.kernel.seam_broken import unexplained_error
from seamline.streams.kernel.seam_cells import Grid
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import (
    Bar,
    Event,
    Gap,
    LateBar,
    Revision,
    SeamBroken,
    bars_of,
)
from seamline.streams.kernel.seam_follow import Follower
from seamline.streams.kernel.seam_proof import certify
from seamline.streams.kernel.simulation.checks import Violation
from seamline.streams.kernel.simulation.venue import minute_of, time_of

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.world import World

HISTORY_ROLES: Final = ("storage", "seals", "gaps")
# A contradiction that ends a reader and is none: it was slower than retention.
LEGITIMATE: Final = ("join_point_gone", "retention_passed_reader")


def seal_facts(value: bytes) -> SealFacts:
    """A seal record as the seam reads it."""
    record = decode_record("seal", value)
    return SealFacts(**{name: record[name] for name in SealFacts.__dataclass_fields__})


@dataclass(slots=True)
class Delivered:
    """What a consumer holds after the events so far. Raises Violation where one does not fit."""

    bars: dict[tuple[str, int], Bar] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    told: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    events: int = 0

    def take(self, event: Event) -> None:
        self.events += 1
        if isinstance(event, Bar):
            if event.open_time_ns <= self.newest.get(event.symbol, -(2**63)):
                raise Violation("stream", f"a bar out of order: {event}")
            self.newest[event.symbol] = event.open_time_ns
            self._deliver(event)
        elif isinstance(event, LateBar):
            self._deliver(event.bar)
        elif isinstance(event, Revision):
            where = (event.bar.symbol, minute_of(event.bar.open_time_ns))
            held = self.bars.get(where)
            if held is None or event.previous is None or held.content != event.previous.content:
                raise Violation("stream", f"a revision of what was not delivered: {event}")
            if held.revision > event.bar.revision or held.content == event.bar.content:
                raise Violation("stream", f"a revision that changes nothing: {event}")
            self.bars[where] = event.bar
        elif isinstance(event, Gap):
            span = (minute_of(event.start_ns), minute_of(event.end_ns))
            self.told.setdefault(event.symbol, []).append(span)

    def _deliver(self, bar: Bar) -> None:
        where = (bar.symbol, minute_of(bar.open_time_ns))
        if where in self.bars:
            raise Violation("stream", f"delivered twice: {where}")
        self.bars[where] = bar


@dataclass(slots=True)
class Reader:
    """One reader of some symbols of the preset whose windows have `ratio` minutes. `at`: topic role
    -> partition -> next offset."""

    tail_roles: ClassVar[tuple[str, ...]] = ("conformed", "storage", "gaps")
    world: World
    name: str
    symbols: tuple[str, ...]
    start_minute: int
    ratio: int = 1
    up: bool = False
    stage: int = 0
    fences: dict[int, int] = field(default_factory=dict)
    at: dict[str, dict[int, int]] = field(default_factory=dict)
    begins: dict[str, dict[int, int]] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    follower: Follower | None = None
    delivered: Delivered = field(default_factory=Delivered)
    certificates: list[Certificate] = field(default_factory=list)
    must: Mapping[tuple[str, int], int] = field(default_factory=dict)
    quiet: int = -1

    @property
    def preset(self) -> Preset:
        return self.world.settings.preset(self.ratio)

    @property
    def request(self) -> Request:
        preset = self.preset
        return Request(
            preset_id=preset.id,
            symbols=self.symbols,
            start_ns=time_of(self.start_minute),
            end_ns=None,
            on_gap=OnGap.FLAG,
            grid=Grid(preset.interval_ns, preset.grid_origin_ns),
            block_ns=preset.block_ns,
            stabilization_bars=self.world.preset.stabilization_bars,
        )

    @property
    def partitions(self) -> dict[str, int]:
        return {s: partition_of(s, self.preset.partitions) for s in self.symbols}

    @property
    def follows(self) -> bool:
        return self.up and self.follower is not None

    def start(self) -> None:
        self.up, self.stage, self.follower = True, 0, None
        self.fences, self.at, self.begins = {}, {}, {}
        self.snapshot = Snapshot(self.request)
        self.delivered = Delivered()

    def crash(self) -> None:
        self.up, self.follower, self.snapshot = False, None, None

    def turn(self, rng: random.Random, *, steps: int, limit: int) -> None:
        """Some steps of the beginning, or one poll of at most `limit` records of each topic."""
        if not self.up:
            return
        try:
            for _ in range(steps):
                if self.follower is not None:
                    break
                self._step()
            if self.follower is not None:
                self._poll(rng, limit)
        except SeamBroken as broken:
            if broken.cause not in LEGITIMATE or not self.world.settings.retains:
                raise Violation("stream", f"{self.name}: {broken}") from broken
            self.world.count("retention_passed", self.name, broken.cause)
            self.crash()

    # --- the beginning

    def _step(self) -> None:
        """Fence, storage, seals, gaps, conformed: each on top of the one before."""
        if self.stage == 0:
            topic = topic_name(self.preset.id, "conformed")
            self.fences = {p: self._log(topic, p).stable for p in self.partitions.values()}
            self.must = self.world.audit.shown(self)
            self.quiet = -1 if self.world.broker.unsettled else self.world.broker.number
        elif self.stage <= len(HISTORY_ROLES):
            role = HISTORY_ROLES[self.stage - 1]
            self._read_history(role)
            if role == "seals" and self._snapshot.unsettled():
                self.world.count("unsettled", self.name, "storage and seals do not fit yet")
                self.stage = 0
                return
        else:
            self._begin()
            return
        self.stage += 1

    @property
    def _snapshot(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot

    def _log(self, topic: str, partition: int) -> Any:
        return self.world.broker.log(topic, partition)

    def _read_history(self, role: str) -> None:
        topic = topic_name(self.preset.id, role)
        for partition in sorted(set(self.partitions.values())):
            log = self._log(topic, partition)
            at = self.at.setdefault(role, {}).setdefault(partition, 0)
            self.begins.setdefault(role, {}).setdefault(partition, log.begin)
            fence = log.stable
            self.at[role][partition] = fence
            for record in log.committed(at, fence):
                self._note(role, record)

    def _note(self, role: str, record: MemoryRecord) -> None:
        snapshot = self._snapshot
        if role == "gaps":
            symbol, start_ns, gap = _gap(record)
            snapshot.add_gap(symbol, start_ns, gap)
        elif role == "storage" and record.value is not None:
            snapshot.add_block(self.world.audit.block(record))
        elif role == "seals" and record.value is not None:
            snapshot.add_seal(seal_facts(record.value))

    def _begin(self) -> None:
        """Assemble the history, deliver it, certify it; the tail begins at the fences."""
        world, request = self.world, self.request
        settled = {symbol: self._snapshot.settle(symbol) for symbol in self.symbols}
        parts = self._assembled(settled)
        if any(not part.known for part in parts):
            self.stage = 0  # nothing of a symbol yet: as under `on_gap=wait`
            return
        missing = unexplained_error(request, parts)
        if missing is not None:
            # While the topics were read one after the other a transaction may have come between.
            if self.quiet == world.broker.number and not world.broker.unsettled:
                raise Violation("gap", f"{self.name}: {missing}")
            self.stage = 0
            return
        for part in parts:
            for rows, young in ((part.sealed, None), (part.log, part.log_provisional)):
                for bar in bars_of(part.symbol, rows, young):
                    self._take([bar])
            self._take([*part.gaps, *part.open_gaps])
        certificate = certify(
            request, parts, self.partitions, self._positions(), made_ns=world.now_ns
        )
        self.certificates.append(certificate)
        world.audit.caught_up(self, certificate)
        self.follower = Follower(request, parts)
        self.at["conformed"] = dict(self.fences)
        world.note(self.name, f"caught up with {len(self.delivered.bars)} bars")

    def _assembled(self, settled: Mapping[str, Settled]) -> list[Part]:
        world, topic = self.world, topic_name(self.preset.id, "conformed")
        rows: dict[str, list[ConformedColumns]] = {symbol: [] for symbol in self.symbols}
        begins = {p: self._log(topic, p).begin for p in self.fences}
        self.begins["conformed"] = {}
        for partition, symbols in by_partition(self.partitions).items():
            joins = [join_offset(settled[s], begins[partition]) for s in symbols]
            start = min(max(min(joins), begins[partition]), self.fences[partition])
            self.begins["conformed"][partition] = start
            for symbol, columns in self._rows(
                self._log(topic, partition).committed(start, self.fences[partition])
            ):
                rows[symbol].append(columns)
        watermarks = world.audit.watermarks()
        return [
            assemble(
                self.request,
                settled[symbol],
                ConformedColumns.concat(rows[symbol]),
                watermark_ns=watermarks.get(self.partitions[symbol]),
                begin_offset=begins[self.partitions[symbol]],
            )
            for symbol in self.symbols
        ]

    def _positions(self) -> dict[int, dict[str, dict[str, int]]]:
        ends = {"conformed": self.fences, **self.at}
        return {
            partition: {
                role: {"from": self.begins[role][partition], "fence": ends[role][partition]}
                for role in ("conformed", *HISTORY_ROLES)
            }
            for partition in sorted(set(self.partitions.values()))
        }

    # --- the tail

    def _poll(self, rng: random.Random, limit: int) -> None:
        follower = self.follower
        assert follower is not None
        now_ns = self.world.now_ns
        got = {role: list(self._fetched(role, rng, limit)) for role in self.tail_roles}
        for symbol, columns in self._rows(got["conformed"]):
            self._take(follower.rows(symbol, columns, now_ns))
        for record in got.get("storage", ()):
            block = self.world.audit.block(record)
            if follower.wants(block.symbol):
                self._take(follower.block(block, now_ns))
        for record in got["gaps"]:
            symbol, start_ns, gap = _gap(record)
            if follower.wants(symbol):
                self._take(follower.gap(symbol, start_ns, gap, now_ns))
        follower.tick(now_ns)

    def _fetched(self, role: str, rng: random.Random, limit: int) -> Iterator[MemoryRecord]:
        topic = topic_name(self.preset.id, role)
        for partition, at in self.at[role].items():
            log = self._log(topic, partition)
            if at < log.begin:
                raise SeamBroken("slower than retention", cause="retention_passed_reader")
            many = limit if self.world.calm else rng.randrange(limit + 1)
            records = log.committed(at, log.end, many)
            if len(records) < many:
                self.at[role][partition] = log.stable  # a position steps over markers
            elif records:
                self.at[role][partition] = records[-1].offset + 1
            yield from records

    def at_end(self) -> bool:
        """Whether everything that is shown has been read."""
        if self.follower is None:
            return False
        return not any(
            self._log(topic_name(self.preset.id, role), partition).committed(at, 2**62, 1)
            for role in self.tail_roles
            for partition, at in self.at[role].items()
        )

    def _rows(self, records: Sequence[MemoryRecord]) -> Iterator[tuple[str, ConformedColumns]]:
        keys = {symbol.encode() for symbol in self.symbols}
        values = [r.value for r in records if r.key in keys and r.value is not None]
        if not values:
            return
        decoder = self.world.audit.decoder
        decoded = decoder.decode(values)
        for sid in np.unique(decoded.sid).tolist():
            rows = np.flatnonzero(decoded.sid == sid)
            yield decoder.symbols[sid], decoded.columns.take(rows)

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.delivered.take(event)
            self.world.audit.delivered(self, event)


def _gap(record: MemoryRecord) -> tuple[str, int, GapFacts | None]:
    symbol, start_ns = parse_gap_key(record.key or b"")
    if record.value is None:
        return symbol, start_ns, None
    found = decode_record("gap", record.value)
    return (
        symbol,
        start_ns,
        GapFacts(start_ns, found["end_ns"], found["cause"], found["known_time_ns"]),
    )
