"""How kernels are compiled: the one `njit` of Seamline.

Decides: compiled code is cached on disk, releases the GIL and does not check array bounds. So every
kernel proves its own bounds: lengths that come from bytes are compared with the end of the record
before they are used. `NUMBA_DISABLE_JIT=1` runs the same functions as plain Python. Must not know:
where the cache is; `NUMBA_CACHE_DIR` is set before numba is imported, by who starts the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def njit(function: _F) -> _F:
    """Compile `function` at its first call for each signature."""
    return cast("_F", numba.njit(cache=True, nogil=True, boundscheck=False)(function))
