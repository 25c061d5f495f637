"""What the writer schema of a record means for the subject that it landed on.

Decides: whether an id's schema is approved, drifted, withdrawn or unknown, and what follows from it
in the mode of now. Invariants: content decides, never the id or the header; a schema that is
neither approved nor resolves into an approved one is refused in both modes; a withdrawn one is
refused in strict before anything of it is decoded; what passes all the same names the rules that it
broke. Must not know: a registry, what the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from seamline.schemas.contract import SCHEMAS, Schema, by_text, fingerprint_of_text
from seamline.schemas.drift import Drift, drift_of
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.modes import Policy
from seamline.schemas.topics import FINGERPRINT_HEADER_CHARS
from seamline.streams.kernel.rules import QUARANTINE, SCHEMA_DRIFT, TOMBSTONED_SCHEMA, fate

UNDECODABLE: Final = "undecodable"
UNKNOWN_SCHEMA: Final = "unknown_schema"
REGISTRY_UNAVAILABLE: Final = "registry_unavailable"
FIELDS_SHOWN_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Drifted:
    """An unapproved writer schema that resolves into an approved one, and its own fingerprint."""

    drift: Drift
    fingerprint: str


Meaning: TypeAlias = Schema | Drifted
# Schema id -> what it means, None for an unknown one; raises TransportError without a registry.
Resolve = Callable[[int], Meaning | None]


@dataclass(frozen=True, slots=True)
class Writer:
    """What an id means for a subject now. `name`: the approved record that its values are of, ""
    where its records are refused, for `reason`; `version`: of which version. `broken`: rules that
    they break and pass with."""

    name: str = ""
    version: int = 0
    reason: str = ""
    detail: str = ""
    fingerprint: str = ""
    broken: tuple[str, ...] = ()
    drift: Drift | None = None

    @property
    def header(self) -> bytes:
        """What the header `seamline-fp` of its records has to say."""
        return self.fingerprint[:FINGERPRINT_HEADER_CHARS].encode()


def meaning_of(text: str, names: Collection[str]) -> Meaning | None:
    """What a schema text of a registry means where records of `names` land; None: nothing that is
    approved, or no schema at all."""
    try:
        approved = by_text(text)
        if approved is not None:
            return approved
        drift = drift_of(text, names)
        return None if drift is None else Drifted(drift, fingerprint_of_text(text))
    except ContractError:
        return None


def version_read(schema: Schema) -> int:
    """The version that values of this schema are read as. Of one that only a proposed bundle has,
    they have been brought to the newest that this program has."""
    return min(schema.version, SCHEMAS[schema.name].version)


def writer_of(number: int, resolve: Resolve, policy: Policy, names: Collection[str]) -> Writer:
    """The writer of the records that name schema id `number`; below 0: they name none. `names`:
    records that may land here."""
    if number < 0:
        return Writer(reason=UNDECODABLE, detail="not framed: no magic byte and schema id")
    try:
        found = resolve(number)
    except TransportError as error:
        detail = f"schema id {number}: {error.message}"
        return Writer(reason=REGISTRY_UNAVAILABLE, detail=detail)
    if found is None:
        detail = f"schema id {number} is not of the approved bundle"
        return Writer(reason=UNKNOWN_SCHEMA, detail=detail)
    drift = None if isinstance(found, Schema) else found.drift
    schema = found if isinstance(found, Schema) else found.drift.schema
    if schema.name not in names:
        return Writer(reason=UNKNOWN_SCHEMA, detail=f"schema id {number} is a {schema.name}")
    broken: list[str] = []
    what = f"schema id {number}, a {schema.name}"
    if found.fingerprint in policy.tombstones:
        if fate(TOMBSTONED_SCHEMA, policy.mode) == QUARANTINE:
            detail = f"{what} of {found.fingerprint}, is withdrawn for this subject"
            return Writer(reason=TOMBSTONED_SCHEMA, detail=detail)
        broken.append(TOMBSTONED_SCHEMA)
    if drift is not None:
        if fate(SCHEMA_DRIFT, policy.mode) == QUARANTINE:
            fields = "; ".join(drift.fields[:FIELDS_SHOWN_MAX])
            detail = f"{what} of a schema that is not approved: {fields}"
            return Writer(reason=SCHEMA_DRIFT, detail=detail)
        broken.append(SCHEMA_DRIFT)
    return Writer(
        schema.name, version_read(schema), "", what, found.fingerprint, tuple(broken), drift
    )
