"""The first frame of a simulated venue, and plans of faults from their text."""

from __future__ import annotations

from dataclasses import replace

from seamline.connectors.venues.fault_plan import FaultPlan, Frame
from seamline.connectors.venues.venue_faults import parse_faults

START_MS = 1_767_225_600_000
MIN = 60_000
FRAME = Frame(
    session=1,
    number=1,
    stream="btcusdt@kline_1m",
    symbol="BTC/USDT",
    event_ms=START_MS + MIN + 5,
    open_ms=START_MS,
    closed=True,
)


def plan(text: str, seed: int = 1) -> FaultPlan:
    return FaultPlan(seed, parse_faults(text, start_ns=START_MS * 1_000_000))


def minute(number: int, **changes: object) -> Frame:
    """The closed kline of a minute after the start."""
    open_ms = START_MS + number * MIN
    frame = replace(FRAME, number=number + 1, open_ms=open_ms, event_ms=open_ms + MIN + 5)
    return replace(frame, **changes)  # type: ignore[arg-type]
