"""Where each block of a storage partition lies: what a machine asks of an index, and one in memory.

Decides: what an entry says and when it counts. Invariants: an entry is written only for a committed
record; entries and the offset the index is good for change together; staged entries (of a
transaction that is still open) are seen by every query, and get their offsets in `commit`. An owner
whose commit failed throws the index object away. Must not know: files, what is in a block beyond
the fields of an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

STAGED: Final = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """One block. `[claim_start_ns, claim_end_ns)` is the part that a source was asked for (empty:
    none); `offset` is STAGED until its transaction is committed."""

    symbol: str
    start_ns: int
    digest: bytes
    rows: int
    claim_start_ns: int
    claim_end_ns: int
    offset: int = STAGED


class BlockIndex(Protocol):
    """The index of one partition. One thread at a time."""

    @property
    def next_offset(self) -> int:
        """Every committed record before it is in the index."""
        ...

    def clear(self) -> None:
        """Forget everything; the index is good for offset 0."""
        ...

    def load(self, entries: Iterable[Entry], next_offset: int) -> None:
        """Take committed records over, in offset order, all or none."""
        ...

    def stage(self, entry: Entry) -> None:
        """An entry of the open transaction."""
        ...

    def commit(self, staged: Sequence[Entry], offsets: Sequence[int]) -> None:
        """The transaction with `staged` is committed at these offsets."""
        ...

    def get(self, symbol: str, start_ns: int) -> Entry | None:
        """The newest version of a block."""
        ...

    def of_symbol(
        self, symbol: str, start_ns: int | None = None, end_ns: int | None = None
    ) -> list[Entry]:
        """The blocks of a symbol that start in [start_ns, end_ns), in time order."""
        ...

    def newest(self) -> Entry | None:
        """The committed entry with the greatest offset."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


class MemoryIndex:
    """An index that is made anew from `storage` by every owner."""

    def __init__(self) -> None:
        self._placed: dict[str, dict[int, Entry]] = {}
        self._staged: dict[tuple[str, int], Entry] = {}
        self._next_offset = 0

    @property
    def next_offset(self) -> int:
        return self._next_offset

    def clear(self) -> None:
        self._placed.clear()
        self._next_offset = 0

    def load(self, entries: Iterable[Entry], next_offset: int) -> None:
        for entry in entries:
            self._placed.setdefault(entry.symbol, {})[entry.start_ns] = entry
        self._next_offset = next_offset

    def stage(self, entry: Entry) -> None:
        self._staged[entry.symbol, entry.start_ns] = entry

    def commit(self, staged: Sequence[Entry], offsets: Sequence[int]) -> None:
        if not staged:
            return
        placed = [replace(e, offset=at) for e, at in zip(staged, offsets, strict=True)]
        self.load(placed, max(offsets) + 1)
        for entry in staged:
            if self._staged.get((entry.symbol, entry.start_ns)) is entry:
                del self._staged[entry.symbol, entry.start_ns]

    def get(self, symbol: str, start_ns: int) -> Entry | None:
        staged = self._staged.get((symbol, start_ns))
        return self._placed.get(symbol, {}).get(start_ns) if staged is None else staged

    def of_symbol(
        self, symbol: str, start_ns: int | None = None, end_ns: int | None = None
    ) -> list[Entry]:
        found = dict(self._placed.get(symbol, {}))
        found.update({at: entry for (name, at), entry in self._staged.items() if name == symbol})
        return [
            found[at]
            for at in sorted(found)
            if (start_ns is None or at >= start_ns) and (end_ns is None or at < end_ns)
        ]

    def newest(self) -> Entry | None:
        placed = (entry for blocks in self._placed.values() for entry in blocks.values())
        return max(placed, key=lambda entry: entry.offset, default=None)

    def close(self) -> None:
        """Nothing to let go of."""
