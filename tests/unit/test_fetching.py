"""Fetched batches as a broker may hold them, whatever a producer called its headers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from seamline.connectors.kafka.fetching import READ_COMMITTED_CODE, LeanRecords, RawRecords

NAME, ODD = b"name-of-it", b"n\xff\xfe-of-it\xc3"
TP = TopicPartition("t", 0)
NONE, GZIP = 0, 1


def batch(
    offset: int, values: Sequence[bytes], *, odd: bool = False, codec: int = NONE, of: int = -1
) -> bytes:
    """One batch; `of`: the id of its transactional producer."""
    made = DefaultRecordBatchBuilder(
        *(2, codec, of >= 0, of, 0 if of >= 0 else -1, 0 if of >= 0 else -1, 1_000_000)
    )
    for number, value in enumerate(values):
        made.append(number, 1_000 + number, b"k", value, [(NAME.decode(), b"\xff\x00")])
    data = bytearray(made.build())
    if odd:
        at = data.rindex(NAME)
        data[at : at + len(NAME)] = ODD
    data[:8] = struct.pack(">q", offset)
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    return bytes(data)


def read(raw: bytes, start: int = 0, aborted: Any = None) -> list[tuple[int, bytes | None, str]]:
    made: Any = LeanRecords
    held = RawRecords(raw)
    records = made(TP, held, aborted, start, None, None, True, READ_COMMITTED_CODE)
    found = [(r.offset, r.value, r.headers[0][0]) for r in records]
    assert all(len(r[1] or b"") == 1 for r in found)
    return found


def test_a_header_whose_name_is_no_utf8_loses_no_record_and_ends_no_fetch() -> None:
    first = batch(10, [b"a", b"b"])
    raw = b"".join(
        (
            first,
            batch(12, [b"c", b"d"], odd=True),
            batch(20, [b"e"], codec=GZIP),
            batch(30, [b"f", b"g"])[:-3],  # an answer may end in the middle of a batch
        )
    )
    name, odd = NAME.decode(), ODD.decode(errors="replace")
    assert read(raw, 10) == [
        *((10, b"a", name), (11, b"b", name), (12, b"c", name), (13, b"d", odd)),
        (20, b"e", name),
    ]
    # An answer begins with the batch that holds the offset asked for.
    assert [offset for offset, _, _ in read(raw[len(first) :], 13)] == [13, 20]


def test_beside_such_a_header_what_was_aborted_stays_aborted() -> None:
    """Two transactions of one producer, the first committed: reading on must not mix them up."""
    raw = b"".join(
        (
            batch(0, [b"a"], of=7),
            batch(10, [b"x"], of=7),
            batch(11, [b"b"], odd=True),
            batch(12, [b"x"], of=7),
            batch(13, [b"c"], of=8),
        )
    )
    assert [value for _, value, _ in read(raw, 0, [(7, 10)])] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("codec", [NONE, GZIP])
def test_plain_batches_are_read_as_they_are(codec: int) -> None:
    raw = batch(3, [b"a"], codec=codec) + batch(9, [b"b"], codec=codec)
    assert [(offset, value) for offset, value, _ in read(raw, 3)] == [(3, b"a"), (9, b"b")]
