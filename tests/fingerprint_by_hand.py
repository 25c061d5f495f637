"""Fingerprints a second time: from the documented bytes, row by row, with struct and hashlib alone.

Decides: nothing of the product. Rows are dicts of plain values, null is None; nothing here imports
the code under test. `example` is the data behind the goldens: all values are exact in any language.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

DAY_NS = 86_400 * 10**9
MINUTE_NS = 60 * 10**9
FLOATS = ("open", "high", "low", "close", "volume", "quote_volume")
INTS = ("open_time_ns", "trades", "first_trade_id", "last_trade_id")
NAN = bytes.fromhex("000000000000f87f")

Row = dict[str, Any]


def double(value: float | None) -> bytes:
    if value is None or math.isnan(value):
        return NAN
    return struct.pack("<d", 0.0 if value == 0 else value)


def long_of(value: int | None) -> bytes:
    return struct.pack("<q", -1 if value is None else value)


def head(tag: bytes, key: bytes, count: int) -> bytes:
    return tag + struct.pack("<I", len(key)) + key + struct.pack("<Q", count)


def leaf(symbol: str, rows: Sequence[Row]) -> bytes:
    rows = sorted(rows, key=lambda row: int(row["open_time_ns"]))
    tag = "seamline.block.1;" + "".join(f"{name}:<f8;" for name in FLOATS)
    tag += "".join(f"{name}:<i8;" for name in INTS) + "".join(f"{n}:null;" for n in INTS[1:])
    out = head(tag.encode(), symbol.encode(), len(rows))
    out += b"".join(double(row[name]) for name in FLOATS for row in rows)
    out += b"".join(long_of(row[name]) for name in INTS for row in rows)
    out += bytes(row[name] in (None, -1) for name in INTS[1:] for row in rows)
    return hashlib.sha256(out).digest()


def tree(rows: Sequence[tuple[str, Row]]) -> dict[str, Any]:
    """The tree as JSON holds it."""
    symbols: dict[str, Any] = {}
    out = b""
    for symbol in sorted({symbol for symbol, _ in rows}, key=str.encode):
        days: dict[int, list[Row]] = {}
        for name, row in rows:
            if name == symbol:
                days.setdefault(row["open_time_ns"] // DAY_NS, []).append(row)
        node = head(b"seamline.tree.symbol.1\0", symbol.encode(), len(days))
        for day in sorted(days):
            digest = leaf(symbol, days[day])
            node += struct.pack("<q", day) + digest + struct.pack("<Q", len(days[day]))
        digest, count = hashlib.sha256(node).digest(), sum(map(len, days.values()))
        symbols[symbol] = {
            "digest": digest.hex(),
            "rows": count,
            "days": {
                iso(day): [len(days[day]), leaf(symbol, days[day]).hex()] for day in sorted(days)
            },
        }
        encoded = symbol.encode()
        out += struct.pack("<I", len(encoded)) + encoded + digest + struct.pack("<Q", count)
    whole = head(b"seamline.tree.range.1\0", b"", len(symbols)) + out
    return {
        "format": "seamline.fingerprint.1",
        "digest": hashlib.sha256(whole).hexdigest(),
        "rows": len(rows),
        "symbols": symbols,
    }


def iso(day: int) -> str:
    """Civil date of a day since 1970-01-01, by the arithmetic of the calendar."""
    z = day + 719_468
    era, of_era = divmod(z, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    number = month + 3 if month < 10 else month - 9
    return (
        f"{year + era * 400 + (number <= 2):04}-{number:02}-"
        f"{of_year - (153 * month + 2) // 5 + 1:02}"
    )


def table(types: Mapping[str, str], rows: Sequence[Row], by: Sequence[str] = ()) -> bytes:
    """Digest of a table; `rows` hold None for null."""
    names = [*by, *sorted(set(types) - set(by), key=str.encode)]
    tags = {"int64": "<i8", "float64": "<f8", "bool": "?", "text": "utf8"}
    tag = "seamline.table.1;"
    tag += "".join(f"{in_tag(name)}:{tags[types[name]]};" for name in names)
    tag += "".join(f"{in_tag(name)}:null;" for name in names)
    rows = sorted(rows, key=lambda row: [place(row[name]) for name in names])
    out = head(tag.encode(), b"", len(rows))
    for name in names:
        values = [row[name] for row in rows]
        if types[name] == "int64":
            out += b"".join(struct.pack("<q", value or 0) for value in values)
        elif types[name] == "float64":
            out += b"".join(double(0.0 if value is None else value) for value in values)
        elif types[name] == "bool":
            out += bytes(bool(value) for value in values)
        else:
            texts = [(value or "").encode() for value in values]
            out += b"".join(struct.pack("<I", len(text)) for text in texts) + b"".join(texts)
    out += bytes(row[name] is None for name in names for row in rows)
    return hashlib.sha256(out).digest()


def in_tag(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_]+", name) else json.dumps(name)


def place(value: Any) -> tuple[Any, ...]:
    """Where a value stands among those of its column."""
    if value is None:
        return (0,)
    if isinstance(value, str):
        return (1, value.encode())
    return (2,) if isinstance(value, float) and math.isnan(value) else (1, value)


def example() -> list[tuple[str, Row]]:
    """Three symbols, from before the epoch to 2023, with nulls in every optional field."""
    found = []
    for at, (symbol, start_ns, rows) in enumerate(
        [
            ("BTC/USDT", 1_700_006_400 * 10**9, 3_000),
            ("ETH/USDT", -40 * MINUTE_NS, 90),
            ("Ä/€", 1_700_006_400 * 10**9 + 7, 1),
        ]
    ):
        for n in range(rows):
            price = 100 + at + n / 4
            row: Row = {"open_time_ns": start_ns + n * MINUTE_NS}
            row |= {name: price + i for i, name in enumerate(FLOATS[:5])}
            row["quote_volume"] = None if n % 3 == 0 else n * 1.5
            row |= {name: None if n % 5 == i else n * 7 + i for i, name in enumerate(INTS[1:])}
            found.append((symbol, row))
    return found


def example_table() -> tuple[dict[str, str], list[Row]]:
    """Every type, with nulls, NaN, both zeros, equal times and a name with a colon."""
    types = {"ts": "int64", "px": "float64", "up": "bool", "who": "text", "a:b": "int64"}
    rows: list[Row] = []
    for n in range(40):
        rows.append(
            {
                "ts": 1_735_689_600 * 10**9 + n // 3,
                "px": [None, math.nan, -0.0, 0.0, n / 8][n % 5],
                "up": [None, True, False][n % 3],
                "who": [None, "", "é", "é\0", f"t{n}"][n % 5],
                "a:b": None if n % 7 == 0 else (-1) ** n * (2**63 - 1 - n),
            }
        )
    return types, rows
