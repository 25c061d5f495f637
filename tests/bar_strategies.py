"""Hypothesis strategies for bars and blocks, and how two of them compare.

Decides: nothing of the product. Columns are drawn as plain lists, so that a failure shrinks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest

MS_MAX = (2**63 - 1) // 1_000_000
US_MAX = (2**63 - 1) // 1_000
MINUTE_NS = 60_000_000_000

symbols = st.one_of(
    st.sampled_from(["BTC/USDT", "ETH/USDT", "BTC/USDT:USDT", "AAPL"]),
    st.text(min_size=1, max_size=64).filter(lambda text: 1 <= _bytes(text) <= 64),
)
# No -0.0: the codec reads it as 0.0, which has a test of its own.
doubles = st.floats(width=64).map(lambda value: value + 0.0)
quotes = st.one_of(st.just(float("nan")), st.floats(allow_nan=False).map(lambda value: value + 0.0))
ids = st.one_of(st.just(-1), st.integers(-(2**63), 2**63 - 1))
int32 = st.integers(-(2**31), 2**31 - 1)
times_us = st.integers(-US_MAX, US_MAX).map(lambda value: value * 1_000)
times_ms = st.integers(-MS_MAX, MS_MAX).map(lambda value: value * 1_000_000)

_SHARED: dict[str, st.SearchStrategy[Any]] = {
    "open_time_ns": times_ms,
    **dict.fromkeys(("open", "high", "low", "close", "volume"), doubles),
    "quote_volume": quotes,
    **dict.fromkeys(("trades", "first_trade_id", "last_trade_id"), ids),
    "source": st.integers(0, 3),
    "received_time_ns": times_us,
}
_ROWS: dict[type[Any], dict[str, st.SearchStrategy[Any]]] = {
    BarColumns: {**_SHARED, "closed": st.booleans()},
    ConformedColumns: {
        **_SHARED,
        "revision": int32,
        "flags": int32,
        "known_time_ns": times_us,
        "origin": st.integers(0, 2),
    },
}


def columns_of(kind: type[Any], rows: int) -> st.SearchStrategy[Any]:
    """Columns of `kind` with exactly `rows` rows."""
    drawn = {
        name: st.lists(values, min_size=rows, max_size=rows) for name, values in _ROWS[kind].items()
    }
    return st.fixed_dictionaries(drawn).map(
        lambda lists: kind(
            **{name: np.array(lists[name], dtype) for name, dtype in kind.DTYPES.items()}
        ).check()
    )


def bars(kind: type[Any], rows_max: int = 6) -> st.SearchStrategy[tuple[list[str], Any]]:
    """`(a symbol for each row, columns)`."""
    return st.integers(0, rows_max).flatmap(
        lambda rows: st.tuples(
            st.lists(symbols, min_size=rows, max_size=rows), columns_of(kind, rows)
        )
    )


@st.composite
def blocks(draw: st.DrawFn, rows_max: int = 6) -> Block:
    """Blocks of one-minute bars, landing or sealed, optional columns sometimes null throughout."""
    rows = draw(st.integers(0, rows_max))
    columns = draw(columns_of(ConformedColumns, rows))
    start_ns = draw(st.integers(-10_000, 50_000_000)) * MINUTE_NS
    cells = draw(st.sets(st.integers(0, 239), min_size=rows, max_size=rows))
    columns.open_time_ns[:] = start_ns + np.array(sorted(cells), np.int64) * MINUTE_NS
    for name in ("quote_volume", "trades", "first_trade_id", "last_trade_id"):
        if draw(st.booleans()):
            getattr(columns, name)[:] = np.nan if name == "quote_volume" else -1
    landing = draw(st.booleans())
    if landing:
        for name in ("revision", "flags", "known_time_ns", "origin"):
            getattr(columns, name)[:] = 0
    symbol = draw(symbols)
    complete = draw(st.one_of(st.none(), st.integers(0, 240)))
    return Block(
        symbol=symbol,
        block_start_ns=start_ns,
        block_end_ns=start_ns + 240 * MINUTE_NS,
        interval_ns=MINUTE_NS,
        range_start_ns=start_ns - draw(st.integers(0, 9)) * MINUTE_NS,
        complete_through_ns=None if complete is None else start_ns + complete * MINUTE_NS,
        columns=columns,
        digest=block_digest(symbol, columns),
        sequence=0 if landing else draw(st.integers(0, 2**63 - 1)),
        landing=landing,
        asked_time_ns=draw(st.none() | times_us),
    )


def assert_same(one: Any, other: Any) -> None:
    """Equal in type and value; every NaN is one NaN."""
    assert type(one) is type(other)
    one.check()
    for name, dtype in other.DTYPES.items():
        left, right = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        if dtype == "f8":
            known = ~np.isnan(right)
            np.testing.assert_array_equal(left[known].view("i8"), right[known].view("i8"))


def _bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0
