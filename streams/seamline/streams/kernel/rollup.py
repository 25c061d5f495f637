"""One derived bar from the bars of its window.

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
def window(
    cells: Any, vals: Any, rank: Any, at: int, ratio: int, out_cols: Any, out_vals: Any
) -> Any:
    """Roll up cells [at, at + ratio) of one slot into a row of `out_cols` and `out_vals`.

    Returns (bars found, source, flags, received); nothing is written where no bar is found.
    """
    terms = np.empty(ratio, np.float64)
    quotes = np.empty(ratio, np.float64)
    partials = np.empty(PARTIALS_MAX, np.float64)
    found = 0
    worst = -1
    flags = 0
    received = 0
    has_quote = True
    has_trades = True
    trades = 0
    for k in range(at, at + ratio):
        if not cells[k, PRESENT]:
            continue
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
        has_quote = has_quote and not np.isnan(vals[k, QUOTE_VOLUME])
        has_trades = has_trades and cells[k, TRADES] >= 0
        trades += cells[k, TRADES]
        if worst < 0 or rank[cells[k, SOURCE]] > rank[worst]:
            worst = cells[k, SOURCE]
        flags |= cells[k, FLAGS] & INHERITED_FLAGS
        received = max(received, cells[k, RECEIVED])
        found += 1
    if found:
        out_vals[VOLUME] = exact_sum(terms[:found], partials)
        out_vals[QUOTE_VOLUME] = exact_sum(quotes[:found], partials) if has_quote else np.nan
        out_cols[TRADES] = trades if has_trades else -1
        if found < ratio:
            flags |= PARTIAL
    return found, worst, flags, received
