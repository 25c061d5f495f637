"""Laws of the tree: what it must not see, that it sees every bit else, that differences are exact.

The model is a dict `(symbol, open_time) -> content`; the digests are computed a second time by
`fingerprint_by_hand`, which shares no code with the product.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fingerprint_by_hand as by_hand
from bar_strategies import columns_of, symbols
from seamline.schemas import fingerprint_tree
from seamline.schemas.columns import CONTENT_FIELDS, BarColumns, ConformedColumns
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint_diff import diff, diff_bars, rows_of_day
from seamline.schemas.fingerprint_tree import (
    FingerprintTree,
    tree_of,
    tree_of_rows,
    tree_of_value,
    tree_value,
    union,
)
from seamline.schemas.times import DAY_NS

checked = settings(deadline=None, max_examples=100)
Dataset = dict[str, ConformedColumns]
OUTSIDE = ("source", "received_time_ns", "revision", "flags", "known_time_ns", "origin")
INT64 = (-(2**63), 2**63 - 1)

# Days in which bars may lie; the first and the last that int64 nanoseconds reach are cut days.
DAYS = (INT64[0] // DAY_NS, -1, 0, 19_676, INT64[1] // DAY_NS)
DENSE = (19_676, 19_677, 19_678)
edges = st.sampled_from([0, 1, by_hand.MINUTE_NS, DAY_NS // 2, DAY_NS - 2, DAY_NS - 1])
times = st.one_of(
    st.builds(lambda day, at: day * DAY_NS + at, st.sampled_from(DENSE), edges),
    st.builds(
        lambda day, at: min(max(day * DAY_NS + at, INT64[0]), INT64[1]),
        st.sampled_from(DAYS),
        st.integers(0, DAY_NS - 1),
    ),
)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """A few symbols, each with a few bars on some days, in any order."""
    found = {}
    for symbol in draw(st.lists(symbols, unique=True, max_size=3)):
        chosen = draw(st.lists(times, unique=True, min_size=1, max_size=10))
        columns: ConformedColumns = draw(columns_of(ConformedColumns, len(chosen)))
        columns.open_time_ns[:] = chosen
        found[symbol] = columns
    return found


def rows_of(columns: ConformedColumns) -> list[by_hand.Row]:
    names = (*by_hand.INTS, *by_hand.FLOATS)
    lists = {name: getattr(columns, name).tolist() for name in names}
    return [{name: lists[name][row] for name in names} for row in range(len(columns))]


def flat(data: Dataset) -> list[tuple[str, by_hand.Row]]:
    return [(symbol, row) for symbol, columns in data.items() for row in rows_of(columns)]


def landing(columns: ConformedColumns) -> BarColumns:
    """The same content as another kind of columns."""
    kept = {name: getattr(columns, name) for name in BarColumns.DTYPES if name != "closed"}
    return BarColumns(**kept, closed=np.ones(len(columns), bool))


def copied(data: Dataset) -> Dataset:
    everything = {symbol: np.arange(len(columns)) for symbol, columns in data.items()}
    return {symbol: columns.take(everything[symbol]) for symbol, columns in data.items()}


@contextmanager
def tiles_of(rows: int) -> Iterator[None]:
    """Small tiles, so that few rows meet their edges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint_tree, "TILE_ROWS", rows)
        patch.setattr(fingerprint_tree, "MIXED_ROWS", rows)
        yield


def mixed(data: Dataset, order: Any) -> tuple[list[str], Any, ConformedColumns]:
    """All symbols in one set of columns, its rows in the order that `order(times, sid)` gives."""
    names = list(data)
    columns = ConformedColumns.concat(list(data.values()))
    sizes = [len(part) for part in data.values()]
    sid = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
    index = order(columns.open_time_ns, sid)
    return names, sid[index], columns.take(index)


@checked
@given(datasets(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_tree_is_what_its_bytes_say_however_the_rows_are_cut(
    data: Dataset, rng: random.Random, tile: int
) -> None:
    expected = by_hand.tree(flat(data))
    parts: list[Any] = []
    for symbol, columns in data.items():
        index = list(range(len(columns)))
        if rng.random() < 0.7:
            index.sort(key=lambda row: int(columns.open_time_ns[row]))
        while index:
            size = rng.randint(1, len(index))
            part = columns.take(np.array(index[:size]))
            parts.append((symbol, part if rng.random() < 0.5 else landing(part)))
            del index[:size]
    rng.shuffle(parts)
    with tiles_of(tile):
        assert tree_value(tree_of(parts)) == expected


@checked
@given(datasets(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_tree_does_not_see_how_symbols_are_mixed(
    data: Dataset, rng: random.Random, tile: int
) -> None:
    assume(data)
    expected = tree_of(data.items())
    any_order = list(range(sum(map(len, data.values()))))
    rng.shuffle(any_order)
    orders = (
        lambda times, sid: np.lexsort((times, sid)),
        lambda times, sid: np.lexsort((sid, times)),
        lambda times, sid: np.lexsort((-sid, times)),
        lambda times, sid: np.array(any_order),
    )
    with tiles_of(tile):
        for order in orders:
            assert tree_of_rows(*mixed(data, order)) == expected


@checked
@given(datasets())
def test_the_tree_does_not_see_strides_sources_revisions_and_times_of_receipt(
    data: Dataset,
) -> None:
    expected = tree_of(data.items())
    before = {name: columns.take(slice(None)) for name, columns in copied(data).items()}
    strided = {
        symbol: ConformedColumns(
            **{name: np.repeat(getattr(columns, name), 3)[::3] for name in columns.DTYPES}
        )
        for symbol, columns in data.items()
    }
    backwards = {
        symbol: ConformedColumns(
            **{name: np.array(getattr(columns, name)[::-1])[::-1] for name in columns.DTYPES}
        )
        for symbol, columns in data.items()
    }
    assert tree_of(strided.items()) == tree_of(backwards.items()) == expected
    for symbol, columns in data.items():  # nothing was changed on the way
        for name in columns.DTYPES:
            assert getattr(columns, name).tobytes() == getattr(before[symbol], name).tobytes()
    for columns in data.values():
        for name in OUTSIDE:
            getattr(columns, name)[:] ^= 1
    assert tree_of(data.items()) == expected


@checked
@given(datasets(), st.data())
def test_every_bit_of_content_is_seen_and_named(data: Dataset, draw: st.DataObject) -> None:
    assume(data)
    other = copied(data)
    symbol = draw.draw(st.sampled_from(sorted(data)))
    columns = other[symbol]
    row = draw.draw(st.integers(0, len(columns) - 1))
    name = draw.draw(st.sampled_from(CONTENT_FIELDS))
    bit = draw.draw(st.integers(0, 63))
    bits = getattr(columns, name).view(np.uint64)
    bits[row] ^= np.uint64(1) << np.uint64(bit)
    one, two = (getattr(side[symbol], name)[row].item() for side in (data, other))
    encode = by_hand.double if name in by_hand.FLOATS else by_hand.long_of
    time_ns = int(columns.open_time_ns[row])
    a, b = tree_of(data.items()), tree_of(other.items())
    found = diff_bars(data[symbol], columns)
    if encode(one) == encode(two):  # one NaN, one zero
        assert a == b and diff(a, b) == () and len(found) == 0
        return
    assert a.digest != b.digest
    assert [(day.symbol, day.day) for day in diff(a, b)] == [(symbol, time_ns // DAY_NS)]
    assert list(found.changes()) == [(time_ns, (name,))]


@checked
@given(datasets(), st.data())
def test_every_bit_of_time_and_symbol_is_seen(data: Dataset, draw: st.DataObject) -> None:
    assume(data)
    tree = tree_of(data.items())
    symbol = draw.draw(st.sampled_from(sorted(data)))
    fresh = draw.draw(symbols.filter(lambda name: name not in data))
    renamed = {fresh if name == symbol else name: columns for name, columns in data.items()}
    assert tree_of(renamed.items()).digest != tree.digest
    other = copied(data)
    moved = other[symbol].open_time_ns
    row = draw.draw(st.integers(0, len(moved) - 1))
    moved.view(np.uint64)[row] ^= np.uint64(1) << np.uint64(draw.draw(st.integers(0, 63)))
    if len(set(moved.tolist())) < len(moved):
        with pytest.raises(UsageError, match="open_time_ns"):
            tree_of(other.items())
    else:
        assert tree_of(other.items()).digest != tree.digest


def canonical(data: Dataset) -> dict[tuple[str, int], tuple[bytes, ...]]:
    encoders = dict.fromkeys(by_hand.FLOATS, by_hand.double)
    return {
        (symbol, row["open_time_ns"]): tuple(
            encoders.get(name, by_hand.long_of)(row[name]) for name in CONTENT_FIELDS
        )
        for symbol, row in flat(data)
    }


@st.composite
def changed(draw: st.DrawFn, data: Dataset) -> Dataset:
    """Another dataset near `data`: bars dropped, added, values changed, symbols gone and new."""
    other = {}
    for symbol, columns in copied(data).items():
        if draw(st.integers(0, 4)) == 0:
            continue
        kept = draw(st.lists(st.integers(0, len(columns) - 1), unique=True, min_size=1))
        part = columns.take(np.array(kept))
        for name in draw(st.sets(st.sampled_from(CONTENT_FIELDS), max_size=2)):
            getattr(part, name)[draw(st.integers(0, len(part) - 1))] = draw(st.integers(-1, 9))
        more = draw(st.lists(times, unique=True, max_size=2))
        new = [time for time in more if time not in columns.open_time_ns.tolist()]
        added = draw(columns_of(ConformedColumns, len(new)))
        added.open_time_ns[:] = new
        other[symbol] = ConformedColumns.concat([part, added])
    return {**other, **draw(datasets())} if draw(st.booleans()) else other


@checked
@given(datasets(), st.data())
def test_differences_are_exactly_the_days_and_bars_that_differ(
    data: Dataset, draw: st.DataObject
) -> None:
    other = draw.draw(changed(data))
    ours, theirs = canonical(data), canonical(other)
    keys = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    days = diff(tree_of(data.items()), tree_of(other.items()))
    assert [(day.symbol, day.day) for day in days] == sorted(
        {(symbol, time // DAY_NS) for symbol, time in keys}, key=lambda k: (k[0].encode(), k[1])
    )
    for day in days:
        counts = [
            sum(s == day.symbol and time // DAY_NS == day.day for s, time in side)
            for side in (ours, theirs)
        ]
        assert [day.rows_a, day.rows_b] == counts
    empty = ConformedColumns.empty(0)
    named: set[tuple[str, int]] = set()
    for day in days:
        a, b = (side.get(day.symbol, empty) for side in (data, other))
        found = diff_bars(a.take(rows_of_day(a, day.day)), b.take(rows_of_day(b, day.day)))
        check_bars(day.symbol, found, ours, theirs)
        times = (*found.only_a_ns.tolist(), *found.only_b_ns.tolist(), *found.changed_ns.tolist())
        named |= {(day.symbol, time) for time in times}
    assert named == keys


def check_bars(symbol: str, found: Any, ours: dict[Any, Any], theirs: dict[Any, Any]) -> None:
    for side, there, absent in ((found.only_a_ns, ours, theirs), (found.only_b_ns, theirs, ours)):
        assert side.tolist() == sorted(side.tolist())
        for time in side.tolist():
            assert (symbol, time) in there and (symbol, time) not in absent
    for time, names in found.changes():
        pairs = zip(CONTENT_FIELDS, ours[symbol, time], theirs[symbol, time], strict=True)
        assert names == tuple(name for name, one, two in pairs if one != two)


@checked
@given(datasets(), st.randoms(use_true_random=False))
def test_trees_of_parts_add_up_and_read_back(data: Dataset, rng: random.Random) -> None:
    tree = tree_of(data.items())
    assert tree_of_value(tree_value(tree)) == tree
    shares: list[list[Any]] = [[], [], []]
    for symbol, columns in data.items():
        for day in set((columns.open_time_ns // DAY_NS).tolist()):
            rng.choice(shares).append((symbol, columns.take(rows_of_day(columns, day))))
    trees: list[FingerprintTree] = [tree_of(share) for share in shares]
    rng.shuffle(trees)
    assert union(trees) == tree


def test_every_nan_is_one_nan_and_signalling_is_no_warning() -> None:
    columns = ConformedColumns.empty(1)
    for name in columns.DTYPES:
        getattr(columns, name)[:] = 0
    digests = set()
    for payload in (0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 0xFFFF_FFFF_FFFF_FFFF):
        columns.open[:] = np.frombuffer(struct.pack("<Q", payload))
        digests.add(tree_of([("A", columns)]).digest)
    columns.open[:] = np.inf
    assert len(digests) == 1 and tree_of([("A", columns)]).digest not in digests
