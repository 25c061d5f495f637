"""A million rows against an independent computation in pandas: every verdict, row and gap.

Nothing of the kernel's way is used: duplicates by groups of a sorted frame, order by running
maxima, gaps by differences, bands by `ewm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bar_market import STEP_NS, Faults, market
from seamline.streams.kernel import temporal as t

SIGMAS, DECAY = 6.0, 0.94
ROWS, SYMBOLS = 1_000_000, 200
FAULTS = Faults(broken=0.0005, off_grid=0.0005, ranked=0.5, spikes=0.0005)
IDENTITY = ["time", "symbol"]
CONTENT = ["open", "high", "low", "close", "volume"]


def frame_of(batch: t.BarBatch) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": batch.symbol,
            "time": batch.open_time_ns,
            **{name: getattr(batch, name) for name in CONTENT},
            "authority": batch.authority,
        }
    )


def put(verdict: pd.Series[Any], bit: int, where: Any) -> None:
    """Set a bit on the rows of an index."""
    verdict.loc[where] |= bit


def judge_rows(frame: pd.DataFrame, verdict: pd.Series[Any]) -> None:
    values = frame[CONTENT].where(np.isfinite(frame[CONTENT]))
    put(verdict, t.NON_FINITE, frame.index[values.isna().any(axis=1)])
    low, high = values["low"], values["high"]
    broken = high < low
    for name in ("open", "close"):
        broken |= (values[name] < low) | (values[name] > high)
    put(verdict, t.OHLC_INCONSISTENT, frame.index[broken])
    put(verdict, t.NON_POSITIVE_PRICE, frame.index[(values[CONTENT[:4]] <= 0).any(axis=1)])
    put(verdict, t.NEGATIVE_VOLUME, frame.index[values["volume"] < 0])
    newest = frame.groupby("symbol")["time"].cummax()
    put(verdict, t.OUT_OF_ORDER, frame.index[frame["time"] < newest])
    put(verdict, t.OFF_GRID | t.DROPPED, frame.index[frame["time"] % STEP_NS != 0])


def merge_rows(frame: pd.DataFrame, verdict: pd.Series[Any]) -> tuple[pd.DataFrame, Any]:
    """The standing rows with their revision, and the log. Where more than two rows state one
    identity they have one authority, so each is compared with the row before it."""
    grid = frame[frame["time"] % STEP_NS == 0].sort_values(IDENTITY, kind="stable")
    grid["row"] = grid.index
    repeated = grid[grid.duplicated(IDENTITY, keep=False)].copy()
    before = repeated.shift(1)
    arrives = repeated.duplicated(IDENTITY)
    left, right = repeated[CONTENT], before[CONTENT]
    equal = ((left == right) | (left.isna() & right.isna())).all(axis=1)
    rank = repeated["authority"] - before["authority"]
    one = [repeated["time"], repeated["symbol"]]
    for bit, event in ((t.DUPLICATE_EQUAL, equal), (t.DUPLICATE_CONFLICT, ~equal & (rank == 0))):
        involved = (arrives & event).groupby(one).transform("any")
        put(verdict, bit, repeated.index[involved])
    put(verdict, t.REPEATED | t.DROPPED, repeated.index[arrives & equal])
    put(verdict, t.RAISED, repeated.index[arrives & equal & (rank < 0)])
    put(verdict, t.REVISED, repeated.index[arrives & ~equal & (rank < 0)])
    put(verdict, t.DISCARDED, repeated.index[arrives & ~equal & (rank > 0)])
    taken = ~arrives | (~equal & (rank <= 0))
    accepted = repeated[taken].copy()
    again = accepted.groupby(IDENTITY)
    accepted["revision"] = again.cumcount()
    beaten = accepted[accepted["revision"] > 0].index[
        (rank == 0)[accepted.index[accepted["revision"] > 0]]
    ]
    replaced = again["row"].shift(1)[beaten].astype(np.int64)
    put(verdict, t.DROPPED, replaced.to_numpy())
    alone = grid[~grid.duplicated(IDENTITY, keep=False)].assign(revision=0)
    log = pd.concat([alone, accepted])
    stands = log.sort_values("revision", kind="stable").drop_duplicates(IDENTITY, keep="last")
    return stands.sort_values(IDENTITY), log["revision"].sort_index()


def judge_jumps(stands: pd.DataFrame, verdict: pd.Series[Any]) -> None:
    close = stands["close"]
    priced = stands[np.isfinite(close) & (close > 0)]
    for _, closes in priced.groupby("symbol")["close"]:
        square = closes.pct_change() ** 2
        variance = square.ewm(alpha=1 - DECAY, ignore_na=True).mean().shift(1)
        judged = square.notna().cumsum().shift(1) >= 16
        put(verdict, t.PRICE_JUMP, closes.index[judged & (square > SIGMAS**2 * variance)])


def test_a_million_rows_come_to_what_pandas_says() -> None:
    batch = market(7, ROWS, SYMBOLS, FAULTS)
    made = t.conform_bars(batch, SYMBOLS, t.BarRules(STEP_NS, jump_sigmas=SIGMAS))
    frame = frame_of(batch)
    verdict = pd.Series(np.zeros(len(frame), np.int32))
    judge_rows(frame, verdict)
    stands, log = merge_rows(frame, verdict)
    judge_jumps(stands, verdict)
    for name in t.__all__:
        bit = getattr(t, name)
        if name.isupper() and name not in ("ROWS_MAX", "SYMBOLS_MAX", "COMPLETED"):
            wanted = verdict.to_numpy() & bit
            assert np.count_nonzero(wanted) > 20, name
            assert np.array_equal(made.verdict & bit, wanted), name
    assert np.array_equal(made.rows, stands.index)
    assert np.array_equal(made.revision, stands["revision"])
    assert np.array_equal(made.log_rows, log.index)
    assert np.array_equal(made.log_revision, log)

    series = stands.sort_values(["symbol", "time"])
    before = series.groupby("symbol")["time"].shift(1, fill_value=2**62)
    hole = series["time"] - before > STEP_NS
    gaps = np.stack([series["symbol"], before + STEP_NS, series["time"]], axis=1)[hole]
    assert np.array_equal(made.gaps, gaps)
    assert len(gaps) > 1000
    steps = frame[IDENTITY].drop_duplicates().sort_values(["symbol", "time"])
    step = steps.groupby("symbol")["time"].diff().dropna().astype(np.int64)
    misaligned = int(((step > STEP_NS) & (step % STEP_NS != 0)).sum())
    assert made.misaligned == misaligned > 0
