"""A run as a person reads it: what happened when, and what each minute has become.

Decides: the words of a report. Invariant: nothing is told that the world has not noted or the logs
do not hold. Must not know: terminals, colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from seamline.schemas.times import format_time
from seamline.streams.kernel.simulation.checks import INVARIANTS
from seamline.streams.kernel.simulation.minutes import LEGEND, strips
from seamline.streams.kernel.simulation.runs import Run
from seamline.streams.kernel.simulation.venue import minute_of, time_of
from seamline.streams.kernel.simulation.world import Line

HOUR: Final = 60
TIMELINE_MAX: Final = 400
# Time, minute of the run, who, what.
Told = tuple[str, int, str, str]


def minutes_of(run: Run) -> dict[str, str]:
    """One character per minute and symbol, as they stood before everything was backfilled."""
    return run.world.minutes or strips(run.world)


def chart(run: Run) -> list[str]:
    """The busiest hour, one line per symbol under a ruler of minutes."""
    start, end = busiest_hour(run)
    wide = max(len(symbol) for symbol in run.world.symbols) + 2
    ruler = "".join(f"{minute:<10}" for minute in range(start, end, 10))
    title = f"minutes {start} to {end} of the run, from {format_time(time_of(start))}"
    lines = [title, " " * wide + ruler.rstrip()]
    for symbol, strip in minutes_of(run).items():
        lines.append(f"{symbol:<{wide}}{strip[start:end]}".rstrip())
    lines.append("  ".join(f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark != " "))
    return lines


def gaps(run: Run) -> list[dict[str, Any]]:
    """The ledger: symbol, start, end, the minute of the run in which it starts, bars, cause."""
    return [
        {
            "symbol": symbol,
            "start": format_time(time_of(start)),
            "end": format_time(time_of(end)),
            "minute": start,
            "bars": end - start,
            "cause": cause,
        }
        for symbol in run.world.symbols
        for start, (end, cause) in sorted(run.world.audit.of(symbol).ledger.items())
    ]


def timeline(lines: Sequence[Line]) -> list[Told]:
    """(time, minute of the run, who, what), the newest; equal lines that follow each other are told
    once. Times and minutes are those of the chart and of the ledger."""
    told: list[Told] = []
    for line in lines:
        row = (format_time(line.time_ns), minute_of(line.time_ns), line.who, line.text)
        if not told or told[-1] != row:
            told.append(row)
    return told[-TIMELINE_MAX:]


def hour_of(run: Run) -> list[Told]:
    """What happened in the busiest hour."""
    start, end = busiest_hour(run)
    return timeline(
        [one for one in run.world.lines if start <= minute_of(one.time_ns) < end and one.told]
    )


def busiest_hour(run: Run) -> tuple[int, int]:
    """The minutes [start, end) of the hour with most faults."""
    minutes = [minute_of(line.time_ns) for line in run.world.lines if line.fault]
    starts = range(0, max(1, run.world.settings.minutes - HOUR + 1), 5)
    best = max(starts, key=lambda start: sum(start <= m < start + HOUR for m in minutes))
    return best, best + HOUR


def explain(run: Run) -> str:
    """Why a run failed, its acts and what happened, as text."""
    failure, world = run.failure, run.world
    assert failure is not None
    at = "at the end" if failure.act is None else f"in act {failure.act + 1}"
    told = "\n".join(
        f"  {when} {minute:>4}  {who:<12} {what}"
        for when, minute, who, what in timeline(world.lines)
    )
    acts = "\n".join(f"  {act}" for act in run.acts)
    return (
        f"seed {world.settings.seed} fails {at}: "
        f"{INVARIANTS.get(failure.invariant, failure.invariant)}\n  {failure.detail}\n"
        f"acts ({len(run.acts)}):\n{acts}\ntimeline:\n{told}\n"
        f"again: seamline simulate --seed {world.settings.seed}"
    )
