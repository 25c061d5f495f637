"""A computation's own watermark, and what becomes of an event that is late for it.

Decides: how far behind the last event the watermark stands, and by the stated policy whether a late
event reaches the computation. Invariants: late is before the watermark, at it is in time; an event
is processed, set aside or ignored, and each of them in the order of arrival. Must not know: what is
computed, the venue's watermark, clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from seamline.schemas.errors import UsageError
from seamline.streams.kernel.coverage import require_bars, require_grid, require_int

_INTS = "Give int UTC nanoseconds"


class OnLate(StrEnum):
    """What becomes of a late event: computed again with it, dropped, or handed out beside."""

    RECOMPUTE = "recompute"
    IGNORE = "ignore"
    SIDE_OUTPUT = "side_output"


@dataclass(frozen=True, slots=True)
class Admission:
    """Of each event of a batch whether it reaches the computation, and the times set aside."""

    processed: tuple[bool, ...]
    side_output_ns: tuple[int, ...]


def watermark_ns(last_ns: int, *, interval_ns: int, lag_bars: int) -> int:
    """The last event's time less `lag_bars` intervals. Raises UsageError naming the argument."""
    last_ns = require_int(last_ns, "last_ns", _INTS)
    interval_ns, _ = require_grid(interval_ns, 0)
    return last_ns - interval_ns * require_bars(lag_bars, "lag_bars")


def admit(events_ns: Iterable[int], *, watermark_ns: int, on_late: str) -> Admission:
    """Judge events in the order of arrival. Raises UsageError naming `on_late` for a policy that
    is unknown, `events_ns` or `watermark_ns` for a time without a unit."""
    edge = require_int(watermark_ns, "watermark_ns", _INTS)
    if on_late not in tuple(OnLate):
        raise UsageError(
            "no such policy", parameter="on_late", value=on_late, fix=f"One of {', '.join(OnLate)}"
        )
    if isinstance(events_ns, str | bytes) or not isinstance(events_ns, Iterable):
        raise UsageError("not a list", parameter="events_ns", value=events_ns, fix=_INTS)
    processed: list[bool] = []
    aside: list[int] = []
    for event_ns in events_ns:
        late = require_int(event_ns, "events_ns", _INTS) < edge
        processed.append(not late or on_late == OnLate.RECOMPUTE)
        if late and on_late == OnLate.SIDE_OUTPUT:
            aside.append(event_ns)
    return Admission(tuple(processed), tuple(aside))
