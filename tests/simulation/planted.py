"""Defects for the simulation to find: each replaces one part of a world by one that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from seamline.schemas.codec import ConformedDecoder, encode_conformed
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.columns import PROVISIONAL
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import Policy
from seamline.schemas.records import decode_record, encode_record
from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.feed import BarFeed
from seamline.streams.kernel.inbox import Inbox, Verdict
from seamline.streams.kernel.protocol import Batch, Machine, Record, Role, Step
from seamline.streams.kernel.simulation.broker import Broker, Log, Session
from seamline.streams.kernel.simulation.connector import Connector
from seamline.streams.kernel.simulation.model import Beat
from seamline.streams.kernel.simulation.plan import PRESET_ID
from seamline.streams.kernel.simulation.reader import Reader
from seamline.streams.kernel.simulation.venue import minute_of
from seamline.streams.kernel.simulation.world import IDS, Parts


class Unfenced(Broker):
    """Nobody is fenced: a paused former owner's commit succeeds."""

    def init(self, producer: str) -> Session:
        for session in [one for one in self.open if one.producer == producer]:
            self.settle(session)
        self.epochs[producer] = self.epochs.get(producer, 0) + 1
        return Session(producer, self.epochs[producer])

    def fenced(self, session: Session) -> bool:
        return False

    def expire(self) -> None:
        """Nor does anything hang for too long."""


class PositionApart(Broker):
    """Positions are written at once, outside the transaction."""

    def send(self, session: Session, partition: int, batch: Batch) -> list[int]:
        if not batch.topic.endswith(".positions"):
            return super().send(session, partition, batch)
        record = self.append(batch.topic, partition, batch.keys[0], batch.values[0])
        return [record.offset]


class Dirty(Log):
    """Everybody reads uncommitted."""

    def committed(self, start: int, stop: int, limit: int = 10**6) -> list[Any]:
        stop = min(stop, self.end)
        return [r for r in self.records if start <= r.offset < stop][:limit]


class DirtyReads(Broker):
    def log(self, topic: str, partition: int) -> Log:
        return self.logs.setdefault((topic, partition), Dirty())


class EagerCompaction(Broker):
    """Compaction keeps the oldest record per key."""

    def compact(self, topic: str, partition: int, tail: int) -> int:
        log, seen, kept = self.log(topic, partition), set(), []
        for at, record in enumerate(log.records):
            if record.key not in seen or log.offsets[at] >= log.stable:
                kept.append(at)
            seen.add(record.key)
        gone = len(log.records) - len(kept)
        log.keep(kept)
        return gone


class Wrapped:
    """A machine whose steps are changed on their way to the broker: those of the preset, or of what
    is derived from it."""

    def __init__(
        self, machine: Machine, change: Callable[[Batch], Batch | None], *, derived: bool = False
    ) -> None:
        self._machine = machine
        self._change = change
        self._derived = derived

    @property
    def position(self) -> Mapping[str, int]:
        return self._machine.position

    @property
    def frontier_ns(self) -> int | None:
        return self._machine.frontier_ns

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        return self._changed(self._machine.step(role, records, start, clock_ns, policy))

    def tick(self, clock_ns: int) -> Step | None:
        step = self._machine.tick(clock_ns)
        return None if step is None else self._changed(step)

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        return self._changed(self._machine.refuse(role, record, detail, clock_ns))

    def _changed(self, step: Step) -> Step:
        batches = [
            batch
            if batch.topic.startswith(f"seamline.{PRESET_ID}.") == self._derived
            else self._change(batch)
            for batch in step.batches
        ]
        empty = Batch("seamline.nothing.reports", (), ())
        return replace(step, batches=tuple(empty if one is None else one for one in batches))

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        self._machine.committed(step, offsets)

    def close(self) -> None:
        self._machine.close()


class Stubborn(Wrapped):
    """A machine that judges everything under the first mode that it heard."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, lambda batch: batch)
        self._first: Policy | None = None

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        self._first = self._first or policy
        return super().step(role, records, start, clock_ns, self._first)


def changed(role: str, change: Callable[[Batch], Batch | None], *, derived: bool = False) -> Parts:
    """A world whose machines write something else to one topic."""

    def one(batch: Batch) -> Batch | None:
        return change(batch) if batch.topic.endswith(f".{role}") else batch

    return Parts(machine=lambda machine: Wrapped(machine, one, derived=derived))


def repeat_row(batch: Batch) -> Batch:
    last = len(batch.keys) - 1
    keys, values = [*batch.keys, batch.keys[last]], [*batch.values, batch.values[last]]
    return replace(batch, keys=keys, values=values)


def lose_row(batch: Batch) -> Batch | None:
    if len(batch.keys) == 1:
        return None
    return replace(batch, keys=batch.keys[:-1], values=batch.values[:-1])


def change_value(batch: Batch) -> Batch:
    decoder = ConformedDecoder()
    decoded = decoder.decode([value or b"" for value in batch.values])
    decoded.columns.close[-1] += 0.125
    encoded = decoder.table.encoded
    values = encode_conformed(encoded, decoded.sid, decoded.columns, IDS["conformed_bar"])
    return replace(batch, values=values)


def forget_revision(batch: Batch) -> Batch:
    decoder = ConformedDecoder()
    decoded = decoder.decode([value or b"" for value in batch.values])
    decoded.columns.revision[:] = 0
    encoded = decoder.table.encoded
    values = encode_conformed(encoded, decoded.sid, decoded.columns, IDS["conformed_bar"])
    return replace(batch, values=values)


def call_final(batch: Batch) -> Batch:
    """No row says that its bar may still change."""
    decoder = ConformedDecoder()
    decoded = decoder.decode([value or b"" for value in batch.values])
    decoded.columns.flags[:] &= ~PROVISIONAL
    encoded = decoder.table.encoded
    values = encode_conformed(encoded, decoded.sid, decoded.columns, IDS["conformed_bar"])
    return replace(batch, values=values)


def call(cause: str) -> Callable[[Batch], Batch]:
    """Every gap gets this cause."""

    def change(batch: Batch) -> Batch:
        values = [None if v is None else decode_record("gap", v) for v in batch.values]
        called = [
            None if gap is None else encode_record("gap", {**gap, "cause": cause}, IDS["gap"])
            for gap in values
        ]
        return replace(batch, values=called)

    return change


def short_block(batch: Batch) -> Batch:
    """The last row of each block is lost; the digest fits to what is left."""
    values: list[bytes | None] = []
    for value in batch.values:
        block = decode_block(value or b"")
        rows = block.columns.take(slice(0, max(0, len(block.columns) - 1)))
        digest = block_digest(block.symbol, rows)
        values.append(encode_block(replace(block, columns=rows, digest=digest), IDS["bar_block"]))
    return replace(batch, values=values)


def late_seal(batch: Batch) -> Batch:
    """Readers are sent too far into the log."""
    values = []
    for value in batch.values:
        seal = decode_record("seal", value or b"")
        seal["conformed_offset"] += 9
        values.append(encode_record("seal", seal, IDS["seal"]))
    return replace(batch, values=values)


def misplace(batch: Batch) -> Batch:
    """It is written where nobody looks."""
    return replace(batch, topic="seamline.nobody.storage")


def drop(batch: Batch) -> None:
    """Nothing of it is written."""


class Chainless(Inbox):
    """A chunk is taken whatever came before it."""

    def offer(self, role: Role, chunk: Chunk) -> Verdict:
        self._sides[role].last = chunk.prev
        return super().offer(role, chunk)

    def follows(self, role: Role, handed: tuple[int, int | None] | None) -> bool:
        return True


class Hasty(Connector):
    """Heartbeats promise the minute that is still open."""

    def _beat(self, feed: BarFeed) -> None:
        minute = minute_of(feed.watermark_ns) + 2
        self.world.audit.heartbeat(minute, self.began)
        headers = (("seamline-watermark-ns", b"%d" % (feed.watermark_ns + 120 * 10**9)),)
        for partition in range(self.world.preset.partitions):
            self.world.land("live", partition, None, None, headers, Beat(minute))


class Forgetful(Connector):
    """What history filled is not sent."""

    def _publish(self, sent: Any, rng: Any, *, calm: bool) -> None:
        super()._publish([one for one in sent if one[1].first_trade_id >= 0], rng, calm=calm)


class FenceLast(Reader):
    """The fence is taken after history was read, so what came between is never read."""

    def _begin(self) -> None:
        super()._begin()
        if self.follower is not None:
            topic = f"seamline.{self.world.preset.id}.conformed"
            self.at["conformed"] = {p: self._log(topic, p).stable for p in self.fences}


class StorageBlind(Reader):
    """Blocks are not tailed: a backfill behind the reader is silent."""

    tail_roles = ("conformed", "gaps")


class Restless(Reader):
    """After a crash it goes on with what it had delivered, and reads history again."""

    def start(self) -> None:
        held = self.delivered
        super().start()
        self.delivered = held


# name -> (the world, the invariants that may name it)
DEFECTS: dict[str, tuple[Parts, set[str]]] = {
    "nobody is fenced": (Parts(broker=Unfenced), {"once", "log", "duplicate"}),
    "positions outside the transaction": (Parts(broker=PositionApart), {"once"}),
    "uncommitted records are read": (Parts(broker=DirtyReads), {"once", "log", "stream"}),
    "compaction keeps the oldest": (
        Parts(broker=EagerCompaction),
        {"once", "log", "digest", "stream"},
    ),
    "a log row is written twice": (changed("conformed", repeat_row), {"log", "duplicate"}),
    "a log row is lost": (changed("conformed", lose_row), {"log"}),
    "a value is changed": (changed("conformed", change_value), {"invented"}),
    "revisions are forgotten": (changed("conformed", forget_revision), {"duplicate"}),
    "a block lacks its last row": (changed("storage", short_block), {"digest"}),
    "blocks are not written": (changed("storage", misplace), {"digest", "alive", "stream"}),
    "open bars are called final": (changed("conformed", call_final), {"final"}),
    "derived bars are final before their minutes": (
        changed("conformed", call_final, derived=True),
        {"final"},
    ),
    "no cause is found": (changed("gaps", call("unknown")), {"gap"}),
    "every gap is a minute without trades": (changed("gaps", call("no_trades")), {"gap"}),
    "every gap is an outage": (changed("gaps", call("venue_outage")), {"gap"}),
    "every gap is late": (changed("gaps", call("late")), {"gap"}),
    "so is every derived gap": (changed("gaps", call("no_trades"), derived=True), {"gap"}),
    "the ledger is not written": (changed("gaps", drop), {"gap"}),
    "seals are not written": (changed("seals", drop), {"log", "digest", "stream", "alive"}),
    "seals point too far": (changed("seals", late_seal), {"stream"}),
    "chunks need not follow each other": (Parts(inbox=Chainless), {"once"}),
    "heartbeats promise too much": (Parts(connector=Hasty), {"watermark"}),
    "refilled bars are not sent": (Parts(connector=Forgetful), {"watermark"}),
    "the fence is taken last": (Parts(reader=FenceLast), {"stream"}),
    "storage is not tailed": (Parts(reader=StorageBlind), {"stream"}),
    "a change of mode is not followed": (Parts(machine=Stubborn), {"once", "log"}),
    "a reader delivers again": (Parts(reader=Restless), {"stream"}),
}
