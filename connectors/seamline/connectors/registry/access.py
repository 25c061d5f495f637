"""How to get into a schema registry: the address it may have, and who we are there.

Decides: the names of the environment variables, that their values are checked before anything is
asked (files are opened once, here), and how they are spelled for confluent-kafka. Invariants: a
secret never shows in a repr, an error or a log; what is given is used or refused, never ignored.
Must not know: what is asked of a registry.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from seamline.schemas.errors import UsageError

URL_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_URL"
AUTH_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_AUTH"
TOKEN_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_TOKEN"
CA_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_CA"
CERTIFICATE_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_CERTIFICATE"
KEY_VARIABLE: Final = "SEAMLINE_SCHEMA_REGISTRY_KEY"
MOCK: Final = "mock://"
_HIDDEN: Final = "…"


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Who we are: `basic` is `user:password`, `token` a bearer token; `ca`, `certificate` and `key`
    are PEM files (the key may be in the certificate's file). Nothing given: nobody in particular.
    """

    basic: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> RegistryAuth:
        """What `SEAMLINE_SCHEMA_REGISTRY_AUTH|TOKEN|CA|CERTIFICATE|KEY` say; unset is None."""
        return cls(*(env.get(name, "").strip() or None for name in _VARIABLES))

    def environment(self) -> dict[str, str]:
        """The variables that give a child process the same (secrets included)."""
        values = (self.basic, self.token, self.ca, self.certificate, self.key)
        return {name: value for name, value in zip(_VARIABLES, values, strict=True) if value}

    def client_config(self, url: str) -> dict[str, Any]:
        """Settings for confluent-kafka's client. Raises UsageError naming what is wrong."""
        config: dict[str, Any] = {}
        if self.basic is not None and self.token is not None:
            raise _wrong(TOKEN_VARIABLE, _HIDDEN, f"{AUTH_VARIABLE} is set too", "Set one of both")
        if self.basic is not None:
            if ":" not in self.basic:
                raise _wrong(AUTH_VARIABLE, _HIDDEN, "not user:password", "Set user:password")
            config["basic.auth.user.info"] = self.basic
        if self.token is not None:
            # Anything else would end up in an error of the HTTP package, and so in a log.
            if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
                raise _wrong(
                    TOKEN_VARIABLE, _HIDDEN, "not a bearer token", "Set the bare token, in ASCII"
                )
            config |= {
                "bearer.auth.credentials.source": "STATIC_TOKEN",
                "bearer.auth.token": self.token,
                "bearer.auth.logical.cluster": "",
            }
        return config | self._tls(url)

    def _tls(self, url: str) -> dict[str, str]:
        files = {
            CA_VARIABLE: self.ca,
            CERTIFICATE_VARIABLE: self.certificate,
            KEY_VARIABLE: self.key,
        }
        given = {name: path for name, path in files.items() if path is not None}
        if given and not url.startswith("https://"):
            name = next(iter(given))
            raise _wrong(name, given[name], f"{url} is not https", "Use https, or unset it")
        if self.key is not None and self.certificate is None:
            raise _wrong(KEY_VARIABLE, self.key, "a key without a certificate", "Set both")
        for name, path in given.items():
            _readable(name, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except (OSError, ValueError):
                raise _wrong(CA_VARIABLE, self.ca, "no PEM certificates") from None
        if self.certificate is not None:
            try:
                # Without a password of ours OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            except (OSError, ValueError):
                raise _wrong(
                    CERTIFICATE_VARIABLE,
                    self.certificate,
                    "no PEM certificate with a key that belongs to it and has no password",
                ) from None
        return {_SETTINGS[name]: path for name, path in given.items()}


_VARIABLES: Final = (
    *(AUTH_VARIABLE, TOKEN_VARIABLE, CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE),
)
_SETTINGS: Final = {
    CA_VARIABLE: "ssl.ca.location",
    CERTIFICATE_VARIABLE: "ssl.certificate.location",
    KEY_VARIABLE: "ssl.key.location",
}


def checked_url(url: str) -> str:
    """`url` without a trailing slash; UsageError unless it is http(s) without credentials."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # say, a bracket that is not closed
        raise _wrong(URL_VARIABLE, _HIDDEN, "not a URL", "Give http(s)://host:port/path") from None
    # Whatever it is, what stands before an @ or behind a ? is not repeated: it may be a secret.
    if "@" in url:
        raise _wrong(
            URL_VARIABLE,
            f"…@{url.rpartition('@')[2].partition('?')[0]}",
            "the URL holds a user or a password, which would show in logs",
            f"Put user:password into {AUTH_VARIABLE}",
        )
    if parts.query or parts.fragment:
        raise _wrong(
            URL_VARIABLE,
            f"{url.partition('?')[0].partition('#')[0]}?…",
            "the URL has a query, which would show in logs",
            f"Leave it out; a token belongs into {TOKEN_VARIABLE}",
        )
    if url.startswith(MOCK):
        raise _wrong(
            URL_VARIABLE, url, "keeps schemas in one process, for unit tests", "Give http(s)://…"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong(
            URL_VARIABLE,
            url,
            "not a URL of a schema registry",
            "Give http(s)://host:port/path, for example …/apis/ccompat/v7",
        )
    return url.rstrip("/")


def _readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _wrong(name, path, f"cannot be read: {why}") from None


def _wrong(
    parameter: str, value: str, why: str, fix: str = "Give a PEM file that this process may read"
) -> UsageError:
    return UsageError(why, parameter=parameter, value=value, fix=fix)
