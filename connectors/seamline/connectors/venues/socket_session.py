"""One client socket of the venue simulator: what is queued for it, and how it ends.

Decides: the order of what one socket gets. Invariants: frames come in the order in which they were
put, but for one that is held until the next of its stream; a queue that is full ends its session,
nothing is dropped out of the middle. Must not know: which faults there are, other sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientConnectionResetError, web

from seamline.connectors.venues.faulty_frames import oversized

QUEUE_MAX = 20_000
DELAYED_MAX = 20_000
RECENT_MAX = 1_000


@dataclass(slots=True)
class SocketTally:
    """What the sockets did so far, and how often each fault struck, REST included. `recent` holds
    the newest strikes."""

    opened: int = 0
    refused: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    frames_sent: int = 0
    frames_lost: int = 0
    frames_left: int = 0
    fault_hits: Counter[int] = field(default_factory=Counter)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))


@dataclass(frozen=True, slots=True)
class Oversized:
    """A text that becomes oversized when it is sent: a queue of such texts stays small."""

    text: str


@dataclass(frozen=True, slots=True)
class _End:
    """The last item of a session's queue. Without a code the connection just breaks."""

    code: int | None
    text: str = ""


class Session:
    """One client socket. `streams` maps a stream to the simulated time of its subscription.

    `delayed` counts frames that will be put later.
    """

    def __init__(
        self,
        number: int,
        transport: asyncio.BaseTransport | None,
        combined: bool,
        opened_ms: int,
    ) -> None:
        self.number, self.combined, self.opened_ms = number, combined, opened_ms
        self.streams: dict[str, int] = {}
        self.frames = 0
        self.delayed = 0
        self.announced = False
        self.ending: str | None = None
        self.pong_at = time.monotonic()
        self._transport = transport
        self._unsent = 0
        self._held: dict[str, str | Oversized] = {}
        self._queue: asyncio.Queue[str | Oversized | _End] = asyncio.Queue(QUEUE_MAX)

    def put(self, item: str | Oversized) -> None:
        if self.ending is None:
            try:
                self._queue.put_nowait(item)
            except asyncio.QueueFull:
                self.break_off("slow_consumer")

    def put_of(self, stream: str, item: str | Oversized) -> None:
        """Put a frame of a stream, and after it the one that was held for it."""
        self.put(item)
        if stream in self._held:
            self.put(self._held.pop(stream))

    def hold(self, stream: str, item: str) -> bool:
        """Keep a frame back until the next of its stream was put; False when one is held
        already, and then it is put."""
        if stream in self._held:
            self.put_of(stream, item)
            return False
        self._held[stream] = item
        return True

    def unsubscribe(self, stream: str) -> None:
        self.streams.pop(stream, None)
        self._held.pop(stream, None)

    def end(self, why: str, code: int | None, text: str = "") -> None:
        """End after what is queued: with a close frame, or with none where `code` is None."""
        if self.ending is None:
            self.ending = why
            try:
                self._queue.put_nowait(_End(code, text))
            except asyncio.QueueFull:
                self._abort()

    def break_off(self, why: str) -> None:
        """End at once; what is queued is not sent."""
        if self.ending is None:
            self.ending = why
            self._abort()

    def left(self) -> int:
        """How many texts were never sent, those held and delayed among them; empties the queue."""
        count = len(self._held) + self.delayed + self._unsent
        self._held.clear()
        while not self._queue.empty():
            count += not isinstance(self._queue.get_nowait(), _End)
        return count

    def _abort(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()

    async def write(self, socket: web.WebSocketResponse, tally: SocketTally) -> None:
        """Send what is queued until the session ends."""
        while True:
            item = await self._queue.get()
            try:
                if isinstance(item, _End):
                    if item.code is None:
                        self._abort()
                    else:
                        await socket.close(code=item.code, message=item.text.encode())
                    return
                await socket.send_str(oversized(item.text) if isinstance(item, Oversized) else item)
                tally.frames_sent += 1
            except ClientConnectionResetError:
                # The reader of this session sees the same and ends it.
                self._unsent += not isinstance(item, _End)
                return
