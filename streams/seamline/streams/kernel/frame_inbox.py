"""What waits between a venue's sockets and a slow broker: bounded, and never silently less.

Decides: which items are kept while nobody takes them. Invariants: items leave in the order in
which they came; number and bytes are bounded; spare items (previews) are refused first, from a
quarter of the room on; once an item that matters is refused, all are until the inbox is empty, and
then `recovered` says once that what came meanwhile has to be got from elsewhere. Must not know:
frames, sockets, clocks.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Generic, TypeVar

ITEMS_MAX = 20_000
BYTES_MAX = 32 * 2**20

Item = TypeVar("Item")


class Put(Enum):
    """What became of an item."""

    KEPT = "kept"
    SPARED = "spared"
    SPILLED = "spilled"


class FrameInbox(Generic[Item]):
    """A queue of at most `items_max` items and `bytes_max` bytes, as their givers state them."""

    def __init__(self, items_max: int = ITEMS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._spilling = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def spilling(self) -> bool:
        """Everything is refused until the inbox is empty."""
        return self._spilling

    def put(self, item: Item, size: int, *, spare: bool = False) -> Put:
        share = 4 if spare else 1
        full = len(self._items) >= self._items_max // share
        full = full or self._bytes + size > self._bytes_max // share
        if spare and (full or self._spilling):
            return Put.SPARED
        if full or self._spilling:
            self._spilling = True
            return Put.SPILLED
        self._items.append((item, size))
        self._bytes += size
        return Put.KEPT

    def take(self) -> Item | None:
        """The oldest item, None when there is none."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._bytes -= size
        return item

    def recovered(self) -> bool:
        """True once after items were refused and all kept ones were taken."""
        if not self._spilling or self._items:
            return False
        self._spilling = False
        return True
