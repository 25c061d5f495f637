"""Which broker and which registry: the two addresses that every command needs.

Decides: the order of the places asked: the environment, then the running embedded stack of the
directory, then nothing. Invariants: both addresses come from the same place; secrets never show in
a repr; nothing is started and nothing is contacted. Must not know: what is done there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from seamline.connectors.kafka.cluster import BOOTSTRAP_VARIABLE, Cluster
from seamline.schemas.errors import UsageError

REGISTRY_VARIABLE = "SEAMLINE_SCHEMA_REGISTRY_URL"
REGISTRY_AUTH_VARIABLE = "SEAMLINE_SCHEMA_REGISTRY_AUTH"


@dataclass(frozen=True, slots=True)
class World:
    """A cluster and the URL of its schema registry; `registry_auth` is `user:password` or None."""

    cluster: Cluster
    registry_url: str
    registry_auth: str | None = field(default=None, repr=False)

    @classmethod
    def resolve(cls, env: Mapping[str, str], directory: Path | None = None) -> World:
        """The world of this process.

        `SEAMLINE_BOOTSTRAP_SERVERS` with `SEAMLINE_SCHEMA_REGISTRY_URL` (and `SEAMLINE_KAFKA_*`,
        `SEAMLINE_SCHEMA_REGISTRY_AUTH`), else the embedded stack that runs in `directory`, else in
        `SEAMLINE_DIR`, else in the user's state directory. Raises UsageError when only one of the
        two is set or one is malformed, TransportError when there is neither.
        """
        cluster = Cluster.from_environment(env)
        url = env.get(REGISTRY_VARIABLE, "").strip()
        if cluster is not None and url:
            return cls(cluster, checked_url(url), env.get(REGISTRY_AUTH_VARIABLE) or None)
        if cluster is not None or url:
            missing = BOOTSTRAP_VARIABLE if cluster is None else REGISTRY_VARIABLE
            other = REGISTRY_VARIABLE if cluster is None else BOOTSTRAP_VARIABLE
            raise UsageError(
                f"not set, while {other} is",
                parameter=missing,
                value=None,
                fix="Set both to use a cluster you have, or neither to use the embedded stack",
            )
        from seamline.connectors.embedded.stack import endpoints

        found = endpoints(directory, env)
        return cls(Cluster(found.bootstrap), found.registry_url)

    def environment(self) -> dict[str, str]:
        """The variables that give a child process this same world (secrets included)."""
        auth = {REGISTRY_AUTH_VARIABLE: self.registry_auth} if self.registry_auth else {}
        return {**self.cluster.environment(), REGISTRY_VARIABLE: self.registry_url, **auth}


def checked_url(url: str) -> str:
    """`url` without a trailing slash; UsageError unless it is http(s) without credentials."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(
            "the URL holds a user or a password, which would show in logs",
            parameter=REGISTRY_VARIABLE,
            value=f"{parts.scheme}://…@{parts.hostname}",
            fix=f"Put user:password into {REGISTRY_AUTH_VARIABLE}",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "not a URL of a schema registry",
            parameter=REGISTRY_VARIABLE,
            value=url,
            fix="Give http(s)://host:port/path, for example …/apis/ccompat/v7",
        )
    return url.rstrip("/")
