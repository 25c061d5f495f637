"""Columns of times become int64 UTC nanoseconds, exactly or not at all.

Decides: what a number with a unit, a text or a datetime means as a time. Invariants: nothing is
rounded, wrapped around or guessed; what is no time, is no whole nanosecond or lies outside int64
nanoseconds is marked, not moved; a fraction is read as its binary value where that is a whole
nanosecond, else as the shortest decimal that names it (1735689600.123 s is .123 s); a text without
an offset is UTC. Must not know: the clock, the zone of the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final

import numpy as np

from seamline.schemas.columns import F8, I8, Bool
from seamline.schemas.errors import UsageError
from seamline.schemas.times import INT64_MAX, NUMBER_TEXT
from seamline.streams.kernel.table import DECIMAL, FLOAT64, INT64, TEXT, TIME, Column

UNIT_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# A date of Arrow, in days.
_COLUMN_UNIT_NS: Final = {**UNIT_NS, "D": 86_400 * 10**9}
TEXT_UNITS: Final = ("iso8601", "datetime")
NUMBER: Final = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?\s*", re.ASCII)
# Seconds may have any fraction; the standard library reads six digits and drops the others.
_FRACTION: Final = re.compile(r"(.*\d\d:?\d\d:?\d\d)[.,](\d+)(.*)", re.ASCII | re.DOTALL)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIX: Final = "State ts_unit: one of s, ms, us, ns, iso8601, datetime"


@dataclass(frozen=True, slots=True, eq=False)
class Instants:
    """Times in ns, where they are one (`valid`), and where a text or a datetime was converted
    (`tried`, None: nowhere, numbers with a unit are no conversion)."""

    time_ns: I8
    valid: Bool
    tried: Bool | None


def instants(column: Column, ts_unit: str | None) -> Instants:
    """A column as times.

    Raises UsageError naming ts_unit where no unit is stated or the stated one is not that of the
    column.
    """
    unit = _unit_of(column, ts_unit)
    mask = column.mask()
    if column.type in (INT64, TIME):
        time_ns, fits = _of_integers(column.values, _COLUMN_UNIT_NS[unit])
        return Instants(time_ns, fits & mask, mask if column.type == TIME else None)
    if column.type == FLOAT64:
        time_ns, fits = _of_floats(column.values, mask, UNIT_NS[unit])
        return Instants(time_ns, fits & mask, None)
    if column.type in (TEXT, DECIMAL):
        read: Callable[[str], int | None] = ns_of_text
        if unit in UNIT_NS:
            unit_ns = UNIT_NS[unit]
            read = lambda text: ns_of_number_text(text, unit_ns)  # noqa: E731
        time_ns, fits = _of_words(column, read)
        return Instants(time_ns, fits & mask, mask if column.type == TEXT else None)
    # No cell is a time: all null, or of a type that is none.
    nothing = np.zeros(len(column), bool)
    return Instants(np.zeros(len(column), np.int64), nothing, None)


def time_of(value: object, ts_unit: str | None, *, parameter: str) -> int:
    """One time of a setting, in the unit of the column of times; aware datetimes always pass.

    Raises UsageError where there is no such time.
    """
    found: int | None = None
    if isinstance(value, datetime):
        found = ns_of_text(value.isoformat()) if value.tzinfo is not None else None
    elif isinstance(value, str):
        found = ns_of_text(value)
    elif is_number(value):
        if ts_unit not in UNIT_NS:
            raise UsageError(
                "a number without a unit", parameter="ts_unit", value=ts_unit, fix=_FIX
            )
        found = ns_of_number_text(str(value), UNIT_NS[ts_unit])
    if found is None:
        raise UsageError(
            "not a time within int64 nanoseconds",
            parameter=parameter,
            value=value,
            fix="Write a number in ts_unit, an ISO text, or an aware datetime",
        )
    return found


def is_number(value: object) -> bool:
    """Whether it is a number of Python or of numpy; a truth is none."""
    kinds = (int, float, Decimal, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def ns_of_text(text: str) -> int | None:
    """An ISO text in ns, UTC where it names no offset; None where it is no time, has a fraction of
    a nanosecond, or lies outside int64."""
    stripped = text.strip()
    if NUMBER_TEXT.match(stripped) is not None:
        return None
    nanos = 0
    match = _FRACTION.fullmatch(stripped)
    if match is not None:
        digits = match[2]
        if digits[9:].strip("0"):
            return None
        nanos = int(digits[:9].ljust(9, "0"))
        stripped = match[1] + match[3]
    try:
        parsed = datetime.fromisoformat(stripped)
    except ValueError:
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    delta = parsed - _EPOCH
    time_ns = (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1_000 + nanos
    return time_ns if abs(time_ns) <= INT64_MAX else None


def ns_of_number_text(text: str, unit_ns: int) -> int | None:
    """A decimal number of a unit in ns; None where that is no whole number within int64."""
    if NUMBER.fullmatch(text) is None:
        return None
    return whole(text, unit_ns)


def whole(text: str, factor: int = 1) -> int | None:
    """A decimal text times `factor`; None where that is no whole number within int64."""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    if not number:
        return 0
    if not -400 < number.adjusted() < 20:
        return None
    sign, digits, exponent = number.as_tuple()
    scaled = int("".join(map(str, digits))) * factor
    assert isinstance(exponent, int)
    if exponent >= 0:
        scaled *= 10**exponent
    else:
        scaled, rest = divmod(scaled, 10**-exponent)
        if rest:
            return None
    return (-scaled if sign else scaled) if scaled <= INT64_MAX else None


def _unit_of(column: Column, ts_unit: str | None) -> str:
    if column.unit is not None:
        if ts_unit is not None and ts_unit != column.unit and ts_unit not in TEXT_UNITS:
            raise UsageError(
                f"the column states its unit itself: {column.shown} in {column.unit}",
                parameter="ts_unit",
                value=ts_unit,
                fix="Leave ts_unit out, or write datetime",
            )
        return column.unit
    if ts_unit is None:
        raise UsageError("the times have no unit", parameter="ts_unit", value=None, fix=_FIX)
    if ts_unit in TEXT_UNITS and column.type in (INT64, FLOAT64, DECIMAL):
        raise UsageError(
            f"the column holds numbers ({column.shown})",
            parameter="ts_unit",
            value=ts_unit,
            fix="State the unit of the numbers: s, ms, us or ns",
        )
    return ts_unit


def _of_integers(values: I8, unit_ns: int) -> tuple[I8, Bool]:
    limit = INT64_MAX // unit_ns
    fits: Bool = (values >= -limit) & (values <= limit)
    if unit_ns == 1:
        return values, fits
    return (values if fits.all() else np.where(fits, values, 0)) * unit_ns, fits


def _of_floats(values: F8, mask: Bool, unit_ns: int) -> tuple[I8, Bool]:
    integral = mask & np.isfinite(values) & (np.abs(values) < 2.0**63)
    integral &= np.floor(np.where(integral, values, 0.5)) == values
    time_ns, fits = _of_integers(np.where(integral, values, 0).astype(np.int64), unit_ns)
    fits &= integral
    # A fraction is rare in a column of times, and exact arithmetic is not vectorised.
    for at in np.flatnonzero(mask & np.isfinite(values) & ~integral).tolist():
        found = _of_fraction(float(values[at]), unit_ns)
        if found is not None:
            time_ns[at], fits[at] = found, True
    return time_ns, fits


def _of_fraction(value: float, unit_ns: int) -> int | None:
    top, bottom = value.as_integer_ratio()
    scaled, rest = divmod(top * unit_ns, bottom)
    if rest:
        return whole(repr(value), unit_ns)
    return scaled if abs(scaled) <= INT64_MAX else None


def _of_words(column: Column, read: Callable[[str], int | None]) -> tuple[I8, Bool]:
    found = [read(word) for word in column.words]
    # One place more: the code of a null is -1.
    times = np.array([*(0 if f is None else f for f in found), 0], np.int64)
    fits = np.array([*(f is not None for f in found), False], bool)
    return times[column.values], fits[column.values]
