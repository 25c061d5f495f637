"""The field that a broken rule is shown by, and bars of the log judged again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seamline.schemas.columns import BarColumns, ConformedColumns
from seamline.streams.kernel.breach import broken_field, broken_values
from seamline.streams.kernel.validate import RULES, first_rule, judged

MINUTE_NS = 60_000_000_000
NULL = float("nan")


def bars(**changes: Any) -> BarColumns:
    values = {
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 11.0,
        "volume": 5.0,
        "quote_volume": NULL,
        "trades": -1,
        "first_trade_id": -1,
        "last_trade_id": -1,
        "open_time_ns": 0,
        "source": 1,
        "closed": True,
        "received_time_ns": 0,
    }
    columns = BarColumns.empty(1)
    for name, value in (values | changes).items():
        getattr(columns, name)[:] = value
    return columns


BROKEN = [
    ({"open": NULL}, "non_finite", "open"),
    ({"volume": np.inf, "close": -1.0}, "non_finite", "volume"),
    ({"quote_volume": -np.inf}, "non_finite", "quote_volume"),
    ({"open_time_ns": 1}, "off_grid", "open_time_ns"),
    ({"open_time_ns": 10 * MINUTE_NS}, "future_time", "open_time_ns"),
    ({"high": 8.0}, "ohlc_inconsistent", "high"),
    ({"low": 10.5}, "ohlc_inconsistent", "low"),
    ({"low": 0.0}, "non_positive_price", "low"),
    ({"volume": -1.0}, "negative_volume", "volume"),
    ({"quote_volume": -1.0}, "negative_volume", "quote_volume"),
    ({"trades": 3, "first_trade_id": 5, "last_trade_id": 9}, "trade_ids", "last_trade_id"),
    ({"trades": -2, "first_trade_id": 5, "last_trade_id": 9}, "trade_ids", "trades"),
]


@pytest.mark.parametrize(("changes", "rule", "field"), BROKEN)
def test_a_broken_rule_is_shown_by_its_field(
    changes: dict[str, Any], rule: str, field: str
) -> None:
    columns = bars(**changes)
    _, rules = judged(columns, interval_ns=MINUTE_NS, origin_ns=0, latest_ns=5 * MINUTE_NS)
    assert first_rule(int(rules[0])) == rule
    name, value = broken_field(int(rules[0]), columns, 0)
    assert name == field
    assert repr(value) == repr(getattr(columns, field)[0].item())


def test_every_rule_of_values_has_its_field() -> None:
    of_values = {rule for _, rule, _ in BROKEN}
    assert set(RULES.values()) - of_values <= {"tombstoned_schema", "schema_drift"}
    for bit, rule in RULES.items():
        if rule not in of_values:
            assert broken_field(bit, bars(), 0) == (None, None), "the record, no field of it"


@pytest.mark.parametrize(("changes", "rule", "field"), BROKEN)
def test_bars_of_the_log_are_judged_by_their_values(
    changes: dict[str, Any], rule: str, field: str
) -> None:
    both = BarColumns.concat([bars(), bars(**changes), bars()])
    rules = broken_values(ConformedColumns.of_landing(both))
    assert rules[0] == rules[2] == 0
    found = first_rule(int(rules[1]))
    assert found == (rule if rule not in ("off_grid", "future_time") else "none")


def test_no_bars_break_nothing() -> None:
    assert len(broken_values(ConformedColumns.empty(0))) == 0
