"""What one stage of conformance hands to the next.

Decides: nothing; names the parts. Invariants: `rows` says for each row of `table` which input row
it is; findings count input rows; a stage makes a new value and changes none. Must not know: rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import I4, I8, Bool
from seamline.streams.kernel.conformance_options import ConformanceOptions
from seamline.streams.kernel.conformance_report import SAMPLES_MAX, ConformanceReport, Finding
from seamline.streams.kernel.rules import severity
from seamline.streams.kernel.table import Table


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """A run between two stages.

    table: the rows as far as they are brought to the schema; rows: (len(table),) their input rows.
    timed: False where there is no column of times. judged: False where the record type is
    incomplete and nothing more is to be judged. accepted: the table that `log_at` (places in it)
    and `log_revision` speak of. codes: (len(table),) the symbol of each row, in `symbols`.
    """

    table: Table
    rows: I8
    rows_in: int
    findings: tuple[Finding, ...] = ()
    timed: bool = True
    judged: bool = True
    revision: I4 | None = None
    accepted: Table | None = None
    accepted_rows: I8 | None = None
    log_at: I8 | None = None
    log_revision: I4 | None = None
    by_authority: Mapping[str, int] | None = None
    symbols: tuple[str | None, ...] = ()
    codes: I4 | None = None
    report: ConformanceReport | None = None

    @classmethod
    def of(cls, table: Table) -> Progress:
        """The beginning: every row as it came."""
        return cls(table, np.arange(table.rows), table.rows)

    def found(
        self, options: ConformanceOptions, rule: str, mask: Bool, **fields: object
    ) -> Progress:
        """With a finding about the rows of a mask over `table`; unchanged where it is empty."""
        involved = int(np.count_nonzero(mask))
        if not involved:
            return self
        samples = tuple(self.rows[first_places(mask)].tolist())
        return self.noted(options, rule, rows_involved=involved, samples=samples, **fields)

    def noted(self, options: ConformanceOptions, rule: str, **fields: object) -> Progress:
        """With a finding; a severity is looked up by the conformance preset."""
        made = Finding(rule, severity(rule, options.conformance_preset), **fields)  # type: ignore[arg-type]
        return replace(self, findings=(*self.findings, made))

    def take(self, keep: Bool) -> Progress:
        """Only the rows of a mask."""
        if keep.all():
            return self
        return replace(self, table=self.table.take(keep), rows=self.rows[keep])


class Stage(Protocol):
    """One of the stages of a pipeline."""

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress: ...


def first_places(mask: NDArray[np.bool_], most: int = SAMPLES_MAX) -> NDArray[np.intp]:
    """The first places of a mask."""
    return np.flatnonzero(mask)[:most]


def union(masks: Sequence[Bool]) -> Bool:
    """True where one of the masks is; `masks` is not empty."""
    whole = masks[0].copy()
    for mask in masks[1:]:
        whole |= mask
    return whole
