"""Times and casts: exact or not at all, and never guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from seamline.schemas.errors import UsageError
from seamline.schemas.times import INT64_MAX
from seamline.streams.kernel.casts import TYPES, cast, type_named, without_negative_zero
from seamline.streams.kernel.instants import instants, ns_of_text, time_of, whole
from seamline.streams.kernel.table import (
    DECIMAL,
    FLOAT64,
    INT64,
    OTHER,
    TEXT,
    TIME,
    Column,
    Table,
)

S = 10**9


def read(cells: list[Any], unit: str | None) -> list[int | None]:
    found = instants(Column.of(cells), unit)
    return [
        t if ok else None
        for t, ok in zip(found.time_ns.tolist(), found.valid.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("cells", "unit", "times"),
    [
        ([0, 60, None, -60], "s", [0, 60 * S, None, -60 * S]),
        ([1735689600123], "ms", [1735689600123 * 10**6]),
        ([2**53 + 1], "us", [(2**53 + 1) * 1000]),
        ([2**53 + 1, 2**63 - 1, -(2**63)], "ns", [2**53 + 1, 2**63 - 1, None]),
        ([9223372036, 9223372037, -9223372036, -9223372037], "s",
         [9223372036 * S, None, -9223372036 * S, None]),
        ([60.5, 0.1, 1735689600.123], "s", [60 * S + S // 2, S // 10, 1735689600123000000]),
        # Its shortest decimal is .2; its binary value is a whole number of ns.
        ([1735689600000000.25], "us", [1735689600000000250]),
        ([0.5, 1e-10, float("nan"), float("inf"), 1e300, 1.0], "ns",
         [None, None, None, None, None, 1]),
        ([1e-9, 1.5e-9], "s", [1, None]),
        (["60", " 0.25 ", "1e3", "x", "1_0", "", "nan"], "s",
         [60 * S, S // 4, 1000 * S, None, None, None, None]),
        ([10413792000 * S, 5], "ns", [None, 5]),
        ([Decimal("1735689600.123456789"), Decimal("1.0000000001")], "s",
         [1735689600123456789, None]),
        ([None, None], "s", [None, None]),
        ([True], "s", [None]),
    ],
)  # fmt: skip
def test_numbers_and_their_texts(cells: list[Any], unit: str, times: list[int | None]) -> None:
    assert read(cells, unit) == times


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:01Z", S),
        ("1970-01-01 00:00:01", S),
        ("1970-01-01T02:00:01+02:00", S),
        ("1969-12-31T23:59:59.5Z", -S // 2),
        ("1970-01-01T00:00:00.123456789Z", 123456789),
        ("1970-01-01T00:00:00.1234567890Z", 123456789),
        ("1970-01-01T00:00:00.1234567891Z", None),
        ("19700102", 86_400 * S),
        ("19700102T00:00:00.5", 86_400 * S + S // 2),
        # Numbers: the standard library would read a date, a separator and a time.
        ("19700102.5", None),
        ("1710121200123.5", None),
        ("1710121200123Z", None),
        ("1970", None),
        ("", None),
        ("1970-01-02", 86_400 * S),
        ("2262-04-11T23:47:16.854775807Z", INT64_MAX),
        ("2262-04-11T23:47:16.854775808Z", None),
        ("2300-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("1735689600", None),
        ("2025-02-30T00:00:00Z", None),
        ("soon", None),
        ("", None),
    ],
)
def test_iso_texts(text: str, time_ns: int | None) -> None:
    assert ns_of_text(text) == time_ns


def test_where_a_conversion_was_tried() -> None:
    def tried(column: Column, unit: str | None) -> list[bool] | None:
        found = instants(column, unit).tried
        return None if found is None else found.tolist()

    assert tried(Column.of([1, None]), "s") is None
    assert tried(Column.of([1.5, None]), "s") is None
    assert tried(Column.of(["1", None]), "s") == [True, False]
    assert tried(Column.of(["1970-01-01", None]), "iso8601") == [True, False]
    assert tried(Column(TIME, np.array([1, 2]), unit="D"), None) == [True, True]


@pytest.mark.parametrize("unit", [None, "iso8601", "datetime"])
def test_numbers_need_the_unit_of_a_number(unit: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        instants(Column.of([1735689600]), unit)
    assert refused.value.parameter == "ts_unit"
    assert refused.value.value == unit
    assert "s, ms, us" in str(refused.value)


def test_texts_need_a_unit_too() -> None:
    with pytest.raises(UsageError) as refused:
        instants(Column.of(["2025-01-01"]), None)
    assert refused.value.parameter == "ts_unit"


@pytest.mark.parametrize("unit", [None, "ns", "datetime"])
def test_a_column_may_state_its_unit_itself(unit: str | None) -> None:
    assert instants(Column(INT64, np.array([5]), unit="ns"), unit).time_ns.tolist() == [5]


def test_a_unit_beside_another_one_of_the_column_is_refused() -> None:
    with pytest.raises(UsageError, match="ts_unit = 'ms'"):
        instants(Column(TIME, np.array([5]), unit="ns"), "ms")


@pytest.mark.parametrize(
    ("value", "unit", "time_ns"),
    [
        (60, "s", 60 * S),
        (0.5, "ms", 500_000),
        ("1970-01-01T00:00:01Z", "s", S),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None, S),
    ],
)
def test_times_of_settings(value: object, unit: str | None, time_ns: int) -> None:
    assert time_of(value, unit, parameter="window") == time_ns


@pytest.mark.parametrize(
    ("value", "unit", "named"),
    [
        (60, None, "ts_unit"),
        (60, "iso8601", "ts_unit"),
        (datetime(1970, 1, 1), "s", "window"),
        ("soon", "s", "window"),
        (None, "s", "window"),
        (True, "s", "window"),
        (10**20, "s", "window"),
    ],
)
def test_times_of_settings_that_are_none(value: object, unit: str | None, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        time_of(value, unit, parameter="window")
    assert refused.value.parameter == named and refused.value.fix


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("1.50", None),
        ("15e-1", None),
        ("150e-1", 15),
        ("1e999999999", None),
        ("-0.0", 0),
        ("Infinity", None),
        ("one", None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole(text) == number


@pytest.mark.parametrize(
    ("cells", "wanted", "made", "failed"),
    [
        ([1, None, 2**53 + 1], FLOAT64, [1.0, None, 2.0**53], []),
        ([1.0, 1.5, float("nan"), 2.0**63, None], INT64, [1, None, None, None, None], [1, 2, 3]),
        (["1.5", "oops", None, "-inf"], FLOAT64, [1.5, None, None, float("-inf")], [1]),
        (["7", "7.0", "7.5", "9007199254740993"], INT64, [7, 7, None, 9007199254740993], [2]),
        ([2**63, 1], INT64, [None, 1], [0]),
        ([2**63, 1], FLOAT64, [2.0**63, 1.0], []),
        ([2**63, 1], TEXT, [str(2**63), "1"], []),
        ([1, None], TEXT, ["1", None], []),
        ([0.1], TEXT, ["0.1"], []),
        ([True, False], FLOAT64, [None, None], [0, 1]),
        (["true", "no", "FALSE"], "bool", [True, None, False], [1]),
        (["a"], TIME, [None], [0]),
    ],
)
def test_casts(cells: list[Any], wanted: str, made: list[Any], failed: list[int]) -> None:
    done = cast(Column.of(cells), wanted)
    assert done.column.type == wanted
    assert done.column.cells() == made
    assert [type(c) for c in done.column.cells()] == [type(c) for c in made]
    assert done.tried is not None
    assert done.tried.tolist() == [cell is not None for cell in cells]
    assert ([] if done.failed is None else np.flatnonzero(done.failed).tolist()) == failed


def test_the_wanted_type_and_nothing_but_nulls_are_no_conversion() -> None:
    column = Column.of([1.0, None])
    assert cast(column, FLOAT64).column is column
    nothing = cast(Column.of([None, None]), INT64)
    assert (nothing.column.cells(), nothing.tried) == ([None, None], None)
    narrow = Column(INT64, np.array([1]), arrived="int32")
    done = cast(narrow, INT64)
    assert done.tried is not None and done.tried.all() and done.failed is None
    assert done.column.arrived == ""


def test_negative_zero() -> None:
    column = without_negative_zero(Column.of([-0.0, -1.0, None]))
    assert not np.signbit(column.values[0]) and column.cells() == [0.0, -1.0, None]
    untouched = Column.of([0.0, -1.0])
    assert without_negative_zero(untouched) is untouched


def test_names_of_types() -> None:
    assert {type_named(n, parameter="p") for n in ("int64", "Int64", "long")} == {INT64}
    assert {type_named(n, parameter="p") for n in ("float64", "Float64", "double")} == {FLOAT64}
    for unclear in ("int", "float", "decimal", "", None, ["null", "double"]):
        with pytest.raises(UsageError) as refused:
            type_named(unclear, parameter="price")
        assert refused.value.parameter == "price" and "float64" in str(refused.value)
    assert set(TYPES.values()) >= {INT64, FLOAT64, TEXT}


@pytest.mark.parametrize(
    ("cells", "type_"),
    [
        ([1, None], INT64),
        ([1, 2.5], FLOAT64),
        ([1, "NaN"], FLOAT64),
        (["NaN", "-Infinity"], FLOAT64),
        (["NaN", "x"], TEXT),
        ([2**53 + 1, 0.5], DECIMAL),
        ([2**63], DECIMAL),
        ([Decimal("0.1"), 1], DECIMAL),
        ([True, None], "bool"),
        ([True, 1], TEXT),
        ([None], OTHER),
        ([], OTHER),
    ],
)
def test_types_of_loose_cells(cells: list[Any], type_: str) -> None:
    assert Column.of(cells).type == type_


def test_a_table_has_columns_of_one_length() -> None:
    with pytest.raises(UsageError) as refused:
        Table({"a": Column.of([1]), "b": Column.of([1, 2])}, 1)
    assert refused.value.value == "b"
