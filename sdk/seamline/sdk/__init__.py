"""What users import: the stitched stream and its events."""

from __future__ import annotations

from seamline.connectors import jit_cache

jit_cache.use()  # before the imports below bring in numba

from seamline.sdk.stitch import SeamStream, stitch  # noqa: E402
from seamline.streams.kernel.seam_certificate import Certificate  # noqa: E402
from seamline.streams.kernel.seam_events import (  # noqa: E402
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
]
