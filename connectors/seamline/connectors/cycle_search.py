"""How often the interpreter searches its objects for cycles.

Decides: the thresholds of a process, or of one piece of work, that handles records by the million.
Records that were read are tuples that nothing refers back to: they go when the last reference goes,
and searching them for cycles over and over, beside everything that the libraries loaded, cost a
quarter of a worker's time and half of a rehearsal's. Cycles are still found, only later. Must not
know: who reads.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Net new containers before the young ones are searched, young searches before the middle ones, and
# middle ones before all.
CYCLE_SEARCH: Final = (50_000, 20, 50)


def search_cycles_seldom() -> None:
    """For the rest of the process; to be called when everything that stays is there: it is left out
    of every search."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*CYCLE_SEARCH)


@contextmanager
def cycles_searched_seldom() -> Iterator[None]:
    """For one piece of work; what is there when it begins is left out until it ends."""
    before, kept_out = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.freeze()
    gc.set_threshold(*CYCLE_SEARCH)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not kept_out:
            gc.unfreeze()
