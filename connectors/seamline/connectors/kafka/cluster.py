"""Which Kafka cluster, and how to get in: the one value every client of ours is made from.

Decides: the names of the environment variables, which client settings may come from outside, and
how they are spelled for confluent-kafka and for aiokafka. Invariants: a secret never shows in a
repr or in an error; a setting that decides correctness (idempotence, isolation, ids, groups) never
comes from the environment. Must not know: topics, presets, who uses the client.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from seamline.schemas.errors import UsageError

BOOTSTRAP_VARIABLE = "SEAMLINE_BOOTSTRAP_SERVERS"
SETTING_PREFIX = "SEAMLINE_KAFKA_"

# How to reach the cluster and who we are. All else belongs to the code that makes the client.
SETTINGS_ALLOWED = (
    "security.",
    "sasl.",
    "ssl.",
    "enable.ssl.",
    "enable.sasl.",
    "https.",
    "broker.address.",
    "client.dns.",
    "socket.",
)
SECRET_WORDS = ("password", "secret", "key.pem", "token", "credential", "sasl.oauthbearer.config")
HIDDEN = "…"

# librdkafka's name -> aiokafka's; the `ssl.*` files become one ssl_context.
AIOKAFKA_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.kerberos.service.name": "sasl_kerberos_service_name",
}
AIOKAFKA_SSL = (
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster: `bootstrap` is `host:port[,host:port…]`, `security` holds librdkafka settings."""

    bootstrap: str
    security: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        check_bootstrap(self.bootstrap)
        object.__setattr__(self, "security", MappingProxyType(dict(self.security)))

    def __repr__(self) -> str:
        shown = {k: HIDDEN if is_secret(k) else v for k, v in sorted(self.security.items())}
        return f"Cluster(bootstrap={self.bootstrap!r}, security={shown!r})"

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Cluster | None:
        """The cluster that `SEAMLINE_BOOTSTRAP_SERVERS` names, or None where it is not set.

        `SEAMLINE_KAFKA_SASL_USERNAME` becomes `sasl.username`, and so on. Raises UsageError for a
        malformed address and for a setting that the environment may not decide.
        """
        bootstrap = env.get(BOOTSTRAP_VARIABLE, "").strip()
        return cls(bootstrap, security_from_environment(env)) if bootstrap else None

    def client_config(self) -> dict[str, Any]:
        """Settings for a confluent-kafka client, a new dict that the caller may extend."""
        return {"bootstrap.servers": self.bootstrap, **self.security}

    def aiokafka_config(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client; UsageError for what aiokafka cannot do."""
        config: dict[str, Any] = {"bootstrap_servers": self.bootstrap.split(",")}
        for name, value in self.security.items():
            if name in AIOKAFKA_NAMES:
                config[AIOKAFKA_NAMES[name]] = value
            elif name not in AIOKAFKA_SSL and not name.startswith(
                ("socket.", "client.", "broker.")
            ):
                raise UsageError(
                    "the worker's consumer has no such setting",
                    parameter=variable_of(name),
                    value=HIDDEN if is_secret(name) else value,
                    fix="Use PLAINTEXT, SSL, or SASL with PLAIN or SCRAM",
                )
        protocol = str(config.get("security_protocol", "PLAINTEXT")).upper()
        if "security_protocol" in config:
            config["security_protocol"] = protocol
        if protocol.endswith("SSL"):
            config["ssl_context"] = self._ssl_context()
        return config

    def environment(self) -> dict[str, str]:
        """The variables that give a child process this same cluster (secrets included)."""
        named = {variable_of(name): value for name, value in self.security.items()}
        return {BOOTSTRAP_VARIABLE: self.bootstrap, **named}

    def _ssl_context(self) -> ssl.SSLContext:
        files = self.security
        try:
            context = ssl.create_default_context(
                cafile=files.get("ssl.ca.location"), cadata=files.get("ssl.ca.pem")
            )
            if "ssl.certificate.location" in files:
                context.load_cert_chain(
                    files["ssl.certificate.location"],
                    files.get("ssl.key.location"),
                    files.get("ssl.key.password"),
                )
        except OSError as error:
            raise UsageError(
                f"the TLS files cannot be loaded: {error.strerror or type(error).__name__}",
                parameter=variable_of("ssl.ca.location"),
                value=files.get("ssl.ca.location"),
                fix="Give PEM files that exist and belong together",
            ) from error
        if files.get("ssl.endpoint.identification.algorithm", "https") == "none":
            context.check_hostname = False
        if files.get("enable.ssl.certificate.verification", "true").lower() == "false":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def security_from_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`SEAMLINE_KAFKA_<NAME>` as librdkafka settings; UsageError for one not allowed here."""
    settings: dict[str, str] = {}
    for variable in sorted(env):
        if not variable.startswith(SETTING_PREFIX) or not env[variable].strip():
            continue
        name = variable.removeprefix(SETTING_PREFIX).lower().replace("_", ".")
        if not name.startswith(SETTINGS_ALLOWED):
            raise UsageError(
                "not a setting that the environment may decide",
                parameter=variable,
                value=HIDDEN if is_secret(name) else env[variable],
                fix=f"Passed to the clients: {', '.join(p + '*' for p in SETTINGS_ALLOWED)}",
            )
        settings[name] = env[variable]
    return settings


def variable_of(name: str) -> str:
    return SETTING_PREFIX + name.upper().replace(".", "_")


def is_secret(name: str) -> bool:
    return any(word in name for word in SECRET_WORDS)


def check_bootstrap(bootstrap: str) -> None:
    """Raise UsageError unless `bootstrap` is a list of host:port with ports of 1 to 65535."""
    for address in bootstrap.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) <= 65535):
            raise UsageError(
                f"{address!r} is not host:port",
                parameter=BOOTSTRAP_VARIABLE,
                value=bootstrap,
                fix="Give host:port, several with commas between",
            )
