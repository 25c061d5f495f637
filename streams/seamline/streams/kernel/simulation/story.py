"""A run as a person reads it: what happened when, and what each minute has become.

Decides: the words of a report. Invariant: nothing is told that the world has not noted or the logs
do not hold. Must not know: terminals, colours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from seamline.schemas.times import format_time
from seamline.streams.kernel.simulation.checks import INVARIANTS
from seamline.streams.kernel.simulation.runs import Run
from seamline.streams.kernel.simulation.venue import MINUTE_NS, START_NS, minute_of, time_of
from seamline.streams.kernel.simulation.world import Line

LEGEND: Final = {
    ".": "live bar",
    "x": "frame lost, refilled from history",
    "r": "revised",
    "l": "late or backfilled",
    "-": "gap, named by the ledger",
    "?": "missing without an entry",
    " ": "nothing is expected yet",
}
HOUR: Final = 60
TIMELINE_MAX: Final = 400
LIVE_ORIGIN: Final = "live"


def clock(time_ns: int) -> str:
    """Time of day."""
    return format_time(time_ns)[11:19]


def strips(run: Run) -> dict[str, str]:
    """One character per minute and symbol (`LEGEND`), from the start to the newest bar."""
    world = run.world
    found = {}
    for symbol in world.symbols:
        series = world.audit.model_of(symbol).series.get(symbol)
        known = world.audit.of(symbol)
        bars = {} if series is None else series.bars
        frontier = None if series is None else series.frontier
        named: set[int] = set()
        for start, (end, _) in known.ledger.items():
            named.update(range(start, end))
        last = max(bars, default=-1)
        first = min(bars, default=0)
        text = []
        for minute in range(last + 1):
            bar = bars.get(minute)
            if bar is None:
                missing = first <= minute and (frontier is None or minute < frontier)
                text.append("-" if minute in named else "?" if missing else " ")
            elif bar.revision:
                text.append("r")
            elif (symbol, minute) not in world.landed_live or minute not in known.first:
                text.append("l")
            else:
                text.append("x" if (symbol, minute) in world.lost_frames else ".")
        found[symbol] = "".join(text)
    return found


def gaps(run: Run) -> list[dict[str, Any]]:
    """The ledger: symbol, start, end, bars, cause."""
    return [
        {
            "symbol": symbol,
            "start": format_time(time_of(start)),
            "end": format_time(time_of(end)),
            "bars": end - start,
            "cause": cause,
        }
        for symbol in run.world.symbols
        for start, (end, cause) in sorted(run.world.audit.of(symbol).ledger.items())
    ]


def timeline(run: Run, *, faults_only: bool = False) -> list[tuple[str, str, str]]:
    """(time of day, who, what), repeated lines of a moment once."""
    lines = [line for line in run.world.lines if line.fault or not faults_only]
    told: list[tuple[str, str, str]] = []
    for line in lines[-TIMELINE_MAX:]:
        row = (clock(line.time_ns), line.who, line.text)
        if not told or told[-1] != row:
            told.append(row)
    return told


def busiest_hour(run: Run) -> tuple[int, int]:
    """The minutes [start, end) of the hour with most faults."""
    minutes = [minute_of(line.time_ns) for line in run.world.lines if line.fault]
    last = minute_of(run.world.now_ns)
    starts = range(0, max(1, min(last, run.world.settings.minutes) - HOUR + 1), 5)
    best = max(starts, key=lambda start: sum(start <= m < start + HOUR for m in minutes))
    return best, best + HOUR


def inside(lines: Iterable[Line], start: int, end: int) -> list[Line]:
    """The lines of the minutes [start, end)."""
    return [
        one
        for one in lines
        if START_NS <= one.time_ns < START_NS + end * MINUTE_NS and minute_of(one.time_ns) >= start
    ]


def explain(run: Run) -> str:
    """Why a run failed, its acts and what happened, as text."""
    failure, world = run.failure, run.world
    assert failure is not None
    at = "at the end" if failure.act is None else f"in act {failure.act + 1}"
    told = "\n".join(f"  {when}  {who:<12} {what}" for when, who, what in timeline(run))
    acts = "\n".join(f"  {act}" for act in run.acts)
    return (
        f"seed {world.settings.seed} fails {at}: "
        f"{INVARIANTS.get(failure.invariant, failure.invariant)}\n  {failure.detail}\n"
        f"acts ({len(run.acts)}):\n{acts}\ntimeline:\n{told}\n"
        f"again: seamline simulate --seed {world.settings.seed}"
    )
