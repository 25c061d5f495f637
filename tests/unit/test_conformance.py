"""The pipeline on tables: what blocks, what stands, what each stage says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from seamline.schemas.columns import BarColumns
from seamline.schemas.errors import ConformancePipelineError, ContractError, UsageError
from seamline.streams.kernel.bar_table import of_bar_columns
from seamline.streams.kernel.conformance import (
    ConformanceOutcome,
    ConformancePipeline,
    RegressionReportStage,
)
from seamline.streams.kernel.conformance_options import ConformanceOptions, options
from seamline.streams.kernel.conformance_progress import Progress
from seamline.streams.kernel.conformance_report import SAMPLES_MAX, MissingRange
from seamline.streams.kernel.gap_causes import Evidence, cause
from seamline.streams.kernel.schema_rollup import SchemaRollupStage
from seamline.streams.kernel.table import Table
from seamline.streams.kernel.temporal_rollup import TemporalRollupStage

S = 10**9
BIG = 2**53


def bars(**columns: list[Any]) -> Table:
    """Flat bars of price 1 at `ts`, with columns replaced or added."""
    rows = len(columns["ts"])
    flat: dict[str, list[Any]] = {n: [1.0] * rows for n in ("open", "high", "low", "close")}
    return Table.of({**columns, **flat, "volume": [1.0] * rows, **columns})


def run(
    table: Table, *, kind: str = "bars", partial_ok: bool = True, **settings: Any
) -> ConformanceOutcome:
    chosen = options(kind=kind, **{"ts_unit": "s", **settings})
    return ConformancePipeline(chosen).run(table, partial_ok=partial_ok)


def minutes(table: Table, **settings: Any) -> ConformanceOutcome:
    return run(table, interval="1m", **settings)


# --- blocking


def test_a_finding_that_blocks_raises_with_the_report_and_the_counts() -> None:
    table = bars(ts=[0, 0, 60, 240], close=[1.0, 1.0, 9.0, 1.0])
    with pytest.raises(ConformancePipelineError) as blocked:
        minutes(table, partial_ok=False)
    error = blocked.value
    assert isinstance(error, ContractError) and not error.retriable
    assert error.fields["blocked"] == ("gap", "ohlc_inconsistent")
    assert error.fields["counts"] == {"duplicate_equal": 1, "gap": 2, "ohlc_inconsistent": 1}
    assert error.fields["rows_returned"] == 0
    assert error.fields["report"].counts == error.fields["counts"]
    for word in ("gap (2)", "ohlc_inconsistent (1)", "of 4 rows", "strict-blocking", "partial_ok"):
        assert word in str(error)
    outcome = minutes(table)
    assert outcome.report.to_dict() == error.fields["report"].to_dict()


def test_what_is_only_reported_does_not_block() -> None:
    table = bars(ts=[60, 0, 0], note=["x", "y", "z"], volume=[1, 2, 2])
    outcome = minutes(table, partial_ok=False)
    assert outcome.report.counts == {
        "unexpected_column": 3,
        "dtype_cast": 3,
        "out_of_order": 2,
        "duplicate_equal": 1,
    }
    assert outcome.report.blocked == ()


def test_permissive_blocks_only_a_missing_column() -> None:
    table = bars(ts=[0, 0, 240], close=[1.0, 2.0, float("nan")])
    assert not minutes(table, partial_ok=False, conformance_preset="permissive").report.blocked
    without = Table.of({"ts": [0], "price": [1.0]})
    with pytest.raises(ConformancePipelineError, match="missing_column"):
        minutes(without, partial_ok=False, conformance_preset="permissive")


@dataclass(frozen=True)
class Broken:
    fault: Exception

    def run(self, progress: Progress, options: ConformanceOptions) -> Progress:
        raise self.fault


@pytest.mark.parametrize("partial_ok", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_stage_that_fails_never_passes_for_a_clean_report(partial_ok: bool, place: int) -> None:
    fault = ZeroDivisionError("in a rule")
    stages: list[Any] = [SchemaRollupStage(), TemporalRollupStage(), RegressionReportStage()]
    stages[place] = Broken(fault)
    pipeline = ConformancePipeline(options(kind="bars", ts_unit="s"), stages=stages)
    with pytest.raises(ConformancePipelineError) as failed:
        pipeline.run(bars(ts=[0]), partial_ok=partial_ok)
    assert failed.value.__cause__ is fault
    assert failed.value.fields["report"] is None
    assert "ZeroDivisionError: in a rule" in str(failed.value)


def test_stages_without_a_report_are_a_fault_and_no_result() -> None:
    pipeline = ConformancePipeline(options(kind="bars"), stages=[])
    with pytest.raises(ConformancePipelineError) as failed:
        pipeline.run(bars(ts=[0]), partial_ok=True)
    assert isinstance(failed.value.__cause__, TypeError)


def test_wrong_usage_is_not_a_failed_stage() -> None:
    with pytest.raises(UsageError) as refused:
        run(bars(ts=[0]), ts_unit=None)
    assert refused.value.parameter == "ts_unit"


# --- schema


def test_rows_without_time_or_symbol_are_counted_by_one_rule_only() -> None:
    table = bars(
        ts=[0, None, 120, 180],
        symbol=["A", "A", None, "A"],
        close=[1.0, float("nan"), float("inf"), float("nan")],
        authority=["ws_closed", "nobody", "nobody", "ws_closed"],
    )
    outcome = run(table)
    assert outcome.report.counts == {"invalid_timestamp": 1, "missing_symbol": 1, "non_finite": 1}
    assert outcome.rows.tolist() == [0, 3]
    assert outcome.report.findings["missing_symbol"].rows_dropped == 1


def test_an_unknown_side_becomes_null_and_an_unknown_authority_ranks_last() -> None:
    trades: dict[str, list[Any]] = {
        "ts": [0, 1, 2],
        "price": [1.0, 1.0, 1.0],
        "size": [1.0, 1.0, 1.0],
        "trade_id": [1, 2, 3],
        "side": ["buy", "BUY", None],
    }
    outcome = run(Table.of(trades), kind="trades")
    assert outcome.report.counts == {"enumeration": 1}
    assert outcome.report.findings["enumeration"].columns == ("side",)
    assert outcome.table["side"].cells() == ["buy", None, None]
    table = bars(ts=[0, 0, 0], close=[1.0, 1.5, 1.25], authority=["ws_open", "mystery", None])
    outcome = run(table, schema={"close": "float64"})
    assert outcome.report.by_authority == {"revised": 0, "discarded": 2}
    assert outcome.table["close"].cells() == [1.0]


def test_samples_name_the_first_input_rows() -> None:
    table = bars(ts=[None, *range(30)], close=[1.0, *[5.0] * 30])
    samples = run(table).report.findings["ohlc_inconsistent"].samples
    assert samples == tuple(range(1, SAMPLES_MAX + 1))


def test_columns_may_have_other_names() -> None:
    table = bars(ts=[0, 60])
    renamed = {"open_time" if n == "ts" else n: c for n, c in table.columns.items()}
    renamed["pair"] = Table.of({"x": ["B", "A"]})["x"]
    renamed["source"] = Table.of({"x": ["ws_open", "ws_open"]})["x"]
    outcome = run(
        Table(renamed, 2), time_column="open_time", symbol_column="pair", authority_column="source"
    )
    assert outcome.report.findings == {}
    assert outcome.report.symbols == ("A", "B")
    missing = run(table, time_column="open_time").report.findings["missing_column"]
    assert missing.columns == ("open_time",)


def test_trades_without_a_column_are_given_back_as_they_came() -> None:
    table = Table.of({"ts": [5, 3, None], "price": [1.0, float("inf"), -1.0], "extra": [1, 2, 3]})
    outcome = run(table, kind="trades")
    assert list(outcome.report.findings) == ["missing_column"]
    assert outcome.table["ts"].cells() == [5 * S, 3 * S, None]
    assert outcome.rows.tolist() == [0, 1, 2]
    assert len(outcome.report.log_rows) == 0 and outcome.report.coverage == ()


def test_bars_without_times_are_judged_by_their_values() -> None:
    table = bars(ts=[0, 0], volume=[-1.0, 1.0], low=[1.0, 3.0])
    columns = {n: c for n, c in table.columns.items() if n != "ts"}
    outcome = minutes(Table(columns, 2), window=(0, 600))
    assert outcome.report.counts == {
        "missing_column": 2,
        "ohlc_inconsistent": 1,
        "negative_volume": 1,
    }
    assert outcome.table.rows == 2


# --- time


def test_gaps_name_symbol_bounds_and_cause() -> None:
    table = bars(
        ts=[0, 180, 0, 120, 300],
        symbol=["B", "B", "A", "A", "A"],
        first_trade_id=[10, 21, 5, 8, 30],
        last_trade_id=[20, 22, 7, 29, 40],
    )
    found = list(minutes(table).report.missing_ranges())
    assert found == [
        MissingRange("A", 60 * S, 120 * S, "no_trades"),
        MissingRange("A", 180 * S, 300 * S, "no_trades"),
        MissingRange("B", 60 * S, 180 * S, "no_trades"),
    ]
    other = bars(ts=[0, 120, 240], first_trade_id=[1, 4, None], last_trade_id=[2, 9, 12])
    causes = [each.cause for each in minutes(other, window=(-60, 360)).report.missing_ranges()]
    assert causes == ["unknown", "our_loss", "unknown", "unknown"]


@pytest.mark.parametrize("last", [None, -1, 5])
@pytest.mark.parametrize("first", [None, -1, 4, 5, 6, 7, BIG])
@pytest.mark.parametrize("authority", ["ws_closed", "rest_fresh"])
def test_causes_are_those_of_the_ledger(
    last: int | None, first: int | None, authority: str
) -> None:
    table = bars(
        ts=[0, 120],
        first_trade_id=[5, first],
        last_trade_id=[last, 9],
        authority=[authority, "rest_settled"],
    )

    def known(number: int | None) -> int | None:
        return None if number is None or number < 0 else number

    before = known(last) if authority == "ws_closed" else None
    (found,) = minutes(table).report.missing_ranges()
    evidence = Evidence(last_id_before=before, first_id_after=known(first))
    assert found.cause == cause((60 * S, 120 * S), evidence)


def test_a_bar_that_breaks_a_value_rule_proves_nothing() -> None:
    for broken in ({"volume": [-1.0, 1.0]}, {"trades": [None, 2]}):
        table = bars(ts=[0, 120], first_trade_id=[1, 6], last_trade_id=[5, 9], **broken)
        (found,) = minutes(table).report.missing_ranges()
        assert found.cause == "unknown"


def test_gaps_are_judged_within_sessions_and_for_expected_symbols() -> None:
    sessions = np.array([[0, 120], [600, 720]]) * S
    table = bars(ts=[0, 660], symbol=["A", "A"])
    outcome = minutes(table, sessions_ns=sessions, window=(0, 720), symbols=["A", "C"])
    assert [
        (m.symbol, m.start_ns // S, m.end_ns // S) for m in outcome.report.missing_ranges()
    ] == [
        *(("A", 60, 120), ("A", 600, 660)),
        *(("C", 0, 120), ("C", 600, 720)),
    ]
    assert outcome.report.counts["gap"] == 6
    assert [(c.symbol, c.rows, c.missing) for c in outcome.report.coverage] == [("A", 2, 2)]


def test_integers_beyond_doubles_stay_apart() -> None:
    table = bars(
        ts=[0, 0, 60, 60], last_trade_id=[BIG, BIG + 1, BIG, BIG], first_trade_id=[None] * 4
    )
    outcome = run(table)
    assert outcome.report.counts == {"duplicate_equal": 1, "duplicate_conflict": 1}
    assert outcome.table["last_trade_id"].cells() == [BIG + 1, BIG]
    trades: dict[str, list[Any]] = {
        "ts": [0, 1],
        "price": [1.0, 1.0],
        "size": [1.0, 1.0],
        "trade_id": [BIG, BIG + 1],
    }
    assert run(Table.of(trades), kind="trades").report.findings == {}


def test_a_null_is_filled_by_another_row_of_the_bar() -> None:
    table = bars(
        ts=[0, 0, 0],
        quote_volume=[None, 7.0, None],
        trades=[None, None, BIG + 1],
        authority=["ws_closed", "ws_open", "rest_settled"],
    )
    outcome = run(table)
    assert outcome.report.counts == {"duplicate_equal": 2}
    assert outcome.table["quote_volume"].cells() == [7.0]
    assert outcome.table["trades"].cells() == [BIG + 1]
    assert outcome.revision.tolist() == [0]


def test_null_nan_and_signed_zero() -> None:
    nan = float("nan")
    schema = {"price": "float64"}
    for pair, rule in (
        ([nan, nan], "duplicate_equal"),
        ([None, None], "duplicate_equal"),
        ([nan, None], "duplicate_conflict"),
        ([0.0, -0.0], "duplicate_equal"),
    ):
        report = run(Table.of({"ts": [0, 0], "price": pair}), schema=schema).report
        assert [r for r in report.findings if r != "non_finite"] == [rule], pair


def test_the_log_holds_what_was_replaced() -> None:
    table = bars(ts=[60, 0, 0, 0], volume=[1.0, 2.0, 2.0, 3.0])
    outcome = minutes(table)
    assert outcome.table["volume"].cells() == [3.0, 1.0]
    assert outcome.revision.tolist() == [1, 0]
    assert outcome.report.log_rows.tolist() == [0, 1, 3]
    assert outcome.report.log_revision.tolist() == [0, 0, 1]
    assert outcome.log()["volume"].cells() == [1.0, 2.0, 3.0]


def test_value_rules_of_bars_name_their_columns() -> None:
    table = bars(
        ts=[0, 60, 120],
        low=[0.0, 1.0, 1.0],
        quote_volume=[1.0, -1.0, None],
        trades=[3, 0, 3],
        first_trade_id=[1, 4, 4],
        last_trade_id=[3, 4, 7],
    )
    report = minutes(table).report
    assert report.counts == {"non_positive_price": 1, "negative_volume": 1, "trade_ids": 1}
    assert report.findings["non_positive_price"].columns == ("low",)
    assert report.findings["trade_ids"].samples == (2,)
    counts: dict[str, Any] = {"first_trade_id": [1, -2, None], "last_trade_id": [1, 4, 7]}
    below = minutes(bars(ts=[0, 60, 120], trades=[-2, None, -1], **counts)).report
    assert below.findings["trade_ids"].samples == (0, 1)


def test_a_price_jump_is_reported_and_can_be_left_out() -> None:
    prices = [100.0 + (i % 2) for i in range(40)] + [500.0]
    table = bars(
        ts=[60 * i for i in range(41)], **dict.fromkeys(("open", "high", "low", "close"), prices)
    )
    found = minutes(table, partial_ok=False).report.findings["price_jump"]
    assert (found.count, found.samples, found.severity) == (1, (40,), "report")
    assert minutes(table, jump_sigmas=None).report.findings == {}


# --- trades and quotes


def trades(**columns: list[Any]) -> Table:
    rows = len(columns["ts"])
    flat: dict[str, list[Any]] = {
        "price": [1.0] * rows,
        "size": [1.0] * rows,
        "trade_id": list(range(rows)),
    }
    return Table.of({**flat, **columns})


def test_trades_are_one_by_id_and_symbol() -> None:
    table = trades(
        ts=[1, 1, 1, 2, 0],
        symbol=["A", "A", "B", "A", "A"],
        trade_id=[1, 1, 1, 1, 2],
        price=[1.0, 1.0, 1.0, 2.0, 1.0],
    )
    outcome = run(table, kind="trades")
    assert outcome.report.counts == {
        "out_of_order": 1,
        "duplicate_equal": 1,
        "duplicate_conflict": 1,
    }
    assert outcome.rows.tolist() == [4, 2, 3]
    assert outcome.revision.tolist() == [0, 0, 1]
    assert outcome.report.log_rows.tolist() == [0, 2, 3, 4]


def test_trades_of_authorities() -> None:
    table = trades(
        ts=[0, 0, 0],
        trade_id=[7, 7, 7],
        price=[1.0, 2.0, 3.0],
        authority=["ws_closed", "rest_settled", "ws_closed"],
    )
    report = run(table, kind="trades").report
    assert report.findings == {} and report.by_authority == {"revised": 1, "discarded": 1}


def test_missing_ids_and_holes_between_ids() -> None:
    table = trades(ts=[0, 1, 2, 3], trade_id=[5, None, 9, None])
    report = run(table, kind="trades").report
    assert report.counts == {"non_finite": 2, "missing_trade_id": 2, "trade_id_gap": 3}
    assert report.rows_out == 4
    extremes = trades(ts=[0, 1], trade_id=[-(2**63) + 1, 2**63 - 1])
    assert run(extremes, kind="trades").report.counts == {"trade_id_gap": 2**64 - 3}


def test_ids_may_be_texts() -> None:
    table = trades(ts=[0, 0, 1], trade_id=["a-1", "a-1", "a-2"])
    schema = {"price": "double", "size": "double", "trade_id": "string"}
    report = run(table, kind="trades", schema=schema).report
    assert report.counts == {"duplicate_equal": 1}


def test_spreads_are_compared_as_decimals() -> None:
    rows = [(0.7, 0.77), (0.07, 0.077), (1.1, 1.21), (1.1, 1.2100001), (100.0, 110.0)]
    table = Table.of(
        {
            "ts": list(range(len(rows))),
            "bid": [bid for bid, _ in rows],
            "ask": [ask for _, ask in rows],
            "bid_size": [1.0] * len(rows),
            "ask_size": [1.0] * len(rows),
        }
    )
    found = run(table, kind="quotes", wide_spread_percent=10).report.findings
    assert found["wide_spread"].samples == (3,)
    assert run(table, kind="quotes").report.findings == {}


# --- the agent's columns


def landing(times: list[int], **changes: Any) -> BarColumns:
    rows = len(times)
    columns: dict[str, Any] = {
        **{name: np.ones(rows) for name in ("open", "high", "low", "close", "volume")},
        "quote_volume": np.full(rows, np.nan),
        **{n: np.full(rows, -1) for n in ("trades", "first_trade_id", "last_trade_id")},
        "source": np.ones(rows, np.uint8),
        "closed": np.ones(rows, bool),
        "received_time_ns": np.zeros(rows, np.int64),
    }
    return BarColumns(open_time_ns=np.array(times), **{**columns, **changes}).check()


def test_columns_need_no_unit_and_previews_are_no_rows() -> None:
    columns = landing([0, 60 * S, 60 * S], closed=np.array([True, False, True]))
    table = of_bar_columns(["A", "B"], np.array([1, 1, 1], np.int32), columns)
    outcome = minutes(table, ts_unit=None, partial_ok=False)
    assert outcome.report.findings == {}
    assert outcome.table["symbol"].cells() == ["B", "B"]
    assert outcome.report.symbols == ("B",)
    assert outcome.table["trades"].cells() == [None, None]


def test_an_unknown_source_states_no_authority() -> None:
    columns = landing([0, 0], source=np.array([9, 3], np.uint8), close=np.array([1.0, 0.5]))
    outcome = run(of_bar_columns(["A"], np.zeros(2, np.int32), columns), ts_unit=None)
    assert outcome.report.by_authority == {"revised": 1, "discarded": 0}
    assert outcome.report.counts == {"enumeration": 1, "ohlc_inconsistent": 1}


@pytest.mark.parametrize("sid", [[0], [0, 1], [0, -1]])
def test_symbols_that_do_not_fit_are_refused(sid: list[int]) -> None:
    with pytest.raises(UsageError) as refused:
        of_bar_columns(["A"], np.array(sid, np.int32), landing([0, 1]))
    assert refused.value.parameter == "sid"


# --- what a window expects


def test_a_window_expects_the_whole_cells_that_it_holds() -> None:
    """As coverage has it; a gap never lies outside the window."""
    assert minutes(bars(ts=[0]), window=(0, 119)).report.findings == {}
    assert minutes(bars(ts=[60]), window=(1, 120)).report.findings == {}
    assert minutes(bars(ts=[0]), window=(30, 89)).report.findings == {}
    found = minutes(bars(ts=[-60]), window=(-119, 30), origin_ns=10 * S).report
    assert found.findings["gap"].ranges.tolist() == [[0, -110 * S, 10 * S]]


def test_a_symbol_without_a_time_is_missing_from_the_window() -> None:
    table = bars(ts=[0, None], symbol=["A", "B"])
    report = minutes(table, window=(0, 60)).report
    assert report.findings["invalid_timestamp"].rows_dropped == 1
    assert list(report.missing_ranges()) == [MissingRange("B", 0, 60 * S, "unknown")]


def test_several_symbols_are_not_expected_of_rows_that_name_none() -> None:
    with pytest.raises(UsageError) as refused:
        minutes(bars(ts=[0]), window=(0, 60), symbols=["B", "A"])
    assert (refused.value.parameter, refused.value.value) == ("symbols", ["A", "B"])
    report = minutes(bars(ts=[]), window=(0, 60), symbols=["B", "A"]).report
    assert [each.symbol for each in report.missing_ranges()] == ["A", "B"]


@pytest.mark.parametrize("baseline", [5, "report", [1]])
def test_a_baseline_is_a_report(baseline: Any) -> None:
    with pytest.raises(UsageError) as refused:
        ConformancePipeline(options(kind="bars", ts_unit="s"), baseline=baseline)
    assert refused.value.parameter == "baseline" and refused.value.fix
