"""The laws COV-P01 to COV-P13 of `coverage.json`, against a model of plain sets of cells.

Domain as stated there: times in -1000..1000, interval 1..60, 0..12 intervals. Every law also runs
on grids with an origin. The model enumerates the cells of an interval one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.schemas.errors import ContractError, UsageError
from seamline.streams.kernel.coverage import (
    Coverage,
    Interval,
    bounds,
    compute_missing_ranges,
    coverage_ratio,
    intersect,
    merge_coverage,
    missing_runs,
    require_history,
    subtract,
    union,
    window_coverage,
)

INT64 = 2**63
Pairs = list[Interval]
laws = settings(deadline=None, max_examples=300)

times = st.integers(-1000, 1000)
spans = st.tuples(times, times).map(lambda pair: (min(pair), max(pair)))
sets = st.lists(spans, max_size=12)
intervals = st.integers(1, 60)
origins = st.one_of(st.just(0), st.integers(-100, 100))


def cells(pairs: Iterable[Interval], interval: int, origin: int) -> set[int]:
    """The starts of the whole cells of each interval, each interval by itself."""
    return {
        cell
        for start, end in pairs
        for cell in range(start, end - interval + 1)
        if (cell - origin) % interval == 0
    }


def cells_of(found: Coverage) -> set[int]:
    return {c for a, b in found for c in range(a, b, found.interval_ns)}


def merge(pairs: Iterable[Interval] | Coverage, interval: int, origin: int) -> Coverage:
    return merge_coverage(pairs, interval_ns=interval, origin_ns=origin)


@laws
@given(sets, intervals, origins)
def test_cov_p01_merge_is_idempotent(have: Pairs, interval: int, origin: int) -> None:
    once = merge(have, interval, origin)
    assert merge(once.intervals, interval, origin) == once
    assert merge(once.spans, interval, origin) == once


@laws
@given(st.data(), sets, intervals, origins)
def test_cov_p02_merge_is_commutative(
    data: st.DataObject, have: Pairs, interval: int, origin: int
) -> None:
    other = data.draw(st.permutations(have))
    assert merge(have, interval, origin) == merge(other, interval, origin)


@laws
@given(sets, sets, sets, intervals, origins)
def test_cov_p03_merge_is_associative(
    a: Pairs, b: Pairs, c: Pairs, interval: int, origin: int
) -> None:
    left = merge((*merge(a + b, interval, origin), *c), interval, origin)
    right = merge((*a, *merge(b + c, interval, origin)), interval, origin)
    assert left == right
    named = union({"a": a, "b": b, "c": c}, interval_ns=interval, origin_ns=origin)
    assert named == left == merge(a, interval, origin).union(merge(b + c, interval, origin))


@laws
@given(sets, intervals, origins)
def test_cov_p04_merged_intervals_are_canonical(have: Pairs, interval: int, origin: int) -> None:
    merged = merge(have, interval, origin).intervals
    assert all(a < b and (a - origin) % interval == 0 == (b - a) % interval for a, b in merged)
    assert all(before[1] < after[0] for before, after in pairwise(merged))


@laws
@given(sets, intervals, origins)
def test_cov_p05_merged_are_the_whole_cells_of_the_inputs(
    have: Pairs, interval: int, origin: int
) -> None:
    wanted = cells(have, interval, origin)
    found = merge(have, interval, origin)
    assert cells_of(found) == wanted
    assert found.cells == len(wanted)
    assert found.cell_starts().tolist() == sorted(wanted)
    assert bounds(have, interval_ns=interval, origin_ns=origin) == (
        (min(wanted), max(wanted) + interval) if wanted else None
    )
    assert all(found.contains(time) == (_cell(time, found) in wanted) for time in range(-60, 60))


def _cell(time: int, grid: Coverage) -> int:
    return time - (time - grid.origin_ns) % grid.interval_ns


@laws
@given(sets, spans, intervals, origins)
def test_cov_p06_covered_and_missing_are_the_window(
    have: Pairs, window: Interval, interval: int, origin: int
) -> None:
    found = window_coverage(have, window, interval_ns=interval, origin_ns=origin)
    expected = cells([window], interval, origin)
    covered, missing = cells_of(found.covered), cells_of(found.missing)
    assert covered | missing == expected and not covered & missing
    assert covered == expected & cells(have, interval, origin)
    assert (found.covered_bars, found.missing_bars) == (len(covered), len(missing))
    ratio = coverage_ratio(have, window, interval_ns=interval, origin_ns=origin)
    assert ratio == (len(covered) / len(expected) if expected else 1.0)


@laws
@given(sets, spans, intervals, origins)
def test_cov_p07_missing_lies_in_the_window_and_touches_no_covered_cell(
    have: Pairs, window: Interval, interval: int, origin: int
) -> None:
    missing = compute_missing_ranges(have, window, interval_ns=interval, origin_ns=origin)
    assert all(window[0] <= a < b <= window[1] for a, b in missing)
    listed = [c for a, b in missing for c in range(a, b, interval)]
    assert len(listed) == len(set(listed))
    assert not set(listed) & cells(have, interval, origin)


@laws
@given(sets, spans, intervals, origins)
def test_cov_p08_what_is_missing_of_the_missing_is_covered(
    have: Pairs, window: Interval, interval: int, origin: int
) -> None:
    found = window_coverage(have, window, interval_ns=interval, origin_ns=origin)
    again = compute_missing_ranges(found.missing, window, interval_ns=interval, origin_ns=origin)
    assert again == found.covered


@laws
@given(sets, sets, intervals, origins)
def test_cov_p09_subtract(a: Pairs, b: Pairs, interval: int, origin: int) -> None:
    def less(want: Pairs, have: Pairs) -> Coverage:
        return subtract(want, have, interval_ns=interval, origin_ns=origin)

    assert not less(a, a)
    assert less(a, []) == merge(a, interval, origin)
    assert not less([], a)
    assert cells_of(less(a, b)) == cells(a, interval, origin) - cells(b, interval, origin)


@laws
@given(sets, sets, intervals, origins)
def test_cov_p10_intersect(a: Pairs, b: Pairs, interval: int, origin: int) -> None:
    common = intersect(a, b, interval_ns=interval, origin_ns=origin)
    assert common == intersect(b, a, interval_ns=interval, origin_ns=origin)
    assert intersect(a, a, interval_ns=interval, origin_ns=origin) == merge(a, interval, origin)
    mine, theirs = merge(a, interval, origin), merge(b, interval, origin)
    assert common == mine.subtract(mine.subtract(theirs)) == mine.intersect(theirs)
    assert cells_of(common) == cells(a, interval, origin) & cells(b, interval, origin)


@laws
@given(sets, sets, spans, intervals, origins)
def test_cov_p11_more_coverage_never_adds_missing(
    have: Pairs, more: Pairs, window: Interval, interval: int, origin: int
) -> None:
    less = compute_missing_ranges(have + more, window, interval_ns=interval, origin_ns=origin)
    before = compute_missing_ranges(have, window, interval_ns=interval, origin_ns=origin)
    assert not less.subtract(before)


@laws
@given(sets, spans, intervals, origins, st.integers(-(10**9), 10**9), st.integers(1, 10**9))
def test_cov_p12_shift_and_scale(
    have: Pairs, window: Interval, interval: int, origin: int, steps: int, factor: int
) -> None:
    def missing(shift: int, by: int) -> tuple[Interval, ...]:
        moved = [((a + shift) * by, (b + shift) * by) for a, b in (*have, window)]
        return compute_missing_ranges(
            moved[:-1], moved[-1], interval_ns=interval * by, origin_ns=origin * by
        ).intervals

    plain, shift = missing(0, 1), steps * interval
    assert missing(shift, 1) == tuple((a + shift, b + shift) for a, b in plain)
    assert missing(0, factor) == tuple((a * factor, b * factor) for a, b in plain)


@pytest.mark.parametrize("order", ["shuffled", "ascending", "descending"])
def test_cov_p13_a_million_intervals_are_merged_and_compared(order: str) -> None:
    """Cost is n log n: `_merged` and `_common` are one sort of n numbers (numpy's, n log n at
    worst), then a fixed number of passes over arrays of n, none of them nested and none of them a
    Python loop. A quadratic step would need 10**12 operations here and meet the suite's limit."""
    n, step = 1_000_000, 60 * 10**9
    number = np.arange(n, dtype=np.int64)
    if order == "shuffled":
        number = np.random.default_rng(7).permutation(number)
    elif order == "descending":
        number = number[::-1]
    start = number * 3 * step
    have = np.stack((start, start + np.where(number % 2, 2, 3) * step), axis=1)
    merged = merge_coverage(have, interval_ns=step)
    assert len(merged) == n // 2 and merged.cells == n // 2 * 5
    window = (-step, 3 * n * step)
    found = window_coverage(merged, window, interval_ns=step)
    assert (found.covered_bars, found.missing_bars) == (n // 2 * 5, n // 2 + 1)
    assert len(merged.subtract(found.missing)) == n // 2


@laws
@given(sets, intervals, origins)
def test_an_array_is_the_same_as_its_pairs(have: Pairs, interval: int, origin: int) -> None:
    array = np.array(have, np.int64).reshape(-1, 2)
    before = array.copy()
    assert merge_coverage(array, interval_ns=interval, origin_ns=origin) == merge(
        have, interval, origin
    )
    assert (array == before).all()


@laws
@given(sets, spans, sets)
def test_replace_changes_the_range_and_nothing_else(
    have: Pairs, span: Interval, parts: Pairs
) -> None:
    """The ledger of gaps changes at one place: the same as subtract, then union."""
    start, end = span
    before = Coverage.of_cells(have)
    inside = Coverage.of_cells(parts).intersect(Coverage.of_cells([span]))
    after = before.replace(start, end, inside.intervals)
    assert after == before.subtract(Coverage.of_cells([span])).union(inside)
    assert all(a < b for a, b in after) and before == Coverage.of_cells(have)


@laws
@given(st.sets(st.integers(-50, 50)), spans, intervals, origins)
def test_missing_rows_are_missing_ranges(
    numbers: set[int], window: Interval, interval: int, origin: int
) -> None:
    start, end = (origin + (t - origin) // interval * interval for t in window)
    present = np.array(sorted(origin + n * interval for n in numbers), np.int64)
    received = Coverage.of_times(present, interval_ns=interval, origin_ns=origin)
    assert tuple(missing_runs(present, start, end, interval)) == (
        compute_missing_ranges(
            received, (start, end), interval_ns=interval, origin_ns=origin
        ).intervals
    )


extremes = st.one_of(
    st.integers(-INT64, -INT64 + 200), st.integers(-100, 100), st.integers(INT64 - 201, INT64 - 1)
)
extreme_spans = st.lists(
    st.tuples(extremes, extremes).map(lambda pair: (min(pair), max(pair))), max_size=6
)
steps = st.one_of(st.integers(1, 60), st.integers(2**61, INT64 - 1))


@laws
@given(extreme_spans, extreme_spans, steps, st.one_of(origins, extremes))
def test_the_ends_of_int64_do_not_wrap(a: Pairs, b: Pairs, interval: int, origin: int) -> None:
    """Against the same algebra in Python's unbounded integers."""
    found = merge(a, interval, origin)
    assert found.intervals == _exact(a, interval, origin)
    assert found.cells == sum(end - start for start, end in found) // interval
    both = found.subtract(merge(b, interval, origin)), found.intersect(merge(b, interval, origin))
    assert both[0].union(both[1]) == found
    assert not both[0].intersect(both[1])


@laws
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=6),
    st.sampled_from([2**30, 2**31, 2**32 - 1, 2**32, 2**32 + 1]),
    st.integers(1, 3),
)
def test_sorting_does_not_depend_on_the_number_of_cells(
    places: list[int], apart: int, interval: int
) -> None:
    """Cell numbers of 32 bits are sorted as such; around that width nothing changes."""
    have = [(place * apart * interval, place * apart * interval + interval) for place in places]
    assert merge(have, interval, 0).intervals == _exact(have, interval, 0)


@pytest.mark.parametrize("interval", [2**60, 2**61 + 1, 2**62 - 3])
def test_sorting_does_not_depend_on_the_span_of_times(interval: int) -> None:
    starts = range(-(INT64 // interval) * interval, INT64 - interval, interval)
    cells = [(start, start + interval) for start in starts]
    for order in (cells[::-1], cells[1:] + cells[:1]):
        assert merge(order[::2], interval, 0).intervals == _exact(order[::2], interval, 0)
        assert merge(order, interval, 0).intervals == ((cells[0][0], cells[-1][1]),)


def _exact(pairs: Pairs, interval: int, origin: int) -> tuple[Interval, ...]:
    whole = sorted((a + (origin - a) % interval, b - (b - origin) % interval) for a, b in pairs)
    out: Pairs = []
    for start, end in whole:
        if start >= end:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)


@laws
@given(
    st.lists(st.integers(-60, 60), max_size=20),
    st.integers(0, 25),
    st.one_of(st.none(), st.lists(spans, max_size=3)),
    st.integers(1, 7),
)
def test_a_history_is_required_by_the_first_reason_that_applies(
    ts: list[int], required: int, have: Pairs | None, interval: int
) -> None:
    received = {t for t in ts if t % interval == 0}
    if have is not None:
        expected = cells(have, interval, 0)
    else:
        expected = set(range(min(received), max(received) + 1, interval)) if received else set()
    missing = expected - received
    reason = (
        "empty"
        if not received
        else "hole"
        if missing
        else "too_few"
        if len(received) < required
        else None
    )
    if reason is None:
        assert require_history(ts, required, have, interval_ns=interval) == len(received)
        return
    with pytest.raises(ContractError) as raised:
        require_history(ts, required, have, interval_ns=interval)
    fields = raised.value.fields
    assert (fields["reason"], fields["required_bars"]) == (reason, required)
    assert (fields["expected_bars"], fields["received_bars"]) == (len(expected), len(received))
    assert {c for a, b in fields["missing"] for c in range(a, b, interval)} == missing


@pytest.mark.parametrize(
    ("have", "interval", "parameter"),
    [
        ([(0.0, 10)], 10, "have"),
        ([(0, True)], 10, "have"),
        ([(0, np.float64(10))], 10, "have"),
        ([(0, np.True_)], 10, "have"),
        ([("0", "10")], 10, "have"),
        ([(0, None)], 10, "have"),
        ([(0,)], 10, "have"),
        ([5], 10, "have"),
        ("ab", 10, "have"),
        (7, 10, "have"),
        ([(0, INT64)], 10, "have"),
        ([(-INT64 - 1, 0)], 10, "have"),
        ([(20, 0)], 10, "have"),
        (np.array([[20, 0]]), 10, "have"),
        (np.array([[0.0, 10.0]]), 10, "have"),
        (np.array([[0, 1]], np.uint64), 10, "have"),
        (np.array([[False, True]]), 10, "have"),
        (np.array([[0, 1]], "M8[ns]"), 10, "have"),
        (np.array([0, 1]), 10, "have"),
        (np.array([[0, 1, 2]]), 10, "have"),
        ([(0, 10)], 0, "interval_ns"),
        ([(0, 10)], -10, "interval_ns"),
        ([(0, 10)], 10.0, "interval_ns"),
        ([(0, 10)], True, "interval_ns"),
        ([(0, 10)], np.float32(10), "interval_ns"),
        ([(0, 10)], None, "interval_ns"),
        ([(0, 10)], "1m", "interval_ns"),
    ],
)
def test_what_has_no_unit_is_refused(have: object, interval: object, parameter: str) -> None:
    with pytest.raises(UsageError) as raised:
        merge_coverage(have, interval_ns=interval)  # type: ignore[arg-type]
    assert raised.value.parameter == parameter


def test_each_argument_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError) as raised:
        window_coverage([], (10, 0), interval_ns=10)
    assert raised.value.parameter == "window_ns"
    with pytest.raises(UsageError) as raised:
        intersect([(10, 0)], [], interval_ns=10)
    assert raised.value.parameter == "want"
    with pytest.raises(UsageError) as raised:
        union({"cache": [(0, 10)], "storage": [(10, 0)]}, interval_ns=10)
    assert (raised.value.parameter, raised.value.fields["source"]) == ("sources", "storage")
    with pytest.raises(UsageError) as raised:
        merge_coverage([], interval_ns=10, origin_ns=0.5)  # type: ignore[arg-type]
    assert raised.value.parameter == "origin_ns"
    with pytest.raises(UsageError) as raised:
        require_history([0, 1.5], 1, None, interval_ns=10)  # type: ignore[list-item]
    assert raised.value.parameter == "ts_ns"
    with pytest.raises(UsageError) as raised:
        require_history([0], 1.0, None, interval_ns=10)  # type: ignore[arg-type]
    assert raised.value.parameter == "required_bars"
    with pytest.raises(UsageError) as raised:
        require_history([0], -1, None, interval_ns=10)
    assert raised.value.parameter == "required_bars"


def test_sources_have_names_and_times_are_no_bytes() -> None:
    with pytest.raises(UsageError) as raised:
        union([[(0, 10)]], interval_ns=10)  # type: ignore[arg-type]
    assert raised.value.parameter == "sources"
    for times in (b"ab", {10: 20}):
        with pytest.raises(UsageError) as raised:
            require_history(times, 1, None, interval_ns=10)
        assert raised.value.parameter == "ts_ns"


def test_sets_of_two_grids_are_not_mixed() -> None:
    minutes, hours = merge([(0, 7200)], 60, 0), merge([(0, 7200)], 3600, 0)
    for operation in (minutes.union, minutes.intersect, minutes.subtract):
        with pytest.raises(UsageError) as raised:
            operation(hours)
        assert raised.value.parameter == "interval_ns"
    assert minutes != hours
    assert minutes.union(merge(hours, 60, 0)) == minutes
    with pytest.raises(ValueError, match="read-only"):
        minutes.spans[0, 0] = 5
    with pytest.raises(UsageError):
        minutes.replace(0, 60, [(60, 120)])
