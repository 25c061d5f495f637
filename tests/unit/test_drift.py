"""Drifted writer schemas, case by case: what reads as the approved record, and what does not."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import fastavro
import pytest

from avro_peer import SCHEMA_ID, varint
from seamline.schemas.avro import parse_schema
from seamline.schemas.avro_bounds import NESTING_MAX, TYPES_MAX, unfolded
from seamline.schemas.codec import BarDecoder, frame
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.drift import RECORD_BYTES_MAX, TEXT_CHARS_MAX, Drift, drift_of
from seamline.schemas.errors import ContractError, UsageError

NUMBERS = ("open", "high", "low", "close", "volume")
WIRE: dict[str, Any] = {
    "symbol": "BTC/USDT",
    "open_time": 1_700_000_000_000,
    **dict.fromkeys(NUMBERS, 2.0),
    "quote_volume": 7.5,
    "trades": 3,
    "first_trade_id": 4,
    "last_trade_id": 6,
    "source": "ws_closed",
    "closed": True,
    "received_time": 1_700_000_060_000_123,
}


def bar() -> Any:
    return json.loads(SCHEMAS["bar"].text)


def field(schema: Any, name: str) -> Any:
    return next(each for each in schema["fields"] if each["name"] == name)


def typed(name: str, kind: Any) -> Callable[[Any], object]:
    def change(schema: Any) -> None:
        field(schema, name).update(type=kind)
        field(schema, name).pop("default", None)

    return change


def without(name: str) -> Callable[[Any], object]:
    return lambda schema: schema["fields"].remove(field(schema, name))


def renamed(name: str, new: str) -> Callable[[Any], object]:
    return lambda schema: field(schema, name).update(name=new)


def drifted(*changes: Callable[[Any], object]) -> Drift | None:
    schema = bar()
    for change in changes:
        change(schema)
    return drift_of(json.dumps(schema), ("bar",))


def write(schema: Any, wire: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(plain(schema), _force=True), wire)
    return frame(SCHEMA_ID) + out.getvalue()


def plain(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: plain(value) for key, value in schema.items() if key != "logicalType"}
    return [plain(item) for item in schema] if isinstance(schema, list) else schema


def translated(change: Callable[[Any], object], **wire: Any) -> dict[str, Any] | None:
    """The row that a record of the changed schema reads as, None where it does not resolve."""
    schema = bar()
    change(schema)
    drift = drift_of(json.dumps(schema), ("trade", "bar"))
    assert drift is not None
    assert drift.schema is SCHEMAS["bar"]
    value = drift.translate(write(schema, WIRE | wire))
    if value is None:
        return None
    assert value[:5] == frame(SCHEMA_ID)
    decoder = BarDecoder()
    decoded = decoder.decode([value])
    assert decoded.ok.all()
    row = {name: getattr(decoded.columns, name)[0].item() for name in (*NUMBERS, "trades")}
    return {"symbol": decoder.symbols[0], "quote": decoded.columns.quote_volume[0].item(), **row}


def test_the_approved_schema_is_no_drift() -> None:
    assert drifted() is None
    assert drifted(lambda schema: schema.update(doc="another")) is None
    assert drift_of(SCHEMAS["trade"].text, ("bar",)) is None


@pytest.mark.parametrize("name", ["volume", "close"])
@pytest.mark.parametrize(
    ("kind", "there", "read"),
    [
        *(("string", "123.4", 123.4), ("string", "-0", 0.0), ("string", "1e-8", 1e-8)),
        *(("int", 5, 5.0), ("long", 2**53 + 1, 2.0**53), ("float", 0.5, 0.5)),
        *((["null", "double"], 2.5, 2.5), (["string", "long"], "0.1", 0.1)),
        *((["string", "long"], 9, 9.0), ({"type": "string", "avro.java.string": "String"}, "3", 3)),
    ],
)
def test_a_number_of_another_type_is_read(name: str, kind: Any, there: Any, read: float) -> None:
    row = translated(typed(name, kind), **{name: there})
    assert row is not None
    assert row[name] == read


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", ".", "abc", "1.2.3", " 1", "1 ", "1_000", "1,5", "0x10", "١٢", "1e", "1\n"),
        *("nan", "NaN", "inf", "-Infinity", "1e999", "9" * 400, "1" * 401),
    ],
)
def test_a_text_that_is_no_finite_number_does_not_resolve(text: str) -> None:
    assert translated(typed("close", "string"), close=text) is None


@pytest.mark.parametrize(
    ("text", "read"), [("12", 12), ("-5", -5), ("12.0", None), ("9" * 19, None), ("", None)]
)
def test_a_count_as_text_is_a_whole_number_of_64_bits(text: str, read: int | None) -> None:
    row = translated(typed("trades", ["null", "string"]), trades=text)
    assert (row and row["trades"]) == read


def test_a_branch_that_does_not_resolve_is_of_the_record_not_of_the_schema() -> None:
    change = typed("trades", ["null", "double"])
    assert translated(change, trades=3.0) is None
    row = translated(change, trades=None)
    assert row is not None
    assert row["trades"] == -1


def test_what_else_reads_as_a_bar() -> None:
    row = translated(without("quote_volume"))
    assert row is not None
    assert row["quote"] != row["quote"]
    more = {"name": "extra", "type": {"type": "map", "values": ["null", "string"]}}
    assert translated(lambda schema: schema["fields"].insert(3, more), extra={"a": "b"})
    assert translated(lambda schema: schema["fields"].reverse())
    assert translated(lambda schema: schema.pop("namespace"))
    assert translated(typed("quote_volume", "double"))
    assert translated(typed("quote_volume", "null"), quote_volume=None)
    assert translated(typed("symbol", "bytes"), symbol=b"BTC/USDT")


def test_a_default_that_does_not_fit_its_type_is_of_no_account_to_what_was_written() -> None:
    assert drifted(lambda schema: field(schema, "volume").update(type="string", default=None))


def test_a_null_in_a_required_field_does_not_resolve() -> None:
    change = typed("close", ["null", "double"])
    assert translated(change, close=None) is None
    assert translated(change, close=2.0) is not None


def test_a_symbol_that_is_not_known_does_not_resolve() -> None:
    def one_more(schema: Any) -> None:
        field(schema, "source")["type"]["symbols"].insert(0, "dream")

    assert translated(one_more, source="dream") is None
    row = translated(one_more, source="ws_closed")
    assert row is not None


def test_people_are_told_what_drifted() -> None:
    drift = drifted(
        typed("volume", "string"),
        typed("close", ["null", "double"]),
        without("trades"),
        lambda schema: schema["fields"].append({"name": "extra", "type": "null"}),
        lambda schema: schema["fields"].reverse(),
        lambda schema: schema.update(name="Bar", namespace=""),
        lambda schema: field(schema, "source")["type"]["symbols"].append("dream"),
    )
    assert drift is not None
    assert set(drift.fields) == {
        "record: Bar without its namespace",
        "volume: string for double",
        "close: nullable, required here",
        "trades: missing, reads as its default",
        "extra: added, not read",
        "source: enum with dream",
        "record: fields in another order",
    } | {f for f in drift.fields if f.startswith("venue_time: missing")}
    many = drifted(
        lambda schema: schema["fields"].extend({"name": f"x{n}", "type": "long"} for n in range(50))
    )
    assert many is not None
    assert len(many.fields) == 20
    same = drifted(typed("symbol", {"type": "string", "avro.java.string": "String"}))
    assert same is not None
    assert same.fields == ("schema: differs in what changes no value",)


NOT_READ: dict[str, Callable[[Any], object]] = {
    "a renamed field": renamed("close", "last"),
    "a renamed optional and required": renamed("symbol", "ticker"),
    "another record": lambda schema: schema.update(name="Candle"),
    "another namespace": lambda schema: schema.update(namespace="elsewhere"),
    "a time without a unit": typed("open_time", "long"),
    "a time in another unit": typed(
        "open_time", {"type": "long", "logicalType": "timestamp-micros"}
    ),
    "a time as text": typed("open_time", "string"),
    "a time of a wrapped type without a unit": typed("open_time", {"type": {"type": "long"}}),
    "a number with a unit around its type": typed(
        "volume", {"type": {"type": "long"}, "logicalType": "timestamp-millis"}
    ),
    "a number with a unit": typed("volume", {"type": "long", "logicalType": "timestamp-millis"}),
    "a decimal of bytes": typed("close", {"type": "bytes", "logicalType": "decimal"}),
    "a required field missing": without("close"),
    "a double for a count": typed("trades", "double"),
    "a boolean for a number": typed("close", "boolean"),
    "an enum as text": typed("source", "string"),
    "another enum": lambda schema: field(schema, "source")["type"].update(name="Origin"),
    "an enum without a known symbol": lambda schema: field(schema, "source")["type"].update(
        symbols=["dream"]
    ),
    "a number as a list": typed("close", {"type": "array", "items": "double"}),
    "null for a price": typed("close", "null"),
    "a null or a list for a price": typed("close", ["null", {"type": "array", "items": "double"}]),
}


@pytest.mark.parametrize("change", NOT_READ.values(), ids=list(NOT_READ))
def test_what_would_be_a_guess_is_no_drift(change: Callable[[Any], object]) -> None:
    assert drifted(change) is None


def laughs(levels: int) -> Any:
    """A record that doubles at each level."""
    kind: Any = {"type": "record", "name": "L0", "fields": [{"name": "a", "type": "long"}]}
    for level in range(1, levels):
        fields = [{"name": "a", "type": kind}, {"name": "b", "type": f"L{level - 1}"}]
        kind = {"type": "record", "name": f"L{level}", "fields": fields}
    return kind


def chained(levels: int) -> Any:
    """Records that are deep by the names they use, and flat as they are written."""
    fields: list[Any] = [{"name": "a0", "type": {"type": "record", "name": "C0", "fields": []}}]
    for level in range(1, levels):
        inner = {"name": "a", "type": f"C{level - 1}"}
        kind = {"type": "record", "name": f"C{level}", "fields": [inner]}
        fields.append({"name": f"a{level}", "type": kind})
    return {"type": "record", "name": "Chain", "fields": fields}


def deep(levels: int) -> Any:
    kind: Any = "long"
    for _ in range(levels):
        kind = {"type": "array", "items": kind}
    return kind


HOSTILE: dict[str, Any] = {
    "a recursive type": {
        "type": "record",
        "name": "Node",
        "fields": [{"name": "next", "type": ["null", "Node"]}],
    },
    "a doubling type": laughs(12),
    "too deep": deep(NESTING_MAX + 1),
    "too deep by names": chained(NESTING_MAX),
    "items without bytes": {"type": "array", "items": "null"},
    "items of an empty record": {
        "type": "map",
        "values": {"type": "record", "name": "E", "fields": []},
    },
    "a name clash": {"type": "enum", "name": "Bar", "symbols": ["A"]},
    "an unknown name": "Elsewhere",
    "a union in a union": ["null", ["long"]],
    "no branches": [],
    "a negative size": {"type": "fixed", "name": "F", "size": -1},
    "a size that is none": {"type": "fixed", "name": "F", "size": True},
    "a symbol twice": {"type": "enum", "name": "E", "symbols": ["A", "A"]},
    "symbols that are none": {"type": "enum", "name": "E", "symbols": [1]},
    "a default that is no symbol": {
        "type": "enum",
        "name": "E",
        "symbols": ["A"],
        "default": "B",
    },
    "no name": {"type": "record", "fields": []},
    "fields that are none": {"type": "record", "name": "R", "fields": [5]},
    "a number": 5,
    "nothing": {},
}


@pytest.mark.parametrize("kind", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_type_is_no_drift(kind: Any) -> None:
    schema = bar()
    schema["fields"].append({"name": "x", "type": kind})
    assert drift_of(json.dumps(schema), ("bar",)) is None
    with pytest.raises(ContractError):
        unfolded(parse_schema(schema))


def test_bounds_are_of_what_is_used_not_of_what_is_written() -> None:
    assert drifted(lambda schema: schema["fields"].append({"name": "x", "type": laughs(8)}))
    assert drifted(lambda schema: schema["fields"].append({"name": "x", "type": deep(14)}))
    assert drifted(lambda schema: schema["fields"].append({"name": "x", "type": chained(14)}))
    wide = [{"name": f"x{n}", "type": "null"} for n in range(TYPES_MAX)]
    assert drifted(lambda schema: schema["fields"].extend(wide)) is None
    padded = json.dumps(bar() | {"aliases": ["a" * TEXT_CHARS_MAX]})
    assert drift_of(padded, ("bar",)) is None


@pytest.mark.parametrize(
    "text", ["", "{", "null", "5", '"string"', "[" * 30_000, "{}", '{"type": {}}', "[1e400]"]
)
def test_a_text_that_is_no_schema_is_no_drift(text: str) -> None:
    assert drift_of(text, ("bar", "bar_block")) is None


def test_names_are_records_of_the_bundle() -> None:
    with pytest.raises(UsageError, match="names"):
        drift_of(SCHEMAS["bar"].text, ("candle",))


def test_bytes_that_are_no_record_do_not_resolve() -> None:
    schema = bar()
    typed("volume", "string")(schema)
    schema["fields"] += [
        {"name": "words", "type": {"type": "array", "items": "string"}},
        {"name": "flag", "type": ["null", "boolean", {"type": "fixed", "name": "F", "size": 3}]},
        {"name": "level", "type": {"type": "enum", "name": "Level", "symbols": ["a", "b"]}},
        {"name": "narrow", "type": "int"},
    ]
    drift = drift_of(json.dumps(schema), ("bar",))
    assert drift is not None
    wire = WIRE | {"volume": "1.5", "words": ["x", "y"], "flag": b"abc", "level": "b", "narrow": 1}
    good = write(schema, wire)
    assert drift.translate(good) is not None
    assert all(drift.translate(good[:cut]) is None for cut in range(len(good)))
    assert drift.translate(good + b"\0") is None
    assert drift.translate(b"\1" + good[1:]) is None
    assert drift.translate(good + b"x" * RECORD_BYTES_MAX) is None
    tail = b"\2" + varint(1) + b"x" + b"\0"  # one word
    head = good[: good.index(varint(2) + varint(1) + b"x")]
    rest = varint(2) + b"abc" + varint(1) + varint(1)
    assert drift.translate(head + varint(1) + varint(1) + b"x" + b"\0" + varint(0) + rest[4:])
    for wrong in (
        varint(2**62) + b"\0",  # items that are not there
        varint(-(2**63)) + varint(0),
        varint(1) + varint(-1) + b"\0",  # a length below nothing
        tail[1:] + varint(9),  # no such branch
        varint(0) + varint(1) + b"\2",  # no boolean
        varint(0) + varint(0) + varint(7) + varint(0),  # no such symbol
        varint(0) + varint(0) + varint(0) + varint(2**31),  # more than an int
        varint(0) + varint(0) + varint(0) + b"\xff" * 9 + b"\2",  # more than 64 bits
        varint(0) + varint(0) + varint(0) + b"\xff" * 11,
    ):
        assert drift.translate(head + wrong) is None


def test_blocks_and_trades_drift_too() -> None:
    trade = json.loads(SCHEMAS["trade"].text)
    typed("price", "string")(trade)
    drift = drift_of(json.dumps(trade), ("trade",))
    assert drift is not None
    assert drift.fields[0] == "price: string for double"
    block = json.loads(SCHEMAS["bar_block"].text)
    typed("close", {"type": "array", "items": "string"})(block)
    drift = drift_of(json.dumps(block), ("bar", "bar_block"))
    assert drift is not None
    assert drift.schema is SCHEMAS["bar_block"]
    assert drift.fields[0] == "close[]: string for double"


def test_a_float_is_the_double_of_its_bits() -> None:
    row = translated(typed("close", "float"), close=0.1)
    assert row is not None
    assert row["close"] == struct.unpack("<f", struct.pack("<f", 0.1))[0]
