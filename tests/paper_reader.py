"""A reader of a `MemorySink` through the pure machine: the steps of a reader without a broker.

Each topic is read to a place of the test's choice (a count of transactions), so a test can put the
cut between any two topics; afterwards rows and blocks can come in any interleaving that keeps the
order within each topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from log_writer import BLOCK_ROWS, MINUTE, START, MemorySink, Record, columns_of
from seamline.streams.kernel.seam import (
    OnGap,
    Part,
    Request,
    Snapshot,
    assemble,
    join_offset,
    merged_order,
)
from seamline.streams.kernel.seam_cells import Grid
from seamline.streams.kernel.seam_events import Bar, Event, LateBar, Revision, bars_of
from seamline.streams.kernel.seam_follow import Follower


def request_of(
    *symbols: str,
    first: int = 0,
    last: int | None = None,
    on_gap: OnGap = OnGap.FLAG,
    stabilization_bars: int = 2,
) -> Request:
    """Cells [first, last) of the writer's grid."""
    return Request(
        preset_id="ohlcv.paper.spot.1m",
        symbols=symbols,
        start_ns=START + first * MINUTE,
        end_ns=None if last is None else START + last * MINUTE,
        on_gap=on_gap,
        grid=Grid(MINUTE),
        block_ns=BLOCK_ROWS * MINUTE,
        stabilization_bars=stabilization_bars,
    )


@dataclass(slots=True)
class Cut:
    """How far each topic is read: first offset that is not."""

    conformed: int = 2**62
    storage: int = 2**62
    seals: int = 2**62
    gaps: int = 2**62


@dataclass(slots=True)
class PaperReader:
    request: Request
    sink: MemorySink
    begin_offset: int = 0
    delivered: dict[tuple[str, int], Bar] = field(default_factory=dict)
    revisions: int = 0

    def read(self, role: str, start: int, stop: int) -> Iterable[Record]:
        for offset, record in self.sink.logs.get(role, []):
            if start <= offset < stop:
                yield record

    def snapshot(self, cut: Cut) -> Snapshot:
        snapshot = Snapshot(self.request)
        for record in self.read("storage", 0, cut.storage):
            snapshot.add_block(record.payload)
        for record in self.read("seals", 0, cut.seals):
            snapshot.add_seal(record.payload)
        for record in self.read("gaps", 0, cut.gaps):
            snapshot.add_gap(record.symbol, record.start_ns, record.payload)
        return snapshot

    def parts(self, cut: Cut | None = None, watermark: int | None = None) -> list[Part]:
        cut = cut or Cut()
        snapshot = self.snapshot(cut)
        assert not snapshot.unsettled()
        settled = [snapshot.settle(symbol) for symbol in self.request.symbols]
        lowest = min(join_offset(one, self.begin_offset) for one in settled)
        start = max(lowest, self.begin_offset)
        rows = list(self.read("conformed", start, cut.conformed))
        return [
            assemble(
                self.request,
                one,
                columns_of(r.payload for r in rows if r.symbol == one.symbol),
                watermark_ns=None if watermark is None else START + watermark * MINUTE,
                begin_offset=self.begin_offset,
            )
            for one in settled
        ]

    def begin(self, cut: Cut | None = None) -> Follower:
        """Deliver the history; what follows goes through the follower."""
        parts = self.parts(cut)
        for part in parts:
            for rows in (part.sealed, part.log):
                for bar in bars_of(part.symbol, rows):
                    self._deliver(bar)
        return Follower(self.request, parts)

    def feed(self, follower: Follower, record: Record) -> list[Event]:
        """One record of a topic that is tailed, and what it says applied to what was delivered."""
        events: list[Event] = []
        if record.role == "conformed" and follower.wants(record.symbol):
            events = follower.rows(record.symbol, columns_of([record.payload]), 0)
        elif record.role == "storage" and follower.wants(record.symbol):
            events = follower.block(record.payload, 0)
        elif record.role == "gaps" and follower.wants(record.symbol):
            events = follower.gap(record.symbol, record.start_ns, record.payload, 0)
        for event in events:
            self._apply(event)
        return events

    def _apply(self, event: Event) -> None:
        if isinstance(event, Bar):
            assert all(t < event.open_time_ns for s, t in self.delivered if s == event.symbol), (
                "a bar out of order"
            )
            self._deliver(event)
        elif isinstance(event, LateBar):
            self._deliver(event.bar)
        elif isinstance(event, Revision):
            where = (event.bar.symbol, event.bar.open_time_ns)
            held = self.delivered[where]
            assert event.previous is not None
            assert held.content == event.previous.content != event.bar.content
            assert held.revision <= event.previous.revision <= event.bar.revision
            self.delivered[where] = event.bar
            self.revisions += 1

    def _deliver(self, bar: Bar) -> None:
        where = (bar.symbol, bar.open_time_ns)
        assert where not in self.delivered, f"delivered twice: {where}"
        self.delivered[where] = bar

    def contents(self) -> dict[tuple[str, int], tuple[float | int | None, ...]]:
        return {where: bar.content for where, bar in self.delivered.items()}


def merged(parts: list[Part]) -> list[tuple[int, str]]:
    """(cell, symbol) in the order of delivery."""
    rows, owner, _ = merged_order(parts)
    names = [part.symbol for part in parts]
    return [
        ((int(t) - START) // MINUTE, names[i])
        for t, i in zip(rows.open_time_ns.tolist(), owner.tolist(), strict=True)
    ]
