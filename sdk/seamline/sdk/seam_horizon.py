"""Behind the seam: up to which known time a tail has seen everything, and whether it still could.

Decides: when the ends of the topics are asked (some time after something newer was seen, so a busy
plane costs one question a second), and how long no broker may answer before the stream gives up.
Invariants: a known time is proved only when every proving topic was read to an end that was taken
after a position of that time had been seen; a question that fails delays, it proves nothing; a
tail without a broker raises within UNREACHABLE_S and the time of one question.
Must not know: rows, blocks, what is done with a proof.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from seamline.connectors.kafka.reader import Tail
from seamline.schemas.errors import TransportError
from seamline.sdk.seam_source import SeamSource

PROVING_ROLES: Final = ("conformed", "storage", "gaps")
ASK_S: Final = 1.0
# A silent tail asks the broker whether it is there: silence of a market looks the same.
PROBE_S: Final = 10.0
UNREACHABLE_S: Final = 60.0


class Horizon:
    """`known_ns`: what the history has proved, per partition."""

    def __init__(self, source: SeamSource, known_ns: Mapping[int, int]) -> None:
        self._source = source
        self._proved = dict(known_ns)
        self._newest: dict[int, int] = {}
        self._fences: dict[int, tuple[int, dict[str, int]]] = {}
        self._asked = time.monotonic()

    def note(self, known_ns: Mapping[int, int]) -> None:
        """Positions of these times were seen."""
        self._newest.update(known_ns)

    def ask(self) -> None:
        """Take the ends for what is newer than what is proved."""
        newer = {p: k for p, k in self._newest.items() if k > self._proved.get(p, 0)}
        wanted = [p for p in newer if p not in self._fences]
        now = time.monotonic()
        if not wanted or now - self._asked < ASK_S:
            return
        self._asked = now
        try:
            ends = self._source.ends(PROVING_ROLES)
        except TransportError as error:
            if not error.retriable:
                raise
            return  # the tail outlives a broker; so does the proof
        for p in wanted:
            self._fences[p] = newer[p], {role: ends[role][p] for role in PROVING_ROLES}

    def reached(self, tail: Tail) -> dict[int, int]:
        """Known times that are proved when all that was polled so far has been handed out."""
        source, found = self._source, {}
        for p, (known, ends) in list(self._fences.items()):
            if all(tail.reached((source.topic(role), p), end) for role, end in ends.items()):
                found[p] = self._proved[p] = known
                del self._fences[p]
        return found


class Pulse:
    """Whether a broker answers a tail that hears nothing."""

    def __init__(self) -> None:
        self._heard = self._answered = time.monotonic()

    def beat(self, source: SeamSource, *, heard: bool) -> None:
        """Raises TransportError when no broker has answered for UNREACHABLE_S."""
        now = time.monotonic()
        if heard:
            self._heard = self._answered = now
            return
        if now - self._heard < PROBE_S:
            return
        try:
            source.fences("conformed")
        except TransportError as error:
            if not error.retriable or time.monotonic() - self._answered >= UNREACHABLE_S:
                raise
        else:
            self._answered = time.monotonic()
        self._heard = time.monotonic()
