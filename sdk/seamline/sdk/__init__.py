"""What users import: the stitched stream, its events, certificates.

Names load when they are first used: the command line imports this package for `--help` too, and
compiled kernels must find their cache directory named before numba is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seamline.connectors import jit_cache

if TYPE_CHECKING:
    from seamline.sdk.certificate import verify
    from seamline.sdk.stitching import SeamStream, stitch
    from seamline.streams.kernel.seam_certificate import Certificate
    from seamline.streams.kernel.seam_events import (
        Bar,
        CaughtUp,
        Event,
        Gap,
        LateBar,
        Revision,
        SeamBroken,
    )

__all__ = [
    "Bar",
    "CaughtUp",
    "Certificate",
    "Event",
    "Gap",
    "LateBar",
    "Revision",
    "SeamBroken",
    "SeamStream",
    "stitch",
    "verify",
]

_EVENTS = "seamline.streams.kernel.seam_events"
_HOMES = {
    "SeamStream": "seamline.sdk.stitching",
    "stitch": "seamline.sdk.stitching",
    "verify": "seamline.sdk.certificate",
    "Certificate": "seamline.streams.kernel.seam_certificate",
    **dict.fromkeys(("Bar", "CaughtUp", "Event", "Gap", "LateBar", "Revision"), _EVENTS),
    "SeamBroken": _EVENTS,
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    jit_cache.use()
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
