"""`seamline worker` follows the mode of a subject while it runs: canary, strict, a withdrawn
schema, canary again, without a restart. Two producers break a rule and drift throughout."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.workers import WorkerProcess, await_that
from machine_world import MINUTE_NS, START_NS
from mode_setting import set_mode
from preset_making import FreshPreset, make_preset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.columns import SUSPECT
from seamline.schemas.contract import SCHEMAS, subject_rules
from seamline.schemas.modes import CANARY, MODES, STRICT
from seamline.schemas.topics import subject_of, topic_name
from third_party import ThirdParty, drifted

pytestmark = pytest.mark.timeout(900)
DEADLINE_S = 300.0
A = "A/USDT"
COUNTER = "seamless_schema_validation_failures_total"


@dataclass
class Plane:
    fresh: FreshPreset
    worker: WorkerProcess

    @property
    def subject(self) -> str:
        return subject_of(self.fresh.topic("live"))

    def records(self, role: str) -> list[Message]:
        tp, cluster = (self.fresh.topic(role), 0), self.fresh.world.cluster
        admin = Admin(cluster)
        batches = read_range(cluster, admin.begin_offsets([tp]), admin.end_offsets([tp]))
        return [message for batch in batches for message in batch]

    def bars(self) -> dict[int, int]:
        """Minute -> flags of every conformed bar."""
        decoded = ConformedDecoder().decode([m.value or b"" for m in self.records("conformed")])
        minutes = (decoded.columns.open_time_ns - START_NS) // MINUTE_NS
        return dict(zip(minutes.tolist(), decoded.columns.flags.tolist(), strict=True))

    def reasons(self) -> list[str]:
        return [dict(m.headers)["seamline-reason"].decode() for m in self.records("quarantine")]

    def counters(self) -> dict[tuple[str, str], int]:
        """(subject, mode) -> failures, of the series that are there."""
        port = self.worker.log.read_text().split("metrics on http://127.0.0.1:")[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith(COUNTER + "{"):
                labels, _, value = line.removeprefix(COUNTER).rpartition(" ")
                named = dict(pair.split("=") for pair in labels.strip("{}").split(","))
                key = named["subject"].strip('"'), named["mode"].strip('"')
                found[key] = int(float(value))
        return found

    def await_(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            assert self.worker.status is None, self.worker.log.read_text()[-3000:]
            return condition()

        await_that(holds, DEADLINE_S, what, {"worker": self.worker.log})

    def follow(self, mode: str, version: int, tombstones: tuple[str, ...] = ()) -> None:
        set_mode(self.fresh.world, self.subject, mode, tombstones)
        told = f"{self.subject} is {mode} (version {version}"
        self.await_(lambda: self.worker.said(told) > 0, told)
        assert self.worker.said(told) == 1


@pytest.fixture
def plane(world: World, tmp_path: Path) -> Iterator[Plane]:
    fresh = make_preset(world, tmp_path, partitions=1, derive=("5m",))
    argv = [sys.executable, "-m", "seamline.sdk.cli", "worker", fresh.preset.id]
    argv += ["--dir", str(tmp_path / "worker"), "--metrics-port", "0"]
    # Plain Python: a few records are decided the same, and compiling is not what is tested.
    environment = fresh.environment() | {"NUMBA_DISABLE_JIT": "1"}
    worker = WorkerProcess("worker", tmp_path / "worker", world, argv, environment)
    worker.start()
    made = Plane(fresh, worker)
    try:
        made.await_(lambda: worker.said("owns partitions") > 0, "a worker")
        yield made
    finally:
        worker.end()


def test_a_change_of_mode_needs_no_restart(plane: Plane, world: World) -> None:
    of, minutes = plane.fresh.preset, iter(range(1, 100))
    zero = plane.counters()
    assert set(zero.values()) == {0}
    for preset in (of, *plane.fresh.derived):
        for role in subject_rules(of.kind):
            subject = subject_of(topic_name(preset.id, role))
            held = {(subject, mode) in zero for mode in MODES}
            assert held == {preset is of or role not in ("live", "backfill")}, subject
    right = ThirdParty(world, of, text=SCHEMAS["bar"].text, name="acme", fingerprint=True)
    text = drifted(retype={"volume": "string"})
    other = ThirdParty(world, of, text=text, name="drifting", fingerprint=True)

    def send(feed: ThirdParty, **fields: object) -> tuple[int, bytes]:
        minute = next(minutes)
        value = feed.send(A, START_NS + minute * MINUTE_NS, **fields)
        feed.flush()
        return minute, value

    with right, other:
        # Canary: everything passes, what is wrong is counted and flagged.
        passed = [send(right, volume=-1.0)[0], send(other, volume="12.5")[0], send(right)[0]]
        plane.await_(lambda: plane.bars().keys() >= set(passed), "bars in canary")
        flags = [bool(plane.bars()[minute] & SUSPECT) for minute in passed]
        assert flags == [True, True, False] and plane.reasons() == []
        plane.await_(lambda: plane.counters()[plane.subject, CANARY] == 2, "its count")

        # Strict: the same goes to quarantine, byte for byte, and what is right flows.
        plane.follow(STRICT, 1)
        set_aside = [send(right, volume=-1.0), send(other, volume="12.5")]
        good, _ = send(right)
        plane.await_(lambda: good in plane.bars(), "a good bar in strict")
        assert not {minute for minute, _ in set_aside} & plane.bars().keys()
        assert plane.reasons() == ["negative_volume", "schema_drift"]
        assert [m.value for m in plane.records("quarantine")] == [v for _, v in set_aside]

        # A writer schema is withdrawn: what was right a moment ago is set aside.
        plane.follow(STRICT, 2, (SCHEMAS["bar"].fingerprint,))
        _, withdrawn = send(right)
        plane.await_(lambda: plane.reasons()[2:] == ["tombstoned_schema"], "a withdrawn schema")
        assert plane.records("quarantine")[2].value == withdrawn

        # And back: nobody restarted anything.
        plane.follow(CANARY, 3)
        back, _ = send(right, volume=-1.0)
        plane.await_(lambda: back in plane.bars(), "a bad bar in canary again")
        assert plane.bars()[back] & SUSPECT and len(plane.reasons()) == 3
    plane.await_(lambda: plane.counters()[plane.subject, CANARY] == 3, "the counters")
    counted = {key: count for key, count in plane.counters().items() if count}
    assert counted == {(plane.subject, CANARY): 3, (plane.subject, STRICT): 3}
    told = plane.worker.log.read_text()
    assert f"{plane.subject} in strict: 1 records broke schema_drift: 1 producer=drifting" in told
    assert plane.worker.said("--- start") == 1
