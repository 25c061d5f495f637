"""Expected bars: which cells of a window should hold a bar, by the sessions of an exchange.

Decides: with sessions, a cell shorter than a day is expected when any of it is trading time, a
longer one when it holds the label of a session; a session's label is its date at 00:00 UTC. Without
sessions (24/7) every whole cell of the window is expected. Invariants: a window outside the days
that the calendar knows is refused, never answered as empty; times are int64 UTC nanoseconds. Must
not know: names of exchanges, holidays, where sessions come from (`connectors.calendars`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from seamline.schemas.columns import I8
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import DAY_NS, format_time
from seamline.streams.kernel.coverage import Coverage, Interval


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """What is known of an exchange.

    `dates_ns`: int64 (sessions,), the date of each session at 00:00 UTC, ascending. `trading_ns`:
    int64 (spans, 2), trading time as [open, close), ascending and disjoint; a session with a lunch
    break has two. `known_ns`: all sessions of [start, end) are here. Raises UsageError, naming the
    field, for arrays that are not so.
    """

    dates_ns: I8
    trading_ns: I8
    known_ns: Interval

    def __post_init__(self) -> None:
        dates, spans = self.dates_ns, self.trading_ns
        if dates.dtype != np.int64 or dates.ndim != 1 or (dates[1:] <= dates[:-1]).any():
            raise _refused("dates_ns", "not int64 dates in order", dates)
        if (dates % DAY_NS).any():
            raise _refused("dates_ns", "not dates at 00:00 UTC", dates[dates % DAY_NS != 0])
        if spans.dtype != np.int64 or spans.ndim != 2 or spans.shape[1] != 2:
            raise _refused("trading_ns", "not int64 of shape (n, 2)", spans)
        if (spans[:, 0] >= spans[:, 1]).any() or (spans[1:, 0] < spans[:-1, 1]).any():
            raise _refused("trading_ns", "not disjoint spans in order", spans)


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """A named calendar; `sessions` is None where trading never stops."""

    name: str
    sessions: Sessions | None = None

    def expected(self, window_ns: Interval, *, interval_ns: int, origin_ns: int = 0) -> Coverage:
        """The expected cells of the window, as `window_coverage` and rows of bars compare them.

        Raises UsageError naming `window_ns` or `interval_ns`, and ContractError with the fields
        `calendar` and `known_ns` where the window leaves what the calendar knows.
        """
        window = Coverage.of(
            (window_ns,), interval_ns=interval_ns, origin_ns=origin_ns, parameter="window_ns"
        )
        if self.sessions is None or window.bounds is None:
            return window
        start, end = window.bounds
        known_start, known_end = self.sessions.known_ns
        if start < known_start or end > known_end:
            raise ContractError(
                f"the calendar {self.name} is known from {format_time(known_start)} to "
                f"{format_time(known_end)}",
                parameter="window_ns",
                value=window_ns,
                fix="Ask for a window inside it",
                calendar=self.name,
                known_ns=self.sessions.known_ns,
            )
        return self._inside(window)

    def expected_where_known(
        self, window_ns: Interval, *, interval_ns: int, origin_ns: int = 0
    ) -> Coverage:
        """As `expected`; outside the days that the calendar knows every cell is expected: a gap too
        many is seen, one too few is not."""
        window = Coverage.of((window_ns,), interval_ns=interval_ns, origin_ns=origin_ns)
        if self.sessions is None:
            return window
        known = Coverage.of(
            (self.sessions.known_ns,), interval_ns=interval_ns, origin_ns=origin_ns
        ).intersect(window)
        return window.subtract(known).union(self._inside(known))

    def _inside(self, window: Coverage) -> Coverage:
        """The expected cells of one span that the calendar knows."""
        if self.sessions is None or window.bounds is None:
            return window
        interval_ns, origin_ns = window.interval_ns, window.origin_ns
        start, end = window.bounds
        if interval_ns < DAY_NS:
            opens, closes = self.sessions.trading_ns[:, 0], self.sessions.trading_ns[:, 1]
        else:
            opens, closes = self.sessions.dates_ns, self.sessions.dates_ns + 1
        near = slice(np.searchsorted(closes, start, "right"), np.searchsorted(opens, end, "left"))
        # Grown outward to whole cells. Start and end are on the grid, so nothing leaves the window.
        first, last = np.maximum(opens[near], start), np.minimum(closes[near], end)
        cells = np.stack(
            (first - (first - start) % interval_ns, last + (end - last) % interval_ns), axis=1
        )
        return Coverage.of(cells, interval_ns=interval_ns, origin_ns=origin_ns)


ALWAYS: Final = Calendar("24/7")


def _refused(parameter: str, message: str, value: object) -> UsageError:
    return UsageError(message, parameter=parameter, value=value)
