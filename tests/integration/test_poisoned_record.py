"""A record that makes the real machine fail, on the real broker: found, tried, put aside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.app_harness import Harness, app_running
from machine_world import Row, columns_of, in_canary
from preset_fixture import FreshPreset, MakePreset
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.world import World
from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import Policy
from seamline.schemas.topics import partition_of
from seamline.streams.apps.factory import make_factory
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.kernel.protocol import (
    Machine,
    MachineFactory,
    PartitionReader,
    Record,
    Role,
    Step,
)

PRICE = 666.0  # of the record that the machine cannot take


class Tripping:
    """The real machine; a step with the poisoned value fails after it has changed the state."""

    def __init__(self, machine: Machine, maker: TrippingFactory) -> None:
        self._machine, self._maker = machine, maker

    @property
    def position(self) -> Mapping[str, int]:
        return self._machine.position

    @property
    def frontier_ns(self) -> int | None:
        return self._machine.frontier_ns

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        step = self._machine.step(role, records, start, clock_ns, policy)
        if any(record.value == self._maker.poison for record in records[: step.next_index]):
            self._maker.failed.append(len(records))
            raise self._maker.error
        return step

    def tick(self, clock_ns: int) -> Step | None:
        return self._machine.tick(clock_ns)

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        return self._machine.refuse(role, record, detail, clock_ns)

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        self._machine.committed(step, offsets)

    def close(self) -> None:
        self._machine.close()


class TrippingFactory:
    def __init__(self, factory: MachineFactory, poison: bytes, error: Exception) -> None:
        self._factory, self.poison, self.error = factory, poison, error
        self.failed: list[int] = []

    def warm(self) -> None:
        self._factory.warm()

    def series(self) -> Sequence[tuple[str, str]]:
        return self._factory.series()

    def outputs(self) -> Sequence[str]:
        return self._factory.outputs()

    def policy(self, role: Role) -> Policy:
        return self._factory.policy(role)

    def rebuild(self, reader: PartitionReader) -> Machine:
        return Tripping(self._factory.rebuild(reader), self)


def tripping(
    fresh: FreshPreset, directory: Path, value: bytes, error: Exception
) -> TrippingFactory:
    real = make_factory(fresh.preset, fresh.derived, fresh.world, directory, in_canary)
    return TrippingFactory(real, value, error)


def bars(fresh: FreshPreset, symbol: str, prices: Sequence[float]) -> list[bytes]:
    rows = [Row(symbol, minute, price) for minute, price in enumerate(prices)]
    return encode_bars([symbol] * len(rows), columns_of(rows), fresh.ids["bar"])


def land(harness: Harness, symbol: str, values: Sequence[bytes]) -> None:
    producer = IdempotentProducer(harness.world.cluster)
    for value in values:
        producer.send(harness.topic("live"), symbol.encode(), value)
    producer.close()


def messages(harness: Harness, role: str, partition: int) -> list[Message]:
    tp = (harness.topic(role), partition)
    admin = Admin(harness.world.cluster)
    begin, end = admin.begin_offsets([tp]), admin.end_offsets([tp])
    return [m for batch in read_range(harness.world.cluster, begin, end) for m in batch]


def conformed(harness: Harness, partition: int) -> list[tuple[float, int]]:
    """(open, revision) in the order of the log."""
    values = [m.value for m in messages(harness, "conformed", partition)]
    columns = ConformedDecoder().decode([value for value in values if value is not None]).columns
    return list(zip(columns.open.tolist(), columns.revision.tolist(), strict=True))


def counted(harness: Harness) -> float:
    return float(harness.metrics.quarantined.labels(harness.preset.id, "poisoned")._value.get())


def test_a_poisoned_record_goes_to_quarantine_and_live_goes_on(
    world: World, fresh_preset: MakePreset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First the broker and the disk fail on it, which is held against no record; then the machine
    does by itself."""
    fresh = fresh_preset()
    symbol = "P0/USDT"
    partition = partition_of(symbol, fresh.preset.partitions)
    prices = [100.0] * 60 + [PRICE] + [101.0] * 40
    values = bars(fresh, symbol, prices)
    transport = TransportError("the broker does not answer")
    factory = tripping(fresh, tmp_path, values[60], transport)
    quick = OwnerSettings(wait_max_s=0.2)

    async def run() -> None:
        async with app_running(
            world, fresh.preset, tmp_path, factory=factory, owner=quick
        ) as harness:
            assert counted(harness) == 0
            land(harness, symbol, values)
            for error in (transport, OSError(28, "No space left on device")):
                factory.error = error
                factory.failed.clear()
                await harness.until(lambda: factory.failed.count(1) > 2, "tries of it alone", 60)
                assert messages(harness, "quarantine", partition) == []
            factory.failed.clear()
            factory.error = IndexError("no such slot")
            await harness.until(lambda: len(conformed(harness, partition)) == 100, "all others", 60)
            assert conformed(harness, partition) == [(p, 0) for p in prices if p != PRICE]
            (kept,) = messages(harness, "quarantine", partition)
            headers: Mapping[str, Any] = dict(kept.headers)
            assert (kept.key, kept.value) == (symbol.encode(), values[60])
            assert headers["seamline-reason"] == b"poisoned"
            assert headers["seamline-detail"] == b"IndexError: no such slot"
            assert headers["seamline-origin-topic"] == fresh.topic("live").encode()
            assert headers["seamline-origin-offset"] == b"60"
            assert counted(harness) == 1
            # What comes after it is not slowed by what is remembered of it.
            land(harness, symbol, bars(fresh, symbol, [*prices, 102.0])[-1:])
            await harness.until(lambda: conformed(harness, partition)[-1] == (102.0, 0), "the next")

    with caplog.at_level(logging.ERROR, "seamline"):
        asyncio.run(run())
    said = [r.getMessage() for r in caplog.records if "is passed over" in r.getMessage()]
    assert len(said) == 1 and f"offset 60 of {fresh.topic('live')}" in said[0], said
    assert "after 5 attempts: IndexError: no such slot" in said[0]
