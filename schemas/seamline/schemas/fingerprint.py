"""Digests: when two sets of bars are the same data.

Decides: the canonical bytes of bars and the tree over a symbol's blocks. Invariants: a digest
covers `(symbol, open_time, content)` and nothing else; it does not depend on the order of the rows
given, on how they were cut into arrays, on strides, host or time zone; `-0.0` is `0.0`, every NaN
is the one null of a float column, -1 the one null of an integer column and unlike any other value.
Must not know: what a frontier is, where blocks are kept.

Canonical bytes of a block: a tag that names the columns and their types, the symbol (u32 length,
UTF-8), the number of rows (u64), then the columns one after the other, little-endian, in open_time
order: first the floats, then the integers, then for each integer column that can be null one byte a
row that is 1 where it is.

The tree: a leaf is (block_start_ns, digest, rows); a group is the leaves of 64 consecutive block
numbers; the root is over the groups. An owner keeps group roots and computes one group anew.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import (
    I8,
    NULL_INT,
    PRICE_FIELDS,
    BarColumns,
    ConformedColumns,
)
from seamline.schemas.errors import UsageError

DIGEST_BYTES = 32
GROUP_BLOCKS = 64

_INT_FIELDS = ("open_time_ns", "trades", "first_trade_id", "last_trade_id")
_FLOAT_FIELDS = (*PRICE_FIELDS, "quote_volume")
_BLOCK_TAG = (
    "seamline.block.1;"
    + "".join(f"{name}:<f8;" for name in _FLOAT_FIELDS)
    + "".join(f"{name}:<i8;" for name in _INT_FIELDS)
    + "".join(f"{name}:null;" for name in _INT_FIELDS[1:])
).encode()
_DATASET_TAG = b"seamline.dataset.1\0"
_LEAVES_TAG = b"seamline.merkle.leaves.1\0"
_GROUPS_TAG = b"seamline.merkle.groups.1\0"
_LEAF = struct.Struct("<q32sq")
_GROUP = struct.Struct("<q32s")
_COUNT = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")

# (group number, group root): the group number is block_start_ns // (64 * block_ns).
Leaf = tuple[int, bytes, int]
Group = tuple[int, bytes]
Bars = BarColumns | ConformedColumns
Piece = tuple[Bars, slice | I8]


def block_digest(symbol: str, columns: Bars) -> bytes:
    """32 bytes over one symbol's rows, in whatever order they come.

    Raises UsageError when an open_time occurs twice: such rows have no order of their own.
    """
    times = columns.open_time_ns
    order = None
    if not strictly_increasing(times):
        order = np.argsort(times, kind="stable")
        if not strictly_increasing(times[order]):
            raise UsageError("a time occurs twice", parameter="open_time_ns", value=symbol)
    chosen = slice(None) if order is None else order
    rows = CanonicalRows(len(times), [(columns, chosen)])
    return rows.digest(symbol.encode(), 0, len(times))


def strictly_increasing(times: I8) -> bool:
    """Whether the rows are in their canonical order already, each time once."""
    return bool((times[1:] > times[:-1]).all())


class CanonicalRows:
    """The canonical values of bars in time order: what a digest of any run of them is made from.

    Made of pieces, one after the other: columns, and which of their rows. Each value is copied
    once; `digest` hashes in place. The digest of the rows `[start, end)` is their `block_digest`.
    """

    __slots__ = ("_floats", "_ints", "_nulls")

    def __init__(self, rows: int, pieces: Sequence[Piece]) -> None:
        self._floats = np.empty((len(_FLOAT_FIELDS), rows), "<f8")
        self._ints = np.empty((len(_INT_FIELDS), rows), "<i8")
        for names, matrix in ((_FLOAT_FIELDS, self._floats), (_INT_FIELDS, self._ints)):
            for name, out in zip(names, matrix, strict=True):
                np.concatenate([getattr(part, name)[chosen] for part, chosen in pieces], out=out)
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
            self._floats += 0.0  # one zero
        null = np.isnan(self._floats)
        if null.any():
            np.copyto(self._floats, np.nan, where=null)  # one NaN
        self._nulls = self._ints[1:] == NULL_INT

    @property
    def times(self) -> I8:
        """The open times, in the order of the rows."""
        times: I8 = self._ints[0]
        return times

    def sort(self) -> None:
        """Bring rows that came in another order into that of time."""
        order = np.argsort(self.times, kind="stable")
        self._floats = self._floats.take(order, axis=1)
        self._ints = self._ints.take(order, axis=1)
        self._nulls = self._nulls.take(order, axis=1)

    def digest(self, symbol: bytes, start: int, end: int) -> bytes:
        """32 bytes over the symbol and the rows `[start, end)`."""
        sha = begin_digest(_BLOCK_TAG, symbol, end - start)
        matrices: tuple[NDArray[Any], ...] = (self._floats, self._ints, self._nulls)
        for matrix in matrices:
            if end - start == matrix.shape[1]:
                sha.update(matrix.reshape(-1).data)
            else:
                for column in matrix:
                    sha.update(column[start:end].data)
        return sha.digest()


def begin_digest(tag: bytes, key: bytes, rows: int) -> hashlib._Hash:
    """SHA-256 of the head that all canonical bytes begin with; the columns come after it."""
    return hashlib.sha256(tag + _LENGTH.pack(len(key)) + key + _COUNT.pack(rows))


def dataset_digest(symbols: Iterable[tuple[str, bytes]]) -> bytes:
    """32 bytes over `(symbol, block_digest of all its rows)`, whatever the order of the symbols."""
    sha = hashlib.sha256(_DATASET_TAG)
    for symbol, digest in sorted((symbol.encode(), digest) for symbol, digest in symbols):
        sha.update(_LENGTH.pack(len(symbol)) + symbol + digest)
    return sha.digest()


def merkle_group(leaves: Iterable[Leaf]) -> bytes:
    """Root of one group's `(block_start_ns, digest, rows)`, in whatever order they come."""
    return _root(_LEAVES_TAG, [_LEAF.pack(*leaf) for leaf in sorted(leaves)])


def merkle_top(groups: Iterable[Group]) -> bytes:
    """Root over all `(group number, group root)` of a symbol that have leaves."""
    return _root(_GROUPS_TAG, [_GROUP.pack(*group) for group in sorted(groups)])


def group_of(block_start_ns: int, block_ns: int) -> int:
    """Number of the group that holds a block."""
    return block_start_ns // (GROUP_BLOCKS * block_ns)


def merkle_root(leaves: Iterable[Leaf], block_ns: int) -> bytes:
    """Root over all blocks of a symbol; `merkle_top` of the `merkle_group` of each group."""
    groups: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        groups.setdefault(group_of(leaf[0], block_ns), []).append(leaf)
    return merkle_top((number, merkle_group(group)) for number, group in groups.items())


def _root(tag: bytes, entries: list[bytes]) -> bytes:
    sha = hashlib.sha256(tag)
    sha.update(_COUNT.pack(len(entries)))
    sha.update(b"".join(entries))
    return sha.digest()
