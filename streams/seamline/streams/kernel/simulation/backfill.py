"""A backfill as a process: chunks of the kernel's plan, each landed by one transaction.

Decides: what one turn does: take the partition, fetch, land. Invariants: as `connectors.backfill`:
the venue is asked before a transaction is open; blocks and chunk record are one transaction of the
partition's own transactional id; nothing that had not settled is promised as complete. Must not
know: what becomes of a block.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.topics import HEADER_FINGERPRINT, chunk_key, partition_of, topic_name
from seamline.streams.kernel.chunks import (
    BlockPart,
    Grid,
    block_parts,
    plan_chunks,
    plan_missing,
    settled_edge,
)
from seamline.streams.kernel.coverage import Interval
from seamline.streams.kernel.feed import FeedBar
from seamline.streams.kernel.protocol import Batch
from seamline.streams.kernel.simulation.broker import Fenced, Session
from seamline.streams.kernel.simulation.connector import columns_of, event_of
from seamline.streams.kernel.simulation.model import History
from seamline.streams.kernel.simulation.venue import minute_of

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.world import World

WINDOW_BARS = 20


@dataclass(slots=True)
class Backfill:
    """One run over one symbol. `fetched` waits to be landed."""

    world: World
    symbol: str
    start_ns: int
    end_ns: int
    again: bool = False
    session: Session | None = None
    chunks: list[Interval] | None = None
    fetched: tuple[list[FeedBar], int] | None = None
    blocks: list[Block] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.chunks is not None and not self.chunks

    @property
    def partition(self) -> int:
        return partition_of(self.symbol, self.world.preset.partitions)

    @property
    def grid(self) -> Grid:
        preset = self.world.preset
        return Grid(preset.interval_ns, preset.block_ns, preset.grid_origin_ns)

    def turn(self, rng: random.Random, *, calm: bool = False) -> bool:
        """One stage of the work; False: this run is over."""
        world = self.world
        if self.chunks is None:
            self._take()
        elif not self.chunks:
            return False
        elif self.fetched is None:
            self._fetch()
        else:
            try:
                return self._land(rng, calm=calm)
            except Fenced:
                world.count("fenced", "backfill", "another run took the partition")
                return False
        return True

    def _take(self) -> None:
        world = self.world
        producer = f"seamline.{world.preset.id}.backfill.{self.partition}"
        self.session = world.broker.init(producer)
        if self.again:
            self.chunks = plan_chunks(self.grid, self.start_ns, self.end_ns, WINDOW_BARS)
        else:
            landed = self._landed()
            self.chunks = plan_missing(self.grid, self.start_ns, self.end_ns, WINDOW_BARS, landed)
        world.note("backfill", f"takes {self.symbol}: {len(self.chunks)} chunks")

    def _landed(self) -> list[Interval]:
        world = self.world
        log = world.broker.log(topic_name(world.preset.id, "chunks"), self.partition)
        newest = {r.key: r.value for r in log.committed(0, log.end) if r.value is not None}
        found = []
        for value in newest.values():
            record = decode_record("chunk", value or b"")
            through = record["complete_through_ns"]
            if record["symbol"] == self.symbol and through is not None:
                found.append((record["start_ns"], through))
        return found

    def _fetch(self) -> None:
        """All pages of the chunk; an error leaves it for the next turn."""
        world = self.world
        assert self.chunks
        start_ns, end_ns = self.chunks[0]
        bars: list[FeedBar] = []
        at, asked_ns = start_ns, world.venue.now_ns(world.now_ns)
        while at < end_ns:
            try:
                page = world.venue.klines(
                    *(self.symbol, at, end_ns, world.now_ns, world.preset.settle_ns, WINDOW_BARS)
                )
            except TransportError:
                return
            bars += page.bars
            if page.through_ns <= at:
                break
            at = page.through_ns
        self.fetched = (bars, asked_ns)

    def _land(self, rng: random.Random, *, calm: bool) -> bool:
        world, session = self.world, self.session
        assert self.chunks and self.fetched and session
        bars, asked_ns = self.fetched
        chunk = self.chunks[0]
        promised_ns = min(chunk[1], settled_edge(self.grid, asked_ns, world.preset.settle_ns))
        columns = columns_of(bars)
        closed_ns = self.grid.floor(asked_ns)
        blocks = [
            self._block(part, columns, promised_ns)
            for part in block_parts(self.grid, *chunk)
            if part.start_ns < closed_ns
        ]
        world.broker.begin(session)
        topic = topic_name(world.preset.id, "backfill")
        values = [encode_block(block, world.ids["bar_block"]) for block in blocks]
        headers = ((HEADER_FINGERPRINT, SCHEMAS["bar_block"].header),)
        batch = Batch(topic, [self.symbol.encode()] * len(blocks), values, headers)
        offsets = world.broker.send(session, self.partition, batch)
        for offset, block in zip(offsets, blocks, strict=False):
            world.landed[topic, self.partition][offset] = self._event(block, bars)
        if not calm and rng.random() < world.settings.rates.backfill_crash:
            world.count("crash", "backfill", "dies inside its transaction")
            return False
        record = self._record(chunk, bars, columns, promised_ns, asked_ns)
        chunks = Batch(
            topic_name(world.preset.id, "chunks"),
            [chunk_key(self.symbol, *chunk)],
            [encode_record("chunk", record, world.ids["chunk"])],
            ((HEADER_FINGERPRINT, SCHEMAS["chunk"].header),),
        )
        world.broker.send(session, self.partition, chunks)
        world.decide(session, rng)
        world.note("backfill", f"landed {len(bars)} bars of {self.symbol}")
        self.chunks.pop(0)
        self.fetched = None
        return bool(self.chunks)

    def _record(
        self,
        chunk: Interval,
        bars: Sequence[FeedBar],
        columns: BarColumns,
        promised_ns: int,
        asked_ns: int,
    ) -> dict[str, object]:
        return {
            "symbol": self.symbol,
            "start_ns": chunk[0],
            "end_ns": chunk[1],
            "state": "landed",
            "complete_through_ns": promised_ns if promised_ns > chunk[0] else None,
            "rows": len(bars),
            "digest": block_digest(self.symbol, columns),
            "attempts": 1,
            "fetched_time_ns": asked_ns - asked_ns % 1_000_000,
        }

    def _block(self, part: BlockPart, columns: BarColumns, promised_ns: int) -> Block:
        low, high = np.searchsorted(columns.open_time_ns, (part.start_ns, part.end_ns))
        rows = columns.take(slice(int(low), int(high)))
        return Block(
            symbol=self.symbol,
            block_start_ns=part.block_start_ns,
            block_end_ns=part.block_end_ns,
            interval_ns=self.world.preset.interval_ns,
            range_start_ns=part.start_ns,
            complete_through_ns=part.complete_through(promised_ns),
            columns=ConformedColumns.of_landing(rows),
            digest=block_digest(self.symbol, rows),
            landing=True,
        )

    def _event(self, block: Block, bars: Sequence[FeedBar]) -> History:
        inside = [
            bar for bar in bars if block.range_start_ns <= bar.open_time_ns < block.block_end_ns
        ]
        through = block.complete_through_ns
        return History(
            self.symbol,
            minute_of(block.block_start_ns),
            minute_of(block.range_start_ns),
            None if through is None else minute_of(through),
            tuple(event_of(self.symbol, bar) for bar in inside),
        )
