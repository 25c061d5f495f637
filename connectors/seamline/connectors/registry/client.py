"""The schema registry over Confluent's REST API, with short waits and a bounded memory.

Decides: how long a registry may take, what is remembered, and that one which did not answer is not
asked again for a moment (a record of an unknown id must not cost a timeout each). Invariants:
schemas seen before are answered without the registry; memory is bounded; nothing outside this
package sees the client library's exceptions. Must not know: which schemas are approved.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Generic, TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from seamline.connectors.world import REGISTRY_AUTH_VARIABLE, REGISTRY_VARIABLE
from seamline.schemas.errors import ContractError, TransportError, UsageError

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

URL_PARAMETER: Final = REGISTRY_VARIABLE
AUTH_PARAMETER: Final = REGISTRY_AUTH_VARIABLE
LEVELS: Final = (
    "NONE",
    "BACKWARD",
    "BACKWARD_TRANSITIVE",
    "FORWARD",
    "FORWARD_TRANSITIVE",
    "FULL",
    "FULL_TRANSITIVE",
)
VERSIONS_MAX: Final = 1_000
_NOT_FOUND: Final = 404
_REFUSED: Final = (401, 403)
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Times in the unit of their name. One request takes at most about `timeout_s` times
    `retries + 1`. An unknown id is asked for again after `unknown_ttl_s`, a registry that did not
    answer after `pause_s`."""

    timeout_s: float = 3.0
    retries: int = 2
    retry_wait_ms: int = 100
    retry_wait_max_ms: int = 1_000
    cache_entries: int = 1_000
    unknown_ttl_s: float = 10.0
    pause_s: float = 1.0


class Bounded(Generic[K, V]):
    """The entries used last, at most `entries` of them."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: K, value: V) -> None:
        self._held[key] = value
        self._held.move_to_end(key)
        if len(self._held) > self._entries:
            self._held.popitem(last=False)

    def drop(self, key: K) -> None:
        self._held.pop(key, None)

    def drop_where(self, chosen: Callable[[K], bool]) -> None:
        for key in [key for key in self._held if chosen(key)]:
            del self._held[key]

    def __len__(self) -> int:
        return len(self._held)


class RemoteSchemaRegistryClient:
    """One registry. May be shared by threads.

    Every method may raise TransportError: the registry is unreachable, fails, or refuses the
    credentials (then not retriable).
    """

    def __init__(
        self, url: str, auth: str | None = None, settings: RegistrySettings | None = None
    ) -> None:
        self.url = url
        self._settings = settings or RegistrySettings()
        self._client = _make(url, auth, self._settings)
        self._texts: Bounded[int, str] = Bounded(self._settings.cache_entries)
        self._ids: Bounded[tuple[str, str], int] = Bounded(self._settings.cache_entries)
        self._unknown: Bounded[int, float] = Bounded(self._settings.cache_entries)
        self._asked = 0
        self._paused_until = 0.0
        self._pause_cause = ""
        self._lock = Lock()

    def register(self, subject: str, text: str) -> int:
        """The id of this Avro schema under `subject`, registered now unless it is already.

        Raises ContractError when the registry finds it invalid or incompatible.
        """
        with self._lock:
            known = self._ids.get((subject, text))
        if known is not None:
            return known
        doing = f"registration under {subject}"
        schema_id = self._call(
            doing, lambda: self._client.register_schema(subject, Schema(text, "AVRO"))
        )
        if not isinstance(schema_id, int):
            raise self._unusable(doing, f"id {schema_id!r}")
        with self._lock:
            self._ids.put((subject, text), schema_id)
        return schema_id

    def by_id(self, schema_id: int) -> str:
        """The schema text that this id means. Raises ContractError when the registry has none."""
        with self._lock:
            known = self._texts.get(schema_id)
            until = self._unknown.get(schema_id)
        if known is not None:
            return known
        if until is not None and time.monotonic() < until:
            raise self._no_such_id(schema_id)
        doing = f"look-up of schema id {schema_id}"
        try:
            text = self._call(doing, lambda: self._client.get_schema(schema_id).schema_str)
        except ContractError:
            with self._lock:
                self._unknown.put(schema_id, time.monotonic() + self._settings.unknown_ttl_s)
            raise self._no_such_id(schema_id) from None
        if not isinstance(text, str):
            raise self._unusable(doing, "no schema text")
        with self._lock:
            self._texts.put(schema_id, text)
            self._unknown.drop(schema_id)
        return text

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's own level; a subject without versions may have one."""
        if level not in LEVELS:
            raise UsageError(
                "no such level", parameter="level", value=level, fix=f"One of {', '.join(LEVELS)}"
            )
        try:
            self._call(
                f"compatibility of {subject}",
                lambda: self._client.set_compatibility(subject_name=subject, level=level),
            )
        except ContractError:
            # Two processes that start together both make the subject's first level, and the
            # registry refuses the second. What counts is the level that stands.
            if self.compatibility(subject) != level:
                raise

    def compatibility(self, subject: str) -> str | None:
        """The subject's own level, None when it has none."""
        try:
            return self._call(
                f"compatibility of {subject}",
                lambda: str(self._client.get_compatibility(subject_name=subject)),
            )
        except ContractError:
            return None

    def versions(self, subject: str) -> Mapping[int, str]:
        """Version -> schema text of what is registered under `subject` and not deleted, oldest
        first; empty for a subject that the registry does not know. Raises ContractError beyond
        VERSIONS_MAX."""
        doing = f"versions of {subject}"
        try:
            numbers = self._call(doing, lambda: self._client.get_versions(subject))
        except ContractError as error:
            if error.fields.get("status") == _NOT_FOUND:
                return {}
            raise
        if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            raise self._unusable(doing, f"versions {numbers!r}")
        if len(numbers) > VERSIONS_MAX:
            raise ContractError(
                f"more than {VERSIONS_MAX} versions", parameter="subject", value=subject
            )
        return {number: self._version(subject, number) for number in sorted(numbers)}

    def withdraw(self, subject: str, version: int) -> None:
        """Delete a version softly: it is offered to nobody any more, and registering its text
        again brings it back. Withdrawing it once more changes nothing."""
        doing = f"deletion of version {version} of {subject}"
        try:
            self._call(doing, lambda: self._client.delete_version(subject, version))
        except ContractError:
            # Registries disagree on how they say that it is gone already; what counts is that.
            if version in self.versions(subject):
                raise
        with self._lock:
            self._ids.drop_where(lambda known: known[0] == subject)
            self._client.clear_caches()  # type: ignore[no-untyped-call]

    def _version(self, subject: str, number: int) -> str:
        doing = f"version {number} of {subject}"
        text = self._call(doing, lambda: self._client.get_version(subject, number).schema)
        if text is None or not isinstance(text.schema_str, str):
            raise self._unusable(doing, "no schema text")
        return text.schema_str

    def ready(self) -> None:
        """Returns when the registry answers, raises TransportError when it does not."""
        self._call("first request", lambda: self._client.get_subjects(limit=1))

    def close(self) -> None:
        self._client.close()

    def _call(self, doing: str, call: Callable[[], T]) -> T:
        with self._lock:
            if time.monotonic() < self._paused_until:
                raise self._unreachable(doing, self._pause_cause)
            self._asked += 1
            if self._asked % self._settings.cache_entries == 0:
                # The library's own cache has no limit.
                self._client.clear_caches()  # type: ignore[no-untyped-call]
        try:
            return call()
        except SchemaRegistryError as error:
            raise self._answered(doing, error) from None
        except Exception as error:
            # The library raises the exceptions of whichever HTTP package it found, and those of
            # a body that is not the JSON it expects.
            cause = f"{type(error).__name__}: {error}"
            with self._lock:
                self._paused_until = time.monotonic() + self._settings.pause_s
                self._pause_cause = cause
            raise self._unreachable(doing, cause) from error

    def _answered(self, doing: str, error: SchemaRegistryError) -> TransportError | ContractError:
        status = error.http_status_code
        if status in _REFUSED:
            return TransportError(
                f"{doing}: the registry refuses the credentials (HTTP {status})",
                parameter=AUTH_PARAMETER,
                value="…",
                fix=f"Set {AUTH_PARAMETER} to user:password",
                retriable=False,
                status=status,
            )
        if status >= _SERVER_ERROR or status == _TOO_MANY:
            return self._unreachable(doing, f"HTTP {status}: {error.error_message}")
        if status == _NOT_FOUND and not str(error.error_code).startswith("404"):
            return self._unusable(doing, f"HTTP 404 ({error.error_message})")
        return ContractError(
            f"{doing}: {error.error_message}",
            parameter="schema",
            value=doing,
            status=status,
            code=error.error_code,
        )

    def _unreachable(self, doing: str, cause: str) -> TransportError:
        return TransportError(
            f"{doing}: the schema registry does not answer: {cause}",
            parameter=URL_PARAMETER,
            value=self.url,
            fix="Check that it is up and reachable from here, or start one: seamline up",
        )

    def _unusable(self, doing: str, what: str) -> TransportError:
        return TransportError(
            f"{doing}: no answer of a schema registry: {what}",
            parameter=URL_PARAMETER,
            value=self.url,
            fix="Give the root of a Confluent-compatible API, for example …/apis/ccompat/v7",
            retriable=False,
        )

    @staticmethod
    def _no_such_id(schema_id: int) -> ContractError:
        return ContractError(
            "the registry has no schema of this id", parameter="schema_id", value=schema_id
        )


def _make(url: str, auth: str | None, settings: RegistrySettings) -> SchemaRegistryClient:
    config: dict[str, Any] = {
        "url": url,
        "timeout": settings.timeout_s,
        "max.retries": settings.retries,
        "retries.wait.ms": settings.retry_wait_ms,
        "retries.max.wait.ms": settings.retry_wait_max_ms,
        "cache.capacity": settings.cache_entries,
    }
    if auth:
        if ":" not in auth:
            raise UsageError(
                "not user:password", parameter=AUTH_PARAMETER, value="…", fix="Set user:password"
            )
        config["basic.auth.user.info"] = auth
    try:
        return SchemaRegistryClient(config)
    except ValueError as error:
        raise UsageError(str(error), parameter=URL_PARAMETER, value=url) from None
