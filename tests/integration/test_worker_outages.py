"""`seamline worker` while the registry or the broker is gone, on a stack of its own: what goes on,
what waits, what is said, and that nothing is lost. One worker process lives through all of it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.workers import WorkerProcess, await_that
from machine_world import Row, columns_of, in_canary
from preset_making import FreshPreset, make_preset
from seamline.connectors.embedded import stack
from seamline.connectors.governance.follow import ModeFollower
from seamline.connectors.kafka.admin import Admin, TopicSettings
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.world import World
from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, STRICT, Policy, SubjectState, encode_state
from seamline.schemas.topics import subject_of
from seamline.streams.apps.factory import make_factory

pytestmark = pytest.mark.integration

PARTITIONS = 2
SYMBOLS = [f"S{n}/USDT" for n in range(8)]
# Longer than the session of the worker, which is 6 s.
STOPPED_S = 15.0 if os.environ.get("SEAMLINE_SOAK") else 8.0
BATCH = 25


class Plane:
    """A stack of its own, a preset on it, a worker process, and what was landed so far."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "stack"
        self.ready = stack.up(self.home)
        self.world = World(Cluster(self.ready.bootstrap), self.ready.registry_url)
        self.fresh: FreshPreset = make_preset(self.world, directory, partitions=PARTITIONS)
        worker = directory / "worker"
        command = [sys.executable, "-m", "seamline.sdk.cli", "worker", self.fresh.preset.id]
        command += ["--dir", str(worker)]
        environment = self.fresh.environment()
        self.worker = WorkerProcess("worker", worker, self.world, command, environment)
        self.minutes = 0

    def end(self) -> None:
        self.worker.end()
        stack.down(self.home)

    def await_owned(self) -> None:
        def owned() -> bool:
            assert self.worker.status is None, self.worker.log.read_text()[-3000:]
            return self.worker.said("owns partitions") > 0

        await_that(owned, 300, "a worker", {"worker": self.worker.log})

    def kill(self, which: str) -> None:
        found = stack.endpoints(self.home, {})
        os.kill(found.kafka_pid if which == "kafka" else found.registry_pid, signal.SIGKILL)

    def land(self) -> None:
        """BATCH minutes of every symbol, acknowledged."""
        producer = IdempotentProducer(self.world.cluster)
        for symbol in SYMBOLS:
            minutes = range(self.minutes, self.minutes + BATCH)
            rows = [Row(symbol, minute, 100.0 + minute % 7) for minute in minutes]
            for value in encode_bars([symbol] * BATCH, columns_of(rows), self.fresh.ids["bar"]):
                producer.send(self.fresh.topic("live"), symbol.encode(), value)
        producer.close(60)
        self.minutes += BATCH

    def write_state(self, state: SubjectState) -> None:
        producer = IdempotentProducer(self.world.cluster)
        producer.send("test-modes", state.subject.encode(), encode_state(state))
        producer.close(60)

    def messages(self, role: str) -> list[Message]:
        tps = [(self.fresh.topic(role), n) for n in range(PARTITIONS)]
        admin = Admin(self.world.cluster)
        begins, ends = admin.begin_offsets(tps), admin.end_offsets(tps)
        return [m for batch in read_range(self.world.cluster, begins, ends) for m in batch]

    def bars(self) -> Counter[tuple[str, int]]:
        decoder = ConformedDecoder()
        decoded = decoder.decode([m.value for m in self.messages("conformed") if m.value])
        times = decoded.columns.open_time_ns.tolist()
        return Counter(
            (decoder.symbols[sid], time_ns)
            for sid, time_ns in zip(decoded.sid.tolist(), times, strict=True)
        )

    def await_bars(self, what: str) -> None:
        """Everything landed is conformed, once, and the worker is still the same process."""
        expected = len(SYMBOLS) * self.minutes

        def there() -> bool:
            assert self.worker.status is None, self.worker.log.read_text()[-3000:]
            try:
                return len(self.bars()) == expected
            except TransportError:  # the broker has just come back
                return False

        await_that(there, 90, what, {"worker": self.worker.log})
        assert set(self.bars().values()) == {1}

    def reasons(self) -> list[str]:
        found = []
        for message in self.messages("quarantine"):
            headers = dict(message.headers)
            found.append(headers["seamline-reason"].decode())
        return found


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    made = Plane(tmp_path_factory.mktemp("outages"))
    try:
        made.worker.start()
        made.await_owned()
        yield made
    finally:
        made.end()


def test_known_schemas_flow_on_without_a_registry_and_an_unknown_one_waits_in_quarantine(
    plane: Plane, tmp_path: Path
) -> None:
    client = RemoteSchemaRegistryClient(plane.world.registry_url)
    number = client.register("seamline.elsewhere-value", SCHEMAS["trade"].text)
    client.close()
    unseen = b"\x00" + number.to_bytes(4, "big") + b"whatever"
    producer = IdempotentProducer(plane.world.cluster)

    def land_unseen(quarantined: int) -> None:
        producer.send(plane.fresh.topic("live"), b"S0/USDT", unseen)
        producer.flush()
        logs = {"worker": plane.worker.log}
        await_that(lambda: len(plane.reasons()) == quarantined, 60, "quarantine", logs)

    plane.land()
    plane.await_bars("bars before the outage")
    plane.kill("registry")
    plane.land()
    land_unseen(1)
    plane.await_bars("bars of known schemas without a registry")
    # A worker that starts now could not know what its ids mean: it says so and does not start.
    with pytest.raises(TransportError, match="does not answer") as told:
        make_factory(plane.fresh.preset, (), plane.world, tmp_path, in_canary)
    assert told.value.value == plane.world.registry_url and told.value.fix is not None
    stack.up(plane.home)
    # The registry is asked again a moment after it failed.
    deadline = time.monotonic() + 30
    land_unseen(2)
    while plane.reasons()[-1] == "registry_unavailable" and time.monotonic() < deadline:
        land_unseen(len(plane.reasons()) + 1)
    producer.close()
    assert plane.reasons()[0] == "registry_unavailable"
    assert plane.reasons()[-1] == "unknown_schema"
    details = [dict(m.headers)["seamline-detail"] for m in plane.messages("quarantine")]
    assert details[-1] == f"schema id {number} is a trade".encode()
    plane.land()
    plane.await_bars("bars after the outage")


def test_a_worker_outlives_a_broker_that_is_stopped_and_one_that_is_killed(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    """And so does a follower of modes: what it knew stands, a later change is followed."""
    caplog.set_level(logging.INFO, logger="seamline.connectors.governance.follow")
    cluster = plane.world.cluster
    Admin(cluster).create([TopicSettings("test-modes", 1, 1)])
    subject = subject_of(plane.fresh.topic("live"))
    state = SubjectState(subject, STRICT, 1, 1, "ann", "clean", "ab" * 32)
    plane.write_state(state)
    follower = ModeFollower(cluster, CANARY, topic="test-modes")
    follower.start()
    plane.land()
    broker = stack.endpoints(plane.home, {}).kafka_pid
    os.kill(broker, signal.SIGSTOP)
    try:
        time.sleep(STOPPED_S)  # the fault itself, no wait for anything
    finally:
        os.kill(broker, signal.SIGCONT)
    plane.land()
    plane.await_bars("bars after a broker that was stopped")
    plane.kill("kafka")
    await_that(lambda: follower.lost, 120, "a lost broker", {})
    assert follower.policy(subject) == Policy(STRICT, 1)
    stack.up(plane.home)
    plane.write_state(replace(state, mode=CANARY, version=2))
    await_that(lambda: follower.policy(subject).version == 2, 120, "a change", {})
    assert not follower.lost
    follower.stop()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [text for text in told if "the last known stand" not in text] == [
        f"{subject} is canary (version 2, 0 writer schemas withdrawn), was strict;"
        " set by ann: clean"
    ]
    assert len(told) > 1, "the loss itself"
    plane.land()
    plane.await_bars("bars after a broker that was killed")


def test_a_worker_ends_in_time_while_its_broker_is_stopped(plane: Plane) -> None:
    """The last of the module: it ends the worker."""
    broker = stack.endpoints(plane.home, {}).kafka_pid
    os.kill(broker, signal.SIGSTOP)
    try:
        # The broker says nothing until it has ended.
        plane.worker.signal(signal.SIGTERM)
        assert plane.worker.wait(20) == 0
    finally:
        os.kill(broker, signal.SIGCONT)
