"""What a preset is: one named data product, fully described.

Decides: the fields of a preset and what follows from them. Invariants: values are checked by the
loader before a `Preset` exists; a derived preset takes partitions and sources from its parent.
Must not know: files, YAML, Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackfillSource:
    """Where history comes from. `window_bars` is the length of one chunk."""

    source: str
    mode: str
    window_bars: int


@dataclass(frozen=True, slots=True)
class LiveFeed:
    """Where live data comes from, and how stale it may be."""

    feed: str
    max_lag_ns: int


@dataclass(frozen=True, slots=True)
class Preset:
    """A data product. Times and durations are nanoseconds; `authority` is highest first."""

    id: str
    kind: str
    interval_ns: int
    contract_version: str
    partitions: int
    block_rows: int
    grid_origin_ns: int
    storage: str
    backfill: BackfillSource | None
    live: LiveFeed | None
    conformance_preset: str
    sla_preset: str
    stabilization_bars: int
    calendar: str
    off_grid: str
    authority: tuple[str, ...]
    derive_from: str | None
    settle_ns: int
    conformed_retention_ns: int

    @property
    def block_ns(self) -> int:
        """Span of one block: grid cells, not rows."""
        return self.block_rows * self.interval_ns

    def cell_of(self, time_ns: int) -> int:
        """Number of the grid cell that holds `time_ns`, counted from the grid origin."""
        return (time_ns - self.grid_origin_ns) // self.interval_ns

    def block_start_of(self, time_ns: int) -> int:
        """Start of the block that holds `time_ns`."""
        return time_ns - (time_ns - self.grid_origin_ns) % self.block_ns
