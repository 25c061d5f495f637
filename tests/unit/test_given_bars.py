"""What a person may hand over as bars, and how everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from seamline.schemas.columns import SOURCES, BarColumns, ConformedColumns
from seamline.schemas.errors import UsageError
from seamline.sdk.given_bars import columns_of, source_of

# The stubs of Arrow name only a part of it.
pa: Any = pyarrow
NOW_NS = 1_900_000_000_000_000_000
MINUTE_NS = 60_000_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
START_NS = 1_767_225_600_000_000_000


def bar(at: int = 0, **changes: Any) -> dict[str, Any]:
    prices = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0}
    return {"open_time": START + timedelta(minutes=at), **prices, **changes}


def taken(bars: object) -> BarColumns:
    return columns_of("BTC/USDT", bars, source=1, now_ns=NOW_NS).check()


def columns(**changes: Any) -> dict[str, Any]:
    given = {name: [row[name] for row in (bar(0), bar(1))] for name in bar()}
    return given | {"trades": [7, None], "quote_volume": [1.5, None]} | changes


def numbered() -> dict[str, Any]:
    given = columns(open_time_ns=[START_NS, START_NS + MINUTE_NS])
    del given["open_time"]
    return given


def frame(**changes: Any) -> pd.DataFrame:
    made = pd.DataFrame(columns())
    made["trades"] = made["trades"].astype("Int64")
    return made.assign(**changes)


def arrow(**changes: Any) -> Any:
    return pa.table(columns(**changes))


@pytest.mark.parametrize(
    "bars",
    [
        [bar(0, trades=7, quote_volume=1.5), bar(1, trades=None)],
        columns(),
        columns(trades=[7.0, float("nan")]),
        columns(open=np.array([10.0, 10.0]), volume=np.array([5, 5]), high=(12, Decimal("12.0"))),
        columns(open_time=["2026-01-01T00:00:00Z", "2026-01-01T01:01:00+01:00"]),
        frame(),
        frame().set_index("open_time"),
        frame(symbol="BTC/USDT"),
        arrow(),
        numbered(),
    ],
    ids=["rows", "columns", "nan", "arrays", "texts", "frame", "index", "symbol", "arrow", "ns"],
)
def test_the_same_bars_in_every_shape(bars: object) -> None:
    found = taken(bars)
    assert found.open_time_ns.tolist() == [START_NS, START_NS + MINUTE_NS]
    assert [found.open[0], found.high[1], found.low[0], found.close[1]] == [10.0, 12.0, 9.0, 11.0]
    assert found.volume.tolist() == [5.0, 5.0]
    assert found.quote_volume[0] == 1.5 and np.isnan(found.quote_volume[1])
    assert found.trades.tolist() == [7, -1]
    assert found.first_trade_id.tolist() == [-1, -1]
    assert found.received_time_ns.tolist() == [NOW_NS, NOW_NS]
    assert found.closed.all() and (found.source == 1).all()


def test_columns_of_a_stream_are_bars() -> None:
    given = taken(columns())
    again = taken(ConformedColumns.of_landing(given))
    for name in ("open_time_ns", "open", "quote_volume", "trades"):
        np.testing.assert_array_equal(getattr(again, name), getattr(given, name))


def test_no_bars_are_no_bars() -> None:
    nothings: tuple[object, ...] = ([], {}, pd.DataFrame(), BarColumns.empty(0))
    for nothing in nothings:
        assert len(taken(nothing)) == 0


def test_a_price_that_is_not_finite_is_left_to_the_rules() -> None:
    found = taken([bar(open=float("nan"), volume=float("inf"))])
    assert np.isnan(found.open[0]) and np.isinf(found.volume[0])


def test_a_preview_is_open() -> None:
    found = columns_of("A/B", [bar()], source=source_of("ws_open"), now_ns=NOW_NS)
    assert not found.closed.any() and SOURCES[found.source[0]] == "ws_open"
    with pytest.raises(UsageError, match="source = 'ws'"):
        source_of("ws")


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"open": "oops"}, "bars[1].open", "a str, not a number"),
        ({"open": "10.5"}, "bars[1].open", "a str, not a number"),
        ({"high": None}, "bars[1].high", "missing"),
        ({"low": True}, "bars[1].low", "a truth value"),
        ({"close": 1 + 2j}, "bars[1].close", "a complex"),
        ({"close": Decimal("sNaN")}, "bars[1].close", "a Decimal"),
        ({"volume": 2**63}, "bars[1].volume", "exactly"),
        ({"volume": 2**53 + 1}, "bars[1].volume", "exactly"),
        ({"volume": [1.0]}, "bars[1].volume", "a list"),
        ({"open_time": datetime(2026, 1, 1)}, "bars[1].open_time", "naive"),
        ({"open_time": pd.Timestamp("2026-01-01")}, "bars[1].open_time", "naive"),
        ({"open_time": "2026-01-01T00:00"}, "bars[1].open_time", "naive"),
        ({"open_time": 1_767_225_600_000}, "bars[1].open_time", "without a unit"),
        ({"open_time": None}, "bars[1].open_time", "missing"),
        ({"open_time": START + timedelta(microseconds=1)}, "bars[1].open_time", "millisecond"),
        ({"open_time": datetime(9999, 1, 1, tzinfo=UTC)}, "bars[1].open_time", "int64"),
        ({"received_time": "soon"}, "bars[1].received_time", "not a time"),
        ({"received_time_ns": 2**63}, "bars[1].received_time_ns", "int64"),
        ({"received_time_ns": 1.5}, "bars[1].received_time_ns", "whole number"),
        ({"trades": 2**63}, "bars[1].trades", "int64"),
        ({"trades": -1}, "bars[1].trades", "outside 0"),
        ({"trades": 1.5}, "bars[1].trades", "whole number"),
        ({"trades": float("inf")}, "bars[1].trades", "whole number"),
        ({"trades": "7"}, "bars[1].trades", "whole number"),
        ({"trades": False}, "bars[1].trades", "whole number"),
        ({"symbol": "ETH/USDT"}, "bars[1].symbol", "not 'BTC/USDT'"),
    ],
)
def test_a_wrong_cell_is_named(changes: dict[str, Any], where: str, what: str) -> None:
    received = [name for name in changes if name.startswith("received")]
    known = {name: {"received_time": START, "received_time_ns": 0}[name] for name in received}
    rows = [bar(0, **known), bar(1, **changes)]
    for given in (rows, {name: [row.get(name) for row in rows] for name in rows[1]}):
        with pytest.raises(UsageError) as raised:
            taken(given)
        assert raised.value.parameter == where
        assert what in raised.value.message and raised.value.fix
        assert raised.value.fields["row"] == 1


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ([bar(), (START, 1.0)], "bars[1]"),
        ([{**bar(), "price": 1.0}], "bars"),
        ([{k: v for k, v in bar().items() if k != "volume"}], "bars"),
        ([{k: v for k, v in bar().items() if k != "open_time"}], "bars"),
        ([{**bar(), "open_time_ns": 0}], "open_time"),
        ({**columns(), "open": [1.0]}, "bars"),
        ({**columns(), "open": 1.0}, "bars['open']"),
        ({**columns(), "open": np.ones((2, 2))}, "bars[0].open"),
        ({**columns(), "open_time": np.array(["2026-01-01"] * 2, "M8[us]")}, "bars[0].open_time"),
        ({**columns(), "open_time": np.array(["2026-01-01"] * 2, "M8[ns]")}, "bars[0].open_time"),
        ("oops", "bars"),
        (None, "bars"),
        (iter([bar()]), "bars"),
        (7, "bars"),
    ],
)
def test_what_is_no_bars_is_refused(given: object, parameter: str) -> None:
    with pytest.raises(UsageError) as raised:
        taken(given)
    assert raised.value.parameter == parameter and raised.value.fix


@pytest.mark.parametrize(
    ("made", "parameter"),
    [
        (lambda: frame(open=["oops", "10"]), "bars[0].open"),
        (lambda: frame(open=[10.0, "oops"]), "bars[0].open"),
        (lambda: frame(open=[True, False]), "bars[0].open"),
        (lambda: frame(open=[object(), object()]), "bars[0].open"),
        (lambda: frame(open_time=pd.date_range("2026-01-01", periods=2)), "bars['open_time']"),
        (lambda: frame(open_time=[1, 2]), "bars[0].open_time"),
        (
            lambda: frame(open_time=pd.to_datetime(["2026-01-01", "NaT"], utc=True)),
            "bars[1].open_time",
        ),
        (lambda: frame(trades=pd.array([1, 2**64 - 1], "UInt64")), "bars[0].trades"),
        (lambda: frame(trades=[1, -1]), "bars[1].trades"),
        (lambda: frame(high=pd.array([1.0, None], "Float64")), "bars[1].high"),
        (lambda: frame(flags=[1, 2]), "bars"),
        (lambda: arrow(open=["1", "2"]), "bars[0].open"),
        (lambda: arrow(low=[1.0, None]), "bars[1].low"),
        (lambda: arrow(open_time=pa.array([0, 1], pa.timestamp("ms"))), "bars['open_time']"),
        (
            lambda: arrow(open_time=pa.array([0, 2**62], pa.timestamp("s", tz="UTC"))),
            "bars[1].open_time",
        ),
    ],
)
def test_a_wrong_column_of_a_frame_is_named(made: Callable[[], object], parameter: str) -> None:
    with pytest.raises(UsageError) as raised:
        taken(made())
    assert raised.value.parameter == parameter and raised.value.fix


def test_times_of_other_zones_and_units_are_the_same_instant() -> None:
    east = timezone(timedelta(hours=2))
    for given in (
        [bar(open_time=START.astimezone(east))],
        {**{k: [v] for k, v in bar().items()}, "open_time": pa.array([START])},
        pd.DataFrame([bar()]).assign(open_time=lambda f: f.open_time.dt.tz_convert("Asia/Tokyo")),
        pa.table(
            {
                **{k: [v] for k, v in bar().items()},
                "open_time": pa.array([START_NS // 10**9], pa.timestamp("s", tz="UTC")),
            }
        ),
    ):
        assert taken(given).open_time_ns.tolist() == [START_NS]
