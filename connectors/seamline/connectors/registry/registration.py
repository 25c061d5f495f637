"""Which schemas a preset's subjects hold in the registry, and that the registry means the same.

Decides: the subjects of a preset (one per topic that carries a schema; a derived preset has no
landing), their levels, and who registers: in profile `dev` the program that starts, in `prod` only
`seamline schema register`. Invariants: an id is handed out only after the registry returned, for
that id, a schema with our fingerprint; a start never changes the level that a subject has. Must not
know: the REST API, the rules of compatibility.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from seamline.connectors.registry.access import MOCK
from seamline.connectors.registry.client import SchemaRegistryClient
from seamline.connectors.registry.governed import (
    Count,
    Judged,
    check_content,
    judge,
    register,
)
from seamline.schemas.bundle import Bundle
from seamline.schemas.contract import (
    NONE,
    SCHEMAS,
    Schema,
    fingerprint_of_text,
    subject_rules,
)
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import LANDING_ROLES, subject_of, topic_name

CANARY_LEVEL: Final = NONE
PROFILE_VARIABLE: Final = "SEAMLINE_PROFILE"
DEV, PROD = "dev", "prod"


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of a preset. `level` is what Seamline checks among the versions of one record,
    `strict_level` the level in the registry once it is strict."""

    name: str
    role: str
    schemas: tuple[str, ...]
    strict_level: str
    level: str


def subjects_of(preset: Preset) -> tuple[Subject, ...]:
    """The subjects of a preset's topics, in the order of the topic roles."""
    return tuple(
        Subject(
            subject_of(topic_name(preset.id, role)),
            role,
            rule.schemas,
            rule.registry_compatibility,
            rule.compatibility,
        )
        for role, rule in subject_rules(preset.kind).items()
        if preset.derive_from is None or role not in LANDING_ROLES
    )


def profile(env: Mapping[str, str], registry_url: str) -> str:
    """`dev` or `prod`: what the environment says, else `dev` for a registry on this machine.

    Raises UsageError for another word.
    """
    given = env.get(PROFILE_VARIABLE, "").strip().lower()
    if given:
        if given not in (DEV, PROD):
            raise UsageError(
                "no such profile", parameter=PROFILE_VARIABLE, value=given, fix=f"{DEV} or {PROD}"
            )
        return given
    return DEV if registry_url.startswith(MOCK) or _is_here(registry_url) else PROD


def judged_subjects(
    client: SchemaRegistryClient, preset: Preset, bundle: Bundle, mode_of: Callable[[str], str]
) -> tuple[Judged, ...]:
    """Each record of each subject of a preset in its newest version, judged; changes nothing."""
    newest = bundle.newest
    return tuple(
        judge(
            client,
            subject.name,
            newest[name].text,
            mode=mode_of(subject.name),
            level=subject.level,
            several_records=len(subject.schemas) > 1,
        )
        for subject in subjects_of(preset)
        for name in subject.schemas
    )


def ensure_registered(
    client: SchemaRegistryClient,
    preset: Preset,
    mode_of: Callable[[str], str],
    *,
    roles: Collection[str] | None = None,
    count: Count = lambda subject, mode: None,
    env: Mapping[str, str] | None = None,
) -> Mapping[str, int]:
    """Schema name -> id for all records of the preset's topics, or of those of `roles`.

    Registers what is missing in profile `dev`, under the modes of `mode_of`: what the registry
    keeps is no mode (it has to keep NONE for a strict subject of several records). Raises
    ContractError when it is missing in `prod` or when the registry means another schema by its id,
    SchemaValidationError when a strict subject refuses it, TransportError when the registry does
    not answer.
    """
    dev = profile(os.environ if env is None else env, client.url) == DEV
    ids: dict[str, int] = {}
    for subject in subjects_of(preset):
        if roles is not None and subject.role not in roles:
            continue
        for name in subject.schemas:
            schema = SCHEMAS[name]
            schema_id = id_of(client, subject.name, schema)
            if schema_id is None and dev:
                schema_id = _registered(client, subject, schema, mode_of, count)
            if schema_id is None:
                raise _missing(preset, subject.name, schema)
            verify(client, subject.name, schema, schema_id)
            ids.setdefault(name, schema_id)
    return MappingProxyType(ids)


def _registered(
    client: SchemaRegistryClient,
    subject: Subject,
    schema: Schema,
    mode_of: Callable[[str], str],
    count: Count,
) -> int:
    own = client.compatibility(subject.name)
    one = judge(
        client,
        subject.name,
        schema.text,
        mode=mode_of(subject.name),
        level=subject.level,
        several_records=len(subject.schemas) > 1,
    )
    # A start never changes a level that is there: that belongs to who changes the mode.
    if own is not None:
        one = replace(one, registry_wanted=own)
    return register(client, one, count).id


def verify(client: SchemaRegistryClient, subject: str, schema: Schema, schema_id: int) -> None:
    """Raise ContractError unless the registry means `schema` by this id."""
    check_content(client, subject, schema.text, schema_id)


def id_of(client: SchemaRegistryClient, subject: str, schema: Schema) -> int | None:
    """The id under which the subject holds this content, whatever its letters."""
    found = client.lookup(subject, schema.text)
    if found is not None:
        return found.id
    for version in reversed(client.history(subject)):
        try:
            if fingerprint_of_text(version.text) == schema.fingerprint:
                return version.id
        except ContractError:
            continue  # of another kind: somebody else's version
    return None


def _missing(preset: Preset, subject: str, schema: Schema) -> ContractError:
    return ContractError(
        f"{subject} does not hold {schema.name} v{schema.version}, and nothing is registered by"
        f" itself outside {DEV}",
        parameter="subject",
        value=subject,
        fix=f"Run: seamline schema register {preset.id} (or set {PROFILE_VARIABLE}={DEV})",
        subject=subject,
        schema=schema.name,
    )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
