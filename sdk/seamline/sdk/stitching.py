"""`stitch`: history and live of some symbols as one stream that is proved to have no seam.

Decides: what the arguments may be, and how one engine serves both kinds of iteration. Invariants:
`with`/`for` and `async with`/`async for` give the same events in the same order; a stream is read
once; closing ends the engine within a moment wherever it is, and leaves no thread and no consumer
behind; the asynchronous stream holds at most QUEUE_STEPS steps between engine and loop.
Must not know: how a seam is proved (`streams.kernel.seam`), how Kafka is read (`seam_engine`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from seamline.connectors.metrics import ValidationFailures
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.errors import UsageError
from seamline.schemas.modes import default_mode
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_time, parse_duration, parse_time
from seamline.sdk.read_contract import ReadContract, text_in
from seamline.sdk.seam_engine import SeamEngine, Step
from seamline.sdk.seam_source import SeamSource
from seamline.streams.kernel.seam import OnGap, Request
from seamline.streams.kernel.seam_cells import Grid
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import Event
from seamline.streams.kernel.seam_position import Position
from seamline.streams.kernel.seam_resume import check_position
from seamline.streams.kernel.seam_told import Told

QUEUE_STEPS: Final = 8
SYMBOLS_MAX: Final = 10_000
CLOSE_S: Final = 30.0
GAP_TIMEOUT: Final = "60s"

_Item = Step | BaseException | None


def stitch(
    preset: str,
    symbols: Sequence[str],
    start: str | datetime,
    *,
    end: str | datetime | None = None,
    follow: bool = True,
    on_gap: str = "fail",
    gap_timeout: str = GAP_TIMEOUT,
    resume: Position | None = None,
    world: World | None = None,
    presets: Mapping[str, Preset] | None = None,
    failures: ValidationFailures | None = None,
) -> SeamStream:
    """A stream of events: the bars of `symbols` from `start`, `CaughtUp(certificate)`, then live.

    `start` and `end` are aware datetimes, ISO texts with a zone, or `-2d`; `end` is exclusive, and
    a stream with an end is finite. `follow=False` ends at `CaughtUp`. `on_gap`: `fail` raises
    SeamBroken for expected bars that are missing for any cause but `no_trades`; `wait` waits up to
    `gap_timeout` for their repair; `flag` gives a `Gap` event in their place.

    `resume` is the `position` of an earlier stream of the same preset, symbols, start and end (a
    relative start or end is the position's): the history is what that one had not handed out, with
    `LateBar` and `Revision` for what became known while nobody read. Of several revisions made
    meanwhile the last is told.

    What is read is checked in the mode of its subject (`seamline schema mode`): canary counts what
    breaks a rule in `failures` (a registry of its own if not given) and passes it on, strict raises
    SchemaValidationError.

    Raises UsageError for a wrong argument or an unknown preset at once, TransportError when there
    is no world. Iteration raises UsageError for an unknown symbol or the position of another
    cluster, SeamBroken when history and live do not join, ContractError when storage is not what
    its seals say, SchemaValidationError, TransportError when Kafka fails.
    """
    found = presets if presets is not None else loader.load(None, os.environ)
    chosen = loader.get(found, preset)
    now_ns = time.time_ns()
    request = request_of(chosen, symbols, start, end, on_gap=on_gap, now_ns=now_ns)
    if resume is not None:
        request = _resumed(request, start, end, resume)
    wait_ns = parse_duration(gap_timeout, parameter="gap_timeout")
    mode = default_mode(os.environ)
    resolved = world if world is not None else World.resolve(os.environ)
    contract = ReadContract(resolved.cluster, mode, text_in(resolved), failures)
    return SeamStream(
        *(resolved, chosen, request, contract), follow=follow, wait_ns=wait_ns, resume=resume
    )


def _resumed(request: Request, start: object, end: object, position: Position) -> Request:
    """The request of the position. A relative time moves on, the position's stands."""
    if not isinstance(position, Position):
        raise UsageError(
            "not a position",
            parameter="resume",
            value=position,
            fix="Give `stream.position` or `Position.from_json(text)`",
        )
    if _is_relative(start):
        request = replace(request, start_ns=position.start_ns)
    if _is_relative(end):
        request = replace(request, end_ns=position.end_ns)
    check_position(position, request)
    return request


def _is_relative(time: object) -> bool:
    return isinstance(time, str) and (time.strip().startswith("-") or time.strip() == "now")


def request_of(
    preset: Preset,
    symbols: Sequence[str],
    start: object,
    end: object,
    *,
    on_gap: str,
    now_ns: int,
) -> Request:
    """The checked arguments. Raises UsageError naming the argument."""
    if preset.kind != "ohlcv":
        raise UsageError(
            f"a preset of kind {preset.kind} has no bars",
            parameter="preset",
            value=preset.id,
            fix="Take a preset of kind ohlcv",
        )
    if preset.calendar != "24/7":
        raise UsageError(
            f"bars of the calendar {preset.calendar} cannot be stitched yet: without its sessions "
            "nothing tells a missing bar from a holiday",
            parameter="preset",
            value=preset.id,
            fix="Take a preset with calendar 24/7",
        )
    if isinstance(symbols, str) or not symbols or not all(map(_is_symbol, symbols)):
        raise UsageError(
            "not a list of symbols", parameter="symbols", value=symbols, fix='Give ["BTC/USDT"]'
        )
    if len(symbols) > SYMBOLS_MAX:
        raise UsageError(
            f"more than {SYMBOLS_MAX} symbols", parameter="symbols", value=len(symbols)
        )
    if on_gap not in tuple(OnGap):
        raise UsageError(
            "no such policy", parameter="on_gap", value=on_gap, fix=f"One of {', '.join(OnGap)}"
        )
    grid = Grid(preset.interval_ns, preset.grid_origin_ns)
    start_ns = parse_time(start, now_ns=now_ns, parameter="start")
    end_ns = None if end is None else parse_time(end, now_ns=now_ns, parameter="end")
    if end_ns is not None and end_ns <= start_ns:
        raise UsageError(
            f"not before end = {format_time(end_ns)}",
            parameter="start",
            value=format_time(start_ns),
            fix="Give a start before the end",
        )
    return Request(
        preset_id=preset.id,
        symbols=tuple(sorted(set(symbols))),
        start_ns=grid.up(start_ns),
        end_ns=None if end_ns is None else grid.up(end_ns),
        on_gap=OnGap(on_gap),
        grid=grid,
        block_ns=preset.block_ns,
        stabilization_bars=preset.stabilization_bars,
    )


def _is_symbol(symbol: object) -> bool:
    return isinstance(symbol, str) and symbol != ""


class SeamStream:
    """Made by `stitch`. Iterate once, with `for` or with `async for`; close it, or use `with`."""

    def __init__(
        self,
        world: World,
        preset: Preset,
        request: Request,
        contract: ReadContract,
        *,
        follow: bool,
        wait_ns: int,
        resume: Position | None = None,
    ) -> None:
        self.request = request
        self._contract = contract
        self._resume = resume
        self._told = Told(request, resume)
        self._last: Event | None = None
        self._world = world
        self._preset = preset
        self._follow = follow
        self._wait_ns = wait_ns
        self._stop = threading.Event()
        self._built: SeamEngine | None = None
        self._bars = True
        self._events: Generator[Event] | None = None
        self._step_events: Iterator[Event] = iter(())
        self._pump: _Pump | None = None

    @property
    def certificate(self) -> Certificate | None:
        """The evidence, once the history has been proved."""
        return None if self._built is None else self._built.certificate

    @property
    def failures(self) -> ValidationFailures:
        """Records that broke a rule of their subject, by subject and mode."""
        return self._contract.failures

    @property
    def position(self) -> Position | None:
        """What was handed out up to and with the newest event; save it with what was made of it.

        None before the first event, and before `CaughtUp` of a stream whose history was taken as
        columns; of a stream that resumed the position it resumed from. Raises ContractError when
        it would not be bounded (see `Position`).
        """
        return self._told.position(self._last)

    def history_columns(self) -> dict[str, ConformedColumns]:
        """The proved history of each symbol as columns, instead of as bars.

        Iteration then gives the history's gaps, `CaughtUp` and live. Before the first event only,
        and not of a stream that resumed.
        """
        if self._resume is not None:
            raise UsageError(
                "columns are the whole history, a resumed stream hands out what is left of it",
                parameter="history_columns",
                fix="Iterate, or stitch without `resume`",
            )
        if self._events is not None or self._pump is not None:
            raise UsageError(
                "the stream has begun", parameter="history_columns", fix="Ask before iterating"
            )
        self._bars = False
        return self._engine().columns()

    def close(self) -> None:
        """End the stream; safe to call twice, and from another thread."""
        self._stop.set()
        events = self._events
        if events is not None:
            with suppress(ValueError):  # another thread is inside: it leaves by the flag
                events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        if self._pump is not None:
            raise _mixed()
        if self._events is None:
            self._events = self._iterate()
        return self._events

    def __next__(self) -> Event:
        return next(iter(self))

    async def aclose(self) -> None:
        """End the stream and wait until its thread has gone."""
        self._stop.set()
        if self._pump is not None:
            await self._pump.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        if self._events is not None:
            raise _mixed()
        return self

    async def __anext__(self) -> Event:
        if self._pump is None:
            if self._events is not None:
                raise _mixed()
            self._pump = _Pump(self._steps(), self._stop)
        while True:
            event = next(self._step_events, None)
            if event is not None:
                return event
            self._step_events = self._hand_out(await self._pump.next())

    def _iterate(self) -> Generator[Event]:
        with closing(self._steps()) as steps:
            for step in steps:
                yield from self._hand_out(step)

    def _hand_out(self, step: Step) -> Iterator[Event]:
        """The events of a step; the position counts each when it is handed out."""
        if step.begin is not None:
            self._told.begin(step.begin)
        if step.caught_up:
            self._told.caught_up()
        for event in step.events:
            if step.live:
                self._told.handed(event)
            elif self._bars:
                self._last = event
            yield event
        if step.known_ns:
            self._told.advance(step.known_ns)

    def _steps(self) -> Generator[Step]:
        if not self._stop.is_set():
            yield from self._engine().steps(bars=self._bars)

    def _engine(self) -> SeamEngine:
        if self._built is None:
            source = SeamSource(
                self._world.cluster, self._preset, self.request.symbols, self._contract
            )
            self._built = SeamEngine(
                source,
                self.request,
                follow=self._follow,
                wait_ns=self._wait_ns,
                clock=time.time_ns,
                stop=self._stop,
                resume=self._resume,
            )
        return self._built


class _Pump:
    """Runs the engine in a thread and hands its steps to an event loop, some steps ahead."""

    def __init__(self, steps: Generator[Step], stop: threading.Event) -> None:
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()  # bounded by `_room`
        self._room = threading.Semaphore(QUEUE_STEPS)
        self._ended = False
        self._thread = threading.Thread(
            target=self._run, args=(steps,), name="seamline-stitch", daemon=True
        )
        self._thread.start()

    async def next(self) -> Step:
        if self._ended:
            raise StopAsyncIteration
        item = await self._queue.get()
        self._room.release()
        if isinstance(item, Step):
            await asyncio.sleep(0)  # a long history must not keep the loop from other work
            return item
        self._ended = True
        if item is None:
            raise StopAsyncIteration
        raise item

    async def join(self) -> None:
        """Wait for the thread; the flag is set, so it leaves at its next step."""
        self._ended = True
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _run(self, steps: Generator[Step]) -> None:
        last: _Item = None
        try:
            with closing(steps):
                for step in steps:
                    if not self._put(step):
                        return
        except BaseException as error:  # it is raised where the events are taken
            last = error
        self._put(last)

    def _put(self, item: _Item) -> bool:
        while not self._room.acquire(timeout=0.1):
            if self._stop.is_set():
                return False
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop is gone, and with it whoever took events
            return False
        return True


def _mixed() -> UsageError:
    return UsageError(
        "the stream is read already, once is all",
        parameter="stream",
        fix="Call stitch again, or use one kind of iteration",
    )
