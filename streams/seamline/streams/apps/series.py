"""Which failure counters a worker shows from its start.

Decides: that every subject of its presets has one for each mode, at 0 before anything failed.
Must not know: metrics, machines.
"""

from __future__ import annotations

from collections.abc import Sequence

from seamline.connectors.registry.registration import subjects_of
from seamline.schemas.modes import MODES
from seamline.schemas.preset import Preset


def series_of(*presets: Preset) -> Sequence[tuple[str, str]]:
    """`(subject, mode)` of every topic that carries a schema."""
    return [
        (subject.name, mode)
        for preset in presets
        for subject in subjects_of(preset)
        for mode in MODES
    ]
