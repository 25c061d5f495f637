"""A record that was not taken, and how it lies in quarantine.

Decides: which of its bytes are kept, and the headers that say why it is there, where it came from,
which writer schema it named and when it failed first. Invariants: the bytes are as they came, or
their beginning where they are larger than a topic takes; the record's own headers (its producer
among them) come first and ours after them, so the last of a name is ours; whatever reads them back
takes the last. Must not know: why a record is refused, who writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seamline.schemas.topics import (
    HEADER_DETAIL,
    HEADER_FIRST_FAILURE_NS,
    HEADER_ORIGIN_BYTES,
    HEADER_ORIGIN_OFFSET,
    HEADER_ORIGIN_PARTITION,
    HEADER_ORIGIN_TIMESTAMP_MS,
    HEADER_ORIGIN_TOPIC,
    HEADER_REASON,
    HEADER_SCHEMA_ID,
    topic_name,
)
from seamline.schemas.wire import schema_id_of
from seamline.streams.kernel.protocol import Batch, Header, Record

# Key, value and foreign headers of a quarantined record hold together at most so much: what lands
# compressed may be larger than any topic takes. The whole record stays where it landed.
KEPT_BYTES_MAX: Final = 1_030_000
KEPT_BESIDE_BYTES_MAX: Final = 100_000
# A detail may hold names that a foreign schema chose.
DETAIL_CHARS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that was not taken, why, and more about it for people."""

    record: Record
    reason: str
    detail: str = ""

    @property
    def key(self) -> bytes | None:
        """As it came, cut where it is large."""
        key = self.record.key
        return key if key is None else key[:KEPT_BESIDE_BYTES_MAX]

    @property
    def value(self) -> bytes | None:
        """As it came, its beginning where it is larger than a topic takes."""
        value = self.record.value
        if value is None or len(value) <= KEPT_BYTES_MAX - 2 * KEPT_BESIDE_BYTES_MAX:
            return value
        beside = sum(len(name) + len(text or b"") for name, text in self.record.headers)
        room = KEPT_BYTES_MAX - min(len(self.record.key or b""), KEPT_BESIDE_BYTES_MAX)
        return value[: room - (beside if beside <= KEPT_BESIDE_BYTES_MAX else 0)]

    def headers(self, clock_ns: int) -> tuple[Header, ...]:
        """The record's own headers, then ours. The key and the headers of a record that is larger
        than a topic takes are left out where it is they that are large. `clock_ns`: when it failed,
        by the clock of the step that refused it."""
        record = self.record
        beside = sum(len(name) + len(value or b"") for name, value in record.headers)
        size = len(record.key or b"") + len(record.value or b"") + beside
        cut = ((HEADER_ORIGIN_BYTES, str(size).encode()),) if size > KEPT_BYTES_MAX else ()
        schema_id = schema_id_of(record.value)
        named = () if schema_id is None else ((HEADER_SCHEMA_ID, str(schema_id).encode()),)
        return (
            *(record.headers if beside <= KEPT_BESIDE_BYTES_MAX or not cut else ()),
            *cut,
            (HEADER_REASON, self.reason.encode()),
            (HEADER_DETAIL, _shown(self.detail).encode()),
            *named,
            (HEADER_FIRST_FAILURE_NS, str(clock_ns).encode()),
            (HEADER_ORIGIN_TOPIC, record.topic.encode()),
            (HEADER_ORIGIN_PARTITION, str(record.partition).encode()),
            (HEADER_ORIGIN_OFFSET, str(record.offset).encode()),
            (HEADER_ORIGIN_TIMESTAMP_MS, str(record.timestamp).encode()),
        )


def _shown(detail: str) -> str:
    """So much that the record fits a topic, and only what has UTF-8 and no line of its own."""
    cut = detail[:DETAIL_CHARS_MAX]
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def quarantine_batch(preset_id: str, refused: Sequence[Quarantined], clock_ns: int) -> Batch:
    """The refused records of one step, bytes as they came."""
    return Batch(
        topic=topic_name(preset_id, "quarantine"),
        keys=[each.key for each in refused],
        values=[each.value for each in refused],
        headers=[each.headers(clock_ns) for each in refused],
    )
