"""The log writer's transactions on a real broker: real producer, real codec, real registry ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from integration.plain_preset import fresh
from log_writer import BLOCK_ROWS, MINUTE, LogWriter, Record, columns_of
from older_records import FIRST, as_first, first_headers
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.world import World
from seamline.schemas.codec import encode_conformed, encode_record
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.modes import CANARY
from seamline.schemas.preset import Preset
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    POSITION_KEY,
    gap_key,
    partition_of,
    storage_key,
    subject_of,
    symbol_key,
    topic_name,
)
from seamline.schemas.wire import FRAME_BYTES, frame

SCHEMA_OF = {
    "conformed": "conformed_bar",
    "superseded": "conformed_bar",
    "storage": "bar_block",
    "seals": "seal",
    "gaps": "gap",
    "positions": "position",
}


def fresh_seam_preset(world: World, partitions: int = 4) -> Preset:
    return replace(fresh(world.cluster, partitions), block_rows=BLOCK_ROWS)


def writer_for(world: World, preset: Preset) -> LogWriter:
    return LogWriter(KafkaSink(world, preset))


class KafkaSink:
    """One producer for all partitions; close it after the last transaction."""

    def __init__(self, world: World, preset: Preset) -> None:
        self.preset = preset
        self._admin = Admin(world.cluster)
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        try:
            self._ids: Mapping[str, int] = ensure_registered(client, preset, lambda _: CANARY)
        finally:
            client.close()
        name = f"seamline.{preset.id}.writer.{uuid.uuid4().hex[:8]}"
        self._producer = TransactionalProducer(world.cluster, name)
        self._producer.init()
        # Write as a program of version 1 of every schema did.
        self.first_versions = False
        self._first_ids: dict[str, int] = {}
        self._world = world

    def close(self) -> None:
        self._producer.close()

    def commit(self, records: Sequence[Record]) -> list[int]:
        self._producer.begin()
        logged = []
        for record in records:
            number = self.send(record)
            if record.role == "conformed":
                logged.append(number)
        offsets = self._producer.commit()
        self._await_markers(records)
        return [offsets[number][0] for number in logged]

    def _await_markers(self, records: Sequence[Record]) -> None:
        """A commit shows in each topic a moment after it returned."""
        count = self.preset.partitions
        tps = {(topic_name(self.preset.id, r.role), partition_of(r.symbol, count)) for r in records}
        deadline = time.monotonic() + 15
        while self._admin.end_offsets(tps) != self._admin.end_offsets(tps, "read_uncommitted"):
            assert time.monotonic() < deadline, "the transaction's markers do not come"

    def send(self, record: Record) -> int:
        name = SCHEMA_OF[record.role]
        key, value = self.encoded(record)
        headers = [(HEADER_FINGERPRINT, SCHEMAS[name].header)]
        if self.first_versions:
            headers = first_headers(headers)
            if value is not None:
                value = self._first_frame(name, record.role) + as_first(name, value)[FRAME_BYTES:]
        return self._producer.send(
            topic_name(self.preset.id, record.role),
            partition_of(record.symbol, self.preset.partitions),
            key,
            value,
            headers,
            want="first" if record.role == "conformed" else "none",
        )

    def _first_frame(self, name: str, role: str) -> bytes:
        """The frame of version 1, which is registered beside today's."""
        if name not in self._first_ids:
            client = RemoteSchemaRegistryClient(self._world.registry_url, self._world.registry_auth)
            try:
                subject = subject_of(topic_name(self.preset.id, role))
                self._first_ids[name] = client.register(subject, FIRST[name].text)
            finally:
                client.close()
        return frame(self._first_ids[name])

    def encoded(self, record: Record) -> tuple[bytes, bytes | None]:
        payload, symbol = record.payload, record.symbol
        number = self._ids[SCHEMA_OF[record.role]]
        if record.role in ("conformed", "superseded"):
            [value] = encode_conformed(
                [symbol.encode()], np.zeros(1, np.int32), columns_of([payload]), number
            )
            return symbol_key(symbol), value
        if record.role == "storage":
            return storage_key(symbol, payload.block_start_ns), encode_block(payload, number)
        if record.role == "gaps" and payload is None:
            return gap_key(symbol, record.start_ns), None
        key, fields = self._fields(record)
        return key, encode_record(SCHEMA_OF[record.role], fields, number)

    def _fields(self, record: Record) -> tuple[bytes, dict[str, Any]]:
        payload, symbol = record.payload, record.symbol
        if record.role == "seals":
            names = payload.__dataclass_fields__
            return symbol_key(symbol), {
                **{n: getattr(payload, n) for n in names},
                "known_time_ns": 0,
            }
        if record.role == "gaps":
            return gap_key(symbol, payload.start_ns), {
                "symbol": symbol,
                "start_ns": payload.start_ns,
                "end_ns": payload.end_ns,
                "bars": (payload.end_ns - payload.start_ns) // MINUTE,
                "cause": payload.cause,
                "known_time_ns": payload.known_time_ns,
            }
        return POSITION_KEY, {
            "partition": partition_of(symbol, self.preset.partitions),
            "live_offset": 0,
            "backfill_offset": 0,
            "watermark_ns": payload,
            "known_time_ns": record.start_ns,
            "owner": "test",
            "conformed_offset": 0,
            "rows_total": 0,
        }

    def next_conformed(self, symbol: str) -> int:
        tp = (topic_name(self.preset.id, "conformed"), partition_of(symbol, self.preset.partitions))
        return self._admin.end_offsets([tp], "read_uncommitted")[tp]
