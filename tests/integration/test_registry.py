"""The registry client and the registration of a preset's schemas, on a real registry."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator

import pytest

from preset_fixture import MakePreset
from seamline.connectors.registry.access import RegistryAuth
from seamline.connectors.registry.client import RegistrySettings, RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import (
    ensure_registered,
    subjects_of,
    verify,
)
from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS, fingerprint_of_text
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import CANARY
from seamline.schemas.topics import LANDING_ROLES


@pytest.fixture
def client(world: World) -> Iterator[RemoteSchemaRegistryClient]:
    made = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    yield made
    made.close()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_preset_is_registered_in_canary_and_every_id_means_our_schema(
    fresh_preset: MakePreset, client: RemoteSchemaRegistryClient
) -> None:
    fresh = fresh_preset(derive=("5m",))
    assert {"bar", "bar_block", "conformed_bar", "seal", "position", "report", "gap"} <= set(
        fresh.ids
    )
    for name, schema_id in fresh.ids.items():
        assert fingerprint_of_text(client.by_id(schema_id)) == SCHEMAS[name].fingerprint
    for preset in (fresh.preset, *fresh.derived):
        for subject in subjects_of(preset):
            assert client.compatibility(subject.name) == "NONE"
    landing = [s for s in subjects_of(fresh.derived[0]) if s.role in LANDING_ROLES]
    assert landing == []
    levels = {s.role: s.strict_level for s in subjects_of(fresh.preset)}
    assert levels["live"] == "BACKWARD_TRANSITIVE"
    assert levels["storage"] == "FULL_TRANSITIVE"
    assert (
        dict(ensure_registered(client, fresh.preset, lambda _: CANARY)).items() <= fresh.ids.items()
    )


def test_a_version_that_is_withdrawn_is_gone_until_its_text_is_registered_again(
    client: RemoteSchemaRegistryClient,
) -> None:
    subject = f"test-{secrets.token_hex(6)}-value"
    assert client.versions(subject) == {}
    client.set_compatibility(subject, "NONE")
    texts = [SCHEMAS["bar"].text, SCHEMAS["trade"].text]
    ids = [client.register(subject, text) for text in texts]
    held = client.versions(subject)
    assert [fingerprint_of_text(text) for text in held.values()] == [
        *(SCHEMAS["bar"].fingerprint, SCHEMAS["trade"].fingerprint)
    ]
    first = min(held)
    for _ in range(2):
        client.withdraw(subject, first)
        assert list(client.versions(subject)) == [n for n in held if n != first]
    # What was written under the id can still be read.
    assert fingerprint_of_text(client.by_id(ids[0])) == SCHEMAS["bar"].fingerprint
    assert client.register(subject, texts[0]) == ids[0]
    assert len(client.versions(subject)) == 2


def test_the_same_schema_has_the_same_id_again(client: RemoteSchemaRegistryClient) -> None:
    subject, text = f"test-{secrets.token_hex(6)}-value", SCHEMAS["bar"].text
    client.ready()
    first = client.register(subject, text)
    again = RemoteSchemaRegistryClient(client.url)
    assert first == client.register(subject, text) == again.register(subject, text)
    again.close()


def test_an_id_that_means_another_schema_is_refused(
    fresh_preset: MakePreset, client: RemoteSchemaRegistryClient
) -> None:
    ids = fresh_preset().ids
    verify(client, "x-value", SCHEMAS["bar"], ids["bar"])
    with pytest.raises(ContractError, match="means another schema") as raised:
        verify(client, "x-value", SCHEMAS["bar"], ids["bar_block"])
    assert raised.value.fields["expected"] == SCHEMAS["bar"].fingerprint
    assert raised.value.fields["found"] == SCHEMAS["bar_block"].fingerprint


def test_an_unknown_id_and_an_invalid_schema_are_contract_errors(
    client: RemoteSchemaRegistryClient,
) -> None:
    for _ in range(2):  # the second answer is remembered
        with pytest.raises(ContractError, match="no schema of this id"):
            client.by_id(2_000_000_000)
    with pytest.raises(ContractError):
        client.register(f"test-{secrets.token_hex(6)}-value", "{not avro")
    with pytest.raises(UsageError, match="One of NONE"):
        client.set_compatibility("x", "SOMETIMES")


def test_an_incompatible_schema_is_refused_once_the_level_is_strict(
    client: RemoteSchemaRegistryClient,
) -> None:
    subject = f"test-{secrets.token_hex(6)}-value"
    client.register(subject, SCHEMAS["bar"].text)
    changed = json.loads(SCHEMAS["bar"].text)
    changed["fields"].append({"name": "without_default", "type": "long"})
    client.set_compatibility(subject, "FULL_TRANSITIVE")
    with pytest.raises(ContractError):
        client.register(subject, json.dumps(changed))
    client.set_compatibility(subject, "NONE")
    assert client.register(subject, json.dumps(changed)) > 0


def test_an_unreachable_registry_is_named_and_not_asked_again_at_once() -> None:
    url = f"http://127.0.0.1:{closed_port()}/apis/ccompat/v7"
    client = RemoteSchemaRegistryClient(url, settings=RegistrySettings(pause_s=60))
    with pytest.raises(TransportError, match="does not answer") as raised:
        client.ready()
    assert raised.value.retriable
    assert raised.value.value == url
    began = time.monotonic()
    for schema_id in range(1_000):
        with pytest.raises(TransportError):
            client.by_id(schema_id)
    assert time.monotonic() - began < 2
    client.close()


def test_a_silent_registry_costs_a_bounded_wait() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = RemoteSchemaRegistryClient(
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            settings=RegistrySettings(timeout_s=0.3, retries=1),
        )
        began = time.monotonic()
        with pytest.raises(TransportError, match="does not answer"):
            client.by_id(1)
        assert time.monotonic() - began < 5
        client.close()


def test_what_was_seen_is_answered_while_the_registry_is_away(
    fresh_preset: MakePreset, world: World
) -> None:
    fresh = fresh_preset()
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    text = client.by_id(fresh.ids["bar"])
    client.close()  # its connections are gone for good
    assert client.by_id(fresh.ids["bar"]) == text
    with pytest.raises(TransportError):
        client.by_id(fresh.ids["seal"])


def test_a_url_that_is_no_registry_says_so(world: World) -> None:
    host = world.registry_url.partition("/apis")[0]
    client = RemoteSchemaRegistryClient(f"{host}/nowhere")
    with pytest.raises(TransportError, match="no answer of a schema registry") as raised:
        client.by_id(1)
    assert not raised.value.retriable
    client.close()
    with pytest.raises(UsageError):
        RemoteSchemaRegistryClient("ftp://127.0.0.1")
    with pytest.raises(UsageError, match="user:password"):
        RemoteSchemaRegistryClient("http://127.0.0.1", RegistryAuth("me"))
