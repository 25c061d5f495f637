"""What may be asked to backfill."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from seamline.connectors.backfill_request import Range, range_of, require_source
from seamline.presets import loader
from seamline.schemas.errors import UsageError
from seamline.schemas.times import parse_time
from seamline.streams.kernel.chunks import Grid

MIN = 60_000_000_000
NOW = parse_time("2026-01-03T12:34:56Z", now_ns=0, parameter="now")
GRID = Grid(MIN, 240 * MIN)


def at(text: str) -> int:
    return parse_time(text, now_ns=0, parameter="text")


def test_relative_times_are_floored_by_the_venues_clock() -> None:
    assert range_of(GRID, "-2d", "now", NOW) == Range(
        at("2026-01-01T12:34:00Z"), at("2026-01-03T12:34:00Z")
    )


def test_times_written_out_stay_as_they_are() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert range_of(GRID, start, "2026-01-02T00:00:00Z", NOW) == Range(
        at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z")
    )


@pytest.mark.parametrize(
    ("start", "end", "parameter", "told"),
    [
        ("2026-01-01T00:00:30Z", "now", "start", "2026-01-01T00:00:00Z or 2026-01-01T00:01:00Z"),
        ("-1d", "2026-01-03T00:00:01Z", "end", "2026-01-03T00:00:00Z"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "start", "before the end"),
        ("-1d", "-1d", "start", "before the end"),
        ("-1d", "2026-01-03T12:35:00Z", "end", "2026-01-03T12:34:00Z"),
        ("2026-01-01T00:00:00", "now", "start", "zone"),
        (datetime(2026, 1, 1), "now", "start", "zone"),
        (1_767_225_600, "now", "start", "unit"),
        ("1767225600", "now", "start", "unit"),
        ("-2", "now", "start", "unit"),
    ],
)
def test_what_is_unclear_is_refused_with_a_fix(
    start: object, end: object, parameter: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        range_of(GRID, start, end, NOW)
    assert raised.value.parameter == parameter


def test_presets_without_a_source_of_ours_are_refused() -> None:
    presets = loader.load(None, {})
    require_source(presets["ohlcv.binance.spot.1m"])
    with pytest.raises(UsageError, match=r"seamline backfill run ohlcv\.binance\.spot\.1m"):
        require_source(presets["ohlcv.binance.spot.5m"])
    with pytest.raises(UsageError, match="polygon"):
        require_source(presets["ohlcv.polygon.us_equity.1d"])
    with pytest.raises(UsageError, match="no backfill source"):
        require_source(replace(presets["ohlcv.binance.spot.1m"], backfill=None))
