"""What the faults of a simulated venue do: decisions, each a pure function.

Decides: the fate of a frame and of a request, which minutes are lost or corrected, when the venue
is down, what its clock shows. Invariants: a decision follows from (seed, number of the fault, frame
or request or minute) alone, so that the same frame on the same socket fares the same in every run;
of several faults that could decide, the first does. Must not know: sockets, HTTP, where market
values come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from seamline.connectors.venues.market import MINUTE_MS
from seamline.connectors.venues.venue_faults import (
    CLOCK,
    CORRECT_KLINES,
    DROP_SOCKET,
    HALT,
    LIMIT_REST,
    LOSE_HISTORY,
    OUTAGE,
    SHUTDOWN,
    SLOW_REST,
    Fault,
)


class Fate(Enum):
    """What becomes of one frame on one socket."""

    SEND = "send"
    LOSE = "lose-frames"
    DUPLICATE = "duplicate-frames"
    REORDER = "reorder-frames"
    DELAY = "delay-frames"
    MALFORM = "malformed-frames"
    OVERSIZE = "oversized-frames"
    WRONG_SYMBOL = "wrong-symbol"
    DROP_SOCKET = DROP_SOCKET


_FATES = {fate.value: fate for fate in Fate if fate is not Fate.SEND}


class Happening(Enum):
    """What befalls all sockets at a time."""

    DROP = "drop"
    ANNOUNCE = "announce"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a fault may look at. `session` counts sockets from 1, `number` frames of it from 1.

    `open_ms` and `closed` are those of a kline; a trade has None and False.
    """

    session: int
    number: int
    stream: str
    symbol: str
    event_ms: int
    open_ms: int | None
    closed: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that befalls the sockets that were opened before `opened_before_ms`."""

    at_ms: int
    happening: Happening
    fault: int
    opened_before_ms: int


@dataclass(frozen=True, slots=True)
class RequestFate:
    """A refusal (`status` 429 or 418, by the fault `refused_by`) and a delay; -1: by no fault."""

    status: int = 200
    retry_after_s: int = 0
    refused_by: int = -1
    slow_ms: int = 0
    slowed_by: int = -1


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one simulator, in the order in which they are asked."""

    seed: int = 0
    faults: tuple[Fault, ...] = ()

    def of_kind(self, *kinds: str) -> Iterator[tuple[int, Fault]]:
        return ((n, fault) for n, fault in enumerate(self.faults) if fault.kind in kinds)

    def fate(self, frame: Frame) -> tuple[Fate, int]:
        """What becomes of `frame`, and the number of the fault that decided (-1: none)."""
        for index, fault in enumerate(self.faults):
            fate = _FATES.get(fault.kind)
            if fate is not None and self._hits_frame(index, fault, frame):
                return fate, index
        return Fate.SEND, -1

    def frame_chance(self, index: int, frame: Frame) -> int:
        """64 bits of chance for how the fault strikes a frame; not those of whether it does."""
        return _chance(f"{self.seed}:{index}:how:{_name(frame)}")

    def request(self, number: int, at_ms: int) -> RequestFate:
        """What becomes of the REST request `number` (from 1) at a simulated time."""
        status, retry_after_s, refused_by, slow_ms, slowed_by = 200, 0, -1, 0, -1
        for index, fault in self.of_kind(LIMIT_REST, SLOW_REST):
            if not fault.spans(at_ms) or not self._strikes(index, fault, number, f"rest:{number}"):
                continue
            if fault.kind == SLOW_REST and slowed_by < 0:
                slow_ms, slowed_by = fault.by_ms, index
            elif fault.kind == LIMIT_REST and refused_by < 0:
                status, retry_after_s, refused_by = fault.status, fault.retry_after_s, index
        return RequestFate(status, retry_after_s, refused_by, slow_ms, slowed_by)

    def down(self, side: str, at_ms: int) -> int:
        """The number of the outage or halt of a side (`rest`, `ws`) at a time; -1: it is up."""
        for index, fault in self.of_kind(OUTAGE, HALT):
            if fault.only in ("both", side) and fault.spans(at_ms):
                return index
        return -1

    def clock(self, at_ms: int) -> tuple[int, int]:
        """What the venue's clock shows at a time, and the fault that makes it so (-1: none)."""
        for index, fault in self.of_kind(CLOCK):
            if fault.spans(at_ms):
                return at_ms + fault.by_ms, index
        return at_ms, -1

    def shown_ms(self, at_ms: int) -> int:
        return self.clock(at_ms)[0]

    def halts(self) -> list[tuple[int, int]]:
        """The spans in which nobody trades: sorted, disjoint, half-open."""
        merged: list[tuple[int, int]] = []
        for from_ms, to_ms in sorted(_span(fault) for _, fault in self.of_kind(HALT)):
            if merged and from_ms <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(merged[-1][1], to_ms)
            else:
                merged.append((from_ms, to_ms))
        return merged

    def lost(self, symbol: str, open_ms: int) -> int:
        """The fault by which the venue has lost this minute; -1: it has it."""
        return self._of_minute(LOSE_HISTORY, symbol, open_ms)

    def correction(self, symbol: str, open_ms: int) -> int:
        """The fault by which this minute is corrected later; -1: it stays as it was sent."""
        return self._of_minute(CORRECT_KLINES, symbol, open_ms)

    def minute_chance(self, index: int, symbol: str, open_ms: int) -> int:
        """64 bits of chance for how the fault strikes a minute."""
        return _chance(f"{self.seed}:{index}:how:{symbol}:{open_ms}")

    def moments(self, after_ms: int, upto_ms: int) -> list[Moment]:
        """What befalls all sockets in `(after_ms, upto_ms]`, in order."""
        return sorted(
            (moment for moment in self._moments() if after_ms < moment.at_ms <= upto_ms),
            key=lambda moment: (moment.at_ms, moment.fault),
        )

    def next_moment_ms(self, after_ms: int) -> int | None:
        """The time of the first of them after `after_ms`."""
        times = (moment.at_ms for moment in self._moments() if moment.at_ms > after_ms)
        return min(times, default=None)

    def _moments(self) -> Iterator[Moment]:
        for index, fault in self.of_kind(OUTAGE, HALT):
            if fault.only in ("both", "ws"):
                from_ms = _span(fault)[0]
                yield Moment(from_ms, Happening.DROP, index, from_ms)
        for index, fault in self.of_kind(DROP_SOCKET):
            for at in fault.at:
                yield Moment(at, Happening.DROP, index, at)
        for index, fault in self.of_kind(SHUTDOWN):
            for at in fault.at:
                yield Moment(at, Happening.ANNOUNCE, index, at)
                # Who connects after the announcement reaches another server of the venue.
                yield Moment(at + fault.notice_ms, Happening.CLOSE, index, at)

    def _of_minute(self, kind: str, symbol: str, open_ms: int) -> int:
        for index, fault in self.of_kind(kind):
            if fault.symbol not in (None, symbol):
                continue
            if _in_minute(fault, open_ms):
                return index
            number, name = open_ms // MINUTE_MS, f"minute:{symbol}:{open_ms}"
            if fault.spans(open_ms) and self._strikes(index, fault, number, name):
                return index
        return -1

    def _hits_frame(self, index: int, fault: Fault, frame: Frame) -> bool:
        if fault.symbol not in (None, frame.symbol):
            return False
        if fault.only != "any" and (
            frame.open_ms is None or frame.closed != (fault.only == "closed")
        ):
            return False
        if fault.kind != DROP_SOCKET and _in_minute(fault, frame.open_ms):
            return True
        if not fault.spans(frame.event_ms):
            return False
        return self._strikes(index, fault, frame.number, _name(frame))

    def _strikes(self, index: int, fault: Fault, number: int, name: str) -> bool:
        if fault.every and number % fault.every == 0:
            return True
        return fault.p > 0 and _chance(f"{self.seed}:{index}:{name}") / 2.0**64 < fault.p


def _name(frame: Frame) -> str:
    return f"{frame.session}:{frame.stream}:{frame.event_ms}:{frame.closed}"


def _chance(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _in_minute(fault: Fault, open_ms: int | None) -> bool:
    return open_ms is not None and any(open_ms <= at < open_ms + MINUTE_MS for at in fault.at)


def _span(fault: Fault) -> tuple[int, int]:
    assert fault.from_ms is not None and fault.to_ms is not None, "parsed with both"
    return fault.from_ms, fault.to_ms
