"""What the writer schema of a record means for its subject, in each mode."""

from __future__ import annotations

import json

import pytest

from seamline.schemas.contract import SCHEMAS, fingerprint_of_text
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, MODES, STRICT, Policy
from seamline.streams.kernel.rules import SCHEMA_DRIFT, TOMBSTONED_SCHEMA
from seamline.streams.kernel.writers import (
    REGISTRY_UNAVAILABLE,
    UNDECODABLE,
    UNKNOWN_SCHEMA,
    Meaning,
    Writer,
    meaning_of,
    writer_of,
)

BAR = SCHEMAS["bar"]


def text_with(kind: str) -> str:
    """The schema of a bar with another type for its volume."""
    schema = json.loads(BAR.text)
    next(field for field in schema["fields"] if field["name"] == "volume")["type"] = kind
    return json.dumps(schema)


DRIFTED = text_with("string")
TEXTS = {1: BAR.text, 2: DRIFTED, 3: text_with("boolean"), 4: SCHEMAS["trade"].text, 5: "no schema"}
FINGERPRINTS = {number: fingerprint_of_text(text) for number, text in TEXTS.items() if number < 5}


def resolve(number: int) -> Meaning | None:
    if number == 9:
        raise TransportError("no answer", parameter="schema_registry", value="registry")
    return meaning_of(TEXTS[number], ("bar", "bar_block")) if number in TEXTS else None


def writer(number: int, mode: str, withdrawn: int | None = None) -> Writer:
    tombstones = frozenset(() if withdrawn is None else (FINGERPRINTS[withdrawn],))
    return writer_of(number, resolve, Policy(mode, 1, tombstones), ("bar", "bar_block"))


@pytest.mark.parametrize("mode", MODES)
def test_an_approved_schema_passes_whatever_else_is_withdrawn(mode: str) -> None:
    found = writer(1, mode, withdrawn=2)
    assert (found.name, found.reason, found.broken) == ("bar", "", ())
    assert found.header == BAR.header


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        *((-1, UNDECODABLE), (9, REGISTRY_UNAVAILABLE), (77, UNKNOWN_SCHEMA)),
        *((3, UNKNOWN_SCHEMA), (4, UNKNOWN_SCHEMA), (5, UNKNOWN_SCHEMA)),
    ],
)
def test_what_means_no_approved_record_is_refused_in_both_modes(
    number: int, reason: str, mode: str
) -> None:
    found = writer(number, mode)
    assert (found.name, found.reason) == ("", reason)


@pytest.mark.parametrize(
    ("number", "withdrawn", "rules"),
    [
        (1, 1, (TOMBSTONED_SCHEMA,)),
        (2, None, (SCHEMA_DRIFT,)),
        (2, 2, (TOMBSTONED_SCHEMA, SCHEMA_DRIFT)),
    ],
)
def test_strict_refuses_what_canary_passes_and_counts(
    number: int, withdrawn: int | None, rules: tuple[str, ...]
) -> None:
    passed, refused = (writer(number, mode, withdrawn) for mode in (CANARY, STRICT))
    assert (passed.name, passed.reason, passed.broken) == ("bar", "", rules)
    assert (refused.name, refused.reason) == ("", rules[0])
