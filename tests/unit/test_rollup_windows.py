"""Windows over columns: sessions of an exchange against plain Python, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.schemas.columns import PARTIAL, PROVISIONAL, SUSPECT, ConformedColumns
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.rollup_windows import Rolled, Windows, roll_up

MINUTE = 60 * NS_PER_S
NEW_YORK = ZoneInfo("America/New_York")
HALF_DAYS = {date(2024, 11, 29), date(2024, 12, 24)}
HOLIDAYS = {date(2024, 3, 29), date(2024, 11, 28), date(2024, 12, 25)}


def ns(at: datetime) -> int:
    return int(at.timestamp()) * NS_PER_S


def xnys(first: date, last: date) -> Windows:
    """Sessions as the exchange's calendar has them: 09:30 to 16:00, or 13:00, in New York."""
    rows = []
    day = first
    while day <= last:
        if day.weekday() < 5 and day not in HOLIDAYS:
            close = time(13) if day in HALF_DAYS else time(16)
            opened = datetime.combine(day, time(9, 30), NEW_YORK)
            closed = datetime.combine(day, close, NEW_YORK)
            label = datetime.combine(day, time(), UTC)
            rows.append((ns(opened), ns(closed), ns(label)))
        day += timedelta(days=1)
    columns = np.array(rows, np.int64).T
    return Windows(*(np.ascontiguousarray(column) for column in columns))


def bars(times: list[int], seed: int = 0) -> ConformedColumns:
    rng = np.random.default_rng(seed)
    n = len(times)
    price = rng.uniform(90, 110, n).round(2)
    number = np.where(rng.random(n) < 0.9, rng.integers(0, 50, n), -1)
    columns = ConformedColumns.empty(n)
    values = {
        "open_time_ns": np.array(times, np.int64),
        "open": price,
        "high": price + rng.random(n),
        "low": price - rng.random(n),
        "close": price + 0.125,
        "volume": rng.choice([0.1, 0.7, 1e16, 3.0, 1e-9], n),
        "quote_volume": np.where(rng.random(n) < 0.99, rng.random(n), np.nan),
        "trades": number,
        "first_trade_id": np.arange(n, dtype=np.int64),
        "last_trade_id": np.arange(n, dtype=np.int64),
        "source": rng.integers(0, 3, n).astype(np.uint8),
        "received_time_ns": np.arange(n, dtype=np.int64),
        "revision": np.zeros(n, np.int32),
        "flags": np.where(rng.random(n) < 0.01, SUSPECT, 0).astype(np.int32),
        "known_time_ns": rng.integers(1, 1000, n),
        "origin": np.zeros(n, np.uint8),
    }
    return replace(columns, **values)


def oracle(
    columns: ConformedColumns, windows: Windows, through: int | None
) -> tuple[list[tuple[object, ...]], list[tuple[int, int, int]]]:
    """Bar by bar and cell by cell, sums by fractions."""
    at = {int(t): i for i, t in enumerate(columns.open_time_ns)}
    rows: list[tuple[object, ...]] = []
    missing: list[tuple[int, int, int]] = []
    for number in range(len(windows.start_ns)):
        start, end = int(windows.start_ns[number]), int(windows.end_ns[number])
        grid = [t for t in range(start + -start % MINUTE, end, MINUTE) if t + MINUTE <= end]
        inside = [at[t] for t in grid if t in at]
        over = [t for t in grid if through is None or t + MINUTE <= through]
        for t in over:
            if t in at:
                continue
            if missing and missing[-1][0] == number and missing[-1][2] == t:
                missing[-1] = (number, missing[-1][1], t + MINUTE)
            else:
                missing.append((number, t, t + MINUTE))
        if not inside:
            continue
        volume = float(sum(Fraction(float(columns.volume[i])) for i in inside))
        quotes = [float(columns.quote_volume[i]) for i in inside]
        trades = [int(columns.trades[i]) for i in inside]
        final = through is None or end <= through
        rows.append(
            (
                int(windows.label_ns[number]),
                float(columns.open[inside[0]]),
                max(float(columns.high[i]) for i in inside),
                min(float(columns.low[i]) for i in inside),
                float(columns.close[inside[-1]]),
                volume,
                None if any(math.isnan(q) for q in quotes) else math.fsum(quotes),
                None if min(trades) < 0 else sum(trades),
                max(int(columns.source[i]) for i in inside),
                len(inside) < len(grid),
                not final,
                any(columns.flags[i] & SUSPECT for i in inside),
                max(int(columns.known_time_ns[i]) for i in inside),
                (len(inside), len(grid)),
            )
        )
    return rows, missing


def shown(rolled: Rolled) -> list[tuple[object, ...]]:
    c = rolled.columns
    return [
        (
            int(c.open_time_ns[i]),
            *(float(getattr(c, name)[i]) for name in ("open", "high", "low", "close", "volume")),
            None if math.isnan(c.quote_volume[i]) else float(c.quote_volume[i]),
            None if c.trades[i] < 0 else int(c.trades[i]),
            int(c.source[i]),
            bool(c.flags[i] & PARTIAL),
            bool(c.flags[i] & PROVISIONAL),
            bool(c.flags[i] & SUSPECT),
            int(c.known_time_ns[i]),
            (int(rolled.found[w]), int(rolled.expected[w])),
        )
        for i, w in enumerate(rolled.window.tolist())
    ]


@pytest.mark.parametrize(
    ("first", "last"),
    [(date(2024, 3, 7), date(2024, 3, 13)), (date(2024, 11, 26), date(2024, 12, 3))],
    ids=["summer_time_begins", "half_day"],
)
@pytest.mark.parametrize("density", [1.0, 0.9, 0.01])
def test_sessions_against_plain_python(first: date, last: date, density: float) -> None:
    windows = xnys(first, last)
    rng = np.random.default_rng(7)
    start = int(windows.start_ns[0]) - 300 * MINUTE
    every = range(start - start % MINUTE, int(windows.end_ns[-1]) + 300 * MINUTE, MINUTE)
    columns = bars([t for t in every if rng.random() < density])
    for through in (None, int(windows.end_ns[2]), int(windows.end_ns[2]) - 30 * NS_PER_S):
        rolled = roll_up(columns, windows, interval_ns=MINUTE, through_ns=through)
        rows, missing = oracle(columns, windows, through)
        assert shown(rolled) == rows
        assert [tuple(run) for run in rolled.missing.tolist()] == missing
    if density == 1.0:
        lengths = {390, 210} if first.month == 11 else {390}
        assert set(rolled.expected.tolist()) == set(rolled.found.tolist()) == lengths
        # A session is one hour earlier in UTC once summer time has begun.
        opened = {datetime.fromtimestamp(t // NS_PER_S, UTC).hour for t in windows.start_ns}
        assert opened == ({13, 14} if first.month == 3 else {14})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_windows_against_plain_python(data: st.DataObject) -> None:
    half = MINUTE // 2
    edges = sorted(data.draw(st.sets(st.integers(-40, 120), min_size=2, max_size=8)))
    pairs = [(a * half, b * half) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    label = np.arange(len(pairs), dtype=np.int64)
    starts, ends = np.array(pairs, np.int64).T
    windows = Windows(starts.copy(), ends.copy(), label)
    minutes = sorted(data.draw(st.sets(st.integers(-30, 70), max_size=60)))
    columns = bars([m * MINUTE for m in minutes], seed=len(minutes))
    through = data.draw(st.none() | st.integers(-40, 120).map(lambda n: n * half))
    rolled = roll_up(columns, windows, interval_ns=MINUTE, through_ns=through)
    rows, missing = oracle(columns, windows, through)
    assert shown(rolled) == rows
    assert [tuple(run) for run in rolled.missing.tolist()] == missing


def test_windows_that_overlap_and_bars_that_are_not_conformed_are_refused() -> None:
    two = np.array([0, MINUTE], np.int64)
    with pytest.raises(UsageError) as raised:
        Windows(two, two + 2 * MINUTE, two)
    assert raised.value.parameter == "start_ns"
    with pytest.raises(UsageError) as raised:
        Windows(two, two + MINUTE, two.astype(np.float64))
    assert raised.value.parameter == "label_ns"
    windows = Windows(two, two + MINUTE, two)
    for times in ([0, 0], [MINUTE, 0], [5]):
        with pytest.raises(UsageError) as raised:
            roll_up(bars(times), windows, interval_ns=MINUTE)
        assert raised.value.parameter == "bars"
    assert len(roll_up(bars([]), windows, interval_ns=MINUTE).columns) == 0
