"""The peer of the batch kernel: the same job in polars, written as well as we know how.

`python temporal_peer.py COLUMNS.npz ANSWER.npz SYMBOLS STEP SIGMAS RUNS` conforms the columns,
writes its answer and prints one JSON object: threads, best and median seconds, those of the
processor. How many threads is polars' own setting, `POLARS_MAX_THREADS`, read when it is imported;
hence a process of its own.

The job: for each row the value rules, order, grid and duplicates; the standing rows by (time,
symbol) with their revisions; the log; gaps; price jumps. What makes it fast: one integer is sorted
instead of two columns, and only rows whose identity repeats are compared by content. No sources are
ranked and no optional fields merged, for which the kernel is ready in the measured run all the
same. The bits are numbers here: this file imports polars and nothing of the product.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import polars as pl

PRICES = ("open", "high", "low", "close")
CONTENT = (*PRICES, "volume")
RETURNS_MIN = 16
OFF_GRID, OUT_OF_ORDER, EQUAL, CONFLICT, DROPPED = 1, 2, 4, 8, 16
INCONSISTENT, NEGATIVE, NON_POSITIVE, NON_FINITE, JUMP, REPEATED = 128, 256, 512, 1024, 2048, 4096


def bit(condition: pl.Expr, value: int) -> pl.Expr:
    return condition.cast(pl.Int32) * value


def verdicts(frame: pl.DataFrame, step: int) -> pl.Series:
    """In the order of arrival: what each row shows by itself, and beside its symbol's newest."""
    o, h, low, c, v = (pl.col(name) for name in CONTENT)
    newest = pl.col("time").cum_max().over("symbol")
    # Nearly all rows are fine; a NaN is larger than infinity here.
    upper = pl.lit(float("inf"))
    order = (low > 0, low <= o, o <= h, low <= c, c <= h, h < upper, v >= 0, v < upper)
    found = frame.select(
        fine=pl.all_horizontal(order),
        verdict=bit(pl.col("time") < newest, OUT_OF_ORDER)
        | bit(pl.col("time") % step != 0, OFF_GRID | DROPPED),
    )
    rows = (~found["fine"]).arg_true()
    wrong = frame.select(CONTENT)[rows].with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in CONTENT
    )
    crossed = (h < low) | (o < low) | (o > h) | (c < low) | (c > h)
    bits = wrong.select(
        bit(pl.any_horizontal(pl.all().is_null()), NON_FINITE)
        | bit(crossed.fill_null(value=False), INCONSISTENT)
        | bit(pl.any_horizontal(pl.col(*PRICES) <= 0).fill_null(value=False), NON_POSITIVE)
        | bit((v < 0).fill_null(value=False), NEGATIVE)
    ).to_series()
    return marked(found["verdict"], rows, bits)


def ordered(rows: pl.Series, keys: pl.Series) -> pl.Series:
    """Rows by key, equal keys by row. Both in one integer: that sorts twice as fast as a frame."""
    width = 1 << 32
    return ((keys - keys.min()) * width + rows.cast(pl.Int64)).sort() % width


def identities(frame: pl.DataFrame, symbols: int, step: int) -> pl.DataFrame:
    """Rows on the grid by (time, symbol, arrival)."""
    cell = pl.col("time") // step
    keys = frame.select(cell * symbols + pl.col("symbol").cast(pl.Int64)).to_series()
    on_grid = (frame["time"] % step == 0).arg_true()
    rows = ordered(on_grid, keys.gather(on_grid))
    key = keys.gather(rows)
    again = (key == key.shift(1)).fill_null(value=False)
    return pl.DataFrame({"row": rows, "key": key, "again": again})


def repeats(frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of identities that came again, and what became of each."""
    found = rows.filter(pl.col("again") | pl.col("again").shift(-1, fill_value=False))
    content = frame.select(CONTENT)[found["row"]]
    same = content.select(
        same=pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in CONTENT)
    )["same"]
    return (
        found.with_columns(
            equal=pl.col("again") & same,
            conflict=pl.col("again") & ~same,
        )
        .with_columns(revision=pl.col("conflict").cast(pl.Int32).cum_sum().over("key"))
        .with_columns(
            last=pl.col("revision") == pl.col("revision").max().over("key"),
            bits=bit(pl.col("equal").any().over("key"), EQUAL)
            | bit(pl.col("conflict").any().over("key"), CONFLICT),
        )
        .with_columns(
            bits=pl.col("bits")
            | bit(pl.col("equal"), REPEATED | DROPPED)
            | bit(~pl.col("last"), DROPPED)
        )
    )


def by_symbol(frame: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    """The standing rows by (symbol, time)."""
    rank = pl.arange(len(places), dtype=pl.Int64, eager=True)
    rows = places.gather(ordered(rank, frame["symbol"].gather(places).cast(pl.Int64)))
    return frame.select("symbol", "time", "close")[rows].with_columns(row=rows)


def jumps(stands: pl.DataFrame, sigmas: float) -> pl.Series:
    """The rows whose close leaves its band."""
    first = pl.col("symbol") != pl.col("symbol").shift(1)
    change = pl.col("close") / pl.col("close").shift(1) - 1
    band = pl.col("square").ewm_mean(
        alpha=1 - 0.94, adjust=True, min_samples=RETURNS_MIN, ignore_nulls=True
    )
    return (
        stands.filter(pl.col("close").is_finite() & (pl.col("close") > 0))
        .select("row", "symbol", square=pl.when(~first).then(change * change))
        .with_columns(band=band.shift(1).over("symbol"))
        .filter((pl.col("band") > 0) & (pl.col("square") > sigmas**2 * pl.col("band")))["row"]
    )


def gaps(stands: pl.DataFrame, step: int) -> pl.DataFrame:
    again = pl.col("symbol") == pl.col("symbol").shift(1)
    return (
        stands.lazy()
        .select("symbol", "time", again=again, before=pl.col("time").shift(1))
        .filter(pl.col("again") & (pl.col("time") - pl.col("before") > step))
        .select("symbol", start=pl.col("before") + step, end="time")
        .collect()
    )


def conform(frame: pl.DataFrame, symbols: int, step: int, sigmas: float) -> dict[str, Any]:
    verdict = verdicts(frame, step)
    rows = identities(frame, symbols, step)
    again = repeats(frame, rows)
    verdict = marked(verdict, again["row"], again["bits"])
    places = rows["row"]
    places = places.filter((verdict.gather(places) & DROPPED) == 0)
    stands = by_symbol(frame, places)
    revision = pl.zeros(len(frame), dtype=pl.Int32, eager=True)
    revision = revision.scatter(again["row"], again["revision"])
    jumped = jumps(stands, sigmas)
    verdict = marked(verdict, jumped, pl.repeat(JUMP, len(jumped), dtype=pl.Int32, eager=True))
    log = ((verdict & (OFF_GRID | REPEATED)) == 0).arg_true()
    return {
        "rows": places,
        "revision": revision.gather(places),
        "log_rows": log,
        "log_revision": revision.gather(log),
        "verdict": verdict,
        "gaps": gaps(stands, step),
    }


def marked(verdict: pl.Series, rows: pl.Series, bits: pl.Series) -> pl.Series:
    """`verdict` with bits set on some rows."""
    return verdict.scatter(rows, verdict.gather(rows) | bits)


def main() -> None:
    columns, answer, *numbers = sys.argv[1:]
    symbols, step, runs = int(numbers[0]), int(numbers[1]), int(numbers[3])
    with np.load(columns) as found:
        frame = pl.DataFrame({name: found[name] for name in found.files})
    took, busy = [], []
    for _ in range(runs):
        began, cpu = time.perf_counter(), time.process_time()
        made = conform(frame, symbols, step, float(numbers[2]))
        took.append(time.perf_counter() - began)
        busy.append(time.process_time() - cpu)
    np.savez(answer, **{name: found.to_numpy() for name, found in made.items()})
    summary = {
        "threads": pl.thread_pool_size(),
        "best_s": min(took),
        "median_s": statistics.median(took),
        "cpu_s": min(busy),
    }
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
