"""Blocks, seals and ledger of some symbols, read on until they fit.

Decides: what is read again when storage and seals are of different transactions: only what is new.
Invariants: storage before seals before gaps, each to a fence taken after the one before; each topic
is read on from the fence of the last try. Must not know: conformed, events, certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from seamline.connectors.kafka.reader import Message
from seamline.schemas.errors import UsageError
from seamline.schemas.times import format_time
from seamline.sdk.seam_source import SeamSource
from seamline.streams.kernel.seam import Request, Snapshot
from seamline.streams.kernel.seam_events import SeamBroken
from seamline.streams.kernel.seam_follow import REMEMBERED_ROWS

# A writer's transaction shows in its topics one after the other, some milliseconds apart.
SETTLE_S: Final = 15.0
AGAIN_S: Final = 0.05


class SnapshotReader:
    """`check_open` raises to leave a long read."""

    def __init__(
        self, source: SeamSource, request: Request, check_open: Callable[[], None]
    ) -> None:
        self._source = source
        self._request = request
        self._check_open = check_open
        self.snapshot = Snapshot(request)
        self.begins: dict[str, dict[int, int]] = {}
        self.fences: dict[str, dict[int, int]] = {}

    def advance(self) -> Mapping[str, str]:
        """Read storage, then seals; the symbols that do not fit yet, with the reason."""
        for messages in self._on("storage"):
            for block in self._source.blocks(messages):
                self.snapshot.add_block(block)
            if self.snapshot.rows_held > REMEMBERED_ROWS:
                raise self._too_large(self.snapshot.rows_held)
        for messages in self._on("seals"):
            for seal in self._source.seals(messages):
                self.snapshot.add_seal(seal)
        return self.snapshot.unsettled()

    def read_gaps(self) -> None:
        for messages in self._on("gaps"):
            for symbol, start_ns, gap in self._source.gaps(messages):
                self.snapshot.add_gap(symbol, start_ns, gap)

    def _on(self, role: str) -> Iterator[list[Message]]:
        source = self._source
        if role not in self.fences:
            self.begins[role] = source.begins(role)
            self.fences[role] = dict(self.begins[role])
        fences = source.fences(role)
        starts, self.fences[role] = self.fences[role], fences
        for messages in source.read(role, starts, fences):
            self._check_open()
            yield messages

    def _too_large(self, rows: int) -> UsageError:
        return UsageError(
            f"the span holds more than {REMEMBERED_ROWS:,} bars, more than one reader keeps",
            parameter="start",
            value=format_time(self._request.start_ns),
            fix="Ask for fewer symbols or a later start",
            rows=rows,
        )


def unsettled_error(preset_id: str, unsettled: Mapping[str, str]) -> SeamBroken:
    """The error when a writer's topics do not come together. A worker that starts settles what one
    before it has left open."""
    symbol, reason = next(iter(unsettled.items()))
    return SeamBroken(
        f"storage and seals of {symbol} do not come together: {reason}",
        cause="unsettled",
        command=f"seamline worker {preset_id}",
        symbol=symbol,
    )
