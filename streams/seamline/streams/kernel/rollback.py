"""What a change of a subject's state was, and what stood before it.

Decides: how an audit entry names the state before and after a change, which entry a rollback takes
back, and when it may not. Invariants: only what the log vouches for is gone back to; a rollback
never makes a subject strict by a way that a promotion would not: only soon after the change, under
the same bundle, and never against what the failure budget decided (decision 0140). A rollback is a
change itself, so one after another goes back and forth. Must not know: a broker, the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.audit import Entry
from seamline.schemas.errors import ContractError
from seamline.schemas.modes import CANARY, MODES, STRICT, SubjectState
from seamline.schemas.times import format_duration, format_time
from seamline.streams.kernel.promotion import SKEW_NS, Refusal

PROMOTE: Final = "promote"
DEMOTE: Final = "demote"
BUDGET_DEMOTE: Final = "budget_demote"
TOMBSTONE: Final = "tombstone"
ROLLBACK: Final = "rollback"
CHANGES: Final = (PROMOTE, DEMOTE, BUDGET_DEMOTE, TOMBSTONE, ROLLBACK)


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a state can be gone back to. `version` 0: the subject had no state of its own, so the
    default mode. `bundle_sha256`: what the mode was set for, empty at version 0."""

    mode: str
    version: int
    bundle_sha256: str
    tombstones: tuple[str, ...]


def standing(state: SubjectState | None, default_mode: str = CANARY) -> Standing:
    if state is None:
        return Standing(default_mode, 0, "", ())
    return Standing(state.mode, state.version, state.bundle_sha256, state.tombstones)


def change_of(before: Standing, after: Standing) -> dict[str, Any]:
    """For the evidence of an entry."""
    return {"before": _plain(before), "after": _plain(after)}


def target(
    subject: str,
    state: SubjectState | None,
    entries: Sequence[Entry],
    *,
    bundle_sha256: str,
    fresh_ns: int,
    now_ns: int,
) -> tuple[Entry | None, Standing | None, tuple[Refusal, ...]]:
    """The last change of the subject, what stood before it, and why a rollback may not go there."""
    entry = next(
        (e for e in reversed(entries) if e.subject == subject and e.action in CHANGES), None
    )
    if entry is None:
        what = "no change of this subject is on record: there is nothing to go back to"
        return None, None, (Refusal("subject", subject, what, _LOOK),)
    try:
        before = _read(entry, "before")
        after = _read(entry, "after")
    except ContractError as error:
        what = f"entry {entry.number} does not say what stood before it: {error}"
        return entry, None, (Refusal("evidence", entry.number, what, _LOOK),)
    now = standing(state)
    if now != after:
        what = f"entry {entry.number} left version {after.version}, in force is {now.version}"
        fix = "Something else wrote the mode: look at seamline schema audit verify"
        return entry, before, (Refusal("version", now.version, what, fix),)
    if before.mode == STRICT and now.mode != STRICT:
        return entry, before, _into_strict(entry, before, bundle_sha256, fresh_ns, now_ns)
    return entry, before, ()


_FIELDS: Final = tuple(Standing.__dataclass_fields__)
_LOOK: Final = "Look at the log: seamline schema audit log"
_GATE: Final = "Rehearse and promote again: seamline schema promote"


def _into_strict(
    entry: Entry, before: Standing, bundle_sha256: str, fresh_ns: int, now_ns: int
) -> tuple[Refusal, ...]:
    found = []
    if entry.action == BUDGET_DEMOTE:
        what = "the failure budget ended strict: what it blocked then it would block again"
        found.append(Refusal("action", entry.action, what, _GATE))
    if before.bundle_sha256 != bundle_sha256:
        what = f"it was strict under another bundle, in force is {bundle_sha256}"
        found.append(Refusal("bundle_sha256", before.bundle_sha256, what, _GATE))
    if now_ns - entry.time_ns > fresh_ns:
        limit = format_duration(fresh_ns)
        what = f"the change is older than {limit}: the evidence for strict is not fresh any more"
        found.append(Refusal("time_ns", format_time(entry.time_ns), what, _GATE))
    elif entry.time_ns - now_ns > SKEW_NS:
        what = "the change is of a time to come: a clock went back or is wrong"
        fix = "Set the clock right, or rehearse and promote again"
        found.append(Refusal("time_ns", format_time(entry.time_ns), what, fix))
    return tuple(found)


def _plain(of: Standing) -> dict[str, Any]:
    plain = {name: getattr(of, name) for name in _FIELDS}
    return plain | {"tombstones": list(of.tombstones)}


def _read(entry: Entry, name: str) -> Standing:
    """Raises ContractError for what `change_of` cannot have written."""
    found = entry.evidence.get(name)
    if isinstance(found, Mapping) and found.keys() == set(_FIELDS):
        mode, version, tombstones = found["mode"], found["version"], found["tombstones"]
        whole = type(version) is int and version >= 0
        listed = isinstance(tombstones, list) and all(isinstance(t, str) for t in tombstones)
        bundle = found["bundle_sha256"]
        if mode in MODES and whole and listed and isinstance(bundle, str):
            return Standing(mode, version, bundle, tuple(tombstones))
    raise ContractError("no state", parameter=name, value=found)
