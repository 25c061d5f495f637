"""Expected bars by sessions: rules on small arrays, then the calendars of real exchanges."""

from __future__ import annotations

import csv
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.connectors import calendars
from seamline.connectors.calendars import calendar
from seamline.presets.calendars import CALENDARS
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import DAY_NS, NS_PER_S
from seamline.sdk.conforming import conform
from seamline.streams.kernel.calendar import ALWAYS, Calendar, Sessions
from seamline.streams.kernel.coverage import Interval, compute_missing_ranges, window_coverage

MINUTE_NS, HOUR_NS = 60 * NS_PER_S, 3_600 * NS_PER_S
KO = Path(__file__).parent.parent / "data" / "us_equity_1d" / "KO.csv"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS_PER_S


def small(trading: list[Interval], dates: list[int], known: Interval) -> Calendar:
    spans = np.array(trading, np.int64).reshape(-1, 2)
    return Calendar("TEST", Sessions(np.array(dates, np.int64), spans, known))


@settings(deadline=None, max_examples=300)
@given(
    st.sets(st.integers(-100, 100), max_size=12),
    st.integers(1, 15),
    st.integers(-20, 20),
    st.tuples(st.integers(-100, 100), st.integers(-100, 100)),
)
def test_a_cell_is_expected_when_any_of_it_is_trading_time(
    edges: set[int], interval: int, origin: int, ends: tuple[int, int]
) -> None:
    cuts = sorted(edges)
    trading = list(zip(cuts[::2], cuts[1::2], strict=False))
    window = (min(ends), max(ends))
    found = small(trading, [], (-200, 200)).expected(window, interval_ns=interval, origin_ns=origin)
    wanted = {
        cell
        for cell in range(window[0], window[1] - interval + 1)
        if (cell - origin) % interval == 0
        and any(a < cell + interval and cell < b for a, b in trading)
    }
    assert set(found.cell_starts().tolist()) == wanted
    missing = compute_missing_ranges(
        [], window, interval_ns=interval, origin_ns=origin, expected=found
    )
    assert missing == found


@settings(deadline=None, max_examples=200)
@given(
    st.sets(st.integers(-30, 30)),
    st.integers(1, 9),
    st.integers(-9, 9),
    st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
)
def test_a_day_bar_is_expected_where_a_label_is(
    days: set[int], length: int, origin: int, ends: tuple[int, int]
) -> None:
    found = small([], [day * DAY_NS for day in sorted(days)], (-99 * DAY_NS, 99 * DAY_NS)).expected(
        (min(ends) * DAY_NS, max(ends) * DAY_NS),
        interval_ns=length * DAY_NS,
        origin_ns=origin * DAY_NS,
    )
    wanted = {
        day * DAY_NS
        for day in range(min(ends), max(ends) - length + 1)
        if (day - origin) % length == 0 and days & set(range(day, day + length))
    }
    assert set(found.cell_starts().tolist()) == wanted


def test_trading_that_never_stops_expects_every_whole_cell() -> None:
    found = calendar("24/7").expected((5, 95), interval_ns=10)
    assert calendar("24/7") is ALWAYS and found.intervals == ((10, 90),)
    assert ALWAYS.expected((-(2**63), 2**63 - 1), interval_ns=1).cells == 2**64 - 1


def test_a_window_outside_what_is_known_is_refused() -> None:
    known = small([(10, 20)], [], (0, 100))
    for window in ((-1, 50), (50, 101), (200, 300)):
        with pytest.raises(ContractError) as raised:
            known.expected(window, interval_ns=1)
        assert raised.value.parameter == "window_ns"
        assert raised.value.fields["known_ns"] == (0, 100)
    assert not known.expected((500, 500), interval_ns=1)  # nothing is asked of it
    for window, interval, name in (((9, 0), 1, "window_ns"), ((0, 9), 0, "interval_ns")):
        with pytest.raises(UsageError) as refused:
            known.expected(window, interval_ns=interval)
        assert refused.value.parameter == name


@pytest.mark.parametrize(
    ("dates", "trading", "field"),
    [
        (np.array([DAY_NS, 0]), np.empty((0, 2), np.int64), "dates_ns"),
        (np.array([5]), np.empty((0, 2), np.int64), "dates_ns"),
        (np.array([0.0]), np.empty((0, 2), np.int64), "dates_ns"),
        (np.array([0]), np.array([[5, 5]]), "trading_ns"),
        (np.array([0]), np.array([[0, 9], [8, 12]]), "trading_ns"),
        (np.array([0]), np.array([0, 9]), "trading_ns"),
    ],
)
def test_sessions_that_are_none_are_refused(
    dates: np.ndarray, trading: np.ndarray, field: str
) -> None:
    with pytest.raises(UsageError) as raised:
        Sessions(dates, trading, (0, DAY_NS))
    assert raised.value.parameter == field


@pytest.mark.parametrize("name", ["XNYS", "XNAS"])
def test_real_daily_bars_are_exactly_the_sessions(name: str) -> None:
    with KO.open(encoding="utf-8") as lines:
        dates = [date.fromisoformat(row["date"]) for row in csv.DictReader(lines)]
    times = [at(f"{day}T00:00:00") for day in dates]
    window = (at("2012-01-01T00:00:00"), at("2015-01-01T00:00:00"))
    expected = calendar(name).expected(window, interval_ns=DAY_NS)
    assert expected.cell_starts().tolist() == times
    # One session less is one bar missing, with its date; a holiday never is.
    have = [(time, time + DAY_NS) for time in times if time != at("2013-07-05T00:00:00")]
    found = window_coverage(have, window, interval_ns=DAY_NS, expected=expected)
    assert (found.expected_bars, found.missing_bars) == (754, 1)
    assert found.missing.bounds == (at("2013-07-05T00:00:00"), at("2013-07-06T00:00:00"))


def test_a_frame_of_daily_bars_is_conformed_by_the_calendar() -> None:
    frame = pd.read_csv(KO).rename(columns={"date": "ts"}).drop(columns=["dividend", "split"])
    frame = frame.assign(symbol="KO", ts=pd.to_datetime(frame["ts"], utc=True))
    stated: dict[str, Any] = {
        "calendar": "XNYS",
        "interval": "1d",
        "window": ("2012-01-01T00:00:00Z", "2015-01-01T00:00:00Z"),
    }
    assert "gap" not in conform(frame, **stated).report.findings
    holed = frame.drop(index=[100, 101, 300])
    report = conform(holed, **stated, partial_ok=True).report
    assert report.findings["gap"].missing == 3
    # Without the exchange's sessions every weekend is a gap.
    report = conform(frame, **{**stated, "calendar": "24/7"}, partial_ok=True).report
    assert report.findings["gap"].missing == 1096 - 754
    for name in ("interval", "window"):
        with pytest.raises(UsageError) as raised:
            conform(frame, **{**stated, name: None})
        assert raised.value.parameter == name


def test_minutes_of_a_session_follow_its_hours() -> None:
    new_york, day = calendar("XNYS"), (at("2014-07-03T00:00:00"), at("2014-07-08T00:00:00"))
    minutes = new_york.expected(day, interval_ns=MINUTE_NS)
    assert minutes.intervals == (
        (at("2014-07-03T13:30:00"), at("2014-07-03T17:00:00")),  # closes early
        (at("2014-07-07T13:30:00"), at("2014-07-07T20:00:00")),  # after the holiday and a weekend
    )
    hours = new_york.expected(day, interval_ns=HOUR_NS)
    assert hours.intervals[0] == (at("2014-07-03T13:00:00"), at("2014-07-03T17:00:00"))
    # In winter the same hours are one later in UTC.
    winter = (at("2014-01-06T00:00:00"), at("2014-01-07T00:00:00"))
    assert new_york.expected(winter, interval_ns=MINUTE_NS).bounds == (
        at("2014-01-06T14:30:00"),
        at("2014-01-06T21:00:00"),
    )


def test_a_lunch_break_is_not_expected() -> None:
    day = (at("2022-01-04T00:00:00"), at("2022-01-05T00:00:00"))
    assert calendar("XHKG").expected(day, interval_ns=MINUTE_NS).intervals == (
        (at("2022-01-04T01:30:00"), at("2022-01-04T04:00:00")),
        (at("2022-01-04T05:00:00"), at("2022-01-04T08:00:00")),
    )


def test_a_calendar_says_what_it_knows() -> None:
    tokyo = calendar("XTKS")  # recorded from 1997 on
    with pytest.raises(ContractError, match="is known from 1997"):
        tokyo.expected((at("1996-05-01T00:00:00"), at("1998-05-01T00:00:00")), interval_ns=DAY_NS)
    with pytest.raises(ContractError, match="known"):
        tokyo.expected((at("2020-01-01T00:00:00"), at("2200-01-01T00:00:00")), interval_ns=DAY_NS)
    assert calendar("XTKS") is tokyo


def test_an_unknown_name_has_near_matches() -> None:
    for name, near in (("XNYE", "XNYS"), ("24/6", "24/7"), ("New York", "One of")):
        with pytest.raises(UsageError, match=near) as raised:
            calendar(name)
        assert raised.value.parameter == "calendar"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    calendars._exchange.cache_clear()
    with pytest.raises(UsageError, match=r"seamline\[calendars\]") as raised:
        calendar("XNYS")
    assert raised.value.parameter == "calendar"
    assert calendar("24/7") is ALWAYS


def test_the_names_of_presets_are_those_of_the_library() -> None:
    import exchange_calendars

    broken = {"XBEL", "XBSE", "XCYS", "XTAE"}
    named = set(exchange_calendars.get_calendar_names(include_aliases=True)) - broken
    assert {name for name in named if len(name) == 4 and name[0] == "X"} == set(CALENDARS) - {
        "24/7"
    }
    assert len(set(CALENDARS)) == len(CALENDARS)


def test_a_presets_file_is_checked_without_pandas() -> None:
    code = (
        "import sys; from seamline.presets import loader; loader.load(None, {}); "
        "import seamline.connectors.calendars; "
        "print([m for m in ('pandas', 'exchange_calendars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
