"""The check of compatibility where it lives: a real registry at the level of the subject rule.

Every step of `schema_steps` on every record: what `test_evolution` shows to be readable is taken,
what is not is refused. And every approved version after the one before, in every subject.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from schema_steps import parsed, steps_of
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.world import World
from seamline.schemas.contract import (
    KINDS,
    NONE,
    SCHEMAS,
    SubjectRule,
    approved,
    by_text,
    subject_rules,
)
from seamline.schemas.errors import ContractError

LEVELS = sorted(
    {
        (name, rule.compatibility)
        for kind in ("ohlcv", "trades")
        for rule in subject_rules(kind).values()
        for name in rule.schemas
    }
)


@pytest.fixture
def client(world: World) -> Iterator[RemoteSchemaRegistryClient]:
    made = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    yield made
    made.close()


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_the_registry_takes_what_can_be_read_and_refuses_the_rest(
    client: RemoteSchemaRegistryClient, name: str, level: str
) -> None:
    old = parsed(SCHEMAS[name].text)
    wrong = []
    for step in steps_of(old):
        subject = f"test-{secrets.token_hex(6)}-value"
        client.register(subject, json.dumps(old))
        client.set_compatibility(subject, level)
        try:
            client.register(subject, json.dumps(step.new))
            taken = True
        except ContractError:
            taken = False
        if taken != step.fits(level):
            wrong.append((step.name, taken))
    assert wrong == []


RULES = [rule for kind in KINDS for rule in subject_rules(kind).values()]


@pytest.mark.parametrize("strict", [False, True], ids=["canary", "strict"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.role}-{'-'.join(rule.schemas)}")
def test_every_version_is_registered_after_the_one_before(
    client: RemoteSchemaRegistryClient, rule: SubjectRule, strict: bool
) -> None:
    """In canary at NONE, in strict at the level of the subject; ids mean what was registered, and
    the earlier version is still there under its own."""
    subject = f"test-{secrets.token_hex(6)}-value"
    versions = [schema for schema in approved() if schema.name in rule.schemas]
    versions.sort(key=lambda schema: schema.version)
    ids = [client.register(subject, schema.text) for schema in versions[: len(rule.schemas)]]
    client.set_compatibility(subject, rule.registry_compatibility if strict else NONE)
    ids += [client.register(subject, schema.text) for schema in versions[len(rule.schemas) :]]
    assert len(set(ids)) == len(versions) == 2 * len(rule.schemas)
    for number, schema in zip(ids, versions, strict=True):
        assert by_text(client.by_id(number)) is schema
        assert client.register(subject, schema.text) == number
