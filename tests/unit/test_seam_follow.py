"""Behind the seam: what a reader that follows is told of each row, block and ledger entry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from log_writer import MINUTE, START, LogWriter, MemorySink, Record, content
from paper_reader import PaperReader, request_of
from seamline.streams.kernel.seam import OnGap, Request
from seamline.streams.kernel.seam_events import Bar, Event, Gap, LateBar, Revision, SeamBroken
from seamline.streams.kernel.seam_follow import Follower

A = "BTC/USDT"


class Scene:
    """A writer, and a reader that has caught up with it."""

    def __init__(self, request: Request | None = None, bars: int = 12, sealed: int = 8) -> None:
        self.sink = MemorySink()
        self.writer = LogWriter(self.sink)
        for cell in range(bars):
            self.writer.bar(A, cell)
        self.writer.commit()
        self.writer.seal(A, sealed)
        self.writer.commit()
        self.request = request or request_of(A)
        self.reader = PaperReader(self.request, self.sink)
        self.follower: Follower = self.reader.begin()
        self.seen = dict(self.sink.ends)

    def step(self, *roles: str) -> list[Event]:
        """Commit what is pending and feed it, one topic after the other."""
        if self.writer.pending:
            self.writer.commit()
        events: list[Event] = []
        for role in roles or ("conformed", "storage", "gaps"):
            for record in list(self.reader.read(role, self.seen.get(role, 0), 2**62)):
                events += self.reader.feed(self.follower, record)
            self.seen[role] = self.sink.ends.get(role, 0)
        return events


def cells(events: list[Event]) -> list[int]:
    return [(e.open_time_ns - START) // MINUTE for e in events if isinstance(e, Bar)]


def test_new_bars_come_in_order_and_once() -> None:
    scene = Scene()
    scene.writer.bar(A, 12)
    scene.writer.bar(A, 13)
    events = scene.step()
    assert cells(events) == [12, 13]
    assert all(isinstance(event, Bar) and event.provisional for event in events)


def test_a_hole_is_told_before_the_newer_bar_and_filled_as_a_late_bar() -> None:
    scene = Scene()
    scene.writer.bar(A, 14)
    gap, bar = scene.step()
    assert gap == Gap(A, START + 12 * MINUTE, START + 14 * MINUTE, 2, "unknown", True)
    assert isinstance(bar, Bar)
    scene.writer.bar(A, 12)
    [late] = scene.step()
    assert isinstance(late, LateBar)
    assert late.bar.open_time_ns == START + 12 * MINUTE


def test_revision_completion_and_confirmation() -> None:
    scene = Scene()
    scene.writer.bar(A, 12, optional=False)
    [first] = scene.step()
    assert isinstance(first, Bar)
    assert first.trades is None
    scene.writer.confirm(A, 12)
    assert scene.step() == []
    scene.writer.complete(A, 12)
    [completed] = scene.step()
    assert isinstance(completed, Revision)
    assert completed.completed
    assert completed.bar.trades == 22
    scene.writer.bar(A, 12, salt=4)
    [revised] = scene.step()
    assert isinstance(revised, Revision)
    assert not revised.completed
    assert (revised.bar.revision, revised.previous) == (1, completed.bar)


def test_the_first_seal_of_what_was_delivered_is_silent() -> None:
    scene = Scene()
    for cell in range(12, 18):
        scene.writer.bar(A, cell)
    scene.step()
    scene.writer.seal(A, 14)  # a partial block
    assert scene.step() == []
    scene.writer.seal(A, 16)
    assert scene.step() == []


def test_a_late_value_below_the_frontier_comes_by_storage() -> None:
    scene = Scene()
    scene.writer.bar(A, 3, salt=7)
    scene.writer.seal(A, 8)
    [event] = scene.step()
    assert isinstance(event, Revision)
    assert event.previous is not None
    assert event.previous.content == tuple(None if v is None else v for v in event.previous.content)
    assert event.bar.open == content(3, 7)["open"]


def test_a_backfill_behind_the_reader_comes_as_late_bars() -> None:
    scene = Scene(request_of(A, first=-8))
    for cell in range(-8, 0):
        scene.writer.bar(A, cell)
    scene.writer.seal(A, 8)
    events = scene.step()
    assert [type(event) for event in events] == [LateBar] * 8
    assert len(scene.reader.delivered) == 20


def test_blocks_before_the_start_are_nothing() -> None:
    scene = Scene()
    for cell in range(-8, 0):
        scene.writer.bar(A, cell)
    scene.writer.seal(A, 8)
    assert scene.step() == []


def test_storage_ahead_of_the_log_delivers_once() -> None:
    scene = Scene()
    for cell in range(12, 16):
        scene.writer.bar(A, cell)
    scene.writer.commit()
    scene.writer.seal(A, 16)
    assert cells(scene.step("storage")) == [12, 13, 14, 15]
    assert scene.step("conformed") == []


def test_storage_ahead_of_a_value_that_went_and_came_back_is_silent() -> None:
    """The block has revision 2 with the delivered content; the log's revision 1 is history then."""
    scene = Scene()
    scene.writer.bar(A, 10, salt=3)
    scene.writer.commit()
    scene.writer.bar(A, 10)
    scene.writer.seal(A, 12)
    assert scene.step("storage") == []
    assert scene.step("conformed") == []


def test_the_ledger_settles_a_hole() -> None:
    scene = Scene()
    scene.writer.bar(A, 14)
    scene.step()
    scene.writer.gap(A, 12, 14, "venue_outage")
    scene.writer.seal(A, 15)
    [gap] = scene.step()
    assert gap == Gap(A, START + 12 * MINUTE, START + 14 * MINUTE, 2, "venue_outage", False)
    scene.writer.gap(A, 12, 14, "venue_outage")
    assert scene.step() == [], "told once"


def test_a_cause_that_comes_back_is_told_again() -> None:
    scene = Scene()
    scene.writer.bar(A, 14)
    scene.step()
    for cause in ("venue_outage", "late", "venue_outage"):
        scene.writer.gap(A, 12, 14, cause)
        [gap] = scene.step()
        assert isinstance(gap, Gap)
        assert gap.cause == cause


def test_a_ledger_entry_of_a_silent_symbol_is_told_in_its_place() -> None:
    scene = Scene()
    scene.writer.gap(A, 12, 16, "no_trades")
    [gap] = scene.step()
    assert isinstance(gap, Gap)
    assert gap.bars == 4
    scene.writer.bar(A, 16)
    assert cells(scene.step()) == [16]


def test_a_ledger_entry_ahead_of_the_log_waits_for_its_place() -> None:
    scene = Scene()
    scene.writer.bar(A, 12)
    scene.writer.bar(A, 15)
    scene.writer.gap(A, 13, 15, "our_loss")
    scene.writer.commit()
    assert scene.step("gaps") == []
    events = scene.step("conformed")
    assert [type(event) for event in events] == [Bar, Gap, Bar]
    assert isinstance(events[1], Gap)
    assert (events[1].cause, events[1].provisional) == ("our_loss", False)


@pytest.mark.parametrize(("cause", "breaks"), [("no_trades", False), ("our_loss", True)])
def test_fail_ends_the_stream_when_the_ledger_settles_a_loss(cause: str, breaks: bool) -> None:
    scene = Scene(request_of(A, on_gap=OnGap.FAIL))
    scene.writer.bar(A, 13)
    assert [type(event) for event in scene.step()] == [Gap, Bar], "still open: no failure"
    scene.writer.gap(A, 12, 13, cause)
    if not breaks:
        assert [type(event) for event in scene.step()] == [Gap]
        return
    with pytest.raises(SeamBroken) as raised:
        scene.step()
    assert raised.value.cause == cause
    assert raised.value.command is not None


def test_wait_ends_the_stream_only_when_nothing_came() -> None:
    scene = Scene(request_of(A, on_gap=OnGap.WAIT))
    scene.follower = Follower(scene.request, scene.reader.parts(), wait_ns=10)
    scene.writer.bar(A, 13)
    scene.writer.gap(A, 12, 13, "our_loss")
    scene.step()
    scene.follower.tick(9)
    with pytest.raises(SeamBroken, match="after waiting"):
        scene.follower.tick(10)
    scene.writer.bar(A, 12)
    scene.step()
    scene.follower.tick(10)


def test_wait_is_over_when_the_ledger_proves_that_nobody_traded() -> None:
    scene = Scene(request_of(A, on_gap=OnGap.WAIT))
    scene.follower = Follower(scene.request, scene.reader.parts(), wait_ns=10)
    scene.writer.bar(A, 14)
    scene.writer.gap(A, 12, 14, "unknown")
    scene.step()
    scene.writer.gap(A, 12, 14, "no_trades")
    scene.step()
    scene.follower.tick(10)


def test_wait_ends_for_the_part_that_is_not_proved() -> None:
    scene = Scene(request_of(A, on_gap=OnGap.WAIT))
    scene.follower = Follower(scene.request, scene.reader.parts(), wait_ns=10)
    scene.writer.bar(A, 14)
    scene.writer.gap(A, 12, 14, "unknown")
    scene.step()
    scene.writer.gap(A, 12, 13, "no_trades")
    scene.writer.gap(A, 13, 14, "our_loss")
    scene.step()
    with pytest.raises(SeamBroken, match="after waiting") as raised:
        scene.follower.tick(10)
    assert raised.value.cause == "our_loss"


def test_two_contents_under_one_revision_break_the_stream() -> None:
    scene = Scene()
    scene.writer.bar(A, 12)
    scene.step()
    row = scene.writer.state(A).rows[START + 12 * MINUTE]
    wrong = Record("conformed", A, replace(row, fields=content(12, 9)))
    with pytest.raises(SeamBroken) as raised:
        scene.reader.feed(scene.follower, wrong)
    assert raised.value.cause == "two_contents"


def test_a_block_without_a_delivered_bar_breaks_the_stream() -> None:
    scene = Scene()
    for cell in range(12, 16):
        scene.writer.bar(A, cell)
    scene.step()
    del scene.writer.state(A).rows[START + 13 * MINUTE]
    scene.writer.seal(A, 16)
    with pytest.raises(SeamBroken) as raised:
        scene.step()
    assert raised.value.cause == "vanished"


def test_a_block_older_than_what_was_delivered_breaks_the_stream() -> None:
    scene = Scene()
    scene.writer.bar(A, 10, salt=3)
    scene.step()
    row = scene.writer.state(A).rows[START + 10 * MINUTE]
    older = replace(row, revision=0, fields=content(10))
    scene.writer.state(A).rows[START + 10 * MINUTE] = older
    scene.writer.seal(A, 11)
    with pytest.raises(SeamBroken) as raised:
        scene.step()
    assert raised.value.cause == "storage_older"


def test_a_wrong_digest_behind_the_seam_is_refused() -> None:
    scene = Scene()
    scene.writer.bar(A, 3, salt=7)
    scene.writer.seal(A, 8)
    scene.writer.commit()
    offset, record = scene.sink.logs["storage"][-1]
    wrong = replace(record.payload, digest=bytes(32))
    scene.sink.logs["storage"][-1] = (offset, replace(record, payload=wrong))
    with pytest.raises(Exception, match="digest says"):
        scene.step("storage")


def test_the_end_is_reached_by_a_bar_a_gap_or_the_watermark() -> None:
    scene = Scene(request_of(A, last=14))
    scene.writer.bar(A, 12)
    scene.step()
    assert not scene.follower.ended
    scene.writer.bar(A, 13)
    scene.writer.bar(A, 14)
    assert cells(scene.step()) == [13]
    assert scene.follower.ended
    idle = Scene(request_of(A, last=14))
    idle.follower.closed_through([A], START + 13 * MINUTE)
    assert not idle.follower.ended
    idle.follower.closed_through([A], START + 14 * MINUTE)
    assert idle.follower.ended


def test_what_was_forgotten_is_told_by_its_known_time_alone() -> None:
    scene = Scene()
    scene.follower = Follower(scene.request, scene.reader.parts(), remembered_rows=6)
    scene.writer.bar(A, 12)
    scene.step()
    scene.writer.bar(A, 3, salt=7)
    scene.writer.seal(A, 8)
    scene.writer.commit()
    [record] = list(scene.reader.read("storage", scene.seen["storage"], 2**62))
    [event] = scene.follower.block(record.payload, 0)
    assert isinstance(event, Revision)
    assert event.previous is None
    assert event.bar.open == content(3, 7)["open"]
