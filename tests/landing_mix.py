"""A landing topic full of good bars with a known mix of faults in it.

Decides: which records are faulty and what that must come to; the expected numbers are counted while
the faults are made, by nothing of the product. Bars end a few minutes before now, minute by minute
over all symbols, so that a worker would have taken them as they came.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import Headers
from seamline.connectors.world import World
from seamline.schemas.codec import encode_bars, frame
from seamline.schemas.columns import BarColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.preset import Preset
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_PRODUCER,
    HEADER_WATERMARK_NS,
    partition_of,
    topic_name,
)
from third_party import ThirdParty

CHUNK = 20_000
GOOD = b"live:steady"


@dataclass(frozen=True, slots=True)
class Fault:
    """`rule`: what strict says of it. `value`: whether only the mode decides about it. `bar`:
    whether the bar can still be read."""

    rule: str
    count: int
    producer: bytes
    value: bool = False
    bar: bool = True


FAULTS = (
    Fault("ohlc_inconsistent", 37, b"live:crossed", value=True),
    Fault("negative_volume", 41, b"live:crossed", value=True),
    Fault("off_grid", 23, b"backfill"),
    Fault("non_finite", 19, b"script"),
    Fault("key_mismatch", 11, b"script"),
    Fault("undecodable", 13, b"broken", bar=False),
    Fault("schema_drift", 17, b"live:retyped", value=True),
    Fault("unknown_schema", 29, b"live:renamed", bar=False),
)


@dataclass(slots=True)
class Mix:
    """What was put there."""

    records: int = 0
    blocked: int = 0
    in_canary: int = 0
    bars: int = 0
    by: dict[str, Counter[str]] = field(default_factory=dict)
    missing: int = 0
    stale: int = 0

    def count(self, **labels: str) -> None:
        for by, label in labels.items():
            self.by.setdefault(by, Counter())[label] += 1


def land(
    world: World,
    preset: Preset,
    ids: Mapping[str, int],
    *,
    unknown_id: int,
    drifted: ThirdParty,
    records: int,
    now_ns: int,
    symbols: int = 50,
    faults: tuple[Fault, ...] = FAULTS,
    seed: int = 6,
) -> Mix:
    """Produce the mix to the live topic of a preset of minute bars; what it must come to."""
    names = [f"M{n}/USDT" for n in range(symbols)]
    minutes = records // symbols
    columns = _columns(preset, minutes, symbols, now_ns)
    every = [name for _ in range(minutes) for name in names]
    # No two faults of a symbol are neighbours, and the last minute is good: each fault of a value
    # makes its symbol stale for one minute.
    draw = random.Random(seed)
    cells = draw.sample(range(0, minutes - 1, 2), sum(fault.count for fault in faults))
    places = [minute * symbols + draw.randrange(symbols) for minute in cells]
    chosen = dict(zip(places, (f for f in faults for _ in range(f.count)), strict=True))
    _spoil(columns, chosen)
    values: list[bytes] = encode_bars(every, columns, ids["bar"])
    keys = [name.encode() for name in every]
    mix = Mix(records=len(every))
    headers: list[Headers] = [
        ((HEADER_FINGERPRINT, SCHEMAS["bar"].header), (HEADER_PRODUCER, GOOD))
    ] * len(every)
    for at, fault in chosen.items():
        headers[at] = (headers[at][0], (HEADER_PRODUCER, fault.producer))
        if fault.rule == "key_mismatch":
            # A key of the same partition: only the key is wrong.
            keys[at] = _key_beside(every[at], preset.partitions)
        elif fault.rule == "undecodable":
            values[at] = values[at][:20]
        elif fault.rule == "unknown_schema":
            values[at] = frame(unknown_id) + values[at][5:]
            headers[at] = headers[at][1:]
        elif fault.rule == "schema_drift":
            values[at] = drifted.value(every[at], int(columns.open_time_ns[at]), volume="12.5")
            headers[at] = headers[at][1:]
        numbers = {"unknown_schema": unknown_id, "schema_drift": drifted.schema_id}
        schema = f"id {numbers[fault.rule]}" if fault.rule in numbers else "bar v2"
        mix.count(
            rule=fault.rule, schema=schema, producer=fault.producer.decode(), symbol=every[at]
        )
        mix.blocked += 1
        mix.in_canary += not fault.value
        mix.bars += fault.bar
        mix.missing += fault.bar
        mix.stale += fault.value
    _produce(world, preset, every, keys, values, headers)
    return mix


def register_stranger(client: Any, subject: str) -> int:
    """The id of a schema that is no bar at all."""
    text = json.dumps(
        {"type": "record", "name": "stranger", "fields": [{"name": "a", "type": "string"}]}
    )
    return int(client.register(f"{subject}-stranger", text))


def _columns(preset: Preset, minutes: int, symbols: int, now_ns: int) -> BarColumns:
    last_ns = (now_ns // preset.interval_ns - 3) * preset.interval_ns
    first_ns = last_ns - (minutes - 1) * preset.interval_ns
    times = np.repeat(first_ns + np.arange(minutes) * preset.interval_ns, symbols)
    rows = minutes * symbols
    price: NDArray[np.float64] = (100 + np.arange(rows) % 7).astype(np.float64)
    half: NDArray[np.float64] = np.full(rows, 0.5)
    none = np.full(rows, -1, np.int64)
    return BarColumns(
        open_time_ns=times,
        open=price.copy(),
        high=np.add(price, 2 * half),
        low=np.subtract(price, 2 * half),
        close=np.add(price, half),
        volume=6 * half,
        quote_volume=price.copy(),
        trades=none,
        first_trade_id=none.copy(),
        last_trade_id=none.copy(),
        source=np.full(rows, 1, np.uint8),
        closed=np.ones(rows, bool),
        received_time_ns=times + preset.interval_ns,
    )


def _spoil(columns: BarColumns, chosen: Mapping[int, Fault]) -> None:
    for at, fault in chosen.items():
        if fault.rule == "ohlc_inconsistent":
            columns.high[at], columns.low[at] = columns.low[at], columns.high[at]
        elif fault.rule == "negative_volume":
            columns.volume[at] = -1.0
        elif fault.rule == "off_grid":
            columns.open_time_ns[at] += 14_000_000_000
        elif fault.rule == "non_finite":
            columns.close[at] = np.nan


def _key_beside(symbol: str, partitions: int) -> bytes:
    wanted = partition_of(symbol, partitions)
    names = (f"K{n}/USDT" for n in range(1_000))
    return next(name.encode() for name in names if partition_of(name, partitions) == wanted)


def _produce(
    world: World,
    preset: Preset,
    symbols: list[str],
    keys: list[bytes],
    values: list[bytes],
    headers: list[Headers],
) -> None:
    """In chunks of whole transactions, a heartbeat after each in every partition."""
    topic = topic_name(preset.id, "live")
    partitions = np.array([partition_of(symbol, preset.partitions) for symbol in symbols])
    beat = ((HEADER_WATERMARK_NS, b"0"), (HEADER_PRODUCER, GOOD))
    with TransactionalProducer(world.cluster, f"mix-{preset.id}") as producer:
        producer.init()
        for first in range(0, len(values), CHUNK):
            producer.begin()
            for number in range(preset.partitions):
                here = np.flatnonzero(partitions[first : first + CHUNK] == number) + first
                producer.send_many(
                    topic,
                    number,
                    [keys[at] for at in here],
                    [values[at] for at in here],
                    each_headers=[headers[at] for at in here],
                )
                producer.send_many(topic, number, [None], [None], headers=beat)
            producer.commit()
