"""The batch kernel against the agent's merge: the same rows, bar by bar into a level."""

from __future__ import annotations

import numpy as np
import pytest

from seamline.schemas.columns import COMPLETED, CONFIRMED, F8, I8
from seamline.streams.kernel import temporal as t
from seamline.streams.kernel.level import (
    BAR,
    CELL,
    COUNTED,
    EVENT,
    FLAGS,
    QUOTE_VOLUME,
    REVISION,
    S_COUNTS,
    SOURCE,
    SYMBOL,
    TRADES,
    Level,
    Rows,
    Written,
)
from seamline.streams.kernel.merge import DONE, NEED_SLOT, merge

STEP, SYMBOLS, SPAN = 60, 3, 64
NAN = float("nan")


def random_rows(seed: int, n: int) -> Rows:
    """Few cells, values and nulls, so that every way of meeting happens."""
    draw = np.random.default_rng(seed)
    rows = Rows.empty(n)
    rows.cols[:, EVENT] = BAR
    rows.cols[:, SYMBOL] = draw.integers(0, SYMBOLS, n)
    rows.cols[:, CELL] = draw.integers(0, 6, n)
    rows.cols[:, SOURCE] = draw.integers(0, 4, n)
    rows.vals[:, :QUOTE_VOLUME] = 1.0
    rows.vals[:, 3] = draw.choice([1.0, 1.0, 2.0], n)
    rows.vals[:, QUOTE_VOLUME] = draw.choice([NAN, NAN, 5.0, 6.0], n)
    rows.cols[:, TRADES : TRADES + 3] = draw.choice([-1, -1, -1, 7, 8], (n, 3))
    return rows


def merged(rows: Rows) -> tuple[Level, list[tuple[int, int, int]]]:
    """The level, and the (symbol, cell, revision) of its log without the rows that repeat one."""
    level = Level(span=SPAN, stabilization_bars=2)
    for symbol in range(SYMBOLS):
        level.symbol_id(f"S{symbol}")
    accepted, replaced = (Written.empty(len(rows.cols) + 2) for _ in range(2))
    at, status = 0, NEED_SLOT
    while status == NEED_SLOT:
        level.ensure_free(4)
        at, status, _, _ = merge(
            *(level.state, rows, at, accepted, replaced, Written.empty(4)),
            *(level.ratios, level.rank, 1, 0),
        )
    assert status == DONE
    log = accepted.cols[: accepted.done[0]]
    log = log[log[:, FLAGS] & (CONFIRMED | COMPLETED) == 0]
    return level, [tuple(row) for row in log[:, [SYMBOL, CELL, REVISION]].tolist()]


def batch_of(rows: Rows) -> t.BarBatch:
    ids = np.where(rows.cols[:, TRADES : TRADES + 3] < 0, NAN, rows.cols[:, TRADES : TRADES + 3])
    open_, high, low, close, volume, quote = (column.copy() for column in rows.vals.T)
    return t.BarBatch(
        symbol=rows.cols[:, SYMBOL].astype(np.int32),
        open_time_ns=rows.cols[:, CELL] * STEP,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        optional=np.stack((quote, *ids.T)),
        other=np.empty(0, np.int64),
        authority=rows.cols[:, SOURCE].astype(np.uint8),
    )


def standing(batch: t.BarBatch, made: t.Conformed) -> tuple[F8, F8]:
    """OHLCV and optional fields of the result, patches applied."""
    columns = (batch.open, batch.high, batch.low, batch.close, batch.volume)
    optional = batch.optional[:, made.rows].copy()
    for place, j, row in made.patches.tolist():
        optional[j, place] = batch.optional[j, row]
    return np.stack([column[made.rows] for column in columns]), optional


def counts_of(made: t.Conformed) -> dict[str, int]:
    """What the agent counts, read from the verdicts."""

    def rows(bits: int, without: int = 0) -> int:
        return int(((made.verdict & (bits | without)) == bits).sum())

    revised = made.log_rows[made.log_revision > 0]
    return {
        "inserted": int((made.log_revision == 0).sum()),
        "confirmed": rows(t.REPEATED, t.RAISED | t.COMPLETED),
        "raised": rows(t.RAISED),
        "completed": rows(t.COMPLETED),
        "revised": len(revised),
        "discarded": rows(t.DISCARDED),
        "conflicts": int((made.verdict[revised] & t.REVISED == 0).sum()),
    }


def held(level: Level, made: t.Conformed, batch: t.BarBatch) -> tuple[I8, F8, F8]:
    """Revision, OHLCV and optional fields of the level, for each bar of the result."""
    state = level.state
    revision, values, optional = [], [], []
    for row in made.rows:
        slot = level.find_slot(int(batch.symbol[row]), 0)
        k = int(batch.open_time_ns[row]) // STEP
        ids = state.cells[slot, k, TRADES : TRADES + 3]
        revision.append(state.cells[slot, k, REVISION])
        values.append(state.vals[slot, k, :QUOTE_VOLUME])
        optional.append([state.vals[slot, k, QUOTE_VOLUME], *np.where(ids < 0, NAN, ids)])
    return np.array(revision), np.array(values).T, np.array(optional).T


@pytest.mark.parametrize("seed", range(150))
def test_the_batch_decides_as_the_agent_does(seed: int) -> None:
    rows = random_rows(seed, 12 + seed)
    level, log = merged(rows)
    batch = batch_of(rows)
    made = t.conform_bars(batch, SYMBOLS, t.BarRules(STEP))
    revision, values, optional = held(level, made, batch)
    assert made.revision.tolist() == revision.tolist()
    np.testing.assert_array_equal(standing(batch, made)[0], values)
    np.testing.assert_array_equal(standing(batch, made)[1], optional)
    counted = counts_of(made)
    totals = level.state.sym[:SYMBOLS, S_COUNTS:].sum(axis=0)
    agent = dict(zip(COUNTED, totals.tolist(), strict=True))
    assert counted == {name: agent[name] for name in counted}
    assert log == [
        (int(batch.symbol[row]), int(batch.open_time_ns[row]) // STEP, int(n))
        for row, n in zip(made.log_rows, made.log_revision, strict=True)
    ]
