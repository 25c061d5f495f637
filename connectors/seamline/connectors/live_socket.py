"""The connections of a live connector to its venue: sockets that are always up again.

Decides: how streams are spread over connections, in which order what came is given to the flow,
when the flow is told that frames were not kept. Invariants: frames are given in the order in which
they came; while the flow waits for the broker the sockets are read on, into a bounded inbox; what
it cannot hold is counted, told and asked from history; only faults that waiting cannot mend end the
loops, a failed delivery to Kafka among them. Must not know: Kafka, what a hole is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from seamline.connectors.live_clock import VenueWatch
from seamline.connectors.live_share import Arrived, Flow, Intake, Joined, Share, SocketCounters
from seamline.connectors.live_tasks import until_stopped
from seamline.connectors.venues.binance import BinanceEndpoints, VenueSymbol
from seamline.connectors.venues.binance_stream import STREAMS_MAX, StreamRules
from seamline.streams.kernel.frame_inbox import BYTES_MAX, ITEMS_MAX, FrameInbox
from seamline.streams.kernel.socket_rota import AttemptWindow, RotaRules, SocketRota

CLOCK_S: Final = 1.0
TURN_ITEMS: Final = 100
# Binance: 300 attempts to connect in 5 minutes an IP (spot "WebSocket Streams").
ATTEMPTS_MAX: Final = 300
ATTEMPTS_WINDOW_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Limits of all connections together. `streams_per_socket` and `attempts_*` are the venue's
    own (`StreamRules`, `AttemptWindow` name where it says so); `inbox_*` bound what waits here
    while the broker is slow."""

    rota: RotaRules = field(default_factory=RotaRules)
    stream: StreamRules = field(default_factory=lambda: StreamRules(silence_s=None))
    streams_per_socket: int = STREAMS_MAX
    attempts_max: int = ATTEMPTS_MAX
    attempts_window_s: float = ATTEMPTS_WINDOW_S
    inbox_items: int = ITEMS_MAX
    inbox_bytes: int = BYTES_MAX


class VenueLink:
    """All sockets of one connector. `notice` gets a sentence for people, `uniform` (0..1) spreads
    the lives of sockets.

    `run` and `follow_clock` run side by side for ever; both raise what waiting cannot mend.
    """

    def __init__(
        self,
        endpoints: BinanceEndpoints,
        watch: VenueWatch,
        venues: Mapping[str, VenueSymbol],
        kind: str,
        settings: LinkSettings | None = None,
        *,
        uniform: Callable[[], float] = random.random,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        settings = settings or LinkSettings()
        self._watch = watch
        self._venues = tuple(venues.values())
        self._notice = notice
        inbox = FrameInbox[Arrived | Joined](settings.inbox_items, settings.inbox_bytes)
        self._intake = Intake(inbox, notice)
        attempts = AttemptWindow(settings.attempts_max, int(settings.attempts_window_s * 1e9))
        streams = [(symbol, venue.stream(kind)) for symbol, venue in venues.items()]
        self._shares = [
            Share(
                endpoints,
                dict(streams[first : first + settings.streams_per_socket]),
                SocketRota(settings.rota, attempts),
                settings.stream,
                watch,
                self._intake,
                uniform=uniform,
                notice=notice,
            )
            for first in range(0, len(streams), settings.streams_per_socket)
        ]

    @property
    def counters(self) -> SocketCounters:
        return self._intake.counters

    @property
    def waiting(self) -> int:
        """Frames that wait for the flow."""
        return len(self._intake.inbox)

    async def run(self, flow: Flow) -> None:
        """Keep the sockets up and give every frame to `flow`, for ever."""
        await until_stopped([self._deliver(flow), *(share.run(flow) for share in self._shares)])

    async def follow_clock(self, flow: Flow, period_s: float = CLOCK_S) -> None:
        """Follow the venue's clock and tell `flow`, also while the venue does not answer."""
        while True:
            await asyncio.sleep(period_s)
            await self._watch.keep_up(self._venues)
            await flow.ticked(self._watch.sure_ns)

    async def _deliver(self, flow: Flow) -> None:
        inbox, bell = self._intake.inbox, self._intake.bell
        taken = 0
        while True:
            item = inbox.take()
            if item is None:
                if inbox.recovered():
                    self.counters.spills += 1
                    self._notice("the broker goes on: what was not kept is asked from history")
                    await flow.connected(self._watch.sure_ns, None)
                    continue
                bell.clear()
                await bell.wait()
            elif isinstance(item, Joined):
                await flow.connected(self._watch.sure_ns, item.symbols)
            else:
                await flow.frame(item.frame, item.raw)
            taken += 1
            if taken % TURN_ITEMS == 0:
                await asyncio.sleep(0)  # a long backlog must not keep the sockets waiting
