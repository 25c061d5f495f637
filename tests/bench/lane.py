"""What the lane and the owner cost: a pure copy in exactly-once transactions, and stock Faust.

`python -m bench.lane [--rows N] [--partitions P]` with `tests` on the path and a world in the
environment (or the embedded stack running). Prints one JSON object: rows per second from the first
committed row to the last, the time to it, and the memory of the worker process. Both sides read the
same landed records on the same broker, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from integration.plain_preset import fresh
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import topic_name

TESTS = Path(__file__).parent.parent
VALUE_BYTES = 110
LOOK_S = 0.02


def feed(world: World, preset: Preset, topic: str, rows: int) -> None:
    producer = IdempotentProducer(world.cluster)
    pad = b"x" * VALUE_BYTES
    for number in range(rows):
        producer.send(topic, b"SYM%d" % (number % 200), pad)
    producer.close()


def measure(
    world: World, command: Sequence[str], topic: str, partitions: int, rows: int, limit_s: float
) -> dict[str, Any]:
    """Start a process, watch the target topic grow by `rows`, end the process."""
    admin = Admin(world.cluster)
    tps = [(topic, n) for n in range(partitions)]
    environment = {**os.environ, **world.environment(), "PYTHONPATH": str(TESTS)}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    first = first_rows = 0.0
    peak = cpu = 0.0
    done = 0
    watched: Any = psutil.Process(process.pid)  # type: ignore[no-untyped-call]
    try:
        while True:
            try:
                done = sum(admin.end_offsets(tps).values())
            except TransportError as error:
                if not error.retriable:  # a topic just made may change its leader once
                    raise
            now = time.perf_counter()
            if done and not first:
                first, first_rows = now, done
            peak = max(peak, watched.memory_info().rss)
            times = watched.cpu_times()
            cpu = times.user + times.system
            if done >= rows or now - began > limit_s:
                break
            time.sleep(LOOK_S)
    finally:
        process.terminate()
        process.wait(20)
    took = max(1e-9, now - first)
    return {
        "rows": int(done),
        "rows_per_s": round((done - first_rows) / took),
        "first_row_s": round(first - began, 2),
        "took_s": round(took, 2),
        "cpu_us_per_row": round(cpu * 1e6 / max(1, done), 2),
        "peak_mb": round(peak / 2**20),
    }


def bare(world: World, rows: int, partitions: int) -> dict[str, Any]:
    """The yardstick: one process, one thread, confluent in and confluent out, nothing between."""
    preset = fresh(world.cluster, partitions)
    source, target = topic_name(preset.id, "live"), topic_name(preset.id, "conformed")
    feed(world, preset, source, rows)
    tps = [(source, n) for n in range(partitions)]
    fences = Admin(world.cluster).end_offsets(tps)
    producer = TransactionalProducer(world.cluster, f"bare-{preset.id}")
    producer.init()
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    for batch in read_range(world.cluster, dict.fromkeys(tps, 0), fences):
        producer.begin()
        keys, values = [m.key for m in batch], [m.value for m in batch]
        producer.send_many(target, 0, keys, values)
        producer.commit()
        done += len(batch)
    took = time.perf_counter() - began
    return {
        "rows": done,
        "rows_per_s": round(done / took),
        "cpu_us_per_row": round((time.process_time() - cpu) * 1e6 / done, 2),
    }


def lane(world: World, rows: int, partitions: int, role: str) -> dict[str, Any]:
    preset = fresh(world.cluster, partitions)
    feed(world, preset, topic_name(preset.id, role), rows)
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *(sys.executable, "-m", "integration.copy_worker", preset.id, str(partitions)),
            *(directory, "6"),
        ]
        target = topic_name(preset.id, "conformed")
        return measure(world, command, target, partitions, rows, 180)


def stock(world: World, rows: int, partitions: int) -> dict[str, Any]:
    preset = fresh(world.cluster, partitions)
    source, target = topic_name(preset.id, "live"), topic_name(preset.id, "conformed")
    feed(world, preset, source, rows)
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *(sys.executable, str(TESTS / "bench" / "stock.py"), world.cluster.bootstrap),
            *(f"stock-{preset.id}", source, target, str(partitions), directory),
        ]
        return measure(world, command, target, partitions, rows, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--stock-rows", type=int, default=40_000)
    parser.add_argument("--partitions", type=int, default=4)
    options = parser.parse_args()
    world = World.resolve(os.environ)
    answer = run(world, options.rows, options.stock_rows, options.partitions)
    sys.stdout.write(json.dumps(answer) + "\n")


def run(world: World, rows: int, stock_rows: int, partitions: int) -> dict[str, Any]:
    """The lane, the yardstick and the peer, one after the other."""
    ours = lane(world, rows, partitions, "live")
    yardstick = bare(world, rows // 3, partitions)
    peer = stock(world, stock_rows, partitions)
    ratio = round(ours["rows_per_s"] / max(1, peer["rows_per_s"]), 1)
    return {"lane": ours, "bare_loop": yardstick, "stock_faust": peer, "ratio": ratio}


if __name__ == "__main__":
    main()
