"""A foreign schema text as a tree of types, or a refusal.

Decides: which parsed JSON is an Avro schema whose values can be read with bounded work. Invariants:
references are replaced by what they name; the tree has at most NODES_MAX types, counted with each
use of a name, and at most NESTING_MAX levels; no type holds itself; the items of arrays and maps
have at least one byte. Must not know: bytes, what a schema is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from seamline.schemas.contract import PRIMITIVES
from seamline.schemas.errors import ContractError

NESTING_MAX: Final = 16
NODES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class AvroType:
    """`kind`: a primitive, record, enum, fixed, array, map or union. `name`: the full name of a
    named type. `names`: the fields of a record, the symbols of an enum. `parts`: types of the
    fields, the branches, or the one of the items. `defaults`: of fields that have one, by name;
    an enum's own under "". `empty`: every value has no bytes. `nodes`: types in the tree."""

    kind: str
    name: str = ""
    logical: str | None = None
    names: tuple[str, ...] = ()
    parts: tuple[AvroType, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    empty: bool = False
    nodes: int = 1


def type_of(schema: object) -> AvroType:
    """The tree of a parsed schema. Raises ContractError for what is none, or is unbounded."""
    return _type(schema, "", 0, {})


def _type(
    schema: object, namespace: str, depth: int, named: dict[str, AvroType | None]
) -> AvroType:
    if depth > NESTING_MAX:
        raise _refused("nested too deeply", depth)
    if isinstance(schema, str):
        return _by_name(schema, namespace, named)
    if isinstance(schema, list):
        parts = tuple(_type(branch, namespace, depth + 1, named) for branch in schema)
        if not parts or any(part.kind == "union" for part in parts):
            raise _refused("not a union", schema)
        return _node("union", parts=parts)
    if not isinstance(schema, dict):
        raise _refused("not a schema", schema)
    kind = schema.get("type")
    if isinstance(kind, str) and kind in ("record", "enum", "fixed"):
        return _named(kind, schema, namespace, depth, named)
    if isinstance(kind, str) and kind in ("array", "map"):
        item = _type(
            schema.get("items" if kind == "array" else "values"), namespace, depth + 1, named
        )
        if item.empty:
            raise _refused("items without bytes", schema)
        return _node(kind, parts=(item,))
    inner = _type(kind, namespace, depth + 1, named)
    logical = schema.get("logicalType")
    if logical is None or inner.kind not in PRIMITIVES:
        return inner
    return AvroType(inner.kind, logical=str(logical), empty=inner.empty)


def _by_name(name: str, namespace: str, named: Mapping[str, AvroType | None]) -> AvroType:
    if name in PRIMITIVES:
        return AvroType(name, empty=name == "null")
    found = named.get(_full(name, namespace))
    if found is None:
        raise _refused("unknown, or inside itself", name)
    return found


def _named(
    kind: str,
    schema: Mapping[str, Any],
    namespace: str,
    depth: int,
    named: dict[str, AvroType | None],
) -> AvroType:
    name, space = schema.get("name"), schema.get("namespace", namespace)
    if not isinstance(name, str) or not name or not isinstance(space, str):
        raise _refused("a type without a name", schema)
    full = _full(name, space)
    if full in named:
        raise _refused("two types of one name", full)
    named[full] = None  # open: nothing inside may name it
    if kind == "record":
        made = _record(full, schema, depth, named)
    elif kind == "enum":
        symbols = _texts(schema.get("symbols"))
        default = schema.get("default")
        made = _node(
            kind, name=full, names=symbols, defaults={} if default is None else {"": default}
        )
        if default is not None and default not in symbols:
            raise _refused("a default that is no symbol", default)
    else:
        size = schema.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _refused("not a size", size)
        made = AvroType(
            kind, name=full, logical=schema.get("logicalType"), size=size, empty=size == 0
        )
    named[full] = made
    return made


def _record(
    full: str, schema: Mapping[str, Any], depth: int, named: dict[str, AvroType | None]
) -> AvroType:
    fields = schema.get("fields")
    if not isinstance(fields, list) or not all(isinstance(each, dict) for each in fields):
        raise _refused("fields is not a list", full)
    names = _texts([each.get("name") for each in fields])
    space = full.rpartition(".")[0]
    parts = tuple(_type(each.get("type"), space, depth + 1, named) for each in fields)
    defaults = {each["name"]: each["default"] for each in fields if "default" in each}
    empty = all(part.empty for part in parts)
    return _node("record", name=full, names=names, parts=parts, defaults=defaults, empty=empty)


def _node(kind: str, **attributes: Any) -> AvroType:
    nodes = 1 + sum(part.nodes for part in attributes.get("parts", ()))
    if nodes > NODES_MAX:
        raise _refused("too many types", nodes)
    return AvroType(kind, nodes=nodes, **attributes)


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise _refused("not a list of names", values)
    if len(set(values)) != len(values):
        raise _refused("a name occurs twice", values)
    return tuple(values)


def _full(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _refused(message: str, value: object) -> ContractError:
    return ContractError(message, parameter="schema", value=value)
