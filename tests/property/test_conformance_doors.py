"""Table, pandas, Arrow and the agent's columns are one pipeline with four doors.

Random tables of every kind, with every fault, must give one outcome: rows, log, types, report. And
laws that hold for any input: nothing is invented, counts add up, a second run finds nothing to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.schemas.columns import SOURCES
from seamline.sdk.conforming import Settings
from seamline.streams.kernel.conformance import ConformancePipeline
from seamline.streams.kernel.conformance_options import options
from seamline.streams.kernel.table import INT64, Column, Table
from vectors.conformance_doors import Run, Seen, fits_columns
from vectors.conformance_drivers import agreed

FEW_DAYS_S = 1_735_689_600
BIG = 2**53

times = st.one_of(
    st.integers(0, 12).map(lambda k: FEW_DAYS_S + 60 * k),
    st.sampled_from([FEW_DAYS_S + 30, FEW_DAYS_S + 90.5, None, 10_413_792_000, -60, 0]),
)
texts_of_times = st.sampled_from(
    [
        *(f"2025-01-01T00:0{k}:00Z" for k in range(6)),
        *("2025-01-01T00:01:00", "2025-01-01T02:00:00+02:00", "2025-01-01T00:00:00.25Z"),
        *("nonsense", "1735689600", None),
    ]
)
prices = st.one_of(
    st.sampled_from([1.0, 1.5, 2.0, 2.25]),
    st.sampled_from([0.0, -0.0, -1.0, "NaN", "Infinity", "-Infinity", None]),
)
whole = st.sampled_from([0, 1, 2, 7, BIG, BIG + 1, 2**63 - 1, None])
loose = st.sampled_from([1, 2.5, "3", "1e2", "oops", "NaN", None])
symbols = st.sampled_from(["A", "B", "Z/Z", None])
authorities = st.sampled_from([*SOURCES, None, "nobody"])

BARS = {
    "ts": times,
    **dict.fromkeys(("open", "high", "low", "close"), prices),
    "volume": st.sampled_from([0.0, 1.0, -2.0, -0.0]),
}
KINDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "bars": BARS,
    "trades": {"ts": times, "price": prices, "size": prices, "trade_id": whole},
    "quotes": {"ts": times, **dict.fromkeys(("bid", "ask", "bid_size", "ask_size"), prices)},
}
EXTRA: dict[str, st.SearchStrategy[Any]] = {
    "symbol": symbols,
    "authority": authorities,
    "quote_volume": st.sampled_from([1.0, 2.0, None, "NaN"]),
    **dict.fromkeys(("trades", "first_trade_id"), whole),
    "note": loose,
}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    kind = draw(st.sampled_from(sorted(KINDS)))
    columns = dict(KINDS[kind])
    for name in draw(st.sets(st.sampled_from(sorted(EXTRA)), max_size=4)):
        columns[name] = EXTRA[name]
    unit = draw(st.sampled_from(["s", "s", "s", "iso8601", "datetime"]))
    if unit != "s":
        columns["ts"] = texts_of_times
    if draw(st.integers(0, 5)) == 0:
        columns.pop(draw(st.sampled_from(sorted(columns))))
    if draw(st.integers(0, 5)) == 0:
        columns[draw(st.sampled_from(sorted(columns.keys() - {"ts"})))] = loose
    count = draw(st.integers(0, 9))
    row = st.fixed_dictionaries(columns)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    table = Table({n: Column.of([r[n] for r in rows]) for n in columns}, count)
    chosen: Settings = {
        "ts_unit": unit,
        "wide_spread_percent": draw(st.sampled_from([None, 10])),
        "conformance_preset": draw(st.sampled_from(["strict-blocking", "permissive"])),
    }
    if draw(st.booleans()):
        chosen |= {"interval": 60, "interval_unit": "s"}
    if unit == "s" and draw(st.booleans()):
        chosen["window"] = (FEW_DAYS_S, FEW_DAYS_S + 600)
    return Run(table, kind, chosen, True, None)


@given(runs())
@settings(max_examples=400, deadline=None)
def test_every_door_gives_one_outcome(run: Run) -> None:
    seen = agreed(run)
    assert isinstance(seen, Seen)
    report = seen.report
    assert report.rows_in == run.table.rows
    assert report.rows_out == len(seen.rows)
    dropped = sum(found.rows_dropped for found in report.findings.values())
    # Every row is in the result, dropped by a rule, or lost by authority alone.
    by_authority = sum(report.by_authority.values())
    assert report.rows_in - dropped - by_authority == report.rows_out
    assert all(f.rows_involved or f.missing for f in report.findings.values())
    assert all(f.rows_dropped <= f.rows_involved for f in report.findings.values())
    if "ts" in run.table and not {"missing_column"} & report.findings.keys():
        keys = [(row["ts"], row.get("symbol") or "") for row in seen.rows]
        assert keys == sorted(keys)
        assert len(report.log_rows) >= len(seen.rows)
    given_cells = {n: {repr(c) for c in col.cells()} for n, col in run.table.columns.items()}
    if "note" in given_cells:
        assert {repr(row["note"]) for row in seen.rows} <= given_cells["note"] | {"'NaN'"}


@given(runs())
@settings(max_examples=150, deadline=None)
def test_what_came_out_conforms(run: Run) -> None:
    """The result, read again, is in order, has no repeats, and comes out bit for bit the same."""
    chosen = options(kind=run.kind, **run.settings)
    first = ConformancePipeline(chosen).run(run.table, partial_ok=True)
    if "missing_column" in first.report.findings:
        return
    stated: Settings = {**run.settings, "ts_unit": "ns"}
    if chosen.window_ns is not None:
        stated["window"] = chosen.window_ns
    again = ConformancePipeline(options(kind=run.kind, **stated)).run(first.table, partial_ok=True)
    settled = {"duplicate_equal", "duplicate_conflict", "out_of_order", "off_grid"}
    settled |= {"invalid_timestamp", "dtype_cast", "cast_failure", "enumeration", "missing_symbol"}
    assert not settled & again.report.findings.keys()
    assert again.rows.tolist() == list(range(first.table.rows))
    for name, column in first.table.columns.items():
        if column.type == INT64 or name == "ts":
            assert again.table[name].values.tobytes() == column.values.tobytes()
        assert repr(again.table[name].cells()) == repr(column.cells())
    gaps = first.report.findings.get("gap")
    # A symbol of which nothing was kept (all off the grid) is missing in the first report alone.
    if gaps is not None and symbols_of(first.table) == symbols_of(run.table):
        assert np.array_equal(gaps.ranges, again.report.findings["gap"].ranges)


def symbols_of(table: Table) -> set[str]:
    return (
        set(map(str, table["symbol"].cells()))
        if "symbol" in table.columns
        else {str(table.rows > 0)}
    )


def test_the_random_tables_reach_the_columns_door() -> None:
    row = {"ts": 0, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 0.0}
    table = Table({n: Column.of([c]) for n, c in row.items()}, 1)
    assert fits_columns(Run(table, "bars", {"ts_unit": "s"}, True, None))
