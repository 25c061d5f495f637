"""The schema registry over Confluent's REST API, with short waits and a bounded memory.

Decides: what may be asked, what is remembered, and which fault an answer is. Invariants: schemas
seen before are answered without the registry; memory is bounded, and a schema beyond
`SCHEMA_BYTES_MAX` is none; nothing outside this package sees the client library's exceptions; no
secret and no long text of a foreign server is in an error. Must not know: which schemas are
approved, which mode a subject has.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.error import SchemaRegistryError

from seamline.connectors.registry.access import AUTH_VARIABLE, URL_VARIABLE, RegistryAuth
from seamline.connectors.registry.asking import Asking, Outage, OutageBook, Patience
from seamline.connectors.registry.library import open_library
from seamline.schemas.avro import SCHEMA_BYTES_MAX
from seamline.schemas.compatibility import LEVELS
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import CANARY, default_mode, parse_mode

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

SHOWN_CHARS: Final = 300
VERSIONS_MAX: Final = 1_000
_ID_END: Final = 2**31
_NOT_FOUND: Final = 404
_REFUSED: Final = (401, 403)
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429
# What the library raises over a body that is not the JSON of a registry.
_NOT_AS_EXPECTED: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
_BUSY: Final = (408, _TOO_MANY)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Times in the unit of their name. One request takes at most about `timeout_s`, tried
    `retries` times more with a growing wait, and at most `deadline_s` in all. An unknown id is
    asked for again after `unknown_ttl_s`, a registry that failed after `pause_s` or more. Callers
    that must not wait wait for `patience_s` in a row at most, then for a fifth of the time."""

    timeout_s: float = 3.0
    retries: int = 2
    retry_wait_ms: int = 100
    retry_wait_max_ms: int = 1_000
    deadline_s: float = 15.0
    cache_entries: int = 1_000
    cache_bytes: int = 32 << 20
    unknown_ttl_s: float = 10.0
    pause_s: float = 1.0
    patience_s: float = 4.0


@dataclass(frozen=True, slots=True)
class Registered:
    """One version of a subject, as the registry holds it."""

    subject: str
    version: int
    id: int
    text: str = field(repr=False)


class SchemaRegistryClient(Protocol):
    """What Seamline asks of a registry. `RemoteSchemaRegistryClient` does it over the network.

    Every method but `close` may raise TransportError: the registry is unreachable, fails, or
    refuses the credentials (then not retriable).
    """

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    @property
    def validation_mode(self) -> str:
        """The mode under which `registry.governed` judges a schema for this client where nobody
        states that of its subject."""
        ...

    def register(self, subject: str, text: str) -> int:
        """The id of this Avro schema under `subject`, registered now unless it is already.

        Raises ContractError when the registry finds it invalid, or incompatible (`status` 409).
        """
        ...

    def by_id(self, schema_id: int, within_s: float | None = None) -> str:
        """The schema text that this id means. Raises ContractError when the registry has none.

        `within_s` is for callers that must not wait as long as the settings allow; beyond their
        patience nothing is asked for them, and a TransportError says so.
        """
        ...

    def latest(self, subject: str) -> Registered | None:
        """The newest version, None where the subject has none."""
        ...

    def history(self, subject: str) -> tuple[Registered, ...]:
        """Every version that is not deleted, oldest first; empty where there is none. Raises
        ContractError beyond VERSIONS_MAX.
        """
        ...

    def versions(self, subject: str) -> Mapping[int, str]:
        """Version -> schema text of `history`."""
        ...

    def lookup(self, subject: str, text: str) -> Registered | None:
        """The version of the subject that has this content for the registry, or None."""
        ...

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's own level; a subject without versions may have one."""
        ...

    def compatibility(self, subject: str) -> str | None:
        """The subject's own level, None when it has none."""
        ...

    def withdraw(self, subject: str, version: int) -> None:
        """Delete a version softly: it is offered to nobody any more, its id still means its schema
        while the registry keeps it, and registering its text again brings it back. Withdrawing it
        once more changes nothing.
        """
        ...

    def ready(self) -> None:
        """Returns when the registry answers, raises TransportError when it does not."""
        ...

    def close(self) -> None: ...


class Bounded(Generic[K, V]):
    """The entries used last: at most `entries` of them, at most `size` of them by `weigh`."""

    def __init__(
        self, entries: int, size: int | None = None, weigh: Callable[[V], int] = lambda _: 0
    ) -> None:
        self._entries = entries
        self._size = size
        self._weigh = weigh
        self._weight = 0
        self._held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: K, value: V) -> None:
        self.drop(key)
        self._held[key] = value
        self._weight += self._weigh(value)
        while len(self._held) > self._entries or (
            self._size is not None and self._weight > self._size
        ):
            self.drop(next(iter(self._held)))

    def drop(self, key: K) -> None:
        if key in self._held:
            self._weight -= self._weigh(self._held.pop(key))

    def __len__(self) -> int:
        return len(self._held)


class RemoteSchemaRegistryClient:
    """One registry. May be shared by threads; what each method does is said by the protocol.

    `validation_mode` is `canary` or `strict`. `unit_test` allows `mock://`, whose schemas live in
    this process and whose levels are kept and not enforced. Raises UsageError for a wrong address,
    wrong credentials, or another mode.
    """

    def __init__(
        self,
        url: str,
        auth: RegistryAuth | None = None,
        settings: RegistrySettings | None = None,
        *,
        validation_mode: str = CANARY,
        unit_test: bool = False,
    ) -> None:
        self.url = url
        self.validation_mode = parse_mode(validation_mode, "validation_mode")
        self._settings = made = settings or RegistrySettings()
        self._client = open_library(
            url,
            auth or RegistryAuth(),
            {
                "timeout": made.timeout_s,
                "max.retries": made.retries,
                "retries.wait.ms": made.retry_wait_ms,
                "retries.max.wait.ms": made.retry_wait_max_ms,
                "cache.capacity": made.cache_entries,
            },
            unit_test,
        )
        self._texts: Bounded[int, str] = Bounded(made.cache_entries, made.cache_bytes, len)
        self._unknown: Bounded[int, tuple[float, str, bool]] = Bounded(made.cache_entries)
        self._lock = Lock()
        self._asking = Asking()
        self._patience = Patience(made.patience_s)
        self._outage = OutageBook(url, lambda: len(self._texts))

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> RemoteSchemaRegistryClient:
        """The registry of `SEAMLINE_SCHEMA_REGISTRY_URL` (and `…_AUTH|TOKEN|CA|CERTIFICATE|KEY`),
        with the mode of `SEAMLINE_SCHEMA_VALIDATION_MODE`. Raises UsageError naming the variable.
        """
        url, auth = env.get(URL_VARIABLE, "").strip(), RegistryAuth.from_environment(env)
        return cls(url, auth, validation_mode=default_mode(env))

    def __repr__(self) -> str:
        return f"RemoteSchemaRegistryClient(url={self.url!r})"

    @property
    def outage(self) -> Outage | None:
        """The outage that is on, as far as it was noticed: cached schemas ask nobody."""
        return self._outage.now

    @property
    def cached(self) -> int:
        """How many schemas are answered without the registry."""
        return len(self._texts)

    def register(self, subject: str, text: str) -> int:
        doing = f"registration under {subject}"
        found = self._call(
            doing, lambda: self._client.register_schema(subject, Schema(text, "AVRO"))
        )
        return self._id(doing, found)

    def by_id(self, schema_id: int, within_s: float | None = None) -> str:
        doing = f"look-up of schema id {schema_id}"
        if not 0 <= schema_id < _ID_END:
            raise self._no_such_id(schema_id)  # a frame may say it, no registry gives it out
        with self._lock:
            known = self._texts.get(schema_id)
            refused = self._unknown.get(schema_id)
        if known is not None:
            return known
        if refused is not None and time.monotonic() < refused[0]:
            self._refuse_again(doing, schema_id, *refused[1:])
        if within_s is not None and self._patience.spent:
            raise self._unreachable(doing, "it is not asked now, its answers took too long")
        began_s = time.monotonic()
        try:
            return self._call(doing, lambda: self._fetch(doing, schema_id), within_s)
        except ContractError as error:
            if "status" not in error.fields:
                raise
            # Not that there is no such id: nothing is known of it, so the record has to wait.
            raise self._unusable(doing, f"HTTP {error.fields['status']}") from None
        finally:
            if within_s is not None:
                self._patience.took(time.monotonic() - began_s)

    def latest(self, subject: str) -> Registered | None:
        doing = f"newest version of {subject}"
        return self._or_none(
            doing, lambda: self._registered(doing, self._client.get_version(subject, "latest"))
        )

    def history(self, subject: str) -> tuple[Registered, ...]:
        doing = f"versions of {subject}"
        numbers = self._or_none(doing, lambda: self._client.get_versions(subject))
        if numbers is None:
            return ()
        if not isinstance(numbers, list) or not all(_whole(number) for number in numbers):
            raise self._unusable(doing, "no list of versions")
        if len(numbers) > VERSIONS_MAX:
            raise ContractError(
                f"more than {VERSIONS_MAX} versions",
                parameter="subject",
                value=subject,
                fix="Delete versions that nobody writes from the registry",
            )
        found = (self._version(subject, number) for number in sorted(numbers))
        return tuple(one for one in found if one is not None)

    def versions(self, subject: str) -> Mapping[int, str]:
        return {one.version: one.text for one in self.history(subject)}

    def lookup(self, subject: str, text: str) -> Registered | None:
        doing = f"look-up under {subject}"
        return self._or_none(
            doing,
            lambda: self._registered(
                doing, self._client.lookup_schema(subject, Schema(text, "AVRO"))
            ),
        )

    def set_compatibility(self, subject: str, level: str) -> None:
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
        doing = f"compatibility of {subject}"
        level = self._or_none(doing, lambda: self._client.get_compatibility(subject_name=subject))
        if level is not None and level not in LEVELS:
            raise self._unusable(doing, f"level {_short(level)}")
        return level

    def withdraw(self, subject: str, version: int) -> None:
        doing = f"deletion of version {version} of {subject}"
        try:
            self._call(doing, lambda: self._client.delete_version(subject, version))
        except ContractError:
            # Registries disagree on how they say that it is gone already; what counts is that.
            if version in self.versions(subject):
                raise

    def ready(self) -> None:
        found = self._call("first request", lambda: self._client.get_subjects(limit=1))
        if not isinstance(found, list):
            raise self._unusable("first request", "no list of subjects")

    def close(self) -> None:
        self._client.close()

    # -- answers

    def _fetch(self, doing: str, schema_id: int) -> str:
        """Ask for an id and remember the answer, also where nobody waits for it any more."""
        until_s = time.monotonic() + self._settings.unknown_ttl_s
        try:
            text = self._client.get_schema(schema_id).schema_str
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND and _of_registry(error):
                with self._lock:
                    self._unknown.put(schema_id, (until_s, "", False))
                raise self._no_such_id(schema_id) from None
            raise
        fault = _fault_of(text)
        with self._lock:
            if fault:
                self._unknown.put(schema_id, (until_s, fault, len(str(text)) > SCHEMA_BYTES_MAX))
            else:
                self._texts.put(schema_id, str(text))
                self._unknown.drop(schema_id)
        if fault:
            self._refuse_again(doing, schema_id, fault, len(str(text)) > SCHEMA_BYTES_MAX)
        return str(text)

    def _refuse_again(self, doing: str, schema_id: int, fault: str, too_large: bool) -> NoReturn:
        if not fault:
            raise self._no_such_id(schema_id)
        if too_large:
            raise ContractError(
                f"the schema of this id is {fault}",
                parameter="schema_id",
                value=schema_id,
                fix=f"A schema has at most {SCHEMA_BYTES_MAX} bytes: register a smaller one",
            )
        raise self._unusable(doing, fault)

    def _version(self, subject: str, number: int) -> Registered | None:
        doing = f"version {number} of {subject}"
        return self._or_none(
            doing, lambda: self._registered(doing, self._client.get_version(subject, number))
        )

    def _registered(self, doing: str, found: Any) -> Registered:
        text = found.schema.schema_str
        fault = _fault_of(text)
        if fault or not _whole(found.version) or found.subject is None:
            raise self._unusable(doing, fault or "no version of a schema")
        return Registered(str(found.subject), found.version, self._id(doing, found.schema_id), text)

    def _id(self, doing: str, found: object) -> int:
        if not _whole(found):
            raise self._unusable(doing, f"id {_short(found)}")
        assert isinstance(found, int)
        return found

    def _or_none(self, doing: str, ask: Callable[[], T]) -> T | None:
        try:
            return self._call(doing, ask)
        except ContractError as error:
            if error.fields.get("status") == _NOT_FOUND:
                return None
            raise

    # -- asking

    def _call(self, doing: str, ask: Callable[[], T], within_s: float | None = None) -> T:
        cause = self._outage.paused()
        if cause is not None:
            raise self._unreachable(doing, cause)
        # The library's own caches have no limit, and forget no version that was deleted.
        self._client.clear_caches()  # type: ignore[no-untyped-call]
        began_s = time.monotonic()
        try:
            answer = self._asking.within(ask, within_s or self._settings.deadline_s)
        except SchemaRegistryError as error:
            raise self._answered(doing, error, began_s) from None
        except (TransportError, ContractError):
            self._outage.answered()
            raise
        except _NOT_AS_EXPECTED as error:
            self._outage.answered()
            raise self._unusable(doing, _short(f"{type(error).__name__}: {error}")) from error
        except Exception as error:
            # The library raises the exceptions of whichever HTTP package it found.
            cause = _short(f"{type(error).__name__}: {error}")
            self._outage.failed(cause, began_s, self._settings.pause_s)
            raise self._unreachable(doing, cause) from error
        self._outage.answered()
        return answer

    def _answered(
        self, doing: str, error: SchemaRegistryError, began_s: float
    ) -> TransportError | ContractError:
        status = error.http_status_code
        told = _short(error.error_message)
        if status in _REFUSED:
            cause = f"the registry refuses the credentials (HTTP {status})"
            self._outage.failed(cause, began_s, self._settings.pause_s)
            return TransportError(
                f"{doing}: {cause}",
                parameter=AUTH_VARIABLE,
                value="…",
                fix=f"Set {AUTH_VARIABLE} to user:password, or a token, or a certificate",
                retriable=False,
                status=status,
            )
        if status >= _SERVER_ERROR or status in _BUSY:
            self._outage.failed(f"HTTP {status}: {told}", began_s, self._settings.pause_s)
            return self._unreachable(doing, f"HTTP {status}: {told}")
        self._outage.answered()
        if status == _NOT_FOUND and not _of_registry(error):
            return self._unusable(doing, f"HTTP 404 ({told})")
        return ContractError(
            f"{doing}: {told}",
            parameter="schema",
            value=doing,
            fix="See what the subject holds: seamline schema check",
            status=status,
            code=error.error_code,
        )

    def _unreachable(self, doing: str, cause: str) -> TransportError:
        return TransportError(
            f"{doing}: the schema registry does not answer: {cause}",
            parameter=URL_VARIABLE,
            value=self.url,
            fix="Check that it is up and reachable from here, or start one: seamline up",
        )

    def _unusable(self, doing: str, what: str) -> TransportError:
        return TransportError(
            f"{doing}: no answer of a schema registry: {what}",
            parameter=URL_VARIABLE,
            value=self.url,
            fix="Give the root of a Confluent-compatible API, for example …/apis/ccompat/v7",
            retriable=False,
        )

    @staticmethod
    def _no_such_id(schema_id: int) -> ContractError:
        return ContractError(
            "the registry has no schema of this id",
            parameter="schema_id",
            value=schema_id,
            fix="Register it there, or point the producer at the registry that gave the id",
        )


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < _ID_END


def _fault_of(text: object) -> str:
    """What is wrong with a schema text of the registry, "" where nothing is."""
    if not isinstance(text, str):
        return "no schema text"
    return "" if len(text) <= SCHEMA_BYTES_MAX else f"too large: {len(text)} characters"


def _of_registry(error: SchemaRegistryError) -> bool:
    """Whether a 404 says that something is not there, and not that this is no registry."""
    return str(error.error_code).startswith("404")


def _short(told: object) -> str:
    """Of a text that a foreign server chose."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(told)[:SHOWN_CHARS])
    return text if len(str(told)) <= SHOWN_CHARS else f"{text}…"
