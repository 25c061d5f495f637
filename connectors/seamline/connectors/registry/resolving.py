"""What a schema id in a record means: an approved schema, by its content and never by its number.

Decides: which schemas count as approved (those of a bundle), and for how long a registry that does
not answer is left alone. Invariants: what an id means does not change, so it is asked once; an
unknown id may be registered later, so it is asked again. Must not know: records, rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.schemas.bundle import Bundle
from seamline.schemas.contract import Schema, fingerprint_of_text
from seamline.schemas.errors import ContractError, TransportError

IDS_KNOWN_MAX: Final = 10_000
# A topic full of unknown ids must not cost a timeout for each batch.
PAUSE_S: Final = 30.0


class BundleResolver:
    """Schema id -> schema of `bundle`, None for any other. One thread at a time.

    Raises TransportError for an id that was not seen before while the registry does not answer.
    """

    def __init__(
        self, client: RemoteSchemaRegistryClient, bundle: Bundle, *, pause_s: float = PAUSE_S
    ) -> None:
        self._client = client
        self._bundle = bundle
        self._pause_s = pause_s
        self._known: dict[int, Schema | None] = {}
        self._failed: TransportError | None = None
        self._until_s = 0.0
        self._clock: Callable[[], float] = time.monotonic

    def __call__(self, schema_id: int) -> Schema | None:
        if schema_id in self._known:
            return self._known[schema_id]
        if self._failed is not None and self._clock() < self._until_s:
            raise self._failed
        try:
            text = self._client.by_id(schema_id)
        except ContractError:
            return None
        except TransportError as error:
            self._failed, self._until_s = error, self._clock() + self._pause_s
            raise
        if len(self._known) >= IDS_KNOWN_MAX:
            self._known.clear()
        self._known[schema_id] = self._approved(text)
        return self._known[schema_id]

    def _approved(self, text: str) -> Schema | None:
        try:
            return self._bundle.by_fingerprint(fingerprint_of_text(text))
        except ContractError:
            return None  # no Avro schema: a registry may hold others
