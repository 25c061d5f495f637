"""Streams that were cut off and go on from a position, on the broker."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from log_writer import MINUTE, START, columns_of
from random_acts import RandomActs
from seam_plane import A, B, Plane
from seamline.connectors.world import World
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import format_time
from seamline.sdk import Bar, CaughtUp, Event, LateBar, Position, Revision, SeamBroken, stitch
from seamline.streams.kernel.seam_events import bars_of
from stream_consumer import Consumer

SYMBOLS = (A, B)


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


def taken(plane: Plane, count: int, resume: Position | None = None, **more: Any) -> Position:
    """The position after so many events."""
    with plane.read(resume=resume, **more) as stream:
        for _ in islice(stream, count):
            pass
        assert stream.position is not None
        return Position.from_json(stream.position.to_json())


def rest(plane: Plane, position: Position, *symbols: str, **more: Any) -> list[Event]:
    return plane.history(*symbols, resume=position, **more)


def cells(events: list[Event]) -> list[int]:
    return [(e.open_time_ns - START) // MINUTE for e in events if isinstance(e, Bar)]


@pytest.mark.parametrize("seed", [1, 2])
def test_readers_cut_off_at_any_event_hold_what_the_writer_wrote(plane: Plane, seed: int) -> None:
    acts, rng = RandomActs(plane.writer, SYMBOLS, seed), random.Random(seed)
    for symbol in SYMBOLS:
        plane.writer.bar(symbol, 0)
        acts.newest[symbol] = 0
    plane.writer.commit()
    consumer, position = Consumer(), None
    for _ in range(8):
        for _ in range(rng.randrange(6)):
            acts.transaction()
        with plane.read(*SYMBOLS, resume=position) as stream:
            caught_up = 0
            for event in islice(stream, rng.randrange(1, 14)):
                consumer.take(event)
                caught_up += isinstance(event, CaughtUp)
                if caught_up:  # something to follow, else a live stream has no next event
                    acts.newest[A] += 1
                    plane.writer.bar(A, acts.newest[A])
                    plane.writer.commit()
                assert stream.position is not None
                position = Position.from_json(stream.position.to_json())
    acts.seal_all()
    with plane.read(*SYMBOLS, resume=position, follow=False) as stream:
        for event in stream:
            consumer.take(event)
    for symbol in SYMBOLS:
        rows = sorted(plane.writer.state(symbol).rows.items())
        for bar in bars_of(symbol, columns_of(row for _, row in rows)):
            assert consumer.bars.pop((symbol, bar.open_time_ns)).content == bar.content
    assert not consumer.bars


def test_what_was_known_while_nobody_read(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 21)
    assert position.caught_up
    writer = plane.writer
    writer.bar(A, 3, salt=1)  # sealed: twice, of which the first is compacted away or not
    writer.seal(A, 16)
    writer.commit()
    writer.bar(A, 3, salt=2)
    writer.seal(A, 16)
    writer.bar(A, 18, salt=1)  # open
    writer.bar(A, 22)
    writer.commit()
    writer.bar(A, 20)
    writer.commit()
    events = rest(plane, position)
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["Revision", "Revision", "Bar", "Gap", "Bar", "CaughtUp"]
    first, second = events[0], events[1]
    assert isinstance(first, Revision) and isinstance(second, Revision)
    assert first.previous is not None and second.previous is not None
    assert (first.bar.revision, first.previous.revision, first.previous.open) == (2, 0, 103.0)
    assert (second.bar.revision, second.previous.open) == (1, 118.0)
    assert cells(events) == [20, 22]
    last = events[-1]
    assert isinstance(last, CaughtUp)
    assert last.certificate.facts["resumed"] == {
        "position": position.sha256,
        "place": None,
        "told_before": 18,
        "bars": 2,
        "late_bars": 0,
        "revisions": 2,
        "completions": 0,
        "gaps": 1,
    }
    assert last.certificate.contiguous


def test_in_the_middle_of_a_history(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 7)
    assert not position.caught_up
    plane.writer.bar(A, 2, salt=3)
    plane.writer.bar(A, 12, salt=3)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    events = rest(plane, position)
    assert isinstance(events[0], Revision)
    assert cells(events) == list(range(7, 20))
    again = taken(plane, 4, resume=position)
    assert len(again.segments) == 1
    assert cells(rest(plane, again)) == list(range(10, 20))


def test_a_completion_of_a_sealed_bar_is_told_though_its_known_time_is_old(plane: Plane) -> None:
    for cell in range(12):
        plane.writer.bar(A, cell, optional=cell != 4)
    plane.writer.seal(A, 8)
    plane.writer.commit()
    position = taken(plane, 13)
    assert rest(plane, position)[:-1] == []
    plane.writer.complete(A, 4)
    plane.writer.seal(A, 8)
    plane.writer.commit()
    [event] = rest(plane, position)[:-1]
    assert isinstance(event, Revision) and event.completed
    assert event.previous is not None
    assert (event.previous.trades, event.bar.trades) == (None, 14)
    with plane.read(resume=position, follow=False) as stream:
        list(stream)
        assert stream.position is not None
        assert rest(plane, stream.position)[:-1] == []


def test_compaction_and_retention_do_not_make_a_position_old(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 15)
    for cell in range(20, 40):
        plane.writer.bar(A, cell)
        plane.writer.commit()
    plane.writer.bar(A, 5, salt=1)
    seal = plane.writer.seal(A, 40, overlap=0)
    plane.writer.commit()
    plane.truncate("conformed", A, seal.conformed_offset)
    events = rest(plane, position)
    assert isinstance(events[0], Revision)
    assert cells(events) == list(range(15, 40))


def test_a_revised_bar_whose_old_versions_are_gone_breaks_the_seam(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 21)
    plane.writer.bar(A, 3, salt=1)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    plane.truncate("superseded", A, -1)
    with pytest.raises(SeamBroken) as raised:
        rest(plane, position)
    assert raised.value.cause == "versions_gone"
    assert raised.value.command is not None
    assert raised.value.command.startswith(f"seamline read {plane.preset.id}")


def test_async_streams_have_positions_too(plane: Plane) -> None:
    plane.fill()

    async def some(count: int, resume: Position | None) -> tuple[list[Event], Position]:
        events = []
        async with plane.read(resume=resume) as stream:
            async for event in stream:
                events.append(event)
                if len(events) == count:
                    break
            assert stream.position is not None
            return events, stream.position

    first, position = asyncio.run(some(9, None))
    second, _ = asyncio.run(some(12, position))
    assert cells(first + second) == list(range(20))


def test_wrong_positions_are_refused_by_name(plane: Plane, tmp_path: Path) -> None:
    plane.fill(20, 16, A, B)
    position = taken(plane, 5)
    for wrong, name in (
        (replace(position, preset_id="ohlcv.other"), "preset"),
        (replace(position, start_ns=START + MINUTE), "start_ns"),
        (replace(position, end_ns=START + 60 * MINUTE), "end_ns"),
        (replace(position, cluster="elsewhere"), "cluster"),
    ):
        with pytest.raises(UsageError) as raised:
            rest(plane, wrong)
        assert raised.value.parameter == f"position.{name}"
    with pytest.raises(UsageError, match=r"position\.symbols"):
        rest(plane, position, A, B)
    ahead = replace(position.segments[0], known_ns=dict.fromkeys(range(4), 2**62))
    with pytest.raises(ContractError) as behind:
        rest(plane, replace(position, segments=(ahead,)))
    assert behind.value.fields["cause"] == "log_behind_position"
    with pytest.raises(UsageError, match="resume"):
        stitch(
            plane.preset.id,
            [A],
            format_time(START),
            resume="a text",  # type: ignore[arg-type]
            world=plane.world,
            presets={plane.preset.id: plane.preset},
        )
    with plane.read(resume=position) as stream, pytest.raises(UsageError, match="columns"):
        stream.history_columns()


def test_a_relative_start_is_that_of_the_position(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 5)
    with stitch(
        plane.preset.id,
        [A],
        "-3000d",
        follow=False,
        on_gap="flag",
        resume=position,
        world=plane.world,
        presets={plane.preset.id: plane.preset},
    ) as stream:
        assert cells(list(stream)) == list(range(5, 20))


def test_the_command_saves_and_goes_on(
    plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seamline.presets import loader
    from seamline.sdk.cli.main import app

    monkeypatch.setattr(loader, "load", lambda path, env: {plane.preset.id: plane.preset})
    for name, value in plane.world.environment().items():
        monkeypatch.setenv(name, value)
    plane.fill()
    saved = tmp_path / "position.json"
    start = format_time(START)
    command = ["read", plane.preset.id, "--symbols", A, "--start", start, "--on-gap", "flag"]
    command += ["--position", str(saved), "-o"]

    def said(output: str = "json") -> list[str]:
        answer = CliRunner().invoke(app, [*command, output])
        assert answer.exit_code == 0, answer.output
        return answer.stdout.splitlines()

    assert [json.loads(line)["event"] for line in said()] == ["bar"] * 20 + ["caught_up"]
    plane.writer.bar(A, 20)
    plane.writer.commit()
    assert [json.loads(line)["event"] for line in said()] == ["bar", "caught_up"]
    assert said("csv") == []
    assert [path.name for path in tmp_path.iterdir()] == ["position.json"]
    saved.write_text("{}")
    answer = CliRunner().invoke(app, [*command, "json"])
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "position" in answer.stderr


def test_late_bars_of_a_backfill_below_what_was_read(plane: Plane) -> None:
    plane.fill()
    position = taken(plane, 22, first=-8)
    for cell in range(-8, 0):
        plane.writer.bar(A, cell)
    plane.writer.seal(A, 16)
    plane.writer.commit()
    events = rest(plane, position, first=-8)
    assert [type(event) for event in events[:-1]] == [LateBar] * 8
