"""A record that was in quarantine and goes back changes what stands as if it had never been there.

Random series of flat bars and blocks on both landing topics, some of them refused at first (their
header contradicts their schema); what comes after a refused one may say otherwise. What the plan
sends back, behind sealed history, leaves the same content and authority as the run in which all of
it was right from the start.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from machine_scripts import Setup, land, setup_of, standing
from machine_world import CLOCK_NS, SYMBOLS, World, resolve
from seamline.schemas.columns import PARTIAL
from seamline.schemas.modes import Policy
from seamline.schemas.preset import Preset
from seamline.schemas.topics import HEADER_FINGERPRINT, topic_name
from seamline.streams.kernel.protocol import Role
from seamline.streams.kernel.redrive import Kept, Plan, candidate, hindrance, plan, read
from seamline.streams.kernel.redrive_rules import judge_of
from seamline.streams.kernel.simulation.model import Bar, Beat, History

BROKEN = ((HEADER_FINGERPRINT, b"0" * 16),)
NAMED = (("seamline-producer", b"feed-7"),)
# Flat bars of each topic and blocks have authorities of their own: between two topics, and between
# a block and a flat bar beside it, nobody says which of one authority came first.
FLAT: dict[Role, tuple[int, ...]] = {"live": (1, 3), "backfill": (0,)}
OF_BLOCKS = 2


@dataclass(frozen=True)
class Said:
    role: Role
    event: Bar | History

    @property
    def cells(self) -> set[tuple[str, int, int]]:
        bars = (self.event,) if isinstance(self.event, Bar) else self.event.bars
        return {(bar.symbol, bar.cell, bar.source) for bar in bars}


def bar_of(rng: random.Random, symbol: str, cell: int, source: int) -> Bar:
    price = rng.choice((100.0, 101.0, 102.5))
    first = cell * 3 + 90_000_000
    known = rng.random() < 0.5
    return Bar(
        symbol,
        cell,
        (price, price + 1, price - 1, price + 0.5),
        rng.choice((0.1, 0.2, 3.0)),
        (
            rng.choice((None, 5.0, 6.0)),
            3 if known else None,
            first if known else None,
            first + 2 if known else None,
        ),
        source,
    )


def series_of(rng: random.Random, setup: Setup) -> list[Said]:
    span, said = setup.span, []
    for _ in range(rng.randrange(4, 40)):
        symbol = rng.choice(SYMBOLS[:2])
        cell = setup.base + rng.randrange(3 * span)
        if rng.random() < 0.15:
            block = cell // span * span
            start, through = sorted(rng.sample(range(block, block + span + 1), 2))
            bars = tuple(
                bar_of(rng, symbol, each, OF_BLOCKS)
                for each in range(start, through)
                if rng.random() < 0.6
            )
            said.append(Said("backfill", History(symbol, block, start, through, bars)))
            continue
        role: Role = rng.choice(("live", "live", "backfill"))
        said.append(Said(role, bar_of(rng, symbol, cell, rng.choice(FLAT[role]))))
    return said


def broken_of(rng: random.Random, said: Sequence[Said]) -> set[int]:
    """Some of them, and with each whatever its authority said before of the same cells: a producer
    that is wrong was so from its beginning, or what it said before is what came since."""
    broken = {at for at in range(len(said)) if rng.random() < 0.3}
    while True:
        more = {
            at
            for at in range(len(said))
            for later in broken
            if at < later and at not in broken and said[at].cells & said[later].cells
        }
        if not more:
            return broken
        broken |= more


def feed(world: World, said: Said, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    land(world, said.role, said.event)
    records = world.landed[said.role]
    records[-1] = replace(records[-1], headers=tuple(headers))
    world.run(said.role)


def close(world: World, setup: Setup) -> None:
    """A bar far above of each symbol and a heartbeat: all that was said is sealed."""
    far = setup.base + 9 * setup.span
    for symbol in SYMBOLS[:2]:
        feed(world, Said("live", bar_of(random.Random(symbol), symbol, far, 0)))
    land(world, "live", Beat(far + setup.span))
    world.run("live")


def kept_of(world: World) -> list[Kept]:
    topic = topic_name(world.presets[0].id, "quarantine")
    found = [read(record) for record in world.log.topics.get(topic, [])]
    return [each for each in found if isinstance(each, Kept)]


def planned(world: World, mode: str = "canary") -> Plan:
    """What goes back once the header is right."""
    of = world.presets[0]
    mended = []
    for kept in kept_of(world):
        assert hindrance(kept, of.id) == "" and kept.reason == "fingerprint_mismatch"
        own = [header for header in kept.own if header[0] != HEADER_FINGERPRINT]
        mended.append(candidate(kept, own=own))
    return plan(mended, judge_of(of, resolve, lambda _: Policy(mode), CLOCK_NS), resolve)


def redrive(world: World, found: Plan) -> None:
    assert found.refused == ()
    for each in found.sent:
        role: Role = "live" if each.topic.endswith(".live") else "backfill"
        world.land(role, each.key, each.value, each.headers)
    for role in ("live", "backfill"):
        world.run(role)


def contents(world: World, of: Preset) -> dict[tuple[str, int], tuple[object, ...]]:
    """(symbol, minute) -> content, authority, and of a derived bar whether inputs are missing."""
    return {at: (*row[:-2], bool(row[-1] & PARTIAL)) for at, row in standing(world, of).items()}


@pytest.mark.parametrize("seed", range(60))
def test_what_was_redriven_stands_as_if_it_had_been_right(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    setup = setup_of(rng)
    setup = replace(
        setup,
        presets=(replace(setup.presets[0], off_grid="reject"), *setup.presets[1:]),
        mode="canary",
    )
    said = series_of(rng, setup)
    broken = broken_of(rng, said)
    right = World(tmp_path / "right", setup.presets)
    mended = World(tmp_path / "mended", setup.presets)
    for at, each in enumerate(said):
        feed(right, each, NAMED)
        feed(mended, each, (*NAMED, *BROKEN) if at in broken else NAMED)
    sealed_before = rng.random() < 0.5
    if sealed_before:
        close(mended, setup)
    found = planned(mended)
    assert len(found.sent) + len(found.superseded) == len(broken)
    for topic in {each.topic for each in found.sent}:
        flat = [each.kept.offset for each in found.sent if each.topic == topic]
        assert len(set(flat)) == len(flat)
    redrive(mended, found)
    if not sealed_before:
        close(mended, setup)
    close(right, setup)
    counted = [sum(step.counts.get("conflicts", 0) for step in w.steps) for w in (right, mended)]
    assert counted[1] <= counted[0]
    for of in setup.presets:
        assert contents(mended, of) == contents(right, of)
        digests = [
            {at: b.digest for at, b in world.blocks(of).items() if len(b.columns)}
            for world in (right, mended)
        ]
        assert digests[0] == digests[1]
        mended.check_seals(of)
    # Again: it all stands there already.
    steps = len(mended.steps)
    redrive(mended, found)
    changed = [s.counts.get(k, 0) for s in mended.steps[steps:] for k in ("inserted", "revised")]
    assert not any(changed)
    right.machine.close()
    mended.machine.close()
