"""Bundles of schemas: one digest over content, and every fault of a person's files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seamline.schemas.bundle import (
    FILES_MAX,
    approved_bundle,
    bundle_of,
    proposals,
    strictest_level,
)
from seamline.schemas.contract import (
    BACKWARD_TRANSITIVE,
    BUNDLE_SHA256,
    FULL_TRANSITIVE,
    SCHEMAS,
)
from seamline.schemas.errors import ContractError

FILES = {f"{s.name}.v{s.version}.avsc": s.text.encode() for s in approved_bundle().schemas}
TRADE = SCHEMAS["trade"]
NEXT = f"trade.v{TRADE.version + 1}.avsc"


def changed(**more: Any) -> bytes:
    """The newest trade with one field more."""
    schema = json.loads(TRADE.text)
    schema["fields"].append({"name": "venue_flags", "type": "long", **more})
    return json.dumps(schema).encode()


def faults(files: dict[str, bytes]) -> dict[str, str]:
    with pytest.raises(ContractError) as raised:
        bundle_of(files)
    told = raised.value.fields["faults"]
    for file, _ in told[:20]:
        assert file in str(raised.value)
    return dict(told)


def test_the_digest_is_of_content_not_of_layout() -> None:
    assert approved_bundle().sha256 == BUNDLE_SHA256
    assert approved_bundle().newest == SCHEMAS
    assert bundle_of(FILES) == approved_bundle()
    spaced = {name: json.dumps(json.loads(text), indent=7).encode() for name, text in FILES.items()}
    assert bundle_of(spaced).sha256 == BUNDLE_SHA256
    more = bundle_of(FILES | {NEXT: changed(default=0)})
    assert more.sha256 != BUNDLE_SHA256
    assert more.newest["trade"].version == TRADE.version + 1
    assert more.by_fingerprint(TRADE.fingerprint) is not None
    assert more.by_fingerprint("0" * 64) is None
    assert bundle_of(FILES | {NEXT: changed(default=1)}).sha256 != more.sha256


def test_a_proposal_is_judged_at_the_strictest_level_of_its_subjects() -> None:
    assert proposals(approved_bundle()) == ()
    (fine,) = proposals(bundle_of(FILES | {NEXT: changed(default=0)}))
    assert fine.schema.name == "trade"
    assert fine.report is not None and fine.report.compatible
    assert fine.report.added == ("venue_flags",)
    (breaks,) = proposals(bundle_of(FILES | {NEXT: changed()}))
    assert breaks.report is not None and breaks.report.breaking == ("venue_flags",)
    assert strictest_level("bar") == BACKWARD_TRANSITIVE
    assert strictest_level("bar_block") == FULL_TRANSITIVE
    new = {"type": "record", "name": "Quote", "namespace": "seamline", "fields": []}
    (first,) = proposals(bundle_of(FILES | {"quote.v1.avsc": json.dumps(new).encode()}))
    assert first.report is None


def test_every_wrong_file_is_named_with_its_fault() -> None:
    elsewhere = json.loads(TRADE.text) | {"namespace": "other"}
    cases: dict[str, tuple[bytes, str]] = {
        "README": (b"", "its name is not <record>.v<version>.avsc"),
        "trade.avsc": (b"", "its name is not"),
        "trade.v0.avsc": (b"", "its name is not"),
        "../x.v1.avsc": (b"", "its name is not"),
        "empty.v1.avsc": (b"", "not JSON"),
        "latin.v1.avsc": (b'"\xff"', "not UTF-8"),
        "large.v1.avsc": (b" " * 10_000_000, "10000000 bytes, at most"),
        "deep.v1.avsc": (b"[" * 100_000, "nested too deeply"),
        "text.v1.avsc": (b'"string"', "not a record"),
        "bare.v1.avsc": (b'{"type": "record", "name": "R", "fields": []}', "without a namespace"),
        "twice.v1.avsc": (FILES["trade.v1.avsc"], "means the same as"),
        "gap.v9.avsc": (SCHEMAS["gap"].text.encode(), "there is no version 8 before it"),
        NEXT: (json.dumps(elsewhere).encode(), "defines other.Trade, not seamline.Trade"),
    }
    found = faults(FILES | {name: content for name, (content, _) in cases.items()})
    for name, (_, says) in cases.items():
        assert says in found[name]


def test_an_approved_version_is_never_edited_and_never_missing() -> None:
    file = f"trade.v{TRADE.version}.avsc"
    assert "never edited" in faults(FILES | {file: changed(default=0)})[file]
    assert "is missing" in faults({k: v for k, v in FILES.items() if k != file})[file]
    assert "is missing" in faults({})[file]
    many = {f"x{i}.v1.avsc": b"" for i in range(FILES_MAX + 1)}
    assert "at most" in faults(many)[""]
