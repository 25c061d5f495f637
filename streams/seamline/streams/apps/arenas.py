"""How the process's memory is kept: the C allocator's arenas.

Decides: glibc's number of arenas. Each thread that allocates gets one of up to eight per core, and
what a thread frees stays in its own: with an owner's thread and the client's threads per partition
the process would hold what each of them needed at its worst moment. Must not know: who allocates.
"""

from __future__ import annotations

import ctypes
from typing import Final

ARENAS: Final = 2
_M_ARENA_MAX: Final = -8


def bound_arenas() -> bool:
    """Keep to ARENAS from now on; False where the C library has no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS))
