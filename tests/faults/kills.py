"""SIGKILL of a worker at seeded points, beside a worker that is fed the same and never struck.

Decides: what is fed (duplicates, disorder, conflicts, late values, holes) and when a kill comes.
Each worker has two presets: `one`, fed by the live topic alone, where one source contradicts
itself and order decides, so that revisions must agree too; and `both`, fed by both topics, where
each authority states one value of a bar (a source that states two has no right one). Invariants:
both workers are fed the same records in the same order of each topic. Must not know: pytest.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import NamedTuple

from e2e.workers import WorkerProcess, await_that
from faults.bars import MINUTE_NS, OWNS, START_NS, Landed, columns_of, worker_process
from faults.case import Ground, Outcome
from faults.comparison import Difference, compare, contents
from preset_making import FreshPreset, make_presets
from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.kafka.producer import IdempotentProducer, TransactionalProducer
from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.records import decode_record
from seamline.schemas.topics import partition_of

SESSION_S = 6.0
SYMBOLS = tuple(f"K{n}/USDT" for n in range(6))
MINUTES = 1_500
BLOCK = 240
START_S = 400.0
STEP_S = 90.0
SLICE = 12  # rows of one step of a trickle
# A transaction that moved several partitions leaves one of these open where it was cut.
OUTPUTS = ("conformed", "storage", "positions")
MOMENTS = {
    "starting": "SIGKILL of a worker while it starts",
    "backlog": "SIGKILL of a worker inside the first transaction of a backlog",
    "trickle": "SIGKILL of a worker inside a transaction of a live trickle",
}


class Point(NamedTuple):
    """Where in the feed a kill comes, how, and a number that the moment may use."""

    row: int
    moment: str
    number: float


class Fed(NamedTuple):
    """One step of the feed: to `one`, to the live topic of `both`, and to its backfill topic as
    one transaction."""

    one: list[tuple[str, Landed]]
    live: list[tuple[str, Landed]]
    backfill: list[tuple[str, Landed]]
    block: tuple[str, int] | None


def points_of(seed: int, kills: int, steps: int) -> list[Point]:
    rng = random.Random(f"points {seed}")
    rows = sorted(rng.sample(range(5, steps - 5), kills))
    moments = [*MOMENTS] * (kills // len(MOMENTS) + 1)
    rng.shuffle(moments)
    return [Point(row, moment, rng.random()) for row, moment in zip(rows, moments, strict=False)]


@dataclass(frozen=True, slots=True)
class Market:
    """What each source says of each bar. A hole is a minute that nobody has."""

    seed: int

    def _chance(self, *names: object) -> float:
        return random.Random(f"{self.seed}:{':'.join(map(str, names))}").random()

    def hole(self, symbol: str, minute: int) -> bool:
        return self._chance("hole", symbol, minute) < 0.01

    def bar(self, symbol: str, minute: int, source: int) -> Landed:
        """One value of each source; every tenth differs from that of the others."""
        differs = self._chance(symbol, minute, source) < 0.1
        return minute, 100.0 + minute % 13 + (0.5 + source if differs else 0.0), source

    def steps(self) -> list[Fed]:
        """The whole feed, a step for each minute."""
        rng = random.Random(f"feed {self.seed}")
        steps = []
        for base in range(MINUTES):
            one, live, backfill = [], [], []
            for symbol in SYMBOLS:
                minute = base if rng.random() > 0.06 else rng.randrange(base + 1)
                if rng.random() > 0.02:
                    wild = rng.random() if rng.random() < 0.05 else 0.0
                    row = (minute, 100.0 + minute % 13 + wild, rng.choice((0, 1, 1, 1, 2)))
                    one += [(symbol, row)] * (2 if rng.random() < 0.03 else 1)
                if not self.hole(symbol, minute):
                    row = self.bar(symbol, minute, rng.choice((1, 1, 1, 2)))
                    live += [(symbol, row)] * (2 if rng.random() < 0.05 else 1)
                past = rng.randrange(max(1, base - 300), base + 2)
                if rng.random() < 0.4 and not self.hole(symbol, past):
                    backfill += [(symbol, self.bar(symbol, past, 0))] * rng.choice((1, 1, 1, 2))
            block = None
            if base > 2 * BLOCK and rng.random() < 0.02:
                block = rng.choice(SYMBOLS), rng.randrange(base // BLOCK - 1)
            steps.append(Fed(one, live, backfill, block))
        return steps


class Side:
    """One worker with its two presets, and the producers that feed them."""

    def __init__(self, name: str, ground: Ground, seed: int) -> None:
        self.one, self.both = make_presets(ground.world, ground.directory, [{}, {}])
        self.worker = worker_process(name, ground.directory, [self.one, self.both], SESSION_S)
        self._market = Market(seed)
        self._live = IdempotentProducer(ground.world.cluster)
        self._backfill = TransactionalProducer(
            ground.world.cluster, f"seamline.{self.both.preset.id}.backfill.0"
        )
        self._backfill.init()
        self._admin = Admin(ground.world.cluster)
        self.sent = Counter[str]()
        self._ends: dict[TP, int] = {}

    def feed(self, steps: Sequence[Fed]) -> None:
        """Live first, then backfill: each step's in a transaction of its own."""
        for step in steps:
            self._land(self.one, step.one)
            self._land(self.both, step.live)
        self._live.flush()
        for step in steps:
            if step.backfill or step.block:
                self._transaction(step)

    def _land(self, fresh: FreshPreset, rows: Sequence[tuple[str, Landed]]) -> None:
        for symbol, value in _values(fresh, rows):
            self._live.send(fresh.topic("live"), symbol.encode(), value)
        self.sent[fresh.preset.id] += len(rows)

    def _transaction(self, step: Fed) -> None:
        fresh, topic = self.both, self.both.topic("backfill")
        records = list(_values(fresh, step.backfill))
        self.sent[fresh.preset.id] += len(records)
        if step.block is not None:
            symbol, number = step.block
            block = self._block(symbol, number)
            records.append((symbol, encode_block(block, fresh.ids["bar_block"])))
            self.sent[fresh.preset.id] += len(block.columns)
        self._backfill.begin()
        for symbol, value in records:
            partition = partition_of(symbol, fresh.preset.partitions)
            self._backfill.send(topic, partition, symbol.encode(), value)
        self._backfill.commit()

    def _block(self, symbol: str, number: int) -> Block:
        minutes = range(number * BLOCK, (number + 1) * BLOCK)
        rows = [self._market.bar(symbol, m, 0) for m in minutes if not self._market.hole(symbol, m)]
        columns = ConformedColumns.of_landing(columns_of(rows))
        start_ns = START_NS + number * BLOCK * MINUTE_NS
        end_ns = start_ns + BLOCK * MINUTE_NS
        return Block(
            symbol=symbol,
            block_start_ns=start_ns,
            block_end_ns=end_ns,
            interval_ns=MINUTE_NS,
            range_start_ns=start_ns,
            complete_through_ns=end_ns,
            columns=columns,
            digest=block_digest(symbol, columns),
            landing=True,
        )

    def start(self) -> None:
        self._ends = self._admin.end_offsets(self._outputs(), "read_uncommitted")
        self.worker.start()

    def inside(self) -> bool:
        """Whether a transaction of the worker that runs is open: records beyond the committed end
        that were not there when it started (those are of the one before, until it is fenced)."""
        tps = self._outputs()
        committed = self._admin.end_offsets(tps)
        ends = self._admin.end_offsets(tps, "read_uncommitted")
        return any(ends[tp] > max(committed[tp], self._ends[tp]) for tp in tps)

    def _outputs(self) -> list[TP]:
        return [
            (fresh.topic(role), partition)
            for fresh in (self.one, self.both)
            for role in OUTPUTS
            for partition in range(fresh.preset.partitions)
        ]

    def taken(self, fresh: FreshPreset) -> int:
        """Rows that committed positions cover."""
        total = 0
        for partition in range(fresh.preset.partitions):
            with closing(LogReader(fresh.world.cluster, partition, self._admin)) as reader:
                found = reader.latest(fresh.topic("positions"))
                total += decode_record("position", found[-1][1])["rows_total"] if found else 0
        return total

    def all_taken(self) -> bool:
        return all(self.taken(f) >= self.sent[f.preset.id] for f in (self.one, self.both))

    def close(self) -> None:
        self.worker.end()
        self._live.close()
        self._backfill.close()


def kills(ground: Ground, seed: int, count: int = 20) -> Outcome:
    """`count` kills of one worker; the contents of its presets against those of the calm one."""
    began = time.monotonic()
    steps = Market(seed).steps()
    points = points_of(seed, count, len(steps))
    plan = "; ".join(f"{p.moment} {p.number:.2f} @step {p.row}" for p in points)
    with ExitStack() as stack:
        calm, struck = (
            stack.enter_context(closing(Side(name, ground, seed))) for name in ("calm", "struck")
        )
        logs = {side.worker.name: side.worker.log for side in (calm, struck)}
        for side in (calm, struck):  # one after the other: on an empty cache the first compiles
            side.start()
            await_that(lambda w=side.worker: owns(w), START_S, "an owner", logs)  # type: ignore[misc]
        done = cut = 0
        for point in points:
            calm.feed(steps[done : point.row])
            cut += _strike(point, struck, steps[done : point.row])
            done = point.row
            struck.start()
        for side in (calm, struck):
            side.feed(steps[done:])
        await_that(lambda: calm.all_taken() and struck.all_taken(), STEP_S, f"all, {plan}", logs)
        found = [
            compare(contents(calm.one), contents(struck.one), revisions=True),
            compare(contents(calm.both), contents(struck.both)),
        ]
        wrong = [
            f"rows taken in of {mine.preset.id}: {taken}, and {sent} were sent"
            for mine in (struck.one, struck.both)
            if (taken := struck.taken(mine)) != (sent := struck.sent[mine.preset.id])
        ]
    timeline = f"seed {seed}: {plan} ({cut} of {count} left a transaction open)"
    return _outcome(seed, timeline, points, found, wrong, time.monotonic() - began)


def _strike(point: Point, side: Side, part: Sequence[Fed]) -> bool:
    """Feed `part` and kill at the point's moment; whether a transaction was left open."""
    worker, logs = side.worker, {side.worker.name: side.worker.log}
    if point.moment == "trickle":
        await_that(lambda: owns(worker), START_S, "an owner", logs)
        for at in range(0, len(part), SLICE):
            side.feed(part[at : at + SLICE])
            if at >= point.number * len(part) and _frozen_inside(side):
                worker.end()
                side.feed(part[at + SLICE :])
                break
    else:
        side.feed(part)
    if point.moment == "backlog":
        # Where it is through before it was met inside, the kill comes between two transactions.
        await_that(lambda: _frozen_inside(side) or side.all_taken(), STEP_S, "a transaction", logs)
    elif point.moment == "starting":
        time.sleep(4 * point.number)
    worker.end()
    return side.inside()


def _frozen_inside(side: Side) -> bool:
    """Stop the worker for a moment: whether it stands inside a transaction. If not, it goes on."""
    side.worker.signal(signal.SIGSTOP)
    if side.inside():
        return True
    side.worker.signal(signal.SIGCONT)
    return False


def owns(worker: WorkerProcess) -> bool:
    """Whether both presets have an owner since its last start."""
    text = worker.log.read_text(errors="replace").rpartition("--- start")[2]
    return text.count(OWNS) >= 2


def _values(fresh: FreshPreset, rows: Sequence[tuple[str, Landed]]) -> Iterator[tuple[str, bytes]]:
    if rows:
        columns = columns_of([row for _, row in rows])
        symbols = [symbol for symbol, _ in rows]
        yield from zip(symbols, encode_bars(symbols, columns, fresh.ids["bar"]), strict=True)


def _outcome(
    seed: int,
    timeline: str,
    points: Sequence[Point],
    found: Sequence[Difference],
    wrong: Sequence[str],
    seconds: float,
) -> Outcome:
    return Outcome(
        seed=seed,
        timeline=timeline,
        struck=Counter(point.moment for point in points),
        bars=sum(each.bars for each in found),
        lost=sum(len(each.lost) for each in found),
        duplicated=sum(len(each.duplicated) for each in found),
        changed=sum(len(each.changed) for each in found),
        invented=sum(len(each.invented) for each in found),
        wrong=(*(text for each in found for text in each.sentences()), *wrong),
        seconds=seconds,
    )
