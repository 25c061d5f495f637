"""Records of a writer schema that nobody approved, read as the approved one, or not at all.

Decides: which unapproved writer schemas still mean an approved record without a guess, and how such
a record becomes bytes of the approved schema (docs/decisions/0131). What resolves: Avro's
promotions, missing fields that have a default, added fields, another order, nullable for required,
and a number as decimal text. Invariants: a field keeps its name and its unit, so a number without
the reader's logical type is no time; a null in a required field, a symbol that the reader does not
know, a text that is no finite number, and bytes that are not what the writer schema says make a
record that does not resolve, never a wrong value. Writer schemas are foreign input: text, nesting,
types and records are bounded, a recursive type is refused, and the work on a record is bounded by
its bytes. Must not know: a registry, modes, what happens to a record.

`schemas.compatibility` resolves schemas too and decides something else: whether everything that one
can write is read, by Avro's rules alone. Here a value may fail where its schema resolves (a null, a
text that is no number), a double may be decimal text, and no alias of a person's making is taken.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.avro import UNION, Node, parse_schema
from seamline.schemas.avro_bounds import has_no_bytes, unfolded
from seamline.schemas.contract import SCHEMAS, Schema, by_text
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.records import write_wire
from seamline.schemas.wire import FRAME_BYTES

# Our largest schema has 5,000 characters; a topic takes records of a megabyte.
TEXT_CHARS_MAX: Final = 65_536
RECORD_BYTES_MAX: Final = 1_048_576
FIELDS_TOLD_MAX: Final = 20
VARINT_BYTES_MAX: Final = 10

# Reads one value at a position: `(value, next position)`. Raises IndexError, struct.error and
# ValueError (UnicodeDecodeError is one) for bytes that are no such value or do not resolve.
Read = Callable[[bytes, int], tuple[Any, int]]

_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_DECIMAL_CHARS_MAX: Final = 400
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
_INT_BITS: Final = {"int": 31, "long": 63}
_FLOAT: Final = struct.Struct("<f")
_DOUBLE: Final = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Drift:
    """A writer schema that is not approved and means `schema`. `fields` says for people what
    differs, at most 20 sentences."""

    schema: Schema
    fields: tuple[str, ...]
    read: Read

    def translate(self, value: bytes) -> bytes | None:
        """A framed record of the writer schema as bytes of `schema`; None: it does not resolve.

        The frame stays as it came: it names the writer's id.
        """
        if not FRAME_BYTES <= len(value) <= RECORD_BYTES_MAX or value[0] != 0:
            return None
        try:
            wire, end = self.read(value, FRAME_BYTES)
            if end != len(value):
                return None
            return value[:FRAME_BYTES] + write_wire(self.schema.name, wire)
        except (IndexError, ValueError, struct.error, ContractError):
            return None


def drift_of(writer_text: str, names: Collection[str]) -> Drift | None:
    """How a writer schema that is not of the bundle reads as the newest approved version of a
    record of `names`; None for one that is approved, is none of these records by its full name
    (the namespace may lack), or does not resolve. Raises UsageError for names that are no record.
    """
    unknown = sorted(set(names) - SCHEMAS.keys())
    if unknown:
        raise UsageError(
            "no such record", parameter="names", value=unknown[0], fix=f"One of {[*SCHEMAS]}"
        )
    if len(writer_text) > TEXT_CHARS_MAX:
        return None
    try:
        if by_text(writer_text) is not None:
            return None
        writer = unfolded(parse_schema(writer_text, with_defaults=False))
    except ContractError:
        return None
    for name in names:
        reader = unfolded(parse_schema(SCHEMAS[name].text))
        if writer.kind == "record" and writer.name in (reader.name, reader.short_name):
            told: list[str] = []
            if writer.name != reader.name:
                told.append(f"record: {writer.name} without its namespace")
            node = _resolve(writer, reader, "", told)
            if node is None:
                return None
            told = told or ["schema: differs in what changes no value"]
            return Drift(SCHEMAS[name], tuple(told[:FIELDS_TOLD_MAX]), node)
    return None


def _resolve(writer: Node, reader: Node, path: str, told: list[str]) -> Read | None:
    """How values of the writer's type read as the reader's; None: no value of it can."""
    if writer.kind == UNION:
        return _resolve_union(writer, reader, path, told)
    if reader.kind == UNION:
        found = (_resolve(writer, branch, path, told) for branch in reader.parts)
        return next((node for node in found if node is not None), None)
    if writer.logical != reader.logical:
        return None
    if writer.kind != reader.kind:
        node = _promoted(writer.kind, reader)
        if node is not None:
            told.append(f"{path}: {writer.kind} for {reader.kind}")
        return node
    if reader.kind in _READERS:
        return _READERS[reader.kind]
    if writer.short_name != reader.short_name:
        return None
    if reader.kind == "record":
        return _resolve_record(writer, reader, path, told)
    if reader.kind == "enum":
        return _resolve_enum(writer, reader, path, told)
    if reader.kind == "fixed":
        return _fixed(writer.size) if writer.size == reader.size else None
    item = _resolve(writer.parts[0], reader.parts[0], f"{path}[]", told)
    return None if item is None else _items(item, keyed=reader.kind == "map")


def _resolve_union(writer: Node, reader: Node, path: str, told: list[str]) -> Read | None:
    """Each value says its branch; a branch that does not resolve makes a record that does not."""
    nullable = {branch.kind for branch in reader.parts} if reader.kind == UNION else set()
    branches: list[Read | None] = []
    for branch in writer.parts:
        if branch.kind == "null" and "null" not in nullable and reader.kind != "null":
            told.append(f"{path}: nullable, required here")
            branches.append(None)
        else:
            branches.append(_resolve(branch, reader, path, told))
    if not any(branches):
        return None

    def read(b: bytes, p: int) -> tuple[Any, int]:
        index, p = _varint(b, p)
        node = branches[index] if 0 <= index < len(branches) else None
        if node is None:
            raise ValueError("a branch that does not resolve")
        return node(b, p)

    return read


def _resolve_record(writer: Node, reader: Node, path: str, told: list[str]) -> Read | None:
    wanted = {field.name: field for field in reader.fields}
    there = [field.name for field in writer.fields]
    steps: list[tuple[str | None, Read]] = []
    for field in writer.fields:
        name, at = field.name, f"{path}.{field.name}" if path else field.name
        if name in wanted:
            node = _resolve(field.type, wanted[name].type, at, told)
            if node is None:
                return None
            steps.append((name, node))
            continue
        told.append(f"{at}: added, not read")
        if not has_no_bytes(field.type):
            steps.append((None, _skipped(field.type)))
    missing = [field for field in reader.fields if field.name not in there]
    if not all(field.has_default for field in missing):
        return None
    fill = {field.name: field.default for field in missing}
    told += [f"{path}.{name}".lstrip(".") + ": missing, reads as its default" for name in fill]
    shared = [name for name in there if name in wanted]
    if shared != [name for name in wanted if name in shared]:
        told.append(f"{path or 'record'}: fields in another order")

    def read(b: bytes, p: int) -> tuple[Any, int]:
        record = dict(fill)
        for name, node in steps:
            value, p = node(b, p)
            if name is not None:
                record[name] = value
        return record, p

    return read


def _resolve_enum(writer: Node, reader: Node, path: str, told: list[str]) -> Read | None:
    """A symbol that the reader does not know is its default, where it has one."""
    known = set(reader.symbols)
    otherwise = reader.symbol_default
    symbols = [name if name in known else otherwise for name in writer.symbols]
    if not any(symbols):
        return None
    if writer.symbols != reader.symbols:
        strange = [name for name in writer.symbols if name not in known]
        told.append(f"{path}: enum with " + (", ".join(strange[:5]) or "other symbols"))

    def read(b: bytes, p: int) -> tuple[Any, int]:
        index, p = _varint(b, p)
        symbol = symbols[index] if 0 <= index < len(symbols) else None
        if symbol is None:
            raise ValueError("a symbol that the reader does not know")
        return symbol, p

    return read


def _promoted(kind: str, reader: Node) -> Read | None:
    """A leaf of one type as another: Avro's promotions, and decimal text."""
    if kind == "string" and reader.kind in _INT_BITS and not reader.logical:
        return _then(_string, lambda text: _whole_of(text, _INT_BITS[reader.kind]))
    change = _PROMOTIONS.get((kind, reader.kind))
    return None if change is None else _then(_READERS[kind], change)


def _then(node: Read, change: Callable[[Any], Any]) -> Read:
    def read(b: bytes, p: int) -> tuple[Any, int]:
        value, p = node(b, p)
        return change(value), p

    return read


def _number_of(text: str) -> float:
    """The double of a venue's decimal text. Raises ValueError for any other text."""
    if len(text) > _DECIMAL_CHARS_MAX or not _DECIMAL.fullmatch(text):
        raise ValueError("not a decimal number")
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("not finite")
    return number


def _whole_of(text: str, bits: int) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError("not a whole number")
    number = int(text)
    if not -(1 << bits) <= number < 1 << bits:
        raise ValueError("too large")
    return number


def _items(item: Read, *, keyed: bool) -> Read:
    """An array, or a map as a dict. Each item has a byte, so the work is bounded by them."""

    def read(b: bytes, p: int) -> tuple[Any, int]:
        items: list[Any] = []
        while True:
            count, p = _varint(b, p)
            if count == 0:
                return (dict(items) if keyed else items), p
            if count < 0:
                count = -count
                _, p = _varint(b, p)
            if count > len(b) - p:
                raise ValueError("more items than bytes")
            for _ in range(count):
                key = None
                if keyed:
                    key, p = _string(b, p)
                value, p = item(b, p)
                items.append((key, value) if keyed else value)

    return read


def _skipped(kind: Node) -> Read:
    """Reads a value that nobody asks for; `unfolded` has refused items without bytes."""
    if kind.kind in _READERS:
        return _READERS[kind.kind]
    if kind.kind == "enum":
        return _one_of([_READERS["null"]] * len(kind.symbols))
    if kind.kind == "fixed":
        return _fixed(kind.size)
    if kind.kind == UNION:
        return _one_of([_skipped(part) for part in kind.parts])
    if kind.kind == "record":
        return _one_by_one(
            [_skipped(field.type) for field in kind.fields if not has_no_bytes(field.type)]
        )
    return _items(_skipped(kind.parts[0]), keyed=kind.kind == "map")


def _one_of(nodes: list[Read]) -> Read:
    def read(b: bytes, p: int) -> tuple[Any, int]:
        index, p = _varint(b, p)
        if not 0 <= index < len(nodes):
            raise ValueError("no such branch")
        return nodes[index](b, p)

    return read


def _one_by_one(nodes: list[Read]) -> Read:
    def read(b: bytes, p: int) -> tuple[Any, int]:
        for node in nodes:
            _, p = node(b, p)
        return None, p

    return read


def _fixed(size: int) -> Read:
    def read(b: bytes, p: int) -> tuple[Any, int]:
        if size > len(b) - p:
            raise IndexError("truncated")
        return b[p : p + size], p + size

    return read


def _varint(b: bytes, p: int) -> tuple[int, int]:
    z = 0
    for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
        x = b[p]
        p += 1
        z |= (x & 127) << shift
        if x < 128:
            if z >> 64:
                raise ValueError("more than 64 bits")
            return (z >> 1) ^ -(z & 1), p
    raise ValueError("more than 64 bits")


def _int(b: bytes, p: int) -> tuple[int, int]:
    value, p = _varint(b, p)
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError("more than 32 bits")
    return value, p


def _boolean(b: bytes, p: int) -> tuple[bool, int]:
    if b[p] > 1:
        raise ValueError("not a boolean")
    return b[p] == 1, p + 1


def _bytes(b: bytes, p: int) -> tuple[bytes, int]:
    length, p = _varint(b, p)
    if not 0 <= length <= len(b) - p:
        raise IndexError("truncated")
    return b[p : p + length], p + length


def _string(b: bytes, p: int) -> tuple[str, int]:
    data, p = _bytes(b, p)
    return data.decode(), p


_READERS: Final[Mapping[str, Read]] = {
    "null": lambda b, p: (None, p),
    "boolean": _boolean,
    "int": _int,
    "long": _varint,
    "float": lambda b, p: (_FLOAT.unpack_from(b, p)[0], p + 4),
    "double": lambda b, p: (_DOUBLE.unpack_from(b, p)[0], p + 8),
    "bytes": _bytes,
    "string": _string,
}
# An integer becomes the nearest double, as its decimal text would.
_PROMOTIONS: Final[Mapping[tuple[str, str], Callable[[Any], Any]]] = {
    ("int", "long"): int,
    ("int", "double"): float,
    ("long", "double"): float,
    ("float", "double"): float,
    ("string", "double"): _number_of,
    ("string", "bytes"): str.encode,
    ("bytes", "string"): bytes.decode,
}
