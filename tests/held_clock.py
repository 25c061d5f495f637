"""A venue's clock that a test lets run when everything listens.

Decides: when simulated time passes. Must not know: who waits for it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress


class HeldClock:
    """A venue's clock that runs only between `go` and `hold`: how long a connector takes to start
    changes nothing. Satisfies `SimulatedClock`."""

    def __init__(self, start_ns: int, speed: float, until_ns: int) -> None:
        self._at_ns, self._speed, self._until_ns = start_ns, speed, until_ns
        self._since_ns: int | None = None
        self._poked = asyncio.Event()

    def go(self) -> None:
        if self._since_ns is None:
            self._since_ns = time.monotonic_ns()
            self.poke()

    def hold(self) -> None:
        self._at_ns, self._since_ns = self.now_ns(), None
        self.poke()

    def now_ns(self) -> int:
        if self._since_ns is None:
            return self._at_ns
        gone_ns = int((time.monotonic_ns() - self._since_ns) * self._speed)
        return min(self._at_ns + gone_ns, self._until_ns)

    async def wait_until(self, time_ns: int) -> None:
        while not self._poked.is_set() and self.now_ns() < time_ns:
            stands = self._since_ns is None or time_ns > self._until_ns
            wait_s = None if stands else (time_ns - self.now_ns()) / self._speed / 1e9
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s and max(wait_s, 0.002)):
                    await self._poked.wait()
        self._poked.clear()

    def poke(self) -> None:
        self._poked.set()
