"""What somebody holds who was told the events of a stream, cut off and resumed or not."""

from __future__ import annotations

from dataclasses import dataclass, field

from seamline.streams.kernel.seam_events import Bar, CaughtUp, Event, Gap, LateBar


@dataclass
class Consumer:
    """Each event must fit to what is held: no bar twice, no revision of what is not held."""

    bars: dict[tuple[str, int], Bar] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if isinstance(event, CaughtUp):
            return
        if isinstance(event, Gap):
            span = (event.symbol, event.start_ns, event.end_ns)
            words = [g for g in self.gaps if (g.symbol, g.start_ns, g.end_ns) == span]
            assert event not in words[-1:], f"told twice: {event}"
            self.gaps.append(event)
        elif isinstance(event, Bar):
            assert event.open_time_ns > self.newest.get(event.symbol, 0), "out of order"
            self.newest[event.symbol] = event.open_time_ns
            self._deliver(event)
        elif isinstance(event, LateBar):
            assert self._passed(event.bar), f"not late: {event}"
            self._deliver(event.bar)
        else:
            where = (event.bar.symbol, event.bar.open_time_ns)
            held = self.bars[where]
            assert event.previous is not None
            assert held.content == event.previous.content != event.bar.content
            assert held.revision <= event.bar.revision
            self.bars[where] = event.bar

    def _passed(self, bar: Bar) -> bool:
        told = [gap.end_ns for gap in self.gaps if gap.symbol == bar.symbol]
        return bar.open_time_ns < max(self.newest.get(bar.symbol, 0), *told, 0)

    def _deliver(self, bar: Bar) -> None:
        where = (bar.symbol, bar.open_time_ns)
        assert where not in self.bars, f"delivered twice: {where}"
        self.bars[where] = bar

    def causes_of(self, symbol: str, time_ns: int) -> list[str]:
        """What was said of a missing cell."""
        return [
            gap.cause
            for gap in self.gaps
            if gap.symbol == symbol and gap.start_ns <= time_ns < gap.end_ns
        ]
