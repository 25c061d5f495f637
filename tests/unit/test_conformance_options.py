"""Settings of conformance: what does not fit is refused by name, with the value and the fix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seamline.schemas.errors import UsageError
from seamline.streams.kernel.conformance_options import options, schema_fields

S = 10**9
GOOD: dict[str, Any] = {"kind": "bars", "ts_unit": "s", "interval": 60, "interval_unit": "s"}


@pytest.mark.parametrize(
    ("changes", "named", "value"),
    [
        ({"kind": "ohlcv"}, "kind", "ohlcv"),
        ({"conformance_preset": "lenient"}, "conformance_preset", "lenient"),
        ({"ts_unit": "minutes"}, "ts_unit", "minutes"),
        ({"interval_unit": None}, "interval_unit", None),
        ({"interval_unit": "m"}, "interval_unit", "m"),
        ({"interval_unit": "iso8601"}, "interval_unit", "iso8601"),
        ({"interval": 0}, "interval", 0),
        ({"interval": -60}, "interval", -60),
        ({"interval": True}, "interval", True),
        ({"interval": 1e-10}, "interval", 1e-10),
        ({"interval": float("nan")}, "interval", float("nan")),
        ({"interval": 10**12}, "interval", 10**12),
        ({"interval": "1x", "interval_unit": None}, "interval", "1x"),
        ({"interval": "60", "interval_unit": None}, "interval_unit", None),
        ({"window": 5}, "window", 5),
        ({"window": (0, 1, 2)}, "window", (0, 1, 2)),
        ({"window": (60, 0)}, "window", (60, 0)),
        ({"window": ("soon", 0)}, "window", "soon"),
        ({"window": (0, 60), "ts_unit": None}, "ts_unit", None),
        ({"window": (0, 60), "ts_unit": "datetime"}, "ts_unit", "datetime"),
        ({"sessions_ns": np.array([[0.0, 1.0]])}, "sessions_ns", (1, 2)),
        ({"sessions_ns": np.array([0, 1])}, "sessions_ns", (2,)),
        ({"sessions_ns": np.array([[5, 1]])}, "sessions_ns", (1, 2)),
        ({"sessions_ns": np.array([[0, 5], [4, 9]])}, "sessions_ns", (2, 2)),
        ({"sessions_ns": [[0], [1, 2]]}, "sessions_ns", (0,)),
        ({"sessions_ns": 5}, "sessions_ns", ()),
        ({"sessions_ns": np.array([[-(2**63), 0]])}, "sessions_ns", (1, 2)),
        ({"origin_ns": 0.5}, "origin_ns", 0.5),
        ({"origin_ns": None}, "origin_ns", None),
        ({"origin_ns": 2**63}, "origin_ns", 2**63),
        ({"symbols": "BTC/USDT"}, "symbols", "BTC/USDT"),
        ({"symbols": 5}, "symbols", 5),
        ({"symbols": ["A", None]}, "symbols", None),
        ({"wide_spread_percent": -1}, "wide_spread_percent", -1),
        ({"wide_spread_percent": float("nan")}, "wide_spread_percent", float("nan")),
        ({"wide_spread_percent": np.array([1, 2])}, "wide_spread_percent", np.array([1, 2])),
        ({"jump_sigmas": 0}, "jump_sigmas", 0),
        ({"jump_sigmas": True}, "jump_sigmas", True),
        ({"jump_sigmas": 1e300}, "jump_sigmas", 1e300),
        ({"jump_sigmas": 10**400}, "jump_sigmas", 10**400),
        ({"jump_sigmas": "many"}, "jump_sigmas", "many"),
        ({"time_column": "symbol"}, "time_column", ("symbol", "symbol", "authority")),
        ({"time_column": ["ts"]}, "time_column", ["ts"]),
        ({"symbol_column": None}, "symbol_column", None),
        ({"time_column": "open"}, "time_column", "open"),
        ({"schema": "x"}, "schema", "x"),
        ({"schema": {1: "int64"}}, "schema", {1: "int64"}),
        ({"schema": {"price": "float"}}, "price", "float"),
        ({"schema": {"fields": [{"name": "price"}]}}, "schema", {"name": "price"}),
        ({"schema": {"fields": ["price"]}}, "schema", "price"),
        (
            {"schema": {"fields": [{"name": "a", "type": "long"}, {"name": "a", "type": "long"}]}},
            "schema",
            {"name": "a", "type": "long"},
        ),
    ],
)
def test_a_wrong_setting_is_refused(changes: dict[str, Any], named: str, value: object) -> None:
    with pytest.raises(UsageError) as refused:
        options(**{**GOOD, **changes})
    assert refused.value.parameter == named
    assert repr(refused.value.value) == repr(value)
    assert str(refused.value).startswith(f"{named} = ")
    assert refused.value.fix


def test_settings_in_nanoseconds() -> None:
    made = options(**{**GOOD, "interval": 0.5, "window": (1.5, "1970-01-01T00:01:00Z")})
    assert (made.interval_ns, made.window_ns) == (S // 2, (S + S // 2, 60 * S))
    assert options(**{**GOOD, "interval": "1m", "interval_unit": None}).interval_ns == 60 * S
    assert options(**{**GOOD, "ts_unit": "ms", "window": (1, 2)}).window_ns == (10**6, 2 * 10**6)
    cells = {"interval": np.int64(60), "window": (np.int64(0), np.float64(1.5))}
    made = options(**{**GOOD, **cells})
    assert (made.interval_ns, made.window_ns) == (60 * S, (0, S + S // 2))
    assert options(kind="bars").interval_ns is None


def test_both_forms_of_a_schema_mean_the_same() -> None:
    plain = {"ts": "int64", "price": "double", "note": "string"}
    listed = {"fields": [{"name": n, "type": t} for n, t in plain.items()]}
    assert schema_fields(plain) == schema_fields(listed)
    made = options(kind="bars", ts_unit="s", schema=listed)
    assert made.fields == {"price": "float64", "note": "text"}
    assert made.required == {"ts", "price", "note"}


def test_without_a_schema_the_kind_states_the_columns() -> None:
    bars = options(kind="bars", ts_unit="s")
    assert bars.required == {"ts", "open", "high", "low", "close", "volume"}
    assert set(bars.fields) - bars.required == {
        *("quote_volume", "trades", "first_trade_id", "last_trade_id"),
    }
    assert options(kind="trades", time_column="time").required == {
        *("time", "price", "size", "trade_id"),
    }


def test_a_schema_may_require_symbol_and_authority() -> None:
    schema = {"ts": "int64", "symbol": "text", "authority": "text", "price": "float64"}
    made = options(kind="bars", ts_unit="s", schema=schema)
    assert made.required == schema.keys()
    assert made.fields == {"price": "float64"}
