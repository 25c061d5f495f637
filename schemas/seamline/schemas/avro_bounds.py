"""Whether values of a checked schema can be read with bounded work, and its tree for that.

Decides: what `schemas.avro` takes as a schema and nobody should read foreign bytes with. Invariants
of an unfolded tree: references are replaced by what they name; it has at most TYPES_MAX types,
counted with each use of a name, and at most NESTING_MAX levels below its root; no type holds
itself; the items of arrays and maps have at least one byte. Must not know: what is a schema at all,
bytes, what a schema is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from seamline.schemas.avro import REFERENCE, AvroSchema, Node
from seamline.schemas.errors import ContractError

NESTING_MAX: Final = 16
TYPES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class _Unfolded:
    """A type without references. `types`: how many its tree has; `levels`: how deep it is."""

    node: Node
    types: int
    levels: int


def unfolded(schema: AvroSchema, parameter: str = "schema") -> Node:
    """The tree of a schema without references.

    Raises ContractError for a recursive type, too many types, too many levels, and items that have
    no bytes.
    """
    return _Unfolding(parameter).of(schema.root).node


def has_no_bytes(node: Node) -> bool:
    """Whether every value of an unfolded type is encoded in nothing."""
    if node.kind == "record":
        return all(has_no_bytes(field.type) for field in node.fields)
    return node.kind == "null" or (node.kind == "fixed" and node.size == 0)


class _Unfolding:
    def __init__(self, parameter: str) -> None:
        self._parameter = parameter
        # Finished definitions: a name that is used before it is here is inside itself.
        self._made: dict[str, _Unfolded] = {}

    def of(self, node: Node) -> _Unfolded:
        if node.kind == REFERENCE:
            if node.name not in self._made:
                raise self._refused("a type inside itself", node.name)
            return self._made[node.name]
        parts = [self.of(part) for part in node.parts]
        fields = [self.of(field.type) for field in node.fields]
        if node.kind in ("array", "map") and has_no_bytes(parts[0].node):
            raise self._refused("items without bytes", node.shown)
        made = _Unfolded(
            replace(
                node,
                parts=tuple(part.node for part in parts),
                fields=tuple(
                    replace(field, type=inner.node)
                    for field, inner in zip(node.fields, fields, strict=True)
                ),
            ),
            1 + sum(inner.types for inner in (*parts, *fields)),
            1 + max((inner.levels for inner in (*parts, *fields)), default=0),
        )
        self._check(made)
        if node.name:
            self._made[node.name] = made
        return made

    def _check(self, made: _Unfolded) -> None:
        if made.types > TYPES_MAX:
            raise self._refused(f"more than {TYPES_MAX} types", made.node.shown)
        if made.levels > NESTING_MAX + 1:
            raise self._refused(f"nested deeper than {NESTING_MAX} levels", made.node.shown)

    def _refused(self, why: str, value: str) -> ContractError:
        return ContractError(
            f"not read with bounded work: {why}",
            parameter=self._parameter,
            value=value[:80],
            fix="Write the approved schema, or propose yours: seamline schema check --bundle",
        )
