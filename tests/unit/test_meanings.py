"""What the ids of a registry mean to a worker, whatever the registry says of them and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from machine_world import PARENT
from registry_server import Reply, Server, saying, serving
from seamline.connectors.registry.client import RegistrySettings, RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.streams.kernel.writers import Drifted, writer_of

BAR = SCHEMAS["bar"]
QUICK = RegistrySettings(retries=0, pause_s=0, unknown_ttl_s=0, cache_entries=1)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda path: saying({"schema": BAR.text})) as made:
        yield made


@pytest.fixture
def found(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meanings]:
    monkeypatch.setattr("seamline.connectors.registry.asking.PAUSE_FACTOR", 0.0)
    client = RemoteSchemaRegistryClient(server.url, settings=QUICK)
    yield Meanings.of_landing(client, PARENT)
    client.close()


GONE = saying({"error_code": 40403, "message": "none"}, 404)


def test_a_schema_that_is_deleted_while_in_use_goes_on_and_its_withdrawal_is_heard(
    server: Server, found: Meanings
) -> None:
    assert found(1) == BAR and found(2) == BAR
    for reply in (GONE, Reply(500), saying({"message": "who?"}, 401), Reply(200, b"<html>")):
        server.answer = lambda path, reply=reply: reply  # type: ignore[misc]
        assert found(1) == BAR
    # Deleted in the registry or not: what counts is what the subject's state withdraws.
    withdrawn = frozenset((BAR.fingerprint,))
    assert writer_of(1, found, Policy(STRICT, 1, withdrawn), ("bar",)).reason == "tombstoned_schema"
    assert writer_of(1, found, Policy(CANARY, 1, withdrawn), ("bar",)).broken
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(500), Reply(200, b"<html>"), Reply(404, b"not here"), Reply(200, b"")),
        *(saying({"message": "?"}, 401), saying({"error_code": 409}, 409), saying({"schema": 1})),
    ],
)
def test_what_is_no_answer_lets_the_record_wait_and_the_next_answer_counts(
    server: Server, found: Meanings, reply: Reply
) -> None:
    server.answer = lambda path: reply
    with pytest.raises(TransportError):
        found(1)
    for mode in (CANARY, STRICT):
        assert writer_of(1, found, Policy(mode), ("bar",)).reason == "registry_unavailable"
    server.answer = lambda path: saying({"schema": BAR.text})
    assert found(1) == BAR


def test_an_unknown_id_is_asked_for_again(server: Server, found: Meanings) -> None:
    server.answer = lambda path: GONE
    assert found(1) is None and found(2**32 - 1) is None
    server.answer = lambda path: saying({"schema": BAR.text})
    assert found(1) == BAR


NAMED = {"type": "record", "name": "Bar", "namespace": "seamline"}
PART = {"type": "fixed", "name": "Part", "size": 4}


def with_field(kind: Any) -> str:
    schema = json.loads(BAR.text)
    schema["fields"].append({"name": "more", "type": kind})
    return json.dumps(schema)


@pytest.mark.parametrize(
    "text",
    [
        with_field(
            {
                "type": "record",
                "name": "P",
                "fields": [{"name": "a", "type": PART}, {"name": "b", "type": PART}],
            }
        ),
        with_field(
            {
                "type": "record",
                "name": "Node",
                "fields": [{"name": "next", "type": ["null", "Node"]}],
            }
        ),
        with_field({"type": "enum", "name": "E", "symbols": ["x" * 10_000_000]}),
        with_field("Nowhere"),
        '{"type": "record"}',
        "[" * 500_000,
        'syntax = "proto3";',
    ],
    ids=["clash", "recursive", "10 MB", "unresolved", "no name", "deep", "of another kind"],
)
def test_a_schema_that_nobody_can_read_is_unknown_in_both_modes(
    server: Server, found: Meanings, text: str
) -> None:
    assert isinstance(_meaning(server, found, 7, with_field("string")), Drifted)
    assert _meaning(server, found, 8, text) is None
    for mode in (CANARY, STRICT):
        assert writer_of(8, found, Policy(mode), ("bar",)).reason == "unknown_schema"


def _meaning(server: Server, found: Meanings, number: int, text: str) -> object:
    server.answer = lambda path: saying({"schema": text})
    return found(number)


class Forgetful(dict[int, Any]):
    """As if another partition forgot everything between any two steps of this one."""

    def __setitem__(self, key: int, value: Any) -> None:
        pass


def test_partitions_that_share_what_is_known_do_not_disturb_each_other(
    server: Server, found: Meanings
) -> None:
    found._known = Forgetful()
    assert found(1) == BAR and found(1) == BAR
