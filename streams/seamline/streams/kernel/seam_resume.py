"""What is left of a history for a reader that goes on from a position.

Decides, for each bar as it stands now: handed out already, a new `Bar`, a `LateBar` of a time that
was passed, a `Revision` of the version that was handed out, or a completion of it; and which gaps
were not told. Only the newest version of a bar is told: revisions in between, made while the reader
was away, are skipped, and a bar that was never handed out comes with the revision that it has.
The version that was handed out is found in the log or in `superseded` by its known time.
Invariants: with the same position and the same log the answer is the same; nothing that the
position covers is told again; nothing newer is left out; what cannot be told apart is a SeamBroken.
Must not know: Kafka, the clock, how a position was saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import I8, Bool, ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import format_time
from seamline.streams.kernel import seam_nulls
from seamline.streams.kernel.seam import Part, Request
from seamline.streams.kernel.seam_events import (
    Bar,
    Event,
    Gap,
    LateBar,
    Revision,
    SeamBroken,
    bars_of,
)
from seamline.streams.kernel.seam_position import Position, Segment, overlaps

TOLD: Final = 0
BAR: Final = 1
LATE: Final = 2
REVISED: Final = 3
COMPLETED: Final = 4
BEFORE_ALL: Final = -(2**63)


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """Of one symbol: `kinds` of its rows (sealed, then log), what was handed out of the revised and
    completed ones by open time, and the gaps to tell."""

    kinds: I8
    previous: Mapping[int, Bar]
    gaps: tuple[Gap, ...]

    def event(self, kind: int, bar: Bar) -> Event:
        if kind == BAR:
            return bar
        if kind == LATE:
            return LateBar(bar)
        return Revision(bar, self.previous[bar.open_time_ns], kind == COMPLETED)


def check_position(position: Position, request: Request, cluster: str | None = None) -> None:
    """Raises UsageError naming what of the request (and of the cluster, where it is known) the
    position was not saved for."""
    facts = (
        ("preset", position.preset_id, request.preset_id),
        ("cluster", position.cluster, position.cluster if cluster is None else cluster),
        ("symbols", position.symbols, request.symbols),
        ("interval_ns", position.interval_ns, request.grid.interval_ns),
        ("start_ns", position.start_ns, request.start_ns),
        ("end_ns", position.end_ns, request.end_ns),
    )
    for name, saved, asked in facts:
        if saved != asked:
            raise UsageError(
                f"the position was saved for another {name.removesuffix('_ns')}: "
                f"{_shown(name, saved)}, not {_shown(name, asked)}",
                parameter=f"position.{name}",
                value=saved,
                fix="Resume with the arguments of the stream that it was saved of, or read again "
                "without a position",
            )


def check_known(position: Position, known_ns: Mapping[int, int], request: Request) -> None:
    """Raises ContractError when the log is behind what was handed out by the position. `known_ns`:
    for each partition the newest known time that was committed."""
    for segment in position.segments:
        for partition, known in segment.known_ns.items():
            newest = known_ns.get(partition, 0)
            if newest < known:
                raise ContractError(
                    f"partition {partition} ends before the position: its newest transaction is of "
                    f"{format_time(newest)}, the position was saved behind {format_time(known)}",
                    parameter="position.known_ns",
                    value=known,
                    fix="The topics were made anew or restored; read again from the start: "
                    + request.read_again(),
                    cause="log_behind_position",
                    partition=partition,
                    newest_ns=newest,
                )


def resumed_facts(position: Position, rests: Sequence[Rest]) -> dict[str, Any]:
    """What a certificate says of the position that its reader went on from."""
    kinds = np.concatenate([rest.kinds for rest in rests])
    names = {TOLD: "told_before", BAR: "bars", LATE: "late_bars", REVISED: "revisions"}
    names[COMPLETED] = "completions"
    place = position.segments[0].place
    return {
        "position": position.sha256,
        "place": None if place is None else [format_time(place.open_time_ns), place.symbol],
        **{name: int((kinds == kind).sum()) for kind, name in names.items()},
        "gaps": sum(len(rest.gaps) for rest in rests),
    }


def _shown(name: str, value: object) -> str:
    if name in ("start_ns", "end_ns") and isinstance(value, int):
        return format_time(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class _Account:
    """A position as one symbol sees it."""

    symbol: str
    partition: int
    position: Position
    listed: frozenset[tuple[int, int]]  # versions handed out although they were known later

    @classmethod
    def of(cls, position: Position, symbol: str, partition: int) -> _Account:
        rows = (row for one in position.segments for row in one.rows.get(symbol, ()))
        return cls(symbol, partition, position, frozenset(rows))

    @property
    def through_ns(self) -> int:
        """Every cell before it was told."""
        return self.position.passed_ns.get(self.symbol, BEFORE_ALL)

    def known(self, times: I8) -> I8:
        """For each time the known time up to which it was handed out."""
        known = np.full(len(times), BEFORE_ALL, np.int64)
        for segment in reversed(self.position.segments):
            horizon = segment.known_ns.get(self.partition, BEFORE_ALL)
            known[self._inside(segment, times)] = horizon
        return known

    def told_gap(self, gap: Gap) -> bool:
        """Whether a gap of the ledger was told as it is now."""
        if gap.start_ns >= self.through_ns:
            return False
        segments = self.position.segments
        start = np.array([gap.start_ns])
        of = next((one for one in segments if self._inside(one, start).all()), segments[-1])
        if (gap.known_time_ns or 0) <= of.known_ns.get(self.partition, BEFORE_ALL):
            return True
        for segment in segments:  # the last word first
            words = [word for word in segment.gaps.get(self.symbol, ()) if overlaps(word, gap)]
            if words:
                return any(
                    a <= gap.start_ns and gap.end_ns <= b and cause == gap.cause
                    for a, b, cause in words
                )
        return False

    def _inside(self, segment: Segment, times: I8) -> Bool:
        if segment.place is None:
            return np.ones(len(times), np.bool_)
        inside: Bool = times < segment.place.limit_ns(self.symbol)
        return inside


def needs_superseded(position: Position, part: Part, partition: int) -> bool:
    """Whether only `superseded` can say what was handed out of some bar of this symbol."""
    account = _Account.of(position, part.symbol, partition)
    rows = ConformedColumns.concat([part.sealed, part.log])
    changed = _changed(account, rows, _told(account, rows))
    first = part.tail.open_time_ns[part.tail.revision == 0]
    revised = rows.open_time_ns[changed & (rows.revision > 0)]
    return bool((~np.isin(revised, first)).any())


def rest_of(
    request: Request,
    position: Position,
    part: Part,
    partition: int,
    superseded: ConformedColumns,
) -> Rest:
    """What is left of one symbol. `superseded`: its replaced versions, where they are needed.

    Raises SeamBroken where nothing tells whether a revised bar was handed out.
    """
    account = _Account.of(position, part.symbol, partition)
    rows = ConformedColumns.concat([part.sealed, part.log])
    told = _told(account, rows)
    changed = _changed(account, rows, told)
    late = rows.open_time_ns < account.through_ns
    kinds = np.where(told, TOLD, np.where(late, LATE, BAR)).astype(np.int64)
    previous: dict[int, Bar] = {}
    nulls = position.nulls.get(part.symbol, ())
    _completed(part.symbol, rows, told, nulls, kinds, previous)
    versions = _versions(part, superseded, rows.open_time_ns[changed])
    for at in np.flatnonzero(changed).tolist():
        time = int(rows.open_time_ns[at])
        found = _handed_out(request, account, versions.get(time, []), int(rows.revision[at]), time)
        if found is None:
            continue
        [mask] = seam_nulls.at_times(nulls, np.array([time])).tolist()
        held = seam_nulls.without(found, mask)
        [bar] = bars_of(part.symbol, rows.take(slice(at, at + 1)))
        if held.content == bar.content:
            kinds[at] = TOLD
        else:
            kinds[at], previous[time] = REVISED, held
    return Rest(kinds, previous, tuple(_gaps(request, account, part)))


def _told(account: _Account, rows: ConformedColumns) -> Bool:
    """Rows whose version was handed out."""
    told: Bool = rows.known_time_ns <= account.known(rows.open_time_ns)
    for time, revision in account.listed:
        at = int(np.searchsorted(rows.open_time_ns, time))
        if at < len(rows) and rows.open_time_ns[at] == time and rows.revision[at] == revision:
            told[at] = True
    return told


def _changed(account: _Account, rows: ConformedColumns, told: Bool) -> Bool:
    """Rows not handed out as they are, of which an older version may have been."""
    covered = account.known(rows.open_time_ns) > BEFORE_ALL
    changed: Bool = ~told & covered & (rows.revision > 0)
    return changed


def _versions(part: Part, superseded: ConformedColumns, times: I8) -> dict[int, list[Bar]]:
    """Every version that log and `superseded` hold of the bars at `times`."""
    found: dict[int, list[Bar]] = {}
    if len(times):
        for columns in (superseded, part.tail):
            wanted = columns.take(np.isin(columns.open_time_ns, times))
            for bar in bars_of(part.symbol, wanted):
                found.setdefault(bar.open_time_ns, []).append(bar)
    return found


def _handed_out(
    request: Request, account: _Account, versions: Sequence[Bar], revision: int, time_ns: int
) -> Bar | None:
    """The newest older version that was handed out; None where none was."""
    [known] = account.known(np.array([time_ns])).tolist()
    told = [
        bar
        for bar in versions
        if bar.revision < revision
        and (bar.known_time_ns <= known or (time_ns, bar.revision) in account.listed)
    ]
    if told:
        return max(told, key=lambda bar: bar.revision)
    if any(bar.revision == 0 for bar in versions):
        return None  # it came and was revised while the reader was away
    step = request.grid.interval_ns
    raise SeamBroken(
        f"nothing tells what was handed out of {account.symbol} at {format_time(time_ns)}: it has "
        f"revision {revision}, and no earlier one is in the log or in superseded",
        cause="versions_gone",
        missing=[Gap(account.symbol, time_ns, time_ns + step, 1, "versions_gone")],
        command=request.read_again(),
        symbol=account.symbol,
        open_time_ns=time_ns,
    )


def _completed(
    symbol: str,
    rows: ConformedColumns,
    told: Bool,
    nulls: Sequence[seam_nulls.Run],
    kinds: I8,
    previous: dict[int, Bar],
) -> None:
    """Versions that were handed out with nulls that are filled now."""
    if not nulls:
        return
    then = seam_nulls.at_times(nulls, rows.open_time_ns)
    filled = told & ((then & ~seam_nulls.masks_of(rows)) != 0)
    at = np.flatnonzero(filled)
    kinds[at] = COMPLETED
    for bar, mask in zip(bars_of(symbol, rows.take(at)), then[at].tolist(), strict=True):
        previous[bar.open_time_ns] = seam_nulls.without(bar, mask)


def _gaps(request: Request, account: _Account, part: Part) -> Iterator[Gap]:
    """Gaps that were not told; of those without an entry the part that was not passed."""
    through = account.through_ns
    for gap in (*part.gaps, *part.open_gaps):
        if gap.known_time_ns is not None and gap.start_ns < through:
            if not account.told_gap(gap):
                yield gap
            continue
        start = max(gap.start_ns, min(through, gap.end_ns))
        bars = request.grid.count(start, gap.end_ns)
        if bars:
            yield Gap(
                gap.symbol, start, gap.end_ns, bars, gap.cause, gap.provisional, gap.known_time_ns
            )
