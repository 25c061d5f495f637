"""A live connector's records on Kafka: what it sends, and what it reads back on start.

Decides: how bars, trades, heartbeats and unreadable bytes are written; when everything sent so far
counts as delivered; which bar or trade of a symbol landed last. Invariants: partition by murmur2 of
the symbol, as every producer; a heartbeat is sent only after all records before it were
acknowledged, so its watermark is true for every reader; nothing is sent while too much is
unsettled; a failed delivery raises. Must not know: the venue's protocol, holes, when to connect.

A broker that is away for less than BROKER_PATIENCE_S is waited for: the client sends again, in
order and without duplicates. One that is away for longer ends the connector with a DeliveryError;
the next start goes on from what landed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import Headers, IdempotentProducer
from seamline.connectors.kafka.reader import Message, read_range
from seamline.schemas.codec import BarDecoder, encode_bars, schema_ids
from seamline.schemas.columns import WS_OPEN, BarColumns
from seamline.schemas.contract import SCHEMAS, version_written
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.outages import Outage, encode_outages, parse_outages
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    HEADER_FIRST_FAILURE_NS,
    HEADER_OUTAGES,
    HEADER_PRODUCER,
    HEADER_REASON,
    HEADER_REDRIVEN,
    HEADER_SIZE,
    HEADER_SOURCE,
    HEADER_VENUE,
    HEADER_WATERMARK_NS,
    partition_of,
    producer_name,
    symbol_key,
    topic_name,
)
from seamline.streams.kernel.feed import FeedBar

UNSETTLED_MAX: Final = 20_000
# Records of this size and more count singly: a few of them fill the client's memory.
LARGE_BYTES: Final = 4_096
LARGE_UNSETTLED_MAX: Final = 64
# The broker's own default limit of a record is 1 MiB, ours leaves room for it to be lowered.
QUARANTINE_BYTES_MAX: Final = 262_144
# The client gives up a record after this, and says why; a little later we do without its word.
BROKER_PATIENCE_S: Final = 120.0
PATIENCE_MARGIN_S: Final = 15.0
SLOW_S: Final = 5.0
SETTLE_CHECK_S: Final = 0.002
PREVIEWS_UNSETTLED_MAX: Final = 1_000
# The tail is read in growing windows: a heartbeat a second hides bars of long intervals.
TAIL_WINDOWS: Final = (2_000, 20_000, 200_000)


@dataclass(frozen=True, slots=True)
class FeedTrade:
    """One trade on its way; `side` is the taker's."""

    trade_id: int
    time_ns: int
    price: float
    size: float
    side: str | None
    received_time_ns: int


class DeliveryError(TransportError):
    """A record did not reach the broker. Ends the connector: a new one resumes from what landed."""

    retriable = False


@dataclass(slots=True)
class PublisherCounters:
    """How often the broker was waited for longer than SLOW_S, and bytes that were not kept."""

    broker_waits: int = 0
    quarantine_cut: int = 0


class LivePublisher:
    """Writes one preset's `live` and `quarantine`. For one thread; raises DeliveryError when a
    delivery failed or not all is acknowledged within `patience_s` and a margin."""

    def __init__(
        self,
        producer: IdempotentProducer,
        preset: Preset,
        ids: Mapping[str, int],
        venue: str,
        *,
        patience_s: float = BROKER_PATIENCE_S,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._patience_s = patience_s
        self._notice = notice
        self.counters = PublisherCounters()
        self._producer = producer
        self._preset = preset
        self._ids = ids
        self._venue = venue
        self._live = topic_name(preset.id, "live")
        self._quarantine = topic_name(preset.id, "quarantine")
        self._who = (HEADER_PRODUCER, producer_name(f"live:{venue}"))

    @property
    def delivered(self) -> int:
        """Records that the broker acknowledged."""
        return self._producer.counts.delivered

    async def bars(self, symbol: str, bars: Sequence[FeedBar]) -> None:
        """Send closed bars of one symbol, in their order."""
        if not bars:
            return
        await self._room()
        values = encode_bars(
            [symbol] * len(bars), columns_of(bars), self._ids["bar"], self._preset.interval_ns
        )
        headers = [(HEADER_FINGERPRINT, SCHEMAS["bar"].header), self._who]
        for value in values:
            self._send(self._live, symbol_key(symbol), value, headers)

    def preview(self, symbol: str, bar: FeedBar) -> bool:
        """Send an open bar of one symbol as `ws_open`, unless the broker is slow. Never waits."""
        self._poll()
        if self._producer.unsettled >= PREVIEWS_UNSETTLED_MAX:
            return False
        columns = columns_of([bar])
        columns.closed[:] = False
        columns.source[:] = WS_OPEN
        (value,) = encode_bars([symbol], columns, self._ids["bar"], self._preset.interval_ns)
        headers = [(HEADER_FINGERPRINT, SCHEMAS["bar"].header), self._who]
        self._send(self._live, symbol_key(symbol), value, headers)
        return True

    async def trades(self, symbol: str, trades: Iterable[FeedTrade]) -> None:
        """Send trades of one symbol, in their order."""
        await self._room()
        headers = [(HEADER_FINGERPRINT, SCHEMAS["trade"].header), self._who]
        for trade in trades:
            fields = {
                "symbol": symbol,
                "trade_id": trade.trade_id,
                "time_ns": trade.time_ns,
                "price": trade.price,
                "size": trade.size,
                "side": trade.side,
                "source": self._venue,
                "received_time_ns": trade.received_time_ns,
            }
            value = encode_record("trade", fields, self._ids["trade"])
            self._send(self._live, symbol_key(symbol), value, headers)

    async def heartbeat(self, watermark_ns: int, outages: Sequence[Outage] = ()) -> None:
        """One heartbeat to each partition, with what the venue said of its outages. Order: 1. all
        records so far are acknowledged (the caller sends none meanwhile); 2. the heartbeats go
        out."""
        await self.settle()
        headers = [
            (HEADER_VENUE, self._venue.encode()),
            (HEADER_WATERMARK_NS, str(watermark_ns).encode()),
            self._who,
        ]
        if outages:
            headers.append((HEADER_OUTAGES, encode_outages(outages)))
        for partition in range(self._preset.partitions):
            self._send(self._live, None, None, headers, partition=partition)

    async def quarantine(
        self, raw: bytes, reason: str, source: str, now_ns: int, size: int | None = None
    ) -> None:
        """Keep bytes that cannot be read, unchanged; of very many the first QUARANTINE_BYTES_MAX.
        A header says how many there were, where not all are kept (`size`: 0 is unknown)."""
        await (self._room() if len(raw) < LARGE_BYTES else self._wait_below(LARGE_UNSETTLED_MAX))
        headers = [
            (HEADER_REASON, reason.encode()),
            (HEADER_SOURCE, source.encode()),
            (HEADER_FIRST_FAILURE_NS, str(now_ns).encode()),
            self._who,
        ]
        if len(raw) > QUARANTINE_BYTES_MAX:
            size, raw = len(raw), raw[:QUARANTINE_BYTES_MAX]
        if size is not None:
            self.counters.quarantine_cut += 1
            headers.append((HEADER_SIZE, str(size).encode()))
        self._send(self._quarantine, None, raw, headers)

    async def settle(self) -> None:
        """Wait until everything sent is acknowledged."""
        await self._wait_below(1)

    async def _room(self) -> None:
        if self._producer.unsettled >= UNSETTLED_MAX:
            await self._wait_below(UNSETTLED_MAX // 2)

    async def _wait_below(self, unsettled: int) -> None:
        began = time.monotonic()
        deadline = began + self._patience_s + PATIENCE_MARGIN_S
        slow = False
        self._poll()
        while self._producer.unsettled >= unsettled:
            now = time.monotonic()
            if now >= deadline:
                raise DeliveryError(
                    f"{self._producer.unsettled} records not acknowledged in time",
                    fix="Check that the broker is up and that its disk is not full",
                )
            if not slow and now - began >= SLOW_S:
                slow = True
                self.counters.broker_waits += 1
                self._notice(
                    f"the broker has not acknowledged {self._producer.unsettled} records for "
                    f"{SLOW_S:g} s; it is waited for up to {self._patience_s:g} s"
                )
            await asyncio.sleep(SETTLE_CHECK_S)
            self._poll()
        if slow:
            self._notice(f"the broker answers again, after {time.monotonic() - began:.0f} s")

    def _send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        with _loud():
            self._producer.send(topic, key, value, headers, partition=partition)

    def _poll(self) -> None:
        with _loud():
            self._producer.poll()
            if self._producer.counts.failed:
                self._producer.flush(0)  # raises with the cause


@contextmanager
def _loud() -> Iterator[None]:
    try:
        yield
    except TransportError as error:
        raise DeliveryError(error.message, fix=error.fix, **error.fields) from error


def columns_of(bars: Sequence[FeedBar]) -> BarColumns:
    """Feed bars as closed landing columns."""
    columns = BarColumns.empty(len(bars))
    for name in BarColumns.DTYPES:
        if name != "closed":
            getattr(columns, name)[:] = [getattr(bar, name) for bar in bars]
    columns.closed[:] = True
    return columns


def compile_codec() -> None:
    """Encode nothing of value once, so that the compiled code is there."""
    encode_bars(["A/B"], columns_of([FeedBar(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0)]), 0)


def bars_of(columns: BarColumns, rows: Iterable[int]) -> list[FeedBar]:
    """Rows of landing columns as feed bars."""
    names = [name for name in BarColumns.DTYPES if name != "closed"]
    return [FeedBar(**{n: getattr(columns, n)[row].item() for n in names}) for row in rows]


@dataclass(frozen=True, slots=True)
class Landed:
    """What an earlier run left near the end of `live`: the newest closed bars of each symbol in
    order of time, absent where there are none, and what was said last of the venue's outages."""

    bars: Mapping[str, Sequence[FeedBar]]
    outages: tuple[Outage, ...]


def landed(
    cluster: Cluster,
    preset: Preset,
    symbols: Sequence[str],
    schema_id: int,
    newest: int,
    latest_ns: int,
) -> Landed:
    """The `newest` closed bars of each symbol near the end of `live`, and the last statement.

    Only records with our `schema_id`, or of an earlier version, count; of two values of one bar the
    later record does. A bar that ends after `latest_ns` cannot have closed: whoever wrote it,
    nothing goes on from it.
    Blocks; reads at most the largest of TAIL_WINDOWS offsets of a partition.
    """
    found: dict[str, dict[int, tuple[int, FeedBar]]] = {symbol: {} for symbol in symbols}
    enough: set[str] = set()
    stated: tuple[int, int, tuple[Outage, ...]] = (-1, -1, ())
    decoder = BarDecoder()

    def take(records: Sequence[Message]) -> None:
        nonlocal stated
        for record in records:
            outages = _outages_of(record)
            if outages is not None:
                said = (record.timestamp_ms, record.offset, outages)
                stated = max(stated, said, key=lambda s: s[:2])
        written = _written_as("bar", records, schema_id)
        if not written:
            return
        ours = [record for record, _, _ in written]
        versions = np.array([version for _, _, version in written], np.uint8)
        decoded = decoder.decode([value for _, value, _ in written], versions)
        over = decoded.columns.open_time_ns <= latest_ns - preset.interval_ns
        usable = np.flatnonzero(decoded.ok & decoded.columns.closed & over)
        for row, bar in zip(usable, bars_of(decoded.columns, usable), strict=True):
            bars = found.get(decoder.symbols[decoded.sid[row]])
            if bars is not None:
                entry = (ours[row].offset, bar)
                # An older window must not put back what a later record replaced.
                bars[bar.open_time_ns] = max(
                    bars.get(bar.open_time_ns, entry), entry, key=lambda e: e[0]
                )
        for symbol, bars in found.items():
            if len(bars) >= newest:
                enough.add(symbol)
            if len(bars) >= 2 * newest:
                for time_ns in sorted(bars)[:-newest]:
                    del bars[time_ns]

    _read_tail(cluster, preset, symbols, take, enough)
    kept = {s: [bars[t][1] for t in sorted(bars)[-newest:]] for s, bars in found.items() if bars}
    return Landed(kept, stated[2])


def _written_as(
    name: str, records: Sequence[Message], schema_id: int
) -> list[tuple[Message, bytes, int]]:
    """The records of `name`: of the newest version by our id, of an earlier one by its header."""
    newest = SCHEMAS[name].version
    valued = [(record, record.value) for record in records if record.value is not None]
    ids = schema_ids([value for _, value in valued]).tolist()
    found = []
    for (record, value), number in zip(valued, ids, strict=True):
        version = newest if number == schema_id else version_written(name, record.headers)
        if version is not None and (version < newest or number == schema_id):
            found.append((record, value, version))
    return found


def _outages_of(record: Message) -> tuple[Outage, ...] | None:
    """The statement of a heartbeat: none at all is one too. None for other records."""
    if record.value is not None:
        return None
    headers = dict(record.headers)
    if HEADER_WATERMARK_NS not in headers:
        return None
    return parse_outages(headers.get(HEADER_OUTAGES, b""))


def last_trade_ids(
    cluster: Cluster, preset: Preset, symbols: Sequence[str], schema_id: int
) -> dict[str, int]:
    """The newest trade id of each symbol near the end of `live`, bounded as `last_bars`. What came
    back out of quarantine is older than what stands beside it, and says nothing of where the feed
    was."""
    found: dict[str, int] = {}

    def take(records: Sequence[Message]) -> None:
        for record, value, version in _written_as("trade", records, schema_id):
            if any(name == HEADER_REDRIVEN for name, _ in record.headers):
                continue
            try:
                trade = decode_record("trade", value, version)
            except ContractError:
                continue  # another producer's record: the worker is the one who judges it
            symbol = trade["symbol"]
            found[symbol] = max(found.get(symbol, trade["trade_id"]), trade["trade_id"])

    _read_tail(cluster, preset, symbols, take, found)
    return {symbol: found[symbol] for symbol in symbols if symbol in found}


def _read_tail(
    cluster: Cluster,
    preset: Preset,
    symbols: Sequence[str],
    take: Callable[[Sequence[Message]], None],
    found: Collection[str],
) -> None:
    """Give `take` the end of `live`, further and further back until `found` has all symbols."""
    topic = topic_name(preset.id, "live")
    wanted: dict[TP, set[str]] = {}
    for symbol in symbols:
        wanted.setdefault((topic, partition_of(symbol, preset.partitions)), set()).add(symbol)
    admin = Admin(cluster)
    begins, ends = admin.begin_offsets(wanted), admin.end_offsets(wanted)
    upper = dict(ends)
    for window in TAIL_WINDOWS:
        starts = {
            tp: max(begins[tp], ends[tp] - window)
            for tp, names in wanted.items()
            if not names <= set(found) and upper[tp] > begins[tp]
        }
        for batch in read_range(cluster, starts, {tp: upper[tp] for tp in starts}):
            take(batch)
        upper |= starts
