"""What time it is at a venue, known from its answers alone.

Decides: a lower bound of the venue's clock; whether a time that a frame states can be true; before
which instant every bar is over for sure. Invariants: the lower bound never moves back and comes
from the venue's own answers or from frames found plausible; the venue may run at any speed (a
simulated one does), so its speed is measured, not assumed, and only as far as answers prove
it; a clock that is off ends no bar. Must not know: how the venue is asked, where clocks come from.

A bar is over when the venue shows something newer: its closed kline, or any kline that begins at or
after its end. No clock is needed for that, so neither the venue's nor ours can make an open bar
look closed. The venue's stated time counts only where our wall clock agrees with it, or where the
venue has shown nothing for so long that its clock is all there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

NS_PER_S = 1_000_000_000
MEASURED_NS_MIN = 50_000_000


@dataclass(frozen=True, slots=True)
class VenueClock:
    """`now_ns` is at or before the venue's clock. `local_ns` is a monotonic local clock.

    `offset_ns`: the venue's clock minus our wall clock at the last poll, None when not measured.
    `shown_ns`: every bar that ends at or before it is over, by what the venue showed last at
    `shown_local_ns`. `agree_ns`: two clocks this close agree. `patience_ns` is local time.
    `took_ns`: how long the last answer was under way.
    `slack_ns`: how far a frame may be ahead of the venue's stated time, which may be behind.
    """

    now_ns: int
    polled_ns: int
    local_ns: int
    speed: float = 1.0
    slack_ns: int = 300 * NS_PER_S
    offset_ns: int | None = None
    shown_ns: int = 0
    shown_local_ns: int = 0
    now_local_ns: int = 0
    reach_speed: float = 1.0
    took_ns: int = 0
    agree_ns: int = 2 * NS_PER_S
    patience_ns: int = 90 * NS_PER_S

    @classmethod
    def first(
        cls,
        polled_ns: int,
        local_ns: int,
        offset_ns: int | None = None,
        *,
        patience_ns: int = 90 * NS_PER_S,
        took_ns: int = 0,
    ) -> VenueClock:
        return cls(
            *(polled_ns, polled_ns, local_ns),
            offset_ns=offset_ns,
            took_ns=took_ns,
            shown_local_ns=local_ns,
            now_local_ns=local_ns,
            patience_ns=patience_ns,
        )

    def polled(
        self, polled_ns: int, local_ns: int, offset_ns: int | None = None, took_ns: int = 0
    ) -> VenueClock:
        """The venue answered `polled_ns` to a request that left at `local_ns` or later, and was
        answered `took_ns` after that."""
        elapsed_ns = local_ns - self.local_ns
        known = replace(self.stated(polled_ns, local_ns), offset_ns=offset_ns)
        if elapsed_ns < MEASURED_NS_MIN:
            return known
        # A clock that jumped back says nothing about its speed.
        back = polled_ns < self.polled_ns
        speed = self.speed if back else self._speed(polled_ns - self.polled_ns, elapsed_ns, took_ns)
        reach_speed = max(speed, self.reach_speed / 2)
        return replace(
            known,
            polled_ns=polled_ns,
            local_ns=local_ns,
            took_ns=took_ns,
            speed=speed,
            reach_speed=reach_speed,
        )

    def _speed(self, gone_ns: int, elapsed_ns: int, took_ns: int) -> float:
        """The speed, moved as little as the answers allow: each was given somewhere between its
        question and its arrival, so one slow answer does not make a venue look fast."""
        least = max(1.0, gone_ns / (elapsed_ns + took_ns))
        shortest_ns = elapsed_ns - self.took_ns
        most = max(1.0, gone_ns / shortest_ns) if shortest_ns > 0 else math.inf
        return min(max(self.speed, least), most)

    def plausible(self, stated_ns: int, local_ns: int) -> bool:
        """Whether the venue's clock can have come to `stated_ns` by now.

        Twice the measured speed, because a speed measured over a second is rough; for the same
        reason a slower one is believed only by and by. Counted from the
        last answer, and from the newest plausible time: a clock that jumped back stops no frames.
        """
        answered_ns = self.polled_ns + self._reach_ns(local_ns - self.local_ns) + self.slack_ns
        known_ns = self.now_ns + self._reach_ns(local_ns - self.now_local_ns)
        return stated_ns <= max(answered_ns, known_ns)

    def stated(self, stated_ns: int, local_ns: int) -> VenueClock:
        """A plausible frame states this time."""
        at_ns = local_ns if stated_ns > self.now_ns else self.now_local_ns
        return replace(self, now_ns=max(self.now_ns, stated_ns), now_local_ns=at_ns)

    def showed(self, over_ns: int, local_ns: int) -> VenueClock:
        """The venue showed a closed kline that ends at `over_ns`, or one that begins there."""
        if over_ns <= self.shown_ns:
            return self
        return replace(self, shown_ns=over_ns, shown_local_ns=local_ns)

    def _reach_ns(self, elapsed_ns: int) -> int:
        return int(2 * self.reach_speed * max(0, elapsed_ns))

    def estimate_ns(self, local_ns: int) -> int:
        """About where the venue's clock is now: the last answer and the measured speed."""
        return self.polled_ns + int(self.speed * max(0, local_ns - self.local_ns))

    @property
    def agrees(self) -> bool:
        """Whether our wall clock says about the same."""
        return self.offset_ns is not None and abs(self.offset_ns) <= self.agree_ns

    def market_ns(self, local_ns: int) -> int:
        """About where the market is: by the clocks where they agree, else by what it showed."""
        estimate_ns = self.estimate_ns(local_ns)
        if self.agrees or not self.shown_ns:
            return estimate_ns
        shown_ns = self.shown_ns + int(self.speed * max(0, local_ns - self.shown_local_ns))
        return max(self.shown_ns, min(shown_ns, estimate_ns))

    def sure_ns(self, local_ns: int) -> int:
        """Every bar that ends at or before it is over."""
        if self.agrees or local_ns - self.shown_local_ns >= self.patience_ns:
            return max(self.shown_ns, self.polled_ns)
        return self.shown_ns
