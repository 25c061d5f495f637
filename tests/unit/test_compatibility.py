"""Compatibility of schemas: Avro's resolution in both directions, and where it breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schema_steps import parsed, steps_of
from seamline.schemas.avro import SCHEMA_BYTES_MAX, parse_schema
from seamline.schemas.compatibility import LEVELS, PATHS_MAX, compare
from seamline.schemas.contract import BACKWARD_TRANSITIVE, FULL_TRANSITIVE, SCHEMAS
from seamline.schemas.errors import ContractError, UsageError


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    """`(name, type)` or `(name, type, default)`."""
    made = [
        {"name": f[0], "type": f[1], **({"default": f[2]} if len(f) > 2 else {})} for f in fields
    ]
    return {"type": "record", "name": name, "fields": made, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


A, AB = record(("a", "int")), record(("a", "int"), ("b", "int"))
TIME = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
TREE = record(("value", "int"), ("next", ["null", "R"], None))
DEEP = record(("xs", {"type": "array", "items": record(("b", "int"), name="N")}))
MAPPED = record(("m", {"type": "map", "values": record(("b", "int"), name="N")}))
IN_UNION = record(("u", ["null", record(("b", "int"), name="N")], None))


@pytest.mark.parametrize(
    ("old", "new", "backward", "forward"),
    [
        (A, A, (), ()),
        (A, record(("a", "int"), ("b", "int", 0)), (), ()),
        (A, AB, ("b",), ()),
        (AB, A, (), ("b",)),
        (record(("n", "int")), record(("n", "double")), (), ("n",)),
        (record(("n", "string")), record(("n", "bytes")), (), ()),
        (record(("n", "long")), record(("n", "string")), ("n",), ("n",)),
        (record(("n", "long")), record(("n", ["null", "long"], None)), (), ("n",)),
        (record(("n", ["int", "null"])), record(("n", ["null", "long"])), (), ("n",)),
        (record(("t", TIME)), record(("t", MICROS)), ("t",), ("t",)),
        (record(("t", TIME)), record(("t", "long")), ("t",), ("t",)),
        (record(("t", "int")), record(("t", TIME)), ("t",), ("t",)),
        (record(("e", enum("x"))), record(("e", enum("x", "y"))), (), ("e",)),
        (
            record(("e", enum("x", default="x"))),
            record(("e", enum("x", "y", default="x"))),
            (),
            (),
        ),
        (record(("e", enum("x"))), record(("e", {**enum("x"), "name": "F"})), ("e",), ("e",)),
        (DEEP, json.loads(json.dumps(DEEP).replace('"int"', '"string"')), ("xs[].b",), ("xs[].b",)),
        (MAPPED, json.loads(json.dumps(MAPPED).replace('"b"', '"c"')), ("m{}.c",), ("m{}.b",)),
        (IN_UNION, json.loads(json.dumps(IN_UNION).replace('"int"', '"null"')), ("u.b",), ("u.b",)),
        (A, {**A, "name": "S"}, ("S",), ("S",)),
        (A, {**A, "name": "S", "aliases": ["R"]}, (), ("S",)),
        (A, {**A, "namespace": "other"}, (), ()),
        (
            A,
            {**A, "fields": [{"name": "z", "type": "int", "aliases": ["a"]}]},
            (),
            ("a",),
        ),
        (
            record(("f", {"type": "fixed", "name": "F", "size": 4})),
            record(("f", {"type": "fixed", "name": "F", "size": 8})),
            ("f",),
            ("f",),
        ),
        (TREE, json.loads(json.dumps(TREE).replace('"int"', '"long"')), (), ("value",)),
        (A, "string", ("string",), ("string",)),
    ],
)
def test_each_direction_names_its_paths(
    old: Any, new: Any, backward: tuple[str, ...], forward: tuple[str, ...]
) -> None:
    new, old = json.dumps(new), json.dumps(old)
    assert compare(new, [old], "BACKWARD").breaking == backward
    assert compare(new, [old], "FORWARD").breaking == forward
    full = compare(new, [old], "FULL")
    assert full.breaking == tuple(sorted({*backward, *forward}))
    assert full.compatible == (not full.breaking)
    assert set(full.reasons) == set(full.breaking)
    assert compare(new, [old], "NONE").compatible


@pytest.mark.parametrize("name", list(SCHEMAS))
@pytest.mark.parametrize("level", [BACKWARD_TRANSITIVE, FULL_TRANSITIVE])
def test_every_step_of_every_record_is_judged_as_readers_and_registries_do(
    name: str, level: str
) -> None:
    """What `test_evolution` shows to be readable, and `test_registry_evolution` to be taken."""
    old = parsed(SCHEMAS[name].text)
    steps = list(steps_of(old))
    wrong = [s.name for s in steps if compare(s.new, [old], level).compatible != s.fits(level)]
    assert len(steps) > 10
    assert wrong == []


def test_only_transitive_levels_look_behind_the_last_version() -> None:
    """A field removed and brought back without its default: only the first version minds."""
    versions = [record(("a", "int")), record(("a", "int"), ("b", "int", 0))]
    new = record(("a", "int"), ("b", "int"))
    assert compare(new, versions, "BACKWARD").compatible
    transitive = compare(new, versions, "BACKWARD_TRANSITIVE")
    assert transitive.breaking == ("b",)
    assert "the field is missing and has no default" in transitive.reasons["b"]
    assert transitive.changed == ()
    assert compare(new, versions, "BACKWARD").changed == ("b",)
    assert compare(new, [], FULL_TRANSITIVE).compatible


def test_added_and_removed_speak_of_all_earlier_versions() -> None:
    versions = [record(("a", "int"), ("b", "int", 0)), record(("a", "int"))]
    inner = record(("y", "int", 0), name="N")
    report = compare(record(("a", "int"), ("n", inner, {})), versions, FULL_TRANSITIVE)
    assert (report.added, report.removed, report.compatible) == (("n",), ("b",), True)
    assert report.to_json()["added"] == ["n"]
    back = compare(record(("a", "int"), ("b", "int", 1)), versions[:1], FULL_TRANSITIVE)
    assert (back.compatible, back.changed) == (True, ("b",))


def test_what_is_no_schema_is_not_comparable() -> None:
    with pytest.raises(ContractError, match="not an Avro schema"):
        compare("{}", [A], "FULL")
    broken = compare(A, ["syntax = proto3;", A], FULL_TRANSITIVE)
    assert broken.breaking == ("R",)
    assert "the earlier version 1 is not JSON" in broken.reasons["R"]
    with pytest.raises(UsageError, match="One of NONE"):
        compare(A, [], "SOMETIMES")
    assert set(LEVELS) >= {BACKWARD_TRANSITIVE, FULL_TRANSITIVE, "NONE"}


def test_types_inside_types_end() -> None:
    """Each record holds the next one twice: 2**40 ways down, and a type that holds itself."""
    kind: Any = "int"
    for depth in range(40):
        kind = record(("x", kind), ("y", f"R{depth - 1}" if depth else "int"), name=f"R{depth}")
    other = json.loads(json.dumps(kind).replace('"int"', '"string"'))
    huge = compare(other, [kind], "FULL")
    assert not huge.compatible
    assert 0 < len(huge.breaking) <= PATHS_MAX
    assert compare(TREE, [TREE], FULL_TRANSITIVE).compatible
    wide = record(*((f"f{i}", "int") for i in range(1_000)))
    assert len(compare(wide, [record()], "BACKWARD").breaking) == PATHS_MAX


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"type": "string", "type": "int"}', "says a key twice"),
        ("NaN", "no number of JSON"),
        ("nope", "not JSON"),
        (json.dumps({**A, "doc": "x" * 10_000_000}), "too large for a schema"),
        (5, "5 is no type"),
        ({"type": "array"}, "array without items"),
        ("[]", "a union without branches"),
        (["int", "int"], "two branches of one type"),
        (["int", ["null"]], "a union directly inside"),
        (record(("a", "Nope")), "a: no type 'Nope' is defined before here"),
        (record(("x", A), ("y", A), name="S"), "y: R is defined twice"),
        (record(("x", record(name="R"))), "x: R is defined twice"),
        (record(("a", "int"), ("a", "int")), "two fields of one name"),
        (record(("a b", "int")), "'a b' is no name of a field"),
        ({"type": "record", "name": "R"}, "without a list of fields"),
        ({"type": "record", "fields": []}, "a named type without a name"),
        ({"type": "record", "name": "9", "fields": []}, "'9' is no name"),
        ({"type": "record", "name": "int", "fields": []}, "int is the name of a primitive"),
        ({"type": "record", "name": "R", "fields": [5]}, "5 is no field"),
        ({**A, "aliases": [5]}, "aliases is no list of names"),
        ({"type": "fixed", "name": "F", "size": -1}, "F is fixed without a size"),
        ({"type": "fixed", "name": "F", "size": True}, "F is fixed without a size"),
        (enum(), "the symbols of E are no names"),
        (enum("x", "x"), "E has a symbol twice"),
        (enum("x", default="y"), "the default of E is none of its symbols"),
        (record(("a", "int", "0")), 'a: the default "0" is no int'),
        (record(("a", "int", 2**31)), "is no int"),
        (record(("a", "long", True)), "is no long"),
        (record(("a", ["null", "int"], "x")), "is no [null, int]"),
        (record(("a", enum("x"), "y")), "is no E"),
        (record(("a", A, {}), name="S"), "is no R"),
        (record(("a", {"type": "array", "items": "int"}, ["x"])), "is no array"),
        (record(("a", {"type": "fixed", "name": "F", "size": 1}, "xx")), "is no F"),
    ],
)
def test_every_fault_of_a_schema_has_a_sentence_and_a_path(schema: Any, says: str) -> None:
    with pytest.raises(ContractError) as raised:
        parse_schema(schema)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_defaults_of_every_kind_are_accepted() -> None:
    fields = record(
        ("n", "null", None),
        ("b", "boolean", True),
        ("d", "double", 1),
        ("s", "bytes", "\u00ff"),
        ("f", {"type": "fixed", "name": "F", "size": 2}, "ab"),
        ("u", ["null", "string"], "second branch"),
        ("m", {"type": "map", "values": "int"}, {"x": 1}),
        ("r", record(("x", "int", 1)), {}),
        name="S",
    )
    tree = parse_schema(fields)
    assert [f.has_default for f in tree.root.fields] == [True] * 8
    assert SCHEMA_BYTES_MAX == 1 << 20
    for schema in SCHEMAS.values():
        assert parse_schema(schema.text).root.name == schema.full_name
