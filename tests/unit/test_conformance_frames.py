"""pandas and Arrow frames through conformance: types in, types out, nothing else touched."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from seamline.schemas.errors import ConformancePipelineError, UsageError
from seamline.sdk import ConformanceReport, conform
from seamline.sdk.frames_tables import table_of
from seamline.streams.kernel.table import BOOL, DECIMAL, FLOAT64, INT64, OTHER, TEXT, TIME

pa: Any = pyarrow
S = 10**9
NAN = float("nan")
FLAT = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}


def frame(ts: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"ts": ts, **FLAT, **columns})


@pytest.mark.parametrize(
    ("series", "type_", "cells", "arrived"),
    [
        (pd.Series([1, 2]), INT64, [1, 2], ""),
        (pd.Series([1, 2], dtype="int32"), INT64, [1, 2], "int32"),
        (pd.Series([1, None], dtype="Int64"), INT64, [1, None], ""),
        (pd.Series([1, 2**63], dtype="uint64"), DECIMAL, ["1", str(2**63)], ""),
        (pd.Series([1, 2], dtype="uint64"), INT64, [1, 2], "uint64"),
        (pd.Series([2**63, None], dtype="UInt64"), DECIMAL, [str(2**63), None], ""),
        (pd.Series([1.5, 2.0]), FLOAT64, [1.5, 2.0], ""),
        (pd.Series([1.5], dtype="float32"), FLOAT64, [1.5], "float32"),
        (pd.Series([True, False]), BOOL, [True, False], ""),
        (pd.Series([True, None], dtype="boolean"), BOOL, [True, None], ""),
        (pd.Series(["a", None, "a"]), TEXT, ["a", None, "a"], ""),
        (pd.Series(["a", NAN], dtype=object), TEXT, ["a", None], ""),
        (pd.Series(["a", "b"], dtype="category"), TEXT, ["a", "b"], ""),
        (pd.Series([Decimal("0.1"), None]), DECIMAL, ["0.1", None], ""),
        (pd.Series([{"a": 1}, None]), TEXT, ["{'a': 1}", None], "object"),
        (pd.Series([pd.Timedelta(1), pd.NaT]), OTHER, [0, None], ""),
        (pd.Series([1, None], dtype="int64[pyarrow]"), INT64, [1, None], ""),
        (pd.Series(["a", None], dtype="string[pyarrow]"), TEXT, ["a", None], ""),
    ],
)
def test_types_of_pandas(series: Any, type_: str, cells: list[Any], arrived: str) -> None:
    column = table_of(pd.DataFrame({"x": series}))["x"]
    assert (column.type, column.cells(), column.arrived) == (type_, cells, arrived)


def test_null_and_nan_stay_apart_where_pandas_can_tell_them_apart() -> None:
    array = pd.arrays.FloatingArray(np.array([NAN, NAN, 1.0]), np.array([False, True, False]))
    masked = table_of(pd.DataFrame({"x": array}))["x"]
    assert masked.mask().tolist() == [True, False, True]
    bare = table_of(pd.DataFrame({"x": [NAN, 1.0]}))["x"]
    assert bare.mask().all()


@pytest.mark.parametrize(
    ("array", "type_", "cells", "unit"),
    [
        (pa.array([1, None], pa.int8()), INT64, [1, None], None),
        (pa.array([2**63], pa.uint64()), DECIMAL, [str(2**63)], None),
        (pa.array([1.5, None], pa.float32()), FLOAT64, [1.5, None], None),
        (pa.array([Decimal("1.10"), None]), DECIMAL, ["1.10", None], None),
        (pa.array(["a", None, "a"]).dictionary_encode(), TEXT, ["a", None, "a"], None),
        (pa.array(["a", None], pa.large_string()), TEXT, ["a", None], None),
        (pa.array([date(1970, 1, 2)]), TIME, [1], "D"),
        (pa.array([5, None], pa.timestamp("us")), TIME, [5, None], "us"),
        (pa.array([5], pa.timestamp("s", tz="Asia/Tokyo")), TIME, [5], "s"),
        (pa.array([[1], None]), OTHER, [0, None], None),
        (pa.nulls(2), OTHER, [None, None], None),
        (pa.chunked_array([[1, None], [3]]), INT64, [1, None, 3], None),
        (pa.chunked_array([], pa.string()), TEXT, [], None),
    ],
)
def test_types_of_arrow(array: Any, type_: str, cells: list[Any], unit: str | None) -> None:
    column = table_of(pa.table({"x": array}))["x"]
    if type_ == OTHER:
        cells = [None if c is None else i for i, c in enumerate(cells)]
    assert (column.type, column.cells(), column.unit) == (type_, cells, unit)


def test_words_of_arrow_are_distinct_whatever_its_dictionary() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["a", "a", "b"]))
    column = table_of(pa.table({"x": array}))["x"]
    assert column.words == ("a", "b") and column.cells() == ["a", "a", "b"]


TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    "times",
    [
        pd.to_datetime(["2025-01-01T00:00", "2025-01-01T00:01"]),
        pd.to_datetime(["2025-01-01T00:00", "2025-01-01T00:01"]).as_unit("s"),
        pd.to_datetime(["2025-01-01T09:00", "2025-01-01T09:01"]).tz_localize("Asia/Tokyo"),
        [datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 9, 1, tzinfo=TOKYO)],
        ["2025-01-01", "2025-01-01T09:01:00+09:00"],
    ],
)
def test_datetimes_become_utc_and_say_so(times: Any) -> None:
    unit = "iso8601" if isinstance(times[0], str) else "datetime"
    made = conform(frame(times), ts_unit=unit, interval="1m")
    assert made.report.counts == {"dtype_cast": 2}
    assert str(made.frame["ts"].dtype) == "datetime64[ns, UTC]"
    assert made.frame["ts"].astype("int64").tolist() == [1735689600 * S, 1735689660 * S]
    table = pa.table({name: pa.array(column) for name, column in frame(times).items()})
    of_arrow = conform(table, ts_unit=unit, interval="1m")
    assert str(of_arrow.frame["ts"].type) == "timestamp[ns, tz=UTC]"
    assert of_arrow.report.to_dict() == made.report.to_dict()


def test_a_datetime_column_states_its_unit_and_another_one_is_refused() -> None:
    times = pd.to_datetime(["2025-01-01"])
    assert conform(frame(times)).report.counts == {"dtype_cast": 1}
    with pytest.raises(UsageError) as refused:
        conform(frame(times), ts_unit="ms")
    assert refused.value.parameter == "ts_unit"


def test_what_nothing_changed_comes_back_with_its_type() -> None:
    given = frame(
        [60, 0, 0],
        symbol=pd.Series(["A", "A", "A"], dtype="category"),
        trades=pd.Series([1, None, None], dtype="Int64"),
        note=[{"k": 1}, None, {"k": 3}],
        when=pd.to_datetime(["2020-01-01"] * 3),
    )
    given.index = pd.Index([7, 8, 9])
    before = given.copy(deep=True)
    made = conform(given, ts_unit="s", interval="1m", partial_ok=True)
    pd.testing.assert_frame_equal(given, before)
    assert made.rows.tolist() == [1, 0]
    expected = given.iloc[[1, 0]].reset_index(drop=True)
    expected["ts"] = np.array([0, 60 * S])
    pd.testing.assert_frame_equal(made.frame, expected)
    table = pa.table({"ts": [0], **{n: [v] for n, v in FLAT.items()}, "tags": [["x"]]})
    assert conform(table, ts_unit="s").frame.drop(["ts"]).equals(table.drop(["ts"]))


def test_nulls_make_nullable_columns_and_nan_stays() -> None:
    given = pd.DataFrame({"ts": [0, 60, 120], "price": [1.0, float("inf"), NAN]})
    made = conform(given, ts_unit="s", schema={"price": "double"}, partial_ok=True)
    assert made.report.counts == {"non_finite": 2}
    assert str(made.frame["price"].dtype) == "Float64"
    assert pa.array(made.frame["price"].array).is_null().to_pylist() == [False, True, False]
    columns = {"ts": [0, 60, 120], "price": pa.array([1.0, float("inf"), NAN])}
    schema = {"price": "double"}
    table = conform(pa.table(columns), ts_unit="s", schema=schema, partial_ok=True).frame
    assert table["price"].is_null().to_pylist() == [False, True, False]
    texts = pd.DataFrame({"ts": [0], "price": [7]})
    assert conform(texts, ts_unit="s", schema={"price": "text"}).frame["price"].tolist() == ["7"]


def test_levels_of_the_index_may_be_columns() -> None:
    columns = frame([60, 0], symbol=["A", "B"])
    indexed = columns.set_index(["symbol", "ts"])
    made = conform(indexed, ts_unit="s", interval="1m")
    plain = conform(columns, ts_unit="s", interval="1m")
    assert made.report.to_dict() == plain.report.to_dict()
    assert made.frame["ts"].tolist() == [0, 60 * S]


def test_a_blocked_frame_raises_and_partial_ok_gives_frame_and_log() -> None:
    given = frame([0, 0, 60], close=[1.0, 1.0, 1.0], volume=[1.0, 2.0, 3.0])
    with pytest.raises(ConformancePipelineError) as blocked:
        conform(given, ts_unit="s", interval="1m")
    assert isinstance(blocked.value.fields["report"], ConformanceReport)
    made = conform(given, ts_unit="s", interval="1m", partial_ok=True)
    assert made.frame["volume"].tolist() == [2.0, 3.0]
    assert made.revision.tolist() == [1, 0]
    assert made.log()["volume"].tolist() == [1.0, 2.0, 3.0]
    assert conform(pa.Table.from_pandas(given), ts_unit="s", interval="1m", partial_ok=True).log()[
        "volume"
    ].to_pylist() == [1.0, 2.0, 3.0]


def test_a_former_report_may_be_handed_over_as_plain_data() -> None:
    clean = conform(frame([0, 60]), ts_unit="s", interval="1m").report
    later = conform(
        frame([0, 120]), ts_unit="s", interval="1m", partial_ok=True, baseline=clean.to_dict()
    )
    assert later.report.regressions is not None
    assert [each.change for each in later.report.regressions] == ["new_rule", "bars_lost"]


@pytest.mark.parametrize("given", [None, [1, 2], {"ts": [1]}, np.zeros(3)])
def test_what_is_no_frame_is_refused(given: object) -> None:
    with pytest.raises(UsageError) as refused:
        conform(given, ts_unit="s")
    assert refused.value.parameter == "frame" and refused.value.value == type(given).__name__


def test_columns_need_distinct_text_names() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["ts", "ts"])
    for given in (twice, pd.DataFrame({0: [1]}), pa.table([[1], [2]], names=["ts", "ts"])):
        with pytest.raises(UsageError) as refused:
            conform(given, ts_unit="s")
        assert refused.value.parameter == "frame"


def test_an_empty_frame_is_clean() -> None:
    empty = frame(pd.Series([], dtype="int64")).iloc[:0]
    made = conform(empty, ts_unit="s", interval="1m")
    assert len(made.frame) == 0 and made.report.findings == {}
    assert list(made.frame.columns) == list(empty.columns)


def test_a_window_may_be_cells_of_the_frame_itself() -> None:
    given = frame([0, 60, 180])
    made = conform(
        *(given,),
        ts_unit="s",
        interval="1m",
        window=(given["ts"].min(), given["ts"].max()),
        partial_ok=True,
    )
    assert made.report.findings["gap"].ranges.tolist() == [[0, 120 * S, 180 * S]]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (frame([0, 60]).set_index("ts", drop=False), ["ts"]),
        (frame([0, 60], symbol=["A", "B"]).set_index(["ts", "symbol"]).rename_axis(["ts", "ts"]),
         ["ts"]),
        (frame([0, 60]).set_index(["ts", "open"], drop=False), ["open", "ts"]),
    ],
)  # fmt: skip
def test_a_level_of_the_index_has_a_name_of_its_own(given: pd.DataFrame, value: object) -> None:
    with pytest.raises(UsageError) as refused:
        conform(given, ts_unit="s")
    assert (refused.value.parameter, refused.value.value) == ("frame", value)
    assert refused.value.fix


def test_what_arrow_cannot_take_rows_of() -> None:
    plain = {name: pa.array([value]) for name, value in FLAT.items()}
    views = pa.table({"ts": [0], **plain, "symbol": pa.array(["A"], pa.string_view())})
    made = conform(views, ts_unit="s", interval="1m")
    assert made.frame["symbol"].type == pa.string_view()
    assert made.frame["symbol"].to_pylist() == ["A"]
    runs = pa.RunEndEncodedArray.from_arrays([1], [1.0])
    with pytest.raises(UsageError) as refused:
        conform(pa.table({"ts": [0], **plain, "note": runs}), ts_unit="s", partial_ok=True)
    assert refused.value.parameter == "note" and refused.value.fix


def test_an_object_that_is_no_text_becomes_one_only_with_a_finding() -> None:
    given = frame([0, 60], symbol=pd.Series(["1", 1], dtype=object))
    found = conform(given, ts_unit="s", interval="1m").report.findings
    assert found["dtype_cast"].columns == ("symbol",)
    texts = frame([0, 60], symbol=pd.Series(["1", "1"], dtype=object))
    assert conform(texts, ts_unit="s", interval="1m").report.findings == {}
