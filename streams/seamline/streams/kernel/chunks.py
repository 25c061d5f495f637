"""How a backfill request is cut, what of an answer is promised, and when to try again.

Decides: the chunks of a range (whole cells only, ends on block boundaries where they fit), the
parts of a chunk by block, which cells are settled by the venue's clock, the delay before another
attempt. Invariants: chunks of a range touch and do not overlap; together they are the range's whole
cells; nothing newer than the settled edge is promised as complete; a wrong setting is refused, not
bent. Must not know: venues, Kafka, the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seamline.schemas.errors import UsageError
from seamline.schemas.times import format_time
from seamline.streams.kernel.coverage import Interval, Spans, compute_missing_ranges

CHUNKS_MAX = 100_000
RETRY_DELAY_MAX_MS = 600_000.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of `interval_ns`, blocks of `block_ns`, both counted from `origin_ns`."""

    interval_ns: int
    block_ns: int
    origin_ns: int = 0

    def floor(self, time_ns: int) -> int:
        """Start of the cell that holds the time."""
        return time_ns - (time_ns - self.origin_ns) % self.interval_ns

    def ceil(self, time_ns: int) -> int:
        """The first cell start that is not before the time."""
        return time_ns + (self.origin_ns - time_ns) % self.interval_ns

    def block_start(self, time_ns: int) -> int:
        return time_ns - (time_ns - self.origin_ns) % self.block_ns

    def require_on_grid(self, time_ns: int, *, parameter: str) -> int:
        """The time itself. Raises UsageError with both neighbours when it is inside a cell: which
        of them is meant is not ours to guess."""
        if self.floor(time_ns) != time_ns:
            below, above = format_time(self.floor(time_ns)), format_time(self.ceil(time_ns))
            raise UsageError(
                "not on the grid of the preset",
                parameter=parameter,
                value=format_time(time_ns),
                fix=f"Write {below} or {above}",
            )
        return time_ns


@dataclass(frozen=True, slots=True)
class BlockPart:
    """The part `[start_ns, end_ns)` of a chunk that lies in the block `[block_start_ns, …)`."""

    block_start_ns: int
    block_end_ns: int
    start_ns: int
    end_ns: int

    def complete_through(self, settled_ns: int) -> int | None:
        """End of what is promised: never beyond the settled edge; None when nothing is."""
        end_ns = min(self.end_ns, settled_ns)
        return end_ns if end_ns > self.start_ns else None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Raises UsageError for a setting outside its bounds (`max_attempts` from 1, `retry_backoff_ms`
    from 0, `jitter_ratio` in 0..1)."""

    max_attempts: int = 6
    retry_backoff_ms: float = 500.0
    jitter_ratio: float = 0.2

    def __post_init__(self) -> None:
        require_setting(self.max_attempts >= 1, "max_attempts", self.max_attempts, "at least 1")
        require_setting(
            self.retry_backoff_ms >= 0, "retry_backoff_ms", self.retry_backoff_ms, "at least 0"
        )
        require_setting(
            0 <= self.jitter_ratio <= 1, "jitter_ratio", self.jitter_ratio, "between 0 and 1"
        )

    def delay_ms(self, attempt: int, draw: Callable[[], float]) -> float:
        """The pause after attempt number `attempt` (from 1) failed, at most RETRY_DELAY_MAX_MS.

        `draw` gives a uniform number in 0..1 and is called only when there is jitter.
        """
        jitter = 1 + self.jitter_ratio * draw() if self.jitter_ratio else 1.0
        # A shift of 60 is past every bound; without it a large attempt number would overflow.
        return min(RETRY_DELAY_MAX_MS, self.retry_backoff_ms * 2.0 ** min(attempt - 1, 60) * jitter)


def require_setting(holds: bool, parameter: str, value: object, wanted: str) -> None:
    if not holds:
        raise UsageError(f"must be {wanted}", parameter=parameter, value=value)


def plan_chunks(grid: Grid, start_ns: int, end_ns: int, window_bars: int) -> list[Interval]:
    """Chunks of at most `window_bars` cells of the whole cells inside `[start_ns, end_ns)`.

    A chunk that reaches over a block boundary ends on the last one that it reaches, so that the
    following chunks hold whole blocks. Raises UsageError for a window below 1, an end before the
    start, and more than CHUNKS_MAX chunks.
    """
    require_setting(window_bars >= 1, "window_bars", window_bars, "at least 1")
    if end_ns < start_ns:
        raise UsageError(
            "ends before it starts",
            parameter="end",
            value=format_time(end_ns),
            fix=f"Give an end after {format_time(start_ns)}",
        )
    at, last = grid.ceil(start_ns), grid.floor(end_ns)
    window_ns = window_bars * grid.interval_ns
    chunks: list[Interval] = []
    while at < last:
        if len(chunks) >= CHUNKS_MAX:
            raise UsageError(
                f"more than {CHUNKS_MAX} chunks",
                parameter="window_bars",
                value=window_bars,
                fix="Ask for a shorter range or set a larger window",
            )
        reach = min(at + window_ns, last)
        boundary = grid.block_start(reach)
        end = boundary if reach < last and boundary > at else reach
        chunks.append((at, end))
        at = end
    return chunks


def plan_missing(
    grid: Grid, start_ns: int, end_ns: int, window_bars: int, landed: Spans
) -> list[Interval]:
    """Chunks of what of `[start_ns, end_ns)` has not landed; each hole is cut by itself."""
    missing = compute_missing_ranges(
        landed, (start_ns, end_ns), interval_ns=grid.interval_ns, origin_ns=grid.origin_ns
    )
    return [chunk for start, end in missing for chunk in plan_chunks(grid, start, end, window_bars)]


def block_parts(grid: Grid, start_ns: int, end_ns: int) -> list[BlockPart]:
    """The parts of a chunk, one for each block that it touches, in order."""
    parts = []
    for block_ns in range(grid.block_start(start_ns), end_ns, grid.block_ns):
        block_end_ns = block_ns + grid.block_ns
        parts.append(
            BlockPart(block_ns, block_end_ns, max(start_ns, block_ns), min(end_ns, block_end_ns))
        )
    return parts


def settled_edge(grid: Grid, asked_ns: int, settle_ns: int) -> int:
    """Cells before it had been closed for `settle_ns` or longer when the venue was asked.

    `asked_ns` is the venue's clock not after the first request went out.
    """
    return grid.floor(asked_ns - settle_ns)


def closed_edge(grid: Grid, asked_ns: int) -> int:
    """Cells before it were closed when the venue was asked; the cell at it was still open."""
    return grid.floor(asked_ns)
