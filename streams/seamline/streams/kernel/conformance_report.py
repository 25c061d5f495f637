"""What a conformance run found, and what got worse since a former run.

Decides: the fields of findings and reports, their form as plain data, and what a regression is.
Invariants: `count` is the number that the agent's reports carry for the same rows; a report holds
numbers and times, never values of the data; two runs over the same rows have equal reports; more
data alone is no regression: occurrences are compared by rows, gaps by what was expected, lost bars
by time. Must not know: tables, stages, where a baseline is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from seamline.schemas.columns import I4, I8, U1
from seamline.schemas.errors import UsageError
from seamline.streams.kernel.gap_causes import NO_TRADES, OUR_LOSS, UNKNOWN
from seamline.streams.kernel.rules import BLOCK, GAP

FORMAT: Final = 1
SAMPLES_MAX: Final = 10
# Why bars are absent, as far as a frame can tell.
CAUSES: Final = (UNKNOWN, NO_TRADES, OUR_LOSS)

# Kinds of change for the worse.
NEW_RULE: Final = "new_rule"
MORE: Final = "more"
BARS_LOST: Final = "bars_lost"
SYMBOL_LOST: Final = "symbol_lost"
STARTS_LATER: Final = "starts_later"
ENDS_EARLIER: Final = "ends_earlier"

_BY_DROPPED: Final = ("duplicate_equal", "duplicate_conflict")
_BY_MISSING: Final = (GAP, "trade_id_gap")


class MissingRange(NamedTuple):
    """Expected bars of a symbol that are absent in `[start_ns, end_ns)`."""

    symbol: str | None
    start_ns: int
    end_ns: int
    cause: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What one rule found.

    rows_involved, rows_dropped: input rows; dropped are those that this rule keeps out of the
    result. columns: the columns it is about, sorted. missing: absent bars (gap) or ids. ranges:
    (g, 3) number of the symbol, start, end (ns), by symbol and start. causes: (g,) index of CAUSES.
    samples: the first input rows, at most 10.
    """

    rule: str
    severity: str
    rows_involved: int
    rows_dropped: int = 0
    columns: tuple[str, ...] = ()
    missing: int = 0
    ranges: I8 = field(default_factory=lambda: np.empty((0, 3), np.int64))
    causes: U1 = field(default_factory=lambda: np.empty(0, np.uint8))
    samples: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Occurrences, as the agent counts them: of a duplicate the arrivals that repeat, of a gap
        the missing bars, else the rows."""
        if self.rule in _BY_DROPPED:
            return self.rows_dropped
        return self.missing if self.rule in _BY_MISSING else self.rows_involved


@dataclass(frozen=True, slots=True)
class SymbolCoverage:
    """The rows that stand of one symbol: first and last time (ns), how many, how many absent."""

    symbol: str | None
    first_ns: int
    last_ns: int
    rows: int
    missing: int


@dataclass(frozen=True, slots=True)
class Regression:
    """One thing that got worse. `before` and `now` are counts, for `starts_later` and
    `ends_earlier` times in ns; `ranges` the [start, end) of lost bars."""

    change: str
    rule: str | None
    symbol: str | None
    before: int
    now: int
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ConformanceReport:
    """The outcome of a run.

    findings: by rule, in the order of the registry. by_authority: arrivals that a higher authority
    `revised`, and lower ones that were `discarded`. log_rows, log_revision: (accepted,) input rows
    in the order in which they were accepted, and the revision that each became. regressions: what
    got worse than the baseline, None where there was none to compare with.
    """

    kind: str
    conformance_preset: str
    interval_ns: int | None
    rows_in: int
    rows_out: int
    findings: Mapping[str, Finding]
    by_authority: Mapping[str, int]
    symbols: tuple[str | None, ...]
    coverage: tuple[SymbolCoverage, ...]
    log_rows: I8
    log_revision: I4
    regressions: tuple[Regression, ...] | None = None

    @property
    def blocked(self) -> tuple[str, ...]:
        """The rules that block by the conformance preset of the run."""
        return tuple(rule for rule, found in self.findings.items() if found.severity == BLOCK)

    @property
    def counts(self) -> dict[str, int]:
        """Rule -> occurrences."""
        return {rule: found.count for rule, found in self.findings.items()}

    def missing_ranges(self) -> Iterator[MissingRange]:
        """Where expected bars are absent, by symbol and time."""
        found = self.findings.get(GAP)
        if found is not None:
            for (at, start, end), cause in zip(
                found.ranges.tolist(), found.causes.tolist(), strict=True
            ):
                yield MissingRange(self.symbols[at], start, end, CAUSES[cause])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the log of rows left out; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "conformance_preset": self.conformance_preset,
            "interval_ns": self.interval_ns,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "findings": {rule: _plain(found) for rule, found in self.findings.items()},
            "by_authority": dict(self.by_authority),
            "symbols": list(self.symbols),
            "coverage": [
                [each.symbol, each.first_ns, each.last_ns, each.rows, each.missing]
                for each in self.coverage
            ],
            "blocked": list(self.blocked),
            "regressions": None
            if self.regressions is None
            else [
                {
                    "change": each.change,
                    "rule": each.rule,
                    "symbol": each.symbol,
                    "before": each.before,
                    "now": each.now,
                    "ranges": [list(pair) for pair in each.ranges],
                }
                for each in self.regressions
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ConformanceReport:
        """A report that `to_dict` wrote, as a baseline. Raises UsageError for anything else."""
        try:
            if plain["format"] != FORMAT:
                raise ValueError(plain["format"])
            return cls(
                kind=plain["kind"],
                conformance_preset=plain["conformance_preset"],
                interval_ns=plain["interval_ns"],
                rows_in=plain["rows_in"],
                rows_out=plain["rows_out"],
                findings={rule: _finding(rule, f) for rule, f in plain["findings"].items()},
                by_authority=dict(plain["by_authority"]),
                symbols=tuple(plain["symbols"]),
                coverage=tuple(SymbolCoverage(*each) for each in plain["coverage"]),
                log_rows=np.empty(0, np.int64),
                log_revision=np.empty(0, np.int32),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise UsageError(
                f"not a conformance report of format {FORMAT} ({type(fault).__name__}: {fault})",
                parameter="baseline",
                value=plain,
                fix="Hand over what ConformanceReport.to_dict() gave",
            ) from None


def require_comparable(baseline: ConformanceReport, kind: str, interval_ns: int | None) -> None:
    """Raises UsageError where a baseline is of another kind or interval."""
    if (baseline.kind, baseline.interval_ns) != (kind, interval_ns):
        raise UsageError(
            f"of {baseline.kind} every {baseline.interval_ns} ns, not {kind} every {interval_ns}",
            parameter="baseline",
            value=(baseline.kind, baseline.interval_ns),
            fix="Compare with a run of the same kind and interval, or leave baseline out",
        )


def regressions(before: ConformanceReport, now: ConformanceReport) -> tuple[Regression, ...]:
    """What got worse: rules that found nothing before, rules that find more per row (gaps: per
    expected bar), bars that were there and are missing, symbols that are gone, symbols whose rows
    start later or end earlier. By rule in the order of the report, then by symbol."""
    found = []
    for rule, finding in now.findings.items():
        count = finding.count
        was = before.findings.get(rule)
        former = 0 if was is None else was.count
        if former == 0 and count:
            found.append(Regression(NEW_RULE, rule, None, 0, count))
        elif count * _measured(before, rule) > former * _measured(now, rule) and count > former:
            found.append(Regression(MORE, rule, None, former, count))
    covered = {each.symbol: each for each in now.coverage}
    missing_before, missing_now = _by_symbol(before), _by_symbol(now)
    for was_covered in before.coverage:
        symbol = was_covered.symbol
        is_covered = covered.get(symbol)
        if is_covered is None:
            found.append(Regression(SYMBOL_LOST, None, symbol, was_covered.rows, 0))
            continue
        interval_ns = now.interval_ns or 1
        span = was_covered.first_ns, was_covered.last_ns + interval_ns
        lost = _lost(missing_now.get(symbol, []), missing_before.get(symbol, []), span)
        if lost:
            bars = sum(-(-(end - start) // interval_ns) for start, end in lost)
            found.append(Regression(BARS_LOST, GAP, symbol, 0, bars, tuple(lost)))
        if is_covered.first_ns > was_covered.first_ns:
            found.append(
                Regression(STARTS_LATER, None, symbol, was_covered.first_ns, is_covered.first_ns)
            )
        if is_covered.last_ns < was_covered.last_ns:
            found.append(
                Regression(ENDS_EARLIER, None, symbol, was_covered.last_ns, is_covered.last_ns)
            )
    return tuple(found)


def _measured(report: ConformanceReport, rule: str) -> int:
    """What occurrences of a rule are counted against, at least 1."""
    if rule == GAP:
        return max(1, report.rows_out + sum(each.missing for each in report.coverage))
    return max(1, report.rows_in)


def _by_symbol(report: ConformanceReport) -> dict[str | None, list[tuple[int, int]]]:
    ranges: dict[str | None, list[tuple[int, int]]] = {}
    for missing in report.missing_ranges():
        ranges.setdefault(missing.symbol, []).append((missing.start_ns, missing.end_ns))
    return ranges


def _lost(
    now: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]], span: tuple[int, int]
) -> list[tuple[int, int]]:
    """What is missing now within the span of the baseline and was not missing there. Both lists are
    sorted and disjoint."""
    lost: list[tuple[int, int]] = []
    at = 0
    for missing_start, missing_end in now:
        start, end = max(missing_start, span[0]), min(missing_end, span[1])
        while at < len(before) and before[at][1] <= start:
            at += 1
        look = at
        while start < end and look < len(before) and before[look][0] < end:
            if start < before[look][0]:
                lost.append((start, before[look][0]))
            start = before[look][1]
            look += 1
        if start < end:
            lost.append((start, end))
    return lost


def _plain(found: Finding) -> dict[str, Any]:
    return {
        "severity": found.severity,
        "count": found.count,
        "rows_involved": found.rows_involved,
        "rows_dropped": found.rows_dropped,
        "columns": list(found.columns),
        "missing": found.missing,
        "ranges": found.ranges.tolist(),
        "causes": [CAUSES[cause] for cause in found.causes.tolist()],
        "samples": list(found.samples),
    }


def _finding(rule: str, plain: Mapping[str, Any]) -> Finding:
    return Finding(
        rule=rule,
        severity=plain["severity"],
        rows_involved=plain["rows_involved"],
        rows_dropped=plain["rows_dropped"],
        columns=tuple(plain["columns"]),
        missing=plain["missing"],
        ranges=np.array(plain["ranges"], np.int64).reshape(-1, 3),
        causes=np.array([CAUSES.index(cause) for cause in plain["causes"]], np.uint8),
        samples=tuple(plain["samples"]),
    )
