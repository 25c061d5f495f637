"""The case of readers: one that is killed again and again, beside one that reads on.

Decides: when a reader is killed (in its history, around the moment of CaughtUp, live), and what
goes on meanwhile: duplicates, disorder, late and changed bars, blocks of a backfill behind it, a
worker that is killed too. Invariant: the lines of all its lives together are compared with the
uninterrupted reader and with what the topics hold. Must not know: pytest, the page.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from e2e.workers import WorkerProcess, await_that
from faults.bars import MINUTE_NS, OWNS, START_NS
from faults.case import Case, Ground, Outcome
from faults.comparison import compare_bars, contents
from faults.kills import START_S, SYMBOLS, Fed, Market, Side
from faults.reading import event_of, lines
from seamline.connectors.kafka.producer import IdempotentProducer
from seamline.schemas.times import format_time
from seamline.schemas.topics import HEADER_VENUE, HEADER_WATERMARK_NS
from seamline.sdk import SeamStream, stitch
from stream_consumer import Consumer

SLICE = 3
FEED_EVERY_S = 0.5
AWAY_S = 300.0
MOMENTS = {
    "history": "SIGKILL of a reader in its history",
    "caught up": "SIGKILL of a reader within some events of the moment when it has caught up",
    "live": "SIGKILL of a reader that follows",
}


class CalmReader(threading.Thread):
    """Reads from the start to the end, once."""

    def __init__(self, stream: SeamStream) -> None:
        super().__init__(daemon=True, name="calm-reader")
        self._stream = stream
        self.consumer = Consumer()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._stream:
                for event in self._stream:
                    self.consumer.take(event)
        except BaseException as error:
            self.failure = error


class Struck:
    """The reader that is killed: a process, and the file of its lines."""

    def __init__(self, side: Side, ground: Ground, end: int) -> None:
        fresh = side.both
        self.file = ground.directory / "lines.jsonl"
        spans = [format_time(START_NS), format_time(START_NS + end * MINUTE_NS)]
        command = [sys.executable, "-m", "faults.reading", fresh.preset.id, ",".join(SYMBOLS)]
        self.process = WorkerProcess(
            *("reader", ground.directory / "reader", ground.world),
            [*command, *spans, str(self.file)],
            fresh.environment(),
        )

    def lines(self) -> int:
        return self.file.read_bytes().count(b"\n") if self.file.exists() else 0

    def caught_up(self) -> bool:
        return self.file.exists() and b'[["CaughtUp"' in self.file.read_bytes()

    def seen(self) -> tuple[Consumer, list[str]]:
        """What all its lines add up to, and what does not fit."""
        consumer, wrong = Consumer(), []
        for number, (fields, _) in enumerate(lines(self.file)):
            event = event_of(fields)
            try:
                if event is not None:
                    consumer.take(event)
            except (AssertionError, KeyError) as error:
                wrong.append(f"line {number}: {fields[:2]}: {str(error).splitlines()[:1]}")
        return consumer, wrong


def reader_kills(ground: Ground, seed: int, count: int = 30) -> Outcome:
    """`count` kills of one reader; its lines against an uninterrupted reader and the topics."""
    began, rng = time.monotonic(), random.Random(f"reader {seed}")
    history, live = 60 + 3 * count, 40 + 6 * count  # steps before anybody reads, and behind
    steps = Market(seed).steps()[: history + live]
    moments = [*MOMENTS] * (count // len(MOMENTS) + 1)
    moments = sorted(moments[:count], key=list(MOMENTS).index)
    with closing(Side("worker", ground, seed)) as side:
        struck = Struck(side, ground, len(steps) + 5)
        logs = {"worker": side.worker.log, "reader": struck.process.log}
        side.start()
        await_that(lambda: side.worker.said(OWNS) >= 2, START_S, "an owner", logs)
        side.feed(steps[:history])
        await_that(side.all_taken, START_S, "the history is taken", logs)
        calm = CalmReader(_stream(side, len(steps) + 5))
        calm.start()
        feed = _Feed(side, steps[history:], rng, 2 if count > 10 else 1)
        try:
            _kill(struck, moments, feed, rng, history * len(SYMBOLS))
            struck.process.start()
            feed.rest()
            await_that(side.all_taken, AWAY_S, "everything is taken", logs)
            _end_of_venue(side, len(steps) + 5, lambda: _ended(struck, calm), logs)
        finally:
            struck.process.end()
        consumer, wrong = struck.seen()
        if calm.failure is not None or calm.is_alive() or struck.process.status != 0:
            wrong.append(f"a reader did not end: {calm.failure!r}, {struck.process.status}")
        held = {key: row.values for key, row in contents(side.both).bars.items()}
    killed = {key: bar.content for key, bar in consumer.bars.items()}
    wrong += _unlike(consumer, calm.consumer)
    found = compare_bars(held, killed)
    return Outcome(
        seed=seed,
        timeline=f"seed {seed}: {', '.join(moments)}; {feed.failovers} worker failovers",
        struck=Counter(moments),
        bars=found.bars,
        lost=len(found.lost),
        duplicated=sum("delivered twice" in text for text in wrong),
        changed=len(found.changed),
        invented=len(found.invented),
        wrong=(*found.sentences(), *wrong[:20]),
        seconds=time.monotonic() - began,
    )


class _Feed:
    """What lands while readers come and go, some steps at a time; the worker is killed too."""

    def __init__(
        self, side: Side, steps: Sequence[Fed], rng: random.Random, failovers: int
    ) -> None:
        self._side, self._steps, self._at = side, steps, 0
        self._kills = sorted(rng.sample(range(len(steps) // 4, len(steps)), failovers))
        self.failovers = 0

    def more(self) -> bool:
        """Whether something was left to land."""
        if self._at >= len(self._steps):
            return False
        self._side.feed(self._steps[self._at : self._at + SLICE])
        self._at += SLICE
        if self._kills and self._at >= self._kills[0]:
            self._kills.pop(0)
            self._side.worker.end()
            self._side.start()
            self.failovers += 1
        return True

    def rest(self) -> None:
        while self.more():
            pass


def _kill(
    struck: Struck,
    moments: list[str],
    feed: _Feed,
    rng: random.Random,
    rows: int,
) -> None:
    logs = {"reader": struck.process.log}
    places = sorted(rng.randrange(1, int(rows * 0.8)) for _ in range(moments.count("history")))
    for moment in moments:
        struck.process.start()
        before = struck.lines()
        if moment == "history":
            wanted = max(places.pop(0), before + 1)
            await_that(lambda n=wanted: struck.lines() >= n, START_S, "history", logs)  # type: ignore[misc]
        elif moment == "caught up":
            _await_new(struck, before + rng.randrange(1, 4), feed, logs)
        else:
            _await_new(struck, before + rng.randrange(5, 40), feed, logs)
        struck.process.end()
        if rng.random() < 0.5:
            feed.more()  # while nobody reads


def _await_new(struck: Struck, count: int, feed: _Feed, logs: Mapping[str, Path]) -> None:
    """Feed until so many lines are there; a feed that is at its end gives no more."""
    began, fed = struck.lines(), [time.monotonic()]

    def there() -> bool:
        if struck.lines() >= count:
            return True
        if struck.lines() == began or time.monotonic() - fed[0] < FEED_EVERY_S:
            return False  # it starts still, or reads what came
        fed[0] = time.monotonic()
        return not feed.more()

    await_that(there, START_S, "new lines", logs)


def _stream(side: Side, end: int) -> SeamStream:
    fresh = side.both
    return stitch(
        fresh.preset.id,
        SYMBOLS,
        format_time(START_NS),
        end=format_time(START_NS + end * MINUTE_NS),
        on_gap="flag",
        world=fresh.world,
        presets=fresh.presets,
    )


def _ended(struck: Struck, calm: CalmReader) -> bool:
    return struck.process.status is not None and not calm.is_alive()


def _end_of_venue(
    side: Side, end: int, ended: Callable[[], bool], logs: Mapping[str, Path]
) -> None:
    """The venue has sent everything before the end, and says so until the readers have ended."""
    fresh = side.both
    mark = str(START_NS + end * MINUTE_NS).encode()
    headers = [(HEADER_VENUE, b"test"), (HEADER_WATERMARK_NS, mark)]
    with closing(IdempotentProducer(fresh.world.cluster)) as producer:

        def said() -> bool:
            for partition in range(fresh.preset.partitions):
                producer.send(fresh.topic("live"), None, None, headers, partition=partition)
            producer.flush()
            await_within(ended, FEED_EVERY_S)
            return ended()

        await_that(said, AWAY_S, "the end", logs)


def await_within(condition: Callable[[], bool], seconds: float) -> None:
    """Poll until true or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _unlike(killed: Consumer, calm: Consumer) -> list[str]:
    found = []
    for key in sorted(killed.bars.keys() | calm.bars.keys()):
        ours, theirs = killed.bars.get(key), calm.bars.get(key)
        if ours is None or theirs is None or ours.content != theirs.content:
            found.append(f"{key}: {ours} and uninterrupted {theirs}")
        elif ours.revision != theirs.revision:
            found.append(f"{key}: revision {ours.revision} and uninterrupted {theirs.revision}")
    for symbol in SYMBOLS:
        differ = _missing(killed, symbol) ^ _missing(calm, symbol)
        if differ:
            found.append(f"{symbol}: gaps differ at {sorted(differ)[:3]}")
    return found


def _missing(consumer: Consumer, symbol: str) -> set[tuple[int, str]]:
    """Cells that are missing in the end, with what was said of them last."""
    said: dict[int, str] = {}
    for gap in consumer.gaps:
        if gap.symbol == symbol:
            for cell in range(gap.start_ns, gap.end_ns, MINUTE_NS):
                said[cell] = gap.cause
    return {(cell, cause) for cell, cause in said.items() if (symbol, cell) not in consumer.bars}


CASES = (
    Case(
        "reader",
        "one reader killed at 30 points of history, CaughtUp and live, while late and changed "
        "bars, blocks of a backfill and a worker failover come, resumed from its position",
        reader_kills,
        seeds=1,
        faults=MOMENTS,
    ),
)
