"""A case: one kind of run under faults, as a value; and what came of one run.

Decides: what a run has to tell so that the table can be written and a failure run again. Must not
know: what a case does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seamline.connectors.world import World


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a run happens: a broker and a registry, and a directory that nobody else uses.
    `stack`: the directory of the embedded stack, for a case that breaks its brokers."""

    world: World
    directory: Path
    stack: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `struck`: how often each kind of fault was really done. `bars`: how many were
    compared. `wrong`: anything else that differs, a sentence each. `timeline`: the plan, in one
    line."""

    seed: int
    timeline: str
    struck: Mapping[str, int]
    bars: int
    lost: int = 0
    duplicated: int = 0
    changed: int = 0
    invented: int = 0
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not (
            self.lost or self.duplicated or self.changed or self.invented or self.wrong
        ) and bool(self.bars)

    def story(self) -> str:
        """For a person who has to find out why."""
        counts = (
            f"{self.bars} bars, {self.lost} lost, {self.duplicated} twice, {self.changed} changed, "
            f"{self.invented} invented"
        )
        return "\n".join([counts, self.timeline, *self.wrong])


@dataclass(frozen=True, slots=True)
class Case:
    """`run(ground, seed)` gives the outcome of one run, or raises what kept it from ending.
    `seeds`: how many runs the soak makes. `faults`: what each kind in `struck` means."""

    name: str
    sentence: str
    run: Callable[[Ground, int], Outcome]
    seeds: int = 1
    faults: Mapping[str, str] = field(default_factory=dict)
    # A stack of its own: the case breaks the broker.
    own_stack: bool = False
    brokers: int = 1
