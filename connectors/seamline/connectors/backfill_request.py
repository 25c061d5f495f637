"""What a person asks to backfill, checked before anything runs.

Decides: which presets and ranges can be asked for. Invariants: a time written out stays as it is or
is refused with its neighbours on the grid; only a relative time (`-2d`, `now`) is floored to it;
both are read by the venue's clock; the future is refused, not cut off. Must not know: Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seamline.presets.sources import require_available
from seamline.schemas.errors import UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_time, parse_time
from seamline.streams.kernel.chunks import Grid

# Sources that this client serves: ccxt's Binance spot is the venue's own klines.
BINANCE_SOURCES: Final = ("ccxt:binance", "binance.rest")


@dataclass(frozen=True, slots=True)
class Range:
    """`[start_ns, end_ns)`, on the grid and closed at the venue."""

    start_ns: int
    end_ns: int


def require_source(preset: Preset) -> None:
    """Raises UsageError unless the preset's history can be fetched from Binance's REST."""
    if preset.derive_from is not None:
        raise UsageError(
            "a derived preset has no history of its own: it is rolled up from its parent",
            parameter="preset",
            value=preset.id,
            fix=f"Run: seamline backfill run {preset.derive_from}",
        )
    if preset.backfill is None:
        raise UsageError(
            "the preset has no backfill source",
            parameter="preset",
            value=preset.id,
            fix="Give it one in the presets file: backfill: {source: ccxt:binance, …}",
        )
    require_available(preset.backfill.source, parameter="source")
    if preset.backfill.source not in BINANCE_SOURCES:
        raise UsageError(
            "no built-in source",
            parameter="source",
            value=preset.backfill.source,
            fix=f"One of {', '.join(BINANCE_SOURCES)}",
        )


def grid_of(preset: Preset) -> Grid:
    return Grid(preset.interval_ns, preset.block_ns, preset.grid_origin_ns)


def range_of(grid: Grid, start: object, end: object, venue_now_ns: int) -> Range:
    """The range that `start` and `end` mean at the venue.

    Raises UsageError (`start` or `end`) for naive times, numbers without a unit, times off the
    grid, a start that is not before the end, and what has not closed at the venue yet.
    """
    start_ns = _on_grid(grid, start, venue_now_ns, "start")
    end_ns = _on_grid(grid, end, venue_now_ns, "end")
    if start_ns >= end_ns:
        raise UsageError(
            f"not before the end {format_time(end_ns)}",
            parameter="start",
            value=format_time(start_ns),
            fix="Give a start before the end: the range is [start, end)",
        )
    closed_ns = grid.floor(venue_now_ns)
    if end_ns > closed_ns:
        raise UsageError(
            f"not closed yet: the venue's clock is at {format_time(venue_now_ns)}",
            parameter="end",
            value=format_time(end_ns),
            fix=f"Write now, or {format_time(closed_ns)}",
        )
    return Range(start_ns, end_ns)


def _on_grid(grid: Grid, value: object, now_ns: int, parameter: str) -> int:
    time_ns = parse_time(value, now_ns=now_ns, parameter=parameter)
    relative = isinstance(value, str) and (value.strip() == "now" or value.strip()[:1] == "-")
    return grid.floor(time_ns) if relative else grid.require_on_grid(time_ns, parameter=parameter)
