"""Conform a frame: pandas or Arrow in, the same out, and the report.

Decides: nothing about data; the kernel does. Invariants: the frame that came in is not changed; the
same rows give the same report, whichever family they come in. Must not know: files, Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

from seamline.connectors import calendars
from seamline.schemas.columns import I4, I8
from seamline.schemas.errors import UsageError
from seamline.sdk.frames_tables import frame_of, table_of, with_columns_of_index
from seamline.streams.kernel.conformance import ConformanceOutcome, ConformancePipeline
from seamline.streams.kernel.conformance_options import ConformanceOptions, options
from seamline.streams.kernel.conformance_progress import Stage
from seamline.streams.kernel.conformance_report import ConformanceReport
from seamline.streams.kernel.table import Table


class Settings(TypedDict, total=False):
    """What `seamline.streams.kernel.conformance_options.options` takes, beside `kind`."""

    ts_unit: str | None
    schema: Mapping[str, Any] | None
    interval: int | float | str | None
    interval_unit: str | None
    origin_ns: int
    window: tuple[object, object] | None
    sessions_ns: I8 | None
    symbols: Sequence[str] | None
    conformance_preset: str
    wide_spread_percent: float | None
    jump_sigmas: float | None
    time_column: str
    symbol_column: str
    authority_column: str


@dataclass(frozen=True, slots=True, eq=False)
class ConformedFrame:
    """The rows that stand, sorted by (time, symbol), and the report.

    frame: in the family of the input; times are int64 ns where numbers came in, else datetimes in
    UTC; an integer or float column with nulls is a nullable one. revision: (rows,) 0 for the first
    value of an identity. rows: (rows,) the input row of each.
    """

    frame: Any
    report: ConformanceReport
    revision: I4
    rows: I8
    _given: Any
    _source: Table
    _outcome: ConformanceOutcome
    _times: str

    def log(self) -> Any:
        """The accepted rows in order of arrival, replaced values included; their revisions are
        `report.log_revision`, their input rows `report.log_rows`."""
        made = self._outcome.log()
        return frame_of(self._given, self._source, made, self.report.log_rows, self._times)


def conform(
    frame: Any,
    *,
    kind: str = "bars",
    calendar: str | None = None,
    partial_ok: bool = False,
    baseline: ConformanceReport | Mapping[str, Any] | None = None,
    stages: Sequence[Stage] | None = None,
    **settings: Unpack[Settings],
) -> ConformedFrame:
    """Conform a pandas DataFrame or a pyarrow Table of bars, trades or quotes.

    Times are the column `ts` with a stated `ts_unit`, or datetimes; see
    `seamline.streams.kernel.conformance_options.options` for the settings. A level of a DataFrame's
    index that has the name of the time, symbol or authority column is read as that column.
    `calendar`: bars are expected in the sessions of this exchange (XNYS), over the `window` that
    must then be stated; None or `24/7`: always.
    `baseline`: the report of a former run, or its `to_dict()`, to compare with.

    Raises ConformancePipelineError, with the report, where a finding blocks and `partial_ok` is
    false; UsageError for settings or frames that do not fit; ContractError where the window leaves
    the days that the calendar knows.
    """
    chosen = options(kind=kind, **settings)
    if calendar is not None:
        chosen = replace(chosen, sessions_ns=_sessions(calendar, chosen))
    if isinstance(baseline, Mapping):
        baseline = ConformanceReport.from_dict(baseline)
    pipeline = ConformancePipeline(chosen, baseline=baseline, stages=stages)
    roles = (chosen.time_column, chosen.symbol_column, chosen.authority_column)
    given = with_columns_of_index(frame, roles)
    source = table_of(given)
    outcome = pipeline.run(source, partial_ok=partial_ok)
    return ConformedFrame(
        frame=frame_of(given, source, outcome.table, outcome.rows, chosen.time_column),
        report=outcome.report,
        revision=outcome.revision,
        rows=outcome.rows,
        _given=given,
        _source=source,
        _outcome=outcome,
        _times=chosen.time_column,
    )


def _sessions(name: str, chosen: ConformanceOptions) -> I8 | None:
    """When bars are expected by a calendar; rows before or after the window are not judged by it,
    and what the calendar does not know is never taken for a holiday."""
    found = calendars.calendar(name)
    if found.sessions is None:
        return None
    stated = {
        "sessions_ns": chosen.sessions_ns is None,
        "interval": chosen.interval_ns is not None,
        "window": chosen.window_ns is not None,
    }
    for setting, fits in stated.items():
        if not fits:
            raise UsageError(
                f"with the calendar {name} state interval and window, and no sessions_ns",
                parameter=setting,
                value=None,
            )
    assert chosen.window_ns is not None and chosen.interval_ns is not None
    return found.expected(
        chosen.window_ns, interval_ns=chosen.interval_ns, origin_ns=chosen.origin_ns
    ).spans
