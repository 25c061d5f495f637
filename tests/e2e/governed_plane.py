"""A stack of its own with a preset, a worker process, a feed that never stops, and the commands.

Decides: what people of a governed preset do and see: who sends (our own feed, another team), what
the worker answers on its port, what lies in the topics. Invariants: a round of the feed is
acknowledged before the next begins, so how long the slowest took says how slow broker and machine
were meanwhile, whatever the worker did; a bar of the other team is remembered as it was sent. Must
not know: modes, rules.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml
from typer.testing import CliRunner

from e2e.workers import WorkerProcess, await_that
from faults.comparison import Contents, Key, Values, contents
from preset_making import FreshPreset, make_listed
from seamline.connectors.embedded import stack
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.connectors.kafka.reader import Headers, Message, read_range
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder, ConformedDecoder
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.topics import HEADER_PRODUCER, HEADER_WATERMARK_NS, partition_of, subject_of
from seamline.sdk.cli.main import app
from seamline.sdk.producing import Producer
from third_party import ThirdParty

MINUTE_NS: Final = 60_000_000_000
START_NS: Final = 1_700_006_400_000_000_000  # where a block of 60 minutes starts
BLOCK_ROWS: Final = 60
PARTITIONS: Final = 2
DEADLINE_S: Final = 240.0
# What the feed waits between two rounds.
PACE_S: Final = 0.1
FEED: Final = "good-feed"
OTHERS: Final = "other-team"


def symbol_of(name: str, partition: int) -> str:
    """A symbol of the partition that begins with `name`."""
    names = (f"{name}{n}/USDT" for n in range(99))
    return next(each for each in names if partition_of(each, PARTITIONS) == partition)


# The feed has one symbol in each partition; the other team shares the first.
OURS: Final = (symbol_of("OURS", 0), symbol_of("OURS", 1))
THEIRS: Final = symbol_of("THEIRS", 0)


def time_of(minute: int) -> int:
    return START_NS + minute * MINUTE_NS


def values_of(price: float, volume: float) -> Values:
    """A bar as `faults.comparison` reads it: open, high, low, close, volume, then nulls."""
    return (price, price, price, price, volume, None, None, None, None)


class Feed:
    """Our own feed: the product's producer, one bar of each of OURS a round. Use `with`."""

    def __init__(self, fresh: FreshPreset) -> None:
        self._producer = Producer(
            fresh.preset.id, name=FEED, world=fresh.world, presets=fresh.presets
        )
        self.sent: dict[Key, Values] = {}
        # Begin and end of each round, UTC ns.
        self.rounds: list[tuple[int, int]] = []
        self._failed: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Everything sent is acknowledged, else it raises."""
        self._stopping.set()
        self._thread.join(DEADLINE_S)
        self._producer.close()
        if self._failed is not None:
            raise self._failed

    def await_rounds(self, more: int) -> None:
        wanted = len(self.rounds) + more

        def went() -> bool:
            assert self._failed is None, self._failed
            return len(self.rounds) >= wanted

        await_that(went, DEADLINE_S, f"{more} rounds of the feed")

    def slowest_ns(self, since_ns: int, until_ns: int) -> int:
        """Of the rounds of that time, the longest."""
        took = [end - begin for begin, end in self.rounds if end >= since_ns and begin <= until_ns]
        return max(took, default=0)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(PACE_S):
                self._round()
        except BaseException as error:
            self._failed = error

    def _round(self) -> None:
        minute, began_ns = len(self.rounds), time.time_ns()
        for number, symbol in enumerate(OURS):
            price = 100.0 * (number + 1) + minute % 7
            bar = {
                "open_time_ns": time_of(minute),
                **dict.fromkeys(("open", "high", "low", "close"), price),
                "volume": 1.0,
            }
            self._producer.send_bars(symbol, [bar])
            self.sent[symbol, time_of(minute)] = values_of(price, 1.0)
        self._producer.flush(DEADLINE_S)
        self.rounds.append((began_ns, time.time_ns()))


@dataclass(frozen=True, slots=True)
class Sent:
    """A record of the other team, and what its bar is where it passes."""

    record: tuple[bytes | None, bytes | None, Headers]
    bar: Key
    values: Values
    acked_ns: int


class OtherTeam:
    """Somebody else's producers: one with a schema of its own in which volumes are texts, and one
    with ours. Use `with`; every record is acknowledged when `send` returns."""

    def __init__(self, fresh: FreshPreset, symbol: str = THEIRS) -> None:
        world, preset, self._symbol, self._next = fresh.world, fresh.preset, symbol, 0
        self.drifting = ThirdParty(world, preset, retype={"volume": "string"}, name=OTHERS)
        self.ours = ThirdParty(world, preset, text=SCHEMAS["bar"].text, name=OTHERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.drifting.close()
        self.ours.close()

    def drift(self) -> Sent:
        """A bar whose volume is the text 12.5."""
        return self.send(self.drifting, 12.5, volume="12.5")

    def break_rule(self) -> Sent:
        """A bar of the approved schema with a negative volume."""
        return self.send(self.ours, -2.5, volume=-2.5)

    def right(self) -> Sent:
        return self.send(self.ours, 3.0, volume=3.0)

    def send(
        self, by: ThirdParty, meant: float, *, minute: int | None = None, **fields: Any
    ) -> Sent:
        """One bar of the next minute, or of `minute`; `meant`: its volume as a number."""
        if minute is None:
            minute, self._next = self._next, self._next + 1
        value = by.send(self._symbol, time_of(minute), **fields)
        by.flush()
        price = float(fields.get("open", 100.0))
        return Sent(
            (self._symbol.encode(), value, tuple(by.headers)),
            (self._symbol, time_of(minute)),
            values_of(price, meant),
            time.time_ns(),
        )


class GovernedPlane:
    """The stack, the preset `fresh`, its worker. `also`: further presets of the same worker."""

    def __init__(self, directory: Path, also: Mapping[str, Mapping[str, Any]]) -> None:
        self.home = directory / "stack"
        ready = stack.up(self.home)
        self.world = World(Cluster(ready.bootstrap), ready.registry_url)
        name = "ohlcv.acme.spot.1m"
        own = {"kind": "ohlcv", "interval_ms": 60_000, "partitions": PARTITIONS}
        own |= {"block_rows": BLOCK_ROWS, "live": {"feed": "binance.ws.kline.1m"}}
        file = directory / "presets.yaml"
        document = {"version": 1, "data_presets": {name: own, **also}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self.fresh = make_listed(self.world, file, name)
        self.others = [make_listed(self.world, file, each) for each in also]
        argv = [sys.executable, "-m", "seamline.sdk.cli", "worker", name, *also]
        argv += ["--dir", str(directory / "worker"), "--metrics-port", "0", "--verbose"]
        environment = self.fresh.environment()
        self.worker = WorkerProcess("worker", directory / "w", self.world, argv, environment)

    @property
    def subject(self) -> str:
        return subject_of(self.fresh.topic("live"))

    @property
    def log(self) -> GovernanceLog:
        return GovernanceLog(self.world.cluster)

    def await_(self, condition: Callable[[], bool], what: str) -> float:
        def holds() -> bool:
            assert self.worker.status is None, self.worker.log.read_text()[-3000:]
            return condition()

        return await_that(holds, DEADLINE_S, what, {"worker": self.worker.log})

    def await_mode(self, subject: str, mode: str, version: int) -> None:
        """The worker says that it follows."""
        told = f"{subject} is {mode} (version {version},"
        self.await_(lambda: self.worker.said(told) > 0, told)

    def run(self, *arguments: str) -> tuple[int, Any]:
        """A command, as a person gives it: its exit status and its answer."""
        environment = self.fresh.environment() | {"SEAMLINE_ACTOR": "ops"}
        found = CliRunner().invoke(app, [*arguments, "-o", "json"], env=environment)
        return found.exit_code, json.loads(found.stdout) if found.stdout else found.stderr

    def series(self) -> dict[str, float]:
        """Everything on the worker's port, by name and labels."""
        port = self.worker.log.read_text().split("metrics on http://127.0.0.1:")[1].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def failures(self, mode: str, subject: str | None = None) -> float:
        labels = f'{{mode="{mode}",subject="{subject or self.subject}"}}'
        return self.series()[f"seamless_schema_validation_failures_total{labels}"]

    def messages(self, role: str, of: FreshPreset | None = None) -> list[Message]:
        """Of each partition in its order."""
        fresh = of or self.fresh
        tps = [(fresh.topic(role), n) for n in range(fresh.preset.partitions)]
        admin = Admin(self.world.cluster)
        begins, ends = admin.begin_offsets(tps), admin.end_offsets(tps)
        return [m for batch in read_range(self.world.cluster, begins, ends) for m in batch]

    def conformed(self) -> dict[Key, int]:
        """When each bar was appended, by the broker's clock (ms); the first time."""
        messages = self.messages("conformed")
        decoder = ConformedDecoder()
        decoded = decoder.decode([m.value or b"" for m in messages])
        return _times(messages, decoder.symbols, decoded.sid, decoded.columns.open_time_ns)

    def landed_by_feed(self) -> dict[Key, int]:
        """The same of the feed's bars where they landed."""
        who = (HEADER_PRODUCER, FEED.encode())
        messages = [m for m in self.messages("live") if who in m.headers]
        decoder = BarDecoder()
        decoded = decoder.decode([m.value or b"" for m in messages])
        return _times(messages, decoder.symbols, decoded.sid, decoded.columns.open_time_ns)

    def contents_when_sealed(self, bars: Sequence[Key]) -> Contents:
        """Let every block of these bars be over; what the preset holds when they are sealed."""
        newest = max(time_ns for _, time_ns in bars)
        over = START_NS + (newest - START_NS) // (BLOCK_ROWS * MINUTE_NS) * BLOCK_ROWS * MINUTE_NS
        until_ns = over + 2 * BLOCK_ROWS * MINUTE_NS
        producer = IdempotentProducer(self.world.cluster)
        watermark = (HEADER_WATERMARK_NS, str(until_ns).encode())
        for number in range(PARTITIONS):
            headers = [("seamline-venue", b"test"), watermark]
            producer.send(self.fresh.topic("live"), None, None, headers=headers, partition=number)
        producer.close()
        found = Contents()

        def sealed() -> bool:
            nonlocal found
            found = contents(self.fresh)
            return all(bar in found.stored for bar in bars)

        self.await_(sealed, "everything in storage")
        return found

    def stop_registry(self) -> None:
        """It takes connections and says nothing."""
        os.kill(stack.endpoints(self.home, {}).registry_pid, signal.SIGSTOP)

    def kill_registry(self) -> None:
        os.kill(stack.endpoints(self.home, {}).registry_pid, signal.SIGKILL)

    def start_registry(self) -> None:
        stack.up(self.home)


@contextmanager
def governed_plane(
    directory: Path, also: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[GovernedPlane]:
    """A plane whose worker owns everything."""
    plane = None
    try:
        plane = GovernedPlane(directory, also or {})
        plane.worker.start()
        presets = 1 + len(also or {})
        plane.await_(lambda: plane.worker.said("owns partitions") >= presets, "a worker")
        yield plane
    finally:
        if plane is not None:
            plane.worker.end()
        stack.down(directory / "stack")


def _times(messages: Sequence[Message], symbols: Any, sid: Any, times_ns: Any) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for message, number, time_ns in zip(messages, sid.tolist(), times_ns.tolist(), strict=True):
        found.setdefault((symbols[number], time_ns), message.timestamp_ms)
    return found
