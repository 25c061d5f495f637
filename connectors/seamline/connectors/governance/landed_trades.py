"""Whether trades that are to go back have passed meanwhile: their landing topics are asked.

Decides: from where to where the landing topics are read, and of which trades it cannot be told any
more. Invariants: a copy of a trade cannot have landed before the trade happened, so all that can be
one and is retained is read, in both landing topics; a copy that the worker set aside did not pass;
one that it has not judged yet counts as passed, and is in quarantine itself if it is refused. Must
not know: rules, what follows for the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from seamline.connectors.governance.quarantine import SETTINGS, Choice, Quarantine
from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import read_range
from seamline.connectors.kafka.topics import ROLE_SETTINGS
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.schemas.topics import LANDING_ROLES, partition_of, topic_name
from seamline.streams.kernel.redrive import Candidate, Kept, Place, Plan
from seamline.streams.kernel.redrive_trades import (
    Identity,
    LandedPlaces,
    identities,
    trade_of,
    untold,
    without_passed,
)
from seamline.streams.kernel.writers import Resolve

# By how much the broker's clock may be behind the venue's.
CLOCKS_NS: Final = 600 * NS_PER_S
# What is older is gone from a landing topic, or will be.
RETENTION_NS: Final = NS_PER_MS * min(
    int(ROLE_SETTINGS[role]["retention.ms"]) for role in LANDING_ROLES
)


class LandedTrades:
    """The landed trades of one preset, as far as a redrive asks for them."""

    def __init__(
        self,
        cluster: Cluster,
        preset: Preset,
        quarantine: Quarantine,
        resolve: Resolve,
        clock_ns: Callable[[], int],
    ) -> None:
        self._cluster, self._preset, self._quarantine = cluster, preset, quarantine
        self._resolve, self._clock_ns = resolve, clock_ns
        self._admin = Admin(cluster)
        self._landed = LandedPlaces((), resolve)
        self._read_to: dict[TP, int] = {}
        self._who: dict[int, Identity] = {}

    def tellable(self, kept: Sequence[Kept]) -> tuple[list[Kept], list[tuple[Kept, str]]]:
        """Those that landed so lately that nothing which landed since is gone, and why the others
        cannot go back."""
        good: list[Kept] = []
        refused: list[tuple[Kept, str]] = []
        places = [each.origin for each in kept if each.origin is not None]
        begins = self._admin.begin_offsets({(at.topic, at.partition) for at in places})
        for each in kept:
            why = untold(each, begins, RETENTION_NS, self._clock_ns())
            if why:
                refused.append((each, why))
            else:
                good.append(each)
        return good, refused

    def without_passed(self, plan: Plan, *, rewritten: bool) -> Plan:
        """The plan without what has passed. Raises TransportError when broker or registry do not
        answer."""
        self._who = identities(plan.sent, self._resolve)
        wanted = set(self._who.values())
        if not wanted:
            return plan
        self._landed = LandedPlaces(wanted, self._resolve)
        numbers = {partition_of(symbol, self._preset.partitions) for symbol, _ in wanted}
        topics = [topic_name(self._preset.id, role) for role in LANDING_ROLES]
        tps = [(topic, number) for topic in topics for number in sorted(numbers)]
        times = (trade_of(each.value, self._resolve) for each in plan.sent)
        first_ns = min(found[1] for found in times if found is not None)
        starts = self._admin.offsets_at(tps, max(0, first_ns - CLOCKS_NS))
        fences = self._admin.end_offsets(tps)
        self._read(
            {tp: fences[tp] if start is None else start for tp, start in starts.items()}, fences
        )
        return without_passed(plan, self._passed(plan.sent), rewritten=rewritten)

    def passed_since(self, candidates: Iterable[Candidate]) -> frozenset[int]:
        """Which of the plan's candidates, by id(), have passed since it was made or this was asked
        last."""
        self._read(self._read_to, self._admin.end_offsets(self._read_to))
        return frozenset(self._passed(candidates))

    def _read(self, starts: dict[TP, int], fences: dict[TP, int]) -> None:
        starts = {tp: min(start, fences[tp]) for tp, start in starts.items()}
        for batch in read_range(self._cluster, starts, fences, settings=SETTINGS):
            for record in batch:
                self._landed.take(record)
        self._read_to = dict(fences)

    def _passed(self, candidates: Iterable[Candidate]) -> dict[int, Place]:
        candidates = list(candidates)
        own = {place for each in candidates for place in (each.kept.origin, each.kept.first)}
        others = self._landed.every() - own
        if not others:
            return {}
        set_aside = {
            kept.origin for kept in self._quarantine.kept(Choice()) if kept.origin in others
        }
        found = self._landed.passed({*own, *set_aside} - {None})  # type: ignore[arg-type]
        return {
            id(each): found[self._who[id(each)]]
            for each in candidates
            if self._who.get(id(each)) in found
        }
