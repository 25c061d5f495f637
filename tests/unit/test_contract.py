"""The contract of record: goldens that change only with a decision, and what a fingerprint sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamline.schemas import contract
from seamline.schemas.contract import SCHEMAS, schema_fingerprint
from seamline.schemas.errors import ContractError, UsageError

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "contract.json").read_text())
BAR = json.loads(SCHEMAS["bar"].text)
GAP = json.loads(SCHEMAS["gap"].text)


def changed(schema: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    change(copy)
    return copy


def test_fingerprints_are_golden() -> None:
    found = {f"{s.name}.v{s.version}": s.fingerprint for s in contract.approved()}
    assert found == GOLDEN["fingerprints"]
    assert GOLDEN["bundle_sha256"] == contract.BUNDLE_SHA256


@pytest.mark.parametrize("schema", contract.approved(), ids=lambda s: f"{s.name}.v{s.version}")
def test_a_schema_is_found_by_what_it_means(schema: contract.Schema) -> None:
    assert contract.by_fingerprint(schema.fingerprint) is schema
    assert contract.by_fingerprint(schema.header) is schema
    assert contract.by_text(schema.text) is schema
    assert contract.by_text(json.dumps(json.loads(schema.text), indent=7)) is schema
    assert schema.full_name.startswith("seamline.")


def test_an_unknown_schema_is_not_found() -> None:
    assert contract.by_text('"string"') is None
    assert contract.by_fingerprint(b"\xff" * 16) is None


SAME: dict[str, Callable[[dict[str, Any]], object]] = {
    "doc of the record": lambda s: s.update(doc="other"),
    "no doc of a field": lambda s: s["fields"][0].pop("doc"),
    "full name": lambda s: s.update(name="seamline.Bar", namespace="elsewhere"),
    "full name of a nested type": lambda s: s["fields"][11]["type"].update(name="seamline.Source"),
    "order of attributes": lambda s: s.update(
        fields=[dict(reversed(f.items())) for f in s["fields"]]
    ),
    "a primitive written long": lambda s: s["fields"][0].update(type={"type": "string"}),
    "the default order": lambda s: s["fields"][0].update(order="ascending"),
}
OTHER: dict[str, Callable[[dict[str, Any]], object]] = {
    "name": lambda s: s.update(name="Bar2"),
    "namespace": lambda s: s.update(namespace="other"),
    "order of fields": lambda s: s["fields"].reverse(),
    "a field less": lambda s: s["fields"].pop(),
    "a default less": lambda s: s["fields"][7].pop("default"),
    "a logical type less": lambda s: s["fields"][1].update(type="long"),
    "another logical type": lambda s: s["fields"][1]["type"].update(logicalType="timestamp-micros"),
    "an enum default": lambda s: s["fields"][11]["type"].update(default="ws_open"),
    "order of symbols": lambda s: s["fields"][11]["type"]["symbols"].reverse(),
    "an alias": lambda s: s["fields"][0].update(aliases=["ticker"]),
}


@pytest.mark.parametrize("change", SAME.values(), ids=list(SAME))
def test_what_a_fingerprint_does_not_see(change: Callable[[dict[str, Any]], object]) -> None:
    assert schema_fingerprint(changed(BAR, change)) == SCHEMAS["bar"].fingerprint


@pytest.mark.parametrize("change", OTHER.values(), ids=list(OTHER))
def test_what_a_fingerprint_sees(change: Callable[[dict[str, Any]], object]) -> None:
    assert schema_fingerprint(changed(BAR, change)) != SCHEMAS["bar"].fingerprint


def test_one_double_default_is_one_default() -> None:
    field = {"name": "x", "type": "double"}
    forms = [
        schema_fingerprint({"type": "record", "name": "R", "fields": [{**field, "default": value}]})
        for value in (0, 0.0, 1)
    ]
    assert forms[0] == forms[1] != forms[2]


def test_a_named_reference_is_the_name() -> None:
    cause = next(f["type"] for f in GAP["fields"] if f["name"] == "cause")
    two = [{"name": "a", "type": cause}, {"name": "b", "type": "Cause"}]
    full = [{"name": "a", "type": cause}, {"name": "b", "type": "seamline.Cause"}]
    head = {"type": "record", "name": "R", "namespace": "seamline"}
    assert schema_fingerprint({**head, "fields": two}) == schema_fingerprint(
        {**head, "fields": full}
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "5", "null", "{}", '{"type": "record"}', '{"type": "record", "name": 5}'),
        '{"type": "record", "name": "R", "fields": [5]}',
        '{"type": "record", "name": "R", "fields": {"a": 1}}',
        '{"type": "enum", "name": "E", "aliases": [5], "symbols": []}',
        "[" * 100 + "]" * 100,
        "[" * 100_000,
    ],
)
def test_foreign_texts_are_refused(text: str) -> None:
    with pytest.raises(ContractError, match="schema"):
        contract.fingerprint_of_text(text)


def test_rules_name_known_schemas_and_roles() -> None:
    for kind in ("ohlcv", "trades"):
        for role, rule in contract.subject_rules(kind).items():
            assert rule.role == role
            assert all(name in SCHEMAS for name in rule.schemas)
            landing = role in ("live", "backfill")
            level = contract.BACKWARD_TRANSITIVE if landing else contract.FULL_TRANSITIVE
            assert rule.compatibility == level
    with pytest.raises(UsageError, match="kind"):
        contract.subject_rules("quotes")


def test_a_subject_of_two_records_is_not_checked_by_the_registry() -> None:
    """A registry would compare BarBlock with Bar, which can never pass."""
    rules = contract.subject_rules("ohlcv")
    assert rules["backfill"].schemas == ("bar_block", "bar")
    assert rules["backfill"].registry_compatibility == contract.NONE
    assert rules["live"].registry_compatibility == contract.BACKWARD_TRANSITIVE


def test_versions_differ_in_what_a_registry_compares() -> None:
    """Apicurio leaves docs and the defaults of enums out when it looks whether it has a content:
    versions that differ in no more would share one id."""

    def compared(schema: Any) -> Any:
        if isinstance(schema, list):
            return [compared(branch) for branch in schema]
        if not isinstance(schema, dict):
            return schema
        left_out = {"doc", "default"} if schema.get("type") == "enum" else {"doc"}
        return {key: compared(value) for key, value in schema.items() if key not in left_out}

    seen = [json.dumps(compared(json.loads(s.text)), sort_keys=True) for s in contract.approved()]
    assert len(set(seen)) == len(seen)
