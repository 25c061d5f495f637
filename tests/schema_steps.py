"""Steps by which a schema may change, what Avro's rules say of each, and values of any schema.

Decides: nothing of the product. `backward`: a reader of the new schema reads what was written with
the old one; `forward`: a reader of the old one reads what is written with the new one. Schemas are
without logical types here, so values are those of the wire.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from seamline.schemas.contract import BACKWARD_TRANSITIVE, FULL_TRANSITIVE

INT64 = st.one_of(
    st.sampled_from([0, -1, 1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
INT32 = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=70)
Avro = Any


@dataclass(frozen=True)
class Step:
    """One change of one record. `new` is the schema after it; `shows` changes a value so that the
    other side must meet what changed: of the new schema, or of the old one."""

    name: str
    new: Avro
    backward: bool
    forward: bool
    show_old: Callable[[dict[str, Any]], object] = lambda value: None
    show_new: Callable[[dict[str, Any]], object] = lambda value: None

    def fits(self, level: str) -> bool:
        """Whether a subject of this level takes the new schema after the old one."""
        assert level in (BACKWARD_TRANSITIVE, FULL_TRANSITIVE), level
        return self.backward and (self.forward or level == BACKWARD_TRANSITIVE)


def values_of(schema: Avro) -> st.SearchStrategy[Any]:
    """Values of a schema as fastavro takes and gives them."""
    if isinstance(schema, list):
        return st.one_of([values_of(branch) for branch in schema])
    if isinstance(schema, dict):
        kind = schema["type"]
        if kind == "record":
            return st.fixed_dictionaries(
                {field["name"]: values_of(field["type"]) for field in schema["fields"]}
            )
        if kind == "enum":
            return st.sampled_from(schema["symbols"])
        if kind == "array":
            return st.lists(values_of(schema["items"]), max_size=3)
        if kind == "map":
            return st.dictionaries(TEXT, values_of(schema["values"]), max_size=3)
        return values_of(kind)
    primitives: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": INT32,
        "long": INT64,
        "double": st.floats(width=64),
        "bytes": st.binary(max_size=40),
        "string": TEXT,
    }
    return primitives[schema]


def steps_of(old: Avro) -> Iterator[Step]:
    """Every step of every kind that this schema has a place for."""
    for name, kind, default in (
        ("added_null", ["null", "long"], None),
        ("added_long", "long", 7),
        ("added_text", "string", "-"),
        ("added_map", {"type": "map", "values": "long"}, {}),
    ):
        yield Step(name, with_field(old, name, kind, default), True, True)
    yield Step("added_without_default", with_field(old, "required", "long"), False, True)
    yield Step("renamed_record", {**old, "name": "Another"}, False, False)
    for at, field in enumerate(old["fields"]):
        optional = "default" in field
        name = field["name"]
        dropped = with_fields(old, [*old["fields"][:at], *old["fields"][at + 1 :]])
        yield Step(f"dropped_{name}", dropped, True, optional)
        other = {**field, "name": "renamed"}
        renamed = with_fields(old, [*old["fields"][:at], other, *old["fields"][at + 1 :]])
        yield Step(f"renamed_{name}", renamed, optional, optional)
        yield from _steps_of_type(old, at, field)


def _steps_of_type(old: Avro, at: int, field: Avro) -> Iterator[Step]:
    name, kind = field["name"], field["type"]
    enum = next((b for b in branches(kind) if isinstance(b, dict) and b["type"] == "enum"), None)
    if enum is not None:
        has_default = "default" in enum
        more = changed(old, lambda new: enum_of(new, at)["symbols"].append("one_more"))
        yield Step(
            f"added_symbol_{name}",
            more,
            True,
            has_default,
            show_new=lambda value: value.update({name: "one_more"}),
        )
        last = enum["symbols"][-1]
        if enum.get("default") != last:
            fewer = changed(old, lambda new: enum_of(new, at)["symbols"].pop())
            yield Step(
                f"dropped_symbol_{name}",
                fewer,
                has_default,
                True,
                show_old=lambda value: value.update({name: last}),
            )
    elif kind == "int":
        wide = changed(old, lambda new: new["fields"][at].update(type="long"))
        yield Step(f"widened_{name}", wide, True, False)
    elif kind in ("long", "double", "string"):
        other = {"long": "boolean", "double": "string", "string": "long"}[kind]
        mistyped = changed(old, lambda new: retyped(new["fields"][at], other))
        yield Step(f"retyped_{name}", mistyped, False, False)
    elif isinstance(kind, list):
        bare = changed(old, lambda new: retyped(new["fields"][at], kind[1]))
        yield Step(
            f"never_null_{name}",
            bare,
            False,
            True,
            show_old=lambda value: value.update({name: None}),
        )


def with_field(old: Avro, name: str, kind: Avro, *default: Any) -> Avro:
    field = {"name": name, "type": kind, **({"default": default[0]} if default else {})}
    return with_fields(old, [*old["fields"], field])


def with_fields(old: Avro, fields: list[Avro]) -> Avro:
    return {**old, "fields": fields}


def retyped(field: dict[str, Any], kind: Avro) -> None:
    field["type"] = kind
    field.pop("default", None)


def branches(kind: Avro) -> list[Avro]:
    return kind if isinstance(kind, list) else [kind]


def enum_of(schema: Avro, at: int) -> Avro:
    """The enum of a field, also where it is a branch of a union."""
    return next(b for b in branches(schema["fields"][at]["type"]) if isinstance(b, dict))


def changed(schema: Avro, change: Callable[[Any], object]) -> Avro:
    new = copy.deepcopy(schema)
    change(new)
    return new


def plain(schema: Avro) -> Avro:
    """Without logical types."""
    if isinstance(schema, dict):
        kept = {key: plain(value) for key, value in schema.items() if key != "logicalType"}
        return kept["type"] if set(kept) == {"type"} else kept
    return [plain(item) for item in schema] if isinstance(schema, list) else schema


def parsed(text: str) -> Avro:
    return plain(json.loads(text))
