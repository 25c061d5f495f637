"""When a bar may be relied on: which setting is in force, which bars are stable.

Decides: of the settings of a world, a preset and a registrar the largest that is set; that a bar is
stable by event time alone, never by a count of rows, so closed history is never trimmed.
Invariants: zero is a setting and None is none; stable and provisional are disjoint and together
the bars that were given. Must not know: clocks, where bars come from.

With watermark W every bar that closes at or before W has closed, whether it is there or not. So
`stabilization_bars` newer bars of a symbol have closed exactly when the time at which the bar
itself closed lies that many intervals before W.
"""

from __future__ import annotations

from dataclasses import dataclass

from seamline.streams.kernel.coverage import (
    Coverage,
    Spans,
    require_bars,
    require_grid,
    require_int,
)

_LOW = -(2**63)


@dataclass(frozen=True, slots=True)
class Stabilized:
    """Coverage of the bars that may be relied on, and of those that may still change."""

    stable: Coverage
    provisional: Coverage


def effective_stabilization(
    *,
    world_stabilization_bars: int | None = None,
    preset_stabilization_bars: int | None = None,
    registrar_stabilization_bars: int | None = None,
) -> int | None:
    """The setting in force: the largest that is set, None where none is.

    Raises UsageError naming the argument for what is not a number of bars from 0.
    """
    given = {
        "world_stabilization_bars": world_stabilization_bars,
        "preset_stabilization_bars": preset_stabilization_bars,
        "registrar_stabilization_bars": registrar_stabilization_bars,
    }
    found = [require_bars(bars, name) for name, bars in given.items() if bars is not None]
    return max(found, default=None)


def settled_ns(watermark_ns: int, interval_ns: int, stabilization_bars: int) -> int:
    """A bar that closes at or before this time is stable; later than that it is provisional."""
    return watermark_ns - interval_ns * stabilization_bars


def stabilize(
    bars: Spans,
    *,
    interval_ns: int,
    stabilization_bars: int,
    watermark_ns: int,
    origin_ns: int = 0,
) -> Stabilized:
    """Part the bars by `t + interval * (1 + stabilization_bars) <= watermark`.

    `bars` is their coverage (`Coverage.of_times` of a column of times). Raises UsageError naming
    the argument.
    """
    interval_ns, origin_ns = require_grid(interval_ns, origin_ns)
    watermark_ns = require_int(watermark_ns, "watermark_ns", "Give int UTC nanoseconds")
    bars_back = require_bars(stabilization_bars, "stabilization_bars")
    there = Coverage.of(bars, interval_ns=interval_ns, origin_ns=origin_ns, parameter="bars")
    # Bars are of int64; what would have settled before all of that has not settled.
    edge = max(_LOW, settled_ns(watermark_ns, interval_ns, bars_back))
    past = Coverage.of(((_LOW, edge),), interval_ns=interval_ns, origin_ns=origin_ns)
    return Stabilized(there.intersect(past), there.subtract(past))
