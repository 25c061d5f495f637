"""Avro in compiled loops: one block of one symbol.

Decides: which bytes are a block, and the code when they are not. Invariants: as in `codec_kernels`;
besides, the rows of a block that is accepted or written are in strictly ascending open_time inside
`[block_start, block_end)`, all arrays have one length, and the last four columns are all null
(landing) or all set. Arrays may come in several Avro blocks, with or without a size in bytes.
Must not know: Python objects, schema ids, digests.

The matrices are those of `codec_kernels`. `meta` (int64) holds what is not an array: see M_*; times
in it are in units of the wire on the way out and nanoseconds on the way in.
"""

from __future__ import annotations

import numpy as np

from seamline.schemas.codec_kernels import (
    COUNT,
    DIGEST,
    ENUM,
    FRAME_BYTES,
    INT32_MAX,
    MS_MAX,
    NOT_FRAMED,
    NS_PER_MS,
    NS_PER_US,
    NUMBER,
    OK,
    ORDER,
    ORIGINS_COUNT,
    SOURCES_COUNT,
    SPAN,
    SYMBOL,
    SYMBOL_BYTES_MAX,
    TIME,
    TRAILING,
    TRUNCATED,
    UNION,
    US_MAX,
    Array,
    i64,
    is_utf8,
    read_double,
    read_union,
    read_varint,
    write_double,
    write_varint,
)
from seamline.schemas.jit import njit

M_BLOCK_START = 0
M_BLOCK_END = 1
M_RANGE_START = 2
M_HAS_COMPLETE = 3
M_COMPLETE = 4
M_INTERVAL = 5
M_SEQUENCE = 6
M_LANDING = 7
M_HAS_ASKED = 8
M_ASKED = 9
# Only on the way in: where the symbol and the digest are.
M_SYMBOL_AT = 10
M_SYMBOL_BYTES = 11
M_DIGEST_AT = 12
META_LENGTH = 13

DIGEST_BYTES = 32
# A row has five doubles at least, so no block has more rows than its bytes / 40.
ROW_BYTES_MIN = 40
# Six doubles, seven 64-bit varints, two of 32 bits, two single bytes.
BLOCK_ROW_BYTES_MAX = 48 + 70 + 10 + 2
# Frame, symbol, digest, a dozen numbers, a dozen array heads and ends.
BLOCK_HEAD_BYTES_MAX = 512


@njit
def _read_count(b: Array, p: int, end: int, room: int) -> tuple[int, int]:
    """Items of the next Avro block of an array, 0 at its end."""
    count, p = read_varint(b, p, end)
    if p < 0:
        return count, p
    if count < 0:
        if count < -room:
            return count, -COUNT
        count = -count
        size, p = read_varint(b, p, end)
        if p >= 0 and (size < 0 or size > end - p):
            return count, -TRUNCATED
    if p >= 0 and count > room:
        return count, -COUNT
    return count, p


@njit
def _read_longs(b: Array, p: int, end: int, unit: int, limit: int, out: Array) -> tuple[int, int]:
    """An array of long into `out`, times `unit`. `limit` 0: no limit (and a unit of 1)."""
    n = i64(0)
    while True:
        count, p = _read_count(b, p, end, len(out) - n)
        if p < 0 or count == 0:
            return n, p
        for k in range(n, n + count):
            v, p = read_varint(b, p, end)
            if p < 0:
                return n, p
            if limit != 0 and (v > limit or v < -limit):
                return n, -TIME
            out[k] = v * unit
        n += count


@njit
def _read_ints(b: Array, p: int, end: int, out: Array) -> tuple[int, int]:
    n = i64(0)
    while True:
        count, p = _read_count(b, p, end, len(out) - n)
        if p < 0 or count == 0:
            return n, p
        for k in range(n, n + count):
            v, p = read_varint(b, p, end)
            if p < 0:
                return n, p
            if v > INT32_MAX or v < -INT32_MAX - 1:
                return n, -NUMBER
            out[k] = v
        n += count


@njit
def _read_doubles(b: Array, p: int, end: int, out: Array, t8: Array, tf: Array) -> tuple[int, int]:
    n = i64(0)
    while True:
        count, p = _read_count(b, p, end, len(out) - n)
        if p < 0 or count == 0:
            return n, p
        if (end - p) // 8 < count:
            return n, -TRUNCATED
        for k in range(count):
            out[n + k] = read_double(b, p + 8 * k, t8, tf)
        p += 8 * count
        n += count


@njit
def _read_bytes(b: Array, p: int, end: int) -> tuple[int, int]:
    """`(length, position of the first byte)`; all of them are inside."""
    length, p = read_varint(b, p, end)
    if p >= 0 and (length < 0 or length > end - p):
        return length, -TRUNCATED
    return length, p


@njit
def _read_enums(b: Array, p: int, end: int, rows: int, bound: int, out: Array) -> int:
    """One byte a row."""
    length, p = _read_bytes(b, p, end)
    if p < 0:
        return p
    if length != rows:
        return -COUNT
    for k in range(rows):
        if b[p + k] >= bound:
            return -ENUM
        out[k] = b[p + k]
    return p + length


@njit
def _read_head(b: Array, p: int, end: int, meta: Array) -> int:
    length, p = _read_bytes(b, p, end)
    if p < 0:
        return p
    if length < 1 or length > SYMBOL_BYTES_MAX or not is_utf8(b, p, p + length):
        return -SYMBOL
    meta[M_SYMBOL_AT], meta[M_SYMBOL_BYTES] = p, length
    p += length
    meta[M_COMPLETE] = 0
    for field in (M_BLOCK_START, M_BLOCK_END, M_RANGE_START, M_HAS_COMPLETE, M_COMPLETE):
        if field == M_HAS_COMPLETE:
            meta[field], p = read_union(b, p, end)
        elif field != M_COMPLETE or meta[M_HAS_COMPLETE] == 1:
            v, p = read_varint(b, p, end)
            if p >= 0 and (v > MS_MAX or v < -MS_MAX):
                return -TIME
            meta[field] = v * NS_PER_MS
        if p < 0:
            return p
    if meta[M_BLOCK_END] <= meta[M_BLOCK_START]:
        return -SPAN
    for field in (M_INTERVAL, M_SEQUENCE):
        meta[field], p = read_varint(b, p, end)
        if p < 0:
            return p
    if meta[M_INTERVAL] < 1 or meta[M_INTERVAL] > MS_MAX or meta[M_SEQUENCE] < 0:
        return -NUMBER
    meta[M_INTERVAL] *= NS_PER_MS
    length, p = _read_bytes(b, p, end)
    if p < 0:
        return p
    if length != DIGEST_BYTES:
        return -DIGEST
    meta[M_DIGEST_AT] = p
    return p + length


@njit
def _read_content(
    b: Array, p: int, end: int, rows: int, floats: Array, ints: Array, small: Array
) -> int:
    """Prices to received_time."""
    t8 = np.empty(8, np.uint8)
    tf = t8.view(np.float64)
    for j in range(6):
        u = i64(1)
        if j == 5:
            u, p = read_union(b, p, end)
            if p < 0:
                return p
        if u == 1:
            n, p = _read_doubles(b, p, end, floats[j], t8, tf)
            if p < 0:
                return p
            if n != rows:
                return -COUNT
        else:
            floats[j, :rows] = np.nan
    for j in range(1, 4):
        u, p = read_union(b, p, end)
        if p < 0:
            return p
        if u == 1:
            n, p = _read_longs(b, p, end, 1, 0, ints[j])
            if p < 0:
                return p
            if n != rows:
                return -COUNT
        else:
            ints[j, :rows] = -1
    p = _read_enums(b, p, end, rows, SOURCES_COUNT, small[0])
    if p < 0:
        return p
    n, p = _read_longs(b, p, end, NS_PER_US, US_MAX, ints[4])
    if p >= 0 and n != rows:
        return -COUNT
    return p


@njit
def _read_history(
    b: Array,
    p: int,
    end: int,
    rows: int,
    ints: Array,
    narrow: Array,
    small: Array,
    meta: Array,
) -> int:
    """Revision, flags, known_time, origin: all null or all set."""
    for j in range(4):
        u, p = read_union(b, p, end)
        if p < 0:
            return p
        if j == 0:
            meta[M_LANDING] = 1 - u
        elif u != 1 - meta[M_LANDING]:
            return -UNION
        n = i64(rows)
        if u == 0:
            continue
        if j < 2:
            n, p = _read_ints(b, p, end, narrow[j])
        elif j == 2:
            n, p = _read_longs(b, p, end, NS_PER_US, US_MAX, ints[5])
        else:
            p = _read_enums(b, p, end, rows, ORIGINS_COUNT, small[2])
        if p < 0:
            return p
        if n != rows:
            return -COUNT
    if meta[M_LANDING] == 1:
        narrow[:, :rows] = 0
        ints[5, :rows] = 0
        small[2, :rows] = 0
    return p


@njit
def _read_asked(b: Array, p: int, end: int, version: int, meta: Array) -> int:
    """When the source was asked, from version 2 on."""
    meta[M_HAS_ASKED] = meta[M_ASKED] = 0
    if version < 2:
        return p
    meta[M_HAS_ASKED], p = read_union(b, p, end)
    if p < 0 or meta[M_HAS_ASKED] == 0:
        return p
    v, p = read_varint(b, p, end)
    if p >= 0 and (v > US_MAX or v < -US_MAX):
        return -TIME
    meta[M_ASKED] = v * NS_PER_US
    return p


@njit
def _check_times(times: Array, rows: int, start: int, stop: int) -> int:
    for k in range(rows):
        if times[k] < start or times[k] >= stop:
            return SPAN
        if k > 0 and times[k] <= times[k - 1]:
            return ORDER
    return OK


@njit
def decode_block(
    b: Array,
    version: int,
    floats: Array,
    ints: Array,
    narrow: Array,
    small: Array,
    meta: Array,
) -> int:
    """Number of rows, or minus the code. The matrices have room for len(b) // ROW_BYTES_MIN."""
    end = len(b)
    if end < FRAME_BYTES or b[0] != 0:
        return -NOT_FRAMED
    p = _read_head(b, FRAME_BYTES, end, meta)
    if p < 0:
        return p
    rows, p = _read_longs(b, p, end, NS_PER_MS, MS_MAX, ints[0])
    if p < 0:
        return p
    p = _read_content(b, p, end, rows, floats, ints, small)
    if p < 0:
        return p
    p = _read_history(b, p, end, rows, ints, narrow, small, meta)
    if p < 0:
        return p
    p = _read_asked(b, p, end, version, meta)
    if p < 0:
        return p
    if p != end:
        return -TRAILING
    bad = _check_times(ints[0], rows, meta[M_BLOCK_START], meta[M_BLOCK_END])
    return rows if bad == OK else -bad


@njit
def _write_bytes(o: Array, w: int, data: Array) -> int:
    w = write_varint(o, w, len(data))
    for k in range(len(data)):
        o[w + k] = data[k]
    return w + len(data)


@njit
def _write_numbers(o: Array, w: int, numbers: Array) -> int:
    """One Avro block, as fastavro writes it; nothing but the end when empty."""
    if len(numbers) > 0:
        w = write_varint(o, w, len(numbers))
        for k in range(len(numbers)):
            w = write_varint(o, w, i64(numbers[k]))
    o[w] = 0
    return w + 1


@njit
def _write_doubles(o: Array, w: int, numbers: Array, t8: Array, tf: Array) -> int:
    if len(numbers) > 0:
        w = write_varint(o, w, len(numbers))
        for k in range(len(numbers)):
            w = write_double(o, w, numbers[k], t8, tf)
    o[w] = 0
    return w + 1


@njit
def _write_content(o: Array, w: int, floats: Array, ints: Array, small: Array) -> int:
    """Open_time to received_time; an optional column without values is null."""
    t8 = np.empty(8, np.uint8)
    tf = t8.view(np.float64)
    w = _write_numbers(o, w, ints[0])
    for j in range(5):
        w = _write_doubles(o, w, floats[j], t8, tf)
    known = False
    for q in floats[5]:
        known |= not np.isnan(q)
    o[w] = 2 if known else 0
    w += 1
    if known:
        w = _write_doubles(o, w, floats[5], t8, tf)
    for j in range(1, 4):
        known = False
        for v in ints[j]:
            known |= v != -1
        o[w] = 2 if known else 0
        w += 1
        if known:
            w = _write_numbers(o, w, ints[j])
    w = _write_bytes(o, w, small[0])
    return _write_numbers(o, w, ints[4])


@njit
def encode_block(
    frame: Array,
    symbol: Array,
    digest: Array,
    meta: Array,
    floats: Array,
    ints: Array,
    narrow: Array,
    small: Array,
    o: Array,
) -> int:
    """Bytes written into `o`, or minus the code. `o` has room for the bounds at the top."""
    bad = _check_times(ints[0], ints.shape[1], meta[M_BLOCK_START], meta[M_BLOCK_END])
    if bad != OK:
        return -bad
    for k in range(FRAME_BYTES):
        o[k] = frame[k]
    w = _write_bytes(o, i64(FRAME_BYTES), symbol)
    for field in (M_BLOCK_START, M_BLOCK_END, M_RANGE_START):
        w = write_varint(o, w, meta[field])
    o[w] = 2 * meta[M_HAS_COMPLETE]
    w += 1
    if meta[M_HAS_COMPLETE] == 1:
        w = write_varint(o, w, meta[M_COMPLETE])
    w = write_varint(o, w, meta[M_INTERVAL])
    w = write_varint(o, w, meta[M_SEQUENCE])
    w = _write_bytes(o, w, digest)
    w = _write_content(o, w, floats, ints, small)
    for j in range(4):
        o[w] = 0 if meta[M_LANDING] == 1 else 2
        w += 1
        if meta[M_LANDING] == 1:
            continue
        if j < 2:
            w = _write_numbers(o, w, narrow[j])
        elif j == 2:
            w = _write_numbers(o, w, ints[5])
        else:
            w = _write_bytes(o, w, small[2])
    o[w] = 2 * meta[M_HAS_ASKED]
    w += 1
    if meta[M_HAS_ASKED] == 1:
        w = write_varint(o, w, meta[M_ASKED])
    return w
