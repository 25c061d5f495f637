"""What the batch kernel of bars costs: nanoseconds per row, a micro-batch, and polars beside it.

`python -m bench.temporal [--rows N] [--symbols S] [--runs R]` with `tests` on the path. One seeded
market (0.2 % of the bars missing, 0.5 % repeated, 2 % late, some broken values), every rule on,
one thread. polars does the same job on the same columns in the same run, with its default threads
and with one; its answer must be equal before its time counts. Beside the time on the wall stands
the time of the processor, all threads together, which other work on the machine hardly moves.
The kernel is timed twice: as the C library's allocator is by itself, which may give freed memory
back and fetch it again page by page, and told to keep it, as polars' own allocator does. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
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
TIMES = {"best": "best_s", "median": "median_s", "best_of_processor": "cpu_s"}
COLUMNS = ("symbol", "open", "high", "low", "close", "volume")
# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT = -1, -3, 1 << 30


def keep_freed_memory() -> None:
    """Nothing to do where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def seconds(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Best and median of `runs` on the wall, best of the processor; all is compiled before."""
    took, busy = [], []
    for _ in range(runs):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        took.append(time.perf_counter() - began)
        busy.append(time.process_time() - cpu)
    return {"best_s": min(took), "median_s": statistics.median(took), "cpu_s": min(busy)}


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
    plain = seconds(lambda: conform_bars(batch, symbols, RULES), runs)
    keep_freed_memory()
    kernel = seconds(lambda: conform_bars(batch, symbols, RULES), runs)
    few = seconds(lambda: conform_bars(micro, symbols, RULES), 50 * runs)
    with tempfile.TemporaryDirectory() as directory:
        columns = Path(directory) / "columns.npz"
        save(batch, columns)
        peers = [peer(columns, made, symbols, runs, threads) for threads in (None, "1")]
    return {
        "rows": n,
        "symbols": symbols,
        "kept": len(made.rows),
        "gaps": len(made.gaps),
        "kernel_ns_per_row": per_row(kernel, n),
        "kernel_ns_per_row_by_default_allocator": per_row(plain, n),
        "polars_ns_per_row": [{"threads": p["threads"], **per_row(p, n)} for p in peers],
        "times_faster_than_the_better_polars": times_faster(peers, kernel),
        "times_faster_by_default_allocator": times_faster(peers, plain),
        "micro_batch_rows": len(micro.symbol),
        "micro_batch_us": {name: round(few[key] * 1e6, 1) for name, key in TIMES.items()},
    }


def times_faster(peers: list[dict[str, Any]], kernel: dict[str, float]) -> dict[str, float]:
    """Than the better of the peers, figure by figure."""
    return {name: round(min(p[key] for p in peers) / kernel[key], 1) for name, key in TIMES.items()}


def per_row(took: dict[str, Any], rows: int) -> dict[str, float]:
    return {name: round(took[key] * 1e9 / rows, 1) for name, key in TIMES.items()}


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
