"""One world: its processes, its clock, and the acts that are done to it.

Decides: what each act means, what passes meanwhile. Invariants: nothing but seed and acts decides
what happens; after each act every invariant that can be judged then is judged; a fault is counted
where it takes effect, not where it was planned. Must not know: what makes a run fail.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from seamline.schemas.codec import SymbolTable, encode_bars
from seamline.schemas.contract import SCHEMAS, Schema
from seamline.schemas.modes import Policy
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import HEADER_FINGERPRINT, partition_of, topic_name
from seamline.streams.kernel.block_index import BlockIndex, MemoryIndex
from seamline.streams.kernel.feed import FeedBar
from seamline.streams.kernel.inbox import Budget, Inbox
from seamline.streams.kernel.protocol import Header, Machine, PartitionReader
from seamline.streams.kernel.rebuild import Setting, rebuild
from seamline.streams.kernel.simulation.backfill import Backfill
from seamline.streams.kernel.simulation.broker import Broker, Session, Transaction
from seamline.streams.kernel.simulation.checks import Auditor
from seamline.streams.kernel.simulation.connector import Connector, columns_of, event_of
from seamline.streams.kernel.simulation.model import Bar, Landed
from seamline.streams.kernel.simulation.plan import Act, Settings
from seamline.streams.kernel.simulation.reader import Reader
from seamline.streams.kernel.simulation.venue import (
    HISTORY_MINUTES,
    MINUTE_NS,
    START_NS,
    Venue,
    minute_of,
    time_of,
)
from seamline.streams.kernel.simulation.worker import DiskIndex, Worker

IDS: Final = {name: number + 10 for number, name in enumerate(SCHEMAS)}
NAMES: Final = {number: name for name, number in IDS.items()}
# Minutes of the venue after the last act: what heals needs some.
SPARE_MINUTES: Final = 40
COMPACTED: Final = ("storage", "seals", "gaps", "positions")
ACTIVE_TAIL: Final = 6
READ_STEPS_MAX: Final = 6
FOREIGN_NS: Final = 17 * NS_PER_S
FOREIGN: Final = ("bar", "bar", "bar", "open", "off_grid", "key", "bytes")


def resolve(number: int) -> Schema | None:
    """Registry of the world: every approved schema under its number."""
    return SCHEMAS[NAMES[number]] if number in NAMES else None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the world is made of; a test plants a defect by replacing one of them."""

    broker: Callable[[int], Broker] = Broker
    machine: Callable[[Machine], Machine] = lambda machine: machine
    inbox: Callable[[Budget], Inbox] = Inbox
    connector: Callable[..., Connector] = Connector
    worker: Callable[..., Worker] = Worker
    reader: Callable[..., Reader] = Reader


@dataclass(frozen=True, slots=True)
class Line:
    """Something that a person can read about a moment."""

    time_ns: int
    who: str
    text: str
    fault: bool = False

    @property
    def told(self) -> bool:
        """Worth a line in a chart of an hour: not the daily work of committing."""
        return self.fault or not self.text.startswith("commits ")


class World:
    """Made from settings; `do` one act after the other."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        self.settings = settings
        self.parts = parts or Parts()
        self.preset = settings.preset()
        self.derived = tuple(settings.preset(ratio) for ratio in settings.ratios)
        self.symbols = settings.symbols
        self.ids = IDS
        self.table = SymbolTable()  # of everything in the world but the machines
        self.now_ns = START_NS + 5 * NS_PER_S
        self.calm = False
        # What the workers last heard of the landing subjects.
        self.policy = Policy(settings.mode)
        self.broker = self.parts.broker(settings.partitions)
        self.venue = Venue(
            seed=settings.seed,
            symbols=settings.symbols,
            minutes=settings.minutes * 2 + SPARE_MINUTES,
            empty_ratio=settings.empty_ratio,
            early_ratio=settings.early_ratio,
            skew_ns=settings.venue_skew_ns,
        )
        # (topic, partition) -> offset -> what landed there; nothing for what must be refused.
        self.landed: defaultdict[tuple[str, int], dict[int, Landed]] = defaultdict(dict)
        self.landed_live: set[tuple[str, int]] = set()
        self.lines: list[Line] = []
        self.faults: Counter[str] = Counter()
        self.minutes: dict[str, str] = {}
        self.lost_frames: set[tuple[str, int]] = set()
        self.foreign: set[tuple[str, int]] = set()
        self.framed = minute_of(self.now_ns)
        self.delayed: list[tuple[str, FeedBar]] = []
        self.connector = self.parts.connector(self, settings.connector_skew_ns)
        self.workers = {
            f"w{n}": self.parts.worker(self, f"w{n}", settings.worker_skews_ns[n])
            for n in range(settings.workers)
        }
        self.readers = {f"r{n}": self._reader(n) for n in range(settings.readers)}
        self.backfills: list[Backfill] = []
        self.assignment: dict[str, tuple[int, ...]] = {}
        self.audit = Auditor(self)
        self.rebalance(0)

    def _reader(self, number: int) -> Reader:
        rng = random.Random(f"reader {self.settings.seed} {number}")
        symbols = self.symbols if rng.random() < 0.7 else (rng.choice(self.symbols),)
        start = rng.choice((-HISTORY_MINUTES, -HISTORY_MINUTES, 0, 7))
        ratio = rng.choice((1, 1, 1, *self.settings.ratios))
        return self.parts.reader(self, f"r{number}", symbols, start, ratio)

    # --- what processes use

    def note(self, who: str, text: str) -> None:
        self.lines.append(Line(self.now_ns, who, text))

    def count(self, fault: str, who: str, text: str) -> None:
        """A fault has taken effect."""
        self.faults[fault] += 1
        self.lines.append(Line(self.now_ns, who, f"{fault}: {text}", True))

    def land(
        self,
        role: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        event: Landed | None,
    ) -> None:
        """Write a record to a landing topic, outside transactions."""
        topic = topic_name(self.preset.id, role)
        record = self.broker.append(topic, partition, key, value, headers)
        if event is not None:
            self.landed[topic, partition][record.offset] = event
        if isinstance(event, Bar) and role == "live" and event.closed:
            self.landed_live.add((event.symbol, event.cell))

    def decide(self, session: Session, rng: random.Random) -> Transaction:
        """Commit; its markers may take a while to appear everywhere."""
        transaction = self.broker.commit(session)
        if not self.calm and rng.random() < self.settings.rates.slow_marker:
            many = rng.randrange(len(transaction.first) + 1)
            self.broker.settle(session, many, rng.randrange(64))
            if transaction.unmarked:
                self.count("slow_marker", session.producer, f"{len(transaction.unmarked)} missing")
        else:
            self.broker.settle(session)
        return transaction

    def rebuild(self, worker: Worker, reader: PartitionReader) -> Machine:
        """The shipped machine, from the log."""

        def open_index(preset_id: str, partition: int, topic: str) -> BlockIndex:
            if not self.settings.durable_index:
                return MemoryIndex()
            return DiskIndex(worker.disk(preset_id, partition))

        setting = Setting(
            *(self.preset, self.derived, IDS, resolve),
            owner=worker.name,
            open_index=open_index,
        )
        return self.parts.machine(rebuild(setting, reader))

    def rebalance(self, turn: int) -> None:
        """The group gives each partition to one of the workers that it hears of."""
        running = [name for name, worker in self.workers.items() if worker.runs]
        held: dict[str, list[int]] = {name: [] for name in running}
        for partition in range(self.settings.partitions if running else 0):
            held[running[(partition + turn) % len(running)]].append(partition)
        self.assignment = {name: tuple(partitions) for name, partitions in held.items()}

    # --- time

    def advance(self, seconds: int) -> None:
        """Time passes: frames leave the venue, hung transactions are aborted."""
        self.now_ns += seconds * NS_PER_S
        self.broker.now_ns = self.now_ns
        venue_ns = self.venue.now_ns(self.now_ns)
        rng = random.Random(f"frames {self.settings.seed} {self.framed}")
        while time_of(self.framed + 1) <= venue_ns:
            self._frames(rng)
            self.framed += 1
        self.broker.expire()

    def _frames(self, rng: random.Random) -> None:
        rates, calm = self.settings.rates, self.calm
        arrived, self.delayed = self.delayed, []
        for symbol in self.symbols:
            fate = rng.random(), rng.random(), rng.random()
            bar = self.venue.frame(symbol, self.framed)
            if bar is None:
                continue
            place = (symbol, self.framed)
            if not self.connector.connected or self.venue.cut(self.now_ns):
                self.lost_frames.add(place)
            elif not calm and fate[0] < rates.frame_lost:
                self.lost_frames.add(place)
                self.count("frame_lost", "venue", f"frame of {symbol} minute {self.framed}")
            elif not calm and fate[1] < rates.frame_late:
                self.delayed.append((symbol, bar))
                self.count("frame_late", "venue", f"frame of {symbol} minute {self.framed}")
            else:
                arrived.append((symbol, bar))
                if not calm and fate[2] < rates.frame_repeated:
                    arrived.append((symbol, bar))
                    self.count("frame_repeated", "venue", f"frame of {symbol}")
        rng.shuffle(arrived)
        for symbol, bar in arrived:
            self.connector.receive(symbol, bar)

    # --- acts

    def do(self, act: Act) -> None:
        """One act, then the invariants."""
        rng = random.Random(act.salt)
        for session in list(self.broker.open):
            if rng.random() < 0.6:
                self.broker.settle(session)
        self.advance(act.wait_s)
        getattr(self, f"_{act.kind}")(act, rng)
        self.check_readers()

    def check_readers(self) -> None:
        if self.broker.unsettled:
            return
        for reader in self.readers.values():
            if reader.follows and reader.at_end():
                self.audit.at_rest(reader)

    def _time(self, act: Act, rng: random.Random) -> None:
        """Nothing but its waiting time."""

    def _live(self, act: Act, rng: random.Random) -> None:
        self.connector.turn(rng)

    def _work(self, act: Act, rng: random.Random) -> None:
        self.workers[act.who].turn(rng, act.what or None)

    def _read(self, act: Act, rng: random.Random) -> None:
        reader = self.readers[act.who]
        reader.turn(rng, steps=rng.randrange(1, READ_STEPS_MAX), limit=act.amount)
        if reader.follows and act.amount < 3 and not reader.at_end():
            self.faults["slow_consumer"] += 1

    def _start(self, act: Act, rng: random.Random) -> None:
        if act.who == "connector":
            self.connector.start()
        elif act.who in self.readers:
            if not self.readers[act.who].up:
                self.readers[act.who].start()
        else:
            self.workers[act.who].up = True

    def _crash(self, act: Act, rng: random.Random) -> None:
        process = {"connector": self.connector, **self.workers, **self.readers}[act.who]
        if process.up:  # type: ignore[attr-defined]
            process.crash()  # type: ignore[attr-defined]
            self.count("crash", act.who, "dies")

    def _pause(self, act: Act, rng: random.Random) -> None:
        worker = self.workers[act.who]
        if worker.runs:
            worker.pause()
            self.count("pause", act.who, "stops")

    def _resume(self, act: Act, rng: random.Random) -> None:
        worker = self.workers[act.who]
        if worker.paused:
            worker.paused = False
            self.note(act.who, "goes on")
            # What it was in the middle of comes first; it hears of the group later.
            worker.turn(rng, None, moves=1)

    def _rebalance(self, act: Act, rng: random.Random) -> None:
        before = self.assignment
        self.rebalance(rng.randrange(8))
        if self.assignment != before:
            self.count("rebalance", "group", str(self.assignment))

    def _mode(self, act: Act, rng: random.Random) -> None:
        """The mode of the landing subjects changes while everything runs."""
        if act.what != self.policy.mode:
            self.policy = Policy(act.what, self.policy.version + 1)
            self.count("mode_changed", "governance", f"the landing subjects are {act.what}")

    def _outage(self, act: Act, rng: random.Random) -> None:
        self.venue.go_down(self.now_ns, self.now_ns + act.amount * MINUTE_NS)
        self.count("outage", "venue", f"down for {act.amount} minutes")

    def _cut(self, act: Act, rng: random.Random) -> None:
        self.venue.cut_until_ns = self.now_ns + act.amount * MINUTE_NS
        self.count("socket_cut", "venue", f"no socket for {act.amount} minutes")

    def _correct(self, act: Act, rng: random.Random) -> None:
        minute = self.framed - act.amount
        if self.venue.correct(act.who, minute, self.now_ns, rng.random()):
            self.count("late_correction", "venue", f"{act.who} minute {minute}")
            # A correction is only seen by who asks again.
            run = Backfill(self, act.who, time_of(minute), time_of(minute + 1), again=True)
            self.backfills.append(run)

    def _request(self, act: Act, rng: random.Random) -> None:
        first, last, *again = act.what.split()
        start_ns, end_ns = time_of(int(first)), time_of(int(last))
        self.backfills.append(Backfill(self, act.who, start_ns, end_ns, again=bool(again)))
        self.note("backfill", f"asked for {act.who} minutes {first} to {last}")

    def _backfill(self, act: Act, rng: random.Random) -> None:
        """Each run goes on by some stages; a run that died is run again later."""
        for run in list(self.backfills):
            for _ in range(rng.randrange(1, 6)):
                if not run.turn(rng):
                    self.backfills.remove(run)
                    if not run.done:
                        again = Backfill(self, run.symbol, run.start_ns, run.end_ns, run.again)
                        self.backfills.append(again)
                    else:
                        self.faults["backfilled"] += 1
                    break

    def _compact(self, act: Act, rng: random.Random) -> None:
        gone = 0
        for preset in (self.preset, *self.derived):
            for role in COMPACTED:
                for partition in range(self.settings.partitions):
                    topic = topic_name(preset.id, role)
                    gone += self.broker.compact(topic, partition, rng.randrange(ACTIVE_TAIL))
        if gone:
            self.count("compaction", "broker", f"{gone} records")

    def _expire(self, act: Act, rng: random.Random) -> None:
        if not self.settings.retains:
            return
        gone = 0
        for preset in (self.preset, *self.derived):
            for partition in range(self.settings.partitions):
                topic = topic_name(preset.id, "conformed")
                retention_ns = self.settings.retention_ns
                gone += self.broker.expire_records(topic, partition, retention_ns)
        if gone:
            self.count("retention", "broker", f"{gone} records")

    def _foreign(self, act: Act, rng: random.Random) -> None:
        """A third party writes to a landing topic: a bar, one that is still open, one off the grid,
        one with a volume below zero, one with a wrong key, or bytes."""
        symbol, kind = act.who, act.what or rng.choice(FOREIGN)
        partition = partition_of(symbol, self.settings.partitions)
        headers = ((HEADER_FINGERPRINT, SCHEMAS["bar"].header),)
        self.count(f"foreign_{kind}", "third party", f"writes to {symbol}")
        if kind == "bytes":
            self.land("backfill", partition, symbol.encode(), b"\x01{}", headers, None)
            return
        minute = self.framed - act.amount
        price = round(rng.uniform(50, 60), 2)
        bar = FeedBar(
            *(time_of(minute), price, price + 1, price - 1, price + 0.5, 1.5, float("nan")),
            *(-1, -1, -1, rng.randrange(4), self.connector.wall_ns()),
        )
        if kind == "unsound":
            bar = replace(bar, volume=-1.5)
        columns = columns_of([bar])
        event: Bar | None = event_of(symbol, bar)
        if kind == "open":
            columns.closed[:] = False
            event = replace(event, closed=False) if event else None
        elif kind == "off_grid":
            columns.open_time_ns[:] += np.int64(FOREIGN_NS)
            snaps = self.settings.off_grid == "snap"
            event = replace(event, shift_ns=FOREIGN_NS) if event and snaps else None
        elif kind == "key":
            event = None
        (value,) = encode_bars([symbol], columns, IDS["bar"])
        if event is not None and event.closed:
            self.foreign.add((symbol, minute))
            self.venue.state(symbol, [bar])
        # On `live` only behind what has landed: a connector goes on from the newest bar there.
        newest = max((m for s, m in self.landed_live if s == symbol), default=minute)
        role = "live" if minute < newest and rng.random() < 0.5 else "backfill"
        key = b"other" if kind == "key" else symbol.encode()
        self.land(role, partition, key, value, headers, event)

    def digest(self) -> str:
        """Of all that happened and all that was written: equal for equal runs."""
        sha = hashlib.sha256()
        for line in self.lines:
            sha.update(f"{line.time_ns} {line.who} {line.text}\n".encode())
        for place in sorted(self.broker.logs):
            for record in self.broker.logs[place].records:
                sha.update(f"{place} {record.offset}\n".encode())
                sha.update((record.key or b"\0") + (record.value or b"\0"))
        return sha.hexdigest()
