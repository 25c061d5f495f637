"""What the schema ids of a registry mean under a bundle: by content and never by the number.

Decides: which schemas count as approved (those of the bundle), how one that only a proposed bundle
has is read by this program, and what is remembered. Invariants: what an id means does not change,
so it is asked once; an unknown id may be registered later, so it is asked again. A registry that
does not answer is left alone by its client. Must not know: records, rules, what is done with a
record whose id means nothing that is approved.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Self

from seamline.connectors.registry.client import SchemaRegistryClient
from seamline.schemas.bundle import Bundle, approved_bundle
from seamline.schemas.contract import fingerprint_of_text, subject_rules
from seamline.schemas.drift import Drift, drift_of
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import LANDING_ROLES
from seamline.streams.kernel.writers import Meaning, meaning_of

IDS_KNOWN_MAX: Final = 10_000
# Whoever waits no longer has the answer, when it comes, for the next time: it is remembered.
LOOK_UP_S: Final = 2.0


class Meanings:
    """Schema id -> what it means where records of `names` land, None for nothing approved. A
    `streams.kernel.writers.Resolve`; threads may share it.

    A schema that only `bundle` has counts as approved; `proposed` says how this program reads it.
    One that this program has and `bundle` has not counts as unknown. `within_s` bounds the wait for
    one answer, None: as long as the client's settings allow. Raises TransportError for an id that
    was not seen before while the registry does not answer.
    """

    def __init__(
        self,
        client: SchemaRegistryClient,
        names: Collection[str],
        bundle: Bundle | None = None,
        within_s: float | None = None,
    ) -> None:
        self._client = client
        self._names = names
        self._ours = approved_bundle()
        self._bundle = bundle or self._ours
        self._within_s = within_s
        self._known: dict[int, Meaning | None] = {}
        self._proposed: dict[int, Drift] = {}

    @classmethod
    def of_landing(
        cls, client: SchemaRegistryClient, preset: Preset, within_s: float = LOOK_UP_S
    ) -> Self:
        """What ids mean where the producers of a preset write, without a long wait."""
        rules = subject_rules(preset.kind)
        names = {name for role in LANDING_ROLES for name in rules[role].schemas}
        return cls(client, names, within_s=within_s)

    def __call__(self, schema_id: int) -> Meaning | None:
        known = self._known
        if schema_id in known:
            return known[schema_id]
        try:
            text = self._client.by_id(schema_id, within_s=self._within_s)
        except ContractError:
            return None
        if len(known) >= IDS_KNOWN_MAX:
            # Anew and not emptied: another thread may be between its two looks.
            self._known, self._proposed = {}, {}
        meaning = self._known[schema_id] = self._meaning(schema_id, text)
        return meaning

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
