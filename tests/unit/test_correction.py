"""A record of quarantine as fields that a person corrects, and back as bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from machine_world import IDS, MINUTE_NS, PARENT, START_NS, SYMBOLS, Row, block_value, columns_of
from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.streams.kernel.correction import BAR, BLOCK, corrected, decoded, encoded

A = SYMBOLS[0]


def bar(row: Row) -> bytes:
    return encode_bars([row.symbol], columns_of([row]), IDS["bar"])[0]


def block() -> bytes:
    rows = [Row(A, minute, 100.0 + minute, source=0, quote_volume=7.0) for minute in (0, 1, 5)]
    return block_value(PARENT, A, 0, rows, start=0, through=6)


@pytest.mark.parametrize("value, name", [(bar(Row(A, 3, 100.0)), BAR), (block(), BLOCK)])
def test_fields_that_nobody_changed_give_the_same_bytes(value: bytes, name: str) -> None:
    fields = json.loads(json.dumps(decoded(value, name), allow_nan=False))
    assert encoded(fields, IDS) == (A.encode(), value)


def test_a_value_that_is_no_number_is_shown_and_corrected() -> None:
    fields = decoded(bar(Row(A, 3, math.inf)), BAR)
    assert (fields["open"], fields["close"]) == ("Infinity", "Infinity")
    mended = corrected(fields, dict.fromkeys(("open", "high", "low", "close"), "101.5"))
    again = decoded(encoded(mended, IDS)[1], BAR)
    assert [again[name] for name in ("open", "high", "low", "close")] == [101.5] * 4
    assert again["open_time_ns"] == START_NS + 3 * MINUTE_NS


def test_times_are_written_as_people_write_them() -> None:
    fields = decoded(bar(Row(A, 3, 100.0)), BAR)
    changes = {"open_time_ns": "2026-01-31T00:05:00Z", "trades": "null", "symbol": "null"}
    mended = corrected(fields, changes)
    assert mended["open_time_ns"] == 1_769_817_900 * 10**9
    assert mended["trades"] is None and mended["symbol"] == "null", "a text stays what it is"
    assert encoded(mended, IDS)[0] == b"null"


@pytest.mark.parametrize(
    "field, text",
    [
        ("close", "abc"),
        ("close", "true"),
        ("close", "null"),
        ("closed", "1"),
        ("trades", "1.5"),
        ("open_time_ns", "2026-01-31T00:00:00"),
        # It would be a bar of 1969.
        ("open_time_ns", "-3d"),
        ("open_time_ns", "now"),
        ("open_time_ns", str(2**70)),
        ("trades", str(2**70)),
        ("close", "1" + "0" * 400),
        ("clsoe", "1"),
        ("rows", "[]"),
    ],
)
def test_a_correction_that_cannot_be_names_its_field(field: str, text: str) -> None:
    with pytest.raises(UsageError) as told:
        corrected(decoded(bar(Row(A, 3, 100.0)), BAR), {field: text})
    assert told.value.parameter == field


def test_a_block_gets_the_digest_of_its_new_rows() -> None:
    fields = decoded(block(), BLOCK)
    fields["rows"][1]["volume"] = 9.0
    fields["rows"][2]["quote_volume"] = 8.0
    found = decode_block(encoded(fields, IDS)[1])
    assert found.columns.volume.tolist() == [1.0, 9.0, 1.0]
    assert found.columns.quote_volume.tolist() == [7.0, 7.0, 8.0]
    assert found.digest == block_digest(A, found.columns) != decode_block(block()).digest


def _without(fields: dict[str, Any]) -> None:
    del fields["rows"][0]["low"]


def _of_another_authority(fields: dict[str, Any]) -> None:
    fields["rows"][0]["source"] = "me"


def _not_rows(fields: dict[str, Any]) -> None:
    fields["rows"] = "none"


@pytest.mark.parametrize(
    "change, parameter",
    [(_without, "low"), (_of_another_authority, "source"), (_not_rows, "rows")],
)
def test_a_block_that_cannot_be_names_its_field(change: Any, parameter: str) -> None:
    fields = decoded(block(), BLOCK)
    change(fields)
    with pytest.raises(UsageError) as told:
        encoded(fields, IDS)
    assert told.value.parameter == parameter
