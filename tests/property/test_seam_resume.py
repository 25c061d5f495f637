"""A reader cut off after any event and resumed, again and again: what it was told adds up.

A writer runs a random series of transactions. A reader takes each topic to another place, hands out
its history, then the rest in a random interleaving, and is cut off somewhere; the next one goes on
from the position as JSON, when some more was written. Against the plain model (what a consumer
holds): nothing twice, nothing left out, every revision of what is held, and in the end the writer's
final state; gaps likewise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from log_writer import MINUTE, START, LogWriter, MemorySink, Record, columns_of
from paper_reader import Cut, PaperReader, request_of
from random_acts import RandomActs
from seamline.schemas.columns import ConformedColumns
from seamline.streams.kernel.seam import Part, Request
from seamline.streams.kernel.seam_broken import unexplained_error
from seamline.streams.kernel.seam_events import Event, Gap, bars_of
from seamline.streams.kernel.seam_follow import Follower
from seamline.streams.kernel.seam_history import History
from seamline.streams.kernel.seam_position import Position
from seamline.streams.kernel.seam_resume import Rest, needs_superseded, rest_of
from seamline.streams.kernel.seam_told import Told, proved
from stream_consumer import Consumer

SYMBOLS = ("BTC/USDT", "ETH/USDT")
ROLES = ("conformed", "storage", "gaps")
PARTITIONS = dict.fromkeys(SYMBOLS, 0)


@dataclass
class Life:
    """A writer's log with the place of each of its transactions in each topic."""

    writer: LogWriter
    sink: MemorySink
    ends: list[dict[str, int]]
    known: list[int]

    @classmethod
    def of(cls, seed: int, transactions: int) -> Life:
        sink = MemorySink()
        acts = RandomActs(LogWriter(sink), SYMBOLS, seed)
        life = cls(acts.writer, sink, [{}], [0])
        for number in range(transactions + 1):
            known = acts.writer.known
            if number < transactions:
                acts.transaction()
            else:
                acts.seal_all()
            life.ends.append(dict(sink.ends))
            life.known.append(known)
        return life

    def cut(self, reader: PaperReader, at: int, rng: random.Random) -> tuple[Cut, int]:
        """Conformed through transaction `at`, the others as far or farther; and the farthest."""
        for storage in range(min(at + rng.randrange(3), len(self.ends) - 1), len(self.ends)):
            for seals in range(storage, len(self.ends)):
                gaps = min(seals + rng.randrange(2), len(self.ends) - 1)
                cut = Cut(
                    self.ends[at].get("conformed", 0),
                    self.ends[storage].get("storage", 0),
                    self.ends[seals].get("seals", 0),
                    self.ends[gaps].get("gaps", 0),
                )
                if reader.snapshot(cut).unsettled():
                    continue
                if unexplained_error(reader.request, reader.parts(cut)) is None:
                    return cut, gaps
        raise AssertionError("the last transaction always settles")

    def records(self, cut: Cut, rng: random.Random) -> Iterator[tuple[Record, int, int]]:
        """What follows a cut, topics interleaved: a record, up to which transaction everything has
        come with it, and the newest of which something has."""
        queues = {
            role: [r for r in self.sink.logs.get(role, []) if r[0] >= getattr(cut, role)]
            for role in ROLES
        }
        newest = 0
        while any(queues.values()):
            role = rng.choice([role for role in ROLES if queues[role]])
            offset, record = queues[role].pop(0)
            newest = max(newest, self._number(role, offset))
            heads = [self._number(r, queue[0][0]) - 1 for r, queue in queues.items() if queue]
            yield record, min(heads, default=len(self.ends) - 1), newest

    def _number(self, role: str, offset: int) -> int:
        return next(i for i, ends in enumerate(self.ends) if ends.get(role, 0) > offset)


@dataclass
class Session:
    """One reader from its start to its end; `told` is its account."""

    life: Life
    request: Request
    resumed: Position | None
    at: int
    rng: random.Random

    def __post_init__(self) -> None:
        self.reader = PaperReader(self.request, self.life.sink)
        self.told = Told(self.request, self.resumed)
        self.last: Event | None = None
        self.seen = self.at  # the newest transaction that something was seen of

    def events(self) -> Iterator[Event]:
        cut, self.seen = self.life.cut(self.reader, self.at, self.rng)
        parts = self.reader.parts(cut)
        history = History.of(parts, self._rests(parts))
        known = {0: self.life.known[self.at]}
        self.told.begin(proved(self.request, "cluster", parts, PARTITIONS, known, history.gaps))
        for batch in history.batches(lambda: None):
            for self.last in batch:
                yield self.last
        self.told.caught_up()
        follower = Follower(self.request, parts)
        for record, whole, newest in self.life.records(cut, self.rng):
            self.seen = max(self.seen, newest)
            for event in self._feed(follower, record):
                self.told.handed(event)
                yield event
            if self.rng.random() < 0.5:
                self.told.advance({0: self.life.known[whole]})

    def _rests(self, parts: list[Part]) -> list[Rest]:
        if self.resumed is None:
            return []
        rests = []
        for part in parts:
            old = ConformedColumns.empty(0)
            if needs_superseded(self.resumed, part, 0):
                rows = self.reader.read("superseded", 0, 2**62)
                old = columns_of(r.payload for r in rows if r.symbol == part.symbol)
            rests.append(rest_of(self.request, self.resumed, part, 0, old))
        return rests

    def _feed(self, follower: Follower, record: Record) -> list[Event]:
        if record.role == "conformed":
            return follower.rows(record.symbol, columns_of([record.payload]), 0)
        if record.role == "storage":
            return follower.block(record.payload, 0)
        return follower.gap(record.symbol, record.start_ns, record.payload, 0)


@given(
    seed=st.integers(0, 2**32),
    transactions=st.integers(1, 20),
    first=st.integers(0, 12),
    kills=st.lists(st.integers(0, 40), max_size=5),
    order=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_cut_off_anywhere_and_resumed_nothing_is_lost_or_twice(
    seed: int, transactions: int, first: int, kills: list[int], order: int
) -> None:
    life, rng = Life.of(seed, transactions), random.Random(order)
    request = request_of(*SYMBOLS, first=first)
    consumer, position, at = Consumer(), None, rng.randrange(1, len(life.ends))
    for number in (*kills, None):
        session = Session(life, request, position, at, rng)
        for count, event in enumerate(session.events()):
            if count == number:
                break
            consumer.take(event)
            saved = session.told.position(session.last)
            assert saved is not None
            position = Position.from_json(saved.to_json())
            assert position == saved
        at = rng.randrange(session.seen, len(life.ends))
    expected = {
        (symbol, bar.open_time_ns): bar
        for symbol in SYMBOLS
        for bar in bars_of(
            symbol, columns_of(row for _, row in sorted(life.writer.state(symbol).rows.items()))
        )
        if bar.open_time_ns >= START + first * MINUTE
    }
    assert {where: bar.content for where, bar in consumer.bars.items()} == {
        where: bar.content for where, bar in expected.items()
    }
    for (symbol, start), entry in ledger(life).items():
        for time in range(max(start, request.start_ns), entry.end_ns, MINUTE):
            if time < consumer.newest.get(symbol, 0):
                assert consumer.causes_of(symbol, time)[-1] == entry.cause


def ledger(life: Life) -> dict[tuple[str, int], Gap]:
    held = {}
    for _, record in life.sink.logs.get("gaps", []):
        held[record.symbol, record.start_ns] = record.payload
    return {where: entry for where, entry in held.items() if entry is not None}
