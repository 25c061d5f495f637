"""What users import: the stitched stream, its events, certificates, conformance of frames.

Names load when they are first used: the command line imports this package for `--help` too, and
compiled kernels must find their cache directory named before numba is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seamline.connectors import jit_cache

if TYPE_CHECKING:
    from seamline.schemas.errors import ConformancePipelineError, SchemaValidationError
    from seamline.sdk.certificate import verify
    from seamline.sdk.conforming import ConformedFrame, conform
    from seamline.sdk.producing import Producer, Sent
    from seamline.sdk.stitching import SeamStream, stitch
    from seamline.streams.kernel.conformance import ConformancePipeline, RegressionReportStage
    from seamline.streams.kernel.conformance_options import options as conformance_options
    from seamline.streams.kernel.conformance_report import ConformanceReport
    from seamline.streams.kernel.schema_rollup import SchemaRollupStage
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
    from seamline.streams.kernel.seam_position import Position
    from seamline.streams.kernel.temporal_rollup import TemporalRollupStage

__all__ = [
    "Bar",
    "CaughtUp",
    "Certificate",
    "ConformancePipeline",
    "ConformancePipelineError",
    "ConformanceReport",
    "ConformedFrame",
    "Event",
    "Gap",
    "LateBar",
    "Position",
    "Producer",
    "RegressionReportStage",
    "Revision",
    "SchemaRollupStage",
    "SchemaValidationError",
    "SeamBroken",
    "SeamStream",
    "Sent",
    "TemporalRollupStage",
    "conform",
    "conformance_options",
    "stitch",
    "verify",
]

_CONFORMANCE = "seamline.streams.kernel.conformance"
_EVENTS = "seamline.streams.kernel.seam_events"
_HOMES = {
    "SeamStream": "seamline.sdk.stitching",
    "stitch": "seamline.sdk.stitching",
    "verify": "seamline.sdk.certificate",
    "Certificate": "seamline.streams.kernel.seam_certificate",
    **dict.fromkeys(("Bar", "CaughtUp", "Event", "Gap", "LateBar", "Revision"), _EVENTS),
    "SeamBroken": _EVENTS,
    "Position": "seamline.streams.kernel.seam_position",
    "ConformancePipeline": _CONFORMANCE,
    "ConformancePipelineError": "seamline.schemas.errors",
    "ConformanceReport": f"{_CONFORMANCE}_report",
    "ConformedFrame": "seamline.sdk.conforming",
    **dict.fromkeys(("Producer", "Sent"), "seamline.sdk.producing"),
    "RegressionReportStage": _CONFORMANCE,
    "SchemaRollupStage": "seamline.streams.kernel.schema_rollup",
    "SchemaValidationError": "seamline.schemas.errors",
    "TemporalRollupStage": "seamline.streams.kernel.temporal_rollup",
    "conform": "seamline.sdk.conforming",
    "conformance_options": f"{_CONFORMANCE}_options",
}
# Where the name there is another one.
_NAMES = {"conformance_options": "options"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    jit_cache.use()
    value = getattr(import_module(home), _NAMES.get(name, name))
    globals()[name] = value
    return value
