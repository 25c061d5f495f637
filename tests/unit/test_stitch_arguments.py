"""What `stitch` refuses before it asks Kafka anything, and how a time becomes a cell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

import machine_world
from seamline.schemas.errors import UsageError
from seamline.schemas.times import NS_PER_S
from seamline.sdk.stitching import request_of
from seamline.streams.kernel.seam import Request

PRESET = machine_world.PARENT
NOW_NS = 1_767_225_630 * NS_PER_S  # half a minute into 2026
MINUTE_NS = 60 * NS_PER_S


def asked(**changes: Any) -> Request:
    given: dict[str, Any] = {
        "preset": PRESET,
        "symbols": ["BTC/USDT"],
        "start": "-1h",
        "end": None,
        "on_gap": "fail",
        **changes,
    }
    return request_of(**given, now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("parameter", "changes"),
    [
        ("start", {"start": datetime(2026, 1, 1)}),
        ("start", {"start": "2026-01-01T00:00:00"}),
        ("start", {"start": 1_767_225_600}),
        ("start", {"start": "1767225600"}),
        ("start", {"start": "yesterday"}),
        ("start", {"start": "2300-01-01T00:00:00Z"}),
        ("start", {"start": "now", "end": "-1h"}),
        ("start", {"start": "-1h", "end": "-1h"}),
        ("end", {"end": "3"}),
        ("symbols", {"symbols": []}),
        ("symbols", {"symbols": "BTC/USDT"}),
        ("symbols", {"symbols": ["BTC/USDT", ""]}),
        ("symbols", {"symbols": [1]}),
        ("symbols", {"symbols": [str(n) for n in range(10_001)]}),
        ("on_gap", {"on_gap": "hope"}),
        ("preset", {"preset": replace(PRESET, kind="trades")}),
        ("preset", {"preset": replace(PRESET, calendar="XNYS")}),
    ],
)
def test_wrong_arguments_are_named(parameter: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        asked(**changes)
    assert raised.value.parameter == parameter


def test_times_are_brought_up_to_the_grid_and_symbols_are_a_set() -> None:
    request = asked(
        symbols=["ETH/USDT", "BTC/USDT", "ETH/USDT"], end=datetime(2026, 1, 1, 1, tzinfo=UTC)
    )
    assert request.symbols == ("BTC/USDT", "ETH/USDT")
    assert request.start_ns == NOW_NS - 3_600 * NS_PER_S + 30 * NS_PER_S
    assert request.start_ns % MINUTE_NS == 0
    assert request.end_ns == (1_767_225_600 + 3_600) * NS_PER_S
