"""Which optional fields were null, as runs of time: what else would tell of a completion?

Decides: how a column of null masks becomes runs, and how one cell of them changes. Invariants: runs
are half-open on the grid, ascending, disjoint, never of mask 0; a cell without a bar may lie inside
a run and says nothing. Must not know: why a field is null, positions, events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import I8, OPTIONAL_FIELDS, ConformedColumns
from seamline.streams.kernel.seam_events import Bar

# Sources have the optional fields or lack them for long spans: some runs, seldom more.
RUNS_MAX: Final = 4_096
Run = tuple[int, int, int]  # start_ns, end_ns, mask: bit i is the i-th optional field


def masks_of(columns: ConformedColumns) -> I8:
    """For each row a bit for each null among quote_volume, trades, first and last trade id."""
    masks = np.isnan(columns.quote_volume).astype(np.int64)
    for bit, ids in enumerate((columns.trades, columns.first_trade_id, columns.last_trade_id), 1):
        masks |= (ids < 0).astype(np.int64) << bit
    return masks


def mask_of(bar: Bar) -> int:
    return sum(1 << bit for bit, value in enumerate(bar[7:11]) if value is None)


def without(bar: Bar, mask: int) -> Bar:
    """The bar with the masked fields null."""
    if not mask:
        return bar
    names = [name for bit, name in enumerate(OPTIONAL_FIELDS) if mask >> bit & 1]
    nulls: dict[str, Any] = dict.fromkeys(names)
    return bar._replace(**nulls)


def runs_of(columns: ConformedColumns, interval_ns: int) -> tuple[Run, ...]:
    """Runs of rows that are in order of open time."""
    masks = masks_of(columns)
    if not masks.any():
        return ()
    cuts = np.flatnonzero(np.diff(masks)) + 1
    first = np.concatenate(([0], cuts))
    last = np.concatenate((cuts, [len(masks)])) - 1
    keep = masks[first] != 0
    starts = columns.open_time_ns[first[keep]].tolist()
    ends = (columns.open_time_ns[last[keep]] + interval_ns).tolist()
    return tuple(zip(starts, ends, masks[first[keep]].tolist(), strict=True))


def before(runs: Iterable[Run], limit_ns: int) -> tuple[Run, ...]:
    return tuple((a, min(b, limit_ns), mask) for a, b, mask in runs if a < limit_ns)


def since(runs: Iterable[Run], limit_ns: int) -> tuple[Run, ...]:
    return tuple((max(a, limit_ns), b, mask) for a, b, mask in runs if b > limit_ns)


def at_times(runs: Sequence[Run], times: I8) -> I8:
    """The mask at each time."""
    masks = np.zeros(len(times), np.int64)
    if runs:
        starts, ends, values = (np.array(part, np.int64) for part in zip(*runs, strict=True))
        at = np.searchsorted(starts, times, "right") - 1
        inside = (at >= 0) & (times < ends[at])
        masks[inside] = values[at[inside]]
    return masks


def put(runs: tuple[Run, ...], time_ns: int, interval_ns: int, mask: int) -> tuple[Run, ...]:
    """The runs when the bar at `time_ns` has this mask."""
    held = next((value for a, b, value in runs if a <= time_ns < b), 0)
    if held == mask:
        return runs
    end_ns = time_ns + interval_ns
    if runs and runs[-1][1:] == (time_ns, mask):  # next to the newest
        return (*runs[:-1], (runs[-1][0], end_ns, mask))
    new = ((time_ns, end_ns, mask),) if mask else ()
    return (*before(runs, time_ns), *new, *since(runs, end_ns))
