"""Merging a million intervals: ours beside the loop over sorted pairs, and beside polars.

Intervals of 1 to 19 one-minute bars over 57 years, shuffled and in order. The peers are given
intervals that are on the grid already, so they only sort and join; ours shrinks each one first. All
three must give the same answer. The best of several runs counts; ours also in time of the
processor, which a busy machine does not lengthen as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from seamline.schemas.columns import I8
from seamline.streams.kernel.coverage import merge_coverage

INTERVALS = 1_000_000
MINUTE_NS = 60 * 10**9
RUNS = 5


def run() -> dict[str, Any]:
    """Milliseconds for each way and order, and how many times faster than each peer."""
    found: dict[str, Any] = {"intervals": INTERVALS}
    for order in ("shuffled", "in order"):
        have = intervals(order)
        ours, merged, cpu = best(by_us, have)
        told: dict[str, Any] = {"merged": len(merged), "ours_ms": ours, "ours_cpu_ms": cpu}
        for name, peer, runs in (("python", by_loop, 2), ("polars", by_polars, RUNS)):
            took, theirs, _ = best(peer, have, runs)
            assert np.array_equal(theirs, merged), f"{name} differs"
            told |= {f"{name}_ms": took, f"times_{name}": round(took / ours, 1)}
        found[order] = told
    return found


def by_us(have: I8) -> I8:
    return merge_coverage(have, interval_ns=MINUTE_NS).spans


def intervals(order: str) -> I8:
    random = np.random.default_rng(20)
    starts = random.integers(0, 30_000_000, INTERVALS) * MINUTE_NS
    if order == "in order":
        starts.sort()
    lengths = random.integers(1, 20, INTERVALS) * MINUTE_NS
    return np.stack((starts, starts + lengths), axis=1)


def by_loop(have: I8) -> I8:
    """The textbook: sort the pairs, join each to the last."""
    merged: list[list[int]] = []
    for start, end in sorted(have.tolist()):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return np.array(merged, np.int64)


def by_polars(have: I8) -> I8:
    """The same with sort, running maximum and a group for each piece."""
    import polars as pl

    start, end = pl.col("start"), pl.col("end")
    return (
        pl.from_numpy(have, schema=["start", "end"])
        .lazy()
        .sort("start")
        .with_columns(end.cum_max())
        .with_columns((start > end.shift(1)).fill_null(True).cum_sum().alias("piece"))
        .group_by("piece")
        .agg(start.min(), end.max())
        .sort("piece")
        .select("start", "end")
        .collect()
        .to_numpy()
    )


def best(merge: Callable[[I8], I8], have: I8, runs: int = RUNS) -> tuple[float, I8, float]:
    took, cpu = [], []
    for _ in range(runs):
        began, began_cpu = time.perf_counter(), time.process_time()
        answer = merge(have)
        took.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return round(min(took) * 1e3, 1), answer, round(min(cpu) * 1e3, 1)
