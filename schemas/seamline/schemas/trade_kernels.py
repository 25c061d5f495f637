"""Avro in compiled loops: trades.

Decides: which bytes are surely a trade. Invariants: as `codec_kernels`; what is marked OK is a
trade for `records.decode_record` too, with the same values, down to the bits of a double; what is
not may still be one (a symbol that the table does not hold), and that module has the word.
Must not know: Python objects, schema ids, what the values mean.

Columns are rows of two matrices: `ints` (int64): trade_id, time, received_time; `raw` (uint8, eight
bytes a row): price, size.
"""

from __future__ import annotations

import numpy as np

from seamline.schemas.codec_kernels import (
    ENUM,
    FRAME_BYTES,
    NOT_FRAMED,
    NS_PER_US,
    NUMBER,
    OK,
    SYMBOL,
    TIME,
    TRAILING,
    TRUNCATED,
    UNION,
    US_MAX,
    Array,
    Table,
    i64,
    intern,
    is_utf8,
    read_varint,
)
from seamline.schemas.jit import njit

# Sides that version 1 names, and those of today.
SIDES_FIRST = 2
SIDES_COUNT = 3


@njit
def _read_number(b: Array, p: int, end: int) -> tuple[int, int]:
    """As `read_varint`, of the shortest form alone: no other is ever written."""
    v, after = read_varint(b, p, end)
    if after > p + 1 and b[after - 1] == 0:
        return i64(0), -NUMBER
    return v, after


@njit
def _read_branch(b: Array, p: int, end: int) -> tuple[int, int]:
    """Branch 0 or 1 of a `["null", …]`."""
    u, p = _read_number(b, p, end)
    if p >= 0 and (u < 0 or u > 1):
        return i64(0), -UNION
    return u, p


@njit
def _read_told(b: Array, p: int, end: int, version: int) -> int:
    """Past side and source."""
    u, p = _read_branch(b, p, end)
    if p >= 0 and u == 1:
        v, p = _read_number(b, p, end)
        if p >= 0 and (v < 0 or v >= (SIDES_FIRST if version < 2 else SIDES_COUNT)):
            return -ENUM
    if p < 0:
        return p
    u, p = _read_branch(b, p, end)
    if p >= 0 and u == 1:
        length, p = _read_number(b, p, end)
        if p < 0:
            return p
        if length < 0 or length > end - p:
            return -TRUNCATED
        if not is_utf8(b, p, p + length):
            return -SYMBOL
        p += length
    return p


@njit
def _decode_trade(
    b: Array, p: int, end: int, version: int, i: int, ints: Array, raw: Array
) -> tuple[int, int, int]:
    """`(code, position of the symbol, its length)`; times are left as on the wire."""
    none = i64(0)
    if end - p < FRAME_BYTES or b[p] != 0:
        return NOT_FRAMED, none, none
    length, p = _read_number(b, p + FRAME_BYTES, end)
    if p < 0:
        return -p, none, none
    if length < 0 or length > end - p:
        return TRUNCATED, none, none
    at = p
    ints[0, i], p = _read_number(b, p + length, end)
    if p < 0:
        return -p, none, none
    ints[1, i], p = _read_number(b, p, end)
    if p < 0:
        return -p, none, none
    if end - p < 16:
        return TRUNCATED, none, none
    for j in range(2):
        for k in range(8):
            raw[j, 8 * i + k] = b[p + k]
        p += 8
    p = _read_told(b, p, end, version)
    if p < 0:
        return -p, none, none
    ints[2, i], p = _read_number(b, p, end)
    if p < 0:
        return -p, none, none
    if p != end:
        return TRAILING, none, none
    for j in range(1, 3):
        if ints[j, i] > US_MAX or ints[j, i] < -US_MAX:
            return TIME, none, none
        ints[j, i] *= NS_PER_US
    return OK, at, length


@njit
def decode_trades(
    b: Array,
    ends: Array,
    versions: Array,
    table: Table,
    ints: Array,
    raw: Array,
    sid: Array,
    code: Array,
) -> None:
    """Record i is `b[ends[i-1]:ends[i]]`, of the writer's version `versions[i]`."""
    start = i64(0)
    for i in range(len(ends)):
        end = ends[i]
        found, at, length = _decode_trade(b, start, end, versions[i], i, ints, raw)
        sid[i] = -1
        if found == OK:
            s = intern(b, at, length, table)
            if s < 0:
                found = -s
            else:
                sid[i] = s
        if found != OK:
            for j in range(3):
                ints[j, i] = 0
            for j in range(2):
                for k in range(8):
                    raw[j, 8 * i + k] = np.uint8(0)
        code[i] = found
        start = end
