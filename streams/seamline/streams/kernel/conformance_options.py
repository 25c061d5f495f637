"""What a conformance run is asked for: the settings, checked once, and the schema in force.

Decides: which settings fit together, which columns each kind has, which are required. Invariants:
times are int64 nanoseconds and on stated units; what does not fit is refused with the name of the
setting before a row is read. Must not know: the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import I8, SOURCES
from seamline.schemas.errors import UsageError
from seamline.schemas.times import INT64_MAX, parse_duration
from seamline.streams.kernel.casts import type_named
from seamline.streams.kernel.coverage import require_int
from seamline.streams.kernel.instants import (
    TEXT_UNITS,
    UNIT_NS,
    is_number,
    ns_of_number_text,
    time_of,
)
from seamline.streams.kernel.rules import CONFORMANCE_PRESETS, STRICT_BLOCKING
from seamline.streams.kernel.table import FLOAT64, INT64, TEXT

BARS: Final = "bars"
TRADES: Final = "trades"
QUOTES: Final = "quotes"
KINDS: Final = (BARS, TRADES, QUOTES)
PRICES: Final = ("open", "high", "low", "close")
# Of 4,216 real minutes 4 sigmas report 44, 6 report 20 and 12 report 2; both presets only report
# (decision 0113).
JUMP_SIGMAS: Final = 12.0
SESSIONS_MAX: Final = 1_000_000
# A limit is squared, and a percentage is compared as a decimal.
LIMIT_MAX: Final = 1e100

# By kind, where no schema is stated: required columns, and columns that may be there.
REQUIRED: Final[Mapping[str, Mapping[str, str]]] = {
    BARS: dict.fromkeys((*PRICES, "volume"), FLOAT64),
    TRADES: {"price": FLOAT64, "size": FLOAT64, "trade_id": INT64},
    QUOTES: dict.fromkeys(("bid", "ask", "bid_size", "ask_size"), FLOAT64),
}
OPTIONAL: Final[Mapping[str, Mapping[str, str]]] = {
    BARS: {
        "quote_volume": FLOAT64,
        "trades": INT64,
        "first_trade_id": INT64,
        "last_trade_id": INT64,
    },
    TRADES: {"side": TEXT},
    QUOTES: {},
}
# Column -> the values that it may have.
ENUMERATIONS: Final = {"side": ("buy", "sell")}
AUTHORITIES: Final = SOURCES


@dataclass(frozen=True, slots=True, eq=False)
class ConformanceOptions:
    """The settings of a run, as `options` makes them.

    `fields`: column -> type, time, symbol and authority left out; `required` is a part of it.
    `interval_ns` None: grid, gaps and steps are not judged. `window_ns`: bars are expected in
    [start, end); None: from the first to the last row of each symbol. `sessions_ns`: (n, 2) when
    bars are expected; None: always. `symbols`: those that must be there; None: those of the rows.
    """

    kind: str
    ts_unit: str | None
    fields: Mapping[str, str]
    required: frozenset[str]
    interval_ns: int | None = None
    origin_ns: int = 0
    window_ns: tuple[int, int] | None = None
    sessions_ns: I8 | None = None
    symbols: tuple[str, ...] | None = None
    conformance_preset: str = STRICT_BLOCKING
    wide_spread_percent: float | None = None
    jump_sigmas: float | None = JUMP_SIGMAS
    time_column: str = "ts"
    symbol_column: str = "symbol"
    authority_column: str = "authority"


def options(
    *,
    kind: str,
    ts_unit: str | None = None,
    schema: Mapping[str, Any] | None = None,
    interval: int | float | str | Decimal | None = None,
    interval_unit: str | None = None,
    origin_ns: int = 0,
    window: tuple[object, object] | None = None,
    sessions_ns: I8 | None = None,
    symbols: Sequence[str] | None = None,
    conformance_preset: str = STRICT_BLOCKING,
    wide_spread_percent: float | None = None,
    jump_sigmas: float | None = JUMP_SIGMAS,
    time_column: str = "ts",
    symbol_column: str = "symbol",
    authority_column: str = "authority",
) -> ConformanceOptions:
    """Check and convert the settings.

    `kind`: bars, trades or quotes. `ts_unit`: s, ms, us, ns, iso8601 or datetime; may be left out
    where the column of times has a type that states its unit. `schema`: column -> type, or
    `{"fields": [{"name": …, "type": …}]}`; None: the columns of the kind. `interval`: a number with
    `interval_unit` (s, ms, us, ns), or a text (`1m`). `window`: [start, end) as numbers in
    `ts_unit`, ISO texts or aware datetimes. `sessions_ns`: int64 (n, 2), sorted and disjoint.
    `symbols`: symbols that must be there, else those of the rows. `conformance_preset`:
    strict-blocking or permissive. `wide_spread_percent`, `jump_sigmas`: None: not judged.

    Raises UsageError naming the setting that is wrong.
    """
    _one_of("kind", kind, KINDS)
    _one_of("conformance_preset", conformance_preset, CONFORMANCE_PRESETS)
    if ts_unit is not None:
        _one_of("ts_unit", ts_unit, (*UNIT_NS, *TEXT_UNITS))
    _positive("wide_spread_percent", wide_spread_percent, zero=True)
    _positive("jump_sigmas", jump_sigmas)
    names = (time_column, symbol_column, authority_column)
    stated = None if schema is None else schema_fields(schema)
    _roles(names, {**OPTIONAL[kind], **REQUIRED[kind]} if stated is None else {})
    plain = REQUIRED[kind] if stated is None else _without(stated, names)
    required = set(plain) | (set() if stated is None else stated.keys() & set(names))
    fields = {**OPTIONAL[kind], **plain} if stated is None else plain
    return ConformanceOptions(
        kind=kind,
        ts_unit=ts_unit,
        fields=fields,
        required=frozenset(required | {time_column}),
        interval_ns=_interval_ns(interval, interval_unit),
        origin_ns=require_int(origin_ns, "origin_ns", "Give int nanoseconds: a time of the grid"),
        window_ns=_window_ns(window, ts_unit),
        sessions_ns=_sessions(sessions_ns),
        symbols=_symbols(symbols),
        conformance_preset=conformance_preset,
        wide_spread_percent=wide_spread_percent,
        jump_sigmas=jump_sigmas,
        time_column=time_column,
        symbol_column=symbol_column,
        authority_column=authority_column,
    )


def schema_fields(schema: Mapping[str, Any]) -> dict[str, str]:
    """Column -> type of both forms of a schema. Raises UsageError naming what is wrong in it."""
    if not isinstance(schema, Mapping) or not all(isinstance(name, str) for name in schema):
        raise UsageError(
            "no names of columns with types",
            parameter="schema",
            value=schema,
            fix='Write {"price": "float64"} or {"fields": [{"name": "price", "type": "float64"}]}',
        )
    listed = schema.get("fields")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return {name: type_named(type_, parameter=name) for name, type_ in schema.items()}
    fields: dict[str, str] = {}
    for field in listed:
        name = field.get("name") if isinstance(field, Mapping) else None
        if not isinstance(name, str) or "type" not in field or name in fields:
            raise UsageError(
                "a field without name or type, or one stated twice",
                parameter="schema",
                value=field,
                fix='Write {"fields": [{"name": "price", "type": "float64"}]}',
            )
        fields[name] = type_named(field["type"], parameter=name)
    return fields


def _without(fields: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: type_ for name, type_ in fields.items() if name not in names}


def _interval_ns(interval: object, unit: str | None) -> int | None:
    if interval is None:
        return None
    if isinstance(interval, str) and unit is None and not interval.strip().isdigit():
        found: int | None = parse_duration(interval, parameter="interval")
    else:
        if unit is None:
            raise UsageError(
                "the interval has no unit",
                parameter="interval_unit",
                value=None,
                fix="State interval_unit: one of s, ms, us, ns; or write interval as a text: 1m",
            )
        _one_of("interval_unit", unit, tuple(UNIT_NS))
        number = is_number(interval)
        found = ns_of_number_text(str(interval), UNIT_NS[unit]) if number else None
    if found is None or found <= 0:
        raise UsageError(
            "not a positive whole number of nanoseconds",
            parameter="interval",
            value=interval,
            fix="Write the time from one bar to the next",
        )
    return found


def _window_ns(window: tuple[object, object] | None, unit: str | None) -> tuple[int, int] | None:
    if window is None:
        return None
    try:
        first, last = window
    except (TypeError, ValueError):
        raise UsageError(
            "not a pair", parameter="window", value=window, fix="Write (start, end)"
        ) from None
    start, end = (time_of(value, unit, parameter="window") for value in (first, last))
    if start > end:
        raise UsageError(
            "it ends before it starts",
            parameter="window",
            value=window,
            fix="Write [start, end), the earlier time first",
        )
    return start, end


def _sessions(sessions_ns: I8 | None) -> I8 | None:
    if sessions_ns is None:
        return None
    try:
        found: I8 = np.asarray(sessions_ns)
    except ValueError:  # lists of different lengths
        found = np.empty(0, np.int64)
    flat = found.ravel()
    if (
        found.dtype != np.int64
        or found.ndim != 2
        or found.shape[1] != 2
        or len(found) > SESSIONS_MAX
        or (flat < -INT64_MAX).any()
        or (flat[1:] < flat[:-1]).any()
    ):
        raise UsageError(
            "not sorted disjoint [start, end) in int64 ns",
            parameter="sessions_ns",
            value=found.shape,
            fix=f"Give an int64 array (n, 2) of at most {SESSIONS_MAX} sessions",
        )
    return found


def _symbols(symbols: Sequence[str] | None) -> tuple[str, ...] | None:
    if symbols is None:
        return None
    if isinstance(symbols, str) or not isinstance(symbols, Iterable):
        raise UsageError("not a list", parameter="symbols", value=symbols, fix="Write a list")
    listed = tuple(symbols)
    for symbol in listed:
        if not isinstance(symbol, str):
            raise UsageError("not a text", parameter="symbols", value=symbol, fix="Write names")
    return listed


def _roles(names: Sequence[str], fields: Mapping[str, str]) -> None:
    """Time, symbol and authority are three columns, and none of them is a value."""
    parameters = ("time_column", "symbol_column", "authority_column")
    for parameter, name in zip(parameters, names, strict=True):
        if not isinstance(name, str) or name in fields:
            raise UsageError(
                "not the name of a column of its own",
                parameter=parameter,
                value=name,
                fix="Rename the column; open, price or size are values",
            )
    if len(set(names)) < len(names):
        raise UsageError(
            "two roles for one column",
            parameter="time_column",
            value=names,
            fix="Name three different columns",
        )


def _one_of(parameter: str, value: object, known: Sequence[str]) -> None:
    if value in known:
        return
    raise UsageError(
        "not known", parameter=parameter, value=value, fix=f"Write one of {', '.join(known)}"
    )


def _positive(parameter: str, value: float | None, *, zero: bool = False) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (0 < value <= LIMIT_MAX or (zero and value == 0)):
        return
    raise UsageError(
        "not a positive number",
        parameter=parameter,
        value=value,
        fix=f"Write a limit above 0 up to {LIMIT_MAX:g}, or None to leave the rule out",
    )
