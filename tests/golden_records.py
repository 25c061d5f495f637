"""Bytes of every version of every record that was ever approved, and what they must read as.

Decides: nothing of the product. `tests/data/golden/NAME.vN.json` was written once, by the program
of that version, and is never edited: `fingerprint` of its schema and `records`, each with `value`
(hex, framed) and `fields` as `fields_of` gave them then. `python tests/golden_records.py` writes
the file of each newest version that has none yet; it leaves those that are there alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from seamline.schemas.codec import (
    BarDecoder,
    ConformedDecoder,
    decode_block,
    decode_record,
    encode_bars,
    encode_block,
    encode_conformed,
    encode_record,
)
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.fingerprint import block_digest, merkle_root

FOLDER = Path(__file__).parent / "data" / "golden"
SCHEMA_ID = 258
MINUTE_NS = 60_000_000_000
START_NS = 1_700_006_400_000_000_000
SYMBOL = "BTC/ÜSDT"
FAILURE = {
    "rule": "off_grid",
    "producer": "unknown",
    "schema_id": 2**32 - 1,
    "symbol": SYMBOL,
    "count": 2,
}


def bar_columns(kind: type[Any], rows: int = 3) -> Any:
    """Values of every width, nulls in the second row, the limits of a float in the third."""
    numbers = np.arange(rows)
    values: dict[str, Any] = {
        "open_time_ns": START_NS + numbers * MINUTE_NS,
        "open": 35_000.1 + numbers,
        "high": 35_010.25 + numbers,
        "low": 1e-8 * (1 + numbers),
        "close": 35_005.0 - numbers,
        "volume": np.array([0.1, 0.0, 1.7976931348623157e308])[:rows],
        "quote_volume": np.array([12.5, np.nan, 5e-324])[:rows],
        "trades": np.array([7, -1, 2**40])[:rows],
        "first_trade_id": np.array([2**62, -1, 0])[:rows],
        "last_trade_id": np.array([2**62 + 6, -1, 1])[:rows],
        "source": np.array([0, 1, 3])[:rows],
        "received_time_ns": START_NS + 61_000_123_000 + numbers * MINUTE_NS,
        "closed": np.array([True, True, False])[:rows],
        "revision": np.array([0, 1, 2**31 - 1])[:rows],
        "flags": np.array([0, 1 | 32, 0xFF3F])[:rows],
        "known_time_ns": START_NS + 62_000_456_000 + numbers * 1_000,
        "origin": np.array([0, 1, 2])[:rows],
    }
    return kind(**{name: values[name].astype(dtype) for name, dtype in kind.DTYPES.items()}).check()


def golden_block(*, landing: bool, rows: int = 3) -> Block:
    columns = bar_columns(ConformedColumns, 3).take(np.arange(rows))
    if landing:
        columns = ConformedColumns.of_landing(bar_columns(BarColumns, 3).take(np.arange(rows)))
    return Block(
        symbol=SYMBOL,
        block_start_ns=START_NS,
        block_end_ns=START_NS + 240 * MINUTE_NS,
        interval_ns=MINUTE_NS,
        range_start_ns=START_NS - MINUTE_NS if landing else START_NS,
        complete_through_ns=START_NS + 3 * MINUTE_NS if landing else None,
        columns=columns,
        digest=block_digest(SYMBOL, columns),
        sequence=0 if landing else 9,
        landing=landing,
        asked_time_ns=START_NS + 5_000 if landing and rows == 0 else None,
    )


def small_records() -> dict[str, list[dict[str, Any]]]:
    """By the name of the record, as `encode_record` takes them."""
    return {**_of_the_owner(), **_of_ranges()}


def _of_the_owner() -> dict[str, list[dict[str, Any]]]:
    block = golden_block(landing=False)
    root = merkle_root([(block.block_start_ns, block.digest, 3)], 240 * MINUTE_NS)
    known = {"known_time_ns": START_NS + 62_000_456_000}
    return {
        "trade": [
            {
                "symbol": SYMBOL,
                "trade_id": 2**62,
                "time_ns": START_NS + 5_000,
                "price": 0.1,
                "size": 1e300,
                "side": side,
                "source": source,
                "received_time_ns": START_NS + 9_000,
            }
            for side, source in (("buy", "binance"), ("sell", None), ("auction", None), (None, ""))
        ],
        "seal": [
            {
                "symbol": SYMBOL,
                "frontier_ns": START_NS + 3 * MINUTE_NS,
                "conformed_offset": 2**40,
                "merkle_root": root,
                "sequence": 9,
                "storage_sequence": 8,
                "blocks": 1,
                "rows": 3,
                "history_start_ns": START_NS,
                "asked_start_ns": START_NS - MINUTE_NS,
                "live": live,
                "owner": owner,
                **known,
            }
            for live, owner in ((True, "worker-1"), (False, ""))
        ],
        "position": [
            {
                "partition": 7,
                "live_offset": 2**40,
                "backfill_offset": 0,
                "watermark_ns": watermark,
                "owner": "worker-1",
                "conformed_offset": 12,
                "rows_total": 2**33,
                "modes_version": modes_version,
                **known,
            }
            for watermark, modes_version in ((None, 0), (START_NS, 2**40))
        ],
    }


def _of_ranges() -> dict[str, list[dict[str, Any]]]:
    block = golden_block(landing=False)
    known = {"known_time_ns": START_NS + 62_000_456_000}
    return {
        "report": [
            {
                "symbol": SYMBOL,
                "window_start_ns": START_NS,
                "window_end_ns": START_NS + 240 * MINUTE_NS,
                **dict.fromkeys(("rows", "missing", "revisions", "confirmed"), 240),
                **dict.fromkeys(("discarded", "conflicts", "late", "quarantined"), 0),
                "findings": findings,
                "failures": failures,
                **known,
            }
            for findings, failures in (({}, []), ({"off_grid": 2, "quarantined": 1}, [FAILURE]))
        ],
        "gap": [
            {
                "symbol": SYMBOL,
                "start_ns": START_NS,
                "end_ns": START_NS + 2 * MINUTE_NS,
                "bars": 2,
                "cause": cause,
                "detail": detail,
                **known,
            }
            for cause, detail in (
                *(("no_trades", None), ("venue_outage", "the venue said so"), ("our_loss", "")),
                *(("late", None), ("unknown", None), ("quarantined", "high_below_low")),
            )
        ],
        "chunk": [
            {
                "symbol": SYMBOL,
                "start_ns": START_NS,
                "end_ns": START_NS + 1_920 * MINUTE_NS,
                "state": state,
                "complete_through_ns": through,
                "rows": 3,
                "digest": block.digest,
                "attempts": 2,
                "fetched_time_ns": START_NS + 5_000,
            }
            for state, through in (("planned", None), ("landed", START_NS + MINUTE_NS))
        ],
    }


def fields_of(name: str, value: bytes, version: int) -> dict[str, Any]:
    """One record of a version as JSON holds it: bytes as hex, NaN as null, columns as lists."""
    if name == "bar":
        bars = BarDecoder()
        decoded = bars.decode([value], version)
        assert decoded.ok.all()
        stated = {"interval_ns": int(decoded.interval_ns[0])}
        return {"symbol": bars.symbols[0], **stated, **columns_as_lists(decoded.columns)}
    if name == "conformed_bar":
        conformed = ConformedDecoder()
        found = conformed.decode([value])
        assert found.ok.all()
        return {"symbol": conformed.symbols[0], **columns_as_lists(found.columns)}
    if name == "bar_block":
        block = decode_block(value, version)
        fields = {each: getattr(block, each) for each in Block.__slots__ if each != "columns"}
        return {each: told(field) for each, field in fields.items()} | {
            "columns": columns_as_lists(block.columns)
        }
    return {each: told(field) for each, field in decode_record(name, value, version).items()}


def columns_as_lists(columns: BarColumns | ConformedColumns) -> dict[str, Any]:
    return {
        name: [told(value) for value in getattr(columns, name).tolist()] for name in columns.DTYPES
    }


def told(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and math.isnan(value) else value


def written_now(name: str) -> list[bytes]:
    """The golden records of a name as this program writes them."""
    if name == "bar":
        columns = bar_columns(BarColumns)
        stated = encode_bars([SYMBOL] * len(columns), columns, SCHEMA_ID, MINUTE_NS)
        return [*stated, *encode_bars([SYMBOL] * len(columns), columns, SCHEMA_ID)[:1]]
    if name == "conformed_bar":
        rows = bar_columns(ConformedColumns)
        return encode_conformed([SYMBOL.encode()], np.zeros(len(rows)), rows, SCHEMA_ID)
    if name == "bar_block":
        blocks = [
            golden_block(landing=True),
            golden_block(landing=False),
            golden_block(landing=True, rows=0),
        ]
        return [encode_block(block, SCHEMA_ID) for block in blocks]
    return [encode_record(name, record, SCHEMA_ID) for record in small_records()[name]]


def write_missing() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        path = FOLDER / f"{name}.v{schema.version}.json"
        if path.exists():
            continue
        records = [
            {"value": value.hex(), "fields": fields_of(name, value, schema.version)}
            for value in written_now(name)
        ]
        held = {"fingerprint": schema.fingerprint, "records": records}
        path.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_missing()
