"""A chunk: what one fetch brought for one partition, named so that a missing one shows.

Decides: what a chunk says of itself and how its memory is counted. Invariant: a chunk is never
empty, its records are in offset order. Must not know: who fetches and who accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seamline.streams.kernel.protocol import Record

# What the interpreter keeps for a record beside its bytes: bounds are of memory, not of wire bytes.
RECORD_OVERHEAD_BYTES: Final = 450


@dataclass(frozen=True, slots=True)
class Chunk:
    """`prev` is the last offset of the chunk before it in the same session, None for the first.

    `size` is what it holds in memory, in bytes.
    """

    topic: str
    partition: int
    session: int
    prev: int | None
    records: Sequence[Record]
    size: int

    @property
    def last(self) -> int:
        return self.records[-1].offset


def size_of(records: Sequence[Record]) -> int:
    """Bytes of memory that `records` hold."""
    size = RECORD_OVERHEAD_BYTES * len(records)
    for record in records:
        if record.value is not None:
            size += len(record.value)
    return size
