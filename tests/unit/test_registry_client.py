"""The registry client against a server that answers wrongly, late, or not at all."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from registry_server import Reply, Server, saying, serving
from seamline.connectors.registry.access import RegistryAuth, checked_url
from seamline.connectors.registry.asking import ASKING_MAX, Asking, GivenUpError, Patience
from seamline.connectors.registry.client import (
    Bounded,
    Registered,
    RegistrySettings,
    RemoteSchemaRegistryClient,
    SchemaRegistryClient,
)
from seamline.connectors.registry.governed import judge, register
from seamline.connectors.world import World
from seamline.schemas.avro import SCHEMA_BYTES_MAX
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import (
    ContractError,
    SchemaValidationError,
    SeamlineError,
    TransportError,
    UsageError,
)

TEXT = SCHEMAS["bar"].text
QUICK = RegistrySettings(timeout_s=5, retries=1, retry_wait_ms=1, retry_wait_max_ms=1, pause_s=0)
# The network behind a test may be slow; a pause is over before it began.
GOOD = {"schema": TEXT}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda path: saying(GOOD)) as made:
        yield made


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteSchemaRegistryClient]:
    monkeypatch.setattr("seamline.connectors.registry.asking.PAUSE_FACTOR", 0.0)
    made = RemoteSchemaRegistryClient(server.url, settings=QUICK)
    yield made
    made.close()


def fault(call: Any) -> SeamlineError:
    with pytest.raises(SeamlineError) as raised:
        call()
    assert len(str(raised.value)) < 1_500
    return raised.value


@pytest.mark.parametrize(
    ("reply", "kind", "retriable", "says"),
    [
        (Reply(200, b"<html>busy</html>"), TransportError, False, "no answer of a schema registry"),
        (Reply(200, b""), TransportError, False, "no answer of a schema registry"),
        (Reply(200, b"\xff\xfe"), TransportError, False, "no answer of a schema registry"),
        (Reply(200, b"[" * 200_000), TransportError, False, "no answer of a schema registry"),
        (saying([1, 2]), TransportError, False, "no answer of a schema registry"),
        (saying({"schema": 5}), TransportError, False, "no schema text"),
        (saying({}), TransportError, False, "no schema text"),
        (saying({"schema": "x" * 10_000_000}), ContractError, False, "too large: 10000000"),
        (Reply(500, b"boom"), TransportError, True, "HTTP 500"),
        (Reply(503, b"x" * 1_000_000), TransportError, True, "HTTP 503"),
        (saying({"error_code": 42901, "message": "slow down"}, 429), TransportError, True, "429"),
        (saying({"message": "who?"}, 401), TransportError, False, "refuses the credentials"),
        (saying({"message": "no"}, 403), TransportError, False, "refuses the credentials"),
        (Reply(404, b"not here"), TransportError, False, "HTTP 404"),
        (Reply(302), TransportError, False, "HTTP 302"),
        (Reply(204, b""), TransportError, False, "no answer of a schema registry"),
        # No answer to what an id means: the record waits, it is not of an unknown schema.
        (saying({"error_code": 409, "message": "conflict"}, 409), TransportError, False, "409"),
        (saying({"error_code": 40001, "message": "what?"}, 400), TransportError, False, "HTTP 400"),
        (saying({"error_code": 40403, "message": "none"}, 404), ContractError, False, "of this id"),
    ],
)
def test_each_answer_is_the_fault_that_it_is(
    server: Server,
    client: RemoteSchemaRegistryClient,
    reply: Reply,
    kind: type[SeamlineError],
    retriable: bool,
    says: str,
) -> None:
    server.answer = lambda path: reply
    error = fault(lambda: client.by_id(7))
    assert isinstance(error, kind) and says in str(error)
    assert error.retriable == retriable
    assert client.cached == 0


@pytest.mark.parametrize("body", [{"id": "7"}, {"id": True}, {"id": -1}, {"id": 2**40}, {}])
def test_an_id_that_is_none_is_never_handed_out(
    server: Server, client: RemoteSchemaRegistryClient, body: dict[str, Any]
) -> None:
    server.answer = lambda path: saying(body)
    assert "no answer of a schema registry" in str(fault(lambda: client.register("s", TEXT)))
    server.answer = lambda path: saying({"subject": "s", "version": 1, **GOOD, **body})
    assert isinstance(fault(lambda: client.lookup("s", TEXT)), TransportError)


def test_a_conflict_is_the_contracts_and_its_status_is_told(
    server: Server, client: RemoteSchemaRegistryClient
) -> None:
    told = "incompatible\x1b[31m" + "x" * 100_000
    server.answer = lambda path: saying({"error_code": 409, "message": told}, 409)
    error = fault(lambda: client.register("s", TEXT))
    assert isinstance(error, ContractError)
    assert error.fields["status"] == 409
    assert "\x1b" not in str(error)


def test_an_unknown_id_is_not_asked_for_again_at_once(
    server: Server, client: RemoteSchemaRegistryClient
) -> None:
    replies = {8: saying({"error_code": 40403}, 404), 9: saying({"schema": None})}
    server.answer = lambda path: replies[int(path.rpartition("/")[2])]
    for schema_id in replies:
        for _ in range(3):
            fault(partial(client.by_id, schema_id))
    assert len(server.seen) == 2


def test_an_outage_is_said_once_and_cached_schemas_go_on(
    server: Server, client: RemoteSchemaRegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="seamline.registry")
    assert client.by_id(1) == TEXT
    server.answer = lambda path: Reply(503, b"")
    for schema_id in range(2, 5):
        assert fault(partial(client.by_id, schema_id)).retriable
        assert client.by_id(1) == TEXT
    assert client.outage is not None and client.outage.failures == 3
    server.answer = lambda path: saying(GOOD)
    assert client.by_id(2) == TEXT
    assert client.outage is None
    began, ended = [r for r in caplog.records if r.name == "seamline.registry"]
    assert (began.levelname, ended.levelname) == ("ERROR", "WARNING")
    assert "works on 1 cached schemas" in began.getMessage()
    assert "answers again" in ended.getMessage() and "3 failed" in ended.getMessage()


def test_a_registry_that_failed_is_left_alone_for_a_while(server: Server) -> None:
    client = RemoteSchemaRegistryClient(
        server.url, settings=RegistrySettings(retries=0, pause_s=3_600)
    )
    server.answer = lambda path: Reply(500, b"")
    for schema_id in range(50):
        assert "HTTP 500" in str(fault(partial(client.by_id, schema_id)))
    assert len(server.seen) == 1
    client.close()


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server: Server) -> None:
    """Each byte meets the timeout of the HTTP client; the whole answer would take for ever."""
    server.answer = lambda path: Reply(200, b" " * 100_000, drip=True)
    client = RemoteSchemaRegistryClient(
        server.url, settings=RegistrySettings(deadline_s=0.3, pause_s=3_600)
    )
    assert "no answer in 0.3 s" in str(fault(lambda: client.by_id(1)))
    assert "no answer in 0.3 s" in str(fault(lambda: client.by_id(2)))
    server.ended.set()
    client.close()


def test_many_who_ask_at_once_take_turns_and_call_it_no_outage() -> None:
    """As the partitions of a worker do when a new schema comes to all of them."""
    asking, full, asked = Asking(), threading.Event(), itertools.count(1)

    def ask() -> int:
        number = next(asked)
        if number == ASKING_MAX:
            full.set()
        assert full.wait(30)
        return number

    with ThreadPoolExecutor(3 * ASKING_MAX) as pool:
        found = list(pool.map(lambda _: asking.within(ask, 30), range(3 * ASKING_MAX)))
    assert sorted(found) == list(range(1, 3 * ASKING_MAX + 1))


def test_a_question_that_finds_no_turn_is_given_up() -> None:
    asking, ended, began = Asking(), threading.Event(), threading.Barrier(ASKING_MAX + 1)

    def ask() -> bool:
        began.wait(30)
        return ended.wait(30)

    with ThreadPoolExecutor(ASKING_MAX) as pool:
        held = [pool.submit(asking.within, ask, 30) for _ in range(ASKING_MAX)]
        began.wait(30)
        with pytest.raises(GivenUpError, match=r"without an answer in 0\.1 s"):
            asking.within(lambda: None, 0.1)
        ended.set()
        assert all(each.result() for each in held)


def test_a_question_that_gets_no_thread_gives_its_turn_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asking = Asking()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(ASKING_MAX + 1):
            with pytest.raises(RuntimeError):
                asking.within(lambda: 1, 0.1)
    assert asking.within(lambda: 1, 30) == 1


def test_ids_that_somebody_makes_up_cost_a_part_of_the_time_and_no_more(server: Server) -> None:
    """However fast the registry says no, a topic full of them must not hold up the others."""
    server.answer = lambda path: saying({"error_code": 40403}, 404)
    settings = RegistrySettings(patience_s=1e-9)
    client = RemoteSchemaRegistryClient(server.url, settings=settings)
    assert isinstance(fault(lambda: client.by_id(1, within_s=5)), ContractError)
    for schema_id in range(2, 30):
        error = fault(partial(client.by_id, schema_id, within_s=5))
        assert isinstance(error, TransportError) and "not asked now" in str(error)
    assert len(server.seen) == 1
    assert isinstance(fault(lambda: client.by_id(2)), ContractError)  # one that may wait
    for beyond in (-1, 2**31, 2**32 - 1):
        assert "no schema of this id" in str(fault(partial(client.by_id, beyond, within_s=5)))
    assert len(server.seen) == 2
    client.close()


def test_patience_comes_back_with_time_and_each_thread_has_its_own() -> None:
    now = [0.0]
    patience = Patience(2.0, lambda: now[0])
    patience.took(1.5)
    assert not patience.spent
    patience.took(1.5)
    assert patience.spent
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(lambda: patience.spent).result()
    now[0] += 4.9
    assert patience.spent
    now[0] += 0.2
    assert not patience.spent
    now[0] += 1_000
    patience.took(2.5)
    assert patience.spent  # what is saved up has an end


def test_an_answer_that_comes_too_late_is_remembered_all_the_same(
    server: Server, client: RemoteSchemaRegistryClient
) -> None:
    asked = server.ended

    def late(path: str) -> Reply:
        asked.wait(30)
        return saying(GOOD)

    server.answer = late
    assert "no answer in 0.1 s" in str(fault(lambda: client.by_id(1, within_s=0.1)))
    asked.set()
    assert client.by_id(1) == TEXT


def test_the_memory_is_bounded_in_entries_and_bytes() -> None:
    held: Bounded[int, str] = Bounded(3, 10, len)
    for key, text in ((1, "aaaa"), (2, "bb"), (3, "c"), (1, "aaaa"), (4, "d")):
        held.put(key, text)
    assert (held.get(2), held.get(3), held.get(1), len(held)) == (None, "c", "aaaa", 3)
    held.put(5, "x" * 6)
    assert (held.get(4), held.get(1), held.get(5)) == (None, "aaaa", "x" * 6)
    held.put(6, "x" * 11)
    assert len(held) == 0
    held.drop(6)
    assert RegistrySettings().cache_bytes > SCHEMA_BYTES_MAX


def test_who_we_are_is_sent_and_never_shown(server: Server) -> None:
    for auth, sent in (
        (RegistryAuth(basic="ops:hunter2"), "Basic b3BzOmh1bnRlcjI="),
        (RegistryAuth(token="hunter3"), "Bearer hunter3"),
    ):
        client = RemoteSchemaRegistryClient(server.url, auth, QUICK)
        assert client.by_id(1) == TEXT
        path, headers = server.seen[-1]
        assert (path, headers.get("Authorization", headers.get("authorization"))) == (
            "/schemas/ids/1",
            sent,
        )
        assert "hunter" not in repr(client) + repr(auth)
        client.close()


def test_the_environment_names_who_we_are() -> None:
    env = {
        "SEAMLINE_BOOTSTRAP_SERVERS": "a:9092",
        "SEAMLINE_SCHEMA_REGISTRY_URL": "https://r",
        "SEAMLINE_SCHEMA_REGISTRY_TOKEN": "hunter4",
        "SEAMLINE_SCHEMA_REGISTRY_CA": "/ca.pem",
        "SEAMLINE_SCHEMA_REGISTRY_CERTIFICATE": "/me.pem",
        "SEAMLINE_SCHEMA_REGISTRY_KEY": "/me.key",
    }
    world = World.resolve(env)
    assert world.registry_auth == RegistryAuth(None, "hunter4", "/ca.pem", "/me.pem", "/me.key")
    assert world.environment() == env
    assert World.resolve(world.environment()) == world
    assert "hunter" not in repr(world)


def refused(url: str = "https://r", **auth: str) -> str:
    with pytest.raises(UsageError) as raised:
        RemoteSchemaRegistryClient(url, RegistryAuth(**auth))
    assert "hunter" not in str(raised.value)
    return str(raised.value)


def test_wrong_credentials_are_named_without_their_secret(tmp_path: Path) -> None:
    assert "SEAMLINE_SCHEMA_REGISTRY_AUTH = '…': not user:password" in refused(basic="hunter2")
    assert "is set too" in refused(basic="me:hunter2", token="hunter3")
    for token in ("hunter2\nX: y", "hunter 2", "hunter\u00fc"):
        assert "SEAMLINE_SCHEMA_REGISTRY_TOKEN = '…': not a bearer token" in refused(token=token)
    assert "SEAMLINE_SCHEMA_REGISTRY_CA = '/nowhere': cannot be read: No such" in refused(
        ca="/nowhere"
    )
    assert "http://r is not https" in refused("http://r", ca="/nowhere")
    assert "a key without a certificate" in refused(key="/nowhere")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    assert "no PEM certificates" in refused(ca=str(empty))
    assert "SEAMLINE_SCHEMA_REGISTRY_CERTIFICATE" in refused(certificate=str(empty))
    for url in (
        *("ftp://r", "r:8080", "", "http://[::1", "http://me:hunter2@r", "me:hunter2@r:8081"),
        *(
            "https://r/?token=hunter2",
            "https://r/x#hunter2",
            "http://hunter2@[",
            "ftp://@r?hunter2",
        ),
    ):
        assert "SEAMLINE_SCHEMA_REGISTRY_URL" in refused(url)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
def test_a_server_that_asks_for_a_certificate_gets_ours(tmp_path: Path) -> None:
    names = ("server", "me", "locked")
    cert, key = ({n: str(tmp_path / f"{n}.{kind}") for n in names} for kind in ("pem", "key"))
    for name in names:
        openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key[name], "-out", cert[name]),
        )
    openssl("ec", "-aes128", "-passout", "pass:hunter2", "-in", key["me"], "-out", key["locked"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert["me"])
    context.load_cert_chain(cert["server"], key["server"])
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(lambda path: saying(GOOD), context) as server:
        known = RegistryAuth(ca=cert["server"], certificate=cert["me"], key=key["me"])
        client = RemoteSchemaRegistryClient(server.url, known, QUICK)
        assert client.by_id(1) == TEXT
        client.close()
        for auth in (RegistryAuth(ca=cert["server"]), RegistryAuth()):
            stranger = RemoteSchemaRegistryClient(server.url, auth, QUICK)
            assert "does not answer" in str(fault(stranger.ready))
            stranger.close()
    belongs = refused(certificate=cert["me"], key=key["server"])
    assert "SEAMLINE_SCHEMA_REGISTRY_CERTIFICATE" in belongs
    # A key with a password would make OpenSSL ask for it on the terminal.
    assert "has no password" in refused(certificate=cert["me"], key=key["locked"])


def test_a_schema_is_judged_in_the_mode_of_the_client_where_its_subject_has_none() -> None:
    """`SEAMLINE_SCHEMA_VALIDATION_MODE` says it; canary counts and takes, strict refuses."""
    earlier, later = (
        json.dumps({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]})
        for kind in ("int", "string")
    )
    counted: list[tuple[str, str]] = []

    def registered(client: SchemaRegistryClient, mode: str | None = None) -> Registered:
        client.register("s", earlier)
        judged = judge(client, "s", later, level="FULL_TRANSITIVE", mode=mode)
        return register(client, judged, lambda *failed: counted.append(failed))

    strict = RemoteSchemaRegistryClient("mock://1", validation_mode="Strict", unit_test=True)
    assert strict.validation_mode == "strict"
    with pytest.raises(SchemaValidationError) as raised:
        registered(strict)
    assert raised.value.field == "a" and len(strict.history("s")) == 1
    assert registered(strict, "canary").version == 2
    canary = RemoteSchemaRegistryClient("mock://2", unit_test=True)
    assert canary.validation_mode == "canary" and registered(canary).version == 2
    assert counted == [("s", "strict"), ("s", "canary"), ("s", "canary")]
    env = {"SEAMLINE_SCHEMA_REGISTRY_URL": "http://r:8081/", "SEAMLINE_SCHEMA_VALIDATION_MODE": ""}
    for word in ("strict", "canary"):
        env["SEAMLINE_SCHEMA_VALIDATION_MODE"] = word
        assert RemoteSchemaRegistryClient.from_environment(env).validation_mode == word
    env["SEAMLINE_SCHEMA_VALIDATION_MODE"] = "audit"
    with pytest.raises(UsageError, match="SEAMLINE_SCHEMA_VALIDATION_MODE = 'audit'"):
        RemoteSchemaRegistryClient.from_environment(env)
    with pytest.raises(UsageError, match="SEAMLINE_SCHEMA_REGISTRY_URL"):
        RemoteSchemaRegistryClient.from_environment({})
    with pytest.raises(UsageError, match="validation_mode = 'off'"):
        RemoteSchemaRegistryClient("http://r", validation_mode="off")


def test_the_mock_is_for_unit_tests_and_said_to_be_so() -> None:
    assert "for unit tests" in refused("mock://x")
    with pytest.raises(UsageError, match="for unit tests"):
        checked_url("mock://x")
    client = RemoteSchemaRegistryClient("mock://x", unit_test=True)
    assert (client.latest("s"), client.versions("s"), client.compatibility("s")) == (None, {}, None)
    other = json.dumps({"type": "record", "name": "R", "fields": []})
    first, second = client.register("s", TEXT), client.register("s", other)
    assert [one.id for one in client.history("s")] == [first, second]
    latest = client.latest("s")
    assert latest is not None and (latest.version, latest.text) == (2, other)
    client.set_compatibility("s", "FULL")
    assert client.compatibility("s") == "FULL"
    client.withdraw("s", 1)
    assert client.lookup("s", TEXT) is None
    client.ready()
    client.close()
