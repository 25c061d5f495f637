"""The reader of the seam: does the steps that `streams.kernel.seam` numbers, against Kafka.

Decides: how often a snapshot is tried again, how long a gap is waited for, how events are batched.
Order (the numbers are those of the kernel):
  1. fence of conformed   2. storage   3. seals   4. gaps   5. conformed through the fence
  6. history, certificate, then the tail of all four from their fences.
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

import numpy as np

from seamline.connectors.kafka.reader import Message, Tail
from seamline.schemas.columns import I8, Bool, ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import NS_PER_S
from seamline.sdk.seam_snapshot import AGAIN_S, SETTLE_S, SnapshotReader, unsettled_error
from seamline.sdk.seam_source import POSITION_OFFSETS, SeamSource
from seamline.streams.kernel.seam import (
    OnGap,
    Part,
    Request,
    assemble,
    blocking,
    by_partition,
    gap_error,
    join_offset,
    merged_order,
    unexplained_error,
)
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import (
    BATCH_ROWS,
    CaughtUp,
    Event,
    Gap,
    SeamBroken,
    bars_of,
)
from seamline.streams.kernel.seam_follow import Follower
from seamline.streams.kernel.seam_proof import certify

WAIT_AGAIN_S: Final = 0.25
POLL_S: Final = 0.2
LIVE_ROLES: Final = ("conformed", "storage", "gaps", "positions")


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
    ) -> None:
        self._source = source
        self._request = request
        self._follow = follow
        self._wait_ns = wait_ns
        self._clock = clock
        self._stop = stop
        self._reader = SnapshotReader(source, request, self._check_open)
        self._watermarks: dict[int, int] = {}
        self.parts: list[Part] = []
        self.certificate: Certificate | None = None

    def batches(self, *, bars: bool = True) -> Iterator[list[Event]]:
        """Events in order, some at a time. Without `bars` the history is gaps and certificate."""
        try:
            self.open()
            yield from self._history(bars=bars)
            assert self.certificate is not None
            yield [CaughtUp(self.certificate)]
            if self._follow:
                yield from self._live()
        except Closed:
            return

    def open(self) -> None:
        """Read and prove the history. Raises SeamBroken, ContractError, UsageError."""
        if self.certificate is not None:
            return
        self._source.check_topics()
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
        self.certificate = certify(
            self._request,
            self.parts,
            self._source.symbols,
            self._positions(),
            made_ns=self._clock(),
        )

    def columns(self) -> dict[str, ConformedColumns]:
        """The history of each symbol as columns, by open time."""
        self.open()
        return {p.symbol: ConformedColumns.concat([p.sealed, p.log]) for p in self.parts}

    # steps 1 to 5

    def _try_once(self) -> _Missing | None:
        """One pass over the steps; what stands in the way, or None when the parts are there."""
        source, request = self._source, self._request
        fences = source.fences("conformed")  # 1
        unsettled = self._reader.advance()  # 2, 3
        if unsettled:
            return _Missing(request, unsettled=unsettled)
        self._reader.read_gaps()  # 4
        self._read_watermarks()
        self.parts = self._assemble(fences)  # 5
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

    def _read_watermarks(self) -> None:
        begins, fences = self._source.begins("positions"), self._source.fences("positions")
        starts = {p: max(begins[p], fence - POSITION_OFFSETS) for p, fence in fences.items()}
        for messages in self._source.read("positions", starts, fences):
            self._watermarks.update(self._source.watermarks(messages))
        self._reader.fences["positions"] = fences

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
                watermark_ns=self._watermarks.get(source.symbols[symbol]),
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

    def _history(self, *, bars: bool) -> Iterator[list[Event]]:
        gaps = [gap for part in self.parts for gap in (*part.gaps, *part.open_gaps)]
        gaps.sort(key=lambda gap: (gap.start_ns, gap.symbol))
        if not bars:
            if gaps:
                yield list(gaps)
            return
        rows, owner, young = merged_order(self.parts)
        at = 0
        for place, gap in zip(self._places(gaps, rows.open_time_ns, owner), gaps, strict=True):
            yield from self._bars(rows, owner, young, at, place)
            yield [gap]
            at = place
        yield from self._bars(rows, owner, young, at, len(rows))

    def _places(self, gaps: Sequence[Gap], times: I8, owner: I8) -> list[int]:
        """For each gap how many bars come before it by (open time, symbol)."""
        index = {part.symbol: i for i, part in enumerate(self.parts)}
        places = []
        for gap in gaps:
            lo = int(np.searchsorted(times, gap.start_ns, "left"))
            hi = int(np.searchsorted(times, gap.start_ns, "right"))
            places.append(lo + int((owner[lo:hi] < index[gap.symbol]).sum()))
        return places

    def _bars(
        self, rows: ConformedColumns, owner: I8, young: Bool, start: int, stop: int
    ) -> Iterator[list[Event]]:
        names = np.array([part.symbol for part in self.parts], object)
        for at in range(start, stop, BATCH_ROWS):
            self._check_open()
            part = slice(at, min(at + BATCH_ROWS, stop))
            symbols: list[str] = names[owner[part]].tolist()
            yield list(bars_of(symbols, rows.take(part), young[part]))

    def _live(self) -> Iterator[list[Event]]:
        follower = Follower(self._request, self.parts, wait_ns=self._wait_ns)
        self.parts = []  # the follower keeps what it needs
        if follower.ended:
            return
        ends = _Ends(self._source, self._request)
        with self._source.tail({role: self._reader.fences[role] for role in LIVE_ROLES}) as tail:
            while not follower.ended:
                self._check_open()
                events = self._apply(follower, self._poll(tail), ends)
                if events:
                    yield events
                for partition in ends.reached(tail):
                    symbols = by_partition(self._source.symbols)[partition]
                    follower.closed_through(symbols, self._request.stop_ns)
                follower.tick(self._clock())

    def _poll(self, tail: Tail) -> list[Message]:
        try:
            return tail.poll(POLL_S)
        except ContractError as error:
            if "begin" not in error.fields:
                raise
            raise SeamBroken(
                f"the reader was slower than retention: {error.message}",
                cause="retention_passed_reader",
                **error.fields,
            ) from None

    def _apply(self, follower: Follower, messages: list[Message], ends: _Ends) -> list[Event]:
        """One poll: rows first, so that a block meets what was delivered of it."""
        source, now_ns = self._source, self._clock()
        by_role: dict[str, list[Message]] = {role: [] for role in LIVE_ROLES}
        for message in messages:
            by_role[message.topic.rpartition(".")[2]].append(message)
        events: list[Event] = []
        for symbol, columns in source.rows(by_role["conformed"]):
            events += follower.rows(symbol, columns, now_ns)
        for block in source.blocks(by_role["storage"]):
            events += follower.block(block, now_ns)
        for symbol, start_ns, gap in source.gaps(by_role["gaps"]):
            events += follower.gap(symbol, start_ns, gap, now_ns)
        ends.note(source.watermarks(by_role["positions"]))
        return events

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise Closed

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Closed


class _Ends:
    """Partitions whose venue has sent everything before the end, and how far to read them on.

    The position is committed with the rows, but topics show a commit one after the other; the end
    that counts open transactions too is behind them.
    """

    def __init__(self, source: SeamSource, request: Request) -> None:
        self._source = source
        self._stop_ns = request.stop_ns
        self._fences: dict[int, int] = {}

    def note(self, watermarks: Mapping[int, int]) -> None:
        new = [p for p, w in watermarks.items() if w >= self._stop_ns and p not in self._fences]
        if new:
            ends = self._source.fences("conformed", "read_uncommitted")
            self._fences.update({partition: ends[partition] for partition in new})

    def reached(self, tail: Tail) -> list[int]:
        topic = self._source.topic("conformed")
        return [p for p, fence in self._fences.items() if tail.reached((topic, p), fence)]


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
        return unsettled_error(self.unsettled)
