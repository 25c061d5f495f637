"""The check of compatibility where it lives: a real registry at the level of the subject rule.

Every step of `schema_steps` on every record: what `test_evolution` shows to be readable is taken,
what is not is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from schema_steps import parsed, steps_of
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS, subject_rules
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
