"""The request weight limit of a venue: 429 over the limit, 418 for who goes on after that.

Decides: admit or refuse one request, and for how long. Invariants: a function of the times it is
told; windows are aligned to multiples of their length. It counts real seconds, not simulated ones:
a client waits `Retry-After` in real time at any simulated speed. Must not know: HTTP, the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class WeightRules:
    """`limit` weight per `window_s`; after `strikes_max` requests over it, a ban of `ban_s`."""

    limit: int = 6_000
    window_s: float = 60.0
    strikes_max: int = 10
    ban_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Admission:
    """`status` is 200, 429 or 418; `retry_after_s` is whole seconds, at least 1 when refused."""

    status: int
    used: int
    retry_after_s: int = 0


class WeightLimit:
    def __init__(self, rules: WeightRules) -> None:
        self._rules = rules
        self._window = -1
        self._used = 0
        self._strikes = 0
        self._banned_until_s = 0.0

    @property
    def used(self) -> int:
        return self._used

    def ban(self, now_s: float, seconds: float) -> None:
        """Refuse everything with 418 for so long."""
        self._banned_until_s = max(self._banned_until_s, now_s + seconds)

    def banned(self, now_s: float) -> Admission | None:
        """The refusal of a request during a ban; None when there is none."""
        if now_s >= self._banned_until_s:
            return None
        return Admission(418, self._used, _whole(self._banned_until_s - now_s))

    def admit(self, weight: int, now_s: float) -> Admission:
        """Count one request of `weight` at `now_s` (seconds, any epoch)."""
        rules = self._rules
        window = int(now_s // rules.window_s)
        if window != self._window:
            self._window, self._used, self._strikes = window, 0, 0
        refused = self.banned(now_s)
        if refused is not None:
            return refused
        self._used += weight
        if self._used <= rules.limit:
            return Admission(200, self._used)
        self._strikes += 1
        if self._strikes > rules.strikes_max:
            self._banned_until_s = now_s + rules.ban_s
            return Admission(418, self._used, _whole(rules.ban_s))
        return Admission(429, self._used, _whole((window + 1) * rules.window_s - now_s))


def _whole(seconds: float) -> int:
    return max(1, ceil(seconds))
