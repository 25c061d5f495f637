"""A kept record as fields that a person can read and correct, and back as bytes.

Decides: how the fields of a bar, a block and a trade are written down (JSON: times as UTC
nanoseconds, a number that is no number as `NaN` or `Infinity`), what a correction of one field may
be, and that a corrected record is written in the approved schema under the key of its symbol.
Invariants: what a person did not change keeps its value; a value of another type is refused by the
name of its field; the digest of a block is computed anew. Must not know: which rules the values
break, who corrects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.columns import (
    OPTIONAL_FIELDS,
    PRICE_FIELDS,
    SOURCES,
    BarColumns,
    Block,
    ConformedColumns,
)
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.times import INT64_MAX, parse_time

BAR: Final = "bar"
BLOCK: Final = "bar_block"
TRADE: Final = "trade"
SIDES: Final = ("buy", "sell", "auction")
# Type of each field: (what a value must be, whether null is one).
_NUMBER: Final = "a number"
_WHOLE: Final = "a whole number"
_TIME: Final = "a time: ISO text with a zone, or UTC nanoseconds"
_TEXT: Final = "a text"
_TRUTH: Final = "true or false"
_ROW: Final[Mapping[str, tuple[str, bool]]] = {
    "open_time_ns": (_TIME, False),
    **dict.fromkeys(PRICE_FIELDS, (_NUMBER, False)),
    "quote_volume": (_NUMBER, True),
    **dict.fromkeys(OPTIONAL_FIELDS[1:], (_WHOLE, True)),
    "source": (_TEXT, False),
    "received_time_ns": (_TIME, False),
}
FIELDS: Final[Mapping[str, Mapping[str, tuple[str, bool]]]] = {
    BAR: {
        "symbol": (_TEXT, False),
        **_ROW,
        "closed": (_TRUTH, False),
        "interval_ms": (_WHOLE, False),
    },
    BLOCK: {
        "symbol": (_TEXT, False),
        **dict.fromkeys(("block_start_ns", "block_end_ns", "range_start_ns"), (_TIME, False)),
        "complete_through_ns": (_TIME, True),
        "interval_ns": (_WHOLE, False),
    },
    TRADE: {
        "symbol": (_TEXT, False),
        "trade_id": (_WHOLE, False),
        "time_ns": (_TIME, False),
        "price": (_NUMBER, False),
        "size": (_NUMBER, False),
        "side": (_TEXT, True),
        "source": (_TEXT, True),
        "received_time_ns": (_TIME, False),
    },
}
ROWS: Final = "rows"
_AS_EXPORTED: Final = "Write it as `seamline quarantine export` does"


def decoded(value: bytes, name: str, version: int | None = None) -> dict[str, Any]:
    """The fields of a framed bar, block or trade of a version (none given: the newest), as JSON
    takes them.

    Raises ContractError for bytes that are none.
    """
    if name != BLOCK:
        return {field: _shown(each) for field, each in decode_record(name, value, version).items()}
    block = decode_block(value, version)
    head = {field: getattr(block, field) for field in FIELDS[BLOCK]}
    return {**head, ROWS: [_row(block, at) for at in range(len(block.columns))]}


def record_of(fields: Mapping[str, Any]) -> str:
    """Which record such fields are of."""
    if ROWS in fields:
        return BLOCK
    return TRADE if "trade_id" in fields else BAR


def corrected(fields: Mapping[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    """The fields with some of them replaced by what a person wrote.

    Raises UsageError for a field that there is not, or a text that is no such value.
    """
    name = record_of(fields)
    known = FIELDS[name]
    found = dict(fields)
    for field, text in changes.items():
        if field not in known:
            fix = f"One of {', '.join(known)}"
            if name == BLOCK:
                fix += "; the rows of a block are corrected with export and fix --from"
            raise UsageError(f"no field of a {name}", parameter=field, value=text, fix=fix)
        found[field] = _typed(field, _read(text, known[field][0]), known[field])
    return found


def encoded(fields: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[bytes, bytes]:
    """Key and framed value in the approved schema; `ids`: record name -> id in the registry.

    Raises UsageError for a field that is missing, unknown or of another type, ContractError for
    what the schema cannot hold.
    """
    name = record_of(fields)
    known = FIELDS[name]
    head = _checked({k: v for k, v in fields.items() if k != ROWS}, known)
    try:
        key = head["symbol"].encode()
        if name == TRADE:
            _one_of("side", head["side"], (None, *SIDES))
        if name != BLOCK:
            return key, encode_record(name, head, ids[name])
        rows = fields[ROWS]
        if not isinstance(rows, list):
            raise UsageError("not a list of rows", parameter=ROWS, value=rows, fix=_AS_EXPORTED)
        return key, encode_block(_block(head, [_checked(row, _ROW) for row in rows]), ids[BLOCK])
    except UnicodeEncodeError:
        raise UsageError(
            "not a symbol",
            parameter="symbol",
            value=head["symbol"],
            fix="Write text that UTF-8 can hold, such as BTC/USDT",
        ) from None


def _row(block: Block, at: int) -> dict[str, Any]:
    columns = block.columns
    row: dict[str, Any] = {}
    for field in _ROW:
        value = getattr(columns, field)[at].item()
        if field == "source":
            value = SOURCES[value] if value < len(SOURCES) else str(value)
        elif field == "quote_volume":
            value = None if math.isnan(value) else value
        elif field in OPTIONAL_FIELDS:
            value = None if value < 0 else value
        row[field] = _shown(value)
    return row


def _block(head: Mapping[str, Any], rows: list[dict[str, Any]]) -> Block:
    def column(field: str, dtype: str) -> Any:
        null = math.nan if dtype == "f8" else -1
        return np.array([null if row[field] is None else row[field] for row in rows], dtype)

    for row in rows:
        _one_of("source", row["source"], SOURCES)
    numbered = [{**row, "source": SOURCES.index(row["source"])} for row in rows]
    rows = numbered
    try:
        bars = BarColumns(
            closed=np.ones(len(rows), bool),
            **{
                name: column(name, dtype)
                for name, dtype in BarColumns.DTYPES.items()
                if name != "closed"
            },
        )
    except OverflowError:
        raise UsageError(
            "a number outside int64",
            parameter=ROWS,
            value=len(rows),
            fix="Whole numbers have at most 63 bits: mend the row",
        ) from None
    columns = ConformedColumns.of_landing(bars)
    digest = block_digest(head["symbol"], columns)
    return Block(**head, columns=columns, digest=digest, landing=True)


def _one_of(field: str, value: Any, known: Sequence[str | None]) -> None:
    if value not in known:
        fix = f"One of {', '.join(str(each) for each in known)}"
        raise UsageError("no such value", parameter=field, value=value, fix=fix)


def _checked(fields: Any, known: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    if not isinstance(fields, Mapping):
        raise UsageError(
            "not an object with fields", parameter="decoded", value=fields, fix=_AS_EXPORTED
        )
    odd = sorted(fields.keys() ^ known.keys())
    if odd:
        what = "missing" if odd[0] in known else "no such field"
        raise UsageError(
            what, parameter=odd[0], value=fields.get(odd[0]), fix=f"Fields: {', '.join(known)}"
        )
    return {field: _typed(field, fields[field], kind) for field, kind in known.items()}


def _typed(field: str, value: Any, kind: tuple[str, bool]) -> Any:
    """The value as its type wants it. Raises UsageError for another type."""
    wanted, nullable = kind
    if value is None and nullable:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == _NUMBER and number:
        try:
            return float(value)
        except OverflowError:
            raise UsageError("no double holds it", parameter=field, value=value) from None
    if wanted == _NUMBER and isinstance(value, str) and value in _NO_NUMBERS:
        return float(value)
    if wanted in (_WHOLE, _TIME) and isinstance(value, int) and number:
        if not -INT64_MAX <= value <= INT64_MAX:
            raise UsageError("outside of int64", parameter=field, value=value)
        return value
    # What counts from now would be another time at each run.
    if wanted == _TIME and isinstance(value, str) and not value.strip().startswith(("-", "now")):
        return parse_time(value, now_ns=0, parameter=field)
    if wanted == _TEXT and isinstance(value, str):
        return value
    if wanted == _TRUTH and isinstance(value, bool):
        return value
    what = f"not {wanted}" + (" or null" if nullable else "")
    raise UsageError(what, parameter=field, value=value, fix=f"Write {wanted}")


def _read(text: str, wanted: str) -> Any:
    """What a person wrote on a command line: JSON where it is some, else the text itself."""
    if wanted == _TEXT:
        return text
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


_NO_NUMBERS: Final = ("NaN", "Infinity", "-Infinity")


def _shown(value: Any) -> Any:
    """A value as JSON takes it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
