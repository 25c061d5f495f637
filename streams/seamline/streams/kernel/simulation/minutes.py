"""What each minute of each symbol has become, one character each.

Decides: the characters. Invariant: a minute is what model, ledger and landing records say. Must not
know: how it is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.world import World

LEGEND: Final = {
    ".": "live bar",
    "x": "frame lost, refilled from history",
    "r": "revised",
    "l": "late or backfilled",
    "-": "gap, named by the ledger",
    "?": "missing without an entry",
    " ": "nothing is expected yet",
}


def strips(world: World) -> dict[str, str]:
    """One character per minute and symbol (`LEGEND`), from the start to the newest bar."""
    found = {}
    for symbol in world.symbols:
        series = world.audit.model_of(symbol).series.get(symbol)
        known = world.audit.of(symbol)
        bars = {} if series is None else series.bars
        frontier = None if series is None else series.frontier
        named: set[int] = set()
        for start, (end, _) in known.ledger.items():
            named.update(range(start, end))
        text = []
        for minute in range(max(bars, default=-1) + 1):
            bar = bars.get(minute)
            if bar is None:
                missing = min(bars) <= minute and (frontier is None or minute < frontier)
                text.append("-" if minute in named else "?" if missing else " ")
            elif bar.revision:
                text.append("r")
            elif (symbol, minute) not in world.landed_live or minute not in known.first:
                text.append("l")
            else:
                text.append("x" if (symbol, minute) in world.lost_frames else ".")
        found[symbol] = "".join(text)
    return found
