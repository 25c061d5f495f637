"""A plane under load while its brokers fail: producers, the real worker, a reader throughout.

Decides: what was acknowledged (and so must come out, once), how long a feeder stood still, and what
the worker, the reader and its certificate must be at the end. Invariants: a record counts only
after the broker has acknowledged it; a transaction whose commit failed is sent again by a new
producer of the same id, as the product does it, so on the landing topic it may lie twice and in
the log it must not. Must not know: what is done to the brokers.
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from e2e.workers import WorkerProcess, await_that
from faults.bars import MINUTE_NS, OWNS, START_NS, Bars, worker_process
from faults.case import Ground, Outcome
from faults.series import Id, read_out
from preset_making import FreshPreset, make_preset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.connectors.kafka.reader import read_range
from seamline.schemas.errors import TransportError
from seamline.schemas.times import format_time
from seamline.schemas.topics import partition_of_key
from seamline.sdk import SeamStream, stitch
from seamline.sdk.certificate import verify
from seamline.sdk.demo.follower import Follower

SESSION_S = 6.0
SYMBOLS = 37  # of each landing topic, by `Bars`
BATCH_EVERY_S = 0.25
GIVE_UP_S = 150.0
SETTLE_S = 240.0
FIRST_S = 400.0
ASK_S = 30.0


class Feeder(threading.Thread, ABC):
    """Sends a minute of every symbol every BATCH_EVERY_S until told to stop."""

    def __init__(self, role: str, fresh: FreshPreset, bars: Bars) -> None:
        super().__init__(name=f"feeder {role}", daemon=True)
        self.role = role
        self.acknowledged: dict[Id, Hashable] = {}
        self.longest_pause_s = 0.0
        self.troubles: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.ending = threading.Event()
        self._fresh, self._bars = fresh, bars

    def run(self) -> None:
        try:
            self._feed()
        except BaseException as error:  # kept for the thread that waits
            self.failure = error

    def end(self) -> None:
        """Stop after the batch under way. Raises what ended it early."""
        self.ending.set()
        self.join(GIVE_UP_S + 60)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"the {self.name} does not end"

    def _feed(self) -> None:
        began, minute = time.monotonic(), 0
        while not self.ending.is_set():
            numbers = range(minute * SYMBOLS, (minute + 1) * SYMBOLS)
            sent = time.monotonic()
            self._send(numbers)
            self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - sent)
            self.acknowledged.update(self._bars.made(self.role, n) for n in numbers)
            minute += 1
            # The time that a fault took is not made up for: the load stays what it was.
            began = max(began, time.monotonic() - minute * BATCH_EVERY_S)
            self.ending.wait(max(0.0, began + minute * BATCH_EVERY_S - time.monotonic()))
        self._close()

    @abstractmethod
    def _send(self, numbers: Sequence[int]) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _trouble(self, error: TransportError, deadline: float) -> None:
        self.troubles[str(error.fields.get("code"))] += 1
        # Nobody else has the id: a coordinator that came back ended the transaction by its timeout.
        again = error.retriable or isinstance(error, FencedError)
        if not again or time.monotonic() >= deadline:
            raise error


class LiveFeeder(Feeder):
    """As `seamline live` sends: singly, idempotent, all replicas in sync, flushed."""

    def __init__(self, fresh: FreshPreset, bars: Bars) -> None:
        super().__init__("live", fresh, bars)
        self._producer = IdempotentProducer(fresh.world.cluster)

    def _send(self, numbers: Sequence[int]) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        for number in numbers:
            key, value = self._bars.record("live", number)
            self._producer.send(self._fresh.topic("live"), key, value)
        while True:
            try:
                self._producer.flush()
                return
            except TransportError as error:
                self._trouble(error, deadline)

    def _close(self) -> None:
        self._producer.close()


class BackfillFeeder(Feeder):
    """As a backfill worker sends: one transaction a batch; after a failure a new producer of the
    same id settles what was left open, and the batch is sent again."""

    def __init__(self, fresh: FreshPreset, bars: Bars) -> None:
        super().__init__("backfill", fresh, bars)
        self._producer: TransactionalProducer | None = None

    def _send(self, numbers: Sequence[int]) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                self._transaction(numbers)
                return
            except TransportError as error:
                self._close()
                self._trouble(error, deadline)

    def _transaction(self, numbers: Sequence[int]) -> None:
        if self._producer is None:
            name = f"seamline.{self._fresh.preset.id}.backfill.0"
            self._producer = TransactionalProducer(self._fresh.world.cluster, name)
            self._producer.init()
        self._producer.begin()
        for number in numbers:
            key, value = self._bars.record("backfill", number)
            partition = partition_of_key(key, self._fresh.preset.partitions)
            self._producer.send(self._fresh.topic("backfill"), partition, key, value)
        self._producer.commit()

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()


class Seen:
    """Which bars have come out so far; each look reads only what is new."""

    def __init__(self, fresh: FreshPreset, bars: Bars) -> None:
        self.ids: set[Id] = set()
        self._cluster, self._bars = fresh.world.cluster, bars
        self._admin = Admin(fresh.world.cluster, ASK_S)
        topic = fresh.topic("conformed")
        self._next = {(topic, n): 0 for n in range(fresh.preset.partitions)}

    def look(self) -> set[Id]:
        ends = self._admin.end_offsets(self._next)
        fences = {tp: max(at, ends[tp]) for tp, at in self._next.items()}
        for batch in read_range(self._cluster, self._next, fences):
            found = (self._bars.read(message) for message in batch)
            self.ids.update(bar[0] for bar in found if bar is not None)
        self._next = fences
        return self.ids


@dataclass
class Load:
    """Everything that runs while the brokers fail; a context. `wrong`: sentences."""

    ground: Ground
    fresh: FreshPreset = field(init=False)
    feeders: tuple[Feeder, ...] = field(init=False)
    worker: WorkerProcess = field(init=False)
    reader: Follower | None = None
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.fresh = make_preset(self.ground.world, self.ground.directory, partitions=4)
        self._bars = Bars(self.fresh.ids)
        self._seen = Seen(self.fresh, self._bars)
        self.feeders = (
            LiveFeeder(self.fresh, Bars(self.fresh.ids)),
            BackfillFeeder(self.fresh, Bars(self.fresh.ids)),
        )
        self.worker = worker_process("w0", self.ground.directory, [self.fresh], SESSION_S)
        self.worker.start()
        self._pid = self.worker.pid
        try:
            self.await_that(lambda: self.worker.said(OWNS) > 0, FIRST_S, "first owner")
            for feeder in self.feeders:
                feeder.start()
            # A reader refuses a symbol that has no bar yet.
            self.await_that(self._all_symbols_out, SETTLE_S, "a bar of each symbol")
            self.reader = Follower(self._stream)
            self.reader.start()
            reader = self.reader
            self.await_that(
                lambda: reader.failure is not None or reader.kept.certificate is not None,
                SETTLE_S,
                "the reader's certificate",
            )
            reader.check()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for feeder in self.feeders:
            feeder.ending.set()
        if self.reader is not None:
            self.reader.stop()
        self.worker.end()

    def await_that(self, condition: Callable[[], bool], deadline_s: float, what: str) -> float:
        return await_that(condition, deadline_s, what, {"worker": self.worker.log})

    def settle(self, seed: int, timeline: str, struck: Counter[str], began: float) -> Outcome:
        """Stop feeding, wait for the end of the work, and compare."""
        for feeder in self.feeders:
            feeder.end()
        expected = {k: v for feeder in self.feeders for k, v in feeder.acknowledged.items()}
        world, preset = self.fresh.world, self.fresh.preset
        self.await_that(
            lambda: expected.keys() <= self._seen.look(), SETTLE_S, "every acknowledged bar out"
        )
        if self.worker.status is not None or self.worker.pid != self._pid:
            self.wrong.append(f"the worker's process ended: {self.worker.status}")
        self.worker.signal(signal.SIGTERM)
        if (status := self.worker.wait(30)) != 0:
            self.wrong.append(f"the worker ended with {status} on SIGTERM")
        out = read_out(world, preset, self._bars, expected)
        self._check_reader({_key(name): price for name, price in expected.items()})
        return Outcome(
            seed=seed,
            timeline=f"{timeline}; {self.told()}",
            struck=struck,
            bars=len(expected),
            lost=len(out.lost),
            duplicated=len(out.twice),
            changed=len(out.changed),
            invented=len(out.invented),
            wrong=tuple(self.wrong),
            seconds=time.monotonic() - began,
        )

    def told(self) -> str:
        """How long each feeder stood still at most, and what its client told it."""
        return ", ".join(
            f"{f.role} stood still {f.longest_pause_s:.1f} s at most"
            + (f" {dict(f.troubles)}" if f.troubles else "")
            for f in self.feeders
        )

    def _all_symbols_out(self) -> bool:
        return len({_key(name)[0] for name in self._seen.look()}) == 2 * SYMBOLS

    def _stream(self) -> SeamStream:
        symbols = [f"{role}{n}/USDT" for role in "LB" for n in range(SYMBOLS)]
        return stitch(
            self.fresh.preset.id,
            symbols,
            format_time(START_NS),
            on_gap="flag",
            world=self.fresh.world,
            presets=self.fresh.presets,
        )

    def _check_reader(self, expected: dict[tuple[str, int], Hashable]) -> None:
        """The reader that ran throughout has every bar once, and its certificate holds."""
        assert self.reader is not None
        reader, kept = self.reader, self.reader.kept
        self.await_that(
            lambda: reader.failure is not None or len(kept.bars) >= len(expected),
            SETTLE_S,
            "the reader has every bar",
        )
        if reader.failure is not None:
            self.wrong.append(f"the reader ended: {reader.failure}")
            return
        found = {key: bar.open for key, bar in kept.bars.items()}
        if found != expected:
            unlike = {k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)}
            self.wrong.append(f"the reader has {len(unlike)} bars unlike: {sorted(unlike)[:5]}")
        if kept.duplicates or kept.revisions:
            self.wrong.append(
                f"the reader got {kept.duplicates} bars twice, {kept.revisions} revisions"
            )
        assert kept.certificate is not None
        presets = {self.fresh.preset.id: self.fresh.preset}
        _, answer = verify(kept.certificate, world=self.fresh.world, presets=presets)
        if answer["status"] != "verified":
            self.wrong.append(f"the reader's certificate is {answer}")


def _key(name: Any) -> tuple[str, int]:
    symbol, minute = name
    return symbol, START_NS + minute * MINUTE_NS
