"""A plan of faults from a seed: what, on whom, when, for how long.

Decides: that each kind comes at least once, that at least two overlap where there are two, and how
a plan is written in one line. Invariants: the same arguments give the same plan on every machine.
Must not know: what a fault does, clocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: on whom it may come, and how long one lasts, in seconds."""

    name: str
    on: tuple[str, ...]
    shortest_s: float
    longest_s: float


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Done at `at_s` after the start, undone `for_s` later."""

    at_s: float
    kind: str
    on: str
    for_s: float

    @property
    def end_s(self) -> float:
        return self.at_s + self.for_s

    def __str__(self) -> str:
        return f"{self.kind} {self.on} @{self.at_s:.2f}+{self.for_s:.2f}s"


@dataclass(frozen=True, slots=True)
class Timeline:
    seed: int
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"seed {self.seed}: {'; '.join(map(str, self.faults))}"

    @property
    def overlaps(self) -> bool:
        return any(later.at_s < sooner.end_s for sooner, later in pairwise(self.faults))


def plan(
    seed: int,
    kinds: Sequence[Kind],
    span_s: float,
    *,
    extra: int = 0,
    lead_s: float = 2.0,
) -> Timeline:
    """Each kind once and `extra` more, spread over `[lead_s, span_s)` and then drawn together in
    one place, so that a fault comes while another one lasts."""
    rng = random.Random(seed)
    chosen = [*kinds, *rng.choices(list(kinds), k=extra)]
    rng.shuffle(chosen)
    step = (span_s - lead_s) / len(chosen)
    faults = [
        Fault(
            at_s=lead_s + place * step + rng.uniform(0, step / 2),
            kind=kind.name,
            on=rng.choice(kind.on),
            for_s=rng.uniform(kind.shortest_s, kind.longest_s),
        )
        for place, kind in enumerate(chosen)
    ]
    if len(faults) > 1 and not Timeline(seed, tuple(faults)).overlaps:
        longest = max(range(len(faults) - 1), key=lambda i: faults[i].for_s)
        first, second = faults[longest : longest + 2]
        faults[longest + 1] = replace(second, at_s=first.at_s + first.for_s * rng.uniform(0.2, 0.8))
    return Timeline(seed, tuple(sorted(faults)))
