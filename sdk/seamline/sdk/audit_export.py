"""The audit chain as documents: what was found of it, in rows, JSON and Markdown.

Decides: how an entry reads for an auditor (what, who, when, why, evidence, hashes) and that a
document opens with whether the chain holds. Invariants: no record is left out; text that a person
wrote cannot become markup; the JSON holds what is needed to compute every hash again. Must not
know: a broker, a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.audit import (
    ChainReport,
    Entry,
    Head,
    decode_entry,
    hash_of,
    is_hash,
    misfit_of_states,
    place_of,
    verify,
)
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import SubjectState
from seamline.schemas.times import format_time
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC

FORMAT: Final = 1
# Of evidence in Markdown; the JSON has all of it.
ITEMS_SHOWN: Final = 10
LINES_SHOWN: Final = 40
_MARKUP: Final = re.compile(r"([\\`*_\[\]<>|~#&])")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic at its place. `entry` is None for what is no entry, then `why`."""

    place: int
    offset: int
    hash: str
    entry: Entry | None
    why: str


@dataclass(frozen=True, slots=True)
class Audited:
    """A chain and what was found of it. `kept`: the hash that a person kept, and `kept_place`
    where in the chain it stands, None where nowhere. `deletes`: how the topics would lose entries.
    """

    records: tuple[Record, ...]
    report: ChainReport
    head: Head | None
    misfit: str
    kept: str | None
    kept_place: int | None
    deletes: str = ""

    @classmethod
    def of(
        cls,
        values: Sequence[bytes | None],
        offsets: Sequence[int],
        head: Head | None,
        states: Sequence[SubjectState],
        kept: str | None = None,
        deletes: str = "",
    ) -> Audited:
        """Check it all. `head` is the one kept in the control topic, `states` are those in force.

        Raises UsageError when `kept` is no hash.
        """
        if kept is not None:
            kept = kept.strip().lower()
            if not is_hash(kept):
                fix = "Give the 64 hex digits that log, verify or export printed"
                raise UsageError("no SHA-256", parameter="head", value=kept, fix=fix)
        records = tuple(
            _record(place, *pair) for place, pair in enumerate(zip(offsets, values, strict=True))
        )
        report = verify(values, head)
        entries = [record.entry for record in records if record.entry is not None]
        misfit = misfit_of_states(entries, states) if report.ok else ""
        place = None if kept is None else place_of(values, kept)
        return cls(records, report, head, misfit, kept, place, deletes)

    def verdict(self) -> dict[str, Any]:
        """`ok`, and where not: `broken` (two neighbours), `offsets` of them in the topic, `why`."""
        why = self.report.why or self.misfit or self.deletes
        if not why and self.kept is not None and self.kept_place is None:
            why = f"no entry has the hash that you kept ({self.kept}): the chain was made again"
        found, broken = self.report.head, self.report.broken
        answer: dict[str, Any] = {
            "ok": not why,
            "entries": self.report.entries,
            "broken": None if broken is None else list(broken),
            "offsets": None if broken is None else [self._offset(place) for place in broken],
            "why": why,
            "head_number": None if found is None else found.number,
            "head": None if found is None else found.hash,
            "kept_in_control": None if self.head is None else self.head.hash,
        }
        if self.kept is not None:
            answer |= {"head_asked": self.kept, "head_asked_is_entry": self.kept_place}
        return answer

    def _offset(self, place: int) -> int | None:
        return self.records[place].offset if 0 <= place < len(self.records) else None


def row_of(record: Record) -> dict[str, Any]:
    """One record as the log shows it, with all fields of its entry."""
    entry = record.entry
    if entry is None:
        nothing = dict.fromkeys(("number", "time", "time_ns", "action", "subject", "actor"))
        shown = {**nothing, "action": "(no entry)", "reason": record.why}
        rest: dict[str, Any] = dict.fromkeys(("bundle_sha256", "window_ns", "evidence", "previous"))
    else:
        shown = {
            "number": entry.number,
            "time": format_time(entry.time_ns),
            "time_ns": entry.time_ns,
            "action": entry.action,
            "subject": entry.subject,
            "actor": entry.actor,
            "reason": entry.reason,
        }
        rest = {
            "bundle_sha256": entry.bundle_sha256,
            "window_ns": None if entry.window_ns is None else list(entry.window_ns),
            "evidence": entry.evidence,
            "previous": entry.previous,
        }
    return {**shown, **rest, "hash": record.hash, "offset": record.offset}


def as_json(audited: Audited) -> str:
    """One object: `verdict`, and `records` with every field."""
    document = {
        "format": FORMAT,
        "topic": AUDIT_TOPIC,
        "verdict": audited.verdict(),
        "records": [row_of(record) for record in audited.records],
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def as_markdown(audited: Audited) -> str:
    """A document for an auditor."""
    return "\n".join(_markdown(audited)) + "\n"


def _markdown(audited: Audited) -> Iterator[str]:
    verdict = audited.verdict()
    yield f"# Audit log `{AUDIT_TOPIC}`"
    yield ""
    if verdict["ok"]:
        yield f"The chain holds: {verdict['entries']} entries, each with the hash of the one before"
        yield f"it, up to the head that is kept in `{SCHEMA_MODES_TOPIC}`."
    else:
        yield f"**The chain does not hold.** {escaped(verdict['why'])}"
        if verdict["broken"] is not None:
            yield f"The first neighbours that do not fit are {verdict['broken']}."
    yield ""
    yield f"Head: entry {verdict['head_number']}, hash `{verdict['head']}`."
    yield ""
    yield "The hash of an entry is the SHA-256 of its record's value. Times are UTC."
    for record in audited.records:
        yield ""
        yield from _section(record)


def _section(record: Record) -> Iterator[str]:
    entry = record.entry
    if entry is None:
        yield f"## Offset {record.offset}: no entry"
        yield ""
        yield f"- why: {escaped(record.why)}"
        yield f"- hash: `{record.hash}`"
        return
    yield f"## {entry.number}. {entry.action} {escaped(entry.subject)}"
    yield ""
    yield f"- who: {escaped(entry.actor)}"
    yield f"- when: {format_time(entry.time_ns)}"
    yield f"- why: {escaped(entry.reason)}"
    if entry.bundle_sha256 is not None:
        yield f"- bundle: `{entry.bundle_sha256}`"
    if entry.window_ns is not None:
        yield f"- window: {format_time(entry.window_ns[0])} to {format_time(entry.window_ns[1])}"
    if entry.evidence:
        yield "- evidence:"
        lines = list(_evidence(entry.evidence))
        yield from (f"  - {line}" for line in lines[:LINES_SHOWN])
        if len(lines) > LINES_SHOWN:
            yield f"  - {len(lines) - LINES_SHOWN} more lines in the JSON export"
    yield f"- hash: `{record.hash}`"
    yield f"- previous: `{entry.previous}`"


def _evidence(evidence: Mapping[str, Any]) -> Iterator[str]:
    for name, value in evidence.items():
        yield f"{escaped(name)}: {_summary(value)}"


def _summary(value: Any) -> str:
    """A value on one line: of lists and objects the first few items."""
    if isinstance(value, dict):
        items = [f"{escaped(name)} {_short(item)}" for name, item in value.items()]
    elif isinstance(value, list):
        items = [_short(item) for item in value]
    else:
        return _short(value)
    more = f" and {len(items) - ITEMS_SHOWN} more" if len(items) > ITEMS_SHOWN else ""
    return (", ".join(items[:ITEMS_SHOWN]) or "none") + more


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escaped(text if len(text) <= 200 else text[:200] + "…")


def escaped(text: str) -> str:
    """Text on one line that Markdown shows as it is; what cannot be printed by its number."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return _MARKUP.sub(r"\\\1", plain)


def _record(place: int, offset: int, value: bytes | None) -> Record:
    try:
        return Record(place, offset, hash_of(value or b""), decode_entry(value), "")
    except ContractError as error:
        return Record(place, offset, hash_of(value or b""), None, str(error))
