"""Random scripts for the machine of one partition, how they are played, and what the log said.

A script is a list of landed records and ticks of the clock, in one order. `play` feeds it and keeps
the model of the simulation beside it; `said` is what must depend on the script alone. For tests of
the machine: against the model, and for the laws that hold without one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from machine_world import IDS, MINUTE_NS, START_NS, SYMBOLS, World, minute_of, preset
from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import PARTIAL, SUSPECT, BarColumns, Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.outages import OUTAGES_MAX, encode_outages
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import topic_name
from seamline.streams.kernel.coverage import missing_runs
from seamline.streams.kernel.protocol import Role
from seamline.streams.kernel.simulation.model import Bar, Beat, History, Model, Series

HOUR_NS = 3_600 * NS_PER_S
ID_SHIFT = START_NS // MINUTE_NS + 1_000  # no trade id is negative
# Minutes from START_NS where scripts begin; the second lies before 1970.
BASES = (0, 0, 0, -(START_NS // MINUTE_NS) - 40)
# Windows inside a block, and of several whole ones (of 12 minutes, or 24).
RATIOS = (
    *((), (3,), (3, 6), (2, 3, 4, 6, 12), (12, 1)),
    *((24,), (72,), (6, 48), (3, 24, 72), (12, 48, 96)),
)
ROLES: tuple[Role, Role] = ("live", "backfill")


@dataclass(frozen=True)
class Tick:
    jump_ns: int


Event = tuple[Role, Bar | History | Beat] | Tick


@dataclass(frozen=True)
class Setup:
    presets: tuple[Preset, ...]
    mode: str
    base: int

    @property
    def span(self) -> int:
        return self.presets[0].block_rows


def columns(bars: tuple[Bar, ...]) -> BarColumns:
    def ids(place: int) -> np.ndarray[Any, Any]:
        found = [-1 if bar.extra[place] is None else bar.extra[place] for bar in bars]
        return np.array(found, np.int64)

    def price(place: int) -> np.ndarray[Any, Any]:
        return np.array([bar.prices[place] for bar in bars], np.float64)

    quotes = [math.nan if bar.extra[0] is None else bar.extra[0] for bar in bars]
    times = [START_NS + bar.cell * MINUTE_NS + bar.shift_ns for bar in bars]
    return BarColumns(
        open_time_ns=np.array(times, np.int64),
        open=price(0),
        high=price(1),
        low=price(2),
        close=price(3),
        volume=np.array([bar.volume for bar in bars], np.float64),
        quote_volume=np.array(quotes, np.float64),
        trades=ids(1),
        first_trade_id=ids(2),
        last_trade_id=ids(3),
        source=np.array([bar.source for bar in bars], np.uint8),
        closed=np.array([bar.closed for bar in bars], bool),
        received_time_ns=np.full(len(bars), START_NS),
    )


def land(world: World, role: Role, event: Bar | History | Beat) -> None:
    if isinstance(event, Bar):
        (value,) = encode_bars([event.symbol], columns((event,)), IDS["bar"])
        world.land(role, event.symbol.encode(), value)
    elif isinstance(event, Beat):
        watermark = str(START_NS + event.cell * MINUTE_NS).encode()
        stated = encode_outages((time_of(a), time_of(b)) for a, b in event.outages)
        headers = (
            ("seamline-venue", b"test"),
            ("seamline-watermark-ns", watermark),
            ("seamline-outages", stated),
        )
        world.land(role, None, None, headers)
    else:
        of = world.presets[0]
        rows = ConformedColumns.of_landing(columns(event.bars))
        start_ns = START_NS + event.block * MINUTE_NS
        through = event.through
        block = Block(
            symbol=event.symbol,
            block_start_ns=start_ns,
            block_end_ns=start_ns + of.block_ns,
            interval_ns=of.interval_ns,
            range_start_ns=START_NS + event.start * MINUTE_NS,
            complete_through_ns=None if through is None else START_NS + through * MINUTE_NS,
            columns=rows,
            digest=block_digest(event.symbol, rows),
            landing=True,
        )
        world.land(role, event.symbol.encode(), encode_block(block, IDS["bar_block"]))


def time_of(minute: Any) -> Any:
    return None if minute is None else START_NS + minute * MINUTE_NS


# --- scripts


@dataclass
class Writer:
    """Makes one random script. Each authority mostly states one value per bar."""

    rng: random.Random
    setup: Setup
    events: list[Event] = field(default_factory=list)
    # Outages that the venue has stated so far, sorted and disjoint; the last one may go on.
    outages: list[tuple[int, int | None]] = field(default_factory=list)

    def beat(self, newest: int) -> Beat:
        rng = self.rng
        if self.outages and self.outages[-1][1] is None:
            start = self.outages[-1][0]
            if newest > start and rng.random() < 0.5:
                self.outages[-1] = (start, rng.randint(start + 1, newest))
        elif rng.random() < 0.2:
            start = newest - rng.randrange(self.setup.span)
            if not self.outages or start > (self.outages[-1][1] or 0):
                ends = (None, *range(start + 1, newest + 1))
                self.outages = [*self.outages, (start, rng.choice(ends))][-OUTAGES_MAX:]
        return Beat(newest - rng.randrange(-8, 9), tuple(self.outages))

    def bar(self, symbol: str, cell: int, source: int) -> Bar:
        rng = self.rng
        of = random.Random(f"{symbol} {cell} {source if rng.random() < 0.3 else 0}")
        price = of.choice((100.0, 101.0, 102.5))
        if rng.random() < 0.02:
            price += rng.random()
        number = cell + ID_SHIFT  # in every second minute three trades, in the others none
        known = number % 2 == 1 and of.random() < 0.8
        first, last = (number // 2 * 3, number // 2 * 3 + 2) if known else (None, None)
        if last is not None and rng.random() < 0.03:
            last += 1
        snapped = self.setup.presets[0].off_grid == "snap" and rng.random() < 0.1
        return Bar(
            symbol,
            cell,
            (price, price + 1, price - of.random(), price + 0.5),
            -1.0 if rng.random() < 0.02 else of.choice((0.1, 0.2, 0.7, 1e16, 3.0)),
            (
                of.random() if rng.random() < 0.5 else None,
                None if known or rng.random() < 0.5 else of.randrange(5, 9),
                first,
                last,
            ),
            source,
            closed=rng.random() > 0.02,
            shift_ns=of.randrange(1, MINUTE_NS) // 10**6 * 10**6 if snapped else 0,
        )

    def history(self, symbol: str, near: int) -> History:
        rng, span = self.rng, self.setup.span
        block = near // span * span
        start, through = block, block + span
        if rng.random() < 0.4:
            start, through = sorted((rng.randrange(start, through), rng.randint(start, through)))
        density = rng.choice((0.0, 0.5, 0.9, 1.0))
        source = rng.choice((0, 0, 2))
        bars = tuple(
            replace(self.bar(symbol, cell, source), closed=True)
            for cell in range(start, through)
            if rng.random() < density
        )
        return History(symbol, block, start, None if rng.random() < 0.15 else through, bars)

    def script(self, length: int) -> list[Event]:
        rng, base, span = self.rng, self.setup.base, self.setup.span
        now = dict.fromkeys(SYMBOLS, base + 3 * span)
        idle = set(rng.sample(SYMBOLS, rng.randrange(3)))
        for _ in range(length):
            for symbol in SYMBOLS:
                now[symbol] += rng.choice((1, 1, 1, 1, 1, 2, 4))
                if symbol in idle and rng.random() < 0.9:
                    continue
                role = ROLES[rng.random() < 0.1]
                cell = now[symbol]
                if rng.random() < 0.15:
                    cell = rng.randrange(cell - 3 * span, cell)
                self.events.append((role, self.bar(symbol, cell, rng.choice((0, 1, 1, 1, 2, 3)))))
            if rng.random() < 0.25:
                self.events.append(("live", self.beat(max(now.values()))))
            if rng.random() < 0.1:
                symbol = rng.choice(SYMBOLS)
                near = rng.randrange(base, now[symbol] + span)
                role = rng.choice(ROLES)
                for block in range(near, near + span * rng.choice((1, 1, 3)), span):
                    self.events.append((role, self.history(symbol, block)))
            if rng.random() < 0.06:
                self.events.append(Tick(rng.choice((30 * NS_PER_S, 11 * HOUR_NS, 50 * HOUR_NS))))
        return self.events


def setup_of(rng: random.Random) -> Setup:
    span = rng.choice((12, 12, 24))
    parent = preset(
        block_rows=span,
        stabilization_bars=rng.choice((0, 1, 2, 5)),
        off_grid=rng.choice(("reject", "reject", "snap")),
    )
    children = [
        preset(f"ohlcv.test.spot.x{ratio}m", ratio, parent.id, block_rows=rng.choice((1, 4, 12)))
        for ratio in rng.choice(RATIOS)
    ]
    mode = "strict" if rng.random() < 0.2 else "canary"
    return Setup((parent, *children), mode, rng.choice(BASES))


# --- playing a script


def play(setup: Setup, events: list[Event], directory: Path, cuts: random.Random | None) -> World:
    """Undisturbed without `cuts`; else in fetches of random length with crashes."""
    world = World(directory, setup.presets, mode=setup.mode)
    of = setup.presets[0]
    origin = START_NS // MINUTE_NS
    model = Model(of.block_rows, of.stabilization_bars, setup.mode, origin)
    at = 0
    while at < len(events):
        event = events[at]
        if isinstance(event, Tick):
            world.clock_ns += event.jump_ns
            tick(world)
            model.tick({s: minute_of(seal["frontier_ns"]) for s, seal in world.seals().items()})
            at += 1
            continue
        role, last = event[0], at
        limit = at + (40 if cuts is None else cuts.randrange(1, 40))
        while last < min(limit, len(events)):
            other = events[last]
            if isinstance(other, Tick) or other[0] != role:
                break
            land(world, role, other[1])
            model.see(role, other[1])
            last += 1
        if cuts is not None and cuts.random() < 0.1:
            decide_and_lose(world, role)
        world.run(role)
        if cuts is not None and cuts.random() < 0.2:
            world.crash()
            world.run("live")  # heartbeats whose step had nothing to commit come again
        at = last
    check(world, model)
    return world


def tick(world: World) -> None:
    step = world.machine.tick(world.clock_ns)
    if step is not None:
        world.log.commit(world.machine, step)


def decide_and_lose(world: World, role: Role) -> None:
    """A step whose transaction never commits."""
    at = world.machine.position[role]
    records = world.landed[role][at:]
    if records:
        world.machine.step(role, records, 0, world.clock_ns, world.policy)
    world.crash()
    world.run("live")


def full(columns: ConformedColumns, row: int) -> tuple[Any, ...]:
    ids = (columns.trades[row], columns.first_trade_id[row], columns.last_trade_id[row])
    quote = float(columns.quote_volume[row])
    return (
        *(float(getattr(columns, name)[row]) for name in ("open", "high", "low", "close")),
        float(columns.volume[row]),
        None if math.isnan(quote) else quote,
        *(None if number < 0 else int(number) for number in ids),
        int(columns.source[row]),
        int(columns.revision[row]),
        int(columns.flags[row]),
    )


def log_rows(world: World, of: Preset, role: str) -> list[tuple[Any, ...]]:
    """(symbol, minute, offset, content..., source, revision, flags)."""
    records = world.log.topics.get(topic_name(of.id, role), [])
    decoder = ConformedDecoder()
    decoded = decoder.decode([record.value or b"" for record in records])
    return [
        (
            decoder.symbols[decoded.sid[i]],
            minute_of(int(decoded.columns.open_time_ns[i])),
            record.offset,
            *full(decoded.columns, i),
        )
        for i, record in enumerate(records)
    ]


def standing(world: World, of: Preset) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What a reader of storage below the frontier and of the log from the seal's offset has."""
    found = {}
    seals = world.seals(of)
    for (symbol, _), block in world.blocks(of).items():
        for i, time_ns in enumerate(block.columns.open_time_ns.tolist()):
            found[symbol, minute_of(time_ns)] = full(block.columns, i)
    for symbol, minute, offset, *rest in log_rows(world, of, "conformed"):
        seal = seals[symbol]
        if minute >= minute_of(seal["frontier_ns"]):
            assert offset >= seal["conformed_offset"]
            found[symbol, minute] = tuple(rest)
    return found


def ids_beside(before: tuple[Any, ...], after: tuple[Any, ...] | None, *, derived: bool) -> str:
    """What the trade ids beside missing bars say, by two rows of `full`."""
    if after is None:
        return "silent"
    ids = []
    for row, place, shift in ((before, 8, 14), (after, 7, 12)):
        authority = row[9] if derived else row[11] >> shift & 3
        if row[place] is None or authority > 1 or row[11] & SUSPECT:
            return "silent"
        ids.append(row[place])
    if ids[1] == ids[0] + 1:
        return "join"
    partial = (before[11] | after[11]) & PARTIAL
    return "silent" if partial or ids[1] <= ids[0] else "jump"


def causes_of(
    ids: str, model: Model, series: Series, gap: tuple[int, int], ratio: int
) -> tuple[str, ...]:
    """The causes that missing minutes may have, by the words of the decisions. Two, where sources
    were asked for all of it but in parts that do not touch: a block keeps the longer one."""

    def cell(minute: int) -> int:
        return minute - (START_NS // MINUTE_NS + minute) % ratio

    answered = set(range(*gap)) <= series.claimed
    if ids == "join":
        return ("no_trades",)
    if ids == "jump":
        return ("venue_outage", "our_loss") if answered else ("our_loss",)
    watermark = model.watermark
    down: set[int] = set()
    for start, end in model.outages:
        until = watermark if end is None else end
        if until is not None:
            down.update(range(cell(start), cell(until)))
    if set(range(*gap)) <= down:
        return ("venue_outage",)
    if watermark is None or gap[1] <= cell(watermark - 5):
        return ("unknown",)
    return ("unknown", "late") if answered else ("late",)


def check(world: World, model: Model) -> None:
    parent = world.presets[0]
    for of in world.presets:
        world.check_seals(of)
        ratio = of.interval_ns // parent.interval_ns
        found = standing(world, of)
        if of is parent:
            assert {at: row[:-1] for at, row in found.items()} == model.final()
        else:
            shown = {at: (*row[:-2], bool(row[-1] & PARTIAL)) for at, row in found.items()}
            assert shown == model.derived(ratio)
        seals = world.seals(of)
        causes = world.causes(of)
        expected: set[tuple[str, int, int]] = set()
        for symbol, seal in seals.items():
            frontier = minute_of(seal["frontier_ns"])
            cells = sorted(cell for name, cell in found if name == symbol)
            if cells and cells[0] < frontier:
                assert minute_of(seal["history_start_ns"]) == cells[0]
                numbers = np.array([(cell - cells[0]) // ratio for cell in cells])
                for a, b in missing_runs(numbers, 0, (frontier - cells[0]) // ratio, 1):
                    start, end = cells[0] + a * ratio, cells[0] + b * ratio
                    sides = found[symbol, start - ratio], found.get((symbol, end))
                    expected.add((symbol, start, end))
                    ids = ids_beside(*sides, derived=of is not parent)
                    allowed = causes_of(ids, model, model.series[symbol], (start, end), ratio)
                    assert causes.get((symbol, start, end)) in allowed
            if of is parent:
                assert frontier == model.series[symbol].frontier
                asked = range(
                    minute_of(seal["asked_start_ns"]), minute_of(seal["history_start_ns"])
                )
                assert set(asked) <= model.series[symbol].claimed
        assert set(causes) == expected


def said(world: World, of: Preset) -> dict[str, Any]:
    """What must not depend on cuts and crashes. The order of two symbols in one step may, and
    blocks without bars, because a claim on a block that is still open is not in the log."""
    return {
        "log": sorted(
            ((row[0], row[1], *row[3:]) for row in log_rows(world, of, "conformed")),
            key=lambda row: row[0],
        ),
        "superseded": sorted(
            (row[0], row[1], *map(repr, row[3:])) for row in log_rows(world, of, "superseded")
        ),
        "seals": {s: (seal["frontier_ns"], seal["rows"]) for s, seal in world.seals(of).items()},
        "blocks": {
            at: [full(block.columns, i) for i in range(len(block.columns))]
            for at, block in world.blocks(of).items()
            if len(block.columns)
        },
        "gaps": world.causes(of),
    }
