"""The temporal rollup against plain Python, and what must not change its answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import temporal_oracle as oracle
from seamline.streams.kernel import temporal as t

NAN, INF = float("nan"), float("inf")
PRICES = st.sampled_from([1.0, 1.0, 1.0, 2.0, 2.5, -0.0, 0.0, -1.0, NAN, INF, -INF, 1e308, 1e-308])


@st.composite
def batches(draw: st.DrawFn) -> tuple[t.BarBatch, int, t.BarRules]:
    """Few symbols and cells, so that identities meet; all the parts that may be left out."""
    symbols = draw(st.integers(1, 3))
    n = draw(st.integers(0, 24))
    step = draw(st.sampled_from([None, 1, 7, 60]))
    origin = draw(st.sampled_from([0, 0, 3, -5, 1000]))
    grid = step or 10
    times = st.integers(-6, 9).map(lambda k: k * grid + origin)
    if draw(st.booleans()):
        times |= st.integers(-80, 80)

    def column(values: st.SearchStrategy[int], present: bool) -> list[int] | None:
        return draw(st.lists(values, min_size=n, max_size=n)) if present else None

    def table(values: st.SearchStrategy[float], width: int, present: bool) -> list[list[float]]:
        row = st.lists(values, min_size=width, max_size=width)
        return draw(st.lists(row, min_size=n, max_size=n)) if present and n else []

    optional = table(st.sampled_from([NAN, NAN, 1.0, 2.0, 0.0, -0.0]), 4, draw(st.booleans()))
    batch = oracle.batch_of(
        column(st.integers(0, symbols - 1), True) or [],
        column(times, True) or [],
        table(PRICES, 5, draw(st.booleans())),
        optional or None,
        column(st.integers(0, 1), draw(st.booleans())),
        column(st.integers(0, 3), draw(st.booleans())),
    )
    sessions = None
    if draw(st.booleans()):
        edges = sorted(draw(st.lists(st.integers(-500, 600), max_size=8)))
        edges = edges[: len(edges) // 2 * 2]
        sessions = np.array(edges, np.int64).reshape(-1, 2)
    window = draw(st.none() | st.tuples(st.integers(-500, 600), st.integers(0, 300)))
    return (
        batch,
        symbols,
        t.BarRules(
            step,
            origin,
            None if window is None else (window[0], window[0] + window[1]),
            sessions,
        ),
    )


def same(a: t.Conformed, b: t.Conformed) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(t.Conformed)
    )


@settings(max_examples=400, deadline=None)
@given(batches())
def test_the_answer_is_that_of_plain_python(case: tuple[t.BarBatch, int, t.BarRules]) -> None:
    batch, symbols, rules = case
    made = t.conform_bars(batch, symbols, rules)
    assert oracle.differences(made, oracle.answer(batch, symbols, rules)) == []


@settings(max_examples=200, deadline=None)
@given(batches())
def test_how_places_are_found_does_not_matter(case: tuple[t.BarBatch, int, t.BarRules]) -> None:
    batch, symbols, rules = case
    made = t.conform_bars(batch, symbols, rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t, "_PLACES_PER_ROW", 0)
        patch.setattr(t, "_PLACES_MORE", 0)
        assert same(made, t.conform_bars(batch, symbols, rules))


@settings(max_examples=100, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_the_interleaving_of_symbols_does_not_matter(
    case: tuple[t.BarBatch, int, t.BarRules], random: object
) -> None:
    """Rows of different symbols may be handed over in any interleaving."""
    batch, symbols, rules = case
    n = len(batch.symbol)
    turn = np.array([random.random() for _ in range(n)])  # type: ignore[attr-defined]
    for s in range(symbols):
        turn[batch.symbol == s] = np.sort(turn[batch.symbol == s])
    order = np.argsort(turn, kind="stable")
    mixed = t.BarBatch(
        **{
            f.name: (
                column[..., order]
                if (column := getattr(batch, f.name)).shape[-1] == n and column.size
                else column
            )
            for f in dataclasses.fields(t.BarBatch)
        }
    )
    a, b = t.conform_bars(batch, symbols, rules), t.conform_bars(mixed, symbols, rules)
    assert a.rows.tolist() == order[b.rows].tolist()
    assert a.revision.tolist() == b.revision.tolist()
    assert a.verdict[order].tolist() == b.verdict.tolist()
    assert a.gaps.tolist() == b.gaps.tolist()
    assert a.misaligned == b.misaligned
    assert sorted(a.log_rows.tolist()) == sorted(order[b.log_rows].tolist())


@pytest.mark.parametrize("symbols", [1, 7, 8, 9, 31])
def test_bands_judged_together_are_those_judged_alone(symbols: int) -> None:
    """Symbols side by side, in vector instructions, against each row by itself."""
    draw = np.random.default_rng(symbols)
    n = 60 * symbols
    close = np.round(draw.lognormal(0, 0.02, n), 3)
    hit = draw.random(n) < 0.05
    close[hit] = draw.choice([NAN, 0.0, -1.0, INF, 2.0, 1e308, 1e-308], n)[hit]
    batch = oracle.batch_of(
        draw.integers(0, symbols, n).tolist(),
        (draw.integers(0, 50, n) * 60).tolist(),
        np.repeat(close[:, None], 5, 1).tolist(),
    )
    rules = t.BarRules(60, jump_sigmas=1.5, jump_decay=0.94)
    made = t.conform_bars(batch, symbols, rules)
    assert oracle.differences(made, oracle.answer(batch, symbols, rules)) == []
    assert (made.verdict & t.PRICE_JUMP).any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(t, "_PLACES_PER_ROW", 0)
        patch.setattr(t, "_PLACES_MORE", 0)
        assert same(made, t.conform_bars(batch, symbols, rules))


@pytest.mark.parametrize("seed", range(12))
def test_jumps_are_those_of_plain_python(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n, symbols, step = 900, 3, 60
    cell = draw.integers(0, 320, n)
    close = np.round(100 * np.exp(np.cumsum(draw.normal(0, 0.01, 320))), 2)[cell]
    close[draw.integers(0, n, 12)] *= 1.3
    close[draw.integers(0, n, 12)] = draw.choice([NAN, 0.0, -3.0, INF], 12)
    values = np.repeat(close[:, None], 5, 1)
    batch = oracle.batch_of(
        draw.integers(0, symbols, n).tolist(),
        (cell * step).tolist(),
        values.tolist(),
        authority=draw.integers(0, 3, n).tolist(),
    )
    rules = t.BarRules(step, jump_sigmas=float(draw.choice([1.5, 3.0, 6.0])), jump_decay=0.9)
    made = t.conform_bars(batch, symbols, rules)
    wanted = oracle.answer(batch, symbols, rules)
    assert oracle.differences(made, wanted) == []
    assert (made.verdict & t.PRICE_JUMP).any()
