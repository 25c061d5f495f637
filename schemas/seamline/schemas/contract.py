"""The contract of record: the .avsc files, their content fingerprints, and who may hold what.

Decides: which schema versions are approved, when two schema texts mean the same, which records a
topic role carries and how they may change. Invariants: a fingerprint covers all that a reader or a
writer acts on (names, order of fields, defaults, logical types, enum symbols and defaults, aliases)
and nothing else (no docs, no layout of the text); the bundle digest covers every approved version.
Must not know: a registry, its ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.topics import FINGERPRINT_HEADER_CHARS, HEADER_FINGERPRINT

BACKWARD_TRANSITIVE: Final = "BACKWARD_TRANSITIVE"
FULL_TRANSITIVE: Final = "FULL_TRANSITIVE"
NONE: Final = "NONE"

PRIMITIVES: Final = frozenset(
    ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
)
_NAMED: Final = frozenset(("record", "enum", "fixed", "error"))
# A schema text from a registry is foreign input: nesting is bounded, not left to the stack.
_DEPTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Schema:
    """One approved version of a record. `text` is the file, `fingerprint` 64 hex digits."""

    name: str
    version: int
    text: str
    fingerprint: str

    @property
    def header(self) -> bytes:
        """Value of the header `seamline-fp`."""
        return self.fingerprint[:FINGERPRINT_HEADER_CHARS].encode()

    @property
    def full_name(self) -> str:
        parsed = json.loads(self.text)
        return _full(parsed["name"], parsed.get("namespace", ""))


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """What the value subject of a topic role holds. `compatibility` is the level among the versions
    of one record; a registry compares all versions of a subject with each other, so where several
    records share a subject its own level has to be NONE and Seamline does the check."""

    role: str
    schemas: tuple[str, ...]
    compatibility: str

    @property
    def registry_compatibility(self) -> str:
        """The level to set in the registry for a subject in strict mode (canary: NONE)."""
        return self.compatibility if len(self.schemas) == 1 else NONE


def normal_form(schema: object) -> object:
    """The parsed JSON of a schema with full names and without docs; equal forms mean the same.

    Raises ContractError for what is not an Avro schema.
    """
    return _normal(schema, "", 0)


def schema_fingerprint(schema: object) -> str:
    """64 hex digits: SHA-256 over the normal form as JSON with sorted keys and no white space."""
    text = json.dumps(normal_form(schema), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_of_text(text: str) -> str:
    """Fingerprint of a schema text. Raises ContractError when it is not JSON or not a schema."""
    try:
        return schema_fingerprint(json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ContractError("not an Avro schema text", parameter="schema", value=text) from None


def by_fingerprint(fingerprint: str | bytes) -> Schema | None:
    """The approved schema with this fingerprint (64 digits) or header (16 digits)."""
    text = fingerprint.decode("ascii", "replace") if isinstance(fingerprint, bytes) else fingerprint
    return _BY_FINGERPRINT.get(text)


def by_text(text: str) -> Schema | None:
    """The approved schema that `text` (say, from a registry) means; None when not approved."""
    return by_fingerprint(fingerprint_of_text(text))


def approved() -> tuple[Schema, ...]:
    """Every approved version of every record, by name and version."""
    return tuple(sorted(_APPROVED.values(), key=lambda schema: (schema.name, schema.version)))


def version_written(name: str, headers: Iterable[tuple[str, bytes | None]]) -> int | None:
    """The version of the record `name` that the fingerprint header of a record of ours says; None
    where there is no such header, or where it says no approved version of `name`."""
    for key, value in headers:
        if key == HEADER_FINGERPRINT and value is not None:
            found = by_fingerprint(value)
            return found.version if found is not None and found.name == name else None
    return None


def subject_rules(kind: str) -> Mapping[str, SubjectRule]:
    """Rules by topic role for a preset's kind; roles with plain bytes (quarantine) have none."""
    if kind not in _RULES:
        raise UsageError(
            "no such kind", parameter="kind", value=kind, fix=f"One of {', '.join(_RULES)}"
        )
    return _RULES[kind]


def _normal(schema: object, namespace: str, depth: int) -> object:
    if depth > _DEPTH_MAX:
        raise ContractError("nested too deeply", parameter="schema", value=depth)
    if isinstance(schema, str):
        return schema if schema in PRIMITIVES or "." in schema else _full(schema, namespace)
    if isinstance(schema, list):
        return [_normal(branch, namespace, depth + 1) for branch in schema]
    if not isinstance(schema, dict) or "type" not in schema:
        raise ContractError("not an Avro schema", parameter="schema", value=schema)
    kind = schema["type"]
    kept = {key: value for key, value in schema.items() if key not in ("doc", "namespace")}
    if isinstance(kind, str) and kind in _NAMED:
        return _normal_named(schema, kept, namespace, depth)
    for key in ("items", "values"):
        if key in kept:
            kept[key] = _normal(kept[key], namespace, depth + 1)
    if not isinstance(kind, str) or kind not in ("array", "map"):
        kept["type"] = _normal(kind, namespace, depth + 1)
    return kept["type"] if len(kept) == 1 else kept


def _normal_named(
    schema: dict[str, Any], kept: dict[str, Any], namespace: str, depth: int
) -> dict[str, Any]:
    name = schema.get("name")
    if not isinstance(name, str) or not name:
        raise ContractError("a named type without a name", parameter="schema", value=schema)
    space = schema.get("namespace", namespace)
    if "." in name:
        space = name.rpartition(".")[0]
    kept["name"] = _full(name, space)
    if "aliases" in kept:
        kept["aliases"] = sorted(_full(alias, space) for alias in kept["aliases"])
    if "fields" in kept:
        if not isinstance(kept["fields"], list):
            raise ContractError("fields is not a list", parameter="schema", value=schema)
        kept["fields"] = [_normal_field(field, space, depth + 1) for field in kept["fields"]]
    return kept


def _normal_field(field: object, namespace: str, depth: int) -> dict[str, Any]:
    if not isinstance(field, dict) or "name" not in field or "type" not in field:
        raise ContractError("not a field", parameter="schema", value=field)
    kept = {key: value for key, value in field.items() if key != "doc"}
    kept["type"] = _normal(field["type"], namespace, depth + 1)
    if kept.get("order") == "ascending":
        del kept["order"]  # what a missing order means
    first = kept["type"][0] if isinstance(kept["type"], list) and kept["type"] else kept["type"]
    default = kept.get("default")
    if first in ("float", "double") and isinstance(default, int) and not isinstance(default, bool):
        kept["default"] = float(default)  # 0 and 0.0 are one double
    return kept


def _full(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _load() -> dict[str, Schema]:
    """The newest version of each record among the package's `avsc/<name>.v<version>.avsc`."""
    newest: dict[str, Schema] = {}
    for entry in resources.files("seamline.schemas").joinpath("avsc").iterdir():
        if not entry.name.endswith(".avsc"):
            continue
        name, _, version = entry.name.removesuffix(".avsc").partition(".v")
        text = entry.read_text(encoding="utf-8")
        schema = Schema(name, int(version), text, fingerprint_of_text(text))
        _APPROVED[schema.fingerprint] = schema
        if name not in newest or newest[name].version < schema.version:
            newest[name] = schema
    return dict(sorted(newest.items()))


def bundle_sha256(schemas: Iterable[Schema]) -> str:
    """SHA-256 over the lines `name vN fingerprint` of these versions, sorted: 64 hex digits."""
    lines = sorted(f"{s.name} v{s.version} {s.fingerprint}\n" for s in schemas)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _rules(
    landing_live: tuple[str, ...], landing_backfill: tuple[str, ...], **own: str
) -> Mapping[str, SubjectRule]:
    rules = [
        SubjectRule("live", landing_live, BACKWARD_TRANSITIVE),
        SubjectRule("backfill", landing_backfill, BACKWARD_TRANSITIVE),
        *(SubjectRule(role, (schema,), FULL_TRANSITIVE) for role, schema in own.items()),
    ]
    return MappingProxyType({rule.role: rule for rule in rules})


_APPROVED: dict[str, Schema] = {}
SCHEMAS: Final[Mapping[str, Schema]] = MappingProxyType(_load())
_BY_FINGERPRINT: Final[Mapping[str, Schema]] = {
    key: schema
    for fingerprint, schema in _APPROVED.items()
    for key in (fingerprint, fingerprint[:FINGERPRINT_HEADER_CHARS])
}
# Of all approved versions.
BUNDLE_SHA256: Final = bundle_sha256(_APPROVED.values())
_RULES: Final[Mapping[str, Mapping[str, SubjectRule]]] = {
    "ohlcv": _rules(
        ("bar",),
        ("bar_block", "bar"),
        conformed="conformed_bar",
        storage="bar_block",
        superseded="conformed_bar",
        seals="seal",
        positions="position",
        gaps="gap",
        reports="report",
        chunks="chunk",
    ),
    "trades": _rules(("trade",), ("trade",), positions="position"),
}
KINDS: Final = tuple(_RULES)
