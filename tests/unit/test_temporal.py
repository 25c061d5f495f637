"""The temporal rollup of a batch of bars: examples and edges."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from seamline.schemas.errors import UsageError
from seamline.streams.kernel import temporal as t
from temporal_oracle import answer, batch_of, differences

LEAST, MOST = -(2**63), 2**63 - 1
NAN = float("nan")
REST_SETTLED, WS_CLOSED, REST_FRESH, WS_OPEN = range(4)


def bars(*rows: tuple[int, float], authority: list[int] | None = None) -> t.BarBatch:
    """One symbol: (time, the price of all four and volume 1)."""
    values = [[price] * 4 + [1.0] for _, price in rows]
    return batch_of([0] * len(rows), [time for time, _ in rows], values, authority=authority)


def conform(batch: t.BarBatch, symbols: int = 1, **rules: Any) -> t.Conformed:
    """Conform, and compare with plain Python where that can ask every cell."""
    made = t.BarRules(**{"interval_ns": 60, **rules})
    found = t.conform_bars(batch, symbols, made)
    times = batch.open_time_ns.tolist()
    if not times or max(times) - min(times) < 10**6:
        assert differences(found, answer(batch, symbols, made)) == []
    return found


def log(found: t.Conformed) -> list[tuple[int, int]]:
    return list(zip(found.log_rows.tolist(), found.log_revision.tolist(), strict=True))


def involved(found: t.Conformed, bits: int) -> list[int]:
    return np.flatnonzero(found.verdict & bits == bits).tolist()


def test_the_same_authority_says_something_else() -> None:
    found = conform(bars((60, 10.0), (120, 11.0), (120, 12.5), (180, 13.0)))
    assert found.rows.tolist() == [0, 2, 3]
    assert found.revision.tolist() == [0, 1, 0]
    assert log(found) == [(0, 0), (1, 0), (2, 1), (3, 0)]
    assert involved(found, t.DUPLICATE_CONFLICT) == [1, 2]
    assert involved(found, t.DROPPED) == [1]


def test_three_copies_are_one() -> None:
    found = conform(bars((60, 5.0), (60, 5.0), (60, 5.0), (120, 6.0)))
    assert found.rows.tolist() == [0, 3]
    assert involved(found, t.DUPLICATE_EQUAL) == [0, 1, 2]
    assert involved(found, t.DROPPED | t.REPEATED) == [1, 2]
    assert log(found) == [(0, 0), (3, 0)]


@pytest.mark.parametrize(
    ("authority", "stands", "bits", "accepted"),
    [
        ([WS_CLOSED, REST_SETTLED], 1, t.REVISED, [(0, 0), (1, 1)]),
        ([REST_SETTLED, WS_CLOSED], 0, t.DISCARDED, [(0, 0)]),
    ],
)
def test_authority_decides_and_is_no_finding(
    authority: list[int], stands: int, bits: int, accepted: list[tuple[int, int]]
) -> None:
    found = conform(bars((0, 1.0), (0, 1.5), authority=authority))
    assert found.rows.tolist() == [stands]
    assert found.verdict.tolist() == [0, bits]
    assert log(found) == accepted


def test_a_confirmation_raises_the_authority() -> None:
    """ws_closed said it, rest_settled agreed: rest_fresh cannot change it any more."""
    rows = ((0, 1.0), (0, 1.0), (0, 2.0))
    found = conform(bars(*rows, authority=[WS_CLOSED, REST_SETTLED, WS_CLOSED]))
    assert found.rows.tolist() == [0]
    assert involved(found, t.RAISED) == [1]
    assert involved(found, t.DISCARDED) == [2]


def test_one_identity_can_repeat_and_conflict() -> None:
    found = conform(bars((0, 1.0), (0, 2.0), (0, 2.0)))
    assert involved(found, t.DUPLICATE_EQUAL) == involved(found, t.DUPLICATE_CONFLICT) == [0, 1, 2]
    assert involved(found, t.DROPPED) == [0, 2]
    assert involved(found, t.REPEATED) == [2]


def test_a_null_is_filled_without_a_revision() -> None:
    values = [[1.0] * 5] * 2
    batch = batch_of([0, 0], [0, 0], values, [[NAN, 1, NAN, NAN], [7.0, NAN, NAN, NAN]])
    found = conform(batch)
    assert found.rows.tolist() == [0]
    assert found.revision.tolist() == [0]
    assert found.patches.tolist() == [[0, 0, 1]]
    assert involved(found, t.COMPLETED) == [1]
    assert log(found) == [(0, 0)]


def test_a_field_has_its_own_authority() -> None:
    """The prices are rest_settled's, the quote volume that of whoever outranks its last source."""
    batch = batch_of(
        [0] * 4,
        [0] * 4,
        [[1.0] * 5, [2.0] * 5, [3.0] * 5, [4.0] * 5],
        [[NAN] * 4, [5.0, NAN, NAN, NAN], [6.0, NAN, NAN, NAN], [7.0, NAN, NAN, NAN]],
        authority=[REST_SETTLED, REST_FRESH, WS_CLOSED, WS_OPEN],
    )
    found = conform(batch)
    assert found.rows.tolist() == [0]
    assert found.revision.tolist() == [1]
    assert found.patches.tolist() == [[0, 0, 2]]
    assert [involved(found, bit) for bit in (t.COMPLETED, t.REVISED, t.DISCARDED)] == [
        [1],
        [2],
        [3],
    ]
    assert log(found) == [(0, 0), (2, 1)]


def test_further_content_counts() -> None:
    batch = batch_of([0] * 3, [0] * 3, other=[4, 4, 5])
    found = conform(batch)
    assert involved(found, t.REPEATED) == [1]
    assert found.rows.tolist() == [2]


def test_zero_has_one_sign_and_nan_is_nan() -> None:
    found = conform(batch_of([0] * 2, [0] * 2, [[0.0, NAN, 1.0, 1.0, 1.0], [-0.0, NAN, 1, 1, 1]]))
    assert involved(found, t.REPEATED) == [1]


def test_an_off_grid_row_is_set_aside_and_still_the_newest() -> None:
    found = conform(bars((0, 1.0), (90, 2.0), (60, 3.0), (120, 4.0)))
    assert found.rows.tolist() == [0, 2, 3]
    assert found.verdict.tolist() == [0, t.OFF_GRID | t.DROPPED, t.OUT_OF_ORDER, 0]
    assert found.gaps.tolist() == []
    assert log(found) == [(0, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        ((0, 60, 150), 1),
        ((0, 90, 120), 1),  # 0 to 90; 90 to 120 is less than the interval
        ((150, 0, 300), 2),
        ((0, 90, 90, 180), 2),
        ((30, 100), 1),
        ((0, 180), 0),
        ((30, 90, 150), 0),
    ],
)
def test_steps_that_do_not_fit_are_counted(times: tuple[int, ...], steps: int) -> None:
    assert conform(bars(*((time, 1.0) for time in times))).misaligned == steps


def test_gaps_between_the_first_and_the_last_row() -> None:
    batch = batch_of([1, 0, 1, 0, 0], [60, 0, 240, 120, 600])
    found = conform(batch, 3)
    assert found.gaps.tolist() == [[0, 60, 120], [0, 180, 600], [1, 120, 240]]


def test_a_window_expects_its_own_bars_of_every_symbol() -> None:
    batch = batch_of([0, 0], [120, 180])
    found = conform(batch, 2, window_ns=(0, 360))
    assert found.gaps.tolist() == [[0, 0, 120], [0, 240, 360], [1, 0, 360]]
    found = conform(batch, 1, window_ns=(130, 230))
    assert found.gaps.tolist() == []
    found = conform(batch, 1, window_ns=(130, 250))
    assert found.gaps.tolist() == [[0, 240, 300]], "a bar is expected where its open time is"
    assert conform(batch, 1, window_ns=(60, 60)).gaps.tolist() == []
    assert conform(batch_of([], []), 1, window_ns=(0, 120)).gaps.tolist() == [[0, 0, 120]]


def test_nothing_is_expected_between_sessions() -> None:
    sessions = np.array([[0, 180], [180, 240], [600, 780], [1200, 1260]], np.int64)
    found = conform(batch_of([0, 0], [0, 720]), sessions_ns=sessions)
    assert found.gaps.tolist() == [[0, 60, 240], [0, 600, 720]]
    found = conform(batch_of([0], [60]), sessions_ns=sessions, window_ns=(0, 1300))
    assert found.gaps.tolist() == [[0, 0, 60], [0, 120, 240], [0, 600, 780], [0, 1200, 1260]]


def test_without_an_interval_the_exact_time_is_the_identity() -> None:
    found = conform(bars((61, 1.0), (60, 2.0), (61, 1.0)), interval_ns=None, window_ns=(0, 600))
    assert found.rows.tolist() == [1, 0]
    assert found.gaps.tolist() == []
    assert found.misaligned == 0
    assert involved(found, t.REPEATED) == [2]


@pytest.mark.parametrize("interval", [1, 60, 2**61, MOST])
@pytest.mark.parametrize("origin", [0, 17, -17, LEAST, MOST])
def test_times_at_the_ends_do_not_wrap(interval: int, origin: int) -> None:
    times = [LEAST, LEAST + 1, -1, 0, MOST - 1, MOST, MOST]
    on_grid = [(time - origin) % interval == 0 for time in times[:-1]]
    found = conform(batch_of([0] * 7, times), interval_ns=interval, origin_ns=origin)
    assert found.rows.tolist() == [i for i, fits in enumerate(on_grid) if fits]
    assert involved(found, t.OUT_OF_ORDER) == []
    ordered = [time for time, fits in zip(times, on_grid, strict=False) if fits]
    wanted = [[0, a + interval, b] for a, b in pairwise(ordered)]
    assert found.gaps.tolist() == [gap for gap in wanted if gap[1] < gap[2]]
    steps = pairwise(times)
    assert found.misaligned == sum(b - a > interval and (b - a) % interval != 0 for a, b in steps)
    back = conform(batch_of([0] * 7, times[::-1]), interval_ns=interval, origin_ns=origin)
    assert involved(back, t.OUT_OF_ORDER) == [2, 3, 4, 5, 6]
    assert back.gaps.tolist() == found.gaps.tolist()


def test_a_gap_past_the_end_of_time_is_cut() -> None:
    rules = t.BarRules(2**61, origin_ns=1, window_ns=(LEAST, MOST))
    found = t.conform_bars(batch_of([0], [1]), 1, rules)
    assert found.gaps.tolist() == [[0, 1 - 2**63, 1], [0, 1 + 2**61, MOST]]


def test_nothing_is_missing_behind_the_last_time_there_is() -> None:
    rules = t.BarRules(60, origin_ns=MOST, window_ns=(MOST - 100, MOST))
    found = t.conform_bars(batch_of([0], [MOST]), 1, rules)
    assert found.gaps.tolist() == [[0, MOST - 60, MOST]]


def test_values_are_judged_on_every_row() -> None:
    good, inf = [1.0, 2.0, 0.5, 1.5, 1.0], float("inf")
    rows = [
        (good, 0),
        ([1.0, 1.0, 1.0, 1.0, 0.0], 0),
        ([1.0, 0.9, 1.1, 1.0, 1.0], t.OHLC_INCONSISTENT),
        ([1.0, 2.0, 0.5, 2.5, 1.0], t.OHLC_INCONSISTENT),
        ([0.4, 2.0, 0.5, 1.5, 1.0], t.OHLC_INCONSISTENT),
        ([1.0, 2.0, 0.5, 1.5, -1.0], t.NEGATIVE_VOLUME),
        ([0.0, 2.0, 0.0, 1.5, 1.0], t.NON_POSITIVE_PRICE),
        ([1.0, NAN, 0.5, 1.5, -1.0], t.NON_FINITE | t.NEGATIVE_VOLUME),
        ([1.0, inf, 0.5, 1.5, 1.0], t.NON_FINITE),
        ([inf, 2.0, 0.5, 1.5, 1.0], t.NON_FINITE),
        ([1.0, 2.0, 0.5, 1.5, inf], t.NON_FINITE),
    ]
    times = [60 * k + (k == 5) for k in range(len(rows))]
    found = conform(batch_of([0] * len(rows), times, [row for row, _ in rows]))
    aside = t.OFF_GRID | t.DROPPED
    assert found.verdict.tolist() == [bits | aside * (k == 5) for k, (_, bits) in enumerate(rows)]


def prices(closes: list[float]) -> t.BarBatch:
    return bars(*((60 * k, close) for k, close in enumerate(closes)))


def test_a_jump_is_judged_from_the_seventeenth_return_on() -> None:
    calm = [100.0, 101.0] * 8
    assert involved(conform(prices([*calm, 150.0]), jump_sigmas=3.0), t.PRICE_JUMP) == []
    found = conform(prices([*calm, 100.0, 150.0, 150.0]), jump_sigmas=3.0)
    assert involved(found, t.PRICE_JUMP) == [17]


def test_a_band_without_width_judges_nothing() -> None:
    assert involved(conform(prices([1.0] * 30 + [2.0]), jump_sigmas=3.0), t.PRICE_JUMP) == []


def test_what_is_no_price_does_not_enter_the_band() -> None:
    calm = [100.0, 101.0] * 10
    broken = [NAN, 0.0, -5.0, float("inf")]
    found = conform(prices([*calm, *broken, 101.0, 150.0]), jump_sigmas=3.0)
    assert involved(found, t.PRICE_JUMP) == [25]
    whole = t.conform_bars(prices([*calm, 1e308, 1e-308, 1e308, *calm]), 1, t.BarRules(60))
    assert involved(whole, t.PRICE_JUMP) == []


def test_a_jump_is_judged_on_what_stands() -> None:
    calm = [100.0, 101.0] * 10
    rows = [(60 * k, close) for k, close in enumerate(calm)]
    wrong = bars(*rows, (1200, 150.0), (1200, 101.0))
    assert involved(conform(wrong, jump_sigmas=3.0), t.PRICE_JUMP) == []


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"open_time_ns": np.zeros(1, np.float64)}, "open_time_ns"),
        ({"open_time_ns": np.zeros(2, np.int64)}, "open_time_ns"),
        ({"symbol": np.array([1], np.int32)}, "symbol"),
        ({"symbol": np.array([-1], np.int32)}, "symbol"),
        ({"high": np.zeros(0)}, "high"),
        ({"optional": np.zeros((3, 1))}, "optional"),
        ({"other": np.zeros(3, np.int64)}, "other"),
        ({"authority": np.zeros(1, np.int64)}, "authority"),
    ],
)
def test_columns_that_do_not_fit_are_refused(change: dict[str, Any], parameter: str) -> None:
    batch = dataclasses.replace(bars((0, 1.0)), **change)
    with pytest.raises(UsageError) as caught:
        t.conform_bars(batch, 1, t.BarRules(60))
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"interval_ns": 0}, "interval_ns"),
        ({"interval_ns": -60}, "interval_ns"),
        ({"window_ns": (60, 0)}, "window_ns"),
        ({"sessions_ns": np.array([[0, 60], [30, 90]], np.int64)}, "sessions_ns"),
        ({"sessions_ns": np.array([[60, 0]], np.int64)}, "sessions_ns"),
        ({"sessions_ns": np.array([0, 60], np.int64)}, "sessions_ns"),
        ({"jump_sigmas": 0.0}, "jump_sigmas"),
        ({"jump_decay": 0.49}, "jump_decay"),
        ({"jump_decay": 1.01}, "jump_decay"),
    ],
)
def test_rules_that_cannot_be_are_refused(change: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UsageError) as caught:
        t.conform_bars(bars((0, 1.0)), 1, t.BarRules(**{"interval_ns": 60, **change}))
    assert caught.value.parameter == parameter


def test_columns_in_pieces_and_read_only_ones_will_do() -> None:
    batch = bars((60, 1.0), (0, 2.0))
    pieces = dataclasses.replace(batch, open_time_ns=np.array([60, 7, 0, 7], np.int64)[::2])
    pieces.close.flags.writeable = False
    assert t.conform_bars(pieces, 1, t.BarRules(60)).rows.tolist() == [1, 0]
