"""How often an open bar is shown.

Decides: whether one more preview of a symbol may leave. Invariant: memory is one time a symbol.
Must not know: bars, brokers, clocks.
"""

from __future__ import annotations

PREVIEW_NS = 1_000_000_000


class PreviewGate:
    """At most one preview of a symbol in each `period_ns` of local time."""

    def __init__(self, period_ns: int = PREVIEW_NS) -> None:
        self._period_ns = period_ns
        self._shown_ns: dict[str, int] = {}

    def allows(self, symbol: str, local_ns: int) -> bool:
        """Whether a preview may leave now; it counts as shown then."""
        before_ns = self._shown_ns.get(symbol)
        if before_ns is not None and local_ns - before_ns < self._period_ns:
            return False
        self._shown_ns[symbol] = local_ns
        return True
