"""The agent and the pipeline say the same of the same bars.

Random landing bars, in random fetches, go through a partition's machine and, as columns, through
the pipeline; the counts of every rule must be equal. What differs by design is left out here and
tested by itself: the agent takes a row that is no number out of the series, a frame keeps it.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from machine_world import IDS, MINUTE_NS, PARENT, START_NS, SYMBOLS, World
from seamline.schemas.codec import encode_bars
from seamline.schemas.columns import BarColumns
from seamline.schemas.records import decode_record
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.bar_table import of_bar_columns
from seamline.streams.kernel.conformance import ConformancePipeline
from seamline.streams.kernel.conformance_options import options
from seamline.streams.kernel.conformance_report import ConformanceReport

NAN, INF = float("nan"), float("inf")
# Rules of the pipeline that need what one transaction of the agent does not have.
NOT_OF_THE_AGENT = {"boundary_misaligned", "price_jump"}
BAR: dict[str, Any] = {
    "symbol": 0,
    "minute": 0,
    "half": False,
    "source": 1,
    "closed": True,
    "open": 2.0,
    "high": 3.0,
    "low": 1.0,
    "close": 2.0,
    "volume": 1.0,
    "quote_volume": NAN,
    "trades": -1,
    "first_trade_id": -1,
    "last_trade_id": -1,
}


def bar(**changes: Any) -> dict[str, Any]:
    return {**BAR, **changes}


bars = st.fixed_dictionaries(
    {
        "symbol": st.integers(0, 1),
        "minute": st.integers(0, 8),
        "source": st.integers(0, 3),
        "open": st.sampled_from([2.0, 2.0, 4.0, -0.0]),
        "low": st.sampled_from([1.0, 1.0, -1.0]),
        "volume": st.sampled_from([1.0, 1.0, 0.0, -0.0, -1.0]),
        "quote_volume": st.sampled_from([NAN, 5.0, 6.0, -5.0]),
        "trades": st.sampled_from([-1, 0, 2]),
        "first_trade_id": st.sampled_from([-1, 10]),
        "last_trade_id": st.sampled_from([-1, 11, 12]),
    }
).map(lambda changes: bar(**changes))
off_grid = st.builds(
    lambda symbol, minute: bar(symbol=symbol, minute=minute, half=True),
    st.integers(0, 1),
    st.integers(0, 8),
)
# The agent counts what is wrong with a preview too, the pipeline has none: these are right.
previews = st.builds(
    lambda symbol, minute: bar(symbol=symbol, minute=minute, closed=False),
    st.integers(0, 1),
    st.integers(0, 8),
)
not_a_number = st.builds(
    lambda minute, field, value: bar(minute=minute, **{field: value}),
    st.integers(20, 60),
    st.sampled_from(["open", "high", "low", "close", "volume"]),
    st.sampled_from([NAN, INF, -INF]),
)
infinite_quotes = st.integers(61, 80).map(lambda minute: bar(minute=minute, quote_volume=INF))


def columns_of(rows: list[dict[str, Any]]) -> BarColumns:
    dtypes = dict(BarColumns.DTYPES)
    shared = {
        name: np.array([row[name] for row in rows], dtypes[name]) for name in dtypes if name in BAR
    }
    times = [START_NS + r["minute"] * MINUTE_NS + r["half"] * (MINUTE_NS // 2) for r in rows]
    return BarColumns(
        **shared,
        open_time_ns=np.array(times, np.int64),
        received_time_ns=np.zeros(len(rows), np.int64),
    )


def with_ends(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each symbol begins at minute 0, and its next block brings the first one to its seal."""
    first = [bar(symbol=symbol) for symbol in (0, 1)]
    last = [bar(symbol=symbol, minute=m) for m in (240, 241, 242) for symbol in (0, 1)]
    return [*first, *rows, *last]


def of_agent(rows: list[dict[str, Any]], cuts: list[int]) -> tuple[Counter[str], int]:
    """(rule -> count, discarded by authority) over all reports of a machine in canary."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        names = [SYMBOLS[row["symbol"]] for row in rows]
        for name, value in zip(
            names, encode_bars(names, columns_of(rows), IDS["bar"]), strict=True
        ):
            world.land("live", name.encode(), value)
        for upto in [*sorted(cuts), len(rows)]:
            world.run("live", upto)
        world.machine.close()
    found: Counter[str] = Counter()
    missing: dict[tuple[str, int], int] = {}
    discarded = 0
    for record in world.log.topics.get(topic_name(PARENT.id, "reports"), []):
        report = decode_record("report", record.value or b"")
        found.update({r: n for r, n in report["findings"].items() if r != "gap"})
        missing[report["symbol"], report["window_start_ns"]] = report["findings"].get("gap", 0)
        discarded += report["discarded"]
    found["gap"] = sum(missing.values())
    return +found, discarded


def of_pipeline(rows: list[dict[str, Any]]) -> ConformanceReport:
    sid = np.array([row["symbol"] for row in rows], np.int32)
    table = of_bar_columns(SYMBOLS[:2], sid, columns_of(rows))
    pipeline = ConformancePipeline(options(kind="bars", interval=MINUTE_NS, interval_unit="ns"))
    return pipeline.run(table, partial_ok=True).report


def counts(report: ConformanceReport) -> dict[str, int]:
    return {rule: n for rule, n in report.counts.items() if rule not in NOT_OF_THE_AGENT}


@given(
    st.lists(st.one_of(bars, bars, bars, off_grid, previews), max_size=40),
    st.lists(st.integers(1, 40), max_size=3),
)
@settings(max_examples=120, deadline=None)
def test_the_same_bars_have_the_same_findings(rows: list[dict[str, Any]], cuts: list[int]) -> None:
    rows = with_ends(rows)
    agent, discarded = of_agent(rows, [cut for cut in cuts if cut < len(rows)])
    report = of_pipeline(rows)
    assert counts(report) == agent
    # The agent counts an arrival that filled a null by that, also where its prices lost.
    assert report.by_authority["discarded"] >= discarded
    if all(math.isnan(r["quote_volume"]) and r["trades"] == r["last_trade_id"] == -1 for r in rows):
        assert report.by_authority["discarded"] == discarded
    lost = sum(report.by_authority.values()) + sum(f.rows_dropped for f in report.findings.values())
    assert report.rows_in - lost == report.rows_out


@given(
    st.lists(st.one_of(not_a_number, infinite_quotes), max_size=10, unique_by=lambda r: r["minute"])
)
@settings(max_examples=40, deadline=None)
def test_what_is_no_number_is_counted_alike(rows: list[dict[str, Any]]) -> None:
    """The agent's gap is longer by those rows: they are in quarantine."""
    rows = with_ends(rows)
    agent, _ = of_agent(rows, [])
    found = counts(of_pipeline(rows))
    assert agent["non_finite"] == found.get("non_finite", 0) == len(rows) - 8
    assert agent["gap"] == found["gap"] + len(rows) - 8
