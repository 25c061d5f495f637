"""What users import: the stitched stream and its events."""

from __future__ import annotations

from seamline.sdk.stitch import SeamStream, stitch
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
]
