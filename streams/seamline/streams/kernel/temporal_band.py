"""The rolling band of price jumps: which close leaves it, and what the band is afterwards.

Decides: `temporal`'s rule `price_jump` for rows in order of time. There are two ways through the
same formulas, `by_row` and `by_cell`; the second takes all symbols of a cell at once, in loops
without branches that the compiler turns into vector instructions.

Invariants: both ways give the same bits, and so does plain Python; a close that is not a positive
number changes nothing; a change too large to be squared jumps and does not enter. Must not know:
grids, gaps, duplicates.

The band of a symbol is three numbers: its last close (NaN before the first), the sum of the
weighted squares of its returns, and the sum of the weights.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from seamline.schemas.jit import njit

RETURNS_MIN: Final = 16
DECAY_MIN: Final = 0.5  # from here on the sum of weights tells 16 returns from 15

# Rows of `band` (5, symbols), the last two for what `by_cell` is about to take in.
CLOSE, SQUARES, WEIGHTS, NEXT, SQUARE = range(5)


@njit
def empty(symbols: int) -> Any:
    """Bands that have seen nothing."""
    band = np.zeros((5, symbols))
    band[CLOSE, :] = np.nan
    return band


@njit
def weight_min(decay: float) -> Any:
    """The sum of the weights of RETURNS_MIN returns, added up as the bands do."""
    weight = 0.0
    for _ in range(RETURNS_MIN):
        weight = decay * weight + 1.0
    return weight


@njit
def by_row(
    rows: Any,
    symbol: Any,
    closes: Any,
    limit: float,
    decay: float,
    band: Any,
    verdict: Any,
    bit: int,
) -> None:
    """Set `bit` in the verdict of each of `rows` (in order of time) whose close leaves the band;
    `limit` is the square of how many sigmas that takes."""
    least = weight_min(decay)
    last, squares, weights = band[CLOSE], band[SQUARES], band[WEIGHTS]
    for k in range(len(rows)):
        row = rows[k]
        close, s = closes[row], np.uint32(symbol[row])
        if not 0.0 < close < np.inf:
            continue
        change = np.divide(close, last[s]) - 1.0
        square = change * change
        if square * weights[s] > limit * squares[s] and weights[s] >= least and squares[s] > 0.0:
            verdict[row] |= bit
        if square < np.inf:
            squares[s] = decay * squares[s] + square
            weights[s] = decay * weights[s] + 1.0
        last[s] = close


@njit
def by_cell(
    places: Any, closes: Any, limit: float, decay: float, band: Any, verdict: Any, bit: int
) -> None:
    """As `by_row`, for one cell: `places` (symbols,) the row that stands there, or -1."""
    least = weight_min(decay)
    close, square = band[NEXT], band[SQUARE]
    for s in range(len(close)):
        close[s] = closes[places[s]] if places[s] >= 0 else np.nan
    if _leaves(close, band[CLOSE], band[SQUARES], band[WEIGHTS], limit, least, square):
        for s in range(len(square)):
            squares, weights = band[SQUARES, s], band[WEIGHTS, s]
            if square[s] * weights > limit * squares and weights >= least and squares > 0.0:
                verdict[places[s]] |= bit
    _enter(square, band[SQUARES], band[WEIGHTS], decay)
    _keep(close, band[CLOSE])


@njit
def _leaves(
    close: Any, last: Any, squares: Any, weights: Any, limit: float, least: float, square: Any
) -> Any:
    """Squares of the returns, NaN where there is none. Returns whether any leaves its band."""
    found = 0
    for s in range(len(close)):
        change = np.divide(close[s], last[s]) - 1.0
        enters = (close[s] > 0.0) & (close[s] < np.inf)
        square[s] = change * change if enters else np.nan
        leaves = (
            (square[s] * weights[s] > limit * squares[s])
            & (weights[s] >= least)
            & (squares[s] > 0.0)
        )
        found |= 1 if leaves else 0
    return found != 0


@njit
def _enter(square: Any, squares: Any, weights: Any, decay: float) -> None:
    for s in range(len(square)):
        enters = square[s] < np.inf
        squares[s] = decay * squares[s] + square[s] if enters else squares[s]
        weights[s] = decay * weights[s] + 1.0 if enters else weights[s]


@njit
def _keep(close: Any, last: Any) -> None:
    for s in range(len(close)):
        last[s] = close[s] if (close[s] > 0.0) & (close[s] < np.inf) else last[s]
