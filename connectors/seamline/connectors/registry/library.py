"""The client library behind our surface: confluent-kafka's, or its own mock for unit tests.

Decides: how ours is configured, and when `mock://` is allowed: in unit tests alone. Must not know:
what is asked.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient as Library
from confluent_kafka.schema_registry._sync.mock_schema_registry_client import (
    MockSchemaRegistryClient,
)
from confluent_kafka.schema_registry.error import SchemaRegistryError

from seamline.connectors.registry.access import MOCK, URL_VARIABLE, RegistryAuth, checked_url
from seamline.schemas.errors import UsageError

NO_OWN_LEVEL = 40408


class _Mock(MockSchemaRegistryClient):
    """The library's mock with levels, which it keeps and does not enforce. Ids count from 1."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._levels: dict[str, str] = {}

    def set_compatibility(self, subject_name: str | None = None, level: str | None = None) -> str:
        self._levels[str(subject_name)] = str(level)
        return str(level)

    def get_compatibility(self, subject_name: str | None = None) -> str:
        if str(subject_name) not in self._levels:
            raise SchemaRegistryError(404, NO_OWN_LEVEL, "no level of its own")
        return self._levels[str(subject_name)]


def open_library(
    url: str, auth: RegistryAuth, settings: dict[str, Any], unit_test: bool
) -> Library:
    """The library's client. Raises UsageError for an address or credentials that are wrong."""
    if unit_test and url.startswith(MOCK):
        return _Mock({"url": url, **settings})
    config = {"url": checked_url(url), **auth.client_config(url), **settings}
    try:
        return Library(config)
    except (ValueError, TypeError, OSError) as error:
        # Its texts name settings, never their values.
        raise UsageError(
            str(error),
            parameter=URL_VARIABLE,
            value=url,
            fix="Check the address, and the files and texts of SEAMLINE_SCHEMA_REGISTRY_*",
        ) from None
