"""The small records: seals, positions, reports, gaps, trades. One dict is one record.

Decides: how a record reads inside. Every field with a timestamp type is called `<field>_ns` and is
an int of UTC nanoseconds; enums are their symbols, the rest is as in the schema. Invariants:
unknown fields, and missing ones without a default, are refused; so are times that the wire's unit
cannot hold, except `received_time_ns`, which is cut. Every approved version is read; what an older
one does not have reads as the default of the newest. Must not know: bars in bulk (`codec` has them
in columns).
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import fastavro

from seamline.schemas.contract import SCHEMAS, approved
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import INT64_MAX, NS_PER_MS, NS_PER_US
from seamline.schemas.wire import FRAME_BYTES, frame, whole_one

INT32: Final = 2**31
_UNITS: Final = {"timestamp-millis": NS_PER_MS, "timestamp-micros": NS_PER_US}
# A clock reading: what the wire cannot hold is cut, not refused.
_CUT: Final = "received_time_ns"


@dataclass(frozen=True, slots=True)
class _Shape:
    """A record's parsed schema without logical types, and its fields: inside name -> (wire name,
    nanoseconds per unit, or 0 for what is not a time). `ints`: names on the wire of 32 bits."""

    parsed: Any
    fields: Mapping[str, tuple[str, int]]
    defaults: Mapping[str, Any]
    ints: tuple[str, ...]


def encode_record(name: str, record: Mapping[str, Any], schema_id: int) -> bytes:
    """One framed record of the newest approved version of `name`.

    Raises ContractError for unknown, missing or ill-typed fields and for times off the wire's unit.
    """
    shape = _shape(name)
    unknown = record.keys() - shape.fields.keys()
    missing = shape.fields.keys() - record.keys() - shape.defaults.keys()
    if unknown or missing:
        raise ContractError(
            f"not the fields of {name}",
            parameter=min(unknown or missing),
            fix=f"Unknown: {sorted(unknown)}, missing: {sorted(missing)}",
        )
    wire = {
        field: _to_wire(inside, record.get(inside, shape.defaults.get(inside)), unit)
        for inside, (field, unit) in shape.fields.items()
    }
    return frame(schema_id) + write_wire(name, wire)


def decode_record(name: str, value: bytes, version: int | None = None) -> dict[str, Any]:
    """The fields of one framed record, written with this approved version of `name`, the newest
    where none is given; the fields are always those of the newest.

    Raises ContractError with `reason` for bytes that are no such record.
    """
    newest = _shape(name)
    shape = newest if version is None else _SHAPES_OF.get((name, version))
    if shape is None:
        raise UsageError("no such version", parameter="version", value=version)
    if len(value) < FRAME_BYTES or value[0] != 0:
        raise _refused(name, value, "not_framed")
    stream = io.BytesIO(value)
    stream.seek(FRAME_BYTES)
    try:
        wire: Any = fastavro.schemaless_reader(stream, shape.parsed, None)
    except (EOFError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise _refused(name, value, "undecodable") from error
    if stream.tell() != len(value):
        raise _refused(name, value, "trailing_bytes")
    # fastavro lets a number of more than 64 bits run over, and one of more than 32 pass as an int;
    # what it read must be what is there.
    ints = (wire[field] for field in shape.ints)
    if _written(shape, wire) != value[FRAME_BYTES:] or any(not -INT32 <= n < INT32 for n in ints):
        raise _refused(name, value, "bad_number")
    inside = {
        field: _to_ns(wire[on_wire], unit) if on_wire in wire else _own(newest.defaults[field])
        for field, (on_wire, unit) in newest.fields.items()
    }
    for field, (_, unit) in newest.fields.items():
        if unit and inside[field] is not None and abs(inside[field]) > INT64_MAX:
            raise _refused(name, value, "invalid_timestamp")
    return inside


def write_wire(name: str, wire: Mapping[str, Any]) -> bytes:
    """One record of the newest approved version of `name` without its frame, from values as on the
    wire: times in the schema's units. Raises ContractError for what does not fit the schema.
    """
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, _PARSED[name], wire, strict=True)
    except (ValueError, TypeError, OverflowError, AttributeError, struct.error) as error:
        raise ContractError(str(error), parameter=name, value=dict(wire)) from None
    return out.getvalue()


def _written(shape: _Shape, wire: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, shape.parsed, wire)
    return out.getvalue()


def _to_wire(parameter: str, value: Any, unit: int) -> Any:
    if not unit or value is None:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ContractError("not an int of nanoseconds", parameter=parameter, value=value)
    if parameter == _CUT:
        return int(value) // unit
    return whole_one(int(value), unit, parameter)


def _to_ns(value: Any, unit: int) -> Any:
    return value * unit if unit and value is not None else value


def _own(default: Any) -> Any:
    """A default as the caller's own: a map or a list of it may be changed."""
    return type(default)(default) if isinstance(default, dict | list) else default


def _refused(name: str, value: bytes, reason: str) -> ContractError:
    return ContractError(f"not a {name}: {reason}", parameter=name, value=value, reason=reason)


def _shape(name: str) -> _Shape:
    shape = _SHAPES.get(name)
    if shape is None:
        raise UsageError("no such record", parameter="name", value=name, fix=f"One of {[*_SHAPES]}")
    return shape


def _plain(schema: Any) -> Any:
    """The schema without logical types: fastavro's conversions lose range and precision."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [_plain(branch) for branch in schema]
    return schema


def _unit_of(schema: Any) -> int:
    if isinstance(schema, list):
        return max(map(_unit_of, schema))
    return _UNITS.get(str(schema.get("logicalType")), 0) if isinstance(schema, dict) else 0


def _shape_of(text: str) -> _Shape:
    schema = json.loads(text)
    fields = {}
    defaults = {}
    for field in schema["fields"]:
        unit = _unit_of(field["type"])
        inside = f"{field['name']}_ns" if unit else field["name"]
        fields[inside] = (field["name"], unit)
        if "default" in field:
            defaults[inside] = field["default"]
    ints = tuple(field["name"] for field in schema["fields"] if field["type"] == "int")
    return _Shape(fastavro.parse_schema(_plain(schema)), fields, defaults, ints)


_PARSED: Final[Mapping[str, Any]] = {
    name: fastavro.parse_schema(_plain(json.loads(schema.text))) for name, schema in SCHEMAS.items()
}
_SHAPES_OF: Final[Mapping[tuple[str, int], _Shape]] = {
    (schema.name, schema.version): _shape_of(schema.text)
    for schema in approved()
    if schema.name != "bar_block"
}
_SHAPES: Final[Mapping[str, _Shape]] = {
    name: _SHAPES_OF[name, schema.version]
    for name, schema in SCHEMAS.items()
    if name != "bar_block"
}
