"""Times at the edge: what is taken, what is refused, and that the refusal names the parameter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.schemas.errors import UsageError
from seamline.schemas.times import (
    NS_PER_S,
    TIMEFRAMES,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
    parse_timeframe,
)

NOW_NS = 1_700_000_000 * NS_PER_S
DAY_NS = 86_400 * NS_PER_S


@pytest.mark.parametrize(
    ("value", "expected_ns"),
    [
        ("2023-11-14T22:13:20Z", NOW_NS),
        ("2023-11-14T23:13:20+01:00", NOW_NS),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), NOW_NS),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), NOW_NS),
        (pd.Timestamp("2023-11-14T22:13:20.000000001Z"), NOW_NS + 1),
        ("-2d", NOW_NS - 2 * DAY_NS),
        ("-90s", NOW_NS - 90 * NS_PER_S),
        ("now", NOW_NS),
        ("1969-12-31T23:59:59Z", -NS_PER_S),
    ],
)
def test_what_is_a_time(value: object, expected_ns: int) -> None:
    assert parse_time(value, now_ns=NOW_NS, parameter="start") == expected_ns


@pytest.mark.parametrize(
    "value",
    [
        "2023-11-14T22:13:20",
        "2023-11-14",
        datetime(2023, 11, 14),
        1_700_000_000,
        1.5,
        "1700000000",
        "1710121200123+00:00",
        "20250101.5Z",
        "-3",
        "-3y",
        "yesterday",
        "",
        "3000-01-01T00:00:00Z",
        None,
        True,
    ],
)
def test_what_is_refused_by_name(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(value, now_ns=NOW_NS, parameter="start")
    assert caught.value.parameter is not None
    assert "start" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["5", "5 minutes", "m", "-5m", "1.5h", "", "99999999999999d"])
def test_a_duration_has_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text, parameter="lag")
    assert caught.value.parameter == "lag"


@given(st.integers(-(2**62), 2**62).map(lambda n: n // 1_000 * 1_000))
def test_a_formatted_time_reads_back(time_ns: int) -> None:
    assert parse_time(format_time(time_ns), now_ns=0, parameter="t") == time_ns


@given(st.integers(1, 100_000), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_formatted_duration_reads_back(number: int, unit: str) -> None:
    duration_ns = parse_duration(f"{number}{unit}", parameter="d")
    assert parse_duration(format_duration(duration_ns), parameter="d") == duration_ns


def test_timeframes_are_those_of_venues_in_order() -> None:
    lengths = [parse_timeframe(text) for text in TIMEFRAMES]
    assert lengths == sorted(set(lengths)) and lengths[5] == 60 * NS_PER_S
    assert lengths == [parse_duration(text, parameter="timeframe") for text in TIMEFRAMES]


@pytest.mark.parametrize("text", ["", "2x", "100m", "m1", " 1m", "1m ", "1M", "01m", "60", "1", 60])
def test_other_timeframes_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_timeframe(text)
    assert raised.value.parameter == "timeframe"
