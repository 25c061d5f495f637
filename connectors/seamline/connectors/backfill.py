"""Backfill, first cut: a venue's history onto the `backfill` topic, chunk by chunk.

Decides: which chunks are asked for (what is not recorded as landed, or all with `again`), what a
block message promises, when a chunk is done. Invariants: the venue is asked before a transaction is
open; blocks and chunk record are one transaction of the partition's own transactional id, so a
killed run leaves whole chunks or nothing and a newer run fences an older one; the kline that is
still open is never sent; nothing that had not settled by the venue's clock is promised as complete;
the number of attempts and every wait are bounded. Must not know: how a command line talks.

Commit order of a chunk: 1. fetch; 2. begin; 3. blocks; 4. unreadable rows to quarantine; 5. chunk
record; 6. commit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.venues.binance import KlinePage, VenueSymbol
from seamline.schemas.codec import decode_record, encode_block, encode_record
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS, version_written
from seamline.schemas.errors import SeamlineError, TransportError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.preset import Preset
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_FIRST_FAILURE_NS,
    HEADER_PRODUCER,
    HEADER_REASON,
    HEADER_SOURCE,
    chunk_key,
    partition_of,
    producer_name,
    symbol_key,
    topic_name,
)
from seamline.streams.kernel.chunks import (
    BlockPart,
    Grid,
    RetryPolicy,
    block_parts,
    plan_chunks,
    plan_missing,
    require_setting,
    settled_edge,
)
from seamline.streams.kernel.coverage import Interval

RETRY_AFTER_MAX_S: Final = 600.0
LANDED: Final = "landed"
WHO: Final = (HEADER_PRODUCER, producer_name("backfill"))
# What a run writes; they exist before it starts.
ROLES: Final = ("backfill", "chunks", "quarantine")


class History(Protocol):
    """What backfill needs of a venue's REST client."""

    requests: int
    used_weight: int

    async def klines(
        self, venue: VenueSymbol, start_ns: int, end_ns: int, *, interval_ns: int, settle_ns: int
    ) -> KlinePage: ...


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """`fetches_at_once` bounds the requests under way; `again` asks for what has landed, too."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    fetches_at_once: int = 4
    again: bool = False

    def __post_init__(self) -> None:
        require_setting(
            1 <= self.fetches_at_once <= 64,
            *("fetches_at_once", self.fetches_at_once, "between 1 and 64"),
        )


@dataclass(slots=True)
class BackfillTally:
    """What a run did. Bars and chunks are of this run; `skipped_bars` are cells that had landed."""

    chunks: int = 0
    blocks: int = 0
    empty_blocks: int = 0
    bars: int = 0
    fresh_bars: int = 0
    open_klines: int = 0
    quarantined: int = 0
    skipped_bars: int = 0
    retries: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """Progress: cells that are done and cells that the run will do, as far as it is planned."""

    done: int
    total: int


class Backfill:
    """One run over some symbols of one preset. `run` may be called once.

    `sleep` and `draw` (uniform in 0..1) are arguments so that tests decide them.
    """

    def __init__(
        self,
        cluster: Cluster,
        preset: Preset,
        ids: Mapping[str, int],
        history: History,
        settings: BackfillSettings | None = None,
        *,
        progress: Callable[[Planned], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._preset = preset
        self._ids = ids
        self._history = history
        self._settings = settings or BackfillSettings()
        self._progress = progress
        self._sleep = sleep
        self._draw = draw
        self._grid = Grid(preset.interval_ns, preset.block_ns, preset.grid_origin_ns)
        self._fetching = asyncio.Semaphore(self._settings.fetches_at_once)
        self._done = self._total = 0
        self._used = history.used_weight
        self.tally = BackfillTally()

    async def run(self, symbols: Mapping[str, VenueSymbol], start_ns: int, end_ns: int) -> None:
        """Land `[start_ns, end_ns)` of every symbol. `start_ns` and `end_ns` are on the grid.

        Raises TransportError when the venue or the broker fails for good (what has landed stays,
        the same call goes on from there), FencedError when another run took a partition over.
        """
        lanes: dict[int, list[VenueSymbol]] = {}
        for symbol, venue in symbols.items():
            lanes.setdefault(partition_of(symbol, self._preset.partitions), []).append(venue)
        tasks = [
            asyncio.create_task(self._lane(partition, venues, start_ns, end_ns))
            for partition, venues in sorted(lanes.items())
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(
        self, partition: int, venues: Sequence[VenueSymbol], start_ns: int, end_ns: int
    ) -> None:
        """The chunks of one partition, one after the other and oldest first per symbol."""
        name = f"seamline.{self._preset.id}.backfill.{partition}"
        producer = TransactionalProducer(self._cluster, name)
        try:
            # Before the records of landed chunks are read: a run that still writes is fenced first.
            await asyncio.to_thread(producer.init)
            landed = await asyncio.to_thread(
                landed_ranges, self._cluster, self._preset, self._ids["chunk"], partition
            )
            plan = [
                (venue, chunk)
                for venue in venues
                for chunk in self._planned(start_ns, end_ns, landed.get(venue.symbol, []))
            ]
            for venue, chunk in plan:
                page, attempts = await self._fetched(venue, chunk)
                landed_blocks = await asyncio.to_thread(
                    self._land, producer, venue.symbol, chunk, page, attempts
                )
                # Here and not in the thread: lanes count side by side.
                self._count(page, landed_blocks)
                self._done += self._cells(chunk)
                self._report()
        except FencedError as error:
            raise FencedError(
                f"another backfill of {self._preset.id} took partition {partition} over",
                fix="Let it finish, then run this again: what has landed is not fetched again",
                **error.fields,
            ) from error
        finally:
            await asyncio.shield(asyncio.to_thread(producer.close))

    def _planned(self, start_ns: int, end_ns: int, landed: Sequence[Interval]) -> list[Interval]:
        window = self._window_bars()
        if self._settings.again:
            chunks = plan_chunks(self._grid, start_ns, end_ns, window)
        else:
            chunks = plan_missing(self._grid, start_ns, end_ns, window, landed)
        cells = sum(map(self._cells, chunks))
        self.tally.skipped_bars += self._cells((start_ns, end_ns)) - cells
        self._total += cells
        self._report()
        return chunks

    async def _fetched(self, venue: VenueSymbol, chunk: Interval) -> tuple[KlinePage, int]:
        """The chunk's rows, and how often the venue was asked for them."""
        retry = self._settings.retry
        for attempt in range(1, retry.max_attempts + 1):
            try:
                async with self._fetching:
                    page = await self._history.klines(
                        venue,
                        *chunk,
                        interval_ns=self._preset.interval_ns,
                        settle_ns=self._preset.settle_ns,
                    )
                    self._weigh()
                return page, attempt
            except TransportError as error:
                asked_s = _retry_after_s(error)
                if not error.retriable or attempt == retry.max_attempts:
                    raise
                if asked_s is not None and asked_s > RETRY_AFTER_MAX_S:
                    raise
                self.tally.retries += 1
                delay_s = retry.delay_ms(attempt, self._draw) / 1_000
                await self._sleep(max(delay_s, asked_s or 0.0))
        raise AssertionError("max_attempts is at least 1")

    def _weigh(self) -> None:
        """Add what the venue's counter rose by; it starts at 0 again every minute."""
        used, before = self._history.used_weight, self._used
        self.tally.weight += used - before if used >= before else used
        self._used = used

    def _land(
        self,
        producer: TransactionalProducer,
        symbol: str,
        chunk: Interval,
        page: KlinePage,
        attempts: int,
    ) -> list[Block]:
        """One transaction; see the order at the top. The blocks that it landed."""
        closed = page.columns.take(page.columns.closed)
        settled_ns = settled_edge(self._grid, page.venue_time_ns, self._preset.settle_ns)
        # A row that could not be read may be any cell of the chunk: then nothing is promised.
        promised_ns = chunk[0] if page.malformed else min(chunk[1], settled_ns)
        partition = partition_of(symbol, self._preset.partitions)
        blocks = [
            self._block(symbol, part, closed, promised_ns, page.venue_time_ns)
            for part in block_parts(self._grid, *chunk)
            if part.start_ns < page.complete_through_ns
        ]
        producer.begin()
        producer.send_many(
            topic_name(self._preset.id, "backfill"),
            partition,
            [symbol_key(symbol)] * len(blocks),
            [encode_block(block, self._ids["bar_block"]) for block in blocks],
            [(HEADER_FINGERPRINT, SCHEMAS["bar_block"].header), WHO],
        )
        for bad in page.malformed:
            headers = [
                (HEADER_REASON, bad.reason.encode()),
                (HEADER_SOURCE, b"binance.rest.klines"),
                (HEADER_FIRST_FAILURE_NS, str(bad.received_ns).encode()),
                WHO,
            ]
            quarantine = topic_name(self._preset.id, "quarantine")
            producer.send(quarantine, partition, symbol_key(symbol), bad.raw, headers)
        record = {
            "symbol": symbol,
            "start_ns": chunk[0],
            "end_ns": chunk[1],
            "state": LANDED,
            "complete_through_ns": promised_ns if promised_ns > chunk[0] else None,
            "rows": len(closed),
            "digest": block_digest(symbol, closed),
            "attempts": attempts,
            "fetched_time_ns": page.venue_time_ns,
        }
        producer.send(
            topic_name(self._preset.id, "chunks"),
            partition,
            chunk_key(symbol, *chunk),
            encode_record("chunk", record, self._ids["chunk"]),
            [(HEADER_FINGERPRINT, SCHEMAS["chunk"].header), WHO],
        )
        producer.commit()
        return blocks

    def _block(
        self, symbol: str, part: BlockPart, closed: BarColumns, promised_ns: int, asked_ns: int
    ) -> Block:
        low, high = np.searchsorted(closed.open_time_ns, (part.start_ns, part.end_ns))
        rows = closed.take(slice(int(low), int(high)))
        return Block(
            symbol=symbol,
            block_start_ns=part.block_start_ns,
            block_end_ns=part.block_end_ns,
            interval_ns=self._preset.interval_ns,
            range_start_ns=part.start_ns,
            complete_through_ns=part.complete_through(promised_ns),
            columns=ConformedColumns.of_landing(rows),
            digest=block_digest(symbol, rows),
            landing=True,
            asked_time_ns=asked_ns,
        )

    def _count(self, page: KlinePage, blocks: Sequence[Block]) -> None:
        settled_ns = settled_edge(self._grid, page.venue_time_ns, self._preset.settle_ns)
        rows = sum(len(block.columns) for block in blocks)
        tally = self.tally
        tally.chunks += 1
        tally.blocks += len(blocks)
        tally.empty_blocks += sum(not len(block.columns) for block in blocks)
        tally.bars += rows
        tally.fresh_bars += sum(
            int((block.columns.open_time_ns >= settled_ns).sum()) for block in blocks
        )
        tally.open_klines += len(page.columns) - rows
        tally.quarantined += len(page.malformed)

    def _window_bars(self) -> int:
        assert self._preset.backfill is not None
        return self._preset.backfill.window_bars

    def _cells(self, chunk: Interval) -> int:
        return (chunk[1] - chunk[0]) // self._preset.interval_ns

    def _report(self) -> None:
        self._progress(Planned(self._done, self._total))


def landed_ranges(
    cluster: Cluster, preset: Preset, schema_id: int, partition: int
) -> dict[str, list[Interval]]:
    """What of each symbol has landed complete, from the records of `chunks`. Blocks."""
    topic = topic_name(preset.id, "chunks")
    admin = Admin(cluster)
    tp = (topic, partition)
    starts, fences = admin.begin_offsets([tp]), admin.end_offsets([tp])
    newest: dict[bytes, Message] = {}
    for batch in read_range(cluster, starts, fences):
        newest.update((record.key, record) for record in batch if record.key is not None)
    landed: dict[str, list[Interval]] = {}
    for message in newest.values():
        if message.value is None:
            continue
        version = version_written("chunk", message.headers)
        record = decode_record("chunk", message.value, version)
        if record["state"] == LANDED and record["complete_through_ns"] is not None:
            ranges = landed.setdefault(record["symbol"], [])
            ranges.append((record["start_ns"], record["complete_through_ns"]))
    return landed


def _retry_after_s(error: SeamlineError) -> float | None:
    asked = error.fields.get("retry_after_s")
    return None if asked is None else float(asked)
