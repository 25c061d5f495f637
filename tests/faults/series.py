"""One series: some workers, both landing topics fed, faults by a seed, every record accounted for.

The material is abstract: what is fed and how an output record names what it came from are given by
a `Material`, so the same series runs the copying machine and the real one. Each record is fed once
and in order of its symbol, so each is one row of the log, and what a woken worker writes although
it lost its partitions would be a second one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e.workers import WorkerProcess, await_that
from faults.case import Outcome
from faults.causes import play, worker_causes
from faults.timeline import Timeline, plan
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.preset import Preset
from seamline.schemas.topics import partition_of_key, topic_name

SESSION_S = 6.0
FEED_S = 24.0
BATCH_EVERY_S = 0.1
SETTLE_S = 90.0
START_S = 400.0
CAUSES = worker_causes(SESSION_S)

Id = Hashable


class Material(Protocol):
    """What a series is made of. Ids are unique; `number` counts from 0 for each role."""

    def record(self, role: str, number: int) -> tuple[bytes, bytes]:
        """Key and value of a landed record."""
        ...

    def made(self, role: str, number: int) -> tuple[Id, Hashable]:
        """Its id, and the content that an output of it has."""
        ...

    def read(self, message: Message) -> tuple[Id, Hashable] | None:
        """Id and content of an output; None for one that is not counted."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How hard a series is. `owned` is what a worker says when it owns something."""

    workers: int = 2
    per_batch: int = 40
    extra_faults: int = 0
    owned: str = "OWNED"


@dataclass(slots=True)
class Output:
    """What was fed and what came out: id to content, and how often each id came."""

    expected: dict[Id, Hashable]
    contents: dict[Id, set[Hashable]]
    counts: Counter[Id]

    @property
    def lost(self) -> set[Id]:
        return self.expected.keys() - self.contents.keys()

    @property
    def twice(self) -> list[Id]:
        return [found for found, count in self.counts.items() if count > 1]

    @property
    def changed(self) -> list[Id]:
        return [
            found
            for found, contents in self.contents.items()
            if found in self.expected and contents != {self.expected[found]}
        ]

    @property
    def invented(self) -> set[Id]:
        return self.contents.keys() - self.expected.keys()


def timeline_of(seed: int, workers: int, extra: int = 0) -> Timeline:
    """Each kind of fault at least once, on workers and at times that the seed chooses."""
    names = [f"w{number}" for number in range(workers)]
    kinds = [cause.on(*names) for cause in CAUSES.values()]
    return plan(seed, kinds, FEED_S - 2, extra=extra)


class Feeder(threading.Thread):
    """Feeds both topics for FEED_S: live singly, backfill in transactions, one in five aborted."""

    def __init__(self, world: World, preset: Preset, material: Material, per_batch: int) -> None:
        super().__init__(daemon=True)
        self._world, self._preset, self._material = world, preset, material
        self._per_batch = per_batch
        self.sent: dict[Id, Hashable] = {}
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
            self.sent.update(self._material.made("live", n) for n in numbers)
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
        self.sent.update(self._material.made("backfill", n) for n in numbers)


def run_series(
    seed: int,
    world: World,
    preset: Preset,
    material: Material,
    start: Callable[[str], WorkerProcess],
    shape: Shape,
) -> Outcome:
    """Feed under faults, wake everybody, and read what came out. `start` makes a worker of a
    name, not yet running."""
    began = time.monotonic()
    timeline = timeline_of(seed, shape.workers, shape.extra_faults)
    workers = {name: start(name) for name in (f"w{n}" for n in range(shape.workers))}
    logs = {name: worker.log for name, worker in workers.items()}
    feeder = Feeder(world, preset, material, shape.per_batch)
    try:
        first, *others = workers.values()
        first.start()
        # On an empty cache the first one compiles, and the others find what it made.
        await_that(lambda: first.said(shape.owned) > 0, START_S, "the first owner", logs)
        for worker in others:
            worker.start()
        feeder.start()
        struck = play(timeline, CAUSES, workers)
        feeder.join(FEED_S + 60)
        if feeder.failure is not None:
            raise feeder.failure
        assert not feeder.is_alive()
        await_that(
            lambda: not read_out(world, preset, material, feeder.sent).lost,
            SETTLE_S,
            f"every record out, {timeline}",
            logs,
        )
        # A woken worker that still thinks it owns something has had its chance when it has been
        # told otherwise: end everybody in order, then read again.
        for worker in workers.values():
            worker.signal(signal.SIGTERM)
        for worker in workers.values():
            worker.wait(30)
        out = read_out(world, preset, material, feeder.sent)
    finally:
        for worker in workers.values():
            worker.end()
    return Outcome(
        seed=seed,
        timeline=str(timeline),
        struck=struck,
        bars=len(out.expected),
        lost=len(out.lost),
        duplicated=len(out.twice),
        changed=len(out.changed),
        invented=len(out.invented),
        seconds=time.monotonic() - began,
    )


def read_out(
    world: World, preset: Preset, material: Material, expected: dict[Id, Hashable]
) -> Output:
    """Everything committed to conformed, as any reader sees it."""
    tps = [(topic_name(preset.id, "conformed"), n) for n in range(preset.partitions)]
    admin = Admin(world.cluster)
    begins, fences = admin.begin_offsets(tps), admin.end_offsets(tps)
    out = Output(dict(expected), {}, Counter())
    for batch in read_range(world.cluster, begins, fences):
        for message in batch:
            found = material.read(message)
            if found is not None:
                out.counts[found[0]] += 1
                out.contents.setdefault(found[0], set()).add(found[1])
    return out


def in_directory(
    directory: Path, world: World, command: Callable[[Path], list[str]]
) -> Callable[[str], WorkerProcess]:
    """Workers below one directory, each in its own."""
    return lambda name: WorkerProcess(name, directory / name, world, command(directory / name))
