"""What a live connector knows of its venue's clock, and what the venue's answers say besides.

Decides: when the venue is asked for its clock or for its newest kline, when a large offset is told,
how long the venue wants to be left alone. Invariants: every REST answer of the connector passes
here, so a refusal is heeded by all and an outage is stated once; what is known of closed bars comes
from what the venue showed (`kernel.venue_clock`). Must not know: Kafka, holes, sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from seamline.connectors.venues.binance import BinanceRest, VenueSymbol
from seamline.schemas.errors import TransportError
from seamline.schemas.outages import Outage
from seamline.streams.kernel.feed import Ladder
from seamline.streams.kernel.outage_ledger import OutageLedger, Side
from seamline.streams.kernel.socket_rota import LADDER_MS
from seamline.streams.kernel.venue_clock import VenueClock

PATIENCE_S: Final = 90.0
# A venue that showed no kline for so long is asked for its newest, where clocks do not agree.
UNSHOWN_NS: Final = 5_000_000_000
NEWEST_ASKED: Final = 3
# The clock is asked because of a doubtful frame only so long after the last time.
DOUBT_NS: Final = 100_000_000
DOUBT_FAILED_NS: Final = 5_000_000_000
SERVER_ERROR: Final = 500

Answer = TypeVar("Answer")


@dataclass(slots=True)
class ClockCounters:
    """Questions to the venue that are not about history's bars."""

    clock_polls: int = 0
    clock_failures: int = 0
    newest_asked: int = 0


class VenueWatch:
    """One venue's clock, outages and wishes. `poll` comes first. `notice` gets a sentence."""

    def __init__(
        self,
        rest: BinanceRest,
        *,
        interval_ns: int,
        patience_s: float = PATIENCE_S,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._rest = rest
        self._interval_ns = interval_ns
        self._patience_ns = int(patience_s * 1e9)
        self._notice = notice
        self._known: VenueClock | None = None
        self._quiet_until_ns = 0
        self._doubt_until_ns = 0
        self._agreed: bool | None = None
        self._turn = 0
        self._shown_asked_ns = 0
        self.ledger = OutageLedger()
        self.counters = ClockCounters()

    @property
    def _clock(self) -> VenueClock:
        assert self._known is not None, "poll comes first"
        return self._known

    @property
    def polled_ns(self) -> int:
        """What the venue said last of its clock."""
        return self._clock.polled_ns

    @property
    def sure_ns(self) -> int:
        """Every bar that ends at or before it is over."""
        return self._clock.sure_ns(time.monotonic_ns())

    @property
    def market_ns(self) -> int:
        """About where the market is, never ahead of what it can be by what it showed."""
        return self._clock.market_ns(time.monotonic_ns())

    @property
    def offset_ns(self) -> int:
        """The venue's clock minus ours, at the last poll."""
        return self._rest.offset_ns

    @property
    def quiet_s(self) -> float:
        """How long the venue still wants to be left alone over REST."""
        return max(0.0, (self._quiet_until_ns - time.monotonic_ns()) / 1e9)

    def outages(self) -> tuple[Outage, ...]:
        return self.ledger.stated()

    async def ask(self, question: Awaitable[Answer]) -> Answer:
        """One question over REST. Raises what it raises, and heeds it."""
        try:
            answer = await question
        except TransportError as error:
            wait_s = retry_after_s(error)
            if wait_s:
                # A shorter wish, to a question that was under way with others, ends no longer one.
                until_ns = time.monotonic_ns() + int(wait_s * 1e9)
                self._quiet_until_ns = max(self._quiet_until_ns, until_ns)
            self.refused(Side.REST, error)
            raise
        self.answered(Side.REST)
        return answer

    async def insist(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """As `ask`, again and again while the venue itself says that it cannot answer now.

        Raises TransportError when it cannot be reached: the address may be wrong.
        """
        ladder = Ladder(LADDER_MS)
        while True:
            try:
                return await self.ask(question())
            except TransportError as error:
                status = error.fields.get("status")
                if not error.retriable or not isinstance(status, int):
                    raise
                ladder, pause_ms = ladder.failed()
                pause_s = max(pause_ms / 1_000, retry_after_s(error))
                self._notice(f"{error}; again in {pause_s:g} s")
                await asyncio.sleep(pause_s)

    def answered(self, side: Side) -> None:
        """A sign of life. For the begin of an outage what the venue said last counts, which is a
        little early, for its end the time by now: an estimate too late would cut a span short."""
        if self._known is not None:
            local_ns = time.monotonic_ns()
            known = self._known
            ends = side in self.ledger.down
            at_ns = known.estimate_ns(local_ns) if ends else known.polled_ns
            self.ledger.alive(side, at_ns, local_ns)

    def refused(self, side: Side, error: TransportError) -> None:
        """Note `error` as a refusal where the venue itself said that it cannot serve."""
        status = error.fields.get("status")
        if isinstance(status, int) and status >= SERVER_ERROR and self._known is not None:
            local_ns = time.monotonic_ns()
            self.ledger.refused(side, self._known.estimate_ns(local_ns), local_ns)

    async def poll(self) -> int:
        """Ask the venue for its clock. Raises TransportError."""
        local_ns = 0

        async def question() -> int:
            # The time of this question: one that was refused before may be long ago.
            nonlocal local_ns
            local_ns = time.monotonic_ns()
            return await self._rest.venue_time_ns()

        self.counters.clock_polls += 1
        try:
            # The first one is what everything waits for.
            asked = self.insist(question) if self._known is None else self.ask(question())
            polled_ns = await asked
        except TransportError:
            self.counters.clock_failures += 1
            self._doubt_until_ns = time.monotonic_ns() + DOUBT_FAILED_NS
            raise
        offset_ns, took_ns = self._rest.offset_ns, time.monotonic_ns() - local_ns
        self._doubt_until_ns = time.monotonic_ns() + DOUBT_NS
        if self._known is None:
            self._known = VenueClock.first(
                *(polled_ns, local_ns, offset_ns),
                patience_ns=self._patience_ns,
                took_ns=took_ns,
            )
        else:
            self._known = self._known.polled(polled_ns, local_ns, offset_ns, took_ns)
        self._tell_offset(offset_ns)
        return polled_ns

    async def believes(self, stated_ns: int) -> bool:
        """Whether the venue's clock can be at `stated_ns`; asks it when that is in doubt, but not
        for each of many such frames, and not while the venue wants to be left alone."""
        if not self._clock.plausible(stated_ns, time.monotonic_ns()):
            if time.monotonic_ns() >= self._doubt_until_ns and not self.quiet_s:
                with suppress(TransportError):  # counted; the doubt stays
                    await self.poll()
            if not self._clock.plausible(stated_ns, time.monotonic_ns()):
                return False
        self._known = self._clock.stated(stated_ns, time.monotonic_ns())
        return True

    def shows(self, over_ns: int) -> None:
        """A frame or a row of the venue shows that bars which end at `over_ns` are over."""
        local_ns = time.monotonic_ns()
        if self._clock.plausible(over_ns, local_ns):
            self._known = self._clock.showed(over_ns, local_ns)

    async def look(self, venues: Sequence[VenueSymbol], *, insisting: bool = True) -> int | None:
        """Where the market is, by the newest kline of a few symbols; None when they have none.

        Raises TransportError.
        """
        newest_ns: int | None = None
        for _ in range(min(NEWEST_ASKED, len(venues))):
            self._turn += 1
            self.counters.newest_asked += 1
            venue = venues[self._turn % len(venues)]
            question = partial(self._rest.newest_ns, venue, interval_ns=self._interval_ns)
            found = await (self.insist(question) if insisting else self.ask(question()))
            if found is not None:
                newest_ns = found if newest_ns is None else max(newest_ns, found)
        if newest_ns is not None:
            # The venue's own history: no clock has to find it plausible.
            local_ns = time.monotonic_ns()
            self._known = self._clock.stated(newest_ns, local_ns).showed(newest_ns, local_ns)
        return newest_ns

    async def keep_up(self, venues: Sequence[VenueSymbol]) -> None:
        """Poll the clock, and look at the market when the sockets show nothing of it and only that
        could tell what is over. A question that waiting can mend is not raised."""
        if self.quiet_s:
            return
        try:
            await self.poll()
            local_ns = time.monotonic_ns()
            unshown = local_ns - max(self._clock.shown_local_ns, self._shown_asked_ns) > UNSHOWN_NS
            if unshown and not self._clock.agrees:
                self._shown_asked_ns = local_ns
                await self.look(venues, insisting=False)
        except TransportError as error:
            if not error.retriable:
                raise

    def _tell_offset(self, offset_ns: int) -> None:
        agrees = self._clock.agrees
        if agrees is not self._agreed and not (agrees and self._agreed is None):
            side = "ahead of" if offset_ns > 0 else "behind"
            text = f"the venue's clock is {abs(offset_ns) / 1e9:.1f} s {side} ours"
            meaning = "they agree again" if agrees else "bars are over when the venue shows it"
            self._notice(f"{text}: {meaning}")
        self._agreed = agrees


def retry_after_s(error: TransportError) -> float:
    """How long the venue asked to be left alone; 0 when it did not."""
    return float(error.fields.get("retry_after_s") or 0.0)
