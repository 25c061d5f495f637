"""When a venue said that it cannot serve.

Decides: the spans of the venue's time that its own refusals cover. Invariants: only a refusal of
the venue begins a span; a span begins at the last sign of life of the side that refused, when that
was a moment ago, else at the refusal, and ends at the first answer of all sides that refused; spans
are sorted, disjoint and do not touch (what is kept is as many as what is written), the newest are
kept. Must not know: HTTP, sockets, clocks, gaps.

That a venue could not be reached is no refusal: our own network may be the cause.
"""

from __future__ import annotations

from enum import StrEnum

from seamline.schemas.outages import OUTAGES_MAX, Outage

MOMENT_NS = 30_000_000_000


class Side(StrEnum):
    """What of the venue answers or refuses."""

    REST = "rest"
    WS = "ws"


class OutageLedger:
    """The newest spans of one venue. For one connector from its start on."""

    def __init__(self) -> None:
        self._closed: list[tuple[int, int]] = []
        self._start_ns: int | None = None
        self._down: set[Side] = set()
        self._alive: dict[Side, tuple[int, int]] = {}

    def resume(self, known: tuple[Outage, ...]) -> None:
        """Take what an earlier run stated; one that goes on ends with the next answer over REST."""
        self._closed = [(start, end) for start, end in known if end is not None]
        for start_ns, end_ns in known[-1:]:
            if end_ns is None:
                self._start_ns = start_ns
                self._down = {Side.REST}

    @property
    def down(self) -> frozenset[Side]:
        """The sides that refused last."""
        return frozenset(self._down)

    def alive(self, side: Side, venue_ns: int, local_ns: int) -> None:
        """The side answered: when the venue's clock was about `venue_ns`."""
        self._alive[side] = (venue_ns, local_ns)
        if side not in self._down:
            return
        self._down.discard(side)
        if self._down or self._start_ns is None:
            return
        start_ns, self._start_ns = self._start_ns, None
        if venue_ns > start_ns:
            before, start_ns = self._joined(start_ns)
            self._closed = [*before, (start_ns, venue_ns)][-OUTAGES_MAX:]

    def refused(self, side: Side, venue_ns: int, local_ns: int) -> None:
        """The side answered that it cannot serve."""
        if not self._down:
            alive_ns, alive_local_ns = self._alive.get(side, (venue_ns, local_ns))
            near = local_ns - alive_local_ns <= MOMENT_NS and alive_ns <= venue_ns
            start_ns = alive_ns if near else venue_ns
            last_ns = self._closed[-1][1] if self._closed else start_ns
            self._start_ns = max(start_ns, last_ns)
        self._down.add(side)

    def stated(self) -> tuple[Outage, ...]:
        """The newest spans, oldest first; the last may go on."""
        spans: list[Outage] = list(self._closed)
        if self._start_ns is not None:
            before, start_ns = self._joined(self._start_ns)
            spans = [*before, (start_ns, None)]
        return tuple(spans[-OUTAGES_MAX:])

    def _joined(self, start_ns: int) -> tuple[list[tuple[int, int]], int]:
        """The closed spans before one that begins at `start_ns`, and where it begins when the last
        of them touches it: a venue that answers now and then is in one outage, not in many."""
        if self._closed and self._closed[-1][1] >= start_ns:
            return self._closed[:-1], self._closed[-1][0]
        return self._closed, start_ns
