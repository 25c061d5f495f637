"""The connections of a live connector to its venue: one socket that is always up again.

Decides: when to connect again (the ladder), which frames count as proof of a connection, how the
venue's clock is followed. Invariants: every frame of every connection goes to the flow; a lost
connection is counted and named; only faults that waiting cannot mend end the loop, a failed
delivery to Kafka among them. Must not know: Kafka, what a hole is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from seamline.connectors.venues.binance import BinanceEndpoints, BinanceRest
from seamline.connectors.venues.binance_parse import Frame, Notice, Reply
from seamline.connectors.venues.binance_stream import BinanceStream
from seamline.schemas.errors import TransportError
from seamline.streams.kernel.feed import Ladder
from seamline.streams.kernel.venue_clock import VenueClock

LADDER_MS: Final = (250, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
CLOCK_S: Final = 1.0


class Flow(Protocol):
    """What a connection feeds."""

    async def connected(self, venue_ns: int) -> None:
        """Subscribed; the venue's clock was `venue_ns` or later."""

    async def frame(self, frame: Frame, raw: bytes) -> None:
        """A frame that is no reply and no notice, with the bytes that it came as."""

    async def ticked(self, venue_ns: int) -> None:
        """The venue's clock is `venue_ns` or later; about once a second."""


@dataclass(slots=True)
class SocketCounters:
    """What the connections did."""

    connections: int = 0
    connection_failures: int = 0
    disconnections: int = 0
    frames: int = 0
    replies: int = 0
    notices: int = 0
    clock_failures: int = 0


class VenueLink:
    """One socket and the venue's clock. `notice` gets a sentence for people.

    `run` and `follow_clock` run side by side for ever; both raise what waiting cannot mend.
    """

    def __init__(
        self,
        endpoints: BinanceEndpoints,
        rest: BinanceRest,
        streams: Sequence[str],
        *,
        ladder_ms: tuple[int, ...] = LADDER_MS,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._endpoints = endpoints
        self._rest = rest
        self._streams = tuple(streams)
        self._ladder = Ladder(ladder_ms)
        self._notice = notice
        self._clock: VenueClock | None = None
        self.counters = SocketCounters()

    @property
    def now_ns(self) -> int:
        """The venue's clock is here or later."""
        assert self._clock is not None, "poll_clock comes first"
        return self._clock.now_ns

    async def poll_clock(self) -> int:
        """Ask the venue for its clock. Raises TransportError."""
        local_ns = time.monotonic_ns()
        polled_ns = await self._rest.venue_time_ns()
        clock = self._clock
        first = VenueClock.first(polled_ns, local_ns)
        self._clock = first if clock is None else clock.polled(polled_ns, local_ns)
        return self._clock.now_ns

    async def believes(self, stated_ns: int) -> bool:
        """Whether the venue's clock can be at `stated_ns`; asks it when that is in doubt."""
        assert self._clock is not None, "poll_clock comes first"
        if not self._clock.plausible(stated_ns, time.monotonic_ns()):
            try:
                await self.poll_clock()
            except TransportError:
                self.counters.clock_failures += 1
            if not self._clock.plausible(stated_ns, time.monotonic_ns()):
                return False
        self._clock = self._clock.stated(stated_ns)
        return True

    async def run(self, flow: Flow) -> None:
        """Connect, give every frame to `flow`, connect again, for ever."""
        while True:
            try:
                await self._one_connection(flow)
            except TransportError as lost:
                if not lost.retriable:
                    raise
                self._ladder, pause_ms = self._ladder.failed()
                pause_s = max(pause_ms / 1_000, retry_after_s(lost))
                self._notice(f"{lost}; again in {pause_s:g} s")
                await asyncio.sleep(pause_s)

    async def follow_clock(self, flow: Flow, period_s: float = CLOCK_S) -> None:
        """Poll the clock and tell `flow`, also while the venue does not answer."""
        not_before = 0.0
        while True:
            await asyncio.sleep(period_s)
            if time.monotonic() >= not_before:
                try:
                    await self.poll_clock()
                except TransportError as error:
                    if not error.retriable:
                        raise
                    self.counters.clock_failures += 1
                    not_before = time.monotonic() + retry_after_s(error)
            await flow.ticked(self.now_ns)

    async def _one_connection(self, flow: Flow) -> None:
        stream = BinanceStream(self._endpoints, self._streams)
        try:
            await stream.__aenter__()
        except TransportError:
            self.counters.connection_failures += 1
            raise
        self.counters.connections += 1
        try:
            # After the subscription: what closes from now on comes as a frame.
            await flow.connected(await self.poll_clock())
            async for raw, frame in stream.messages():
                # A venue that accepts and hangs up is no success: the first frame is.
                self._ladder = self._ladder.connected()
                self.counters.frames += 1
                if isinstance(frame, Reply):
                    self.counters.replies += 1
                elif isinstance(frame, Notice):
                    self.counters.notices += 1
                    self._notice(f"the venue announces {frame.event}")
                else:
                    await flow.frame(frame, raw)
        except TransportError:
            self.counters.disconnections += 1
            raise
        finally:
            await stream.close()


def retry_after_s(error: TransportError) -> float:
    """How long the venue asked to be left alone; 0 when it did not."""
    return float(error.fields.get("retry_after_s") or 0.0)
