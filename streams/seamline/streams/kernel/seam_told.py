"""What one reader has handed out so far, and the position that says so after any event.

Decides: what a position holds while a history is handed out (a place in its order) and behind it
(everything, with the rows that are newer than what is proved). Invariants: a position counts an
event exactly when it was handed out; a known time is raised only to what the reader has proved to
be seen whole, and only when all of it was handed out; a position that would not be bounded is an
error, never a wrong one. Must not know: how a known time is proved, JSON, Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError
from seamline.streams.kernel import seam_nulls
from seamline.streams.kernel.seam import Part, Request
from seamline.streams.kernel.seam_events import Bar, CaughtUp, Event, Gap
from seamline.streams.kernel.seam_nulls import RUNS_MAX, Run
from seamline.streams.kernel.seam_position import (
    GAPS_KEPT,
    GAPS_MAX,
    ROWS_MAX,
    SEGMENTS_MAX,
    Place,
    Position,
    Segment,
    TellGap,
    Version,
    overlaps,
)

K = TypeVar("K")
Known = Mapping[int, int]  # partition -> known time that is proved to be seen whole


@dataclass(frozen=True, slots=True)
class Proved:
    """A history that is about to be handed out, as a position needs it.

    `young_rows` are known later than `known_ns` of their partition; `ledger` are gaps that the
    ledger names, told before or in this pass; `gaps` are those of this pass, in order.
    """

    cluster: str
    known_ns: Known
    partitions: Mapping[str, int]
    young_rows: Mapping[str, tuple[tuple[int, int, int], ...]]  # open time, revision, known time
    ledger: Mapping[str, tuple[Gap, ...]]
    gaps: tuple[Gap, ...]
    passed_ns: Mapping[str, int]
    nulls: Mapping[str, tuple[Run, ...]]


def proved(
    request: Request,
    cluster: str,
    parts: Sequence[Part],
    partitions: Mapping[str, int],
    known_ns: Known,
    gaps: Sequence[Gap],
) -> Proved:
    """The facts of assembled parts. `gaps`: those that will be handed out, in order."""
    rows, found = {}, {}
    for part in parts:
        known = known_ns[partitions[part.symbol]]
        rows[part.symbol] = tuple(
            version for columns in (part.sealed, part.log) for version in _young(columns, known)
        )
        entries = [gap for gap in part.gaps if gap.known_time_ns is not None]
        old = sorted(gap.start_ns for gap in entries if (gap.known_time_ns or 0) <= known)
        first = old[-GAPS_KEPT] if len(old) > GAPS_KEPT else 0
        found[part.symbol] = tuple(
            gap for gap in entries if gap.start_ns >= first or (gap.known_time_ns or 0) > known
        )
    return Proved(
        cluster=cluster,
        known_ns=dict(known_ns),
        partitions=dict(partitions),
        young_rows={name: versions for name, versions in rows.items() if versions},
        ledger={name: entries for name, entries in found.items() if entries},
        gaps=tuple(gaps),
        passed_ns={part.symbol: part.passed_ns for part in parts},
        nulls=_nulls(request, parts),
    )


def _young(columns: ConformedColumns, known_ns: int) -> Iterable[tuple[int, int, int]]:
    at = np.flatnonzero(columns.known_time_ns > known_ns)
    return zip(
        columns.open_time_ns[at].tolist(),
        columns.revision[at].tolist(),
        columns.known_time_ns[at].tolist(),
        strict=True,
    )


def _nulls(request: Request, parts: Sequence[Part]) -> dict[str, tuple[Run, ...]]:
    found = {}
    for part in parts:
        rows = ConformedColumns.concat([part.sealed, part.log])
        runs = seam_nulls.runs_of(rows, request.grid.interval_ns)
        if runs:
            found[part.symbol] = runs
    return found


def place_of(event: Event) -> Place | None:
    """Where in the order of a history an event stands; None behind all of it."""
    if isinstance(event, CaughtUp):
        return None
    if isinstance(event, Gap):
        return Place(event.start_ns, event.symbol)
    bar = event if isinstance(event, Bar) else event.bar
    return Place(bar.open_time_ns, bar.symbol)


@dataclass(slots=True)
class _Live:
    """Behind the history: everything was handed out; rows and gaps newer than `known_ns`."""

    known_ns: dict[int, int]
    partitions: Mapping[str, int]
    rows: dict[str, dict[Version, int]]
    gaps: dict[str, dict[TellGap, int]]
    passed_ns: dict[str, int]
    nulls: dict[str, tuple[Run, ...]]


@dataclass(slots=True)
class Told:
    """One reader's account. `resumed` is the position it goes on from."""

    request: Request
    resumed: Position | None = None
    _proved: Proved | None = None
    _live: _Live | None = None
    _held: Position | None = field(default=None)

    def begin(self, history: Proved) -> None:
        """The events that follow are a history, up to `CaughtUp`."""
        self._proved = history

    def caught_up(self) -> None:
        """The history was handed out; `handed` counts what follows."""
        history = self._proved
        assert history is not None
        self._live = _Live(
            known_ns=dict(history.known_ns),
            partitions=history.partitions,
            rows={
                name: {(time, revision): known for time, revision, known in rows}
                for name, rows in history.young_rows.items()
            },
            gaps={
                name: {_key(gap): gap.known_time_ns or 0 for gap in gaps}
                for name, gaps in history.ledger.items()
            },
            passed_ns=dict(history.passed_ns),
            nulls=dict(history.nulls),
        )

    def handed(self, event: Event) -> None:
        """One event behind the history."""
        live = self._live
        assert live is not None
        self._held = None
        if isinstance(event, Gap):
            _raise(live.passed_ns, event.symbol, event.end_ns)
            if event.known_time_ns is not None:
                live.gaps[event.symbol] = _with(live.gaps.get(event.symbol, {}), event)
            return
        if isinstance(event, CaughtUp):
            return
        bar = event if isinstance(event, Bar) else event.bar
        step = self.request.grid.interval_ns
        if isinstance(event, Bar):
            _raise(live.passed_ns, bar.symbol, bar.open_time_ns + step)
        if bar.known_time_ns > live.known_ns[live.partitions[bar.symbol]]:
            version = (bar.open_time_ns, bar.revision)
            live.rows.setdefault(bar.symbol, {})[version] = bar.known_time_ns
        runs = live.nulls.get(bar.symbol, ())
        put = seam_nulls.put(runs, bar.open_time_ns, step, seam_nulls.mask_of(bar))
        if put is not runs:
            live.nulls[bar.symbol] = put

    def advance(self, known_ns: Known) -> None:
        """Everything known at these times was seen, and what it caused was handed out."""
        live = self._live
        assert live is not None
        self._held = None
        for partition, known in known_ns.items():
            _raise(live.known_ns, partition, known)
        for name in list(live.rows):
            known = live.known_ns[live.partitions[name]]
            live.rows[name] = {row: time for row, time in live.rows[name].items() if time > known}
            if not live.rows[name]:
                del live.rows[name]
        for name, gaps in live.gaps.items():
            known = live.known_ns[live.partitions[name]]
            old = sorted(gap for gap, time in gaps.items() if time <= known)
            for gap in old[:-GAPS_KEPT]:
                del gaps[gap]

    def position(self, last: Event | None) -> Position | None:
        """After `last`, the newest event of a history that was handed out; behind it `last` says
        nothing. None before the first event of a stream that did not resume.

        Raises ContractError when the position would not be bounded.
        """
        if self._live is None:
            place = None if last is None else place_of(last)
            return self.resumed if place is None else self._within(place)
        if self._held is None:
            live = self._live
            segment = Segment(
                None,
                dict(live.known_ns),
                {name: tuple(rows) for name, rows in live.rows.items()},
                {name: tuple(gaps) for name, gaps in live.gaps.items()},
            )
            self._held = self._checked((segment,), live.passed_ns, live.nulls)
        return self._held

    def _within(self, place: Place) -> Position:
        """Up to `place` as it is known now, behind it what the pass before had handed out."""
        history, former = self._proved, self.resumed
        assert history is not None
        rows = {
            name: tuple((t, r) for t, r, _ in versions if t < place.limit_ns(name))
            for name, versions in history.young_rows.items()
        }
        gaps = {
            name: tuple(_key(gap) for gap in late if gap.start_ns < place.limit_ns(name))
            for name, late in history.ledger.items()
        }
        segment = Segment(
            place,
            history.known_ns,
            {name: versions for name, versions in rows.items() if versions},
            {name: late for name, late in gaps.items() if late},
        )
        behind = () if former is None else former.segments
        passed = {} if former is None else dict(former.passed_ns)
        for name, passed_ns in history.passed_ns.items():
            _raise(passed, name, min(place.limit_ns(name), passed_ns))
        for gap in history.gaps:
            if (gap.start_ns, gap.symbol) > place:
                break
            _raise(passed, gap.symbol, gap.end_ns)
        nulls = {}
        for name in self.request.symbols:
            limit = place.limit_ns(name)
            runs = seam_nulls.before(history.nulls.get(name, ()), limit)
            if former is not None:
                runs += seam_nulls.since(former.nulls.get(name, ()), limit)
            if runs:
                nulls[name] = runs
        rest = [one for one in behind if one.place is None or one.place > place]
        return self._checked((segment, *rest), passed, nulls)

    def _checked(
        self,
        segments: tuple[Segment, ...],
        passed_ns: Mapping[str, int],
        nulls: Mapping[str, tuple[Run, ...]],
    ) -> Position:
        counted = {
            "segments": (len(segments), SEGMENTS_MAX),
            "rows": (max(_most(one.rows) for one in segments), ROWS_MAX),
            "gaps": (max(_most(one.gaps) for one in segments), GAPS_MAX),
            "nulls": (_most(nulls), RUNS_MAX),
        }
        for name, (count, most) in counted.items():
            if count > most:
                raise ContractError(
                    f"the position would hold {count} {name}, {most} at most",
                    parameter=f"position.{name}",
                    value=count,
                    fix="Ask for the position later, or read again from the start",
                    cause="position_unbounded",
                )
        request, history = self.request, self._proved
        assert history is not None
        return Position(
            preset_id=request.preset_id,
            cluster=history.cluster,
            interval_ns=request.grid.interval_ns,
            symbols=request.symbols,
            start_ns=request.start_ns,
            end_ns=request.end_ns,
            segments=segments,
            passed_ns=dict(passed_ns),
            nulls=dict(nulls),
        )


def _key(gap: Gap) -> TellGap:
    return gap.start_ns, gap.end_ns, gap.cause


def _with(told: Mapping[TellGap, int], gap: Gap) -> dict[TellGap, int]:
    """The last words on each span, now that `gap` was told: a cause may change, and change back."""
    apart = {key: time for key, time in told.items() if not overlaps(key, gap)}
    return {**apart, _key(gap): gap.known_time_ns or 0}


def _most(found: Mapping[str, Sequence[object]]) -> int:
    return max(map(len, found.values()), default=0)


def _raise(held: dict[K, int], key: K, value: int) -> None:
    """Times only grow."""
    held[key] = max(value, held.get(key, value))
