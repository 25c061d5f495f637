"""Registration of a bundle for presets, under the modes in force, with an entry for each schema.

Decides: that all subjects of all presets are judged before any is touched, and that every schema
that a subject holds through us has one entry `register` in the audit. Invariants: the modes are
those that nobody can change meanwhile without this registration starting again; what is registered
already is registered once, and its entry, where a crash kept it from being written, is written by
the next run. Must not know: how a schema is judged, what a chain is.

The order: 1 take the log, 2 judge all, 3 refuse or register, 4 write the entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from seamline.connectors.governance.log import Change, GovernanceLog, Governed
from seamline.connectors.registry.client import Registered, SchemaRegistryClient
from seamline.connectors.registry.governed import Judged, register_all
from seamline.connectors.registry.registration import judged_subjects
from seamline.schemas.audit import Draft, Entry
from seamline.schemas.bundle import Bundle
from seamline.schemas.contract import fingerprint_of_text
from seamline.schemas.preset import Preset

ACTION = "register"


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of each schema, in one order. `failures`: (subject, mode) -> how many broke their
    level and were accepted; `entries`: what was written to the audit."""

    judged: tuple[Judged, ...]
    registered: tuple[Registered, ...]
    failures: dict[tuple[str, str], int]
    entries: tuple[Entry, ...]


def register_presets(
    log: GovernanceLog,
    client: SchemaRegistryClient,
    presets: Sequence[Preset],
    bundle: Bundle,
    *,
    default_mode: str,
    actor: str,
    reason: str,
) -> Registration:
    """Register the newest version of each record of the presets' subjects.

    Raises SchemaValidationError where a strict subject refuses one: then nothing was registered;
    ContractError, TransportError as the log and the registry do.
    """
    last: list[Registration] = []

    def decide(governed: Governed) -> Change:
        failures: Counter[tuple[str, str]] = Counter()

        def count(subject: str, mode: str) -> None:
            failures[subject, mode] += 1

        judged = judge_presets(client, presets, bundle, governed, default_mode)
        registered = register_all(client, judged, count)
        last.append(Registration(judged, registered, dict(failures), ()))
        known = {
            (entry.subject, entry.evidence.get("fingerprint"), entry.evidence.get("id"))
            for entry in governed.entries
            if entry.action == ACTION
        }
        drafts = (
            _draft(one, held, bundle, actor, reason)
            for one, held in zip(judged, registered, strict=True)
            if (one.subject, fingerprint_of_text(one.text), held.id) not in known
        )
        return Change(drafts=tuple(drafts))

    entries = log.commit(decide)
    done = last[-1]
    return Registration(done.judged, done.registered, done.failures, entries)


def judge_presets(
    client: SchemaRegistryClient,
    presets: Sequence[Preset],
    bundle: Bundle,
    governed: Governed,
    default_mode: str,
) -> tuple[Judged, ...]:
    """What a registration would change under the modes in force. Changes nothing."""
    return tuple(
        judged
        for preset in presets
        for judged in judged_subjects(
            client,
            preset,
            bundle,
            lambda subject: governed.book.mode_of(subject, default_mode),
        )
    )


def _draft(judged: Judged, held: Registered, bundle: Bundle, actor: str, reason: str) -> Draft:
    return Draft(
        action=ACTION,
        subject=judged.subject,
        actor=actor,
        reason=reason,
        bundle_sha256=bundle.sha256,
        evidence={
            "fingerprint": fingerprint_of_text(judged.text),
            "id": held.id,
            "version": held.version,
            "mode": judged.mode,
            "was_there": judged.same is not None,
            "compatibility": judged.report.to_json(),
        },
    )
