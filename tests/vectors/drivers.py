"""Every driver there is. A new family adds one module and one line here."""

from __future__ import annotations

from vectors import feed_drivers, fingerprint_drivers
from vectors.engine import CONDITIONS, DRIVERS

__all__ = ["CONDITIONS", "DRIVERS", "MODULES"]

MODULES = (feed_drivers, fingerprint_drivers)
