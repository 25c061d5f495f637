"""One series: two workers, both landing topics fed, faults by a seed, every record accounted for.

The material is abstract: what is fed and how an output record names what it came from are given by
a `Material`, so the same series runs the copying machine and the real one.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.workers import WorkerProcess, await_that
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.preset import Preset
from seamline.schemas.topics import partition_of_key, topic_name

SESSION_S = 6.0
FEED_S = 24.0
BATCH_EVERY_S = 0.1
SETTLE_S = 60.0


class Material(Protocol):
    """What a series is made of. Ids are unique; `number` counts from 0 for each role."""

    def record(self, role: str, number: int) -> tuple[bytes, bytes]:
        """Key and value of a landed record."""
        ...

    def id_of(self, role: str, number: int) -> Hashable: ...

    def id_in(self, message: Message) -> Hashable | None:
        """Which record an output came from; None for an output that is not counted."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    worker: int
    kind: str  # kill, term: started again after `for_s`; stop: woken after `for_s`
    for_s: float


@dataclass(slots=True)
class Outcome:
    expected: set[Hashable]
    seen: Counter[Hashable]

    @property
    def lost(self) -> set[Hashable]:
        return self.expected - set(self.seen)

    @property
    def twice(self) -> list[Hashable]:
        return [found for found, count in self.seen.items() if count > 1]

    @property
    def invented(self) -> set[Hashable]:
        return set(self.seen) - self.expected


def faults_of(seed: int, extra: int = 0) -> list[Fault]:
    """Each kind at least once, on a worker and at a time that the seed chooses; some overlap."""
    rng = random.Random(seed)
    kinds = ["kill", "stop", "term", *rng.choices(["kill", "stop", "term"], k=extra)]
    rng.shuffle(kinds)
    step = (FEED_S - 4) / len(kinds)
    faults = []
    for place, kind in enumerate(kinds):
        lasts = SESSION_S + rng.uniform(1.5, 3.5) if kind == "stop" else rng.uniform(0.2, 3.0)
        at = 2.0 + place * step + rng.uniform(0, step / 2)
        faults.append(Fault(at, rng.randrange(2), kind, lasts))
    return faults


class Feeder(threading.Thread):
    """Feeds both topics for FEED_S: live singly, backfill in transactions, one in five aborted."""

    def __init__(self, world: World, preset: Preset, material: Material, per_batch: int) -> None:
        super().__init__(daemon=True)
        self._world, self._preset, self._material = world, preset, material
        self._per_batch = per_batch
        self.sent: set[Hashable] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._feed()
        except BaseException as error:
            self.failure = error

    def _feed(self) -> None:
        began, batch = time.monotonic(), 0
        live = IdempotentProducer(self._world.cluster)
        backfill = TransactionalProducer(
            self._world.cluster, f"seamline.{self._preset.id}.backfill.0"
        )
        backfill.init()
        while time.monotonic() - began < FEED_S:
            numbers = range(batch * self._per_batch, (batch + 1) * self._per_batch)
            for number in numbers:
                key, value = self._material.record("live", number)
                live.send(topic_name(self._preset.id, "live"), key, value)
            live.flush()
            self.sent.update(self._material.id_of("live", n) for n in numbers)
            self._transaction(backfill, numbers, aborted=batch % 5 == 4)
            batch += 1
            time.sleep(max(0.0, began + batch * BATCH_EVERY_S - time.monotonic()))
        live.close()
        backfill.close()

    def _transaction(
        self, producer: TransactionalProducer, numbers: Sequence[int], *, aborted: bool
    ) -> None:
        producer.begin()
        for number in numbers:
            key, value = self._material.record("backfill", number)
            partition = partition_of_key(key, self._preset.partitions)
            producer.send(topic_name(self._preset.id, "backfill"), partition, key, value)
        if aborted:
            producer.abort()
            return
        producer.commit()
        self.sent.update(self._material.id_of("backfill", n) for n in numbers)


def run_series(
    seed: int,
    world: World,
    preset: Preset,
    material: Material,
    command: Callable[[Path], list[str]],
    directory: Path,
    *,
    per_batch: int = 40,
    extra_faults: int = 0,
    owned: str = "OWNED",
) -> Outcome:
    """Feed under faults, wake everybody, and read what came out. `owned` is what a worker says
    when it owns something."""
    workers = [
        WorkerProcess(f"w{n}", directory / f"w{n}", world, command(directory / f"w{n}"))
        for n in range(2)
    ]
    logs = {w.name: w.log for w in workers}
    feeder = Feeder(world, preset, material, per_batch)
    try:
        for worker in workers:
            worker.start()
        # Workers that start on an empty cache compile first, here several at once.
        await_that(lambda: any(w.said(owned) for w in workers), 120, "first owner", logs)
        feeder.start()
        play(faults_of(seed, extra_faults), workers)
        feeder.join(FEED_S + 30)
        if feeder.failure is not None:
            raise feeder.failure
        assert not feeder.is_alive()
        await_that(
            lambda: read_out(world, preset, material, feeder.sent).lost == set(),
            SETTLE_S,
            f"every record out, seed {seed}, {faults_of(seed, extra_faults)}",
            logs,
        )
        # A woken worker that still thinks it owns something has had its chance when it has been
        # told otherwise: end everybody in order, then read again.
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(15)
        return read_out(world, preset, material, feeder.sent)
    finally:
        for worker in workers:
            worker.end()


def play(faults: Sequence[Fault], workers: Sequence[WorkerProcess]) -> None:
    """Carry the faults out at their times and undo them at theirs."""
    began = time.monotonic()
    deeds = sorted(
        [(f.at_s, "do", f) for f in faults] + [(f.at_s + f.for_s, "undo", f) for f in faults],
        key=lambda deed: (deed[0], deed[1]),
    )
    numbers = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
    struck: set[Fault] = set()
    for at, what, fault in deeds:
        time.sleep(max(0.0, began + at - time.monotonic()))
        worker = workers[fault.worker]
        if what == "do":
            if worker.status is None:
                worker.signal(numbers[fault.kind])
                struck.add(fault)
        elif fault not in struck:
            continue  # it was down already, and another fault starts it again
        elif fault.kind == "stop":
            worker.signal(signal.SIGCONT)
        else:
            await_that(lambda w=worker: ended(w), 20, "its end")  # type: ignore[misc]
            worker.start()


def ended(worker: WorkerProcess) -> bool:
    # A term on a stopped worker takes effect when it is woken: wake it.
    worker.signal(signal.SIGCONT)
    return worker.status is not None


def read_out(world: World, preset: Preset, material: Material, expected: set[Hashable]) -> Outcome:
    """Everything committed to conformed, as any reader sees it."""
    tps = [(topic_name(preset.id, "conformed"), n) for n in range(preset.partitions)]
    admin = Admin(world.cluster)
    begins, fences = admin.begin_offsets(tps), admin.end_offsets(tps)
    seen: Counter[Hashable] = Counter()
    for batch in read_range(world.cluster, begins, fences):
        for message in batch:
            found = material.id_in(message)
            if found is not None:
                seen[found] += 1
    return Outcome(set(expected), seen)
