"""All broken places, in the order of the page."""

from __future__ import annotations

from typing import Final

from mutants import (
    of_batch,
    of_governance,
    of_lane,
    of_machine,
    of_merge,
    of_owner,
    of_reader,
    of_sources,
    of_trades,
)
from mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *of_merge.MUTANTS,
    *of_machine.MUTANTS,
    *of_batch.MUTANTS,
    *of_reader.MUTANTS,
    *of_sources.MUTANTS,
    *of_lane.MUTANTS,
    *of_owner.MUTANTS,
    *of_governance.MUTANTS,
    *of_trades.MUTANTS,
)
