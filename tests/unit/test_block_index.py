"""The index of blocks in memory: what a transaction staged is seen at once, and placed by its
commit."""

from __future__ import annotations

from dataclasses import replace

from seamline.streams.kernel.block_index import STAGED, Entry, MemoryIndex


def entry(start_ns: int, rows: int = 1, symbol: str = "A") -> Entry:
    return Entry(symbol, start_ns, bytes([rows]) * 32, rows, start_ns, start_ns)


def test_the_staged_version_of_a_block_is_the_newest() -> None:
    index = MemoryIndex()
    index.load([replace(entry(0), offset=3)], 4)
    changed = entry(0, rows=2)
    index.stage(changed)
    assert index.get("A", 0) == changed
    assert index.of_symbol("A") == [changed]
    assert index.newest() == replace(entry(0), offset=3)
    assert index.next_offset == 4


def test_a_commit_places_what_was_staged_and_keeps_what_was_staged_since() -> None:
    index = MemoryIndex()
    first, second, later = entry(0), entry(10), entry(10, rows=3)
    for each in (first, second, later):
        index.stage(each)
    index.commit([first, second], [7, 8])
    assert index.get("A", 0) == replace(first, offset=7)
    assert index.get("A", 10) == later
    assert later.offset == STAGED
    assert index.next_offset == 9


def test_blocks_of_a_symbol_are_those_that_start_in_the_span() -> None:
    index = MemoryIndex()
    index.load([entry(start) for start in (20, 0, 10)] + [entry(10, symbol="B")], 4)
    assert [e.start_ns for e in index.of_symbol("A")] == [0, 10, 20]
    assert [e.start_ns for e in index.of_symbol("A", 10, 20)] == [10]
    assert index.get("C", 0) is None
    index.clear()
    assert index.of_symbol("A") == [] and index.next_offset == 0
