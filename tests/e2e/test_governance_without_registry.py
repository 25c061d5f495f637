"""The registry is killed for a minute in the middle of a flow that is strict. What is known flows
on, what nobody can ask about waits in quarantine, nothing passes unchecked, and what waited goes
back by itself, without ever overwriting what came since.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.governed_plane import (
    Feed,
    GovernedPlane,
    OtherTeam,
    Sent,
    governed_plane,
    symbol_of,
)
from faults.comparison import Key, Values, compare_bars
from mode_setting import set_mode
from seamline.connectors.governance.quarantine import Choice, Quarantine
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.modes import STRICT
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from third_party import ThirdParty

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

AWAY_S = 60.0
# No good record waits longer because of others; what the slowest round of the feed took is added.
DELAYED_NS = NS_PER_S
WAITS = "registry_unavailable"
# A symbol that is sent with both schemas, so that bars around those that wait flow on.
MIXED = symbol_of("MIXED", 1)
NEWER = 21  # a minute of MIXED that waits, and is said anew meanwhile
FIRST = range(20)
WAITING = range(20, 26)
LATER = range(26, 200)


@dataclass
class Story:
    """`known`: records that pass at once; `waits`: good ones that cannot be judged; `newer`: what
    was said meanwhile of a minute that waits; `stays`: what strict refuses, by reason."""

    known: list[Sent]
    waits: list[Sent]
    newer: Sent
    stays: Mapping[str, Sequence[Sent]]

    @property
    def refused(self) -> list[Sent]:
        return [each for sent in self.stays.values() for each in sent]

    def stands(self) -> dict[Key, Values]:
        """In the end, beside the feed's."""
        return {each.bar: each.values for each in (*self.known, *self.waits, self.newer)}

    def aside(self) -> set[Key]:
        """Bars of which nothing may be conformed while the registry is away."""
        return {each.bar for each in (*self.waits, *self.refused)} - {self.newer.bar}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[GovernedPlane]:
    with governed_plane(tmp_path) as made:
        yield made


def test_a_registry_that_is_away_for_a_minute_loses_and_passes_nothing(
    plane: GovernedPlane,
) -> None:
    fresh = plane.fresh
    # Ids that the worker has not seen: one of our schema said otherwise, one that drifted.
    same = json.dumps(json.loads(SCHEMAS["bar"].text) | {"doc": "the same, said otherwise"})
    client = RemoteSchemaRegistryClient(plane.world.registry_url)
    number = client.register("seamline.elsewhere-value", same)
    client.close()
    assert number != fresh.ids["bar"]
    unseen = ThirdParty(plane.world, fresh.preset, text=same, schema_id=number)
    set_mode(plane.world, plane.subject, STRICT)
    plane.await_mode(plane.subject, STRICT, 1)
    feed = Feed(fresh)
    with unseen, feed, OtherTeam(fresh) as team, OtherTeam(fresh, MIXED) as mixed:
        first = [mixed.send(mixed.ours, 1.0, minute=at) for at in FIRST]
        feed.await_rounds(10)
        # It takes questions and answers none: whoever asks waits.
        before = set(feed.sent)
        plane.stop_registry()
        waits = []
        for _ in range(10):
            waits.append(team.send(unseen, 1.0))
            feed.await_rounds(1)
        known_flows_on(plane, feed, before)
        plane.kill_registry()
        away_s, before = time.monotonic(), set(feed.sent)
        story = meanwhile(first, waits, unseen, team, mixed)
        await_aside(plane, story)
        known_flows_on(plane, feed, before)
        # The fault itself, no wait for anything.
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - away_s)))
        known_flows_on(plane, feed, set(feed.sent))
        assert not story.aside() & plane.conformed().keys()
        plane.start_registry()
        plane.await_(lambda: len(open_ones(plane)) == len(story.refused), "what waited went back")
        feed.await_rounds(10)
    stands(plane, feed, story)


def meanwhile(
    first: Sequence[Sent],
    waits: Sequence[Sent],
    unseen: ThirdParty,
    team: OtherTeam,
    mixed: OtherTeam,
) -> Story:
    """Good and bad ones of each kind are sent while nobody can be asked."""
    waits = [*waits, *(mixed.send(unseen, 1.0, minute=at) for at in WAITING)]
    waits += [team.send(unseen, 1.0) for _ in range(20)]
    newer = mixed.send(mixed.ours, 1.0, minute=NEWER, **price(777.0))
    known = [*first, *(mixed.send(mixed.ours, 1.0, minute=at) for at in LATER)]
    # What breaks a rule: of a known schema that is seen at once, of the others when they are known.
    negative = [team.break_rule() for _ in range(4)]
    unknown = [team.drift() for _ in range(4)]
    unknown += [team.send(unseen, -2.5, volume=-2.5) for _ in range(3)]
    return Story(known, waits, newer, {"negative_volume": negative, WAITS: unknown})


def price(value: float) -> dict[str, float]:
    return dict.fromkeys(("open", "high", "low", "close"), value)


def open_ones(plane: GovernedPlane) -> list[tuple[str, bytes | None]]:
    """Reason and value of each record that is open in quarantine."""
    quarantine = Quarantine(plane.world.cluster, plane.fresh.preset)
    return [(each.reason, each.value) for each in quarantine.open(Choice())]


def left(story: Story) -> Counter[tuple[str, bytes | None]]:
    """What is open in the end."""
    return Counter((why, each.record[1]) for why, sent in story.stays.items() for each in sent)


def await_aside(plane: GovernedPlane, story: Story) -> None:
    """All that cannot be judged, and all that breaks a rule, is in quarantine as it came."""
    wanted = Counter((WAITS, each.record[1]) for each in story.waits) + left(story)
    plane.await_(lambda: len(open_ones(plane)) >= wanted.total(), "quarantine")
    assert Counter(open_ones(plane)) == wanted


def known_flows_on(plane: GovernedPlane, feed: Feed, before: set[Key]) -> None:
    """What the feed sends now is conformed, and no bar of it has waited."""
    feed.await_rounds(10)
    later = feed.sent.keys() - before
    plane.await_(lambda: later <= plane.conformed().keys(), "bars without a registry")
    landed, conformed = plane.landed_by_feed(), plane.conformed()
    worst_ms = max(conformed[bar] - landed[bar] for bar in later)
    began_ns = min(landed[bar] for bar in later) * NS_PER_MS
    slow_ns = feed.slowest_ns(began_ns, time.time_ns())
    print(f"{len(later)} good bars without a registry: {worst_ms} ms at most")
    assert worst_ms * NS_PER_MS <= DELAYED_NS + slow_ns, (worst_ms, slow_ns)


def stands(plane: GovernedPlane, feed: Feed, story: Story) -> None:
    """The end is that of a run without an outage; what rules refuse stays aside as it came."""
    expected = feed.sent | story.stands()
    assert not {each.bar for each in story.refused} & expected.keys()
    found = plane.contents_when_sealed(list(expected))
    for held in (found.stored, found.bars):
        difference = compare_bars(expected, {bar: row.values for bar, row in held.items()})
        assert difference.sentences() == (), difference.sentences()
    assert found.twice == [] and found.broken == []
    assert Counter(open_ones(plane)) == left(story)
    redriven = [entry for entry in plane.log.read().entries if entry.action == "redrive"]
    assert {entry.actor for entry in redriven} == {"worker"}
    assert sum(entry.evidence["records"] for entry in redriven) == len(story.waits)
    assert plane.run("schema", "audit", "verify")[0] == 0
    assert plane.worker.said("records wait in quarantine until the registry answers") >= 1
    assert plane.worker.said("--- start") == 1
