"""How the contract may evolve: what Avro's rules allow on each record, and what Seamline does.

Decides: nothing. Only version 1 of each record is approved today, so there is one pair of writer
and reader for each; `test_every_approved_version_is_read` fails for a second version that the codec
does not read. The check of compatibility is the registry's, at the level that the subject rule
states (`tests/integration/test_registry_evolution.py` asks a real one about the same steps);
Seamline itself takes no schema that is not approved, whatever a registry would say. Here the
steps are proved by records: a step is compatible exactly when fastavro resolves it.
"""

from __future__ import annotations

import io
import json
import math
from importlib import resources
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bar_strategies import assert_same, bars, blocks
from property.test_codec import RECORDS
from schema_steps import Step, parsed, steps_of, values_of
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
from seamline.schemas.contract import SCHEMAS, by_text, fingerprint_of_text, subject_rules

few = settings(deadline=None, max_examples=5)  # of each of some 300 steps
checked = settings(deadline=None, max_examples=20)
PLAIN = {name: parsed(schema.text) for name, schema in SCHEMAS.items()}
STEPS = [(name, step) for name, schema in PLAIN.items() for step in steps_of(schema)]
VERSIONS = sorted(
    entry.name.removesuffix(".avsc")
    for entry in resources.files("seamline.schemas").joinpath("avsc").iterdir()
    if entry.name.endswith(".avsc")
)


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


def test_only_a_gap_may_get_a_new_symbol_in_a_full_subject() -> None:
    """A reader that does not know a symbol needs a default to read it as."""
    grown = {name: step.forward for name, step in STEPS if step.name.startswith("added_symbol")}
    assert [name for name, forward in grown.items() if forward] == ["gap"]


@pytest.mark.parametrize("version", VERSIONS)
@checked
@given(data=st.data())
def test_every_approved_version_is_read(version: str, data: st.DataObject) -> None:
    """Every approved writer against the one reader there is: the newest version's."""
    name = version.partition(".")[0]
    file = resources.files("seamline.schemas").joinpath("avsc", f"{version}.avsc")
    writer = parsed(file.read_text(encoding="utf-8"))
    framed = frame(7)
    if name in RECORDS:
        record = data.draw(st.fixed_dictionaries(RECORDS[name]))
        wire = read(encode_record(name, record, 7)[len(framed) :], PLAIN[name], writer)
        assert decode_record(name, framed + written(writer, wire)) == record
    elif name == "bar_block":
        block = data.draw(blocks())
        wire = read(encode_block(block, 7)[len(framed) :], PLAIN[name], writer)
        found = decode_block(framed + written(writer, wire))
        assert found.digest == block.digest
        assert_same(found.columns, block.columns)
    else:
        read_bars(name, writer, data, framed)


def read_bars(name: str, writer: Any, data: st.DataObject, framed: bytes) -> None:
    kind = BarColumns if name == "bar" else ConformedColumns
    symbols, columns = data.draw(bars(kind))
    decoder: Any = BarDecoder() if name == "bar" else ConformedDecoder()
    if name == "bar":
        values = encode_bars(symbols, columns, 7)
    else:
        encoded = [symbol.encode() for symbol in symbols]
        values = encode_conformed(encoded, list(range(len(symbols))), columns, 7)  # type: ignore[arg-type]
    wires = [read(value[len(framed) :], PLAIN[name], writer) for value in values]
    decoded = decoder.decode([framed + written(writer, wire) for wire in wires])
    assert decoded.ok.all()
    assert [decoder.symbols[sid] for sid in decoded.sid] == symbols
    assert_same(decoded.columns, columns)
