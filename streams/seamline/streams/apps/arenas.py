"""How the process's memory is kept: the C allocator's arenas, the interpreter's cycle search.

Decides: glibc's number of arenas, and how often cycles are searched for. Landed records are tuples
that nothing refers back to: they go when the last reference goes, and searching them for cycles
over and over cost a quarter of the worker's time. Each thread that allocates gets one of up to
eight per core, and what a thread frees stays in its own: with an owner's thread and the client's
threads per partition the process would hold what each of them needed at its worst moment. Must not
know: who allocates.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

ARENAS: Final = 2
_M_ARENA_MAX: Final = -8


# Net new containers before the young ones are searched, young searches before the middle ones, and
# middle ones before all.
CYCLE_SEARCH: Final = (50_000, 20, 50)


def search_cycles_seldom() -> None:
    """To be called when everything that stays is there: it is left out of every search."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*CYCLE_SEARCH)


def bound_arenas() -> bool:
    """Keep to ARENAS from now on; False where the C library has no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))
