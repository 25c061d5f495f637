"""Reports: as plain data and back, and what counts as worse than a former run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from seamline.schemas.errors import UsageError
from seamline.streams.kernel.conformance import ConformancePipeline
from seamline.streams.kernel.conformance_options import options
from seamline.streams.kernel.conformance_report import (
    ConformanceReport,
    Finding,
    Regression,
    regressions,
)
from seamline.streams.kernel.table import Table

S = 10**9


def table(minutes: list[int], *, symbols: list[str] | None = None, **columns: Any) -> Table:
    rows = len(minutes)
    flat: dict[str, Any] = {n: [1.0] * rows for n in ("open", "high", "low", "close", "volume")}
    named = {} if symbols is None else {"symbol": symbols}
    return Table.of({"ts": [60 * m for m in minutes], **named, **flat, **columns})


def report(
    minutes: list[int], baseline: ConformanceReport | None = None, **columns: Any
) -> ConformanceReport:
    window = columns.pop("window", None)
    chosen = options(kind="bars", ts_unit="s", interval="1m", window=window)
    pipeline = ConformancePipeline(chosen, baseline=baseline)
    return pipeline.run(table(minutes, **columns), partial_ok=True).report


def worse(now: ConformanceReport) -> list[tuple[Any, ...]]:
    assert now.regressions is not None
    return [(r.change, r.rule, r.symbol, r.before, r.now) for r in now.regressions]


def test_a_report_is_plain_data_and_comes_back() -> None:
    made = report([0, 0, 3, 2, 7], symbols=["A", "A", "B", "B", "A"], close=[1, 2, 3, 0, 1])
    assert {"duplicate_conflict", "out_of_order", "gap", "dtype_cast"} <= made.findings.keys()
    plain = json.loads(json.dumps(made.to_dict()))
    again = ConformanceReport.from_dict(plain)
    assert again.to_dict() == made.to_dict()
    assert again.counts == made.counts and again.blocked == made.blocked
    assert list(again.missing_ranges()) == list(made.missing_ranges())


@pytest.mark.parametrize(
    "plain",
    [{}, {"format": 2}, {"format": 1}, {"format": 1, "kind": "bars", "findings": 5}],
)
def test_what_is_no_report_is_no_baseline(plain: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        ConformanceReport.from_dict(plain)
    assert refused.value.parameter == "baseline"


def test_a_baseline_of_another_kind_or_interval_is_refused_before_the_run() -> None:
    baseline = report([0, 1])
    for other in (
        options(kind="trades", ts_unit="s", interval="1m"),
        options(kind="bars", ts_unit="s", interval="5m"),
        options(kind="bars", ts_unit="s"),
    ):
        with pytest.raises(UsageError) as refused:
            ConformancePipeline(other, baseline=baseline)
        assert refused.value.parameter == "baseline"


def test_without_a_baseline_nothing_is_compared() -> None:
    assert report([0, 1]).regressions is None
    assert report([0, 1], report([0, 1])).regressions == ()


def test_a_rule_that_found_nothing_before() -> None:
    now = report([0, 1, 2], report([0, 1, 2]), volume=[1.0, -1.0, 1.0])
    assert worse(now) == [("new_rule", "negative_volume", None, 0, 1)]


def test_occurrences_are_compared_by_rows() -> None:
    half = report([0, 1, 2, 3], volume=[-1.0, 1.0, -1.0, 1.0])
    # Twice the data with twice the occurrences is no worse; one more is; fewer is better.
    for count, changes in ((4, []), (5, [("more", "negative_volume", None, 2, 5)]), (1, [])):
        volume = [-1.0] * count + [1.0] * (8 - count)
        assert worse(report(list(range(8)), half, volume=volume)) == changes
    # A higher share of less data, with fewer occurrences, is not more.
    assert worse(report([0], half, volume=[-1.0])) == [("ends_earlier", None, None, 180 * S, 0)]


def test_gaps_are_compared_by_what_was_expected() -> None:
    before = report([0, 1, 2, 4])
    assert worse(report([0, 1, 2, 4, 5, 6, 7, 9], before)) == []
    now = report([0, 1, 2, 4, 5, 7, 8, 10, 12], before)
    assert worse(now) == [("more", "gap", None, 1, 4)]


def test_bars_that_were_there_and_are_missing_are_named() -> None:
    before = report([0, 1, 2, 5, 6, 7, 8, 9])
    now = report([0, 6, 9], before)
    assert now.regressions is not None
    lost = [each for each in now.regressions if each.change == "bars_lost"]
    assert lost == [
        Regression(
            *("bars_lost", "gap", None, 0, 5),
            ranges=((60 * S, 180 * S), (300 * S, 360 * S), (420 * S, 540 * S)),
        )
    ]
    # The gap that was there before is no loss.
    assert report([0, 1, 2, 5, 6, 7, 8, 9], before).regressions == ()


def test_lost_bars_at_the_edges_show_in_a_window() -> None:
    window = (0, 600)
    before = report(list(range(1, 9)), window=window)
    now = report([3, 4, 5], before, window=window)
    assert now.regressions is not None
    changes = {each.change: each for each in now.regressions}
    assert changes["bars_lost"].ranges == ((60 * S, 180 * S), (360 * S, 540 * S))
    assert changes["bars_lost"].now == 5
    assert (changes["starts_later"].before, changes["starts_later"].now) == (60 * S, 180 * S)
    assert (changes["ends_earlier"].before, changes["ends_earlier"].now) == (480 * S, 300 * S)


def test_symbols_that_are_gone() -> None:
    before = report([0, 0, 1, 1], symbols=["A", "B", "A", "B"])
    now = report([0, 1], before, symbols=["B", "B"])
    assert worse(now) == [("symbol_lost", None, "A", 2, 0)]
    assert report([0, 0], report([0], symbols=["A"]), symbols=["A", "C"]).regressions == ()


def ranges_report(ranges: list[tuple[int, int]], first: int, last: int) -> ConformanceReport:
    made = report([first, last])
    rows = np.array([(0, a * 60 * S, b * 60 * S) for a, b in ranges], np.int64).reshape(-1, 3)
    missing = sum(b - a for a, b in ranges)
    gap = Finding(
        *("gap", "block", 0), missing=missing, ranges=rows, causes=np.zeros(len(rows), np.uint8)
    )
    plain = made.to_dict()
    plain["findings"] = {}
    again = ConformanceReport.from_dict(plain)
    object.__setattr__(again, "findings", {"gap": gap} if ranges else {})
    return again


@pytest.mark.parametrize("seed", range(40))
def test_lost_bars_equal_a_difference_of_sets(seed: int) -> None:
    random = np.random.default_rng(seed)

    def some() -> tuple[list[tuple[int, int]], set[int]]:
        cells = set(np.flatnonzero(random.random(30) < 0.4).tolist())
        ranges: list[tuple[int, int]] = []
        for cell in sorted(cells):
            if ranges and ranges[-1][1] == cell:
                ranges[-1] = (ranges[-1][0], cell + 1)
            else:
                ranges.append((cell, cell + 1))
        return ranges, cells

    (before, was_missing), (now, is_missing) = some(), some()
    first, last = 4, 25
    found = regressions(ranges_report(before, first, last), ranges_report(now, first, last))
    lost = {
        cell
        for each in found
        if each.change == "bars_lost"
        for start, end in each.ranges
        for cell in range(start // (60 * S), end // (60 * S))
    }
    assert lost == {c for c in is_missing - was_missing if first <= c <= last}
