"""Laws of the machine that hold without a model, whatever lands in a partition.

Cutting the input elsewhere changes no byte of a bar that is written but its known time, which names
the step that decided. The order in which records are read does not change what stands in the
end, where each authority states one value for each bar. Reading a suffix of the input again changes
nothing but counts. A restart anywhere changes nothing at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from machine_scripts import ROLES, Event, Setup, Tick, Writer, land, said, setup_of, standing, tick
from machine_world import SYMBOLS, Row, World, minute_of, preset
from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.columns import PARTIAL, ConformedColumns
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_MS
from seamline.schemas.topics import topic_name
from seamline.streams.kernel import machine
from seamline.streams.kernel.protocol import STEP_ROWS_MAX, Role
from seamline.streams.kernel.simulation.model import Bar, Beat

law = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],  # a script is short, and shrinking it takes minutes
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32)
lengths = st.integers(1, 24)
# How many records the fetches have, over and over.
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)
rows_max = st.sampled_from((1, 5, 30, STEP_ROWS_MAX))


class Faithful(Writer):
    """Each authority states one value for each bar, however often it is asked."""

    def bar(self, symbol: str, cell: int, source: int) -> Bar:
        return Writer(random.Random(f"{symbol} {cell} {source}"), self.setup).bar(
            symbol, cell, source
        )


@contextmanager
def worlds(setup: Setup, count: int) -> Iterator[list[World]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            directory = Path(stack.enter_context(TemporaryDirectory()))
            world = World(directory, setup.presets, mode=setup.mode)
            stack.callback(close, world)
            made.append(world)
        yield made


def close(world: World) -> None:
    world.machine.close()  # the one it has by then


def never() -> bool:
    return False


def feed(
    world: World,
    events: Sequence[Event],
    fetches: Sequence[int],
    rows: int = STEP_ROWS_MAX,
    restart: Callable[[], bool] = never,
) -> None:
    """Land and read the events in their order, in fetches of these lengths and steps of at most so
    many rows; ask after each step whether the machine is lost."""
    at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "STEP_ROWS_MAX", rows)
        for size in cycle(fetches):
            if at >= len(events):
                return
            event = events[at]
            if isinstance(event, Tick):
                world.clock_ns += event.jump_ns
                tick(world)
                at += 1
                continue
            role, end = event[0], min(at + size, len(events))
            while at < end and (event := events[at]) and not isinstance(event, Tick):
                if event[0] != role:
                    break
                land(world, role, event[1])
                at += 1
            read(world, role, restart)


def read(world: World, role: Role, restart: Callable[[], bool] = never) -> None:
    """All that has landed; each step is offered everything and takes what it may."""
    while (start := world.machine._next[role]) < len(world.landed[role]):
        world.clock_ns += NS_PER_MS
        step = world.machine.step(role, world.landed[role][start:], 0, world.clock_ns, world.policy)
        world.log.commit(world.machine, step)
        if restart():
            world.crash()
            read(world, "live")  # heartbeats whose step had nothing to commit come again


def written(world: World, of: Preset) -> dict[str, Any]:
    """Everything in the log of a preset but known times, sequences and offsets; and but blocks
    without bars: they are evidence that a source was asked, kept where a seal was due."""
    records = world.log.topics.get(topic_name(of.id, "conformed"), [])
    decoder = ConformedDecoder()
    decoded = decoder.decode([record.value or b"" for record in records])
    facts = ("frontier_ns", "rows", "live")
    return {
        "keys": [record.key for record in records],
        "log": bytes_of(decoded.columns),
        "blocks": {
            at: (block.range_start_ns, block.complete_through_ns, bytes_of(block.columns))
            for at, block in world.blocks(of).items()
            if len(block.columns)
        },
        "seals": {
            # A bar above the frontier may come after the seal, which then knows of no bar yet.
            s: [min(seal["history_start_ns"], seal["frontier_ns"]), *(seal[name] for name in facts)]
            for s, seal in world.seals(of).items()
        },
        "gaps": world.gaps(of),
        "superseded": said(world, of)["superseded"],
    }


def bytes_of(columns: ConformedColumns) -> dict[str, bytes]:
    return {
        name: getattr(columns, name).tobytes()
        for name in ConformedColumns.DTYPES
        if name != "known_time_ns"
    }


def position(world: World) -> dict[str, Any]:
    (entry,) = world.log.latest(topic_name(world.presets[0].id, "positions"))
    return decode_record("position", entry[1])


def contents(world: World, of: Preset) -> dict[tuple[str, int], tuple[Any, ...]]:
    """(symbol, minute) -> content, authority, and of a derived bar whether inputs are missing."""
    return {at: (*row[:-2], bool(row[-1] & PARTIAL)) for at, row in standing(world, of).items()}


def without_ticks(events: Sequence[Event]) -> list[tuple[Role, Any]]:
    return [event for event in events if not isinstance(event, Tick)]


def closing(setup: Setup, events: Sequence[tuple[Role, Any]]) -> list[Event]:
    """A bar of each symbol far above all others, and a heartbeat after them: all else is sealed."""
    cells = [getattr(event, "cell", None) or getattr(event, "through", None) for _, event in events]
    far = max((cell for cell in cells if cell is not None), default=setup.base) + 9 * setup.span
    price = (100.0, 101.0, 99.0, 100.0)
    bars: list[Event] = [
        ("live", Bar(symbol, far, price, 1.0, (None, None, None, None), 0)) for symbol in SYMBOLS
    ]
    return [*bars, ("live", Beat(far + setup.span))]


@law
@example(seed=1036, length=17, fetches=[1], rows=STEP_ROWS_MAX)  # a block and bars refused together
@given(seeds, lengths, sizes, rows_max)
def test_cutting_the_input_elsewhere_changes_no_byte(
    seed: int, length: int, fetches: list[int], rows: int
) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    events = Writer(rng, setup).script(length)
    with worlds(setup, 3) as (whole, singly, cut):
        feed(whole, events, [2**31])
        feed(singly, events, [1])
        feed(cut, events, fetches, rows)
        for of in setup.presets:
            expected = written(whole, of)
            assert written(singly, of) == expected
            assert written(cut, of) == expected
        refused = topic_name(setup.presets[0].id, "quarantine")
        values = [record.value for record in whole.log.topics.get(refused, [])]
        assert [record.value for record in cut.log.topics.get(refused, [])] == values


@law
@given(seeds, lengths, st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_change_what_stands(
    seed: int, length: int, order: random.Random
) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    events = without_ticks(Faithful(rng, setup).script(length))
    live = [event for event in events if event[0] == "live"]
    backfill = [event for event in events if event[0] == "backfill"]
    shuffled = list(events)
    order.shuffle(shuffled)
    last = closing(setup, events)
    with worlds(setup, 4) as made:
        orders = (events, [*live, *backfill], [*backfill, *live], shuffled)
        for world, records in zip(made, orders, strict=True):
            feed(world, [*records, *last], [40])
        for of in setup.presets:
            expected = contents(made[0], of)
            digests = {at: b.digest for at, b in made[0].blocks(of).items() if len(b.columns)}
            for world in made[1:]:
                assert contents(world, of) == expected
                found = {at: b.digest for at, b in world.blocks(of).items() if len(b.columns)}
                assert found == digests
                assert world.gaps(of) == made[0].gaps(of)
                world.check_seals(of)


@law
@given(seeds, lengths, st.floats(0, 1), sizes)
def test_reading_a_suffix_again_changes_nothing_that_stands(
    seed: int, length: int, part: float, fetches: list[int]
) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    events = Writer(rng, setup).script(length)
    records = without_ticks(events)
    with worlds(setup, 1) as (world,):
        feed(world, events, [40])
        before = {of.id: contents(world, of) for of in setup.presets}
        feed(world, records[int(part * len(records)) :], fetches)
        for of in setup.presets:
            found = contents(world, of)
            if of is setup.presets[0]:
                assert found == before[of.id]
            # A claim that is read again may close windows that were open; those that were there
            # are the same.
            assert {at: found[at] for at in before[of.id]} == before[of.id]
            world.check_seals(of)


@law
@given(seeds, lengths, st.floats(0, 1), sizes)
def test_reading_settled_statements_again_writes_nothing(
    seed: int, length: int, part: float, fetches: list[int]
) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    records = without_ticks(Faithful(rng, setup).script(length))
    events = [*records, *closing(setup, records)]
    with worlds(setup, 1) as (world,):
        feed(world, events, [40])
        before = [written(world, of) for of in setup.presets]
        feed(world, events[int(part * len(events)) :], fetches)
        for of, expected in zip(setup.presets, before, strict=True):
            found = written(world, of)
            for what in ("keys", "log", "superseded", "gaps"):
                assert found[what] == expected[what], what
            rows = {at: block[2] for at, block in found["blocks"].items()}
            assert rows == {at: block[2] for at, block in expected["blocks"].items()}


@law
@given(seeds, lengths, sizes, rows_max, st.sets(st.integers(0, 60), max_size=6))
def test_a_restart_anywhere_changes_nothing(
    seed: int, length: int, fetches: list[int], rows: int, lost: set[int]
) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    events = Writer(rng, setup).script(length)
    steps = iter(range(2**31))
    with worlds(setup, 2) as (whole, cut):
        feed(whole, events, fetches, rows)
        feed(cut, events, fetches, rows, lambda: next(steps) in lost)
        cut.crash()
        read(cut, "live")
        for of in setup.presets:
            assert said(cut, of) == said(whole, of)
            cut.check_seals(of)
            sequences = [
                decode_record("seal", record.value or b"")["sequence"]
                for record in cut.log.topics.get(topic_name(of.id, "seals"), [])
                if record.key == SYMBOLS[0].encode()
            ]
            assert sequences == list(range(1, len(sequences) + 1))
        assert position(cut)["rows_total"] == position(whole)["rows_total"]
        # What is behind a position is heartbeats and previews, which are read again.
        for role in ROLES:
            at = position(cut)[f"{role}_offset"]
            read(cut, role)
            assert at <= cut.machine._next[role] == len(whole.landed[role])


@law
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_known_time_grows_although_the_clock_stands_or_goes_back(jumps: list[int]) -> None:
    setup = Setup((preset(),), "canary", 0)
    with worlds(setup, 1) as (world,):
        for minute, jump in enumerate(jumps):
            world.clock_ns += jump * NS_PER_MS
            world.land_bars("live", [Row(SYMBOLS[0], minute, 100.0)])
            (record,) = world.landed["live"][minute:]
            step = world.machine.step("live", [record], 0, world.clock_ns, world.policy)
            world.log.commit(world.machine, step)
        topic = topic_name(setup.presets[0].id, "conformed")
        decoded = ConformedDecoder().decode([r.value or b"" for r in world.log.topics[topic]])
        known = decoded.columns.known_time_ns.tolist()
        assert known == sorted(set(known)) and len(known) == len(jumps)
        assert position(world)["known_time_ns"] == known[-1]
        assert minute_of(int(decoded.columns.open_time_ns[-1])) == len(jumps) - 1
