"""Avro in compiled loops: flat bars and their symbol table.

Decides: which bytes are a bar, and its code when they are not. Invariants: no byte outside
`[start, end)` of a record is read, whatever it says; every loop consumes input or is bounded by the
room of its output; a row that is not ok has cleared columns; only rows that were read to their end
put a symbol into the table; each row is read as the version of its writer. A reader of bytes
returns its next position, or minus the code.
Must not know: Python objects, schema ids, what the values mean.

Columns travel as rows of four matrices, so that there is one compiled signature:
floats (float64): open, high, low, close, volume, quote_volume
ints (int64): open_time, trades, first_trade_id, last_trade_id, received_time, and known_time of
conformed bars or the stated interval of landing bars
narrow (int32): revision, flags
small (uint8): source, closed, origin, "a value equal to the null marker was sent"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seamline.schemas.jit import njit

OK = 0
NOT_FRAMED = 1
TRUNCATED = 2
TRAILING = 3
NUMBER = 4
ENUM = 5
BOOLEAN = 6
SYMBOL = 7
TIME = 8
UNION = 9
SYMBOLS_FULL = 10
COUNT = 11
DIGEST = 12
ORDER = 13
SPAN = 14
REASONS: tuple[str, ...] = (
    *("ok", "not_framed", "truncated", "trailing_bytes", "bad_number", "bad_enum", "bad_boolean"),
    *("bad_symbol", "invalid_timestamp", "bad_union", "too_many_symbols", "bad_count"),
    *("bad_digest", "bad_order", "outside_span"),
)

FRAME_BYTES = 5
SYMBOL_BYTES_MAX = 64
SYMBOLS_MAX = 65_536
SLOTS = 2 * SYMBOLS_MAX
SOURCES_COUNT = 4
ORIGINS_COUNT = 3
VARINT_BYTES_MAX = 10
INT32_MAX = 2**31 - 1
NS_PER_MS = 1_000_000
NS_PER_US = 1_000
MS_MAX = (2**63 - 1) // NS_PER_MS
US_MAX = (2**63 - 1) // NS_PER_US
# Of a flat bar without its symbol: frame 5, length 1, five doubles, quote 9, three ids of 11,
# times (or two of them and an interval) 10 + 10 + 10, source 1, closed or origin 1, revision and
# flags 5 + 5.
ROW_BYTES_MAX = 160

# The checker sees one kind of integer; numba sees the casts.
i64: Any = np.int64
u64: Any = np.uint64
Array = Any
Table = tuple[Array, Array, Array, Array, Array]


@njit
def read_varint(b: Array, p: int, end: int) -> tuple[int, int]:
    """A zigzag number of at most 64 bits: `(value, next position or minus the code)`."""
    z = u64(0)
    for k in range(VARINT_BYTES_MAX):
        if p >= end:
            return i64(0), -TRUNCATED
        x = b[p]
        p += 1
        if k == VARINT_BYTES_MAX - 1 and x > 1:
            return i64(0), -NUMBER
        z |= u64(x & 127) << u64(7 * k)
        if x < 128:
            return i64(z >> u64(1)) ^ -i64(z & u64(1)), p
    return i64(0), -NUMBER


@njit
def read_double(b: Array, p: int, t8: Array, tf: Array) -> Any:
    """Eight bytes at `p`, which the caller has checked; -0.0 becomes 0.0."""
    for k in range(8):
        t8[k] = b[p + k]
    # A float of Python adds a signalling NaN as compiled code does; one of numpy would warn.
    return float(tf[0]) + 0.0


@njit
def read_union(b: Array, p: int, end: int) -> tuple[int, int]:
    """Branch 0 or 1 of a `["null", …]`."""
    u, p = read_varint(b, p, end)
    if p >= 0 and (u < 0 or u > 1):
        return i64(0), -UNION
    return u, p


@njit
def write_varint(o: Array, w: int, v: int) -> int:
    z = u64(v) << u64(1) if v >= 0 else (u64(-(v + 1)) << u64(1)) | u64(1)
    while z >= u64(128):
        o[w] = np.uint8((z & u64(127)) | u64(128))
        z >>= u64(7)
        w += 1
    o[w] = np.uint8(z)
    return w + 1


@njit
def write_double(o: Array, w: int, v: float, t8: Array, tf: Array) -> int:
    tf[0] = v
    for k in range(8):
        o[w + k] = t8[k]
    return w + 8


@njit
def is_utf8(b: Array, p: int, end: int) -> bool:
    """As strict as Python: no overlong forms, no surrogates, nothing above U+10FFFF."""
    while p < end:
        x = b[p]
        if x < 0x80:
            p += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= x <= 0xDF:
            more = 1
        elif 0xE0 <= x <= 0xEF:
            more = 2
            if x == 0xE0:
                low = 0xA0
            elif x == 0xED:
                high = 0x9F
        elif 0xF0 <= x <= 0xF4:
            more = 3
            if x == 0xF0:
                low = 0x90
            elif x == 0xF4:
                high = 0x8F
        else:
            return False
        if p + more >= end:
            return False
        if b[p + 1] < low or b[p + 1] > high:
            return False
        for k in range(2, more + 1):
            if b[p + k] < 0x80 or b[p + k] > 0xBF:
                return False
        p += more + 1
    return True


@njit
def intern(b: Array, at: int, length: int, table: Table) -> Any:
    """Number of the symbol in `b[at:at+length]`, new ones included, or minus the code.

    Open addressing; bytes are compared, so a hash collision costs a probe and nothing else. FNV-1a
    in 32 bits of an int64 never overflows, which keeps the plain run free of warnings.
    """
    slots, hashes, lengths, pool, count = table
    if length < 1 or length > SYMBOL_BYTES_MAX:
        return -SYMBOL
    h = i64(0x811C9DC5)
    for k in range(length):
        h = ((h ^ i64(b[at + k])) * i64(0x01000193)) & i64(0xFFFFFFFF)
    slot = (h ^ (h >> 15)) & (SLOTS - 1)
    while slots[slot] != 0:
        s = i64(slots[slot]) - 1
        if hashes[s] == h and lengths[s] == length:
            same = True
            for k in range(length):
                if pool[s, k] != b[at + k]:
                    same = False
                    break
            if same:
                return s
        slot = (slot + 1) & (SLOTS - 1)
    s = i64(count[0])
    if s >= SYMBOLS_MAX:
        return -SYMBOLS_FULL
    if not is_utf8(b, at, at + length):
        return -SYMBOL
    for k in range(length):
        pool[s, k] = b[at + k]
    hashes[s] = h
    lengths[s] = length
    slots[slot] = s + 1
    count[0] = s + 1
    return s


@njit
def framed_ids(b: Array, ends: Array, out: Array) -> None:
    """The schema id of each record, -1 where the Confluent frame is missing."""
    start = i64(0)
    for i in range(len(ends)):
        out[i] = -1
        if ends[i] - start >= FRAME_BYTES and b[start] == 0:
            v = i64(0)
            for k in range(1, FRAME_BYTES):
                v = v * 256 + i64(b[start + k])
            out[i] = v
        start = ends[i]


@njit
def _read_optionals(
    b: Array,
    p: int,
    end: int,
    i: int,
    floats: Array,
    ints: Array,
    small: Array,
    t8: Array,
    tf: Array,
) -> int:
    """quote_volume and the three numbers. A value equal to our null marker is remembered."""
    small[3, i] = 0
    floats[5, i] = np.nan
    u, p = read_union(b, p, end)
    if p < 0:
        return p
    if u == 1:
        if end - p < 8:
            return -TRUNCATED
        q = read_double(b, p, t8, tf)
        p += 8
        if np.isnan(q):
            small[3, i] = 1
        else:
            floats[5, i] = q
    for j in range(1, 4):
        ints[j, i] = -1
        u, p = read_union(b, p, end)
        if p < 0:
            return p
        if u == 1:
            v, p = read_varint(b, p, end)
            if p < 0:
                return p
            ints[j, i] = v
            if v == -1:
                small[3, i] = 1
    return p


@njit
def _read_tail(
    b: Array,
    p: int,
    end: int,
    conformed: bool,
    version: int,
    i: int,
    ints: Array,
    narrow: Array,
    small: Array,
) -> int:
    """What follows received_time: in a conformed bar, or in a landing bar from version 2 on."""
    if not conformed:
        ints[5, i] = 0
        if version < 2:
            return p
        ints[5, i], p = read_varint(b, p, end)
        if p >= 0 and (ints[5, i] < 0 or ints[5, i] > MS_MAX):
            return -NUMBER
        return p
    for j in range(2):
        v, p = read_varint(b, p, end)
        if p < 0:
            return p
        if v > INT32_MAX or v < -INT32_MAX - 1:
            return -NUMBER
        narrow[j, i] = v
    ints[5, i], p = read_varint(b, p, end)
    if p < 0:
        return p
    v, p = read_varint(b, p, end)
    if p < 0:
        return p
    if v < 0 or v >= ORIGINS_COUNT:
        return -ENUM
    small[2, i] = v
    return p


@njit
def _decode_row(
    b: Array,
    p: int,
    end: int,
    conformed: bool,
    version: int,
    i: int,
    floats: Array,
    ints: Array,
    narrow: Array,
    small: Array,
    t8: Array,
    tf: Array,
) -> tuple[int, int, int]:
    """`(code, position of the symbol, its length)`; times are left as on the wire."""
    none = i64(0)
    if end - p < FRAME_BYTES or b[p] != 0:
        return NOT_FRAMED, none, none
    length, p = read_varint(b, p + FRAME_BYTES, end)
    if p < 0:
        return -p, none, none
    if length < 0 or length > end - p:
        return TRUNCATED, none, none
    if length == 0 or length > SYMBOL_BYTES_MAX:
        return SYMBOL, none, none
    at = p
    ints[0, i], p = read_varint(b, p + length, end)
    if p < 0:
        return -p, none, none
    if end - p < 40:
        return TRUNCATED, none, none
    for j in range(5):
        floats[j, i] = read_double(b, p + 8 * j, t8, tf)
    p = _read_optionals(b, p + 40, end, i, floats, ints, small, t8, tf)
    if p < 0:
        return -p, none, none
    v, p = read_varint(b, p, end)
    if p < 0:
        return -p, none, none
    if v < 0 or v >= SOURCES_COUNT:
        return ENUM, none, none
    small[0, i] = v
    if not conformed:
        if p >= end:
            return TRUNCATED, none, none
        if b[p] > 1:
            return BOOLEAN, none, none
        small[1, i] = b[p]
        p += 1
    ints[4, i], p = read_varint(b, p, end)
    if p < 0:
        return -p, none, none
    p = _read_tail(b, p, end, conformed, version, i, ints, narrow, small)
    if p < 0:
        return -p, none, none
    if p != end:
        return TRAILING, none, none
    return OK, at, length


@njit
def _times_to_ns(conformed: bool, i: int, ints: Array) -> int:
    if ints[0, i] > MS_MAX or ints[0, i] < -MS_MAX or ints[4, i] > US_MAX or ints[4, i] < -US_MAX:
        return TIME
    if conformed:
        if ints[5, i] > US_MAX or ints[5, i] < -US_MAX:
            return TIME
        ints[5, i] *= NS_PER_US
    else:
        ints[5, i] *= NS_PER_MS
    ints[0, i] *= NS_PER_MS
    ints[4, i] *= NS_PER_US
    return OK


@njit
def _clear_row(i: int, floats: Array, ints: Array, narrow: Array, small: Array) -> None:
    for j in range(5):
        floats[j, i] = 0.0
    floats[5, i] = np.nan
    for j in range(6):
        ints[j, i] = -1 if 1 <= j <= 3 else 0
    for j in range(2):
        narrow[j, i] = 0
    for j in range(4):
        small[j, i] = 0


@njit
def decode_rows(
    b: Array,
    ends: Array,
    conformed: bool,
    versions: Array,
    table: Table,
    floats: Array,
    ints: Array,
    narrow: Array,
    small: Array,
    sid: Array,
    code: Array,
) -> None:
    """Record i is `b[ends[i-1]:ends[i]]`, of the writer's version `versions[i]`. A row with a bad
    time keeps its symbol number."""
    t8 = np.empty(8, np.uint8)
    tf = t8.view(np.float64)
    start = i64(0)
    for i in range(len(ends)):
        end = ends[i]
        found, at, length = _decode_row(
            b, start, end, conformed, versions[i], i, floats, ints, narrow, small, t8, tf
        )
        sid[i] = -1
        if found == OK:
            s = intern(b, at, length, table)
            if s < 0:
                found = -s
            else:
                sid[i] = s
                found = _times_to_ns(conformed, i, ints)
        if found != OK:
            _clear_row(i, floats, ints, narrow, small)
        code[i] = found
        start = end


@njit
def encode_rows(
    frame: Array,
    pool: Array,
    pool_ends: Array,
    conformed: bool,
    floats: Array,
    ints: Array,
    narrow: Array,
    small: Array,
    sid: Array,
    out: Array,
    out_ends: Array,
) -> None:
    """Row i becomes `out[out_ends[i-1]:out_ends[i]]`; times in `ints` are already wire units.

    `out` has room for ROW_BYTES_MAX and the symbol for each row.
    """
    t8 = np.empty(8, np.uint8)
    tf = t8.view(np.float64)
    w = i64(0)
    for i in range(len(sid)):
        for k in range(FRAME_BYTES):
            out[w + k] = frame[k]
        s = i64(sid[i])
        at = pool_ends[s - 1] if s > 0 else i64(0)
        length = pool_ends[s] - at
        w = write_varint(out, w + FRAME_BYTES, length)
        for k in range(length):
            out[w + k] = pool[at + k]
        w = write_varint(out, w + length, ints[0, i])
        for j in range(5):
            w = write_double(out, w, floats[j, i], t8, tf)
        if np.isnan(floats[5, i]):
            out[w] = 0
            w += 1
        else:
            out[w] = 2
            w = write_double(out, w + 1, floats[5, i], t8, tf)
        for j in range(1, 4):
            if ints[j, i] == -1:
                out[w] = 0
                w += 1
            else:
                out[w] = 2
                w = write_varint(out, w + 1, ints[j, i])
        out[w] = 2 * small[0, i]
        w += 1
        if conformed:
            w = write_varint(out, w, ints[4, i])
            w = write_varint(out, w, i64(narrow[0, i]))
            w = write_varint(out, w, i64(narrow[1, i]))
            w = write_varint(out, w, ints[5, i])
            out[w] = 2 * small[2, i]
            w += 1
        else:
            out[w] = small[1, i]
            w = write_varint(out, w + 1, ints[4, i])
            w = write_varint(out, w, ints[5, i])
        out_ends[i] = w
