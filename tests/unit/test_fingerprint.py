"""Digests: golden values, an independent second computation, and what they must not see."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bar_strategies import MINUTE_NS, blocks, columns_of
from seamline.schemas import fingerprint
from seamline.schemas.columns import (
    CONTENT_FIELDS,
    PRICE_FIELDS,
    BarColumns,
    Block,
    ConformedColumns,
)
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint import block_digest

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "digests.json").read_text())
OUTSIDE = ("source", "received_time_ns", "revision", "flags", "known_time_ns", "origin")
BLOCK_NS = 240 * MINUTE_NS
checked = settings(deadline=None, max_examples=100)


def example(rows: int) -> ConformedColumns:
    """Bars that any language can make: all values are exact."""
    columns = ConformedColumns.empty(rows)
    for name in ConformedColumns.DTYPES:
        getattr(columns, name)[:] = 0
    n = np.arange(rows)
    columns.open_time_ns[:] = 1_700_006_400_000_000_000 + n * MINUTE_NS
    for at, name in enumerate(PRICE_FIELDS):
        getattr(columns, name)[:] = 100 + at + n / 4
    columns.quote_volume[:] = np.where(n % 3 == 0, np.nan, n * 1.5)
    for name in ("trades", "first_trade_id", "last_trade_id"):
        getattr(columns, name)[:] = np.where(n % 5 == 0, -1, n * 7)
    return columns


@pytest.mark.parametrize("rows", [0, 1, 2, 240])
def test_block_digests_are_golden(rows: int) -> None:
    assert block_digest("BTC/USDT", example(rows)).hex() == GOLDEN["block"][str(rows)]


def test_roots_are_golden() -> None:
    leaves = [
        (n * BLOCK_NS, hashlib.sha256(b"%d" % n).digest(), 240 - n % 3) for n in range(-3, 200, 7)
    ]
    assert fingerprint.merkle_root(leaves, BLOCK_NS).hex() == GOLDEN["merkle_root"]
    assert fingerprint.merkle_root([], BLOCK_NS).hex() == GOLDEN["merkle_root_empty"]
    digests = [(f"S{n}", leaf[1]) for n, leaf in enumerate(leaves)]
    assert fingerprint.dataset_digest(digests).hex() == GOLDEN["dataset"]
    assert fingerprint.dataset_digest(reversed(digests)).hex() == GOLDEN["dataset"]


def by_hand(symbol: str, columns: Any) -> bytes:
    """The canonical bytes as the docstring of the module says them, row by row."""
    floats = (*PRICE_FIELDS, "quote_volume")
    ints = ("open_time_ns", "trades", "first_trade_id", "last_trade_id")
    order = sorted(range(len(columns)), key=lambda row: columns.open_time_ns[row])
    tag = "seamline.block.1;" + "".join(f"{name}:<f8;" for name in floats)
    tag += "".join(f"{name}:<i8;" for name in ints) + "".join(f"{n}:null;" for n in ints[1:])
    encoded = symbol.encode()
    out = tag.encode() + struct.pack("<I", len(encoded)) + encoded + struct.pack("<Q", len(order))
    for name in floats:
        for row in order:
            value = float(getattr(columns, name)[row])
            out += (
                bytes.fromhex("000000000000f87f") if np.isnan(value) else struct.pack("<d", value)
            )
    for name in ints:
        out += b"".join(struct.pack("<q", int(getattr(columns, name)[row])) for row in order)
    for name in ints[1:]:
        out += bytes(int(getattr(columns, name)[row]) == -1 for row in order)
    return hashlib.sha256(out).digest()


@checked
@given(blocks(), st.randoms(use_true_random=False))
def test_a_digest_is_what_the_docstring_says_in_any_order(block: Block, random: Any) -> None:
    order = list(range(len(block.columns)))
    random.shuffle(order)
    shuffled = block.columns.take(np.array(order, np.int64))
    expected = by_hand(block.symbol, block.columns)
    assert block_digest(block.symbol, block.columns) == expected
    assert block_digest(block.symbol, shuffled) == expected


@checked
@given(blocks(), st.integers(0, 6))
def test_a_digest_does_not_see_chunks_and_strides(block: Block, cut: int) -> None:
    columns = block.columns
    joined = ConformedColumns.concat([columns.take(slice(0, cut)), columns.take(slice(cut, None))])
    assert block_digest(block.symbol, joined) == block.digest
    wide = ConformedColumns(**{n: np.repeat(getattr(columns, n), 3)[::3] for n in columns.DTYPES})
    back = ConformedColumns(
        **{n: np.array(getattr(columns, n)[::-1])[::-1] for n in columns.DTYPES}
    )
    assert block_digest(block.symbol, wide) == block.digest
    assert block_digest(block.symbol, back) == block.digest


@checked
@given(columns_of(BarColumns, 1))
def test_a_digest_sees_the_content_alone(columns: BarColumns) -> None:
    conformed = ConformedColumns.of_landing(columns)
    digest = block_digest("A", columns)
    assert block_digest("A", conformed) == digest
    for name in OUTSIDE:
        getattr(conformed, name)[:] += 1
    assert block_digest("A", conformed) == digest
    assert block_digest("B", conformed) != digest
    for name in ("open_time_ns", *CONTENT_FIELDS):
        column = getattr(conformed, name)
        before = column.copy()
        column[:] = 12_345 if before[0] != 12_345 else 54_321
        assert block_digest("A", conformed) != digest, name
        column[:] = before


def test_there_is_one_zero_and_one_null() -> None:
    one, other = example(4), example(4)
    one.open[0], other.open[0] = 0.0, -0.0
    other.quote_volume[0] = np.array([0xFFF8_0000_0000_0001], np.uint64).view(np.float64)[0]
    assert np.isnan(other.quote_volume[0])
    assert block_digest("A", one) == block_digest("A", other)
    one.trades[0], other.trades[0] = -1, 0
    assert block_digest("A", one) != block_digest("A", other)
    one.trades[0] = 0
    one.quote_volume[0], other.quote_volume[0] = np.nan, 0.0
    assert block_digest("A", one) != block_digest("A", other)


def test_a_digest_changes_no_array() -> None:
    columns = example(3)
    columns.open[0] = -0.0
    block_digest("A", columns.take(np.array([2, 1, 0])))
    block_digest("A", columns)
    assert np.signbit(columns.open[0])


def test_a_time_twice_has_no_digest() -> None:
    with pytest.raises(UsageError, match="open_time_ns"):
        block_digest("A", example(3).take(np.array([0, 1, 1])))


leaves = st.lists(
    st.tuples(st.integers(-200, 200), st.binary(min_size=32, max_size=32), st.integers(0, 240)),
    unique_by=lambda leaf: leaf[0],
    max_size=20,
)


@checked
@given(leaves, st.randoms(use_true_random=False))
def test_a_root_is_the_top_of_its_groups(numbered: list[Any], random: Any) -> None:
    found = [(number * BLOCK_NS, digest, rows) for number, digest, rows in numbered]
    root = fingerprint.merkle_root(found, BLOCK_NS)
    groups: dict[int, list[Any]] = {}
    for leaf in found:
        groups.setdefault(fingerprint.group_of(leaf[0], BLOCK_NS), []).append(leaf)
    roots = [(number, fingerprint.merkle_group(group)) for number, group in groups.items()]
    assert fingerprint.merkle_top(roots) == root
    random.shuffle(found)
    assert fingerprint.merkle_root(found, BLOCK_NS) == root
    for at, (start, digest, rows) in enumerate(found):
        for other in ((start + 1, digest, rows), (start, digest, rows + 1)):
            assert fingerprint.merkle_root([*found[:at], other, *found[at + 1 :]], BLOCK_NS) != root
        assert fingerprint.merkle_root(found[:at] + found[at + 1 :], BLOCK_NS) != root


def test_levels_of_the_tree_cannot_be_confused() -> None:
    """Leaves that spell the bytes of a group are no group."""
    assert fingerprint.merkle_group([]) != fingerprint.merkle_top([])
    assert fingerprint.group_of(-1, BLOCK_NS) == -1
    assert fingerprint.group_of(63 * BLOCK_NS, BLOCK_NS) == 0
    assert fingerprint.group_of(64 * BLOCK_NS, BLOCK_NS) == 1
