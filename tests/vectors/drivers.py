"""Every driver there is. A new family adds one module and one line here."""

from __future__ import annotations

from vectors import (
    audit_drivers,
    conformance_drivers,
    coverage_drivers,
    feed_drivers,
    fingerprint_drivers,
    governance_drivers,
    mode_drivers,
    provider_drivers,
    timeframe_drivers,
)
from vectors.engine import CONDITIONS, DRIVERS

__all__ = ["CONDITIONS", "DRIVERS", "MODULES"]

MODULES = (
    audit_drivers,
    conformance_drivers,
    coverage_drivers,
    feed_drivers,
    fingerprint_drivers,
    governance_drivers,
    mode_drivers,
    provider_drivers,
    timeframe_drivers,
)
