"""Which schemas a preset's subjects hold in the registry, and that the registry means the same.

Decides: the subjects of a preset (one per topic that carries a schema; a derived preset has no
landing) and their level in the registry. Invariants: an id is handed out only after the registry
returned, for that id, a schema with our fingerprint. Must not know: the REST API.

All subjects start in canary: their own level in the registry is NONE and Seamline does the check
(DESIGN 5). The level of strict mode is stated by the subject rule and set on promotion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.schemas.contract import (
    NONE,
    SCHEMAS,
    Schema,
    fingerprint_of_text,
    subject_rules,
)
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import LANDING_ROLES, subject_of, topic_name

CANARY_LEVEL: Final = NONE


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of a preset. `strict_level` is its level in the registry once it is strict."""

    name: str
    role: str
    schemas: tuple[str, ...]
    strict_level: str


def subjects_of(preset: Preset) -> tuple[Subject, ...]:
    """The subjects of a preset's topics, in the order of the topic roles."""
    return tuple(
        Subject(
            subject_of(topic_name(preset.id, role)),
            role,
            rule.schemas,
            rule.registry_compatibility,
        )
        for role, rule in subject_rules(preset.kind).items()
        if preset.derive_from is None or role not in LANDING_ROLES
    )


def ensure_registered(client: RemoteSchemaRegistryClient, preset: Preset) -> Mapping[str, int]:
    """Schema name -> id for all records of the preset's topics, registering what is missing.

    Raises ContractError when the registry refuses a schema or an id means another one there,
    TransportError when the registry does not answer.
    """
    ids: dict[str, int] = {}
    for subject in subjects_of(preset):
        client.set_compatibility(subject.name, CANARY_LEVEL)
        for name in subject.schemas:
            schema = SCHEMAS[name]
            schema_id = client.register(subject.name, schema.text)
            verify(client, subject.name, schema, schema_id)
            ids.setdefault(name, schema_id)
    return MappingProxyType(ids)


def verify(
    client: RemoteSchemaRegistryClient, subject: str, schema: Schema, schema_id: int
) -> None:
    """Raise ContractError unless the registry means `schema` by this id.

    Ids have come to mean two different schemas in real registries: the content decides.
    """
    found = fingerprint_of_text(client.by_id(schema_id))
    if found != schema.fingerprint:
        raise ContractError(
            f"schema id {schema_id} of {subject} means another schema in the registry",
            parameter="schema_id",
            value=schema_id,
            fix="Find who wrote to the registry's storage; do not produce under this id",
            subject=subject,
            schema=schema.name,
            expected=schema.fingerprint,
            found=found,
        )
