"""The stitched stream on the real broker: a writer of the protocol, the product's reader."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from log_writer import MINUTE, START, content
from seam_plane import A, B, C, Plane, rewrite, until_caught_up
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, UsageError
from seamline.sdk import (
    Bar,
    CaughtUp,
    Event,
    Gap,
    LateBar,
    Revision,
    SeamBroken,
    stitch,
)


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


def cells(events: list[Event]) -> list[tuple[str, int]]:
    return [(e.symbol, (e.open_time_ns - START) // MINUTE) for e in events if isinstance(e, Bar)]


def take(stream: Iterator[Event], count: int) -> list[Event]:
    return [next(stream) for _ in range(count)]


def until_late(stream: Iterator[Event], bars: int) -> list[Event]:
    """Everything up to so many late bars."""
    events: list[Event] = []
    while sum(isinstance(event, LateBar) for event in events) < bars:
        events.append(next(stream))
    return events


def test_history_then_certificate_then_live(plane: Plane) -> None:
    plane.fill(20, 16, A, B, C)
    with plane.read(A, B, C) as stream:
        events = until_caught_up(iter(stream))
        assert cells(events) == [(s, c) for c in range(20) for s in (A, B, C)]
        last = events[-1]
        assert isinstance(last, CaughtUp)
        certificate = last.certificate
        assert (certificate.bars_history, certificate.bars_log) == (48, 12)
        assert (certificate.gaps, certificate.duplicates, certificate.missing_bars) == (0, 0, 0)
        assert certificate.contiguous
        # The transaction of cells 12-15 holds the two bars behind the frontier: 4 rows a symbol.
        assert [e["overlap"]["equal"] for e in certificate.symbols] == [4, 4, 4]
        plane.writer.bar(A, 20)
        plane.writer.bar(B, 20)
        plane.writer.commit()
        live = take(iter(stream), 2)
        assert sorted(cells(live)) == [(A, 20), (B, 20)]
        assert all(isinstance(e, Bar) and e.provisional for e in live)


def test_values_survive_the_way(plane: Plane) -> None:
    plane.fill(10, 8)
    for event in plane.history():
        if isinstance(event, Bar):
            cell = (event.open_time_ns - START) // MINUTE
            expected = {k: v for k, v in content(cell).items() if k != "last_trade_id"}
            assert {name: getattr(event, name) for name in expected} == expected
            assert (event.last_trade_id, event.source, event.revision) == (None, "ws_closed", 0)


def test_live_revisions_completions_holes_late_bars_and_the_ledger(plane: Plane) -> None:
    plane.fill()
    writer = plane.writer
    with plane.read() as stream:
        events = iter(stream)
        until_caught_up(events)
        writer.bar(A, 20, optional=False)
        writer.commit()
        writer.confirm(A, 20)
        writer.complete(A, 20)
        writer.bar(A, 20, salt=2)
        writer.bar(A, 23)
        writer.bar(A, 21)
        writer.commit()
        writer.gap(A, 22, 23, "venue_outage")
        writer.commit()
        got = take(events, 7)
        assert [type(e) for e in got] == [Bar, Revision, Revision, Gap, Bar, LateBar, Gap]
        assert isinstance(got[1], Revision) and got[1].completed
        assert isinstance(got[2], Revision) and got[2].bar.revision == 1
        assert isinstance(got[3], Gap) and (got[3].bars, got[3].provisional) == (2, True)
        assert isinstance(got[6], Gap) and (got[6].bars, got[6].cause) == (1, "venue_outage")


def test_a_backfill_behind_a_reader_and_a_revised_block(plane: Plane) -> None:
    plane.fill()
    writer = plane.writer
    with plane.read(first=-8) as stream:
        events = iter(stream)
        first = until_caught_up(events)
        assert isinstance(first[0], Gap)
        assert (first[0].cause, first[0].bars) == ("not_backfilled", 8)
        for cell in range(-8, 0):
            writer.bar(A, cell)
        writer.bar(A, 3, salt=5)
        writer.seal(A, 24)  # the log's bars become a block too: silent
        writer.commit()
        got = take(events, 9)
        assert [type(e) for e in got] == [LateBar] * 8 + [Revision]
        writer.bar(A, 24)
        writer.commit()
        assert [type(e) for e in take(events, 2)] == [Gap, Bar]


def test_a_reader_before_during_and_after_a_backfill_ends_with_the_same_bars(plane: Plane) -> None:
    plane.fill()
    writer = plane.writer

    def collected(events: list[Event]) -> dict[int, tuple[object, ...]]:
        bars: dict[int, tuple[object, ...]] = {}
        for event in events:
            bar = event if isinstance(event, Bar) else getattr(event, "bar", None)
            if bar is not None:
                bars[bar.open_time_ns] = bar.content
        return bars

    with plane.read(first=-8) as before:
        early = until_caught_up(iter(before))
        for cell in range(-8, -4):
            writer.bar(A, cell)
        writer.gap(A, -4, 0)
        writer.seal(A, 16)
        writer.commit()
        with plane.read(first=-8) as during:
            middle = until_caught_up(iter(during))
            for cell in range(-4, 0):
                writer.bar(A, cell)
            writer.gap(A, -4, None)
            writer.seal(A, 16)
            writer.commit()
            middle += until_late(iter(during), 4)
        early += until_late(iter(before), 8)
    after = plane.history(first=-8)
    assert collected(early) == collected(middle) == collected(after)
    assert len(collected(after)) == 28


def test_an_end_makes_the_stream_finite(plane: Plane) -> None:
    plane.fill()
    with plane.read(last=10) as stream:
        past = list(stream)
    assert cells(past) == [(A, c) for c in range(10)]
    assert isinstance(past[-1], CaughtUp)
    with plane.read(last=22) as stream:
        events = iter(stream)
        until_caught_up(events)
        plane.writer.bar(A, 20)
        plane.writer.commit()
        assert cells(take(events, 1)) == [(A, 20)]
        plane.writer.bar(A, 21)
        plane.writer.bar(A, 22)
        plane.writer.commit()
        assert cells(list(events)) == [(A, 21)]
    with plane.read(last=24) as stream:
        events = iter(stream)
        until_caught_up(events)
        plane.writer.bar(A, 23)
        plane.writer.watermark(A, 24)
        plane.writer.commit()
        assert cells(list(events)) == [(A, 23)]


def test_a_watermark_ends_a_stream_of_silent_symbols(plane: Plane) -> None:
    plane.fill()
    with plane.read(last=30) as stream:
        events = iter(stream)
        until_caught_up(events)
        plane.writer.bar(A, 20)
        plane.writer.watermark(A, 30)
        plane.writer.commit()
        assert cells(list(events)) == [(A, 20)]


def gapped(plane: Plane, cause: str = "venue_outage") -> None:
    for cell in (*range(5), *range(7, 20)):
        plane.writer.bar(A, cell)
    plane.writer.gap(A, 5, 7, cause)
    plane.writer.seal(A, 16)
    plane.writer.commit()


def test_a_gap_fails_or_is_flagged_in_its_place(plane: Plane) -> None:
    gapped(plane)
    with pytest.raises(SeamBroken) as raised:
        plane.history(on_gap="fail")
    assert raised.value.cause == "venue_outage"
    assert raised.value.fields["missing"][0]["bars"] == 2
    assert f"backfill run {plane.preset.id} --symbols {A}" in str(raised.value)
    events = plane.history()
    assert isinstance(events[5], Gap)
    assert (events[5].cause, events[5].bars, events[5].provisional) == ("venue_outage", 2, False)
    assert isinstance(events[-1], CaughtUp)
    assert events[-1].certificate.missing_bars == 2
    assert events[-1].certificate.gaps == 0
    assert len(plane.history(first=8, on_gap="fail")) == 13


def test_a_gap_because_nobody_traded_is_told_and_does_not_fail(plane: Plane) -> None:
    gapped(plane, "no_trades")
    events = plane.history(on_gap="fail")
    assert isinstance(events[5], Gap)
    assert events[5].cause == "no_trades"


def test_waiting_for_a_repair(plane: Plane) -> None:
    gapped(plane)
    with pytest.raises(SeamBroken, match=r"after waiting 0\.3 s"):
        plane.history(on_gap="wait", gap_timeout="300ms")

    def repair() -> None:
        plane.writer.bar(A, 5)
        plane.writer.bar(A, 6)
        plane.writer.gap(A, 5, None)
        plane.writer.seal(A, 16)
        plane.writer.commit()

    timer = threading.Timer(0.5, repair)
    timer.start()
    events = plane.history(on_gap="wait", gap_timeout="60s")
    timer.join()
    assert cells(events) == [(A, c) for c in range(20)]


def test_a_hole_that_no_ledger_names_breaks_the_seam(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.sdk.seam_engine.SETTLE_S", 0.2)
    for cell in (0, 1, 2, 5, 6, 7, 8):
        plane.writer.bar(A, cell)
    plane.writer.seal(A, 8)
    plane.writer.commit()
    with pytest.raises(SeamBroken) as raised:
        plane.history()
    assert raised.value.cause == "not_in_ledger"


def test_blocks_without_their_seal_do_not_settle(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.sdk.seam_engine.SETTLE_S", 0.2)
    plane.fill()
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 16)
    plane.writer.pending = [r for r in plane.writer.pending if r.role != "seals"]
    plane.writer.commit()
    with pytest.raises(SeamBroken) as raised:
        plane.history()
    assert raised.value.cause == "unsettled"


def test_a_join_point_that_retention_took(plane: Plane) -> None:
    plane.fill()
    seal = plane.writer.seal(A, 16)
    plane.writer.commit()
    plane.truncate("conformed", A, seal.conformed_offset + 1)
    assert cells(plane.history()) == [(A, c) for c in range(20)], "nothing above the seam was lost"
    plane.truncate("conformed", A, seal.conformed_offset + 7)
    with pytest.raises(SeamBroken) as raised:
        plane.history()
    assert raised.value.cause == "join_point_gone"
    assert raised.value.command is not None
    assert cells(plane.history(last=16)) == [(A, c) for c in range(16)]


def test_a_tampered_root_and_a_wrong_digest_are_refused(plane: Plane) -> None:
    plane.fill()
    rewrite(plane, "seals", 1, merkle_root=bytes(32))
    with pytest.raises(ContractError) as raised:
        plane.history()
    assert raised.value.fields["cause"] == "root_differs"
    rewrite(plane, "storage", 2, digest=bytes(32))
    with pytest.raises(ContractError) as raised:
        plane.history()
    assert raised.value.fields["cause"] == "digest_differs"


def test_unknown_symbols_and_presets_name_what_is_near(plane: Plane) -> None:
    plane.fill(20, 16, A, B)
    with pytest.raises(UsageError) as raised:
        plane.history("BTC/USD")
    assert raised.value.parameter == "symbols"
    assert A in str(raised.value)
    with pytest.raises(UsageError, match="no such preset"):
        stitch("ohlcv.nothing", [A], "-1d", world=plane.world, presets={})
    other = replace(plane.preset, id=plane.preset.id + "x")
    with pytest.raises(UsageError, match="topics apply"):
        list(stitch(other.id, [A], "-1d", world=plane.world, presets={other.id: other}))


def test_a_symbol_that_was_never_sealed(plane: Plane) -> None:
    for cell in range(4, 7):
        plane.writer.bar(A, cell)
    plane.writer.commit()
    assert cells(plane.history(first=4, on_gap="fail")) == [(A, c) for c in (4, 5, 6)]
    with pytest.raises(SeamBroken) as raised:
        plane.history(first=0, on_gap="fail")
    assert raised.value.cause == "not_backfilled"


def test_async_gives_the_same_events(plane: Plane) -> None:
    plane.fill(20, 16, A, B)
    plane.writer.gap(A, 12, 13, "our_loss")
    plane.writer.commit()
    expected = plane.history(A, B)

    async def collect() -> list[Event]:
        async with plane.read(A, B, follow=False) as stream:
            return [event async for event in stream]

    got = asyncio.run(collect())
    assert got[:-1] == expected[:-1]
    ours, theirs = got[-1], expected[-1]
    assert isinstance(ours, CaughtUp) and isinstance(theirs, CaughtUp)
    assert ours.certificate.facts["digest"] == theirs.certificate.facts["digest"]


def test_async_live_errors_and_cancellation(plane: Plane) -> None:
    plane.fill()

    async def live() -> list[Event]:
        got = []
        async with plane.read() as stream:
            async for event in stream:
                got.append(event)
                if isinstance(event, CaughtUp):
                    plane.writer.bar(A, 20)
                    await asyncio.to_thread(plane.writer.commit)
                if isinstance(event, Bar) and event.open_time_ns == START + 20 * MINUTE:
                    break
        return got

    assert cells(asyncio.run(live())) == [(A, c) for c in range(21)]

    async def fails() -> None:
        async with plane.read("NO/SUCH", follow=False) as stream:
            async for _ in stream:
                pass

    with pytest.raises(UsageError, match="symbols"):
        asyncio.run(fails())

    async def cancelled() -> None:
        async with plane.read() as stream:
            async for _ in stream:
                pass

    async def cancel() -> None:
        task = asyncio.create_task(cancelled())
        done, _ = await asyncio.wait([task], timeout=2)
        assert not done, "it follows until somebody stops it"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert [t for t in threading.enumerate() if t.name == "seamline-stitch"] == []


def test_a_stream_is_read_once_and_closes_twice(plane: Plane) -> None:
    plane.fill()
    stream = plane.read(follow=False)
    assert len(list(stream)) == 21
    assert list(stream) == []
    stream.close()
    stream.close()
    closed = plane.read()
    closed.close()
    assert list(closed) == []


def test_history_as_columns(plane: Plane) -> None:
    plane.fill(20, 16, A, B)
    with plane.read(A, B, follow=False) as stream:
        columns = stream.history_columns()
        assert {symbol: len(rows) for symbol, rows in columns.items()} == {A: 20, B: 20}
        assert [type(event) for event in stream] == [CaughtUp]
