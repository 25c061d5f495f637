"""An Avro schema as a checked tree: what a text from a person or a registry may look like.

Decides: what is a valid schema (Avro 1.12: names, references, fields, symbols, sizes, unions,
defaults) and how large it may be. There is no other parser of schemas: `contract.normal_form` makes
the text that is hashed, `avro_bounds` says which trees bytes may be read with. Invariants: every
reference in a tree has its definition in `names`, so a recursive type is finite here; a fault is
named with its dotted path; texts of any size and depth are refused, never a crash. Must not know:
which schemas are approved, a registry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NoReturn

from seamline.schemas.contract import PRIMITIVES
from seamline.schemas.errors import ContractError

# A text beyond this is no schema of a record that anybody means to send.
SCHEMA_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 64
UNION, REFERENCE = "union", "reference"
_RECORDS: Final = ("record", "error")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INT32, _INT64 = 2**31, 2**63
# What else a type may say that changes what its bytes mean.
_LOGICAL: Final = ("logicalType", "precision", "scale")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record. `default` counts only where `has_default`."""

    name: str
    type: Node
    aliases: tuple[str, ...]
    has_default: bool
    default: object


@dataclass(frozen=True, slots=True)
class Node:
    """A type. `kind`: a primitive, record, enum, fixed, array, map, union or reference; `name` is
    the full name of a named type and of a reference; `parts` holds the items of an array, the
    values of a map or the branches of a union; `logical` what gives the bytes another meaning."""

    kind: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    parts: tuple[Node, ...] = ()
    symbols: tuple[str, ...] = ()
    symbol_default: str | None = None
    size: int = 0
    logical: tuple[object, ...] = ()

    @property
    def short_name(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def shown(self) -> str:
        """How a sentence calls this type."""
        if self.kind == UNION:
            return f"[{', '.join(part.shown for part in self.parts)}]"
        return self.name or (f"{self.kind} ({self.logical[0]})" if self.logical else self.kind)


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """A checked schema: its tree, and the definition of every full name in it."""

    root: Node
    names: Mapping[str, Node]

    def node(self, node: Node) -> Node:
        """The definition that a reference means, the node itself where it is none."""
        return self.names[node.name] if node.kind == REFERENCE else node


def parse_text(text: str, parameter: str = "schema") -> object:
    """The JSON of a schema text.

    Raises ContractError for what is no JSON, too large, or says one key twice.
    """
    if len(text) > SCHEMA_BYTES_MAX or len(text.encode("utf-8", "replace")) > SCHEMA_BYTES_MAX:
        raise ContractError(
            "too large for a schema",
            parameter=parameter,
            value=f"{len(text)} characters",
            fix=f"At most {SCHEMA_BYTES_MAX} bytes",
        )
    try:
        parsed: object = json.loads(
            text, object_pairs_hook=_once_each, parse_constant=_no_such_number
        )
    except RecursionError:
        fix = f"At most {DEPTH_MAX} levels"
        raise ContractError("nested too deeply", parameter=parameter, value=text, fix=fix) from None
    except ValueError as error:
        fix = "Give the JSON of one Avro schema"
        raise ContractError(
            f"not JSON: {error}", parameter=parameter, value=text, fix=fix
        ) from None
    return parsed


def parse_schema(
    schema: object, parameter: str = "schema", *, with_defaults: bool = True
) -> AvroSchema:
    """The checked tree of a schema: its parsed JSON, or its text.

    `with_defaults=False` does not ask whether the defaults of fields fit: for a schema that values
    were written with, which defaults play no part in. Raises ContractError, with the dotted path of
    the fault in `path`, for what is no Avro schema.
    """
    parsed = parse_text(schema, parameter) if isinstance(schema, str) else schema
    return _Parser(parameter).schema(parsed, with_defaults)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one object says a key twice")
    return found


def _no_such_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


class _Parser:
    def __init__(self, parameter: str) -> None:
        self._parameter = parameter
        self._names: dict[str, Node] = {}
        self._open: set[str] = set()
        # Checked at the end: a default may be of a type that is still being read.
        self._defaults: list[tuple[Field, str]] = []

    def schema(self, parsed: object, with_defaults: bool) -> AvroSchema:
        root = self._node(parsed, "", "", 0)
        made = AvroSchema(root, MappingProxyType(self._names))
        for field, path in self._defaults if with_defaults else ():
            if not _fits(made, field.type, field.default, 0):
                self._refuse(
                    f"the default {json.dumps(field.default)[:80]} is no {field.type.shown}", path
                )
        return made

    def _refuse(self, why: str, path: str) -> NoReturn:
        raise ContractError(
            f"not an Avro schema: {f'{path}: ' if path else ''}{why}",
            parameter=self._parameter,
            value=path or None,
            fix="Mend it there; the rules are those of Avro 1.12",
            path=path,
            why=why,
        )

    def _node(self, schema: object, space: str, path: str, depth: int) -> Node:
        if depth > DEPTH_MAX:
            self._refuse("nested too deeply", path[:80])
        if isinstance(schema, str):
            return self._named_or_primitive(schema, space, path)
        if isinstance(schema, list):
            return self._union(schema, space, path, depth)
        if not isinstance(schema, dict) or "type" not in schema:
            self._refuse(f"{str(schema)[:80]} is no type", path)
        kind = schema["type"]
        if not isinstance(kind, str):
            made = self._node(kind, space, path, depth + 1)
            # A unit around a plain type is one all the same.
            plain = made.kind in PRIMITIVES and not made.logical
            return Node(made.kind, logical=_logical(schema)) if plain else made
        if kind in _RECORDS or kind in ("enum", "fixed"):
            return self._definition(schema, kind, space, path, depth)
        if kind in ("array", "map"):
            key = "items" if kind == "array" else "values"
            if key not in schema:
                self._refuse(f"{kind} without {key}", path)
            inner = self._node(
                schema[key], space, path + ("[]" if kind == "array" else "{}"), depth + 1
            )
            return Node(kind, parts=(inner,), logical=_logical(schema))
        made = self._named_or_primitive(kind, space, path)
        return made if made.kind == REFERENCE else Node(made.kind, logical=_logical(schema))

    def _named_or_primitive(self, name: str, space: str, path: str) -> Node:
        if name in PRIMITIVES:
            return Node(name)
        full = name if "." in name or not space else f"{space}.{name}"
        if full not in self._names and full not in self._open:
            self._refuse(f"no type {name[:80]!r} is defined before here", path)
        return Node(REFERENCE, name=full)

    def _union(self, branches: list[object], space: str, path: str, depth: int) -> Node:
        parts = tuple(self._node(branch, space, path, depth + 1) for branch in branches)
        if not parts:
            self._refuse("a union without branches", path)
        told = [part.name or part.kind for part in parts]
        if UNION in told:
            self._refuse("a union directly inside a union", path)
        if len(set(told)) != len(told):
            self._refuse("a union with two branches of one type", path)
        return Node(UNION, parts=parts)

    def _definition(
        self, schema: dict[str, Any], kind: str, space: str, path: str, depth: int
    ) -> Node:
        name, space = self._name_of(schema, space, path)
        if name in self._names or name in self._open:
            self._refuse(f"{name} is defined twice", path)
        aliases = tuple(
            alias if "." in alias or not space else f"{space}.{alias}"
            for alias in self._texts(schema, "aliases", path)
        )
        if kind == "enum":
            made = self._enum(schema, name, aliases, path)
        elif kind == "fixed":
            size = schema.get("size")
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < _INT32:
                self._refuse(f"{name} is fixed without a size", path)
            made = Node("fixed", name, aliases, size=size, logical=_logical(schema))
        else:
            self._open.add(name)
            fields = self._fields(schema, space, path, depth)
            self._open.discard(name)
            made = Node("record", name, aliases, fields=fields)
        self._names[name] = made
        return made

    def _name_of(self, schema: dict[str, Any], space: str, path: str) -> tuple[str, str]:
        """The full name of a definition, and the namespace inside it."""
        name, own = schema.get("name"), schema.get("namespace", space)
        if not isinstance(name, str) or not isinstance(own, str | None):
            self._refuse("a named type without a name", path)
        if "." not in name and own:
            name = f"{own}.{name}"
        if not all(_NAME.fullmatch(part) for part in name.split(".")):
            self._refuse(f"{name[:80]!r} is no name", path)
        if name in PRIMITIVES:
            self._refuse(f"{name} is the name of a primitive type", path)
        return name, name.rpartition(".")[0]

    def _enum(self, schema: dict[str, Any], name: str, aliases: tuple[str, ...], path: str) -> Node:
        symbols = self._texts(schema, "symbols", path)
        default = schema.get("default")
        if not symbols or not all(_NAME.fullmatch(symbol) for symbol in symbols):
            self._refuse(f"the symbols of {name} are no names", path)
        if len(set(symbols)) != len(symbols):
            self._refuse(f"{name} has a symbol twice", path)
        if default is not None and default not in symbols:
            self._refuse(f"the default of {name} is none of its symbols", path)
        return Node("enum", name, aliases, symbols=symbols, symbol_default=default)

    def _fields(
        self, schema: dict[str, Any], space: str, path: str, depth: int
    ) -> tuple[Field, ...]:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            self._refuse("a record without a list of fields", path)
        made = tuple(self._field(field, space, path, depth) for field in fields)
        if len({field.name for field in made}) != len(made):
            self._refuse("a record with two fields of one name", path)
        return made

    def _field(self, field: object, space: str, path: str, depth: int) -> Field:
        if not isinstance(field, dict) or "type" not in field:
            self._refuse(f"{str(field)[:80]} is no field", path)
        name = field.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self._refuse(f"{str(name)[:80]!r} is no name of a field", path)
        where = f"{path}.{name}" if path else name
        made = Field(
            name,
            self._node(field["type"], space, where, depth + 1),
            self._texts(field, "aliases", where),
            "default" in field,
            field.get("default"),
        )
        if made.has_default:
            self._defaults.append((made, where))
        return made

    def _texts(self, schema: dict[str, Any], key: str, path: str) -> tuple[str, ...]:
        found = schema.get(key, [])
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            self._refuse(f"{key} is no list of names", path)
        return tuple(found)


def _logical(schema: dict[str, Any]) -> tuple[object, ...]:
    if not isinstance(schema.get("logicalType"), str):
        return ()
    return tuple(schema.get(key) for key in _LOGICAL)


def _fits(schema: AvroSchema, node: Node, value: object, depth: int) -> bool:
    """Whether a JSON value is a default of this type (of a union: of any branch, Avro 1.12)."""
    node = schema.node(node)
    kind = node.kind
    if depth > DEPTH_MAX:
        return False
    if kind == UNION:
        return any(_fits(schema, part, value, depth + 1) for part in node.parts)
    if kind in ("null", "boolean"):
        return value is None if kind == "null" else isinstance(value, bool)
    if kind in ("int", "long"):
        end = _INT32 if kind == "int" else _INT64
        return isinstance(value, int) and not isinstance(value, bool) and -end <= value < end
    if kind in ("float", "double"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("string", "bytes", "fixed"):
        whole = kind == "string" or (isinstance(value, str) and all(ord(c) < 256 for c in value))
        return isinstance(value, str) and whole and (kind != "fixed" or len(value) == node.size)
    if kind == "enum":
        return value in node.symbols
    if kind == "array":
        return isinstance(value, list) and _all_fit(schema, node.parts[0], value, depth)
    if not isinstance(value, dict):
        return False
    if kind == "map":
        return _all_fit(schema, node.parts[0], list(value.values()), depth)
    return all(
        _fits(schema, field.type, value[field.name], depth + 1)
        if field.name in value
        else field.has_default
        for field in node.fields
    )


def _all_fit(schema: AvroSchema, node: Node, values: Sequence[object], depth: int) -> bool:
    return all(_fits(schema, node, value, depth + 1) for value in values)
