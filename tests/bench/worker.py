"""What `seamline worker` does on the real broker: throughput, start, latency, memory, and its peer.

`python -m bench.worker` with `tests` on the path and a world in the environment. Landed bars are
flat Avro bars of 200 symbols; the peer does less of the same job on stock faust-streaming, on the
same broker in the same run.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.lane import TESTS, measure
from preset_fixture import preset_yaml
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.codec import encode_bars
from seamline.schemas.columns import BarColumns
from seamline.schemas.modes import CANARY
from seamline.schemas.times import NS_PER_S, format_time
from seamline.schemas.topics import topic_name
from seamline.sdk import Bar, stitch

MINUTE_NS = 60 * NS_PER_S
SYMBOLS = [f"S{n}/USDT" for n in range(200)]
START_NS = 1_700_006_400 * NS_PER_S
RATE = 100
LATENCY_S = 20.0


class Bench:
    """One preset of its own on a world, with what its benchmarks share."""

    def __init__(
        self, world: World, directory: Path, *, derive: tuple[str, ...] = (), partitions: int = 4
    ) -> None:
        self.world = world
        self.directory = directory
        self.venue = f"b{time.time_ns():x}"
        self.file = directory / f"{self.venue}.yaml"
        self.file.write_text(preset_yaml(self.venue, "1m", derive, {"partitions": partitions}))
        self.presets = loader.load(self.file, {})
        self.preset = self.presets[f"ohlcv.{self.venue}.spot.1m"]
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        self.ids: dict[str, int] = {}
        for each in (self.preset, *loader.derived_of(self.presets, self.preset.id)):
            topics.apply(world.cluster, each)
            self.ids |= ensure_registered(client, each, lambda _: CANARY)
        client.close()
        self.environment = {
            **world.environment(),
            loader.FILE_VARIABLE: str(self.file),
            "SEAMLINE_DIR": str(directory),
        }
        self.landed = 0

    @property
    def conformed(self) -> str:
        return topic_name(self.preset.id, "conformed")

    def values(self, minute: int, minutes: int) -> list[bytes]:
        """Bars of all symbols, minute by minute."""
        n = minutes * len(SYMBOLS)
        at = np.arange(n)
        price = (100.0 + at % 97).astype(np.float64)
        times = START_NS + (minute + at // len(SYMBOLS)) * MINUTE_NS
        columns = BarColumns(
            open_time_ns=times.astype(np.int64),
            open=price,
            high=price + 1,
            low=price - 1,
            close=price + 0.5,
            volume=np.full(n, 12.5),
            quote_volume=np.full(n, 1250.0),
            trades=np.full(n, 10),
            first_trade_id=at * 10,
            last_trade_id=at * 10 + 9,
            source=np.ones(n, np.uint8),
            closed=np.ones(n, bool),
            received_time_ns=times.astype(np.int64),
        )
        return encode_bars(SYMBOLS * minutes, columns, self.ids["bar"])

    def land(self, rows: int) -> None:
        """Land about so many more bars."""
        keys = [symbol.encode() for symbol in SYMBOLS]
        producer = IdempotentProducer(self.world.cluster)
        topic = topic_name(self.preset.id, "live")
        minutes = math.ceil(rows / len(SYMBOLS))
        for start in range(0, minutes, 500):
            part = min(500, minutes - start)
            first = self.landed // len(SYMBOLS)
            for number, value in enumerate(self.values(first, part)):
                producer.send(topic, keys[number % len(SYMBOLS)], value)
            self.landed += part * len(SYMBOLS)
        producer.close()

    def worker(self) -> list[str]:
        return [sys.executable, "-m", "seamline.sdk.cli", "worker", self.preset.id]

    def rows_out(self) -> int:
        tps = [(self.conformed, n) for n in range(self.preset.partitions)]
        return sum(Admin(self.world.cluster).end_offsets(tps).values())

    def run_worker(self, limit_s: float = 240.0) -> dict[str, Any]:
        """Rows per second from the first committed row to the last."""
        world = _with(self.world, self.environment)
        return measure(
            world, self.worker(), self.conformed, self.preset.partitions, self.landed, limit_s
        )

    def start(self) -> float:
        """Seconds from the start of the process to its first emission, with the log as it is."""
        before = self.rows_out()
        self.land(len(SYMBOLS))
        began = time.perf_counter()
        with _Process(self.worker(), self.environment):
            while self.rows_out() <= before:
                time.sleep(0.02)
            return time.perf_counter() - began

    def latency(self) -> dict[str, float]:
        """Milliseconds from the hand-over to the producer until a stitched stream gives the bar."""
        sent: dict[tuple[str, int], float] = {}
        delays: list[float] = []
        count = int(RATE * LATENCY_S)
        start_ns = START_NS + (self.landed // len(SYMBOLS)) * MINUTE_NS
        with (
            _Process(self.worker(), self.environment),
            stitch(
                self.preset.id,
                SYMBOLS,
                format_time(start_ns - 5 * MINUTE_NS),
                world=self.world,
                presets=self.presets,
            ) as stream,
        ):
            feeder = threading.Thread(target=self._feed_slowly, args=(count, sent), daemon=True)
            for event in stream:
                if not feeder.is_alive() and not sent:
                    feeder.start()
                if isinstance(event, Bar) and event.open_time_ns >= start_ns:
                    delays.append(time.perf_counter() - sent[event.symbol, event.open_time_ns])
                if len(delays) == count:
                    break
            feeder.join()
        warm = np.array(delays[RATE * 3 :]) * 1_000
        return {
            "bars": len(warm),
            "p50_ms": round(float(np.percentile(warm, 50)), 1),
            "p99_ms": round(float(np.percentile(warm, 99)), 1),
            "max_ms": round(float(warm.max()), 1),
        }

    def _feed_slowly(self, count: int, sent: dict[tuple[str, int], float]) -> None:
        producer = IdempotentProducer(self.world.cluster)
        topic = topic_name(self.preset.id, "live")
        first = self.landed // len(SYMBOLS)
        values = self.values(first, math.ceil(count / len(SYMBOLS)))
        began = time.perf_counter()
        for number in range(count):
            symbol = SYMBOLS[number % len(SYMBOLS)]
            open_ns = START_NS + (first + number // len(SYMBOLS)) * MINUTE_NS
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            sent[symbol, open_ns] = time.perf_counter()
            producer.send(topic, symbol.encode(), values[number])
            producer.poll()
        self.landed += count
        producer.close()


class _Process:
    """A child for the length of a `with`."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            self._command, env={**os.environ, **self._environment}, stderr=subprocess.DEVNULL
        )

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(20)


def _with(world: World, environment: dict[str, str]) -> World:
    """`measure` gives a child the environment of a world; ours has a presets file too."""
    os.environ.update(environment)
    return world


def stock(bench: Bench, rows: int) -> dict[str, Any]:
    """The same job on stock faust-streaming."""
    other = Bench(bench.world, bench.directory, partitions=bench.preset.partitions)
    other.land(rows)
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *(sys.executable, str(TESTS / "bench" / "stock_job.py"), bench.world.cluster.bootstrap),
            *(f"stock-{other.venue}", topic_name(other.preset.id, "live"), other.conformed),
            *(str(other.preset.partitions), directory),
            *(str(other.ids["bar"]), str(other.ids["conformed_bar"])),
        ]
        partitions = other.preset.partitions
        return measure(other.world, command, other.conformed, partitions, other.landed, 60)


def run(world: World, directory: Path, rows: int) -> dict[str, Any]:
    """All figures of the worker, one after the other."""
    plain = Bench(world, directory)
    plain.land(rows)
    found: dict[str, Any] = {"worker": plain.run_worker()}
    found["start_to_first_emission_s"] = round(plain.start(), 2)
    found["landing_to_reader"] = plain.latency()
    derived = Bench(world, directory, derive=("5m", "1h"))
    derived.land(rows // 2)
    found["worker_with_5m_and_1h"] = derived.run_worker()
    found["stock_faust_same_job"] = stock(plain, 30_000)
    peer = found["stock_faust_same_job"]["rows_per_s"]
    found["times_stock"] = round(found["worker"]["rows_per_s"] / max(1, peer), 1)
    return found
