"""Drivers of all families of `conformance.json`: one evaluation, through every door, one outcome.

The families differ in what they show, not in how they are evaluated.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from seamline.schemas.errors import SeamlineError
from seamline.sdk.conforming import Settings
from seamline.streams.kernel.casts import type_named
from seamline.streams.kernel.conformance_options import ConformanceOptions, schema_fields
from seamline.streams.kernel.conformance_progress import Progress, Stage
from seamline.streams.kernel.conformance_report import ConformanceReport
from seamline.streams.kernel.instants import UNIT_NS, ns_of_text
from seamline.streams.kernel.rules import RULES
from seamline.streams.kernel.schema_rollup import SchemaRollupStage
from seamline.streams.kernel.table import (
    BOOL,
    FLOAT64,
    IEEE,
    INT64,
    TEXT,
    Column,
    Table,
    words_column,
)
from vectors.conformance_doors import PRICES, Run, Seen, attempt, doors
from vectors.engine import Accepts, Case, Fields, UnknownFieldError, driver, same

FAMILIES = (
    *("duplicates", "authority", "gap", "boundary_misaligned", "off_grid", "out_of_order"),
    *("schema", "cast_failure", "non_finite", "invalid_timestamp", "instants", "units", "empty"),
    *("symbols", "trades", "quotes", "ohlc", "blocking", "interval_source"),
)
# The rules of the file; findings are complete for them and free beyond.
JUDGED = frozenset(
    (
        *("duplicate_equal", "duplicate_conflict", "off_grid", "out_of_order", "gap"),
        *("boundary_misaligned", "missing_column", "unexpected_column", "dtype_cast"),
        *("cast_failure", "non_finite", "invalid_timestamp", "ohlc_inconsistent"),
        *("negative_volume", "invalid_price", "invalid_size", "crossed_quotes", "wide_spread"),
    )
)
REQUIRED = {
    "bars": ("ts", *PRICES, "volume"),
    "trades": ("ts", "price", "size", "trade_id"),
    "quotes": ("ts", "bid", "ask", "bid_size", "ask_size"),
}


@dataclass(frozen=True)
class Raises:
    """A stage with a rule that raises."""

    fault: type[Exception]

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress:
        raise self.fault("a rule fails")


@dataclass(frozen=True)
class View:
    """What all doors agree on, read in the words of the vectors."""

    seen: Seen | SeamlineError
    unit: str | None
    symbols: bool

    @property
    def report(self) -> ConformanceReport | None:
        if isinstance(self.seen, Seen):
            return self.seen.report
        found = self.seen.fields.get("report")
        assert found is None or isinstance(found, ConformanceReport)
        return found

    def time_ns(self, value: Any) -> int | None:
        if value is None or self.unit is None:
            return None
        if self.unit not in UNIT_NS:
            return ns_of_text(str(value))
        scaled = Decimal(str(value)) * UNIT_NS[self.unit]
        assert scaled == int(scaled), f"{value} {self.unit} is no whole ns"
        return int(scaled)


def conformance(case: Case) -> Mapping[str, Any]:
    given = case.given
    for call in case.calls:
        assert not call, "the vectors of this file have no calls"
    partial_ok = bool(given.get("partial_ok", True))
    run = _run(given, partial_ok)
    seen = agreed(run)
    view = View(seen, case.times_in or given.get("ts_unit"), "symbol" in run.table)
    strict = seen if not partial_ok else agreed(replace(run, partial_ok=False))
    kinds = [] if isinstance(seen, Seen) else [kind.__name__ for kind in type(seen).__mro__]
    cause = None if isinstance(seen, Seen) else seen.__cause__
    observed: dict[str, Any] = {
        "ts_unit": Accepts(lambda unit: unit == view.unit, view.unit),
        "raises": Accepts(lambda kind: kind in kinds if kind else not kinds, kinds),
        "blocks": "ConformancePipelineError" in [kind.__name__ for kind in type(strict).__mro__],
        "rows_returned": len(seen.rows) if isinstance(seen, Seen) else 0,
        "cause": None if cause is None else type(cause).__name__,
    }
    if isinstance(seen, SeamlineError):
        observed |= {
            "names_parameter": seen.parameter,
            "retriable": seen.retriable,
            "error_fields": Accepts(lambda names: set(names) <= seen.fields.keys(), seen.fields),
        }
    return observed | _rows_observed(view) | _report_observed(view)


for _family in FAMILIES:
    driver("conformance", _family)(conformance)


def agreed(run: Run) -> Seen | SeamlineError:
    """What every door that the rows fit gives; raises AssertionError where two differ."""
    first: Seen | SeamlineError | None = None
    for name, door in doors(run):
        made = attempt(door, run)
        if first is None:
            first = made
            continue
        assert comparable(made) == comparable(first), (
            f"{name}: {comparable(made)}, table: {comparable(first)}"
        )
    assert first is not None
    return first


def comparable(made: Seen | SeamlineError) -> Any:
    if isinstance(made, SeamlineError):
        report = made.fields.get("report")
        shown = None if report is None else _comparable_report(report)
        return type(made), made.parameter, type(made.__cause__), shown
    types = {name: type_ for name, type_ in made.types.items() if type_ in (INT64, FLOAT64, BOOL)}
    return made.rows, made.log, types, _comparable_report(made.report)


def _comparable_report(report: ConformanceReport) -> Any:
    """One unnamed symbol and one symbol of any name are the same."""
    plain = report.to_dict()
    if len(report.symbols) == 1:
        plain["symbols"] = [None]
        plain["coverage"] = [[None, *each[1:]] for each in plain["coverage"]]
    return plain, report.log_rows.tolist(), report.log_revision.tolist()


# --- given


def _run(given: Fields, partial_ok: bool) -> Run:
    kind = given["kind"]
    schema = given.get("schema")
    rows = _given_rows(given)
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
    else:
        names = list(REQUIRED[kind]) if schema is None else ["ts", *schema_fields(schema)]
    types = given.get("column_types", {})
    cells = {name: [row.get(name) for row in rows] for name in names}
    table = Table({n: _column(c, types.get(n)) for n, c in cells.items()}, len(rows))
    window = given.get("window")
    # The interval of another preset is read, and must not matter.
    given.get("other_preset_interval")
    settings: Settings = {
        "ts_unit": given.get("ts_unit"),
        "schema": schema,
        "interval": given.get("interval", given.get("dataset_interval")),
        "interval_unit": given.get("interval_unit"),
        "window": None if window is None else tuple(window),
        "wide_spread_percent": given.get("wide_spread_percent"),
    }
    fault = given.get("rule_raises")
    stages: Sequence[Stage] | None = None
    if fault is not None:
        stages = (SchemaRollupStage(), Raises(getattr(builtins, fault)))
    return Run(table, kind, settings, partial_ok, stages)


def _given_rows(given: Fields) -> list[dict[str, Any]]:
    rule = given.get("rows_rule")
    if rule is None:
        rows = [dict(row) for row in given["rows"]]
    else:
        fields = Fields(rule, "given.rows_rule")
        skipped = set(fields.get("skip_index", ()))
        first, step = fields["first"], fields["step"]
        places = [k for k in range(fields["count"]) if k not in skipped]
        fields.require_read()
        rows = [{"ts": first + k * step, "v": 1.0} for k in places]
    return [_expanded(row) for row in rows]


def _expanded(row: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: cell for name, cell in row.items() if name != "v"}
    if "v" in row:
        made |= dict.fromkeys(PRICES, row["v"]) | {"volume": 1.0}
    return made


def _column(cells: list[Any], stated: str | None) -> Column:
    if stated is None:
        return Column.of(cells)
    type_ = type_named(stated, parameter="column_types")
    valid = np.array([cell is not None for cell in cells], bool)
    if type_ == TEXT:
        return words_column([None if cell is None else str(cell) for cell in cells])
    if type_ == BOOL:
        return Column(BOOL, np.array([bool(cell) for cell in cells], bool), valid)
    if type_ == INT64:
        return Column(INT64, np.array([int(cell or 0) for cell in cells], np.int64), valid)
    if type_ == FLOAT64:
        numbers = [IEEE[c] if isinstance(c, str) else float(c or 0) for c in cells]
        return Column(FLOAT64, np.array(numbers, np.float64), valid)
    raise UnknownFieldError(f"the driver does not know column_types {stated}")


# --- expect


def _rows_observed(view: View) -> dict[str, Any]:
    seen = view.seen
    if not isinstance(seen, Seen):
        return {}

    def times(wanted: Sequence[Any]) -> bool:
        return [view.time_ns(value) for value in wanted] == [row["ts"] for row in seen.rows]

    def types(wanted: Mapping[str, str]) -> bool:
        named = {n: type_named(t, parameter=n) for n, t in wanted.items()}
        return all(seen.types.get(name) == type_ for name, type_ in named.items())

    return {
        "rows": Accepts(_same_rows(view, seen.rows), seen.rows),
        "log": Accepts(_same_rows(view, seen.log), seen.log),
        "rows_kept": len(seen.rows),
        "ts": Accepts(times, [row.get("ts") for row in seen.rows]),
        "column_types": Accepts(types, seen.types),
    }


def _same_rows(view: View, got: list[dict[str, Any]]) -> Callable[[Any], bool]:
    def equal(wanted: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        full = {"revision": 0, **_expanded(wanted)}
        if "v" in wanted:
            full.pop("volume")
        time = full.pop("ts", None)
        if "ts" in wanted and (view.unit is None or view.time_ns(time) != row.get("ts")):
            return False
        return all(name in row and same(cell, row[name]) for name, cell in full.items())

    return lambda wanted: len(wanted) == len(got) and all(map(equal, wanted, got))


def _report_observed(view: View) -> dict[str, Any]:
    report = view.report
    if report is None:
        return {}
    shown = {rule: found for rule, found in report.to_dict()["findings"].items() if rule in JUDGED}

    def complete(wanted: Mapping[str, Any]) -> bool:
        if not wanted.keys() <= RULES.keys():
            raise UnknownFieldError(f"unknown rules: {sorted(wanted.keys() - RULES.keys())}")
        found = {rule for rule in report.findings if rule in JUDGED or rule in wanted}
        return found == wanted.keys() and all(
            _same_finding(view, report, rule, fields) for rule, fields in wanted.items()
        )

    def absent(rules: Sequence[str]) -> bool:
        return all(rule in RULES and rule not in report.findings for rule in rules)

    def by_authority(wanted: Mapping[str, int]) -> bool:
        return {"revised": 0, "discarded": 0, **wanted} == report.by_authority

    return {
        "findings": Accepts(complete, shown),
        "report": Accepts(complete, shown),
        "no_finding": Accepts(absent, sorted(report.findings)),
        "by_authority": Accepts(by_authority, dict(report.by_authority)),
    }


def _same_finding(
    view: View, report: ConformanceReport, rule: str, wanted: Mapping[str, Any]
) -> bool:
    found = report.findings[rule]
    ranges: dict[str | None, list[list[int]]] = {}
    for missing in report.missing_ranges() if rule == "gap" else ():
        ranges.setdefault(missing.symbol, []).append([missing.start_ns, missing.end_ns])
    fields = Fields(wanted, f"expect.findings.{rule}")
    equal = all(
        fields[name] == getattr(found, name)
        for name in ("rows_involved", "rows_dropped", "missing")
        if name in fields
    )
    if "columns" in fields:
        equal &= tuple(fields["columns"]) == found.columns
    if "ranges" in fields:
        listed = fields["ranges"]
        if isinstance(listed, Mapping):
            # A symbol that nothing is missing of may be named with no range.
            equal &= {s: _in_ns(view, pairs) for s, pairs in listed.items() if pairs} == ranges
        elif any(len(each) == 3 for each in listed):
            named = [[s, *pair] for s, pairs in ranges.items() for pair in pairs]
            equal &= [[s, *_in_ns(view, [pair])[0]] for s, *pair in listed] == named
        else:
            equal &= _in_ns(view, listed) == [pair for pairs in ranges.values() for pair in pairs]
    fields.require_read()
    return equal


def _in_ns(view: View, pairs: Sequence[Sequence[Any]]) -> list[list[int | None]]:
    return [[view.time_ns(start), view.time_ns(end)] for start, end in pairs]
