"""Which broker and which registry: the two addresses that every command needs.

Decides: the order of the places asked: the environment, then the running embedded stack of the
directory, then nothing. Invariants: both addresses come from the same place; secrets never show in
a repr; nothing is started and nothing is contacted. Must not know: what is done there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seamline.connectors.kafka.cluster import BOOTSTRAP_VARIABLE, Cluster
from seamline.connectors.registry.access import URL_VARIABLE, RegistryAuth, checked_url
from seamline.schemas.errors import UsageError

REGISTRY_VARIABLE = URL_VARIABLE


@dataclass(frozen=True, slots=True)
class World:
    """A cluster, the URL of its schema registry, and who we are there."""

    cluster: Cluster
    registry_url: str
    registry_auth: RegistryAuth = field(default_factory=RegistryAuth)

    @classmethod
    def resolve(cls, env: Mapping[str, str], directory: Path | None = None) -> World:
        """The world of this process.

        `SEAMLINE_BOOTSTRAP_SERVERS` with `SEAMLINE_SCHEMA_REGISTRY_URL` (and `SEAMLINE_KAFKA_*`,
        `SEAMLINE_SCHEMA_REGISTRY_AUTH|TOKEN|CA|CERTIFICATE|KEY`), else the embedded stack whose
        broker runs in `directory`, else in `SEAMLINE_DIR`, else in the user's state directory.
        Raises UsageError when only one of the two is set or one is malformed, TransportError when
        there is neither.
        """
        cluster = Cluster.from_environment(env)
        url = env.get(REGISTRY_VARIABLE, "").strip()
        if cluster is not None and url:
            return cls(cluster, checked_url(url), RegistryAuth.from_environment(env))
        if cluster is not None or url:
            missing = BOOTSTRAP_VARIABLE if cluster is None else REGISTRY_VARIABLE
            other = REGISTRY_VARIABLE if cluster is None else BOOTSTRAP_VARIABLE
            raise UsageError(
                f"not set, while {other} is",
                parameter=missing,
                value=None,
                fix="Set both to use a cluster you have, or neither to use the embedded stack",
            )
        from seamline.connectors.embedded.stack import addresses

        bootstrap, registry_url = addresses(directory, env)
        return cls(Cluster(bootstrap), registry_url)

    def environment(self) -> dict[str, str]:
        """The variables that give a child process this same world (secrets included)."""
        return {
            **self.cluster.environment(),
            REGISTRY_VARIABLE: self.registry_url,
            **self.registry_auth.environment(),
        }
