"""Trades as bytes, right and wrong, written by hand from the schema.

Decides: which bytes a decoder of trades may meet: every end of a number, numbers longer than they
need be, any text, branches and sides that there are not, cuts, flips and what is left over. Uses
nothing of the product's codec.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from typing import Any

from avro_peer import varint

US_MAX = (2**63 - 1) // 1_000
SIGNALLING = b"\1\0\0\0\0\0\xf0\x7f"
SYMBOLS: tuple[bytes, ...] = (
    *(b"BTC/USDT", b"ETH/USDT", "é".encode(), b"\0", b"x" * 64, b"x" * 65, b"", b"y" * 300),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\xe2\x82", b"\xf4\x90\x80\x80"),
)
IDS = (0, 1, -1, 63, 64, -64, -65, 2**42, 2**63 - 1, -(2**63))
TIMES = (0, -1, US_MAX, US_MAX + 1, -US_MAX, -US_MAX - 1, 2**63 - 1, 1_700_006_400_000_000)
DOUBLES = (1.5, 100.0, 0.0, -0.0, -1.0, math.inf, -math.inf, math.nan, 5e-324)


def text(data: bytes, length: int | None = None) -> bytes:
    return varint(len(data) if length is None else length) + data


def trade(
    schema_id: int,
    symbol: bytes = b"BTC/USDT",
    trade_id: int = 7,
    time_us: int = 1_700_006_400_000_000,
    price: float | bytes = 100.0,
    size: float | bytes = 1.0,
    side: bytes = b"\0",
    source: bytes = b"\0",
    received_us: int = 1_700_006_400_000_000,
) -> bytes:
    """A framed trade; a double may be given as its bytes, side and source are."""
    doubles = [
        each if isinstance(each, bytes) else struct.pack("<d", each) for each in (price, size)
    ]
    head = struct.pack(">BI", 0, schema_id) + text(symbol) + varint(trade_id) + varint(time_us)
    return head + b"".join(doubles) + side + source + varint(received_us)


def any_trade(rng: random.Random, schema_id: int) -> bytes:
    """Mostly right, each part of it now and then at an end or beyond it."""

    def seldom(usual: Any, others: Sequence[Any]) -> Any:
        return usual if rng.random() < 0.8 else rng.choice(others)

    value = trade(
        schema_id,
        seldom(rng.choice(SYMBOLS[:2]), SYMBOLS),
        seldom(rng.randrange(10**9), IDS),
        seldom(1_700_006_400_000_000 + rng.randrange(10**9), TIMES),
        seldom(rng.random(), (*DOUBLES, SIGNALLING)),
        seldom(rng.random(), (*DOUBLES, SIGNALLING)),
        # null, buy, sell, auction, no side, no branch
        seldom(b"\2\2", (b"\0", b"\2\0", b"\2\4", b"\2\6", b"\2\1", b"\4\0", b"\1")),
        seldom(b"\2" + text(b"ws"), (b"\0", b"\2" + text(b"\xff"), b"\2" + text(b"a", 99), b"\3")),
        seldom(1_700_006_400_000_000, TIMES),
    )
    return value if rng.random() < 0.7 else damaged(rng, value)


def damaged(rng: random.Random, value: bytes) -> bytes:
    at = rng.randrange(len(value) + 1)
    match rng.randrange(5):
        case 0:
            return value[:at]
        case 1:
            return value + rng.randbytes(rng.randrange(1, 4))
        case 2:
            return value[:at] + rng.randbytes(1) + value[at + 1 :]
        case 3:
            return value[:at] + rng.randbytes(rng.randrange(1, 12)) + value[at:]
    # A number of one byte more than it needs: a zero on top.
    return value[:at] + bytes((value[at] | 128, 0)) + value[at + 1 :] if at < len(value) else b""
