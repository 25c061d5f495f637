"""How the contract may evolve: what Avro's rules allow on each record, and what Seamline does.

Decides: nothing. Every approved version of a record is one that the codec reads, and each follows
the ones before as its subject asks; bytes of every version are in `tests/data/golden`. The check
of compatibility is the registry's, at the level that the subject rule states
(`tests/integration/test_registry_evolution.py` asks a real one about the same steps); Seamline
itself takes no schema that is not approved, whatever a registry would say. Here the steps are
proved by records: a step is compatible exactly when fastavro resolves it.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import fastavro
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bar_strategies import assert_same, bars, blocks
from property.test_codec import RECORDS
from schema_steps import Step, branches, parsed, steps_of, values_of
from seamline.schemas.bundle import strictest_level
from seamline.schemas.codec import (
    BarDecoder,
    ConformedDecoder,
    decode_block,
    decode_record,
    encode_bars,
    encode_block,
    encode_conformed,
    encode_record,
    frame,
)
from seamline.schemas.columns import BarColumns, ConformedColumns
from seamline.schemas.contract import (
    FULL_TRANSITIVE,
    SCHEMAS,
    Schema,
    approved,
    by_text,
    fingerprint_of_text,
    subject_rules,
)

few = settings(deadline=None, max_examples=5)  # of each of some 300 steps
checked = settings(deadline=None, max_examples=20)
PLAIN = {name: parsed(schema.text) for name, schema in SCHEMAS.items()}
STEPS = [(name, step) for name, schema in PLAIN.items() for step in steps_of(schema)]
VERSIONS = {f"{schema.name}.v{schema.version}": schema for schema in approved()}
PAIRS = [
    (one, other)
    for one in approved()
    for other in approved()
    if one.name == other.name and one.version < other.version
]


def written(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, _force=True), value)
    return out.getvalue()


def read(data: bytes, writer: Any, reader: Any) -> Any:
    stream = io.BytesIO(data)
    value: Any = fastavro.schemaless_reader(
        stream,
        fastavro.parse_schema(writer, _force=True),
        fastavro.parse_schema(reader, _force=True),
    )
    assert stream.tell() == len(data)
    return value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check(step: Step, allowed: bool, value: dict[str, Any], writer: Any, reader: Any) -> None:
    data = written(writer, value)
    if not allowed:
        with pytest.raises((fastavro.read.SchemaResolutionError, ValueError, KeyError)):
            read(data, writer, reader)
        return
    found = read(data, writer, reader)
    fields = {field["name"]: field for field in reader["fields"]}
    assert found.keys() == fields.keys()
    for name, field in fields.items():
        if name not in value:
            assert same(found[name], field["default"]), name
        elif value[name] != "one_more":
            assert same(found[name], value[name]) or "dropped_symbol" in step.name, name


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[f"{n}-{s.name}" for n, s in STEPS])
@few
@given(data=st.data())
def test_a_step_is_read_exactly_as_the_rules_say(
    name: str, step: Step, data: st.DataObject
) -> None:
    old = PLAIN[name]
    before, after = data.draw(values_of(old)), data.draw(values_of(step.new))
    step.show_old(before)
    step.show_new(after)
    check(step, step.backward, before, old, step.new)
    check(step, step.forward, after, step.new, old)


def test_no_step_is_approved_by_itself() -> None:
    """Compatible or not: another content is another schema, until its file is in the contract."""
    for name, step in STEPS:
        text = json.dumps(step.new)
        assert by_text(text) is None, step.name
        assert fingerprint_of_text(text) != SCHEMAS[name].fingerprint


def test_what_the_levels_take() -> None:
    """The two levels differ, each takes and refuses something, on every record that they hold."""
    for kind in ("ohlcv", "trades"):
        for rule in subject_rules(kind).values():
            for name in rule.schemas:
                fits = {step.name: step.fits(rule.compatibility) for n, step in STEPS if n == name}
                assert fits["added_null"] and not fits["added_without_default"]
                dropped = [s for s in fits if s.startswith("dropped_") and not fits[s]]
                landing = rule.role in ("live", "backfill")
                assert landing == all("symbol_" in step for step in dropped), (rule.role, name)


def test_which_enums_may_get_a_new_symbol_in_a_full_subject() -> None:
    """A reader that does not know a symbol needs a default to read it as."""
    grown = {
        (name, step.name.removeprefix("added_symbol_")): step.forward
        for name, step in STEPS
        if step.name.startswith("added_symbol")
    }
    assert {place for place, forward in grown.items() if forward} == {
        ("gap", "cause"),
        ("chunk", "state"),
        ("conformed_bar", "origin"),
    }


@pytest.mark.parametrize(
    ("older", "newer"), PAIRS, ids=[f"{o.name}-v{o.version}-v{n.version}" for o, n in PAIRS]
)
@checked
@given(data=st.data())
def test_each_version_follows_the_earlier_ones_as_its_subject_asks(
    older: Schema, newer: Schema, data: st.DataObject
) -> None:
    """New readers read old records; where the subject is FULL, old readers read new ones."""
    old, new = parsed(older.text), parsed(newer.text)
    before = data.draw(values_of(old))
    found = read(written(old, before), old, new)
    defaults = {f["name"]: f["default"] for f in new["fields"] if "default" in f}
    assert same_fields(found, defaults | before)
    if strictest_level(older.name) == FULL_TRANSITIVE:
        after = data.draw(values_of(new))
        back = read(written(new, after), new, old)
        for field in old["fields"]:
            kind, name = field["type"], field["name"]
            known = not isinstance(kind, dict) or after[name] in kind.get("symbols", [after[name]])
            assert same(back[name], after[name] if known else kind["default"]), name


def same_fields(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all(same(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("version", VERSIONS)
@checked
@given(data=st.data())
def test_every_approved_version_is_read(version: str, data: st.DataObject) -> None:
    """Every approved writer against the one reader there is: the newest version's. What a version
    could not say reads as the default of the newest."""
    schema = VERSIONS[version]
    name, writer, framed = schema.name, parsed(schema.text), frame(7)
    said = {field["name"] for field in writer["fields"]}
    if name in RECORDS:
        record = data.draw(st.fixed_dictionaries(RECORDS[name]))
        enums = {f["name"]: enum_symbols(f["type"]) for f in writer["fields"]}
        assume(all(not s or record[n] in (None, *s) for n, s in enums.items()))
        wire = read(encode_record(name, record, 7)[len(framed) :], PLAIN[name], writer)
        found = decode_record(name, framed + written(writer, wire), schema.version)
        defaults = {f["name"]: f["default"] for f in PLAIN[name]["fields"] if "default" in f}
        assert found == {
            n: value if n.removesuffix("_ns") in said else defaults[n]
            for n, value in record.items()
        }
    elif name == "bar_block":
        block = data.draw(blocks())
        wire = read(encode_block(block, 7)[len(framed) :], PLAIN[name], writer)
        stored = decode_block(framed + written(writer, wire), schema.version)
        assert stored.digest == block.digest
        assert_same(stored.columns, block.columns)
        asked = block.asked_time_ns if "asked_time" in said else None
        assert stored.asked_time_ns == asked
    else:
        read_bars(schema, writer, data, framed)


def enum_symbols(kind: Any) -> tuple[str, ...]:
    enums = [b for b in branches(kind) if isinstance(b, dict) and b["type"] == "enum"]
    return tuple(enums[0]["symbols"]) if enums else ()


def read_bars(schema: Schema, writer: Any, data: st.DataObject, framed: bytes) -> None:
    name = schema.name
    kind = BarColumns if name == "bar" else ConformedColumns
    symbols, columns = data.draw(bars(kind))
    decoder: Any = BarDecoder() if name == "bar" else ConformedDecoder()
    if name == "bar":
        values = encode_bars(symbols, columns, 7, 60_000_000_000)
    else:
        encoded = [symbol.encode() for symbol in symbols]
        values = encode_conformed(encoded, list(range(len(symbols))), columns, 7)  # type: ignore[arg-type]
    wires = [read(value[len(framed) :], PLAIN[name], writer) for value in values]
    older = [framed + written(writer, wire) for wire in wires]
    decoded = decoder.decode(older, schema.version) if name == "bar" else decoder.decode(older)
    if name == "bar":
        stated = 60_000_000_000 if schema.version > 1 else 0
        assert decoded.interval_ns.tolist() == [stated] * len(symbols)
    assert decoded.ok.all()
    assert [decoder.symbols[sid] for sid in decoded.sid] == symbols
    assert_same(decoded.columns, columns)
