"""Time at the edge: what people write becomes int UTC nanoseconds, or is refused.

Decides: which texts and objects are a time, which durations are known, and which of them venues
offer as timeframes. Invariants: no unit is ever guessed; a naive time and a bare number are refused
with the name of the parameter; the result fits int64. Must not know: the clock. "Now" is an
argument.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from seamline.schemas.errors import UsageError

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
DAY_NS = 86_400 * NS_PER_S
INT64_MAX = 2**63 - 1

TIMEFRAMES = (
    *("1s", "5s", "10s", "15s", "30s", "1m", "3m", "5m", "15m", "30m"),
    *("1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w"),
)

_UNIT_NS = {
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
    "d": 86_400 * NS_PER_S,
    "w": 7 * 86_400 * NS_PER_S,
}
# A number where a time should be. `fromisoformat` would take the first eight digits for a date and
# the ninth for a separator; a text of eight digits is a date.
NUMBER_TEXT = re.compile(r"\d{9}|\d{0,7}$|\d+[.,]", re.ASCII)
_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIX = "Write an ISO time with a zone (2026-01-31T00:00:00Z), an aware datetime, or -3d"


def parse_duration(text: str, *, parameter: str) -> int:
    """`1m`, `250ms`, `3d` as nanoseconds. Raises UsageError where unit or number is missing."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            "not a duration with a unit",
            parameter=parameter,
            value=text,
            fix="Write a number and one of ms, s, m, h, d, w: 90s, 15m, 2d",
        )
    return _bounded(int(match[1]) * _UNIT_NS[match[2]], parameter, text)


def parse_timeframe(timeframe: str) -> int:
    """Nanoseconds of one of TIMEFRAMES, exactly as it is written there.

    Raises UsageError naming `timeframe` for every other text: `100m` is a duration and no venue
    has such bars.
    """
    if not isinstance(timeframe, str) or timeframe not in TIMEFRAMES:
        raise UsageError(
            "not a timeframe that venues offer",
            parameter="timeframe",
            value=timeframe,
            fix=f"One of {', '.join(TIMEFRAMES)}",
        )
    return parse_duration(timeframe, parameter="timeframe")


def parse_time(value: object, *, now_ns: int, parameter: str) -> int:
    """UTC nanoseconds of an aware datetime (pandas.Timestamp included), an ISO text with a zone,
    `now`, or a duration before now (`-3d`).

    Raises UsageError for naive times, bare numbers, other types and times outside int64
    nanoseconds.
    """
    if isinstance(value, datetime):
        return _of_datetime(value, parameter)
    if not isinstance(value, str):
        raise UsageError("a time without a unit", parameter=parameter, value=value, fix=_FIX)
    text = value.strip()
    if text == "now":
        return now_ns
    if text.startswith("-"):
        return _bounded(now_ns - parse_duration(text[1:], parameter=parameter), parameter, value)
    if NUMBER_TEXT.match(text):
        raise UsageError("a number without a unit", parameter=parameter, value=value, fix=_FIX)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError("not a time", parameter=parameter, value=value, fix=_FIX) from None
    return _of_datetime(parsed, parameter)


def format_time(time_ns: int) -> str:
    """ISO text with a zone; as many decimals as the value has."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}".rstrip("0") + "Z" if rest else text + "Z"


def format_duration(duration_ns: int) -> str:
    """The shortest exact text: `1m`, `90s`, `250ms`."""
    for unit in ("w", "d", "h", "m", "s", "ms"):
        if duration_ns and duration_ns % _UNIT_NS[unit] == 0 and unit != "w":
            return f"{duration_ns // _UNIT_NS[unit]}{unit}"
    return f"{duration_ns}ns"


def _of_datetime(value: datetime, parameter: str) -> int:
    if value.tzinfo is None or value.utcoffset() is None:
        raise UsageError(
            "a naive time, its zone is unknown", parameter=parameter, value=value, fix=_FIX
        )
    delta = value - _EPOCH
    micros = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    nanos = getattr(value, "nanosecond", 0)  # pandas.Timestamp carries what datetime cannot
    return _bounded(micros * NS_PER_US + nanos, parameter, value)


def _bounded(time_ns: int, parameter: str, value: object) -> int:
    if not -INT64_MAX <= time_ns <= INT64_MAX:
        raise UsageError(
            "outside int64 nanoseconds (years 1678 to 2262)",
            parameter=parameter,
            value=value,
            fix=_FIX,
        )
    return time_ns
