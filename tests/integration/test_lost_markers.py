"""An owner takes a partition in which an earlier transaction of its own lacks markers."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from faults.bars import Bars
from integration.hanging_rows import leave_open, unverified
from machine_world import in_canary
from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.topics import parse_topic
from seamline.streams.apps.factory import OhlcvFactory
from seamline.streams.apps.tenure import Place, Tenure
from seamline.streams.kernel.lost_markers import Fate
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import ROLES, MachineFactory

ROWS = 37 * 300  # of each step: 300 minutes of each of 37 symbols, more than a block
DERIVED = ("5m",)

# Which roles lack the marker, how the transaction ended, what its owner's successor must do.
CASES = {
    "the log": (("conformed",), True, Fate.COMMIT),
    "the position": (("positions",), True, Fate.COMMIT),
    "blocks and what goes with them": (
        ("storage", "seals", "reports", "gaps"),
        True,
        Fate.COMMIT,
    ),
    "the blocks alone": (("storage",), True, Fate.COMMIT),
    "everything": (("conformed", "storage", "seals", "reports", "positions"), True, Fate.ABORT),
    "the log of an abort": (("conformed", "storage"), False, Fate.ABORT),
    "the position of an abort": (("positions",), False, Fate.ABORT),
}
MARKERS_S = 60.0
# One of each kind of evidence; `SEAMLINE_SOAK=1` runs them all.
SHORT = ("the log", "the position", "everything")
RUN = tuple(CASES) if os.environ.get("SEAMLINE_SOAK") else SHORT


@pytest.fixture(scope="module", autouse=True)
def _unverified(world: World) -> Iterator[None]:
    with unverified(world.cluster):
        yield


class Plane:
    """One partition of a preset, driven by hand."""

    def __init__(self, fresh: FreshPreset, directory: Path) -> None:
        self.fresh, self.cluster = fresh, fresh.world.cluster
        self.admin = Admin(self.cluster)
        topics = {role: fresh.topic(role) for role in ROLES}
        self.place = Place(fresh.preset.id, 0, topics)
        schemas = {number: SCHEMAS[name] for name, number in fresh.ids.items()}
        self.factory: MachineFactory = OhlcvFactory(
            preset=fresh.preset,
            derived=fresh.derived,
            ids=fresh.ids,
            resolve=schemas.get,
            policies=in_canary,
            owner="test",
            directory=directory,
        )
        self._bars = Bars(fresh.ids)

    def land(self, count: int) -> None:
        producer = IdempotentProducer(self.cluster)
        for number in range(count):
            producer.send(self.fresh.topic("live"), *self._bars.record("live", number), partition=0)
        producer.close()

    def take(self) -> Tenure:
        return Tenure(self.place, self.cluster, self.admin, self.factory)

    def landed(self, start: int, end: int) -> list[MemoryRecord]:
        tp = (self.fresh.topic("live"), 0)
        batches = read_range(self.cluster, {tp: start}, {tp: end})
        return [
            MemoryRecord(m.topic, m.partition, m.offset, m.timestamp_ms, m.key, m.value, m.headers)
            for batch in batches
            for m in batch
        ]

    def rows(self, topic: str) -> list[Message]:
        tp = (topic, 0)
        ends = self.admin.end_offsets([tp])
        return [m for batch in read_range(self.cluster, {tp: 0}, ends) for m in batch]

    def open(self) -> set[str]:
        """Roles whose partition is not committed to its end."""
        tps = [(topic, 0) for topic in self.factory.outputs()]
        ends = self.admin.end_offsets(tps, "read_uncommitted")
        stable = self.admin.end_offsets(tps)
        return {parse_topic(topic)[1] for topic, _ in tps if stable[topic, 0] < ends[topic, 0]}

    def leave_open(self, roles: Sequence[str], *, commit: bool) -> None:
        """The owner's next step, as its coordinator ends it and its markers get lost."""
        self.take().close()  # its `init` waits for the markers of the step before
        reader = LogReader(self.cluster, 0, self.admin)
        machine = self.factory.rebuild(reader)
        at = machine.position["live"]
        policy = self.factory.policy("live")
        step = machine.step("live", self.landed(at, at + ROWS), 0, time.time_ns(), policy)
        unmarked = [t for t in self.factory.outputs() if parse_topic(t)[1] in roles]
        leave_open(self.cluster, self.place.transactional_id, step.batches, unmarked, commit=commit)
        machine.close()
        reader.close()

    def check(self, landed: int) -> None:
        """Each landed bar once in the log, and once more at most as a confirmation.

        A commit is told before its markers are written: they are waited for.
        """
        deadline = time.monotonic() + MARKERS_S
        while self.open():
            assert time.monotonic() < deadline, f"without markers: {self.open()}"
        found = [self._bars.read(m) for m in self.rows(self.fresh.topic("conformed"))]
        counts = Counter(bar for bar in found if bar is not None)
        assert counts == Counter(self._bars.made("live", n) for n in range(landed))
        assert len(found) <= landed + 1


@pytest.mark.parametrize("name", RUN)
def test_what_lacks_its_marker_is_completed_and_nothing_is_lost_or_twice(
    name: str, fresh_preset: MakePreset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles, commit, expected = CASES[name]
    plane = Plane(fresh_preset(partitions=1, derive=DERIVED), tmp_path)
    plane.land(3 * ROWS)
    first = plane.take()
    assert first.completed is None
    first.step("live", plane.landed(0, ROWS), time.time_ns())
    first.close()
    plane.leave_open(roles, commit=commit)
    assert plane.open() >= {"conformed", "positions", "storage"} & set(roles), "nothing is open"
    with caplog.at_level(logging.WARNING, "seamline"):
        taken = plane.take()
    try:
        assert taken.completed is not None and taken.completed.fate is expected
        assert any("completed by" in record.getMessage() for record in caplog.records)
        assert plane.open() == set()
        at = taken.position["live"]
        assert at == (2 * ROWS if expected is Fate.COMMIT else ROWS)
        while at < 3 * ROWS:
            taken.step("live", plane.landed(at, min(at + ROWS, 3 * ROWS)), time.time_ns())
            at = taken.position["live"]
        plane.check(3 * ROWS)
    finally:
        taken.close()
    again = plane.take()
    assert again.completed is None and again.position["live"] == 3 * ROWS
    again.close()
