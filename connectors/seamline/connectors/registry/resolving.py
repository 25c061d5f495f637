"""What a schema id in a record means under a bundle: by its content and never by its number.

Decides: which schemas count as approved (those of the bundle), how one that only a proposed bundle
has is read by this program, and for how long a registry that does not answer is left alone.
Invariants: what an id means does not change, so it is asked once; an unknown id may be registered
later, so it is asked again. Must not know: records, rules.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from seamline.connectors.registry.client import SchemaRegistryClient
from seamline.schemas.bundle import Bundle, approved_bundle
from seamline.schemas.contract import fingerprint_of_text
from seamline.schemas.drift import Drift, drift_of
from seamline.schemas.errors import ContractError, TransportError
from seamline.streams.kernel.writers import Meaning, meaning_of

IDS_KNOWN_MAX: Final = 10_000
# A topic full of unknown ids must not cost a timeout for each batch.
PAUSE_S: Final = 30.0


class BundleResolver:
    """Schema id -> what it means where records of `names` land, None for nothing. One thread.

    A schema that only `bundle` has counts as approved; `proposed` says how this program reads it.
    One that this program has and `bundle` has not counts as unknown. Raises TransportError for an
    id that was not seen before while the registry does not answer.
    """

    def __init__(
        self,
        client: SchemaRegistryClient,
        bundle: Bundle,
        names: Collection[str],
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._client = client
        self._bundle = bundle
        self._ours = approved_bundle()
        self._names = names
        self._pause_s = pause_s
        self._known: dict[int, Meaning | None] = {}
        self._proposed: dict[int, Drift] = {}
        self._failed: TransportError | None = None
        self._until_s = 0.0

    def __call__(self, schema_id: int) -> Meaning | None:
        if schema_id in self._known:
            return self._known[schema_id]
        if self._failed is not None and time.monotonic() < self._until_s:
            raise self._failed
        try:
            text = self._client.by_id(schema_id)
        except ContractError:
            return None
        except TransportError as error:
            self._failed, self._until_s = error, time.monotonic() + self._pause_s
            raise
        if len(self._known) >= IDS_KNOWN_MAX:
            self._known.clear()
            self._proposed.clear()
        self._known[schema_id] = self._meaning(schema_id, text)
        return self._known[schema_id]

    def proposed(self, schema_id: int) -> Drift | None:
        """How values of an id are read whose schema only the proposed bundle has; None for others,
        and for an id that was not asked for."""
        return self._proposed.get(schema_id)

    def _meaning(self, schema_id: int, text: str) -> Meaning | None:
        try:
            fingerprint = fingerprint_of_text(text)
        except ContractError:
            return None  # no Avro schema: a registry may hold others
        ours = self._ours.by_fingerprint(fingerprint)
        approved = self._bundle.by_fingerprint(fingerprint)
        if ours is not None:
            return approved
        if approved is None:
            return meaning_of(text, self._names)
        drift = drift_of(text, self._names) if approved.name in self._names else None
        if drift is None:
            return None
        self._proposed[schema_id] = drift
        return approved
