"""Coverage: which cells of a grid are there, as a canonical set of half-open intervals.

Decides: merge, union, intersection, subtraction, what is missing of a window, how much of it is
covered, whether a history is complete. Conventions: the grid is `origin + k * interval` for every
integer k; an interval is first shrunk, by itself, to the whole cells that it holds, windows too; an
interval without a whole cell covers nothing. Invariants: spans are sorted, on the grid, not empty,
and neither overlap nor touch, so equal sets are equal values; nothing wraps at the ends of int64;
beyond sorting, work is linear. Every set is a `Coverage`: a ledger of gaps in cell numbers
(interval 1) and the ranges of a backfill in nanoseconds alike. Must not know: calendars, symbols,
clocks.

A time is an int of UTC nanoseconds. A float, a bool or a text is refused with the name of the
parameter: it carries no unit. Large sets are int64 arrays of shape (n, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from seamline.schemas.columns import I8
from seamline.schemas.errors import ContractError, UsageError

Interval = tuple[int, int]

_LOW, _HIGH = -(2**63), 2**63 - 1
_INTS = "Give int UTC nanoseconds"
_BARS = "Give a number of bars from 0"


def _pack(starts: Any, ends: Any) -> I8:
    """(n, 2), each column contiguous, so that a search in one does not copy it."""
    return np.array((starts, ends), np.int64).T


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """A canonical set of half-open intervals on a grid; make one with `of`, `of_cells`, `of_times`.

    `spans` is a read-only int64 array (n, 2) of [start, end), ascending. `interval_ns` is 1 where
    the numbers are cells, not times; `origin_ns` is one grid line, in 0..interval.
    """

    spans: I8 = field(default_factory=lambda: _pack((), ()))
    interval_ns: int = 1
    origin_ns: int = 0

    @classmethod
    def of(
        cls, have: Spans, *, interval_ns: int, origin_ns: int = 0, parameter: str = "have"
    ) -> Coverage:
        """The whole cells of each interval, merged: pairs, an int64 array (n, 2) or a Coverage.

        Raises UsageError, naming `parameter`, for an interval that ends before it starts and for
        numbers that are not int; naming `interval_ns` where it is not positive.
        """
        grid = require_grid(interval_ns, origin_ns)
        if isinstance(have, Coverage) and (have.interval_ns, have.origin_ns) == grid:
            return have
        return cls(_merged(_shrunk(_spans(have, parameter), *grid), grid[0]), *grid)._sealed()

    @classmethod
    def of_cells(cls, intervals: Spans) -> Coverage:
        """Intervals of cell numbers: every integer is a cell."""
        return cls.of(intervals, interval_ns=1, parameter="intervals")

    @classmethod
    def of_times(
        cls, ts_ns: Iterable[int] | I8, *, interval_ns: int, origin_ns: int = 0
    ) -> Coverage:
        """The cells of bars: a bar at t covers [t, t + interval), and only when t is on the grid.

        Raises UsageError naming `ts_ns` for times that are not int nanoseconds.
        """
        interval_ns, origin_ns = require_grid(interval_ns, origin_ns)
        times = _times(ts_ns, "ts_ns")
        times = times[(times % interval_ns == origin_ns) & (times <= _HIGH - interval_ns)]
        return cls(
            _merged(_pack(times, times + interval_ns), interval_ns), interval_ns, origin_ns
        )._sealed()

    def _sealed(self) -> Coverage:
        self.spans.setflags(write=False)
        return self

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The spans as pairs of int."""
        return tuple(zip(self.spans[:, 0].tolist(), self.spans[:, 1].tolist(), strict=True))

    @property
    def bounds(self) -> Interval | None:
        """First start and last end; None of nothing, for nothing has no bounds."""
        return (int(self.spans[0, 0]), int(self.spans[-1, 1])) if len(self.spans) else None

    @property
    def cells(self) -> int:
        """How many cells, that is bars."""
        # As unsigned numbers the length of every span is exact, even over the whole of int64.
        unsigned = self.spans.view(np.uint64) if len(self.spans) else self.spans.astype(np.uint64)
        return int((unsigned[:, 1] - unsigned[:, 0]).sum()) // self.interval_ns

    def cell_starts(self) -> I8:
        """The time of every cell, ascending: int64 (cells,)."""
        counts = (self.spans[:, 1] - self.spans[:, 0]) // self.interval_ns
        before = np.repeat(np.cumsum(counts) - counts, counts)
        steps = np.arange(len(before), dtype=np.int64) - before
        times: I8 = np.repeat(self.spans[:, 0], counts) + steps * self.interval_ns
        return times

    def __iter__(self) -> Iterator[Interval]:
        return iter(self.intervals)

    def __len__(self) -> int:
        return len(self.spans)

    def __eq__(self, other: object) -> bool:
        """Equal grids and equal sets."""
        if not isinstance(other, Coverage):
            return NotImplemented
        return (self.interval_ns, self.origin_ns) == (other.interval_ns, other.origin_ns) and (
            np.array_equal(self.spans, other.spans)
        )

    def __hash__(self) -> int:
        return hash((self.interval_ns, self.origin_ns, self.spans.tobytes()))

    def contains(self, time_ns: int) -> bool:
        """Whether the time lies in a covered cell."""
        at = int(np.searchsorted(self.spans[:, 0], time_ns, "right")) - 1
        return at >= 0 and time_ns < int(self.spans[at, 1])

    def union(self, other: Coverage) -> Coverage:
        """The cells of either. Like all three: UsageError where the other has another grid."""
        both = np.concatenate((self.spans, self._same_grid(other).spans))
        return Coverage(_merged(both, self.interval_ns), self.interval_ns, self.origin_ns)._sealed()

    def intersect(self, other: Coverage) -> Coverage:
        """The cells of both."""
        common = _common(self.spans, self._same_grid(other).spans)
        return Coverage(common, self.interval_ns, self.origin_ns)._sealed()

    def subtract(self, other: Coverage) -> Coverage:
        """The own cells that the other does not have."""
        left = _without(self.spans, self._same_grid(other).spans)
        return Coverage(left, self.interval_ns, self.origin_ns)._sealed()

    def replace(self, start: int, end: int, parts: Sequence[Interval]) -> Coverage:
        """Inside [start, end) exactly `parts`, elsewhere as before; all of them on the grid.

        Only the neighbourhood is worked on: a ledger changes at one place at a time.
        """
        first = int(np.searchsorted(self.spans[:, 1], start, "left"))
        last = int(np.searchsorted(self.spans[:, 0], end, "right"))
        if first == last and not parts:
            return self
        if not all(start <= a < b <= end for a, b in parts):
            _refuse("not inside the range", "parts", tuple(parts), f"Keep to [{start}, {end})")
        near: list[list[int]] = self.spans[first:last].tolist()
        now = [*parts, *((a, min(b, start)) for a, b in near if a < start)]
        now += [(max(a, end), b) for a, b in near if b > end]
        spans = _merged(_pack([a for a, _ in now], [b for _, b in now]), self.interval_ns)
        if last - first < len(self.spans):
            spans = np.concatenate((self.spans[:first], spans, self.spans[last:]))
        return Coverage(spans, self.interval_ns, self.origin_ns)._sealed()

    def _same_grid(self, other: Coverage) -> Coverage:
        mine, theirs = (self.interval_ns, self.origin_ns), (other.interval_ns, other.origin_ns)
        if mine != theirs:
            raise UsageError(
                f"coverage on another grid, this one has interval and origin {mine}",
                parameter="interval_ns",
                value=theirs,
                fix="Bring both onto one grid with Coverage.of",
            )
        return other


Spans = Iterable[Interval] | I8 | Coverage


@dataclass(frozen=True, slots=True)
class WindowCoverage:
    """A window: what was expected of it, and of that what is covered and what is missing.

    Invariant: covered and missing are disjoint, and together they are expected, cell by cell.
    """

    expected: Coverage
    covered: Coverage
    missing: Coverage

    @property
    def expected_bars(self) -> int:
        return self.expected.cells

    @property
    def covered_bars(self) -> int:
        return self.covered.cells

    @property
    def missing_bars(self) -> int:
        return self.missing.cells

    @property
    def ratio(self) -> float:
        """Covered bars over expected bars, in 0..1; 1.0 where no bar is expected."""
        return self.covered_bars / self.expected_bars if self.expected_bars else 1.0


def merge_coverage(have: Spans, *, interval_ns: int, origin_ns: int = 0) -> Coverage:
    """The intervals as one canonical set: order, overlap and repetition do not matter."""
    return Coverage.of(have, interval_ns=interval_ns, origin_ns=origin_ns)


def union(sources: Mapping[str, Spans], *, interval_ns: int, origin_ns: int = 0) -> Coverage:
    """What a reader of all these sources has. Raises UsageError naming `sources`, and with the
    field `source`, where the intervals of one of them are refused."""
    grid = require_grid(interval_ns, origin_ns)
    if not isinstance(sources, Mapping):
        _refuse(
            "not intervals by name", "sources", sources, 'Write {"cache": [(start_ns, end_ns)]}'
        )
    parts = [_pack((), ())]
    for name, have in sources.items():
        try:
            spans = _spans(have, "sources")
        except UsageError as error:
            raise UsageError(
                f"source {name}: {error.message}",
                parameter="sources",
                value=error.value,
                fix=error.fix,
                source=name,
            ) from None
        parts.append(_shrunk(spans, *grid))
    return Coverage(_merged(np.concatenate(parts), grid[0]), *grid)._sealed()


def intersect(want: Spans, have: Spans, *, interval_ns: int, origin_ns: int = 0) -> Coverage:
    """The cells that both have."""
    there = Coverage.of(have, interval_ns=interval_ns, origin_ns=origin_ns)
    return _like(there, want, "want").intersect(there)


def subtract(want: Spans, have: Spans, *, interval_ns: int, origin_ns: int = 0) -> Coverage:
    """The wanted cells that are not there."""
    there = Coverage.of(have, interval_ns=interval_ns, origin_ns=origin_ns)
    return _like(there, want, "want").subtract(there)


def bounds(have: Spans, *, interval_ns: int, origin_ns: int = 0) -> Interval | None:
    """First start and last end of the whole cells; None where there is none."""
    return Coverage.of(have, interval_ns=interval_ns, origin_ns=origin_ns).bounds


def window_coverage(
    have: Spans,
    window_ns: Interval,
    *,
    interval_ns: int,
    origin_ns: int = 0,
    expected: Coverage | None = None,
) -> WindowCoverage:
    """What of the window is covered and what is missing.

    Expected are all whole cells of the window, or those of them that a calendar expects
    (`Calendar.expected`, on the same grid). Raises UsageError naming `have`, `window_ns` or
    `interval_ns`.
    """
    there = Coverage.of(have, interval_ns=interval_ns, origin_ns=origin_ns)
    wanted = _like(there, (window_ns,), "window_ns")
    if expected is not None:
        wanted = wanted.intersect(expected)
    return WindowCoverage(wanted, wanted.intersect(there), wanted.subtract(there))


def compute_missing_ranges(
    have: Spans,
    window_ns: Interval,
    *,
    interval_ns: int,
    origin_ns: int = 0,
    expected: Coverage | None = None,
) -> Coverage:
    """What `window_coverage` finds missing."""
    return window_coverage(
        have, window_ns, interval_ns=interval_ns, origin_ns=origin_ns, expected=expected
    ).missing


def coverage_ratio(
    have: Spans,
    window_ns: Interval,
    *,
    interval_ns: int,
    origin_ns: int = 0,
    expected: Coverage | None = None,
) -> float:
    """Covered bars over expected bars of the window; 1.0 where no bar is expected."""
    return window_coverage(
        have, window_ns, interval_ns=interval_ns, origin_ns=origin_ns, expected=expected
    ).ratio


def require_history(
    ts_ns: Iterable[int] | I8,
    required_bars: int,
    have: Spans | None,
    *,
    interval_ns: int,
    origin_ns: int = 0,
) -> int:
    """How many bars were received, where they are enough and without a hole.

    `have` is the coverage that was promised; None is no promise, then first to last bar is
    expected. A repeated time is one bar, an off-grid time none. Raises ContractError with `reason`
    (the first that applies of `empty`, `hole`, `too_few`), `required_bars`, `expected_bars`,
    `received_bars` and `missing`; UsageError for arguments without a unit.
    """
    received = Coverage.of_times(ts_ns, interval_ns=interval_ns, origin_ns=origin_ns)
    required = require_bars(required_bars, "required_bars")
    if have is None:
        have = () if received.bounds is None else (received.bounds,)
    expected = _like(received, have, "have")
    missing = expected.subtract(received)
    if not len(received):
        reason, message = "empty", "no bar was received"
    elif len(missing):
        reason, message = "hole", f"{missing.cells} of {expected.cells} bars are missing"
    elif received.cells < required:
        reason, message = "too_few", f"{received.cells} of {required} required bars"
    else:
        return received.cells
    raise ContractError(
        f"not the history that was required: {message}",
        reason=reason,
        required_bars=required,
        expected_bars=expected.cells,
        received_bars=received.cells,
        missing=missing.intervals,
    )


def missing_runs(present: I8, start: int, end: int, interval: int) -> list[Interval]:
    """The maximal runs of [start, end) that are not among `present`, grid times in ascending order.

    For rows, where `compute_missing_ranges` is for intervals. Start and end are on the grid.
    """
    inside = present[np.searchsorted(present, start) : np.searchsorted(present, end)]
    edges = np.concatenate(([start - interval], inside, [end]))
    holes = np.flatnonzero(np.diff(edges) > interval)
    return [(int(edges[k]) + interval, int(edges[k + 1])) for k in holes]


def _like(there: Coverage, have: Spans, parameter: str) -> Coverage:
    return Coverage.of(
        have, interval_ns=there.interval_ns, origin_ns=there.origin_ns, parameter=parameter
    )


def require_grid(interval_ns: int, origin_ns: int) -> tuple[int, int]:
    """The interval, and the origin as a number in 0..interval. Raises UsageError by name."""
    interval_ns = require_int(interval_ns, "interval_ns", _INTS)
    if interval_ns <= 0:
        raise UsageError(
            "coverage exists only on a grid",
            parameter="interval_ns",
            value=interval_ns,
            fix="Give an interval above 0",
        )
    return interval_ns, require_int(origin_ns, "origin_ns", _INTS) % interval_ns


def require_int(value: object, parameter: str, fix: str) -> int:
    """A whole number that fits int64. Raises UsageError for bool, float, text and what is larger:
    a truth is no number, and a fraction of a nanosecond is the mark of another unit."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError("not a whole number", parameter=parameter, value=value, fix=fix)
    if not _LOW <= value <= _HIGH:
        raise UsageError("outside int64", parameter=parameter, value=value, fix=fix)
    return int(value)


def require_bars(bars: object, parameter: str) -> int:
    """A number of bars from 0. Raises UsageError by name."""
    found = require_int(bars, parameter, _BARS)
    if found < 0:
        raise UsageError("less than no bar", parameter=parameter, value=found, fix=_BARS)
    return found


def _spans(have: Spans, parameter: str) -> I8:
    """The intervals as (n, 2), as they are. Raises UsageError by name."""
    if isinstance(have, Coverage):
        return have.spans
    if isinstance(have, np.ndarray):
        spans = _int64(have, parameter)
        if spans.ndim != 2 or spans.shape[1] != 2:
            _refuse("not of shape (n, 2)", parameter, spans.shape, "Give a row for each interval")
    else:
        pairs = list(_iterated(have, parameter))
        for pair in pairs:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                _refuse("not an interval", parameter, pair, "Give pairs (start_ns, end_ns)")
        starts = [require_int(pair[0], parameter, _INTS) for pair in pairs]
        spans = _pack(starts, [require_int(pair[1], parameter, _INTS) for pair in pairs])
    inverted = np.flatnonzero(spans[:, 0] > spans[:, 1])
    if len(inverted):
        first = tuple(spans[inverted[0]].tolist())
        _refuse("ends before it starts", parameter, first, "Intervals are [start, end)")
    return spans


def _times(ts_ns: Iterable[int] | I8, parameter: str) -> I8:
    if not isinstance(ts_ns, np.ndarray):
        checked = [require_int(time, parameter, _INTS) for time in _iterated(ts_ns, parameter)]
        return np.array(checked, np.int64)
    times = _int64(ts_ns, parameter)
    if times.ndim != 1:
        _refuse("not of shape (n,)", parameter, times.shape, "Give one column of times")
    return times


def _iterated(values: Any, parameter: str) -> Iterable[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        _refuse("not a list", parameter, values, _INTS)
    return values


def _int64(array: Any, parameter: str) -> I8:
    if array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64):
        _refuse("not an array of int64", parameter, array.dtype, _INTS)
    return np.asarray(array, np.int64)


def _refuse(message: str, parameter: str, value: object, fix: str) -> NoReturn:
    raise UsageError(message, parameter=parameter, value=value, fix=fix)


def _shrunk(spans: I8, interval: int, origin: int) -> I8:
    """Each interval by itself cut to its whole cells; those without one are gone. A new array.

    A grid line beyond int64 cannot be written down, so no cell can reach it.
    """
    starts, ends = spans[:, 0], spans[:, 1]
    if interval == 1:
        whole = starts < ends
        return _pack(starts[whole], ends[whole])
    # Up to the first line at or after the start, down to the last at or before the end. The
    # origin is taken from remainders in 0..interval: from a time it could wrap.
    up = origin - starts % interval
    up[up < 0] += interval
    down = ends % interval - origin
    down[down < 0] += interval
    whole = (starts <= _HIGH - up) & (ends >= _LOW + down)
    starts, ends = starts[whole] + up[whole], ends[whole] - down[whole]
    filled = starts < ends
    return _pack(starts[filled], ends[filled])


def _merged(spans: I8, interval: int) -> I8:
    """Spans that are not empty, joined where they overlap or touch.

    Sort all starts, and all ends: i spans have started before the i-th start, so if the i-th end is
    before it too, all of them are over, and a new span begins. Where the starts are in order, the
    furthest end so far says the same without a sort.
    """
    starts, ends = spans[:, 0], spans[:, 1]
    if len(spans) < 2:
        return _pack(starts, ends)
    if (starts[1:] >= starts[:-1]).all():
        ends = np.maximum.accumulate(ends)
    else:
        starts, ends = _ascending(starts, interval), _ascending(ends, interval)
    apart = starts[1:] > ends[:-1]
    return _pack(
        np.concatenate((starts[:1], starts[1:][apart])),
        np.concatenate((ends[:-1][apart], ends[-1:])),
    )


def _ascending(times: I8, interval: int) -> I8:
    """Grid times, sorted. Numbers of cells mostly fit 32 bits and then sort twice as fast."""
    low = int(times.min())
    reach = int(times.max()) - low
    if reach > _HIGH or reach // interval >= 2**32:
        return np.sort(times)
    cells: I8 = np.sort(((times - low) // interval).astype(np.uint32)).astype(np.int64)
    return cells * interval + low


def _common(a: I8, b: I8) -> I8:
    """The intersection of two canonical sets.

    Sort all starts, and all ends. At most two spans are open at a time, so two are open exactly
    from the (i+1)-th start to the i-th end, where that start comes first. The stable sort finds
    two ascending runs and merges them in linear time.
    """
    starts = np.sort(np.concatenate((a[:, 0], b[:, 0])), kind="stable")[1:]
    ends = np.sort(np.concatenate((a[:, 1], b[:, 1])), kind="stable")[:-1]
    both = starts < ends
    return _pack(starts[both], ends[both])


def _without(a: I8, b: I8) -> I8:
    """The canonical set `a` without `b`: what it shares with the holes of `b`."""
    if not len(a) or not len(b):
        return a
    first, last = min(a[0, 0], b[0, 0]), max(a[-1, 1], b[-1, 1])
    starts, ends = np.concatenate(([first], b[:, 1])), np.concatenate((b[:, 0], [last]))
    holes = starts < ends
    return _common(a, _pack(starts[holes], ends[holes]))
