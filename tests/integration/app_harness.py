"""A preset's app inside the test process, so that a test can reach between its parts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from integration.copy_machine import CopyFactory
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.metrics import Metrics
from seamline.connectors.world import World
from seamline.schemas.preset import Preset
from seamline.schemas.topics import topic_name
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.apps.preset_app import AppSettings, PresetApp
from seamline.streams.apps.worker import end_apps, run_app
from seamline.streams.kernel.inbox import Budget
from seamline.streams.kernel.owner_states import State
from seamline.streams.kernel.protocol import MachineFactory

READY_S = 30.0


@dataclass(slots=True)
class Harness:
    app: PresetApp
    metrics: Metrics
    world: World
    preset: Preset

    def topic(self, role: str) -> str:
        return topic_name(self.preset.id, role)

    def feed(self, role: str, partition: int, values: list[bytes]) -> None:
        producer = IdempotentProducer(self.world.cluster)
        for value in values:
            producer.send(self.topic(role), b"k", value, partition=partition)
        producer.close()

    def out(self, partition: int) -> list[bytes]:
        """Committed values of conformed, in order."""
        tp = (self.topic("conformed"), partition)
        admin = Admin(self.world.cluster)
        begin, end = admin.begin_offsets([tp]), admin.end_offsets([tp])
        batches = read_range(self.world.cluster, begin, end)
        return [message.value or b"" for batch in batches for message in batch]

    async def until(self, condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not condition():
            if loop.time() > deadline:
                states = {n: (o.state, dict(o.position)) for n, o in self.app.owners.items()}
                raise AssertionError(f"not within {within_s:g} s: {what}; {states}")
            await asyncio.sleep(0.02)

    async def until_out(self, partition: int, values: list[bytes], within_s: float = 20.0) -> None:
        """Until each of `values` is out; then nothing may be there twice, or besides them."""
        wanted = Counter(values)
        position = sum(wanted.values())

        def there() -> bool:
            owner = self.app.owners[partition]
            return sum(owner.position.values()) >= position and not wanted - Counter(
                self.out(partition)
            )

        await self.until(there, f"{len(values)} records in partition {partition}", within_s)
        assert Counter(self.out(partition)) == wanted

    def running(self) -> bool:
        owners = self.app.owners
        return bool(owners) and all(o.state is State.RUNNING for o in owners.values())


@asynccontextmanager
async def app_running(
    world: World,
    preset: Preset,
    directory: Path,
    *,
    factory: MachineFactory | None = None,
    owner: OwnerSettings | None = None,
    ready: bool = True,
) -> AsyncIterator[Harness]:
    """All partitions of the preset owned by this process and, unless told otherwise, running."""
    metrics = Metrics()
    app = PresetApp(
        preset,
        world.cluster,
        factory or CopyFactory(preset.id),
        metrics,
        settings=AppSettings(6.0, directory, owner or OwnerSettings()),
        budget=Budget(),
        on_owned=lambda _preset, _partitions: None,
    )
    (directory / "faust").mkdir(parents=True, exist_ok=True)
    task = asyncio.create_task(run_app(app))
    harness = Harness(app, metrics, world, preset)
    try:
        if ready:
            await harness.until(lambda: harness.running() or task.done(), "owners", READY_S)
        if task.done():
            task.result()
        yield harness
    finally:
        await end_apps([app], [task])


def position_record(**positions: int) -> bytes:
    return json.dumps(positions).encode()


def numbered(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}-{n}".encode() for n in range(count)]


def marked(mark: str, values: list[bytes]) -> list[bytes]:
    return [mark.encode() + value for value in values]
