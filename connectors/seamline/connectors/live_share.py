"""The sockets of one share of a venue's streams, as the rota decides.

Decides: nothing about when; here is how a socket is opened, read and closed, and what its frames
are put into. Invariants: a socket is read at all times, so the venue's pings are answered however
slow the broker is; every frame is given to the inbox or counted as not kept; a lost socket is
counted and named; only faults that waiting cannot mend end the share. Must not know: Kafka, what a
hole is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from seamline.connectors.live_clock import VenueWatch, retry_after_s
from seamline.connectors.venues.binance import BinanceEndpoints
from seamline.connectors.venues.binance_parse import Frame, Malformed, Notice, Reply
from seamline.connectors.venues.binance_stream import BinanceStream, StreamRules
from seamline.schemas.errors import TransportError
from seamline.streams.kernel.frame_inbox import FrameInbox, Put
from seamline.streams.kernel.outage_ledger import Side
from seamline.streams.kernel.socket_rota import Close, Open, SocketRota, Why

ROTA_S: Final = 0.1
SHUTDOWN: Final = "serverShutdown"


class Keep(Enum):
    """What a frame is worth while it waits for the broker."""

    ALWAYS = "always"
    IF_ROOM = "if_room"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame that waits, with the bytes that it came as."""

    frame: Frame
    raw: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """A socket of these symbols is subscribed and follows on none that stood: what closed before
    comes from history only."""

    symbols: tuple[str, ...]


class Flow(Protocol):
    """What the sockets feed."""

    def keep(self, frame: Frame) -> Keep:
        """Look at a frame that just came, before it waits."""

    async def connected(self, venue_ns: int, symbols: tuple[str, ...] | None) -> None:
        """Frames of `symbols` (None: of all) may be missing; the venue's clock is `venue_ns` or
        later."""

    async def frame(self, frame: Frame, raw: bytes) -> None:
        """A frame that is no reply and no notice, with the bytes that it came as."""

    async def ticked(self, venue_ns: int) -> None:
        """The venue's clock is `venue_ns` or later; about once a second."""


@dataclass(slots=True)
class SocketCounters:
    """What the connections did. Frames that were not kept are filled from history."""

    connections: int = 0
    connection_failures: int = 0
    disconnections: int = 0
    handovers: int = 0
    silences: int = 0
    joins: int = 0
    oversized: int = 0
    frames: int = 0
    replies: int = 0
    notices: int = 0
    previews_dropped: int = 0
    frames_spilled: int = 0
    spills: int = 0


@dataclass(slots=True)
class Intake:
    """Where all shares put what came: the inbox, and a bell for its reader."""

    inbox: FrameInbox[Arrived | Joined]
    notice: Callable[[str], None]
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    counters: SocketCounters = field(default_factory=SocketCounters)

    def put(self, item: Arrived | Joined, size: int, *, spare: bool = False) -> None:
        spilling = self.inbox.spilling
        put = self.inbox.put(item, size, spare=spare)
        if self.inbox.spilling and not spilling:
            self.notice("the broker is slow: frames are not kept, history will fill them")
        self.counters.previews_dropped += put is Put.SPARED
        self.counters.frames_spilled += put is Put.SPILLED
        self.bell.set()


class Share:
    """Symbols with their streams, at most as many as a connection may have."""

    def __init__(
        self,
        endpoints: BinanceEndpoints,
        streams: Mapping[str, str],
        rota: SocketRota,
        rules: StreamRules,
        watch: VenueWatch,
        intake: Intake,
        *,
        uniform: Callable[[], float],
        notice: Callable[[str], None],
    ) -> None:
        self._endpoints = endpoints
        self._symbols = tuple(streams)
        self._streams = tuple(streams.values())
        self._rota = rota
        self._rules = rules
        self._watch = watch
        self._intake = intake
        self._counters = intake.counters
        self._uniform = uniform
        self._notice = notice
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()

    async def run(self, flow: Flow) -> None:
        """Carry out the rota, for ever."""
        try:
            while True:
                now = (time.monotonic_ns(), self._watch.polled_ns)
                for action in self._rota.next(*now, self._uniform()):
                    self._carry_out(action, flow)
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ROTA_S):
                        await self._woken.wait()
                for number in [n for n, task in self._tasks.items() if task.done()]:
                    task = self._tasks.pop(number)
                    if not task.cancelled():
                        task.result()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _carry_out(self, action: Open | Close, flow: Flow) -> None:
        if isinstance(action, Open):
            task = asyncio.create_task(self._socket(action.number, flow))
            self._tasks[action.number] = task
            return
        if action.why is Why.SILENT:
            self._counters.silences += 1
            self._counters.disconnections += 1
            self._notice("a socket was silent for too long; a new one is opened")
        else:
            self._counters.handovers += 1
        self._tasks[action.number].cancel()

    async def _socket(self, number: int, flow: Flow) -> None:
        """One socket from its handshake to its end."""
        stream = BinanceStream(self._endpoints, self._streams, self._rules)
        lost: TransportError | None = None
        subscribed = False
        try:
            await stream.__aenter__()
            subscribed = True
            self._subscribed(number)
            async for raw, frame in stream.messages():
                self._received(number, flow, frame, raw)
        except TransportError as error:
            lost = error
        finally:
            wait_ns = int(retry_after_s(lost) * 1e9) if lost is not None else 0
            pause_ns = self._rota.ended(number, time.monotonic_ns(), wait_ns)
            self._woken.set()
            if lost is not None and pause_ns is not None:
                self._lost(lost, subscribed, pause_ns)
            elif lost is not None:
                self._counters.handovers += 1  # the venue was as good as its word
            await stream.close()
        if lost is not None and not lost.retriable:
            raise lost

    def _subscribed(self, number: int) -> None:
        self._counters.connections += 1
        self._watch.answered(Side.WS)
        if self._rota.subscribed(number, time.monotonic_ns(), self._watch.polled_ns):
            return
        self._counters.joins += 1
        self._intake.put(Joined(self._symbols), 0)

    def _lost(self, lost: TransportError, subscribed: bool, pause_ns: int) -> None:
        counters = self._counters
        if subscribed:
            counters.disconnections += 1
        else:
            counters.connection_failures += 1
            self._watch.refused(Side.WS, lost)
        if lost.fields.get("oversized"):
            counters.oversized += 1
            size = lost.fields.get("size")
            gone = Malformed(b"", "oversized", None, time.time_ns(), size or 0)
            self._intake.put(Arrived(gone, b""), 0)
        if self._rota.standing:
            self._notice(f"{lost}; another socket goes on")
        else:
            self._notice(f"{lost}; again in {pause_ns / 1e9:g} s")

    def _received(self, number: int, flow: Flow, frame: Frame, raw: bytes) -> None:
        self._rota.frame(number, time.monotonic_ns(), self._watch.polled_ns)
        self._counters.frames += 1
        if isinstance(frame, Reply):
            self._counters.replies += 1
        elif isinstance(frame, Notice):
            self._counters.notices += 1
            self._notice(f"the venue announces {frame.event}")
            if frame.event == SHUTDOWN:
                self._rota.announced(number)
                self._woken.set()
        else:
            keep = flow.keep(frame)
            if keep is not Keep.NO:
                self._intake.put(Arrived(frame, raw), len(raw), spare=keep is Keep.IF_ROOM)
