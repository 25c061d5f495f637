"""Drift against fastavro's resolution, and hostile schemas and bytes against its bounds."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avro_peer import SCHEMA_ID
from schema_steps import parsed, values_of
from seamline.schemas.avro import REFERENCE, Node, parse_schema
from seamline.schemas.avro_bounds import NESTING_MAX, TYPES_MAX, unfolded
from seamline.schemas.codec import frame
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.drift import drift_of
from seamline.schemas.errors import ContractError

pytestmark = pytest.mark.filterwarnings("error")
checked = settings(deadline=None, max_examples=100)
LANDED = ("bar", "bar_block", "trade")
PLAIN = {name: parsed(SCHEMAS[name].text) for name in LANDED}
# What Avro itself promotes to the type of a field.
NARROWER = {"double": ("int", "long", "float", "double"), "long": ("int", "long")}

# Never null: items have bytes.
item_kinds = st.recursive(
    st.sampled_from(["boolean", "int", "long", "double", "bytes", "string"]),
    lambda kinds: st.one_of(
        kinds.map(lambda kind: {"type": "array", "items": kind}),
        kinds.map(lambda kind: {"type": "map", "values": kind}),
    ),
    max_leaves=4,
)
extras = st.one_of(st.just("null"), item_kinds)


@st.composite
def writers(draw: st.DrawFn, name: str) -> tuple[Any, Any]:
    """`(writer with logical types, the same without)`: only what Avro's own rules resolve."""
    schema = json.loads(SCHEMAS[name].text)
    kept = []
    for field in schema["fields"]:
        if "default" in field and draw(st.integers(0, 5)) == 0:
            continue
        if isinstance(field["type"], str) and field["type"] in NARROWER:
            field["type"] = draw(st.sampled_from(NARROWER[field["type"]]))
        if "default" not in field and draw(st.integers(0, 7)) == 0:
            kind = field["type"]
            branches = ["null", kind] if draw(st.booleans()) else [kind, "null"]
            field["type"] = branches if not isinstance(kind, list) else kind
        kept.append(field)
    kept += [{"name": f"extra_{n}", "type": draw(extras)} for n in range(draw(st.integers(0, 3)))]
    schema["fields"] = draw(st.permutations(kept))
    return schema, parsed(json.dumps(schema))


@pytest.mark.parametrize("name", LANDED)
@checked
@given(data=st.data())
def test_what_avro_resolves_reads_as_fastavro_reads_it(name: str, data: st.DataObject) -> None:
    writer, bare = data.draw(writers(name))
    value = data.draw(narrow_values(bare))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(bare, _force=True), value)
    drift = drift_of(json.dumps(writer), LANDED)
    if drift is None:  # nothing was drawn that changes it
        assert json.loads(SCHEMAS[name].text)["fields"] == writer["fields"]
        return
    found = drift.translate(frame(SCHEMA_ID) + out.getvalue())
    required = [f["name"] for f in PLAIN[name]["fields"] if not isinstance(f["type"], list)]
    if any(value.get(each, 0) is None for each in required):
        assert found is None
        return
    assert found is not None
    out.seek(0)
    theirs = fastavro.schemaless_reader(
        out,
        fastavro.parse_schema(copy.deepcopy(bare), _force=True),
        fastavro.parse_schema(copy.deepcopy(PLAIN[name]), _force=True),
    )
    again = io.BytesIO()
    fastavro.schemaless_writer(again, fastavro.parse_schema(PLAIN[name], _force=True), theirs)
    assert found == frame(SCHEMA_ID) + again.getvalue()


def narrow_values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a schema with floats of 32 bits."""
    fields = {
        field["name"]: st.floats(width=32) if field["type"] == "float" else _values(field["type"])
        for field in schema["fields"]
    }
    return st.fixed_dictionaries(fields)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.one_of([_values(branch) for branch in kind])
    return st.floats(width=32) if kind == "float" else values_of(kind)


DRIFTS = [
    drift_of(json.dumps(changed), LANDED)
    for name in LANDED
    for changed in [json.loads(SCHEMAS[name].text)]
    if changed["fields"].append({"name": "extra", "type": {"type": "map", "values": "string"}})
    is None
]


@checked
@given(st.binary(max_size=200), st.sampled_from(DRIFTS))
def test_no_bytes_do_harm(payload: bytes, drift: Any) -> None:
    found = drift.translate(frame(SCHEMA_ID) + payload)
    assert found is None or found[:5] == frame(SCHEMA_ID)


junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 2**70),
        st.sampled_from(["null", "long", "string", "record", "enum", "Bar", "A", "", "seamline"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                (
                    *("type", "name", "namespace", "fields", "symbols", "items", "values"),
                    *("size", "default", "logicalType", "aliases"),
                )
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(junk)
def test_any_json_is_a_bounded_type_or_refused(schema: Any) -> None:
    """Nothing but ContractError, and what is taken keeps to the bounds."""
    bar = json.loads(SCHEMAS["bar"].text)
    bar["fields"].append({"name": "x", "type": schema})
    drift_of(json.dumps(bar), ("bar",))
    drift_of(json.dumps(schema), LANDED)
    try:
        found = unfolded(parse_schema(schema))
    except ContractError:
        return
    assert len(tree := list(types_of(found))) <= TYPES_MAX
    assert max(level for level, _ in tree) <= NESTING_MAX
    assert not any(node.kind == REFERENCE for _, node in tree)


def types_of(node: Node, level: int = 0) -> Iterator[tuple[int, Node]]:
    """Every type of a tree, each use counted, with its level."""
    yield level, node
    for inner in (*node.parts, *(field.type for field in node.fields)):
        yield from types_of(inner, level + 1)
