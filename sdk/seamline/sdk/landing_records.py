"""Bars of one symbol as records of a landing topic, or of quarantine.

Decides: how bars lie on `live` (one record each) and on `backfill` (blocks that promise nothing),
and the headers. Invariants: key, partition, framing and fingerprint are those that the worker asks
for; live bars keep the order in which they were given; a bar that goes to quarantine is there as
the record that would have landed. Must not know: which bars pass, Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import I8, BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.preset import Preset
from seamline.schemas.topics import (
    HEADER_DETAIL,
    HEADER_FINGERPRINT,
    HEADER_FIRST_FAILURE_NS,
    HEADER_PRODUCER,
    HEADER_REASON,
    HEADER_SCHEMA_ID,
    HEADER_SOURCE,
    partition_of,
    symbol_key,
    topic_name,
)
from seamline.streams.kernel.validate import RULES, first_rule

LIVE: Final = "live"
# What the quarantine names as the place that bytes came from, where they never landed.
SOURCE: Final = b"sdk.producer"


class Record(NamedTuple):
    """What is handed to Kafka; `bars`: how many it holds."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    bars: int = 1


@dataclass(frozen=True, slots=True)
class LandingRecords:
    """Of one producer. `role`: `live` or `backfill`; `ids`: schema name -> id; `name`: the value of
    the header that names the producer."""

    preset: Preset
    role: str
    ids: Mapping[str, int]
    name: bytes

    @property
    def schema(self) -> str:
        """The record in which bars lie on the topic."""
        return "bar" if self.role == LIVE else "bar_block"

    def of(self, symbol: str, bars: BarColumns) -> list[Record]:
        """The records of these bars. Raises UsageError where one time is there twice among bars
        that go into blocks."""
        if not len(bars):
            return []
        topic = topic_name(self.preset.id, self.role)
        headers = self._headers(self.schema)
        if self.role == LIVE:
            values = [(value, 1) for value in self._flat(symbol, bars)]
        else:
            values = list(self._blocks(symbol, bars))
        partition, key = partition_of(symbol, self.preset.partitions), symbol_key(symbol)
        return [Record(topic, partition, key, value, headers, n) for value, n in values]

    def quarantined(self, symbol: str, bars: BarColumns, rules: I8, now_ns: int) -> list[Record]:
        """The same bars, one record each, for the quarantine of the preset."""
        topic = topic_name(self.preset.id, "quarantine")
        partition, key = partition_of(symbol, self.preset.partitions), symbol_key(symbol)
        made = []
        for value, broken in zip(self._flat(symbol, bars), rules.tolist(), strict=True):
            names = ",".join(name for bit, name in RULES.items() if broken & bit)
            headers = (
                *self._headers("bar"),
                (HEADER_REASON, first_rule(broken, self.preset.off_grid).encode()),
                (HEADER_DETAIL, names.encode()),
                (HEADER_SOURCE, SOURCE),
                (HEADER_SCHEMA_ID, str(self.ids["bar"]).encode()),
                (HEADER_FIRST_FAILURE_NS, str(now_ns).encode()),
            )
            made.append(Record(topic, partition, key, value, headers))
        return made

    def _headers(self, schema: str) -> tuple[tuple[str, bytes], ...]:
        return ((HEADER_FINGERPRINT, SCHEMAS[schema].header), (HEADER_PRODUCER, self.name))

    def _flat(self, symbol: str, bars: BarColumns) -> list[bytes]:
        return encode_bars([symbol] * len(bars), bars, self.ids["bar"], self.preset.interval_ns)

    def _blocks(self, symbol: str, bars: BarColumns) -> Iterator[tuple[bytes, int]]:
        """One for each span that has bars, oldest first. Without a promise of completeness: whoever
        sends bars does not say that there are no others."""
        order = np.argsort(bars.open_time_ns, kind="stable")
        rows = bars.take(order)
        again = np.flatnonzero(np.diff(rows.open_time_ns) == 0)
        if len(again):
            raise UsageError(
                "one open time twice in one call",
                parameter=f"bars[{int(order[again[0] + 1])}].open_time",
                value=int(rows.open_time_ns[again[0]]),
                fix="A block has one bar of each time: send the later one in a call of its own",
            )
        starts = self.preset.block_start_of(rows.open_time_ns)  # type: ignore[arg-type]
        edges = np.flatnonzero(np.diff(starts, prepend=starts[:1] - 1)).tolist()  # type: ignore[index]
        for low, high in zip(edges, [*edges[1:], len(rows)], strict=True):
            part = rows.take(slice(low, high))
            start_ns = self.preset.block_start_of(int(part.open_time_ns[0]))
            block = Block(
                symbol=symbol,
                block_start_ns=start_ns,
                block_end_ns=start_ns + self.preset.block_ns,
                interval_ns=self.preset.interval_ns,
                range_start_ns=start_ns,
                complete_through_ns=None,
                columns=ConformedColumns.of_landing(part),
                digest=block_digest(symbol, part),
                landing=True,
            )
            yield encode_block(block, self.ids["bar_block"]), high - low
