"""What an answer states of its rows: one range of one symbol out of several sources.

Decides: which row of a bar is given where several sources have it, which rows are stable enough to
give, and what is said of them: bounds, coverage, what is missing, the fingerprint. Invariants:
every bar is given once, by its newest revision and latest knowledge, else by the first source that
has it; a row off the grid has no identity and is not given; bars are stabilized once, here, so
rows, metadata, artifact and fingerprint speak of the same bars. Must not know: where sources are,
when they are asked, budgets of time.

A provisional bar is there and not given: it counts neither as expected nor as covered nor as
missing, and is stated beside. So the edge of live data never looks like a hole, and expected is
covered and missing exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint_tree import tree_of
from seamline.streams.kernel.coverage import Coverage, Interval, WindowCoverage, window_coverage
from seamline.streams.kernel.stabilization import settled_ns, stabilize

DIGEST_PREFIX: Final = "sha256:"
HOLD: Final = "hold"
COVERAGE_BREACH: Final = "coverage_breach"


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of the rows of an answer; its metadata and its artifact carry the same one.

    Times are UTC nanoseconds, ranges half-open. `window` is the part of the request that could be
    answered: all of it but the provisional bars.
    """

    symbol: str
    requested: Interval
    rows: int
    coverage_bounds: Interval | None
    window: WindowCoverage
    provisional: Coverage
    stabilization_bars: int
    fingerprint: str

    @property
    def coverage_ratio(self) -> float:
        return self.window.ratio

    @property
    def missing_ranges(self) -> tuple[Interval, ...]:
        return self.window.missing.intervals

    @property
    def status(self) -> str:
        """`partial` when something is missing, else `complete`."""
        return "partial" if self.missing_ranges else "complete"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The stable rows, ascending, each bar once, and what is stated of them."""

    rows: ConformedColumns
    statement: Statement

    def require_complete(self) -> Answer:
        """Itself. Raises ContractError with `missing_ranges` where a bar is missing."""
        missing = self.statement.missing_ranges
        if missing:
            raise ContractError(
                f"{self.statement.window.missing_bars} of {self.statement.window.expected_bars} "
                "bars are missing",
                parameter="missing_ranges",
                value=missing,
                fix="Backfill them, or allow a part with partial_ok",
                missing_ranges=missing,
                coverage_ratio=self.statement.coverage_ratio,
            )
        return self


@dataclass(frozen=True, slots=True)
class Downgrade:
    """Why an answer may not be traded on, and what to do instead."""

    mode: str
    reason: str


def answer(
    symbol: str,
    window_ns: Interval,
    sources: Mapping[str, ConformedColumns],
    *,
    interval_ns: int,
    stabilization_bars: int,
    watermark_ns: int,
    origin_ns: int = 0,
    expected: Coverage | None = None,
) -> Answer:
    """The rows of `[start, end)` that the sources have together, and what is true of them.

    `sources` are rows of this symbol by name, in any order of rows; an earlier source goes first
    where two know the same. `expected` is what a calendar expects of the window
    (`Calendar.expected`); None is every cell. Raises UsageError naming the argument.
    """
    # What is asked for is refused or brought onto the grid before a row is looked at.
    asked = window_coverage((), window_ns, interval_ns=interval_ns, origin_ns=origin_ns)
    rows = _newest(sources, interval_ns, asked)
    there = Coverage.of_times(rows.open_time_ns, interval_ns=interval_ns, origin_ns=origin_ns)
    parted = stabilize(
        there,
        interval_ns=interval_ns,
        origin_ns=origin_ns,
        stabilization_bars=stabilization_bars,
        watermark_ns=watermark_ns,
    )
    edge_ns = settled_ns(watermark_ns, interval_ns, stabilization_bars) - interval_ns
    rows = rows.take(rows.open_time_ns <= edge_ns)
    wanted = (asked.expected if expected is None else expected).subtract(parted.provisional)
    window = window_coverage(
        parted.stable, window_ns, interval_ns=interval_ns, origin_ns=origin_ns, expected=wanted
    )
    statement = Statement(
        symbol=symbol,
        requested=window_ns,
        rows=len(rows),
        coverage_bounds=parted.stable.bounds,
        window=window,
        provisional=parted.provisional,
        stabilization_bars=stabilization_bars,
        fingerprint=fingerprint_of(symbol, rows),
    )
    return Answer(rows, statement)


def fingerprint_of(symbol: str, rows: ConformedColumns) -> str:
    """The fingerprint of exactly these rows: `sha256:` and 64 hex digits."""
    return DIGEST_PREFIX + tree_of([(symbol, rows)]).digest.hex()


def judge_coverage(coverage_ratio: float, min_coverage: float | None) -> Downgrade | None:
    """A hold where less is covered than was promised; the limit itself is kept.

    None is no promise. Raises UsageError naming `min_coverage` outside 0..1.
    """
    if min_coverage is None:
        return None
    number = isinstance(min_coverage, int | float) and not isinstance(min_coverage, bool)
    if not number or not 0 <= min_coverage <= 1:
        raise UsageError(
            "not a ratio", parameter="min_coverage", value=min_coverage, fix="Give one in 0..1"
        )
    # Not `<`: a ratio that is no number keeps no promise.
    return None if coverage_ratio >= min_coverage else Downgrade(HOLD, COVERAGE_BREACH)


def _newest(
    sources: Mapping[str, ConformedColumns], interval_ns: int, asked: WindowCoverage
) -> ConformedColumns:
    """Each bar of the window once, ascending."""
    every = ConformedColumns.concat(list(sources.values()))
    lengths = np.fromiter(map(len, sources.values()), np.int64, len(sources))
    source = np.repeat(np.arange(len(sources)), lengths)
    bounds, origin_ns = asked.expected.bounds, asked.expected.origin_ns
    if bounds is None:
        return every.take(slice(0, 0))
    times = every.open_time_ns
    inside = (times >= bounds[0]) & (times < bounds[1]) & (times % interval_ns == origin_ns)
    every, source = every.take(inside), source[inside]
    order = np.lexsort((source, -every.known_time_ns, -every.revision, every.open_time_ns))
    times = every.open_time_ns[order]
    first = np.append(True, times[1:] != times[:-1]) if len(times) else np.zeros(0, np.bool_)
    return every.take(order[first])
