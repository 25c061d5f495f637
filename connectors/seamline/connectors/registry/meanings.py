"""What the ids of a registry mean where the producers of a preset write.

Decides: what is remembered, and that an id which means nothing now is asked for again. Invariant:
content decides, never the number. Must not know: what is done with a record whose id means nothing
that is approved.
"""

from __future__ import annotations

from typing import Final

from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.schemas.contract import subject_rules
from seamline.schemas.errors import ContractError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import LANDING_ROLES
from seamline.streams.kernel.writers import Meaning, Resolve, meaning_of

IDS_KNOWN_MAX: Final = 10_000
# A step waits no longer for a slow registry: the record goes to quarantine as
# `registry_unavailable`, and the answer, when it comes, is remembered for those after it.
LOOK_UP_S: Final = 2.0


def resolver(client: RemoteSchemaRegistryClient, preset: Preset) -> Resolve:
    """Schema id -> what it means where the preset's producers write, by its content; None where it
    means nothing approved."""
    rules = subject_rules(preset.kind)
    names = {name for role in LANDING_ROLES for name in rules[role].schemas}
    known: dict[int, Meaning | None] = {}

    def resolve(schema_id: int) -> Meaning | None:
        if schema_id not in known:
            try:
                text = client.by_id(schema_id, within_s=LOOK_UP_S)
            except ContractError:
                return None  # it may be registered later
            if len(known) >= IDS_KNOWN_MAX:
                known.clear()
            # What an id means does not change; an approved schema comes with a new program.
            known[schema_id] = meaning_of(text, names)
        return known[schema_id]

    return resolve
