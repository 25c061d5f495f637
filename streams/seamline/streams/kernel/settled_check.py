"""Which spans of settled history are asked for once more, so that late corrections come in.

Decides: per symbol from where to where, in batches, the one that is furthest behind first.
Invariants: every cell is asked again once, after it has left the feed and is settled; a span holds
at most `span_bars_max` cells; memory is one time a symbol. Must not know: how history is asked, how
bars are compared, clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seamline.schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class SettledRules:
    """`batch_bars` are asked for together; a start looks back over `look_back_bars`
    or more (`remembered_bars`)."""

    batch_bars: int = 60
    look_back_bars: int = 180
    span_bars_max: int = 1_000

    @property
    def remembered_bars(self) -> int:
        """How far a start looks back: never less than what may not have been asked for yet, a
        batch that was not full and one of which the question failed."""
        return max(self.look_back_bars, 2 * self.batch_bars)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_bars <= self.span_bars_max:
            raise UsageError(
                f"outside 1 to {self.span_bars_max}",
                parameter="settled_batch",
                value=self.batch_bars,
                fix="Give a number of bars in that range",
            )


@dataclass(frozen=True, slots=True)
class Span:
    """Settled bars of `symbol` with open time in `[start_ns, end_ns)`."""

    symbol: str
    start_ns: int
    end_ns: int


class SettledCheck:
    """`from_ns` is for each symbol the open time from which bars are still to be asked again."""

    def __init__(
        self, from_ns: Mapping[str, int], interval_ns: int, settle_ns: int, rules: SettledRules
    ) -> None:
        self._checked_ns = dict(from_ns)
        self._interval_ns = interval_ns
        self._settle_ns = settle_ns
        self._rules = rules

    @property
    def through_ns(self) -> int:
        """Every bar before it was compared with settled history, for every symbol."""
        return min(self._checked_ns.values())

    def due(self, sure_ns: int, left_ns: Mapping[str, int]) -> Span | None:
        """The span to ask for now. `sure_ns`: the venue's clock is there or later; `left_ns`: every
        bar of the symbol before it has left the feed."""
        for symbol in sorted(self._checked_ns, key=self._checked_ns.__getitem__):
            start_ns = self._checked_ns[symbol]
            limit_ns = min(sure_ns - self._settle_ns, left_ns[symbol])
            bars = min((limit_ns - start_ns) // self._interval_ns, self._rules.span_bars_max)
            if bars >= self._rules.batch_bars:
                return Span(symbol, start_ns, start_ns + bars * self._interval_ns)
        return None

    def done(self, span: Span, end_ns: int) -> None:
        """History answered for the span up to `end_ns`."""
        self._checked_ns[span.symbol] = max(self._checked_ns[span.symbol], end_ns)
