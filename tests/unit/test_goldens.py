"""What any earlier program wrote is read for ever: `tests/data/golden` (see golden_records)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from golden_records import FOLDER, fields_of, written_now
from seamline.schemas.codec import decode_block
from seamline.schemas.columns import Block
from seamline.schemas.contract import SCHEMAS, Schema, approved, version_written
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.schemas.records import decode_record
from seamline.schemas.topics import HEADER_FINGERPRINT

APPROVED = {f"{schema.name}.v{schema.version}": schema for schema in approved()}


def golden(schema: Schema) -> list[tuple[bytes, dict[str, Any]]]:
    path: Path = FOLDER / f"{schema.name}.v{schema.version}.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    assert held["fingerprint"] == schema.fingerprint
    return [(bytes.fromhex(each["value"]), each["fields"]) for each in held["records"]]


@pytest.mark.parametrize("version", APPROVED)
def test_every_version_reads_as_it_did(version: str) -> None:
    """With every field that it had; a newer one reads as its default."""
    schema = APPROVED[version]
    for value, fields in golden(schema):
        found = fields_of(schema.name, value, schema.version)
        assert {name: found[name] for name in fields} == fields


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_newest_version_is_written_byte_for_byte(name: str) -> None:
    assert [value for value, _ in golden(SCHEMAS[name])] == written_now(name)


@pytest.mark.parametrize("version", APPROVED)
def test_no_cut_and_no_other_version_reads_as_a_record(version: str) -> None:
    """Bytes of one version that are no bytes of another are refused there, never misread."""
    schema = APPROVED[version]
    for value, fields in golden(schema):
        for cut in range(len(value)):
            assert not reads(schema, value[:cut])
        assert not reads(schema, value + b"\0")
        for other in approved():
            if other.name == schema.name and reads(other, value):
                found = fields_of(schema.name, value, other.version)
                assert {name: found[name] for name in fields} == fields


def reads(schema: Schema, value: bytes) -> bool:
    try:
        fields_of(schema.name, value, schema.version)
    except (ContractError, AssertionError):
        return False
    return True


@pytest.mark.parametrize("version", [v for v in APPROVED if v.startswith("bar_block.")])
def test_digests_of_every_version_hold(version: str) -> None:
    """A digest covers content alone: it is that of the rows, whatever version they came in."""
    for value, _ in golden(APPROVED[version]):
        block = decode_block(value, APPROVED[version].version)
        assert block_digest(block.symbol, block.columns) == block.digest


@pytest.mark.parametrize("version", [v for v in APPROVED if v.startswith("seal.")])
def test_roots_of_every_version_hold(version: str) -> None:
    number = APPROVED[version].version
    (stored,) = [block for block in blocks_of(number) if not block.landing]
    span_ns = stored.block_end_ns - stored.block_start_ns
    root = merkle_root([(stored.block_start_ns, stored.digest, len(stored.columns))], span_ns)
    for value, _ in golden(APPROVED[version]):
        assert decode_record("seal", value, number)["merkle_root"] == root


def blocks_of(version: int) -> list[Block]:
    return [decode_block(v, version) for v, _ in golden(APPROVED[f"bar_block.v{version}"])]


def test_the_header_says_which_version_wrote_a_record() -> None:
    for schema in approved():
        headers = [("other", b"x"), (HEADER_FINGERPRINT, schema.header)]
        assert version_written(schema.name, headers) == schema.version
        assert version_written("bar" if schema.name != "bar" else "gap", headers) is None
    for wrong in ([], [(HEADER_FINGERPRINT, b"")], [(HEADER_FINGERPRINT, None)], [("x", b"")]):
        assert version_written("bar", wrong) is None


def test_a_version_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="version"):
        decode_record("gap", b"", 99)
    with pytest.raises(UsageError, match="version"):
        decode_block(b"", 99)
