"""What time it is at a venue, known from its answers alone.

Decides: a lower bound of the venue's clock, and whether a time that a frame states can be true.
Invariants: the lower bound never moves back and comes from the venue's own answers or from frames
found plausible; the venue may run at any speed (a simulated one does), so its speed is measured,
not assumed. Must not know: how the venue is asked, our wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NS_PER_S = 1_000_000_000
MEASURED_NS_MIN = 50_000_000


@dataclass(frozen=True, slots=True)
class VenueClock:
    """`now_ns` is at or before the venue's clock. `local_ns` is a monotonic local clock."""

    now_ns: int
    polled_ns: int
    local_ns: int
    speed: float = 1.0
    slack_ns: int = 5 * NS_PER_S

    @classmethod
    def first(cls, polled_ns: int, local_ns: int) -> VenueClock:
        return cls(polled_ns, polled_ns, local_ns)

    def polled(self, polled_ns: int, local_ns: int) -> VenueClock:
        """The venue answered `polled_ns` to a request that left at `local_ns` or later."""
        elapsed_ns = local_ns - self.local_ns
        if elapsed_ns < MEASURED_NS_MIN:
            return replace(self, now_ns=max(self.now_ns, polled_ns))
        speed = max(1.0, (polled_ns - self.polled_ns) / elapsed_ns)
        now_ns = max(self.now_ns, polled_ns)
        return replace(self, now_ns=now_ns, polled_ns=polled_ns, local_ns=local_ns, speed=speed)

    def plausible(self, stated_ns: int, local_ns: int) -> bool:
        """Whether the venue's clock can have come to `stated_ns` by now.

        Twice the measured speed, because a speed measured over a second is rough.
        """
        reach_ns = int(2 * self.speed * (local_ns - self.local_ns)) + self.slack_ns
        return stated_ns <= max(self.now_ns, self.polled_ns + reach_ns)

    def stated(self, stated_ns: int) -> VenueClock:
        """A plausible frame states this time."""
        return replace(self, now_ns=max(self.now_ns, stated_ns))
