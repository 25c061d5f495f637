"""What the fingerprint of bars costs, beside other digests of the same rows and SHA-256 alone.

`python -m bench.fingerprint [--rows N] [--symbols S]` with `tests` on the path. One core, best of a
few rounds. The peers do less: neither is independent of the order of rows, of chunks or of how a
frame came to be, neither can name the symbol and day that differ, and both read the nine content
columns and the time alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from seamline.schemas.columns import CONTENT_FIELDS, BarColumns
from seamline.schemas.fingerprint_diff import diff
from seamline.schemas.fingerprint_tree import tree_of, tree_of_rows

MINUTE_NS = 60_000_000_000
START_NS = 1_700_006_400 * 1_000_000_000
BLOCK_ROWS = 240
CANONICAL_BYTES = 83  # of a row
ROUNDS = 5
pa: Any = pyarrow


def bars(rows: int, symbols: int) -> tuple[list[str], Any, BarColumns]:
    """Minutes of each symbol, by symbol and then by time; some nulls."""
    rng = np.random.default_rng(4)
    each = rows // symbols
    columns = BarColumns.empty(each * symbols)
    for name in BarColumns.DTYPES:
        getattr(columns, name)[:] = 1
    for name in CONTENT_FIELDS:
        getattr(columns, name)[:] = rng.random(len(columns)) * 1_000
    columns.quote_volume[:: symbols - 1] = np.nan
    columns.trades[:: symbols - 1] = -1
    columns.open_time_ns[:] = np.tile(START_NS + np.arange(each) * MINUTE_NS, symbols)
    names = [f"C{number}/USDT" for number in range(symbols)]
    return names, np.repeat(np.arange(symbols, dtype=np.int32), each), columns


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def run(rows: int = 2_000_000, symbols: int = 200) -> dict[str, Any]:
    """Million rows a second of each way, and the time to compare two trees that differ."""
    names, sid, columns = bars(rows, symbols)
    rows, each = len(columns), len(columns) // symbols
    by_time = np.argsort(columns.open_time_ns, kind="stable")
    mixed, mixed_sid = columns.take(by_time), sid[by_time]
    parts = [
        (names[number], columns.take(slice(at, min(at + BLOCK_ROWS, end))))
        for number, end in enumerate(range(each, rows + 1, each))
        for at in range(end - each, end, BLOCK_ROWS)
    ]
    tree = tree_of_rows(names, sid, columns)
    assert tree == tree_of_rows(names, mixed_sid, mixed) == tree_of(parts)
    other = tree_of(parts[:-1])
    canonical = bytes(CANONICAL_BYTES * each)
    fields = ("open_time_ns", *CONTENT_FIELDS)
    frame = pd.DataFrame({name: getattr(columns, name) for name in fields})
    frame.insert(0, "symbol", np.array(names)[sid])
    ways: dict[str, Callable[[], object]] = {
        "fingerprint_by_symbol": lambda: tree_of_rows(names, sid, columns),
        "fingerprint_by_time": lambda: tree_of_rows(names, mixed_sid, mixed),
        "fingerprint_of_blocks": lambda: tree_of(parts),
        "sha256_of_as_many_bytes": lambda: [hashlib.sha256(canonical).digest() for _ in names],
        "pandas_hash_then_sha256": lambda: pandas_digest(frame),
        "arrow_ipc_then_sha256": lambda: arrow_digest(frame),
    }
    return {
        "rows": rows,
        "symbols": symbols,
        "leaves": sum(len(branch.days) for branch in tree.symbols),
        "million_rows_per_s": {
            name: round(rows / seconds(work) / 1e6, 2) for name, work in ways.items()
        },
        "diff_of_trees_ms": round(seconds(lambda: diff(tree, other)) * 1e3, 3),
    }


def pandas_digest(frame: pd.DataFrame) -> bytes:
    return hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().data).digest()


def arrow_digest(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getbuffer()).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--symbols", type=int, default=200)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(run(options.rows, options.symbols), indent=1) + "\n")


if __name__ == "__main__":
    main()
