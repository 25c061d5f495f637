"""Whether a schema may follow the earlier ones of its subject, and which fields break that.

Decides: by the resolution rules of Avro 1.12, in the directions and over the versions that a level
asks for, what cannot be read any more, and where. Beyond Avro: a changed logical type breaks (the
same bytes would mean another time or number, and no reader could tell). Invariants: a level that
asks for both directions is as strict as both alone; a recursive type ends; what cannot be compared
is not compatible. Must not know: a registry, which schemas are approved.

BACKWARD: a reader of the new schema reads what was written with an earlier one. FORWARD: a reader
of an earlier one reads what is written with the new one. FULL: both. `_TRANSITIVE`: with every
earlier version, else with the last one. NONE asks for nothing; what was added and removed is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from seamline.schemas.avro import UNION, AvroSchema, Field, Node, parse_schema
from seamline.schemas.contract import NONE
from seamline.schemas.errors import ContractError, UsageError

LEVELS: Final = (
    NONE,
    *("BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE"),
    *("FULL", "FULL_TRANSITIVE"),
)
PATHS_MAX: Final = 200
_PAIRS_MAX: Final = 50_000
_PROMOTED: Final[Mapping[str, tuple[str, ...]]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}


@dataclass(frozen=True, slots=True)
class CompatibilityReport:
    """What a new schema means for those before it.

    Paths are dotted (`nested.b`; `xs[].b` inside an array, `m{}.b` inside a map), at most
    `PATHS_MAX` of each kind, sorted. `added`: in no earlier version; `removed`: in some earlier
    version and not in the new one; `changed`: compatible, but another default; `breaking`: what
    breaks the level, with a sentence each in `reasons`.
    """

    level: str
    compatible: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    breaking: tuple[str, ...]
    reasons: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "compatible": self.compatible,
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "breaking": list(self.breaking),
            "reasons": dict(self.reasons),
        }


def compare(new: object, earlier: Sequence[object], level: str) -> CompatibilityReport:
    """Judge `new` against `earlier`, oldest first; each is a parsed schema or its text.

    Raises UsageError for an unknown level, ContractError where `new` is no Avro schema. An earlier
    one that is none breaks every level but NONE.
    """
    if level not in LEVELS:
        raise UsageError(
            "no such level", parameter="level", value=level, fix=f"One of {', '.join(LEVELS)}"
        )
    now = parse_schema(new)
    top = now.node(now.root).shown
    breaking: dict[str, str] = {}
    before: list[AvroSchema] = []
    for number, schema in enumerate(earlier, 1):
        try:
            before.append(parse_schema(schema, "earlier"))
        except ContractError as error:
            breaking.setdefault(top, f"the earlier version {number} is {error.message}")
    judged = before if level.endswith("_TRANSITIVE") else before[-1:]
    if level == NONE:
        judged = []
        breaking = {}
    for one in judged:
        for path, why in _broken(now, one, level):
            breaking.setdefault(path or top, why)
    seen = [_paths(one) for one in before]
    mine = _paths(now)
    old: dict[str, str] = {}
    for paths in seen:
        old |= paths
    last = seen[-1] if seen else {}
    told = tuple(sorted(breaking)[:PATHS_MAX])
    return CompatibilityReport(
        level=level,
        compatible=not breaking,
        added=_outermost(mine.keys() - old.keys()) if before else (),
        removed=_outermost(old.keys() - mine.keys()),
        changed=tuple(
            sorted(p for p in mine.keys() & last.keys() - set(breaking) if mine[p] != last[p])
        )[:PATHS_MAX],
        breaking=told,
        reasons=MappingProxyType({path: breaking[path] for path in told}),
    )


def _broken(now: AvroSchema, one: AvroSchema, level: str) -> Iterator[tuple[str, str]]:
    if level.startswith(("BACKWARD", "FULL")):
        for path, why in _Resolution(now, one).issues():
            yield path, f"the new schema cannot read what was written before: {why}"
    if level.startswith(("FORWARD", "FULL")):
        for path, why in _Resolution(one, now).issues():
            yield path, f"earlier readers cannot read what the new schema writes: {why}"


Issue = tuple[str, str]


class _Resolution:
    """Whether a reader's schema resolves everything that a writer's schema can write."""

    def __init__(self, reader: AvroSchema, writer: AvroSchema) -> None:
        self._reader = reader
        self._writer = writer
        # Pairs of named types under comparison. One met again inside itself is taken as readable:
        # if it is not, the comparison that met it first says so.
        self._open: set[tuple[str, str]] = set()
        self._left = _PAIRS_MAX

    def issues(self) -> list[Issue]:
        return self._node(self._reader.root, self._writer.root, "")

    def _node(self, reader: Node, writer: Node, path: str) -> list[Issue]:
        self._left -= 1
        if self._left < 0:
            return [(path, "too large to be compared")]
        reader, writer = self._reader.node(reader), self._writer.node(writer)
        if writer.kind == UNION:
            return [i for part in writer.parts for i in self._node(reader, part, path)]
        if reader.kind == UNION:
            return self._branch(reader, writer, path)
        if reader.kind != writer.kind:
            if reader.kind in _PROMOTED.get(writer.kind, ()) and not reader.logical:
                return [] if not writer.logical else [(path, _unlike(reader, writer))]
            return [(path, _unlike(reader, writer))]
        if reader.logical != writer.logical:
            return [(path, _unlike(reader, writer))]
        if reader.kind in ("array", "map"):
            inside = path + ("[]" if reader.kind == "array" else "{}")
            return self._node(reader.parts[0], writer.parts[0], inside)
        return self._named(reader, writer, path) if reader.name else []

    def _branch(self, reader: Node, writer: Node, path: str) -> list[Issue]:
        """Some branch has to read it. Where none does, what is wrong with the one that is meant."""
        meant: list[Issue] | None = None
        for part in reader.parts:
            found = self._node(part, writer, path)
            if not found:
                return []
            branch = self._reader.node(part)
            same_kind = branch.kind == writer.kind
            if same_kind and (not branch.name or _named_alike(branch, writer)):
                meant = found
        return meant or [(path, f"no branch of {reader.shown} reads {writer.shown}")]

    def _named(self, reader: Node, writer: Node, path: str) -> list[Issue]:
        if not _named_alike(reader, writer):
            return [(path, f"{writer.name} is not {reader.name}")]
        if reader.kind == "fixed":
            sizes = f"{writer.size} bytes instead of {reader.size}"
            return [] if reader.size == writer.size else [(path, sizes)]
        if reader.kind == "enum":
            foreign = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
            if not foreign or reader.symbol_default is not None:
                return []
            return [(path, f"no symbol {', '.join(foreign[:5])} and no default")]
        pair = (reader.name, writer.name)
        if pair in self._open:
            return []
        self._open.add(pair)
        found = [i for field in reader.fields for i in self._field(field, writer, path)]
        self._open.discard(pair)
        return found

    def _field(self, field: Field, writer: Node, path: str) -> list[Issue]:
        where = f"{path}.{field.name}" if path else field.name
        written = {one.name: one for one in writer.fields}
        name = next((name for name in (field.name, *field.aliases) if name in written), None)
        if name is not None:
            return self._node(field.type, written[name].type, where)
        return [] if field.has_default else [(where, "the field is missing and has no default")]


def _named_alike(reader: Node, writer: Node) -> bool:
    """Unqualified names match, or the reader has the writer's name as an alias."""
    return reader.short_name == writer.short_name or writer.name in reader.aliases


def _unlike(reader: Node, writer: Node) -> str:
    return f"{writer.shown} is not read as {reader.shown}"


def _paths(schema: AvroSchema) -> dict[str, str]:
    """Every field's path -> its defaults as text, each named type once on a way down."""
    found: dict[str, str] = {}

    def walk(node: Node, path: str, inside: tuple[str, ...]) -> None:
        node = schema.node(node)
        if len(found) >= _PAIRS_MAX or node.name in inside:
            return
        suffix = {"array": "[]", "map": "{}"}.get(node.kind, "")
        for part in node.parts:
            walk(part, path + suffix, inside)
        for field in node.fields:
            where = f"{path}.{field.name}" if path else field.name
            default = repr(field.default) if field.has_default else ""
            found[where] = f"{default} {schema.node(field.type).symbol_default}"
            walk(field.type, where, (*inside, node.name))

    walk(schema.root, "", ())
    return found


def _outermost(paths: set[str]) -> tuple[str, ...]:
    """Without the fields inside a field that is listed itself."""
    kept: list[str] = []
    for path in sorted(paths, key=lambda text: (text.count("."), text)):
        starts = {path[:at] for at, letter in enumerate(path) if letter in ".[{"}
        if not starts & paths:
            kept.append(path)
    return tuple(sorted(kept)[:PATHS_MAX])
