"""The demo's reader: follows a stream in a thread and keeps what it was given.

Decides: what counts as a duplicate. Invariants: every event is counted; what stands for a bar is
its last event. Must not know: where the events come from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from seamline.sdk import SeamStream
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import Bar, CaughtUp, Event, Gap, LateBar, Revision

Key = tuple[str, int]


@dataclass
class Kept:
    """What a reader was given. `bars`: the last value of each bar; times are ns."""

    bars: dict[Key, Bar] = field(default_factory=dict)
    history: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    revisions: int = 0
    duplicates: int = 0
    gaps: list[Gap] = field(default_factory=list)
    certificate: Certificate | None = None

    def take(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, CaughtUp):
            self.certificate = event.certificate
        elif isinstance(event, Gap):
            self.gaps.append(event)
        elif isinstance(event, Revision):
            self.revisions += 1
            self.bars[event.bar.symbol, event.bar.open_time_ns] = event.bar
        else:
            bar = event.bar if isinstance(event, LateBar) else event
            key = bar.symbol, bar.open_time_ns
            self.duplicates += key in self.bars
            self.bars[key] = bar
            counts = self.history if self.certificate is None else self.live
            if isinstance(event, LateBar):
                counts = self.late
            counts[bar.symbol] = counts.get(bar.symbol, 0) + 1

    def newest_ns(self, symbol: str) -> int:
        """Open time of the newest bar of a symbol, 0 where there is none."""
        return max((time_ns for name, time_ns in self.bars if name == symbol), default=0)


class Follower(threading.Thread):
    """Reads a stream until `stop`, or until it ends or breaks."""

    def __init__(self, open_stream: Callable[[], SeamStream]) -> None:
        super().__init__(name="seamline-demo-reader", daemon=True)
        self._stream = open_stream()
        self.kept = Kept()
        self.newest: dict[str, int] = {}
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._stream as stream:
                for event in stream:
                    self.kept.take(event)
                    if isinstance(event, Bar):
                        self.newest[event.symbol] = event.open_time_ns
        except BaseException as error:  # kept for the thread that waits
            self.failure = error

    def check(self) -> None:
        """Raise what ended the reader, if something did."""
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        self._stream.close()
        self.join(10)
