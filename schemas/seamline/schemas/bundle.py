"""A bundle of schemas: every version of every record, under one SHA-256.

Decides: what a proposed bundle may be (its files come from a person, each can be wrong), what it
changes against the approved one, and whether each new version may follow the earlier ones.
Invariants: an approved version is in every proposal, unedited; versions of a record count 1, 2, 3…;
equal content gives an equal SHA-256, whatever the layout of the files; all faults are told at once.
Must not know: a directory, a registry, a mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from seamline.schemas.avro import SCHEMA_BYTES_MAX, parse_schema
from seamline.schemas.compatibility import CompatibilityReport, compare
from seamline.schemas.contract import (
    BACKWARD_TRANSITIVE,
    FULL_TRANSITIVE,
    KINDS,
    Schema,
    approved,
    bundle_sha256,
    fingerprint_of_text,
    subject_rules,
)
from seamline.schemas.errors import ContractError

FILES_MAX: Final = 500
SUFFIX: Final = ".avsc"
_FILE: Final = re.compile(r"([a-z][a-z0-9_]*)\.v([1-9][0-9]{0,5})\.avsc")


@dataclass(frozen=True, slots=True)
class Bundle:
    """`schemas`: every version, by name and version; `sha256`: 64 hex digits."""

    schemas: tuple[Schema, ...]
    sha256: str

    @property
    def newest(self) -> Mapping[str, Schema]:
        """The newest version of each record."""
        return MappingProxyType({schema.name: schema for schema in self.schemas})

    def versions_of(self, name: str) -> tuple[Schema, ...]:
        """Of one record, oldest first."""
        return tuple(schema for schema in self.schemas if schema.name == name)

    def by_fingerprint(self, fingerprint: str) -> Schema | None:
        return next((s for s in self.schemas if s.fingerprint == fingerprint), None)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One version that the approved bundle does not have. `report` is None for a new record."""

    schema: Schema
    report: CompatibilityReport | None


def approved_bundle() -> Bundle:
    """What this program was built with."""
    return _bundle(approved())


def bundle_of(files: Mapping[str, bytes], against: Bundle | None = None) -> Bundle:
    """The bundle of these files: name -> content, names `<record>.v<version>.avsc`.

    `against`: the bundle that it must contain, the approved one where none is given. Raises
    ContractError that tells every fault, `faults` as (file, what is wrong) in its fields.
    """
    held = against or approved_bundle()
    faults: list[tuple[str, str]] = []
    if len(files) > FILES_MAX:
        raise _refused([("", f"{len(files)} files, at most {FILES_MAX}")])
    found: list[Schema] = []
    for file, content in sorted(files.items()):
        try:
            found.append(_schema_of(file, content))
        except ContractError as error:
            faults.append((file, str(error.message)))
    names = {schema.name: schema.full_name for schema in held.schemas}
    for schema in found:
        full = names.setdefault(schema.name, schema.full_name)
        if schema.full_name != full:
            faults.append((_file_of(schema), f"defines {schema.full_name}, not {full}"))
    faults += _faults_of_set(found, held, {file for file, _ in faults})
    if faults:
        raise _refused(faults)
    return _bundle(found)


def proposals(bundle: Bundle, against: Bundle | None = None) -> tuple[Proposal, ...]:
    """The versions that `bundle` adds, each judged against all earlier versions of its record at
    the strictest level of the subjects that hold it."""
    held = against or approved_bundle()
    known = {schema.fingerprint for schema in held.schemas}
    return tuple(
        Proposal(schema, _judged(bundle, schema))
        for schema in bundle.schemas
        if schema.fingerprint not in known
    )


def strictest_level(name: str) -> str:
    """The level that all subjects with this record ask for together."""
    levels = {
        rule.compatibility
        for kind in KINDS
        for rule in subject_rules(kind).values()
        if name in rule.schemas
    }
    return FULL_TRANSITIVE if levels != {BACKWARD_TRANSITIVE} else BACKWARD_TRANSITIVE


def _judged(bundle: Bundle, schema: Schema) -> CompatibilityReport | None:
    earlier = [s.text for s in bundle.versions_of(schema.name) if s.version < schema.version]
    return compare(schema.text, earlier, strictest_level(schema.name)) if earlier else None


def _schema_of(file: str, content: bytes) -> Schema:
    named = _FILE.fullmatch(file)
    if named is None:
        raise ContractError(f"its name is not <record>.v<version>{SUFFIX}")
    if len(content) > SCHEMA_BYTES_MAX:
        raise ContractError(f"{len(content)} bytes, at most {SCHEMA_BYTES_MAX}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ContractError("not UTF-8") from None
    tree = parse_schema(text)
    if tree.root.kind != "record":
        raise ContractError("not a record")
    if "." not in tree.root.name:
        raise ContractError("a record without a namespace")
    name, version = named.group(1), int(named.group(2))
    return Schema(name, version, text, fingerprint_of_text(text))


def _faults_of_set(found: list[Schema], held: Bundle, told: set[str]) -> list[tuple[str, str]]:
    faults: list[tuple[str, str]] = []
    mine = {(schema.name, schema.version): schema for schema in found}
    for schema in held.schemas:
        file = _file_of(schema)
        same = mine.get((schema.name, schema.version))
        if same is None and file not in told:
            faults.append((file, "is missing: an approved version stays in every bundle"))
        elif same is not None and same.fingerprint != schema.fingerprint:
            faults.append(
                (file, "differs from the approved version: a version is never edited, add the next")
            )
    first: dict[str, Schema] = {}
    for schema in sorted(found, key=lambda s: (s.version, s.name)):
        file = _file_of(schema)
        before = (schema.name, schema.version - 1)
        if schema.version > 1 and before not in mine and _named(*before) not in told:
            faults.append((file, f"there is no version {schema.version - 1} before it"))
        other = first.setdefault(schema.fingerprint, schema)
        if other is not schema:
            faults.append((file, f"means the same as {_file_of(other)}"))
    return faults


def _named(name: str, version: int) -> str:
    return f"{name}.v{version}{SUFFIX}"


def _file_of(schema: Schema) -> str:
    return _named(schema.name, schema.version)


def _bundle(schemas: Iterable[Schema]) -> Bundle:
    held = tuple(sorted(schemas, key=lambda schema: (schema.name, schema.version)))
    return Bundle(held, bundle_sha256(held))


def _refused(faults: list[tuple[str, str]]) -> ContractError:
    told = "; ".join(f"{file}: {why}" if file else why for file, why in sorted(faults)[:20])
    more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
    return ContractError(
        f"not a bundle of schemas: {told}{more}",
        parameter="bundle",
        value=next((file for file, _ in sorted(faults) if file), None),
        fix="Begin with the files of `seamline schema bundle --export`",
        faults=tuple(sorted(faults)),
    )
