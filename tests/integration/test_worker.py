"""The worker process: what it refuses, how it hands over, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from e2e.workers import WorkerProcess, await_that, copy_worker
from integration.plain_preset import fresh, plain_preset
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.topics import topic_name
from seamline.streams.apps.worker import WorkerSettings, check_presets, run_worker

from integration.copy_machine import copy_factory  # isort: skip

PRESETS = """\
version: 1
data_presets:
  ohlcv.test.spot.1m:
    kind: ohlcv
    interval_ms: 60000
    contract_version: v1
    partitions: 4
    live: {feed: "binance.ws.kline.1m", max_lag_seconds: 45}
    backfill: {source: "binance.rest", mode: background, window_bars: 1920}
"""


def seamline(world: World, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seamline.sdk.cli", *arguments],
        env={**os.environ, **world.environment(), **extra},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_derived_preset_is_refused_by_the_name_of_its_parent(world: World) -> None:
    answer = seamline(world, "worker", "ohlcv.binance.spot.1h")
    assert answer.returncode == 2
    assert "Run: seamline worker ohlcv.binance.spot.1m" in answer.stderr
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["no.such.preset"], 2, "no such preset"),
        (["ohlcv.binance.spot.1m", "--session-timeout", "6"], 2, "duration with a unit"),
        (["ohlcv.binance.spot.1m", "--session-timeout", "5m"], 2, "outside 1s to 60s"),
        (["ohlcv.binance.spot.1m", "ohlcv.binance.spot.1m"], 2, "named twice"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], status: int, said: str, world: World) -> None:
    answer = seamline(world, "worker", *arguments)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert said in answer.stderr


def test_missing_topics_are_refused_with_the_command_that_makes_them(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "presets.yaml"
    file.write_text(PRESETS.replace("ohlcv.test", f"ohlcv.t{os.getpid()}"))
    preset_id = f"ohlcv.t{os.getpid()}.spot.1m"
    answer = seamline(world, "worker", preset_id, SEAMLINE_PRESETS_FILE=str(file))
    assert answer.returncode == 1, answer.stderr
    assert f"Run: seamline topics apply {preset_id}" in answer.stderr


def test_an_unreachable_broker_is_exit_status_3(world: World) -> None:
    answer = seamline(
        world,
        *("worker", "ohlcv.binance.spot.1m"),
        SEAMLINE_BOOTSTRAP_SERVERS="127.0.0.1:1",
        SEAMLINE_SCHEMA_REGISTRY_URL=world.registry_url,
    )
    assert answer.returncode == 3
    assert "127.0.0.1:1" in answer.stderr


def test_an_unreachable_broker_is_told_before_anything_is_compiled(tmp_path: Path) -> None:
    nowhere = World(Cluster("127.0.0.1:1"), "http://127.0.0.1:2")
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1"):
        run_worker([plain_preset("p", 1)], {}, nowhere, copy_factory, WorkerSettings(tmp_path))
    assert time.monotonic() - began < 15


def test_a_wrong_partition_count_is_refused(world: World, tmp_path: Path) -> None:
    preset = fresh(world.cluster, 2)
    with pytest.raises(ContractError, match="has 2 partitions"):
        run_worker([plain_preset(preset.id, 3)], {}, world, copy_factory, WorkerSettings(tmp_path))


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    nowhere = World(Cluster("127.0.0.1:1"), "http://127.0.0.1:2")
    with pytest.raises(UsageError, match="cannot be written"):
        run_worker([plain_preset("p", 1)], {}, nowhere, copy_factory, WorkerSettings(file))


def test_no_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        check_presets([])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_hands_over_within_three_seconds(
    number: signal.Signals, world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 4)
    one, two = (
        WorkerProcess(name, tmp_path / name, world, copy_worker(preset.id, 4, tmp_path / name, 30))
        for name in ("one", "two")
    )
    logs = {w.name: w.log for w in (one, two)}
    try:
        one.start()
        await_that(lambda: one.said("OWNED 0,1,2,3") > 0, 30, "the first owns all", logs)
        two.start()
        await_that(lambda: one.said("OWNED") + two.said("OWNED") >= 3, 30, "both own", logs)
        # The session is 30 s: only leaving the group hands over before.
        one.signal(number)
        took = await_that(lambda: two.said("OWNED 0,1,2,3") > 0, 20, "the other owns all", logs)
        assert one.wait(5) == 0
        assert took <= 3.0
    finally:
        one.end()
        two.end()


def test_metrics_are_served_and_name_the_lag_of_each_partition(
    world: World, tmp_path: Path
) -> None:
    preset = fresh(world.cluster, 2)
    command = [*copy_worker(preset.id, 2, tmp_path / "w", 6), "0"]
    worker = WorkerProcess("w", tmp_path / "w", world, command)
    try:
        worker.start()
        await_that(lambda: worker.said("OWNED 0,1") > 0, 30, "owners", {"w": worker.log})
        producer = IdempotentProducer(world.cluster)
        for number in range(100):
            producer.send(topic_name(preset.id, "live"), None, b"%d" % number, partition=1)
        producer.close()
        port = worker.log.read_text().split("METRICS ")[1].split()[0]

        def scraped() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        inserted = f'seamline_worker_rows_total{{kind="inserted",preset="{preset.id}"}} 100.0'
        await_that(lambda: inserted in scraped(), 20, inserted)
        lag = f'lag_rows{{partition="1",preset="{preset.id}",topic="live"}} 0.0'
        await_that(lambda: lag in scraped(), 20, lag)
        failures = (
            'seamless_schema_validation_failures_total{mode="canary",'
            f'subject="seamline.{preset.id}.live-value"}} 0.0'
        )
        assert failures in scraped()
        worker.signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    finally:
        worker.end()
