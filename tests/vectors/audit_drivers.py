"""Driver of the family `audit` of `governance.json`: entries in order, then somebody tampers.

A chain is what the topic would hold: the values of its records, and the head that is kept beside
it, which whoever tampers does not reach. A field is edited in the bytes of the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from seamline.schemas.audit import (
    Draft,
    Entry,
    Head,
    append,
    decode_entry,
    encode_entry,
    hash_of,
    verify,
)
from vectors.engine import Case, UnknownFieldError, driver

CLOCK_NS = 1_700_000_000_000_000_000


class Log:
    """The values of the records, and the head."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.head: Head | None = None
        self.last_ns = 0

    def preview(self, fields: Mapping[str, str]) -> Entry:
        draft = Draft("promote", "s", fields["actor"], fields["reason"])
        return append(self.head, self.last_ns, draft, CLOCK_NS)

    def append(self, fields: Mapping[str, str]) -> None:
        entry = self.preview(fields)
        self.values.append(encode_entry(entry))
        self.head, self.last_ns = entry.head, entry.time_ns


def log_of(entries: Sequence[Mapping[str, str]]) -> Log:
    log = Log()
    for fields in entries:
        log.append(fields)
    return log


def tampered(values: Sequence[bytes | None], tamper: Mapping[str, Any]) -> list[bytes | None]:
    """The records after what was done to them."""
    changed = [*values]
    keys = tamper.keys()
    if keys == {"edit_index", "field"}:
        at = tamper["edit_index"]
        fields = json.loads(changed[at] or b"")
        fields[tamper["field"]] += "x"
        changed[at] = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    elif keys == {"remove_index"}:
        del changed[tamper["remove_index"]]
    elif keys == {"swap"}:
        i, j = tamper["swap"]
        changed[i], changed[j] = changed[j], changed[i]
    elif keys == {"insert_copy_of", "at_index"}:
        changed.insert(tamper["at_index"], values[tamper["insert_copy_of"]])
    else:
        raise UnknownFieldError(f"no such way to tamper: {sorted(keys)}")
    return changed


def links(values: Sequence[bytes | None]) -> bool:
    return all(
        decode_entry(after).previous == hash_of(before or b"") for before, after in pairwise(values)
    )


@driver("governance", "audit")
def audit(case: Case) -> dict[str, Any]:
    log = log_of(case.given["append"])
    call = case.call["call"]
    if call == "list":
        shown = log.preview(case.given["dry_run_append"])
        wanted = case.given["dry_run_append"]
        told = (shown.actor, shown.reason) == (wanted["actor"], wanted["reason"])
        return {"entries": len(log.values), "preview_shown": told and shown.number == 1}
    if call != "verify":
        raise UnknownFieldError(f"no such call: {call}")
    if "tampers" in case.given:
        every = [tampered(log.values, tamper) for tamper in case.given["tampers"]]
        return {"ok": [verify(values, log.head).ok for values in every]}
    values = tampered(log.values, case.given["tamper"]) if "tamper" in case.given else log.values
    report = verify(values, log.head)
    return {
        "ok": report.ok,
        "entries": report.entries,
        "first_broken_link": None if report.broken is None else list(report.broken),
        "each_links_to_previous": report.ok and links(values),
    }
