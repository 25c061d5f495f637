"""The reader of the seam: does the steps that `streams.kernel.seam` numbers, against Kafka.

Decides: how often a snapshot is tried again, how long a gap is waited for, how long a broker may be
silent, and which known time is proved to be seen whole.
Order (the numbers are those of the kernel):
  0. newest position of each partition, then the ends of the topics with open transactions
  1. fence of conformed   2. storage   3. seals   4. gaps   5. conformed through the fence
  6. history (of a resumed reader what is left of it), certificate, then the tail from the fences.
A known time is proved when a position of it was read, and then every topic to an end that was
taken after it: all of its transaction was written before its commit could be seen.
Invariants: each topic is read on from where the last try stopped, so a try costs what is new; the
tail starts at the fences, so nothing is read twice and nothing between is left out; batches are
bounded. Must not know: threads, event loops, what a person prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from threading import Event as Flag
from typing import Final

from seamline.connectors.kafka.reader import Message, Tail
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import NS_PER_S
from seamline.sdk.seam_horizon import PROVING_ROLES, Horizon, Pulse
from seamline.sdk.seam_snapshot import AGAIN_S, SETTLE_S, SnapshotReader, unsettled_error
from seamline.sdk.seam_source import POSITION_OFFSETS, Clocks, SeamSource
from seamline.streams.kernel.seam import (
    OnGap,
    Part,
    Request,
    assemble,
    by_partition,
    join_offset,
)
from seamline.streams.kernel.seam_broken import blocking, gap_error, unexplained_error
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import CaughtUp, Event, Gap, SeamBroken
from seamline.streams.kernel.seam_follow import Follower
from seamline.streams.kernel.seam_history import History
from seamline.streams.kernel.seam_position import Position
from seamline.streams.kernel.seam_proof import certify
from seamline.streams.kernel.seam_resume import (
    Rest,
    check_known,
    check_position,
    needs_superseded,
    rest_of,
    resumed_facts,
)
from seamline.streams.kernel.seam_told import Proved, proved

WAIT_AGAIN_S: Final = 0.25

POLL_S: Final = 0.2
LIVE_ROLES: Final = ("conformed", "storage", "gaps", "positions")


@dataclass(frozen=True, slots=True)
class Step:
    """Events to hand out. `begin`: a history follows; `caught_up`: it was handed out; `known_ns`:
    what is proved once these events were handed out."""

    events: list[Event]
    begin: Proved | None = None
    caught_up: bool = False
    live: bool = False
    known_ns: Mapping[int, int] = field(default_factory=dict)


class Closed(Exception):  # noqa: N818 - no error: the stream was closed while it worked
    """Raised inside the engine to leave; never reaches a caller."""


class SeamEngine:
    """One run of one reader: `batches()` once. `stop` may be set from any thread."""

    def __init__(
        self,
        source: SeamSource,
        request: Request,
        *,
        follow: bool,
        wait_ns: int,
        clock: Callable[[], int],
        stop: Flag,
        resume: Position | None = None,
    ) -> None:
        self._source = source
        self._request = request
        self._follow = follow
        self._wait_ns = wait_ns
        self._clock = clock
        self._stop = stop
        self._resume = resume
        self._reader = SnapshotReader(source, request, self._check_open)
        self._clocks = Clocks({}, {})
        self._known: dict[int, int] = {}
        self._cluster = ""
        self.parts: list[Part] = []
        self.rests: list[Rest] = []
        self.certificate: Certificate | None = None

    def steps(self, *, bars: bool = True) -> Iterator[Step]:
        """Events in order, some at a time. Without `bars` the history is gaps and certificate."""
        try:
            self.open()
            assert self.certificate is not None
            history = History.of(self.parts, self.rests)
            yield Step([], begin=self._proved(history.gaps))
            if bars:
                for batch in history.batches(self._check_open):
                    yield Step(batch)
            elif history.gaps:
                yield Step(list(history.gaps))
            del history
            self.rests = []
            yield Step([CaughtUp(self.certificate)], caught_up=True)
            if self._follow:
                yield from self._live()
        except Closed:
            return

    def open(self) -> None:
        """Read and prove the history. Raises SeamBroken, ContractError, UsageError."""
        if self.certificate is not None:
            return
        self._source.check_topics()
        self._source.open_contract()
        self._cluster = self._source.cluster_id()
        if self._resume is not None:
            check_position(self._resume, self._request, self._cluster)
        began = stuck = self._clock()
        while (missing := self._try_once()) is not None:
            now_ns = self._clock()
            if missing.gap:
                stuck = now_ns
                if now_ns - began >= self._wait_ns:
                    raise missing.error(self._wait_ns / NS_PER_S)
            elif now_ns - stuck >= SETTLE_S * NS_PER_S:
                raise missing.error(None)
            self._pause(WAIT_AGAIN_S if missing.gap else AGAIN_S)
        self.rests = [] if self._resume is None else self._rest(self._resume)
        self.certificate = certify(
            self._request,
            self.parts,
            self._source.symbols,
            self._positions(),
            made_ns=self._clock(),
            resumed=None if self._resume is None else resumed_facts(self._resume, self.rests),
        )

    def columns(self) -> dict[str, ConformedColumns]:
        """The history of each symbol as columns, by open time."""
        self.open()
        return {p.symbol: ConformedColumns.concat([p.sealed, p.log]) for p in self.parts}

    # steps 1 to 5

    def _try_once(self) -> _Missing | None:
        """One pass over the steps; what stands in the way, or None when the parts are there."""
        source, request = self._source, self._request
        self._read_clocks()  # 0
        ends = source.ends(PROVING_ROLES)
        fences = source.fences("conformed")  # 1
        unsettled = self._reader.advance()  # 2, 3
        if unsettled:
            return _Missing(request, unsettled=unsettled)
        self._reader.read_gaps()  # 4
        self.parts = self._assemble(fences)  # 5
        self._prove(ends)
        unknown = [part.symbol for part in self.parts if not part.known]
        if unknown:
            if request.on_gap is not OnGap.WAIT:
                raise self._unknown(unknown)
            return _Missing(request, unknown=unknown, gap=True)
        unexplained = unexplained_error(request, self.parts)
        if unexplained is not None:
            return _Missing(request, broken=unexplained)
        gaps = blocking(request, self.parts)
        if gaps:
            if request.on_gap is OnGap.FAIL:
                raise gap_error(request, gaps)
            return _Missing(request, gaps=gaps, gap=True)
        return None

    def _read_clocks(self) -> None:
        source = self._source
        begins, fences = source.begins("positions"), source.fences("positions")
        starts = {p: max(begins[p], fence - POSITION_OFFSETS) for p, fence in fences.items()}
        self._take_clocks(starts, fences)
        # Aborted transactions may have pushed the newest position out of the last offsets.
        rest = {p: begins[p] for p in fences if p not in self._clocks.known_ns}
        self._take_clocks(rest, {p: fences[p] for p in rest})
        self._reader.fences["positions"] = fences
        if self._resume is not None:
            check_known(self._resume, self._clocks.known_ns, self._request)

    def _take_clocks(self, starts: Mapping[int, int], fences: Mapping[int, int]) -> None:
        for messages in self._source.read("positions", starts, fences):
            found = self._source.clocks(messages)
            self._clocks.known_ns.update(found.known_ns)
            self._clocks.watermarks_ns.update(found.watermarks_ns)

    def _prove(self, ends: Mapping[str, Mapping[int, int]]) -> None:
        """The positions' own transactions show in all topics, or only those before them."""
        fences = self._reader.fences
        for partition in self._source.partitions:
            newest = self._clocks.known_ns.get(partition, 0)
            whole = all(fences[role][partition] >= ends[role][partition] for role in PROVING_ROLES)
            self._known[partition] = newest if whole else newest - 1

    def _rest(self, position: Position) -> list[Rest]:
        """What is left for a reader that goes on from a position."""
        source, request = self._source, self._request
        needed = {
            source.symbols[part.symbol]
            for part in self.parts
            if needs_superseded(position, part, source.symbols[part.symbol])
        }
        old: dict[str, list[ConformedColumns]] = {symbol: [] for symbol in request.symbols}
        begins, fences = source.begins("superseded"), source.fences("superseded")
        starts = {partition: begins[partition] for partition in needed}
        for messages in source.read("superseded", starts, {p: fences[p] for p in needed}):
            self._check_open()
            for symbol, columns in source.rows(messages, "superseded"):
                old[symbol].append(columns)
        return [
            rest_of(
                request,
                position,
                part,
                source.symbols[part.symbol],
                ConformedColumns.concat(old[part.symbol]),
            )
            for part in self.parts
        ]

    def _proved(self, gaps: Sequence[Gap]) -> Proved:
        return proved(
            self._request, self._cluster, self.parts, self._source.symbols, self._known, gaps
        )

    def _assemble(self, fences: Mapping[int, int]) -> list[Part]:
        request, source = self._request, self._source
        begins = source.begins("conformed")
        settled = {symbol: self._reader.snapshot.settle(symbol) for symbol in request.symbols}
        starts = {}
        for partition, symbols in by_partition(source.symbols).items():
            joins = [join_offset(settled[symbol], begins[partition]) for symbol in symbols]
            starts[partition] = min(max(min(joins), begins[partition]), fences[partition])
        self._reader.begins["conformed"], self._reader.fences["conformed"] = starts, dict(fences)
        rows: dict[str, list[ConformedColumns]] = {symbol: [] for symbol in request.symbols}
        try:
            for messages in source.read("conformed", starts, fences):
                self._check_open()
                for symbol, columns in source.rows(messages):
                    rows[symbol].append(columns)
        except ContractError as error:
            if "begin" not in error.fields:
                raise
            return self._assemble(fences)  # retention moved between the two questions
        return [
            assemble(
                request,
                settled[symbol],
                ConformedColumns.concat(rows[symbol]),
                watermark_ns=self._clocks.watermarks_ns.get(source.symbols[symbol]),
                begin_offset=begins[source.symbols[symbol]],
            )
            for symbol in request.symbols
        ]

    def _positions(self) -> dict[int, dict[str, dict[str, int]]]:
        return {
            partition: {
                role: {
                    "from": self._reader.begins[role][partition],
                    "fence": self._reader.fences[role][partition],
                }
                for role in ("conformed", "storage", "seals", "gaps")
            }
            for partition in self._source.partitions
        }

    def _unknown(self, unknown: Sequence[str]) -> UsageError:
        known = self._source.known_symbols()
        near = get_close_matches(unknown[0], known, n=3, cutoff=0.4)
        preset = self._request.preset_id
        return UsageError(
            f"{preset} has no bar of this symbol",
            parameter="symbols",
            value=unknown[0],
            fix=f"Did you mean {', '.join(near)}?"
            if near
            else "Start live or a backfill of it first",
            unknown=list(unknown),
            near=near,
        )

    # step 6

    def _live(self) -> Iterator[Step]:
        source = self._source
        follower = Follower(self._request, self.parts, wait_ns=self._wait_ns)
        self.parts = []  # the follower keeps what it needs
        if follower.ended:
            return
        ends, horizon, pulse = _Ends(source, self._request), Horizon(source, self._known), Pulse()
        with source.tail({role: self._reader.fences[role] for role in LIVE_ROLES}) as tail:
            while not follower.ended:
                self._check_open()
                self._source.follow_contract(tail)
                messages = self._poll(tail, follower)
                pulse.beat(source, heard=bool(messages))
                events, clocks = self._apply(follower, messages)
                ends.note(clocks.watermarks_ns)
                horizon.note(clocks.known_ns)
                known = horizon.reached(tail)
                if events or known:
                    yield Step(events, live=True, known_ns=known)
                horizon.ask()
                for partition in ends.reached(tail):
                    symbols = by_partition(source.symbols)[partition]
                    follower.closed_through(symbols, self._request.stop_ns)
                follower.tick(self._clock())

    def _poll(self, tail: Tail, follower: Follower) -> list[Message]:
        try:
            return tail.poll(POLL_S)
        except ContractError as error:
            if "begin" not in error.fields:
                raise
            raise self._passed_by_retention(error, follower) from None

    def _passed_by_retention(self, error: ContractError, follower: Follower) -> SeamBroken:
        """The log forgot what was not read yet; storage has it once it is sealed."""
        request, step = self._request, self._request.grid.interval_ns
        self._read_clocks()
        partition = error.fields["partition"]
        through = self._clocks.watermarks_ns.get(partition, 0)
        missing = []
        for symbol in by_partition(self._source.symbols)[partition]:
            start = follower.passed_ns(symbol)
            end = max(start + step, request.grid.up(min(through, request.stop_ns)))
            missing.append(Gap(symbol, start, end, request.grid.count(start, end), "retention"))
        return SeamBroken(
            f"the reader was slower than retention: {error.message}; a stream that is stitched "
            "with resume=stream.position of this one goes on",
            cause="retention_passed_reader",
            missing=missing,
            command=request.read_again(),
            **error.fields,
        )

    def _apply(self, follower: Follower, messages: list[Message]) -> tuple[list[Event], Clocks]:
        """One poll: rows first, so that a block meets what was delivered of it."""
        source, now_ns = self._source, self._clock()
        by_role: dict[str, list[Message]] = {role: [] for role in LIVE_ROLES}
        for message in source.without_modes(messages):
            by_role[message.topic.rpartition(".")[2]].append(message)
        events: list[Event] = []
        for symbol, columns in source.rows(by_role["conformed"]):
            events += follower.rows(symbol, columns, now_ns)
        for block in source.blocks(by_role["storage"]):
            events += follower.block(block, now_ns)
        for symbol, start_ns, gap in source.gaps(by_role["gaps"]):
            events += follower.gap(symbol, start_ns, gap, now_ns)
        return events, source.clocks(by_role["positions"])

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise Closed

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Closed


class _Ends:
    """Partitions whose venue has sent everything before the end, and how far to read them on.

    The position is committed with the rows, but topics show a commit one after the other; the ends
    that count open transactions too are behind them.
    """

    def __init__(self, source: SeamSource, request: Request) -> None:
        self._source = source
        self._stop_ns = request.stop_ns
        self._fences: dict[int, dict[str, int]] = {}

    def note(self, watermarks: Mapping[int, int]) -> None:
        new = [p for p, w in watermarks.items() if w >= self._stop_ns and p not in self._fences]
        if new:
            ends = self._source.ends(PROVING_ROLES)
            for partition in new:
                self._fences[partition] = {role: ends[role][partition] for role in PROVING_ROLES}

    def reached(self, tail: Tail) -> list[int]:
        topic = self._source.topic
        return [
            partition
            for partition, ends in self._fences.items()
            if all(tail.reached((topic(role), partition), end) for role, end in ends.items())
        ]


@dataclass(frozen=True, slots=True)
class _Missing:
    """What stands between a reader and its history. `gap`: it may be repaired while one waits."""

    request: Request
    unsettled: Mapping[str, str] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    gaps: Sequence[Gap] = ()
    broken: SeamBroken | None = None
    gap: bool = False

    def error(self, waited_s: float | None) -> Exception:
        if self.broken is not None:
            return self.broken
        if self.gaps:
            return gap_error(self.request, self.gaps, waited_s=waited_s)
        if self.unknown:
            return UsageError(
                f"no bar of this symbol came within {waited_s:g} s",
                parameter="symbols",
                value=self.unknown[0],
                fix="Start live or a backfill of it",
            )
        return unsettled_error(self.request.preset_id, self.unsettled)
