"""Which field of a bar a broken value rule speaks of, and whether bars of the log break one.

Decides: the field that a person is shown for each rule of `validate`, and how bars that were
accepted before are judged again: by their values alone, grid and clock were judged when they
landed. Invariants: the rules are those of `validate`, judged by the same compiled function; nothing
of the columns is changed. Must not know: modes, schemas, Kafka.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import I8, PRICE_FIELDS, BarColumns, ConformedColumns
from seamline.schemas.jit import njit
from seamline.streams.kernel import validate
from seamline.streams.kernel.level import FIRST_ID, LAST_ID, TRADES, Rows
from seamline.streams.kernel.validate import _judge

_PRICES: Final = PRICE_FIELDS[:4]
_COUNTS: Final = ("trades", "first_trade_id", "last_trade_id")
_Bar = Mapping[str, Any]


def _unordered(bar: _Bar) -> str:
    return "high" if bar["high"] < max(bar["open"], bar["close"]) else "low"


_FIELD_OF: Final[Mapping[int, Callable[[_Bar], str]]] = {
    validate.NON_FINITE: lambda bar: next(
        (name for name in PRICE_FIELDS if not math.isfinite(bar[name])), "quote_volume"
    ),
    validate.OFF_GRID: lambda bar: "open_time_ns",
    validate.FUTURE_TIME: lambda bar: "open_time_ns",
    validate.OHLC_INCONSISTENT: _unordered,
    validate.NON_POSITIVE_PRICE: lambda bar: next(name for name in _PRICES if not bar[name] > 0),
    validate.NEGATIVE_VOLUME: lambda bar: "volume" if bar["volume"] < 0 else "quote_volume",
    validate.TRADE_IDS: lambda bar: next(
        (name for name in _COUNTS if bar[name] < -1), "last_trade_id"
    ),
}


def broken_field(
    rules: int, bars: BarColumns | ConformedColumns, row: int, off_grid: str = "reject"
) -> tuple[str | None, Any]:
    """The field by which a row breaks the rule that `validate.first_rule` states of its broken
    `rules`, the first one of several, and the row's value there. No field: the rule speaks of the
    whole record."""
    stated = validate.first_rule(rules, off_grid)
    bit = next(bit for bit, name in validate.RULES.items() if name == stated)
    if bit not in _FIELD_OF:
        return None, None
    bar = {name: getattr(bars, name)[row].item() for name in type(bars).DTYPES}
    name = _FIELD_OF[bit](bar)
    return name, bar[name]


def broken_values(bars: ConformedColumns) -> I8:
    """The broken value rules of each row, as bits of `validate.RULES`."""
    rules = np.zeros(len(bars), np.int64)
    room = Rows.empty(1)
    _judge_all(
        (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.quote_volume),
        (bars.trades, bars.first_trade_id, bars.last_trade_id),
        room.cols,
        room.vals,
        rules,
    )
    return rules


@njit
def _judge_all(columns: Any, ids: Any, cols: Any, vals: Any, rules: Any) -> None:
    """`cols` and `vals` have room for one row."""
    for i in range(len(rules)):
        for j in range(6):
            vals[0, j] = columns[j][i]
        cols[0, TRADES], cols[0, FIRST_ID], cols[0, LAST_ID] = ids[0][i], ids[1][i], ids[2][i]
        rules[i] = _judge(vals, cols, 0)
