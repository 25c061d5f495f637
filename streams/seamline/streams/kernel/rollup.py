"""One derived bar from the bars of its window, be they in one slot, in several or in a frame.

Decides: open is the first bar's, close the last's, high and low the extremes; volumes and counts
are sums over the bars that are there, null where one of them is null; the authority is the lowest
of the inputs. Invariants: sums are correctly rounded, so they do not depend on order; a window with
a cell missing is PARTIAL. Must not know: when a window is due (`merge`).

The exact sum keeps non-overlapping partial sums (Shewchuk, "Adaptive Precision Floating-Point
Arithmetic and Fast Robust Geometric Predicates", 1997) and rounds once, like `math.fsum`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seamline.schemas.columns import PARTIAL, SNAPPED, SUSPECT
from seamline.schemas.jit import njit
from seamline.streams.kernel.level import (
    CLOSE,
    FIRST_ID,
    FLAGS,
    HIGH,
    LAST_ID,
    LOW,
    OPEN,
    PRESENT,
    QUOTE_VOLUME,
    RECEIVED,
    SOURCE,
    TRADES,
    VOLUME,
)

PARTIALS_MAX = 64
INHERITED_FLAGS = SNAPPED | SUSPECT
# Places of `run`, a window under way.
R_FOUND, R_WORST, R_FLAGS, R_RECEIVED, R_NULL_QUOTES, R_NULL_TRADES, R_TRADES = range(7)
RUN_SIZE = 7


@njit
def exact_sum(values: Any, partials: Any) -> Any:
    """The correctly rounded sum of finite `values`; `partials` is room for PARTIALS_MAX numbers."""
    used = 0
    for i in range(len(values)):
        x = values[i]
        kept = 0
        for j in range(used):
            y = partials[j]
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low != 0.0:
                partials[kept] = low
                kept += 1
            x = high
        partials[kept] = x
        used = kept + 1
    if used == 0:
        return 0.0
    at = used - 1
    total = partials[at]
    low = 0.0
    while at > 0:
        x = total
        at -= 1
        y = partials[at]
        total = x + y
        low = y - (total - x)
        if low != 0.0:
            break
    # Half-way cases round to even only if what is left does not push them off half way.
    if at > 0 and (
        (low < 0.0 and partials[at - 1] < 0.0) or (low > 0.0 and partials[at - 1] > 0.0)
    ):
        y = low * 2.0
        x = total + y
        if y == x - total:
            total = x
    return total + 0.0  # -0.0 becomes 0.0


@njit
def open_window(run: Any) -> None:
    """Begin a window: `run` (RUN_SIZE,) holds what is known of it so far."""
    run[:] = 0
    run[R_WORST] = -1


@njit
def add_rows(
    cells: Any,
    vals: Any,
    rank: Any,
    at: int,
    count: int,
    run: Any,
    terms: Any,
    quotes: Any,
    out_cols: Any,
    out_vals: Any,
) -> None:
    """Take rows [at, at + count), ascending in time, into the window under way.

    `cells` (rows, CELL_WIDTH) and `vals` (rows, VALS_WIDTH) are laid out like a slot. `terms` and
    `quotes` keep every volume until the window is closed: a sum of sums would be rounded twice.
    """
    for k in range(at, at + count):
        if not cells[k, PRESENT]:
            continue
        found = run[R_FOUND]
        if found == 0:
            out_vals[OPEN] = vals[k, OPEN]
            out_vals[HIGH] = vals[k, HIGH]
            out_vals[LOW] = vals[k, LOW]
            out_cols[FIRST_ID] = cells[k, FIRST_ID]
        out_vals[HIGH] = max(out_vals[HIGH], vals[k, HIGH])
        out_vals[LOW] = min(out_vals[LOW], vals[k, LOW])
        out_vals[CLOSE] = vals[k, CLOSE]
        out_cols[LAST_ID] = cells[k, LAST_ID]
        terms[found] = vals[k, VOLUME]
        quotes[found] = vals[k, QUOTE_VOLUME]
        if np.isnan(vals[k, QUOTE_VOLUME]):
            run[R_NULL_QUOTES] += 1
        if cells[k, TRADES] < 0:
            run[R_NULL_TRADES] += 1
        run[R_TRADES] += cells[k, TRADES]
        if run[R_WORST] < 0 or rank[cells[k, SOURCE]] > rank[run[R_WORST]]:
            run[R_WORST] = cells[k, SOURCE]
        run[R_FLAGS] |= cells[k, FLAGS] & INHERITED_FLAGS
        run[R_RECEIVED] = max(run[R_RECEIVED], cells[k, RECEIVED])
        run[R_FOUND] = found + 1


@njit
def close_window(
    run: Any, terms: Any, quotes: Any, expected: int, out_cols: Any, out_vals: Any
) -> None:
    """Write the sums, authority, flags and received time of a window of `expected` cells that has
    at least one bar."""
    found = run[R_FOUND]
    partials = np.empty(PARTIALS_MAX, np.float64)
    out_vals[VOLUME] = exact_sum(terms[:found], partials)
    out_vals[QUOTE_VOLUME] = np.nan
    if run[R_NULL_QUOTES] == 0:
        out_vals[QUOTE_VOLUME] = exact_sum(quotes[:found], partials)
    out_cols[TRADES] = run[R_TRADES] if run[R_NULL_TRADES] == 0 else -1
    out_cols[SOURCE] = run[R_WORST]
    out_cols[FLAGS] = run[R_FLAGS]
    if found < expected:
        out_cols[FLAGS] |= PARTIAL
    out_cols[RECEIVED] = run[R_RECEIVED]
