"""What a rehearsal costs: flat bars or trades of a retained topic, read and judged by one process.

`python -m bench.rehearsal [--rows N]` with `tests` on the path and a world in the environment (or
the embedded stack running). Prints one JSON object, of bars and of trades: records per second of
the whole run and microseconds of this process's CPU for each record, the client's own threads
included, beside a read of the same topic that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from landing_mix import CHUNK, FAULTS, land, register_stranger
from preset_making import FreshPreset, make_preset, make_trades_preset
from seamline.connectors.cycle_search import cycles_searched_seldom
from seamline.connectors.governance import rehearsing
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.world import World
from seamline.schemas.contract import BUNDLE_SHA256, SCHEMAS
from seamline.schemas.records import encode_record
from seamline.schemas.times import NS_PER_US
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_PRODUCER,
    partition_of,
    subject_of,
)
from seamline.streams.kernel.intake import NAMES
from seamline.streams.kernel.trade_rules import NAMES as TRADE_NAMES
from third_party import ThirdParty

HOUR_NS = 3_600_000_000_000


def measured(rows: int, work: Callable[[], Any]) -> dict[str, Any]:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "records": rows,
        "took_s": round(took, 2),
        "records_per_s": round(rows / took),
        "cpu_us_per_record": round(cpu * 1e6 / rows, 2),
        "records_per_core_s": round(rows / cpu),
    }


def run(world: World, rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        fresh = make_preset(world, Path(directory))
    topic = fresh.topic("live")
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    with ThirdParty(world, fresh.preset, retype={"volume": "string"}) as third:
        land(
            world,
            fresh.preset,
            fresh.ids,
            unknown_id=register_stranger(client, subject_of(topic)),
            drifted=third,
            records=rows,
            now_ns=time.time_ns(),
            faults=FAULTS,
        )
    client.close()
    return compared(fresh, rows)


def run_trades(world: World, rows: int) -> dict[str, Any]:
    """Trades of 50 symbols; of each thousand one has no price."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = make_trades_preset(world, Path(directory), partitions=4)
    symbols = [f"M{number}/USDT" for number in range(50)]
    partitions = [partition_of(symbol, fresh.preset.partitions) for symbol in symbols]
    first_ns = time.time_ns() // NS_PER_US * NS_PER_US - HOUR_NS
    headers = ((HEADER_FINGERPRINT, SCHEMAS["trade"].header), (HEADER_PRODUCER, b"live:steady"))
    with TransactionalProducer(world.cluster, f"trades-{fresh.preset.id}") as producer:
        producer.init()
        for start in range(0, rows, CHUNK):
            producer.begin()
            for number in range(fresh.preset.partitions):
                here = [
                    at
                    for at in range(start, min(start + CHUNK, rows))
                    if partitions[at % len(symbols)] == number
                ]
                producer.send_many(
                    fresh.topic("live"),
                    number,
                    [symbols[at % len(symbols)].encode() for at in here],
                    [_trade(symbols, at, first_ns, fresh.ids["trade"]) for at in here],
                    headers=headers,
                )
            producer.commit()
    return compared(fresh, rows)


def _trade(symbols: Sequence[str], at: int, first_ns: int, schema_id: int) -> bytes:
    fields = {
        "symbol": symbols[at % len(symbols)],
        "trade_id": at // len(symbols),
        "time_ns": first_ns + at * NS_PER_US,
        "price": 0.0 if at % 1_000 == 0 else 100.0 + at % 7,
        "size": 0.5,
        "side": "buy",
        "received_time_ns": first_ns,
    }
    return encode_record("trade", fields, schema_id)


def compared(fresh: FreshPreset, rows: int) -> dict[str, Any]:
    """A rehearsal of the live topic beside a read of it."""
    world, topic = fresh.world, fresh.topic("live")
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    tps = [(topic, number) for number in range(fresh.preset.partitions)]
    fences = Admin(world.cluster).end_offsets(tps)
    now_ns = time.time_ns()
    names = TRADE_NAMES if fresh.preset.kind == rehearsing.TRADES else NAMES
    plan = rehearsing.Plan(
        subject=subject_of(topic),
        preset=fresh.preset,
        since="2h",
        since_ns=now_ns - 2 * HOUR_NS,
        now_ns=now_ns,
        bundle_sha256=BUNDLE_SHA256,
    )
    resolve = Meanings(client, names)
    try:
        rehearsing.rehearse(world.cluster, plan, resolve)  # compiles
        ours = measured(rows, lambda: rehearsing.rehearse(world.cluster, plan, resolve))
    finally:
        client.close()
    with cycles_searched_seldom():  # as a rehearsal reads
        bare = measured(
            rows, lambda: sum(map(len, read_range(world.cluster, dict.fromkeys(tps, 0), fences)))
        )
    return {"rehearsal": ours, "bare_read": bare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    options = parser.parse_args()
    world = World.resolve(os.environ)
    answer = {"bars": run(world, options.rows), "trades": run_trades(world, options.rows)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
