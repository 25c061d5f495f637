"""Bars of many symbols as they arrive on a bad day: late, missing, repeated, contradicted, broken.

One seed, one market. The truth is a full grid of bars in order of time; what arrives is that grid
with rows taken out, put off, sent again and damaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seamline.streams.kernel.temporal import BarBatch

STEP_NS = 60_000_000_000
START_NS = 1_735_689_600_000_000_000


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of all rows. Half of the repeats say something else; `ranked` rows are of an identity
    that two sources state once each; `spikes` are closes that are far off."""

    missing: float = 0.002
    repeated: float = 0.005
    late: float = 0.02
    broken: float = 0.0
    off_grid: float = 0.0
    ranked: float = 0.0
    spikes: float = 0.0


def market(seed: int, rows: int, symbols: int, faults: Faults) -> BarBatch:
    """About `rows` rows of `symbols` symbols, interleaved by time."""
    draw = np.random.default_rng(seed)
    cells = max(1, rows // symbols)
    n = cells * symbols
    walk = np.cumsum(draw.normal(0, 1e-3, (cells, symbols)), axis=0)
    close = np.round(100 * np.exp(walk), 4)
    open_ = np.vstack([np.full((1, symbols), 100.0), close[:-1]])
    reach = np.abs(draw.normal(0, 5e-4, (2, cells, symbols)))
    high = np.maximum(open_, close) * (1 + reach[0])
    low = np.minimum(open_, close) * (1 - reach[1])
    volume = draw.exponential(10.0, (cells, symbols))

    kept = np.flatnonzero(draw.random(n) >= faults.missing)
    turn = kept + np.where(
        draw.random(len(kept)) < faults.late, draw.uniform(1, 5, len(kept)) * symbols, 0.0
    )
    again = draw.integers(0, len(kept), round(faults.repeated * n))
    source = np.concatenate([kept, kept[again]])
    turn = np.concatenate([turn, turn[again] + draw.uniform(0, 3, len(again)) * symbols])
    order = np.argsort(turn, kind="stable")
    source, repeat = source[order], order >= len(kept)

    columns = [grid.ravel()[source] for grid in (open_, high, low, close, volume)]
    columns[4][repeat & (draw.random(len(source)) < 0.5)] += 1.0
    time = START_NS + source // symbols * STEP_NS
    spikes = draw.random(len(source)) < faults.spikes
    for column in columns[:4]:
        column[spikes] *= 1.1
    _damage(draw, columns, faults.broken)
    off_grid = draw.random(len(source)) < faults.off_grid
    time[off_grid] += draw.integers(1, STEP_NS, len(source))[off_grid]
    authority = np.ones(len(source), np.uint8)
    twice = (np.bincount(source, minlength=n) == 2)[source] & ~off_grid
    ranked = twice & (draw.random(len(source)) < faults.ranked)
    authority[ranked] = draw.integers(0, 3, len(source))[ranked]
    return BarBatch(
        symbol=(source % symbols).astype(np.int32),
        open_time_ns=time,
        open=columns[0],
        high=columns[1],
        low=columns[2],
        close=columns[3],
        volume=columns[4],
        optional=np.empty((0, len(source))),
        other=np.empty(0, np.int64),
        authority=authority if faults.ranked else np.empty(0, np.uint8),
    )


def _damage(draw: np.random.Generator, columns: list[np.ndarray], share: float) -> None:
    """Values that cannot be, in any column and several at once."""
    bad = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e6)
    for column in columns:
        hit = np.flatnonzero(draw.random(len(column)) < share)
        column[hit] = draw.choice(bad, len(hit))
