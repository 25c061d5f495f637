"""Coverage: which cells of a grid are there, as a canonical set of half-open intervals.

Decides: union, intersection, subtraction and what is missing. Invariants: intervals are sorted, not
empty, and neither overlap nor touch, so equal sets have equal values. Numbers are cells or times of
one unit; the caller keeps to one. Must not know: units, calendars, symbols.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from seamline.schemas.errors import UsageError

Interval = tuple[int, int]


def canonical(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Sorted, merged. Raises UsageError where an interval ends before it starts."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end < start:
            raise UsageError(
                "ends before it starts",
                parameter="interval",
                value=(start, end),
                fix="Intervals are [start, end)",
            )
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


@dataclass(frozen=True, slots=True)
class Coverage:
    """A canonical set of half-open intervals; make one with `Coverage.of`."""

    intervals: tuple[Interval, ...] = ()

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> Coverage:
        return cls(canonical(intervals))

    def __iter__(self) -> Iterator[Interval]:
        return iter(self.intervals)

    def __bool__(self) -> bool:
        return bool(self.intervals)

    @property
    def size(self) -> int:
        """Total length."""
        return sum(end - start for start, end in self.intervals)

    def contains(self, point: int) -> bool:
        at = bisect_right(self.intervals, point, key=lambda interval: interval[0]) - 1
        return at >= 0 and point < self.intervals[at][1]

    def union(self, other: Iterable[Interval]) -> Coverage:
        return Coverage.of((*self.intervals, *other))

    def within(self, start: int, end: int) -> tuple[Interval, ...]:
        """The parts inside [start, end)."""
        if end <= start:
            return ()
        first = bisect_right(self.intervals, start, key=lambda interval: interval[1])
        last = bisect_left(self.intervals, end, key=lambda interval: interval[0])
        return tuple((max(a, start), min(b, end)) for a, b in self.intervals[first:last])

    def missing(self, start: int, end: int) -> tuple[Interval, ...]:
        """The parts of [start, end) that are not covered."""
        holes: list[Interval] = []
        at = start
        for a, b in self.within(start, end):
            if a > at:
                holes.append((at, a))
            at = b
        if at < end:
            holes.append((at, end))
        return tuple(holes)

    def replace(self, start: int, end: int, parts: Sequence[Interval]) -> Coverage:
        """Inside [start, end) exactly `parts`, elsewhere as before."""
        first = bisect_left(self.intervals, start, key=lambda interval: interval[1])
        last = bisect_right(self.intervals, end, key=lambda interval: interval[0])
        near = self.intervals[first:last]
        if not near and not parts:
            return self
        kept = [(a, min(b, start)) for a, b in near if a < start]
        kept += [(max(a, end), b) for a, b in near if b > end]
        return Coverage(self.intervals[:first] + canonical((*kept, *parts)) + self.intervals[last:])
