"""The clock of a simulated venue: simulated time as a function of real time, or moved by hand.

Decides: what time it is at the venue. Invariants: time never runs backwards; a speeded clock never
passes the real present (a bar in the real future would be a lie), from there it runs at real speed;
it stops at `until_ns`. Must not know: what happens at which time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_S, format_time

SHORTEST_WAIT_S = 0.002
LONGEST_WAIT_S = 3_600.0
SPEED_MAX = 100_000.0


class SimulatedClock(Protocol):
    """Simulated UTC nanoseconds. `wait_until` is for one waiter: the simulator's pump."""

    def now_ns(self) -> int: ...

    async def wait_until(self, time_ns: int) -> None:
        """Return when `now_ns() >= time_ns`, or earlier when poked."""

    def poke(self) -> None:
        """Wake the waiter: what it waits for has changed."""


class RunningClock:
    """Starts at `start_ns` when it is made and runs `speed` simulated seconds per real second."""

    def __init__(self, start_ns: int, speed: float, until_ns: int | None) -> None:
        if not 0 < speed <= SPEED_MAX:
            raise UsageError(f"outside 0 to {SPEED_MAX:.0f}", parameter="speed", value=speed)
        if until_ns is not None and until_ns < start_ns:
            raise UsageError("before start", parameter="until", value=format_time(until_ns))
        self._real_ns = time.time_ns()
        if start_ns > self._real_ns:
            raise UsageError(
                "in the future",
                parameter="start",
                value=format_time(start_ns),
                fix="Start at a time that has passed: -1d",
            )
        self._monotonic_ns = time.monotonic_ns()
        self._start_ns, self._speed, self._until_ns = start_ns, speed, until_ns
        self._poked = asyncio.Event()

    def now_ns(self) -> int:
        elapsed = time.monotonic_ns() - self._monotonic_ns
        now = min(self._start_ns + int(elapsed * self._speed), self._real_ns + elapsed)
        return now if self._until_ns is None else min(now, self._until_ns)

    async def wait_until(self, time_ns: int) -> None:
        while not self._poked.is_set():
            ahead = (time_ns - self.now_ns()) / NS_PER_S
            if ahead <= 0:
                break
            to_present = (time_ns - self._real_ns - time.monotonic_ns() + self._monotonic_ns) / 1e9
            wait = max(ahead / self._speed, to_present, SHORTEST_WAIT_S)
            if self._until_ns is not None and time_ns > self._until_ns:
                wait = LONGEST_WAIT_S
            try:
                await asyncio.wait_for(self._poked.wait(), min(wait, LONGEST_WAIT_S))
            except TimeoutError:
                continue
        self._poked.clear()

    def poke(self) -> None:
        self._poked.set()


class ManualClock:
    """Stands still until `advance_to`; for tests that must not depend on real time."""

    def __init__(self, start_ns: int) -> None:
        self._now_ns = start_ns
        self._poked = asyncio.Event()

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, time_ns: int) -> None:
        """Raises UsageError for a time before now."""
        if time_ns < self._now_ns:
            raise UsageError("time runs forward", parameter="time_ns", value=time_ns)
        self._now_ns = time_ns
        self.poke()

    async def wait_until(self, time_ns: int) -> None:
        while not self._poked.is_set() and self._now_ns < time_ns:
            await self._poked.wait()
        self._poked.clear()

    def poke(self) -> None:
        self._poked.set()
