"""Records of ours as a program of version 1 of every schema wrote them.

Decides: nothing of the product. A record of today is brought to its first version by Avro's own
resolution; what the first version could not say is lost, as it was then.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import fastavro

from avro_peer import PARSED, plain
from seamline.schemas.contract import Schema, approved, by_fingerprint
from seamline.schemas.topics import HEADER_FINGERPRINT
from seamline.schemas.wire import FRAME_BYTES
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord

FIRST: dict[str, Schema] = {schema.name: schema for schema in approved() if schema.version == 1}
_FIRST = {
    name: fastavro.parse_schema(plain(json.loads(schema.text))) for name, schema in FIRST.items()
}


def as_first(name: str, value: bytes) -> bytes:
    """A framed record of the newest version as one of version 1, under the same id."""
    stream = io.BytesIO(value[FRAME_BYTES:])
    record: Any = fastavro.schemaless_reader(stream, PARSED[name], _FIRST[name])
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _FIRST[name], record)
    return value[:FRAME_BYTES] + out.getvalue()


def first_headers(headers: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The same headers with the fingerprint of version 1."""
    return [
        (key, FIRST[_name(value)].header if key == HEADER_FINGERPRINT else value)
        for key, value in headers
    ]


def as_first_log(log: MemoryLog) -> None:
    """Every record of a log with our fingerprint, as version 1; those that are stay as they are."""
    for topic, records in log.topics.items():
        log.topics[topic] = [_as_first(record) for record in records]


def _as_first(record: MemoryRecord) -> MemoryRecord:
    newer = [name for name, version in names_of([record]) if version > 1]
    if not newer or record.value is None:
        return record
    return MemoryRecord(
        *(record.topic, record.partition, record.offset, record.timestamp, record.key),
        as_first(newer[0], record.value),
        tuple(first_headers(record.headers)),
    )


def names_of(records: Sequence[MemoryRecord]) -> set[tuple[str, int]]:
    """The records and versions that these headers say."""
    found = {by_fingerprint(v) for r in records for k, v in r.headers if k == HEADER_FINGERPRINT}
    return {(schema.name, schema.version) for schema in found if schema is not None}


def _name(fingerprint: bytes) -> str:
    schema = by_fingerprint(fingerprint)
    assert schema is not None
    return schema.name
