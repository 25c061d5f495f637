"""A simulated day of a venue that misbehaves: live connector, worker and reader against its truth.

Decides: how a venue, its preset, `seamline live` and a stitched reader are set up side by side, and
when a day is through. Each minute of each symbol must be a bar that equals the venue's settled
value, or a gap whose cause fits what happened; the reader that followed throughout must have been
given the same. Invariants: the venue's clock stands still until its connector is ready, so no day
depends on how fast a process starts. Must not know: pytest, which faults there are.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from e2e.workers import WorkerProcess, await_that, tail
from faults.bars import OWNS, worker_process
from faults.case import Ground, Outcome
from faults.comparison import Contents, Key, compare_bars, contents, shown
from held_clock import HeldClock
from preset_making import FreshPreset, make_presets
from seamline.connectors.venues.market import MINUTE_MS
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.venues.simulator import UNTIL_GRACE_NS, SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.schemas.columns import CONTENT_FIELDS
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_MS, format_time
from seamline.sdk import CaughtUp, Gap, LateBar, Revision, SeamStream, stitch

START_NS = 1_767_225_600_000_000_000  # 2026-01-01
MINUTE_NS = MINUTE_MS * NS_PER_MS
SESSION_S = 6.0
START_S = 400.0
SETTLE_S = 120.0
STOP_S = 30.0
POLL_S = 0.5
# What a reader and a ledger may say of a minute that the venue has no bar for, and why it has none.
CAUSES: Mapping[str, frozenset[str]] = {
    "no_trades": frozenset({"no_trades"}),
    "halt": frozenset({"no_trades", "venue_outage"}),
    "lost_history": frozenset({"venue_outage", "our_loss"}),
}
# And where nothing proves anything.
UNPROVED = frozenset({"unknown", "venue_outage"})
# Open to trades: REST tells no trade ids, so a bar that came by it has none.
COMPARED = 7


@dataclass(frozen=True, slots=True)
class Shape:
    """How long a day is, simulated, and how fast."""

    minutes: int
    symbols: tuple[str, ...]
    speed: float
    block_rows: int
    settled_batch: int


@dataclass(frozen=True, slots=True)
class Weather:
    """One venue: its faults, written as `venue-sim --faults` takes them."""

    name: str
    faults: str
    live: tuple[str, ...] = ()
    session_minutes: int = 1_440


class Venues:
    """Simulators in a loop of their own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: list[VenueSimulator] = []
        self._thread.start()

    def add(self, config: SimulatorConfig, clock: HeldClock) -> VenueSimulator:
        venue = VenueSimulator(config, clock=clock)
        self._do(venue.start())
        self._open.append(venue)
        return venue

    def release(self, clocks: Sequence[HeldClock]) -> None:
        for clock in clocks:
            self._loop.call_soon_threadsafe(clock.go)

    def close(self) -> None:
        """Raises what broke a feed, if something did."""
        try:
            for venue in self._open:
                self._do(venue.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_S)
            self._loop.close()

    def _do(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(STOP_S)


class Reader(threading.Thread):
    """Follows the preset from its first sealed or logged bar on, and keeps what it was given."""

    def __init__(self, fresh: FreshPreset, symbols: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._fresh, self._symbols = fresh, symbols
        self._stream: SeamStream | None = None
        self._ending = threading.Event()
        self.bars: dict[Key, tuple[Any, ...]] = {}
        self.gaps: dict[Key, str] = {}
        self.twice: list[Key] = []
        self.caught_up = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                self._follow()
            except UsageError as error:
                # A symbol of which nothing was sealed or logged yet is not known to a reader.
                if self.caught_up or self.bars:
                    self.failure = error
                    return
                self._ending.wait(POLL_S)
            except BaseException as error:
                self.failure = error
                return

    def end(self) -> None:
        self._ending.set()
        if self._stream is not None:
            self._stream.close()
        self.join(STOP_S)

    def _follow(self) -> None:
        with stitch(
            self._fresh.preset.id,
            self._symbols,
            format_time(START_NS),
            on_gap="flag",
            world=self._fresh.world,
            presets=self._fresh.presets,
        ) as stream:
            self._stream = stream
            for event in stream:
                self._take(event)

    def _take(self, event: Any) -> None:
        if isinstance(event, CaughtUp):
            self.caught_up = True
        elif isinstance(event, Gap):
            for time_ns in range(event.start_ns, event.end_ns, MINUTE_NS):
                self.gaps[event.symbol, time_ns] = event.cause
        else:
            bar = event.bar if isinstance(event, Revision | LateBar) else event
            key = bar.symbol, bar.open_time_ns
            if key in self.bars and not isinstance(event, Revision):
                self.twice.append(key)
            self.bars[key] = bar.content[:COMPARED]
            self.gaps.pop(key, None)


@dataclass(slots=True)
class Truth:
    """What the venue says in the end: values of each bar, and why a minute has none."""

    bars: dict[Key, tuple[Any, ...]] = field(default_factory=dict)
    missing: dict[Key, str] = field(default_factory=dict)

    @classmethod
    def of(cls, venue: VenueSimulator, shape: Shape) -> Truth:
        found = cls()
        from_ms = START_NS // NS_PER_MS
        for symbol in shape.symbols:
            for minute in venue.settled(symbol, from_ms, from_ms + shape.minutes * MINUTE_MS):
                key = symbol, minute.open_ms * NS_PER_MS
                k = minute.kline
                if k is None:
                    found.missing[key] = str(minute.missing)
                else:
                    texts = (k.open, k.high, k.low, k.close, k.volume, k.quote_volume)
                    found.bars[key] = (*map(float, texts), k.trades)
        return found


@dataclass(slots=True)
class Day:
    """One venue with what listens to it."""

    weather: Weather
    fresh: FreshPreset
    venue: VenueSimulator
    clock: HeldClock
    live: WorkerProcess
    reader: Reader
    truth: Truth

    def differs(self) -> Outcome:
        """What stands against the truth now."""
        held = contents(self.fresh)
        # The minute that closed as the day began comes too, and is no minute of it.
        bars = {key: row.values[:COMPARED] for key, row in held.bars.items() if key[1] >= START_NS}
        found = compare_bars(self.truth.bars, bars)
        read = compare_bars(self.truth.bars, self.reader.bars)
        wrong = [
            *found.sentences(),
            *held.broken,
            *(f"reader, {sentence}" for sentence in read.sentences()),
            *_causes("ledger", self.truth, _ledger(held), self._sealed(held), _unproved(held)),
            *_causes(
                "reader", self.truth, self.reader.gaps, set(self.truth.missing), _unproved(held)
            ),
        ]
        if self.reader.failure is not None:
            wrong.append(f"reader: {self.reader.failure!r}")
        struck = Counter[str]()
        for fault in self.venue.status()["faults"]:
            struck[fault["fault"].partition(":")[0]] += fault["hits"]
        return Outcome(
            seed=self.venue.plan.seed,
            timeline=f"seed {self.venue.plan.seed}: {self.weather.faults}",
            struck=+struck,
            bars=found.bars,
            lost=len(set(found.lost) | set(read.lost)),
            duplicated=len(set(held.twice) | set(self.reader.twice)),
            changed=len(set(found.changed) | set(read.changed)),
            invented=len(set(found.invented) | set(read.invented)),
            wrong=tuple(wrong),
        )

    def _sealed(self, held: Contents) -> set[Key]:
        """The missing minutes of which the ledger must speak by now."""
        return {key for key in self.truth.missing if key[1] < held.frontier(key[0])}


def run_days(
    ground: Ground, seed: int, weathers: Sequence[Weather], shape: Shape
) -> dict[str, Outcome]:
    """All venues side by side, each with its own preset, connector and reader; one worker."""
    began = time.monotonic()
    settings = {"block_rows": shape.block_rows}
    made = make_presets(ground.world, ground.directory, [settings] * len(weathers))
    with ExitStack() as stack:
        venues = Venues()
        stack.callback(venues.close)
        worker = worker_process("worker", ground.directory, made, SESSION_S)
        stack.callback(worker.end)
        worker.start()
        days = [
            stack.enter_context(_day(ground, seed, weather, fresh, shape, venues))
            for weather, fresh in zip(weathers, made, strict=True)
        ]
        processes = [worker, *(day.live for day in days)]
        logs = {process.name: process.log for process in processes}

        def ready() -> bool:
            _check_alive(processes)
            owned = worker.said(OWNS) >= len(made)
            return owned and all(day.live.said("Ctrl-C ends it") for day in days)

        await_that(ready, START_S, "owners and connectors", logs)
        venues.release([day.clock for day in days])
        for day in days:
            day.reader.start()
        outcomes = _through(days, shape, processes)
        for day in days:
            day.reader.end()
    seconds = (time.monotonic() - began) / len(days)
    return {name: _timed(outcome, seconds) for name, outcome in outcomes.items()}


def _check_alive(processes: Sequence[WorkerProcess]) -> None:
    for process in processes:
        assert process.status is None, f"{process.name} ended by itself:\n{tail(process.log)}"


def _through(
    days: Sequence[Day], shape: Shape, processes: Sequence[WorkerProcess]
) -> dict[str, Outcome]:
    """Each day's outcome once nothing differs, or as it stands when that takes too long."""
    outcomes: dict[str, Outcome] = {}
    end_ns = START_NS + shape.minutes * MINUTE_NS
    deadline: float | None = None
    while len(outcomes) < len(days):
        time.sleep(POLL_S)  # between two looks at everything that was written
        _check_alive(processes)
        if deadline is None:
            if all(day.clock.now_ns() >= end_ns for day in days):
                deadline = time.monotonic() + SETTLE_S
            continue
        for day in days:
            if day.weather.name in outcomes:
                continue
            outcome = day.differs()
            if outcome.ok or time.monotonic() > deadline:
                outcomes[day.weather.name] = outcome
    return outcomes


@contextmanager
def _day(
    ground: Ground, seed: int, weather: Weather, fresh: FreshPreset, shape: Shape, venues: Venues
) -> Iterator[Day]:
    until_ns = START_NS + shape.minutes * MINUTE_NS
    clock = HeldClock(START_NS, shape.speed, until_ns + UNTIL_GRACE_NS)
    config = SimulatorConfig(
        start_ns=START_NS,
        symbols=shape.symbols,
        speed=shape.speed,
        until_ns=until_ns,
        market=MarketSettings(seed=seed),
        faults=parse_faults(weather.faults, start_ns=START_NS),
        session_ns=weather.session_minutes * MINUTE_NS,
    )
    venue = venues.add(config, clock)
    live = _live(ground, weather, fresh, shape, venue)
    reader = Reader(fresh, shape.symbols)
    live.start()
    try:
        yield Day(weather, fresh, venue, clock, live, reader, Truth.of(venue, shape))
    finally:
        live.end()
        if reader.is_alive():
            reader.end()


def _live(
    ground: Ground, weather: Weather, fresh: FreshPreset, shape: Shape, venue: VenueSimulator
) -> WorkerProcess:
    command = [sys.executable, "-m", "seamline.sdk.cli", "live", fresh.preset.id]
    command += ["--symbols", ",".join(shape.symbols), "--rest-url", venue.rest_url]
    command += ["--ws-url", venue.ws_url, *weather.live]
    home: Path = ground.directory / weather.name
    environment = fresh.environment() | {"COLUMNS": "200"}
    return WorkerProcess(weather.name, home, ground.world, command, {**os.environ, **environment})


def _ledger(held: Contents) -> dict[Key, str]:
    return {
        (symbol, time_ns): cause
        for (symbol, start_ns), (end_ns, cause) in held.gaps.items()
        for time_ns in range(start_ns, end_ns, MINUTE_NS)
    }


def _unproved(held: Contents) -> set[Key]:
    """Missing minutes between bars of which one tells no trade id, as REST's do not: nobody can
    prove why they are missing, unless the venue said that it was down."""
    first, last = CONTENT_FIELDS.index("first_trade_id"), CONTENT_FIELDS.index("last_trade_id")
    found: set[Key] = set()
    bars = sorted((key, row.values) for key, row in held.bars.items())
    for ((symbol, before), old), ((other, after), new) in pairwise(bars):
        if symbol == other and (old[last] is None or new[first] is None):
            found.update((symbol, time_ns) for time_ns in range(before, after, MINUTE_NS))
    return found


def _causes(
    who: str, truth: Truth, said: Mapping[Key, str], must: set[Key], unproved: set[Key]
) -> list[str]:
    """Minutes of which `who` says nothing although it must, or another cause than fits."""
    silent = [key for key in must if key not in said]
    wrong: dict[str, list[Key]] = {}
    for key, cause in said.items():
        if key in truth.bars:
            wrong.setdefault(f"a gap ({cause}) where there is a bar", []).append(key)
        elif key in truth.missing:
            fits = CAUSES[truth.missing[key]]
            if cause not in fits and not (key in unproved and cause in UNPROVED):
                wrong.setdefault(f"{truth.missing[key]} called {cause}", []).append(key)
    found = [f"{who}: no word of {len(silent)} missing: {shown(silent)}"] if silent else []
    return found + [f"{who}: {text}: {len(keys)}: {shown(keys)}" for text, keys in wrong.items()]


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return Outcome(
        **{name: getattr(outcome, name) for name in Outcome.__slots__ if name != "seconds"},
        seconds=seconds,
    )
