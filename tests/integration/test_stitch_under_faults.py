"""What a reader does when log and broker are taken away under its feet: right, or an error that
names what is missing and what repairs it."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from itertools import islice

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from e2e.workers import await_that
from log_writer import MINUTE, START
from seam_plane import A, Plane, until_caught_up
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError
from seamline.sdk import Bar, Event, LateBar, Revision, SeamBroken
from seamline.sdk.cli.main import app

SOAK = bool(os.environ.get("SEAMLINE_SOAK"))


@pytest.fixture
def plane(world: World) -> Iterator[Plane]:
    made = Plane(world)
    yield made
    made.sink.close()


def cells(events: list[Event]) -> list[int]:
    return [(e.open_time_ns - START) // MINUTE for e in events if isinstance(e, Bar)]


def test_a_reader_slower_than_retention_is_told_and_goes_on_from_its_position(
    plane: Plane,
) -> None:
    plane.fill()
    with plane.read() as stream:
        past = until_caught_up(stream)
        for cell in range(20, 40):
            plane.writer.bar(A, cell)
        plane.writer.watermark(A, 40)
        plane.writer.commit()
        plane.writer.bar(A, 4, salt=1)
        seal = plane.writer.seal(A, 40, overlap=0)
        plane.writer.commit()
        plane.truncate("conformed", A, seal.conformed_offset)
        with pytest.raises(SeamBroken) as raised:
            for event in stream:  # what storage tells of it may come first
                past.append(event)
        position = stream.position
    broken = raised.value
    assert broken.cause == "retention_passed_reader"
    assert all((gap.symbol, gap.cause) == (A, "retention") for gap in broken.missing)
    assert broken.missing or max(cells(past)) == 39
    assert broken.command is not None
    assert broken.command.startswith(f"seamline read {plane.preset.id} --symbols {A}")
    rest = plane.history(resume=position)
    assert sum(isinstance(event, Revision) for event in past + rest) == 1
    assert cells(past + rest) == list(range(40))


def test_a_late_block_and_a_revision_while_the_history_is_handed_out(plane: Plane) -> None:
    plane.fill()
    with plane.read(first=-8, last=24) as stream:
        events = list(islice(stream, 6))
        for cell in range(-8, -4):
            plane.writer.bar(A, cell)
        plane.writer.bar(A, 2, salt=1)
        plane.writer.bar(A, 12, salt=1)
        plane.writer.seal(A, 16)
        plane.writer.bar(A, 19, salt=1)  # provisional when it is handed out
        plane.writer.bar(A, 20)
        plane.writer.watermark(A, 24)
        plane.writer.commit()
        events += list(stream)
    assert cells(events) == list(range(21))
    assert sum(isinstance(event, LateBar) for event in events) == 4
    revised = [e.bar.open_time_ns for e in events if isinstance(e, Revision)]
    assert sorted(revised) == [START + cell * MINUTE for cell in (2, 12, 19)]


def test_the_command_of_a_broken_seam_is_one_that_the_command_line_takes(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seamline.presets import loader

    monkeypatch.setattr(loader, "load", lambda path, env: {plane.preset.id: plane.preset})
    for name, value in plane.world.environment().items():
        monkeypatch.setenv(name, value)
    plane.fill()
    with pytest.raises(SeamBroken) as raised:
        plane.history(first=-3, on_gap="fail")
    assert raised.value.command is not None
    program, *arguments = shlex.split(raised.value.command)
    assert (program, arguments[:2]) == ("seamline", ["backfill", "run"])
    group = get_command(app).commands["backfill"]  # type: ignore[attr-defined]
    run = group.commands["run"].make_context("run", arguments[2:])
    assert (run.params["preset"], run.params["symbols"]) == (plane.preset.id, A)
    read = plane.read().request.read_again()
    answer = CliRunner().invoke(app, [*shlex.split(read)[1:], "--on-gap", "flag", "-o", "json"])
    assert (answer.exit_code, len(answer.stdout.splitlines())) == (0, 21)


@pytest.mark.skipif(not SOAK, reason="a stack of its own that is stopped: SEAMLINE_SOAK=1")
@pytest.mark.integration
def test_a_broker_that_stands_still_is_an_error_in_a_stated_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seamline.connectors.embedded.stack import running

    monkeypatch.setattr("seamline.sdk.seam_horizon.PROBE_S", 1.0)
    monkeypatch.setattr("seamline.sdk.seam_horizon.UNREACHABLE_S", 5.0)
    with running() as ready:
        plane = Plane(World(Cluster(ready.bootstrap), ready.registry_url))
        plane.fill()
        with plane.read() as stream:
            past = until_caught_up(stream)
            plane.writer.bar(A, 20)
            plane.writer.commit()
            past.append(next(stream))
            os.kill(ready.kafka_pid, signal.SIGSTOP)
            try:
                with pytest.raises(TransportError):
                    next(stream)
                position = stream.position
            finally:
                os.kill(ready.kafka_pid, signal.SIGCONT)
        plane.sink.close()
        rest: list[Event] = []

        def went_on() -> bool:
            try:
                rest.extend(plane.history(resume=position))
            except TransportError:
                return False  # the cluster takes a moment to trust its broker again
            return True

        await_that(went_on, 120, "the broker that was woken serves")
        assert cells(past + rest) == list(range(21))
