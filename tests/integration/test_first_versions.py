"""Topics that a program of version 1 of every schema wrote, read by today's readers.

The next owner of such a partition: `tests/unit/test_older_logs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from log_writer import MINUTE, START
from seam_plane import A, Plane
from seamline.connectors.world import World
from seamline.sdk import Bar, CaughtUp, Event, Gap
from seamline.sdk.certificate import verify


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


def certificate_of(events: list[Event]) -> CaughtUp:
    (last,) = [event for event in events if isinstance(event, CaughtUp)]
    return last


def test_history_seal_log_and_ledger_of_version_1_are_one_stream(plane: Plane) -> None:
    """With what today's program writes behind them; the certificate of then still verifies."""
    plane.sink.first_versions = True
    for cell in (*range(5), *range(6, 20)):
        plane.writer.bar(A, cell)
    plane.writer.gap(A, 5, 6)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    before = plane.history()
    certificate = certificate_of(before).certificate
    presets = {plane.preset.id: plane.preset}
    _, answer = verify(certificate, world=plane.world, presets=presets)
    assert answer["status"] == "verified"
    plane.sink.first_versions = False
    for cell in range(20, 24):
        plane.writer.bar(A, cell)
    plane.writer.commit()
    events = plane.history()
    cells = [(e.open_time_ns - START) // MINUTE for e in events if isinstance(e, Bar)]
    assert cells == [*range(5), *range(6, 24)]
    assert [(e.start_ns - START) // MINUTE for e in events if isinstance(e, Gap)] == [5]
    now = certificate_of(events).certificate
    assert (now.bars_history, now.bars_log) == (15, 8)
    _, answer = verify(certificate, world=plane.world, presets=presets)
    assert answer["status"] == "verified"
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 20)
    plane.writer.commit()
    assert len([e for e in plane.history() if isinstance(e, Bar)]) == 23
