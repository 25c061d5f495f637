"""Windows of any kind over the bars of one symbol, in one go: sessions of an exchange, days, weeks.

Decides: which bars belong to a window, how many were expected in it, which are missing, and whether
it is final. Invariants: a bar belongs to a window that holds the whole of it, and to no other; one
outside every window belongs to none; a window with a cell missing is PARTIAL; it is final only when
nothing before its end can come any more; the arithmetic is that of the worker (`rollup`), so both
give the same bits. Must not know: calendars (windows come as arrays), frames, what was sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seamline.schemas.columns import DERIVED, I8, PROVISIONAL, Bool, ConformedColumns
from seamline.schemas.errors import UsageError
from seamline.schemas.jit import njit
from seamline.streams.kernel.coverage import missing_runs
from seamline.streams.kernel.level import (
    CELL_WIDTH,
    FLAGS,
    KNOWN,
    ORIGIN,
    PRESENT,
    QUOTE_VOLUME,
    SOURCE,
    TRADES,
    VALS_WIDTH,
)
from seamline.streams.kernel.level_columns import cells_of_columns, columns_at
from seamline.streams.kernel.rollup import (
    R_FOUND,
    RUN_SIZE,
    add_rows,
    close_window,
    open_window,
)

HIGHEST_FIRST = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Half-open windows [start_ns, end_ns), ascending and disjoint, int64 (n,) each; `label_ns` is
    the open time of the bar that a window becomes (a session's: its date at 00:00 UTC)."""

    start_ns: I8
    end_ns: I8
    label_ns: I8

    def __post_init__(self) -> None:
        for name in ("start_ns", "end_ns", "label_ns"):
            column = getattr(self, name)
            if column.dtype != np.int64 or column.shape != self.start_ns.shape:
                raise UsageError(
                    "not one int64 for each window",
                    parameter=name,
                    value=f"{column.dtype}{column.shape}",
                    fix="Give three int64 arrays of one length, UTC nanoseconds",
                )
        apart = bool((self.start_ns[1:] >= self.end_ns[:-1]).all())
        rising = bool((np.diff(self.label_ns) > 0).all())
        if not (apart and rising and (self.start_ns < self.end_ns).all()):
            raise UsageError(
                "windows are empty, overlap or are out of order",
                parameter="start_ns",
                fix="Sort them; each starts at or after the end of the one before",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """`columns`: a bar for each window that has any, in order; `window`: which one (rows,).

    Of every window: `found` and `expected` bars (n,), and `final`: nothing before its end can come.
    `missing`: (m, 3) window, start_ns, end_ns of each run of missing bars that are over.
    """

    columns: ConformedColumns
    window: I8
    found: I8
    expected: I8
    final: Bool
    missing: I8


@njit
def _roll(
    cells: Any,
    vals: Any,
    rank: Any,
    lows: Any,
    highs: Any,
    expected: Any,
    out_cols: Any,
    out_vals: Any,
) -> None:
    run = np.empty(RUN_SIZE, np.int64)
    most = 0
    for w in range(len(lows)):
        most = max(most, highs[w] - lows[w])
    terms = np.empty(most, np.float64)
    quotes = np.empty(most, np.float64)
    for w in range(len(lows)):
        low, high = lows[w], highs[w]
        if high <= low:
            continue
        cols, prices = out_cols[w], out_vals[w]
        open_window(run)
        add_rows(cells, vals, rank, low, high - low, run, terms, quotes, cols, prices)
        close_window(run, terms, quotes, expected[w], cols, prices)
        cols[PRESENT] = run[R_FOUND]
        cols[KNOWN] = cells[low, KNOWN]
        for k in range(low, high):
            cols[KNOWN] = max(cols[KNOWN], cells[k, KNOWN])
        # The authority of each optional field, as the log has it.
        if not np.isnan(prices[QUOTE_VOLUME]):
            cols[FLAGS] |= cols[SOURCE] << 8
        for j in range(3):
            if cols[TRADES + j] >= 0:
                cols[FLAGS] |= cols[SOURCE] << (10 + 2 * j)


def roll_up(
    bars: ConformedColumns,
    windows: Windows,
    *,
    interval_ns: int,
    origin_ns: int = 0,
    through_ns: int | None = None,
    rank: tuple[int, ...] = HIGHEST_FIRST,
) -> Rolled:
    """One bar for each window from the bars of one symbol, which stand on their grid, ascending.

    `through_ns`: no bar that is over before it can come any more (a frontier or a watermark); None:
    all windows are. `rank`: source index -> place in the preset's authority. Raises UsageError,
    naming `bars`, for bars that are off the grid, doubled or out of order: conform them first.
    """
    times = bars.open_time_ns
    if (np.diff(times) <= 0).any() or ((times - origin_ns) % interval_ns != 0).any():
        raise UsageError(
            "bars are off the grid, doubled or out of order",
            parameter="bars",
            fix="Conform them first: one value for each cell, ascending",
        )
    first = windows.start_ns + (origin_ns - windows.start_ns) % interval_ns
    last = windows.end_ns - (windows.end_ns - origin_ns) % interval_ns
    expected = np.maximum(0, (last - first) // interval_ns)
    lows = np.searchsorted(times, first)
    highs = np.maximum(lows, np.searchsorted(times, last))
    cols = np.zeros((len(first), CELL_WIDTH), np.int64)
    vals = np.zeros((len(first), VALS_WIDTH), np.float64)
    cells, prices = cells_of_columns(bars)
    _roll(cells, prices, np.array(rank, np.int64), lows, highs, expected, cols, vals)
    final = np.ones(len(first), bool) if through_ns is None else windows.end_ns <= through_ns
    cols[~final, FLAGS] |= PROVISIONAL
    cols[:, ORIGIN] = DERIVED
    there = np.flatnonzero(cols[:, PRESENT])
    return Rolled(
        columns=columns_at(windows.label_ns[there], cols[there], vals[there]),
        window=there,
        found=cols[:, PRESENT].copy(),
        expected=expected,
        final=final,
        missing=_missing(times, first, last, interval_ns, origin_ns, through_ns),
    )


def _missing(
    times: I8, first: I8, last: I8, interval_ns: int, origin_ns: int, through_ns: int | None
) -> I8:
    """Runs of cells that are over and not there, window by window."""
    over = last
    if through_ns is not None:
        over = np.minimum(last, through_ns - (through_ns - origin_ns) % interval_ns)
    found = []
    for number, (start, end) in enumerate(zip(first.tolist(), over.tolist(), strict=True)):
        if end > start:
            runs = missing_runs(times, start, end, interval_ns)
            found += [(number, a, b) for a, b in runs]
    return np.array(found, np.int64).reshape(-1, 3)
