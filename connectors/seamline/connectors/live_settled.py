"""Settled history once more: late corrections of bars that have long left.

Decides: when the venue has room for such a question, and what is done with its answer. Invariants:
holes come first, so nothing is asked while the venue wants to be left alone or more than
WEIGHT_SHARE of its weight limit is used; what is equal is not sent again; a question that fails is
asked again. Must not know: sockets, which spans are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from seamline.connectors.live_bars import BarFlow
from seamline.connectors.live_clock import VenueWatch
from seamline.connectors.venues.binance import BinanceRest
from seamline.schemas.errors import TransportError
from seamline.schemas.times import format_time
from seamline.streams.kernel.settled_check import SettledCheck, Span

CHECK_S: Final = 0.5
FAILED_S: Final = 10.0
WEIGHT_SHARE: Final = 0.5


@dataclass(slots=True)
class SettledCounters:
    """Questions of settled history; what came of the bars is counted by the feed."""

    settled_asked: int = 0
    settled_failures: int = 0


class SettledTask:
    """Asks for one span after the other. `left_ns` gives the expected open time by symbol."""

    def __init__(
        self,
        check: SettledCheck,
        left_ns: Callable[[], Mapping[str, int]],
        flow: BarFlow,
        watch: VenueWatch,
        rest: BinanceRest,
        *,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._check = check
        self._left_ns = left_ns
        self._flow = flow
        self._watch = watch
        self._rest = rest
        self._notice = notice
        self.counters = SettledCounters()

    @property
    def through_ns(self) -> int:
        return self._check.through_ns

    async def run(self) -> None:
        """For ever. Raises what waiting cannot mend."""
        while True:
            await asyncio.sleep(CHECK_S)
            while self._has_room():
                sure_ns = self._watch.sure_ns
                span = self._check.due(sure_ns, self._left_ns())
                if span is None or not await self._asked(span, sure_ns):
                    break

    def _has_room(self) -> bool:
        used = self._rest.used_weight < WEIGHT_SHARE * self._rest.weight_limit
        return used and not self._watch.quiet_s

    async def _asked(self, span: Span, sure_ns: int) -> bool:
        """Whether history answered for the span."""
        self.counters.settled_asked += 1
        try:
            page = await self._flow.page(span.symbol, span.start_ns, span.end_ns)
        except TransportError as error:
            if not error.retriable:
                raise
            self.counters.settled_failures += 1
            await asyncio.sleep(FAILED_S)
            return False
        bars = self._flow.bars_over(page, page.end_ns, sure_ns)
        differ = await self._flow.settled(span.symbol, bars)
        if differ:
            since = format_time(span.start_ns)
            self._notice(f"{span.symbol}: settled history differs in {differ} bars since {since}")
        self._check.done(span, page.end_ns)
        return True
