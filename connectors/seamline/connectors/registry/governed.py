"""What a registration would change, whether it may, and the registration itself.

Decides: by the mode of the subject and by our own check against every version that the registry
holds, whether a schema is registered; the level that the registry keeps for the subject (NONE in
canary, the stated one in strict). Invariants: judging changes nothing; content that a subject has
already gives its version and id again, whatever came in between; what breaks the level is counted
in both modes, refused in strict and said in canary; an id is handed out only after the registry
returned, for that id, a schema with our fingerprint. Must not know: who decides about modes, the
audit, which presets there are.

The order of a registration: 1 judge, 2 refuse, 3 the registry's level, 4 register, 5 read back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.connectors.registry.client import Registered, SchemaRegistryClient
from seamline.schemas.avro import parse_schema
from seamline.schemas.compatibility import CompatibilityReport, compare
from seamline.schemas.contract import NONE, fingerprint_of_text
from seamline.schemas.errors import ContractError, SchemaValidationError
from seamline.schemas.modes import STRICT

INCOMPATIBLE: Final = "incompatible_schema"
_CONFLICT: Final = 409

# (subject, mode): one failure is to be counted there.
Count = Callable[[str, str], object]

log = logging.getLogger("seamline.registry")


@dataclass(frozen=True, slots=True)
class Judged:
    """One schema against what its subject holds in the registry. Nothing was changed.

    `same`: the version with this content, None where there is none; `latest`: the newest version of
    any content; `level`: what Seamline checks; `registry_level`: the subject's own level now, and
    `registry_wanted` the one it is to have.
    """

    subject: str
    text: str
    mode: str
    level: str
    same: Registered | None
    latest: Registered | None
    report: CompatibilityReport
    registry_level: str | None
    registry_wanted: str

    @property
    def breaks(self) -> bool:
        return self.same is None and not self.report.compatible

    @property
    def refused(self) -> bool:
        return self.breaks and self.mode == STRICT

    @property
    def changes(self) -> bool:
        """Whether a registration would change anything."""
        return self.same is None or self.registry_level != self.registry_wanted

    def error(self) -> SchemaValidationError:
        """What a strict subject says to this schema."""
        path = self.report.breaking[0]
        more = f" (and {len(self.report.breaking) - 1} more)" if self.report.breaking[1:] else ""
        return SchemaValidationError(
            f"the schema breaks {self.level}: {self.report.reasons[path]}{more}",
            subject=self.subject,
            field=path,
            value=self.report.breaking[:10],
            rule=INCOMPATIBLE,
            writer_schema=fingerprint_of_text(self.text)[:16],
            reader_schema=None if self.latest is None else f"version {self.latest.version}",
            report=self.report,
            fix="Make the change compatible; `seamline schema check` names every path",
        )


def judge(
    client: SchemaRegistryClient,
    subject: str,
    text: str,
    *,
    level: str,
    mode: str | None = None,
    several_records: bool = False,
) -> Judged:
    """What registering `text` under `subject` would mean. Changes nothing.

    `mode`: of the subject, the client's `validation_mode` where none is stated.
    `several_records`: the subject holds more than one record by design; only versions of the same
    record are compared, and the registry's own level stays NONE. Raises ContractError where `text`
    is no Avro schema, TransportError when the registry does not answer.
    """
    tree = parse_schema(text)
    fingerprint = fingerprint_of_text(text)
    mode = client.validation_mode if mode is None else mode
    versions = client.history(subject)
    same = next((v for v in reversed(versions) if _fingerprint(v.text) == fingerprint), None)
    earlier = versions if same is None else [v for v in versions if v.version < same.version]
    compared = [v.text for v in earlier if not several_records or _named(v.text) == tree.root.name]
    return Judged(
        subject=subject,
        text=text,
        mode=mode,
        level=level,
        same=same,
        latest=versions[-1] if versions else None,
        report=compare(text, compared, level),
        registry_level=client.compatibility(subject),
        registry_wanted=level if mode == STRICT and not several_records else NONE,
    )


def register(client: SchemaRegistryClient, judged: Judged, count: Count) -> Registered:
    """Register what was judged, or hand out what the subject has already.

    Raises SchemaValidationError (counted) for what breaks a strict subject, or what the registry
    refuses by a level of its own; ContractError when it means another schema by the id.
    """
    # 2
    if judged.breaks:
        count(judged.subject, judged.mode)
        if judged.refused:
            raise judged.error()
        log.warning("accepted in canary, strict would refuse it: %s", judged.error())
    # 3
    if judged.registry_level != judged.registry_wanted:
        client.set_compatibility(judged.subject, judged.registry_wanted)
    # 4
    found = judged.same
    if found is None:
        schema_id = _register(client, judged, count)
        found = client.lookup(judged.subject, judged.text) or _of_id(client, judged, schema_id)
    # 5
    check_content(client, judged.subject, judged.text, found.id)
    return found


def register_all(
    client: SchemaRegistryClient, judged: Sequence[Judged], count: Count
) -> tuple[Registered, ...]:
    """Register all, or nothing where one of them is refused."""
    for one in judged:
        if one.refused:
            count(one.subject, one.mode)
            raise one.error()
    return tuple(register(client, one, count) for one in judged)


def check_content(client: SchemaRegistryClient, subject: str, text: str, schema_id: int) -> None:
    """Raise ContractError unless the registry means the schema `text` by this id.

    Ids have come to mean two different schemas in real registries: the content decides.
    """
    expected, found = fingerprint_of_text(text), _fingerprint(client.by_id(schema_id))
    if found != expected:
        raise ContractError(
            f"schema id {schema_id} of {subject} means another schema in the registry",
            parameter="schema_id",
            value=schema_id,
            fix="Find who wrote to the registry's storage; do not produce under this id",
            subject=subject,
            expected=expected,
            found=found,
        )


def _register(client: SchemaRegistryClient, judged: Judged, count: Count) -> int:
    try:
        return client.register(judged.subject, judged.text)
    except ContractError as error:
        if error.fields.get("status") != _CONFLICT:
            raise
        if not judged.breaks:
            count(judged.subject, judged.mode)
        raise SchemaValidationError(
            f"the registry refuses the schema by its own level {judged.registry_wanted}:"
            f" {error.message}",
            subject=judged.subject,
            field=judged.report.breaking[0] if judged.breaks else None,
            rule=INCOMPATIBLE,
            value=judged.registry_wanted,
            writer_schema=fingerprint_of_text(judged.text)[:16],
            report=judged.report,
            fix="Make the change compatible; `seamline schema check` names every path",
            status=_CONFLICT,
        ) from None


def _of_id(client: SchemaRegistryClient, judged: Judged, schema_id: int) -> Registered:
    """The version that just got this id, of a registry that looks texts up by their letters."""
    for version in reversed(client.history(judged.subject)):
        if version.id == schema_id:
            return version
    raise ContractError(
        f"{judged.subject} has no version with the schema id {schema_id} that it just gave",
        parameter="schema_id",
        value=schema_id,
        fix="Somebody deletes versions of this subject; register again",
    )


def _fingerprint(text: str) -> str | None:
    """None for a text of the registry that is no Avro schema."""
    try:
        return fingerprint_of_text(text)
    except ContractError:
        return None


def _named(text: str) -> str | None:
    try:
        return parse_schema(text).root.name
    except ContractError:
        return None
