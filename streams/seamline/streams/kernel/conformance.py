"""Conformance of a table: three stages, one report, and whether the result may be used.

Decides: the order of the stages, what blocks, what a crash means. Invariants: the input is never
changed; a rule that itself fails is never a clean report: it raises, with `partial_ok` too, and no
row is returned; the same rows and options give the same outcome. Must not know: pandas, Arrow,
Kafka, the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seamline.schemas.columns import I4, I8
from seamline.schemas.errors import ConformancePipelineError, UsageError
from seamline.streams.kernel.conformance_options import ConformanceOptions
from seamline.streams.kernel.conformance_progress import Progress, Stage
from seamline.streams.kernel.conformance_report import (
    ConformanceReport,
    SymbolCoverage,
    regressions,
    require_comparable,
)
from seamline.streams.kernel.rules import GAP, RULES
from seamline.streams.kernel.schema_rollup import SchemaRollupStage
from seamline.streams.kernel.table import Table
from seamline.streams.kernel.temporal_rollup import TemporalRollupStage

BLOCKED_SHOWN: int = 5


@dataclass(frozen=True, slots=True, eq=False)
class ConformanceOutcome:
    """The rows that stand and what was found.

    table: sorted by (time, symbol), times int64 ns. rows: (len(table),) the input row of each;
    revision: how often its identity was stated anew before. `log`: see there.
    """

    table: Table
    rows: I8
    revision: I4
    report: ConformanceReport
    accepted: Table
    accepted_at: I8

    def log(self) -> Table:
        """The accepted rows in order of arrival, replaced values included, as
        `report.log_revision` counts them."""
        return self.accepted.take(self.accepted_at)


@dataclass(frozen=True, slots=True)
class RegressionReportStage:
    """Put the findings together as a report, and compare it with the report of a former run."""

    baseline: ConformanceReport | None = None

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress:
        """Raises UsageError for a baseline of another kind or interval."""
        by_rule = {found.rule: found for found in progress.findings}
        findings = {rule: by_rule.pop(rule) for rule in RULES if rule in by_rule} | by_rule
        assert progress.accepted_rows is not None
        assert progress.log_at is not None and progress.log_revision is not None
        report = ConformanceReport(
            kind=options.kind,
            conformance_preset=options.conformance_preset,
            interval_ns=options.interval_ns,
            rows_in=progress.rows_in,
            rows_out=progress.table.rows,
            findings=findings,
            by_authority=progress.by_authority or {},
            symbols=progress.symbols,
            coverage=_coverage(progress, options),
            log_rows=progress.accepted_rows[progress.log_at],
            log_revision=progress.log_revision,
        )
        if self.baseline is not None:
            require_comparable(self.baseline, options.kind, options.interval_ns)
            report = replace(report, regressions=regressions(self.baseline, report))
        return replace(progress, report=report)


class ConformancePipeline:
    """Runs a table through the stages.

    `stages`: None for the three of this package; others must end with one that makes the report.
    `baseline`: the report of a former run to compare with.
    """

    def __init__(
        self,
        options: ConformanceOptions,
        *,
        baseline: ConformanceReport | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        if baseline is not None:
            if not isinstance(baseline, ConformanceReport):
                raise UsageError(
                    "not a report",
                    parameter="baseline",
                    value=type(baseline).__name__,
                    fix="Hand over a ConformanceReport, or what its to_dict() gave",
                )
            require_comparable(baseline, options.kind, options.interval_ns)
        self.options = options
        self.stages: tuple[Stage, ...] = (
            (SchemaRollupStage(), TemporalRollupStage(), RegressionReportStage(baseline))
            if stages is None
            else tuple(stages)
        )

    def run(self, table: Table, *, partial_ok: bool = False) -> ConformanceOutcome:
        """Conform a table.

        With `partial_ok` findings that block are only reported. Raises ConformancePipelineError
        (with the report) where one blocks, and where a stage fails (with its exception as
        `__cause__`, whatever `partial_ok`); UsageError where the table does not fit the options.
        """
        progress = Progress.of(table)
        try:
            for stage in self.stages:
                progress = stage.run(progress, self.options)
            outcome = _outcome(progress)
        except UsageError:
            raise
        except Exception as fault:
            raise ConformancePipelineError(
                f"conformance itself failed ({type(fault).__name__}: {fault}), nothing was judged",
                fix="Nothing was returned; report the fault with the rows that cause it",
                report=None,
                blocked=(),
                counts={},
                rows_returned=0,
            ) from fault
        report = outcome.report
        if report.blocked and not partial_ok:
            shown = [f"{rule} ({report.counts[rule]})" for rule in report.blocked[:BLOCKED_SHOWN]]
            more = len(report.blocked) - len(shown)
            raise ConformancePipelineError(
                f"{', '.join(shown)}{f' and {more} more' if more else ''} of {report.rows_in} rows",
                parameter="conformance_preset",
                value=report.conformance_preset,
                fix="`seamline explain RULE` says what each means; mend the data, "
                "or take what stands with partial_ok=True",
                report=report,
                blocked=report.blocked,
                counts=report.counts,
                rows_returned=0,
            )
        return outcome


def _outcome(progress: Progress) -> ConformanceOutcome:
    if progress.report is None or progress.revision is None:
        raise TypeError("the last stage made no report")
    assert progress.accepted is not None and progress.log_at is not None
    return ConformanceOutcome(
        table=progress.table,
        rows=progress.rows,
        revision=progress.revision,
        report=progress.report,
        accepted=progress.accepted,
        accepted_at=progress.log_at,
    )


def _coverage(progress: Progress, options: ConformanceOptions) -> tuple[SymbolCoverage, ...]:
    """By symbol, those that have rows."""
    if not progress.timed or not progress.judged or progress.codes is None:
        return ()
    codes, times = progress.codes, progress.table[options.time_column].values
    symbols = len(progress.symbols)
    first, last = np.zeros(symbols, np.int64), np.zeros(symbols, np.int64)
    # Rows are sorted by time, and of repeated places the last assignment stays.
    last[codes] = times
    first[codes[::-1]] = times[::-1]
    rows = np.bincount(codes, minlength=symbols)
    missing = [0] * symbols
    for found in progress.findings:
        if found.rule == GAP and options.interval_ns is not None:
            for symbol, start, end in found.ranges.tolist():
                missing[symbol] += -(-(end - start) // options.interval_ns)
    return tuple(
        SymbolCoverage(name, int(first[at]), int(last[at]), int(rows[at]), missing[at])
        for at, name in enumerate(progress.symbols)
        if rows[at]
    )
