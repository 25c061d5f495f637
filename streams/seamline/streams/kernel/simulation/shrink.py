"""A failing list of acts made short: what a person reads instead of a whole run.

Decides: which acts are left out, by halves, then quarters, down to single ones. Invariants: the
result fails by the same invariant; the number of runs is bounded, so the result may not be the
shortest. Must not know: what an act does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from seamline.streams.kernel.simulation.plan import Act
from seamline.streams.kernel.simulation.runs import Run, run

RUNS_MAX: Final = 200


def shrink(failed: Run, runs_max: int = RUNS_MAX) -> Run:
    """A run with fewer acts that fails alike; `failed` itself when nothing can be left out."""
    assert failed.failure is not None
    best = failed
    if failed.failure.act is not None:
        best = _try(failed, failed.acts[: failed.failure.act + 1]) or failed
    tried, size = 1, max(1, len(best.acts) // 2)
    while tried < runs_max:
        at, smaller = 0, False
        while at < len(best.acts) and tried < runs_max:
            tried += 1
            shorter = _try(best, [*best.acts[:at], *best.acts[at + size :]])
            if shorter is None:
                at += size
            else:
                best, smaller = shorter, True
        if size == 1 and not smaller:
            break
        size = max(1, min(size // 2, len(best.acts) // 2)) if size > 1 else 1
    return best


def _try(failed: Run, acts: Sequence[Act]) -> Run | None:
    """The run of these acts when it fails as `failed` does."""
    again = run(failed.world.settings, tuple(acts), failed.world.parts)
    wanted = failed.failure
    assert wanted is not None
    return again if again.failure and again.failure.invariant == wanted.invariant else None
