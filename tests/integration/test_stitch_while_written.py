"""Readers that begin at any moment of a writer's life end with the same bars, on the broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from log_writer import LogWriter, columns_of
from random_acts import RandomActs
from seam_plane import A, B, Plane
from seamline.connectors.world import World
from seamline.sdk import Bar, CaughtUp, Gap, LateBar, Revision
from seamline.sdk.certificate import verify
from seamline.streams.kernel.seam_events import bars_of

SYMBOLS = (A, B)
TRANSACTIONS = 40
READERS = 6
LAST = 500  # beyond everything that is written


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


class Reader(threading.Thread):
    """Collects what it is told until the end of the stream."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(name="reader", daemon=True)
        self.stream = plane.read(*SYMBOLS, last=LAST)
        self.bars: dict[tuple[str, int], Bar] = {}
        self.kinds: dict[str, int] = {}
        self.failed: BaseException | None = None
        self.caught_up = threading.Event()

    def run(self) -> None:
        try:
            with self.stream:
                for event in self.stream:
                    self._take(event)
        except BaseException as error:
            self.failed = error
            self.caught_up.set()

    def _take(self, event: object) -> None:
        self.kinds[type(event).__name__] = self.kinds.get(type(event).__name__, 0) + 1
        if isinstance(event, CaughtUp):
            self.caught_up.set()
        elif isinstance(event, Revision):
            where = (event.bar.symbol, event.bar.open_time_ns)
            assert event.previous is not None
            assert self.bars[where].content == event.previous.content
            self.bars[where] = event.bar
        elif not isinstance(event, Gap):
            bar = event.bar if isinstance(event, LateBar) else event
            assert isinstance(bar, Bar)
            assert (bar.symbol, bar.open_time_ns) not in self.bars, "delivered twice"
            self.bars[bar.symbol, bar.open_time_ns] = bar


def final(writer: LogWriter) -> dict[tuple[str, int], tuple[float | int | None, ...]]:
    return {
        (symbol, bar.open_time_ns): bar.content
        for symbol in SYMBOLS
        for bar in bars_of(
            symbol, columns_of(row for _, row in sorted(writer.state(symbol).rows.items()))
        )
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_reader_ends_with_the_writers_bars(plane: Plane, seed: int) -> None:
    acts = RandomActs(plane.writer, SYMBOLS, seed)
    for _ in range(4):  # a symbol must exist before somebody can ask for it
        acts.transaction()
    for symbol in SYMBOLS:
        if not plane.writer.state(symbol).rows:
            plane.writer.bar(symbol, 0)
            acts.newest[symbol] = max(acts.newest[symbol], 0)
    plane.writer.commit()
    readers: list[Reader] = []
    for number in range(TRANSACTIONS):
        if number % (TRANSACTIONS // READERS) == 0:
            readers.append(Reader(plane))
            readers[-1].start()
        acts.transaction()
    for reader in readers:
        assert reader.caught_up.wait(60), "a reader does not catch up"
    acts.seal_all()
    for symbol in SYMBOLS:
        plane.writer.watermark(symbol, LAST)
        plane.writer.gap(symbol, acts.newest[symbol] + 1, LAST, "no_trades")
    plane.writer.commit()
    expected = final(plane.writer)
    for reader in readers:
        reader.join(60)
        assert reader.failed is None, reader.failed
        assert not reader.is_alive()
        assert {where: bar.content for where, bar in reader.bars.items()} == expected
        assert reader.kinds["CaughtUp"] == 1
        certificate = reader.stream.certificate
        assert certificate is not None
        assert certificate.contiguous
        verdict, _ = verify(certificate, world=plane.world, presets={plane.preset.id: plane.preset})
        assert verdict.status in ("verified", "revised"), verdict
