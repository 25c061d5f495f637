"""What the batch kernel of bars costs: nanoseconds per row, a micro-batch, and polars beside it.

`python -m bench.temporal [--rows N] [--symbols S] [--runs R]` with `tests` on the path. One seeded
market (0.2 % of the bars missing, 0.5 % repeated, 2 % late, some broken values), every rule on,
one thread. polars does the same job on the same columns in the same run, with its default threads
and with one; its answer must be equal before its time counts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bar_market import STEP_NS, Faults, market
from seamline.streams.kernel.temporal import BarBatch, BarRules, Conformed, conform_bars

PEER = Path(__file__).with_name("temporal_peer.py")
RULES = BarRules(STEP_NS, jump_sigmas=8.0)
COLUMNS = ("symbol", "open", "high", "low", "close", "volume")


def seconds(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Best and median of `runs`; what compiles has run before."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took), statistics.median(took)


def peer(
    columns: Path, made: Conformed, symbols: int, runs: int, threads: str | None
) -> dict[str, Any]:
    """polars in a process of its own. Raises ValueError where its answer is another one."""
    environment = {**os.environ, **({"POLARS_MAX_THREADS": threads} if threads else {})}
    answer = columns.with_name("answer.npz")
    done = subprocess.run(
        [
            *(sys.executable, str(PEER), str(columns), str(answer), str(symbols)),
            *(str(STEP_NS), str(RULES.jump_sigmas), str(runs)),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    with np.load(answer) as found:
        for name in found.files:
            if not np.array_equal(found[name], getattr(made, name)):
                raise ValueError(f"polars and the kernel differ in {name}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def save(batch: BarBatch, path: Path) -> None:
    np.savez(path, time=batch.open_time_ns, **{name: getattr(batch, name) for name in COLUMNS})


def run(rows: int = 1_000_000, symbols: int = 200, runs: int = 15) -> dict[str, Any]:
    """The kernel, a micro-batch, the peer with its default threads and with one."""
    batch = market(1, rows, symbols, Faults(broken=0.0001))
    micro = market(2, 1_000, symbols, Faults(broken=0.0001))
    made = conform_bars(batch, symbols, RULES)
    conform_bars(micro, symbols, RULES)
    n = len(batch.symbol)
    best, median = seconds(lambda: conform_bars(batch, symbols, RULES), runs)
    micro_best, micro_median = seconds(lambda: conform_bars(micro, symbols, RULES), 50 * runs)
    with tempfile.TemporaryDirectory() as directory:
        columns = Path(directory) / "columns.npz"
        save(batch, columns)
        peers = [peer(columns, made, symbols, runs, threads) for threads in (None, "1")]
    again, _ = seconds(lambda: conform_bars(batch, symbols, RULES), runs)
    best = min(best, again)
    return {
        "rows": n,
        "symbols": symbols,
        "kept": len(made.rows),
        "gaps": len(made.gaps),
        "kernel_ns_per_row": round(best * 1e9 / n, 1),
        "kernel_median_ns_per_row": round(median * 1e9 / n, 1),
        "micro_batch_rows": len(micro.symbol),
        "micro_batch_us": round(micro_best * 1e6, 1),
        "micro_batch_median_us": round(micro_median * 1e6, 1),
        "polars": [
            {
                "threads": found["threads"],
                "ns_per_row": round(found["best_s"] * 1e9 / n, 1),
                "median_ns_per_row": round(found["median_s"] * 1e9 / n, 1),
            }
            for found in peers
        ],
        "times_faster_than_the_better_polars": round(
            min(found["best_s"] for found in peers) / best, 1
        ),
        "by_medians": round(min(found["median_s"] for found in peers) / median, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    answer = run(options.rows, options.symbols, options.runs)
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
