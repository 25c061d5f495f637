"""The same seeded work for compiled kernels and for the same sources as plain Python.

Decides: what is worked on. Each run answers with a digest over every bit of its result, so that two
processes can compare them: floats by their bits (every NaN included), integers by value. Run as a
program it prints the digests of all runs as JSON. Must not know: which of the two processes it is
in.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

import trade_bytes
from bar_strategies import MINUTE_NS
from machine_scripts import Writer, play, setup_of
from seamline.schemas.codec import (
    BarDecoder,
    ConformedDecoder,
    encode_bars,
    encode_conformed,
    schema_ids,
)
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.codec_trades import TradeDecoder
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.errors import ContractError
from seamline.schemas.fingerprint import block_digest
from seamline.streams.kernel.level import Rows
from seamline.streams.kernel.rollup import PARTIALS_MAX, exact_sum
from seamline.streams.kernel.temporal import BarBatch, BarRules, conform_bars
from seamline.streams.kernel.validate import check, disorder

MACHINE_SEEDS: Final = range(8)
DAY_NS: Final = 1_440 * MINUTE_NS
I64: Final = np.iinfo(np.int64)
NASTY: Final = (
    *(
        0.0,
        -0.0,
        float("nan"),
        float("inf"),
        -float("inf"),
        5e-324,
        -5e-324,
        2.2250738585072014e-308,
    ),
    *(1.7976931348623157e308, -1.7976931348623157e308, 1.0, -1.0, 0.1, 1e16, -1e16, 1 + 2**-52),
)
SIGNALLING_NAN: Final = struct.pack("<Q", 0x7FF0000000000001)


def machines() -> str:
    """Everything that machines write for random scripts, read in pieces, with restarts between."""
    sha = hashlib.sha256()
    for seed in MACHINE_SEEDS:
        rng = random.Random(seed)
        setup = setup_of(rng)
        events = Writer(rng, setup).script(40)
        with TemporaryDirectory() as directory:
            world = play(setup, events, Path(directory), random.Random(seed + 1))
            for topic in sorted(world.log.topics):
                for record in world.log.topics[topic]:
                    said = (topic, record.offset, record.key, record.value, list(record.headers))
                    sha.update(repr(said).encode())
            world.machine.close()
    return sha.hexdigest()


def finite_lists(count: int, seed: int = 5) -> list[list[float]]:
    """Sums in which rounding shows: magnitudes that swamp each other, cancellation, half-way cases,
    subnormal numbers; none whose sum is infinite."""
    rng = random.Random(seed)
    lists: list[list[float]] = [[], [0.0], [-0.0], [-0.0, -0.0], [5e-324] * 3, [1e16, 1.0, -1e16]]
    for _ in range(count):
        kind = rng.randrange(4)
        size = rng.randrange(1, 60)
        if kind == 0:
            values = [rng.uniform(-1, 1) * 2.0 ** rng.randrange(-1070, 1000) for _ in range(size)]
        elif kind == 1:
            half = [rng.uniform(0, 1e18) for _ in range(size)]
            values = [*half, *(-value for value in half), rng.random()]
        elif kind == 2:
            # A tie of the last bit, and something far smaller that decides it.
            values = [1.0, 2.0**-53, rng.choice((1, -1)) * 2.0 ** -rng.randrange(54, 1070)]
            values += [rng.choice((0.0, 2.0**-52, -(2.0**-53))) for _ in range(rng.randrange(3))]
        else:
            values = [round(rng.uniform(0, 1e4), 2) for _ in range(size)]
        rng.shuffle(values)
        lists.append(values)
    return lists


def summed(values: Sequence[float]) -> float:
    return float(exact_sum(np.array(values, np.float64), np.empty(PARTIALS_MAX)))


def sums() -> str:
    return digest(np.array([summed(values) for values in finite_lists(2_000)]))


def bar_columns(rng: np.random.Generator, rows: int) -> BarColumns:
    """Values that nobody would send, and some that everybody sends."""

    def floats() -> Any:
        return np.where(rng.random(rows) < 0.3, rng.choice(NASTY, rows), rng.normal(50, 20, rows))

    def ids() -> Any:
        edge = rng.choice(np.array([-1, -1, 0, 1, I64.max, I64.max - 1]), rows)
        return np.where(rng.random(rows) < 0.3, edge, rng.integers(0, 90, rows))

    edges = np.array([-(2**63) // 10**6 + 1, 2**63 // 10**6 - 1, 0, -1]) * 10**6
    grid = rng.integers(-50, 50, rows) * MINUTE_NS + rng.choice([0, 0, 10**6], rows)
    return BarColumns(
        open_time_ns=np.where(rng.random(rows) < 0.2, rng.choice(edges, rows), grid),
        open=floats(),
        high=floats(),
        low=floats(),
        close=floats(),
        volume=floats(),
        quote_volume=floats(),
        trades=ids(),
        first_trade_id=ids(),
        last_trade_id=ids(),
        source=rng.integers(0, 4, rows).astype(np.uint8),
        closed=rng.random(rows) < 0.8,
        received_time_ns=rng.integers(0, 10**15, rows) * 1_000,
    ).check()


def rules() -> str:
    """Value rules, cells and disorder of such bars, on grids with and without an origin."""
    rng = np.random.default_rng(7)
    parts: list[Any] = []
    for interval, origin in ((MINUTE_NS, 0), (7 * DAY_NS, 4 * DAY_NS), (DAY_NS, -1), (1, 0)):
        bars = bar_columns(rng, 1_500)
        rows = Rows.empty(len(bars))
        found = np.zeros(len(bars), np.int64)
        columns = (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.quote_volume)
        ids = (bars.trades, bars.first_trade_id, bars.last_trade_id)
        latest = 20 * MINUTE_NS
        check(
            *(
                bars.open_time_ns,
                columns,
                ids,
                interval,
                origin,
                latest,
                rows.cols,
                rows.vals,
                found,
            )
        )
        newest, late = np.full(3, I64.min), np.zeros(3, np.int64)
        disorder(rng.integers(0, 3, len(bars)), bars.open_time_ns, newest, late)
        parts += [rows.cols, rows.vals, found, newest, late]
    return digest(*parts)


def damaged(rng: random.Random, value: bytes) -> bytes:
    """Cut off, changed in some bytes, longer, or with a NaN that signals in the middle."""
    at = rng.randrange(len(value))
    kind = rng.randrange(5)
    if kind == 0:
        return value[:at]
    if kind == 1:
        return value + bytes(rng.randrange(1, 4))
    if kind == 2:
        return value[:at] + SIGNALLING_NAN + value[at + 8 :]
    changed = bytearray(value)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def codec() -> str:
    """Bars and blocks there and back, and what is said of thousands of damaged ones."""
    rng, draw = np.random.default_rng(9), random.Random(9)
    sha = hashlib.sha256()
    bars = bar_columns(rng, 300)
    symbols = [draw.choice(("BTC/USDT", "ÜBER/€", "A", "B" * 64)) for _ in range(len(bars))]
    values = encode_bars(symbols, bars, 7)
    harmed = [damaged(draw, value) for value in values for _ in range(4)]
    decoder = BarDecoder()
    decoded = decoder.decode([*values, *harmed])
    sha.update(b"".join(values) + repr(decoder.symbols).encode())
    for name in BarColumns.DTYPES:
        sha.update(getattr(decoded.columns, name).tobytes())
    sha.update(decoded.code.tobytes() + decoded.sid.tobytes() + decoded.explicit_null.tobytes())
    sha.update(schema_ids([*values, *harmed]).tobytes())
    conformed = ConformedColumns.of_landing(bars)
    numbers = decoded.sid[: len(bars)]
    logged = encode_conformed(decoder.table.encoded, numbers, conformed, 8)
    again = ConformedDecoder().decode([*logged, *(damaged(draw, value) for value in logged)])
    for name in ConformedColumns.DTYPES:
        sha.update(getattr(again.columns, name).tobytes())
    sha.update(b"".join(logged) + again.code.tobytes())
    for value in blocks(rng, 12):
        for each in (value, *(damaged(draw, value) for _ in range(60))):
            sha.update(said_of_a_block(each))
    return sha.hexdigest()


def blocks(rng: np.random.Generator, count: int) -> list[bytes]:
    made = []
    for _ in range(count):
        columns = ConformedColumns.of_landing(bar_columns(rng, int(rng.integers(0, 30))))
        cells = np.sort(rng.permutation(240)[: len(columns)]).astype(np.int64)
        columns.open_time_ns[:] = cells * MINUTE_NS
        block = Block(
            symbol="BTC/USDT",
            block_start_ns=0,
            block_end_ns=240 * MINUTE_NS,
            interval_ns=MINUTE_NS,
            range_start_ns=0,
            complete_through_ns=None,
            columns=columns,
            digest=block_digest("BTC/USDT", columns),
            landing=True,
        )
        made.append(encode_block(block, 11))
    return made


def said_of_a_block(value: bytes) -> bytes:
    try:
        block = decode_block(value)
    except ContractError as refused:
        return repr(refused.fields).encode()
    rows = [getattr(block.columns, name).tobytes() for name in ConformedColumns.DTYPES]
    facts = (block.symbol, block.block_start_ns, block.range_start_ns, block.complete_through_ns)
    return repr((facts, block.digest, block.sequence)).encode() + b"".join(rows)


def batches() -> str:
    """Batches of bars through the conformance kernel."""
    rng = np.random.default_rng(13)
    parts: list[Any] = []
    for number in range(60):
        rows, symbols = int(rng.integers(0, 120)), int(rng.integers(1, 5))
        bars = bar_columns(rng, rows)
        far = rng.choice(np.array([I64.min, I64.max, I64.min + 1, I64.max - 1]), rows)
        near = rng.integers(-9, 9, rows) * 60 + rng.choice([0, 0, 0, 7], rows)
        none = np.zeros(0)
        prices = number % 5 != 0
        batch = BarBatch(
            symbol=rng.integers(0, symbols, rows).astype(np.int32),
            open_time_ns=np.where(rng.random(rows) < 0.02 * (number % 3), far, near),
            open=bars.open if prices else none,
            high=bars.high if prices else none,
            low=bars.low if prices else none,
            close=np.abs(rng.normal(100, 1, rows)) if prices else none,
            volume=bars.volume if prices else none,
            optional=rng.choice(np.array([np.nan, 1.0, 2.0, -0.0]), (4 * (number % 2), rows)),
            other=rng.integers(0, 2, rows * (number % 4 == 1)),
            authority=rng.integers(0, 4, rows * (number % 3 == 1)).astype(np.uint8),
        )
        sessions = np.array([[-400, -100], [0, 330]], np.int64) if number % 4 == 2 else None
        asked = BarRules(
            interval_ns=None if number % 7 == 3 else 60,
            origin_ns=int(rng.integers(-100, 100)),
            window_ns=(-600, 600) if number % 3 else None,
            sessions_ns=sessions,
            jump_sigmas=3.0 if prices and number % 2 else None,
        )
        made = conform_bars(batch, symbols, asked)
        parts += [np.asarray(getattr(made, field.name)) for field in fields(made)]
    return digest(*parts)


def trades() -> str:
    """Right ones, wrong ones and bytes that are none, of both versions."""
    rng, decoder = random.Random(11), TradeDecoder()
    values = [trade_bytes.any_trade(rng, 1) for _ in range(2_000)]
    parts = []
    for version in (1, 2):
        found = decoder.decode(values, version)
        parts += [found.sid, found.trade_id, found.time_ns, found.received_time_ns]
        parts += [found.price, found.size, found.ok]
    return digest(*parts)


RUNS: Final[dict[str, Callable[[], str]]] = {
    run.__name__: run for run in (machines, sums, rules, codec, batches, trades)
}


def digest(*arrays: Any) -> str:
    """Over types, shapes and bits."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    json.dump({name: run() for name, run in RUNS.items()}, sys.stdout)
