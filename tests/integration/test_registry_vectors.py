"""The vectors of registration on a real registry, whose own level is that of the mode."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seamline.connectors.registry.client import RemoteSchemaRegistryClient, SchemaRegistryClient
from seamline.connectors.world import World
from vectors import governance_drivers
from vectors.engine import evaluate, load

FILE = Path(__file__).parent.parent / "data" / "vectors" / "governance.json"


def test_a_real_registry_gives_what_the_vectors_expect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def real(next_id: int = 1) -> Iterator[tuple[SchemaRegistryClient, str]]:
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        try:
            yield client, f"test-{secrets.token_hex(6)}-"
        finally:
            client.close()

    monkeypatch.setattr(governance_drivers, "open_registry", real)
    vectors = [
        vector
        for vector in load(FILE)["vectors"]
        if vector["family"] in ("register", "canary", "strict") and "applies_if" not in vector
    ]
    outcomes = [evaluate("governance", vector) for vector in vectors]
    assert len(outcomes) == 13
    assert [o for o in outcomes if o.verdict != "passed"] == []
