"""What lies in `seamline.audit` and in `seamline.control.schema-modes`, read together to a fence.

Decides: which record is an entry's, which is the kept head, which a mode. Invariants: only what is
committed is read; a record that cannot be read is kept as it is, and a head that cannot be read is
none. Must not know: what a chain has to be, who writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, read_range
from seamline.schemas.audit import Head, decode_head
from seamline.schemas.errors import ContractError
from seamline.schemas.modes import HEAD_KEY, ModeBook
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC

# Which attempt wrote a record: two writers may say the same in the same nanosecond.
HEADER_ATTEMPT: Final = "seamline-attempt"
# Of an entry: the partitions that its transaction wrote to besides these two topics.
HEADER_ALONG: Final = "seamline-along"
AUDIT: Final[TP] = (AUDIT_TOPIC, 0)
MODES: Final[TP] = (SCHEMA_MODES_TOPIC, 0)


@dataclass(frozen=True, slots=True)
class Chain:
    """`seamline.audit` as it lies there, and what the control topic holds: the head, the modes and
    which attempts wrote there. Records in the order of the topic."""

    records: tuple[Message, ...]
    head: Head | None
    book: ModeBook
    attempts: frozenset[str]

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


def read_chain(cluster: Cluster, admin: Admin) -> Chain:
    """All committed records up to a fence; empty where a topic is absent.

    Raises TransportError when the broker does not answer.
    """
    return chain_of(read_messages(cluster, admin))


def read_messages(cluster: Cluster, admin: Admin) -> list[Message]:
    """The committed records of both topics. Raises TransportError."""
    there = admin.partitions((AUDIT_TOPIC, SCHEMA_MODES_TOPIC))
    tps = [tp for tp in (AUDIT, MODES) if tp[0] in there]
    fences = admin.end_offsets(tps)
    starts = admin.begin_offsets(tps)
    return [m for batch in read_range(cluster, starts, fences) for m in batch]


def chain_of(messages: Iterable[Message]) -> Chain:
    """The chain that these records of the two topics make."""
    records: list[Message] = []
    head, book, attempts = None, ModeBook(), set[str]()
    for message in messages:
        attempt = attempt_of(message)
        if attempt is not None:
            attempts.add(attempt)
        if message.topic == AUDIT_TOPIC:
            records.append(message)
        elif message.key == HEAD_KEY:
            head = _head(message.value)
        else:
            book.take(message.key, message.value)
    return Chain(tuple(records), head, book, frozenset(attempts))


def attempt_of(message: Message) -> str | None:
    """The attempt that wrote this record; None for what the governance log did not write."""
    found = next((value for name, value in message.headers if name == HEADER_ATTEMPT), None)
    return None if found is None else found.decode("ascii", "replace")


def along_of(tps: Iterable[TP]) -> bytes:
    """The value of HEADER_ALONG: `topic/partition`, several with commas between."""
    return ",".join(f"{topic}/{partition}" for topic, partition in sorted(tps)).encode()


def along(message: Message) -> set[TP]:
    """The partitions that HEADER_ALONG of this record names."""
    text = next((v.decode("ascii", "replace") for n, v in message.headers if n == HEADER_ALONG), "")
    pairs = (each.rpartition("/") for each in text.split(",") if each)
    return {(topic, int(number)) for topic, _, number in pairs if number.isdecimal()}


def _head(value: bytes | None) -> Head | None:
    try:
        return decode_head(value)
    except ContractError:
        return None
