"""From a rehearsal to strict and back by itself: the commands and a real worker.

Of trades, whose worker compiles next to nothing: what is followed and counted is the same.
"""

from __future__ import annotations

import json
import secrets
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from e2e.workers import WorkerProcess, await_that
from preset_fixture import FreshPreset
from rehearsed import write_rehearsal
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.audit import Entry
from seamline.schemas.records import encode_record
from seamline.schemas.topics import HEADER_REASON
from seamline.sdk.cli.main import app

SYMBOL = "BTC/USDT"
START_NS = 1_767_225_600_000_000_000


class Seen:
    """One preset with a worker on it, and what people see of both."""

    def __init__(self, fresh: FreshPreset, directory: Path) -> None:
        self.fresh = fresh
        self.subject = f"{fresh.topic('live')}-value"
        self.log = GovernanceLog(fresh.world.cluster)
        self.producer, self._trades = IdempotentProducer(fresh.world.cluster), 0
        command = [sys.executable, "-m", "seamline.sdk.cli", "worker", fresh.preset.id]
        options = ["--dir", str(directory), "--metrics-port", "0"]
        self.worker = WorkerProcess(
            "w", directory, fresh.world, [*command, *options], fresh.environment()
        )

    def send(self, price: float) -> bytes:
        """One trade; its bytes, which are no others'."""
        self._trades += 1
        trade = {
            "symbol": SYMBOL,
            "trade_id": self._trades,
            "time_ns": START_NS,
            "price": price,
            "size": 1.0,
            "received_time_ns": START_NS,
        }
        value = encode_record("trade", trade, self.fresh.ids["trade"])
        self.producer.send(self.fresh.topic("live"), SYMBOL.encode(), value)
        self.producer.flush(60)
        return value

    def run(self, *arguments: str) -> tuple[int, Any]:
        environment = self.fresh.environment() | {"SEAMLINE_ACTOR": "ops"}
        found = CliRunner().invoke(app, ["schema", *arguments, "-o", "json"], env=environment)
        return found.exit_code, json.loads(found.stdout) if found.stdout else {}

    def await_that(self, condition: Callable[[], bool], what: str) -> None:
        await_that(condition, 400, what, {"w": self.worker.log})

    def metric(self, series: str) -> float:
        port = self.worker.log.read_text().split("metrics on http://127.0.0.1:")[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (each for each in lines if each.startswith(f"{series} "))
        return float(line.split()[-1])

    def failures(self, mode: str) -> float:
        labels = f'{{mode="{mode}",subject="{self.subject}"}}'
        return self.metric(f"seamless_schema_validation_failures_total{labels}")

    def changes(self) -> list[Entry]:
        return [e for e in self.log.read().entries if e.subject == self.subject]

    def quarantined(self) -> list[tuple[bytes | None, str]]:
        """Value and reason of each record there."""
        reader = LogReader(self.fresh.world.cluster, 0, Admin(self.fresh.world.cluster))
        batches = list(reader.range(self.fresh.topic("quarantine"), None))
        reader.close()
        return [
            (record.value, dict(record.headers).get(HEADER_REASON, b"").decode())
            for batch in batches
            for record in batch
        ]


@pytest.fixture
def seen(world: World, tmp_path: Path) -> Iterator[Seen]:
    name = f"trades.t{secrets.token_hex(6)}.spot"
    entry = {"kind": "trades", "partitions": 1, "live": {"feed": "binance.ws.trade"}}
    file = tmp_path / "presets.yaml"
    document = {"version": 1, "data_presets": {name: entry}}
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    presets = loader.load(file, {})
    topics.apply(world.cluster, presets[name])
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    ids = ensure_registered(client, presets[name])
    client.close()
    made = Seen(FreshPreset(world, presets[name], (), presets, ids, file), tmp_path / "w")
    yield made
    made.worker.end()
    made.producer.close()


@pytest.mark.timeout(900)
def test_strict_comes_by_evidence_and_goes_by_itself(seen: Seen) -> None:
    fresh, short = seen.fresh, f"{seen.fresh.preset.id}.live"
    seen.worker.start()
    seen.await_that(lambda: seen.worker.said("owns partitions 0") > 0, "an owner")
    for _ in range(40):
        seen.send(100.0)
    demotions = f'seamline_schema_budget_demotions_total{{subject="{seen.subject}"}}'
    assert seen.metric(demotions) == 0

    # 1 evidence, then strict; the worker follows.
    window = ("--canary-window", "1s")
    assert seen.run("promote", short, "--reason", "try", *window)[0] == 1
    write_rehearsal(fresh)
    status, answer = seen.run("promote", short, "--reason", "clean", *window)
    assert (status, answer.get("mode")) == (0, "strict"), answer

    # 2 the producer begins to write prices that are none: blocked, byte for byte, then canary.
    wrong: list[bytes] = []

    def followed(mode: str, before: float) -> Callable[[], bool]:
        def send_and_look() -> bool:
            wrong.append(seen.send(-1.0))
            return seen.failures(mode) > before

        return send_and_look

    seen.await_that(followed("strict", 0), "a worker that follows into strict")
    wrong += [seen.send(-1.0) for _ in range(25)]
    seen.await_that(lambda: seen.metric(demotions) == 1, "a demotion by the budget")
    rehearsal, promoted, demoted = seen.changes()
    assert (rehearsal.action, promoted.action) == ("rehearse", "promote")
    assert demoted.action == "budget_demote" and demoted.actor.startswith("worker ")
    assert promoted.evidence["rehearsal"]["hash"] == rehearsal.hash
    assert demoted.evidence["blocked"] > demoted.evidence["allowed"] == 20
    blocked = [value or b"" for value, why in seen.quarantined() if why == "non_positive_price"]
    first = wrong.index(blocked[0])
    assert blocked == wrong[first : first + len(blocked)] and len(blocked) > 20
    assert seen.worker.said("is canary again") == 1

    # 3 the worker follows its own change: what comes now passes and is counted.
    seen.await_that(followed("canary", seen.failures("canary")), "a worker in canary again")
    assert seen.run("promote", short, "--reason", "again", *window)[0] == 1
