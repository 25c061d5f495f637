"""The audit chain: what an entry of `seamline.audit` is, how one follows another, what breaks it.

Decides: the fields of an entry, their canonical bytes, that its hash is the SHA-256 of all of them,
and which link of a chain is the first that does not fit. Invariants: every entry carries the hash
of the one before, so no byte of an earlier one can change unseen; numbers count 0, 1, 2…; times
never go back; the head (number and hash of the newest entry) is kept elsewhere, so a change of the
newest and a cut at the end show too; an entry that sets a mode holds the whole state, so that what
was in force when can be told from the chain alone. Must not know: a clock, a broker, what an action
does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, NoReturn

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import SubjectState, encode_state
from seamline.schemas.times import INT64_MAX

JSON = Any  # what `json` reads: None, bool, int, float, str, list, dict

FORMAT: Final = 1
ACTIONS: Final = (
    *("register", "rehearse", "promote", "demote", "budget_demote"),
    *("tombstone", "rollback", "redrive", "fix"),
)
# Of the evidence: the state of the subject that the entry brought into force.
IN_FORCE: Final = "in_force"
GENESIS: Final = "0" * 64  # what the first entry carries: there is none before it
ACTOR_CHARS_MAX: Final = 200
SUBJECT_CHARS_MAX: Final = 300
REASON_CHARS_MAX: Final = 2_000
# A record of 1 MiB is refused by a topic's default; what stands beside the evidence is small.
ENTRY_BYTES_MAX: Final = 900_000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be written: everything of an entry but its place in the chain.

    `window_ns`: the half-open time that the evidence speaks of. Raises UsageError naming the field.
    """

    action: str
    subject: str
    actor: str
    reason: str
    bundle_sha256: str | None = None
    window_ns: tuple[int, int] | None = None
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_fields(self)
        if self.window_ns is not None:
            object.__setattr__(self, "window_ns", _window(self.window_ns))
        # As it will be read back: lists for tuples, keys that are text.
        object.__setattr__(self, "evidence", _plain(self.evidence))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the chain. `previous`: the hash of the entry before, GENESIS for the first."""

    number: int
    time_ns: int
    previous: str
    action: str
    subject: str
    actor: str
    reason: str
    bundle_sha256: str | None
    window_ns: tuple[int, int] | None
    evidence: Mapping[str, JSON]

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return hash_of(encode_entry(self))

    @property
    def head(self) -> Head:
        return Head(self.number, self.hash)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of a chain, as it is kept outside of it."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Whether a chain holds. `entries`: how many records there are.

    `broken`: the first two neighbours that do not fit, as places in the chain from 0; -1 is the
    beginning, `entries` the head that is kept elsewhere. `why`: a sentence, empty when all holds.
    `head`: of the chain as it was found, None where there is nothing or nothing readable last.
    """

    ok: bool
    entries: int
    broken: tuple[int, int] | None
    why: str
    head: Head | None


def append(head: Head | None, last_time_ns: int, draft: Draft, clock_ns: int) -> Entry:
    """The entry that follows `head` (None: the first). A clock that went back does not take the
    chain back: the time is at least `last_time_ns`.

    Raises UsageError for a clock outside of int64, or for evidence that is too large.
    """
    time_ns = max(clock_ns, last_time_ns)
    if not 0 <= time_ns <= INT64_MAX:
        _refuse("clock_ns", clock_ns, "outside of int64 nanoseconds", "Set the clock")
    entry = Entry(
        0 if head is None else head.number + 1,
        time_ns,
        GENESIS if head is None else head.hash,
        *(getattr(draft, name) for name in _DRAFT_FIELDS),
    )
    size = len(encode_entry(entry))
    if size > ENTRY_BYTES_MAX:
        _refuse("evidence", f"{size} bytes", "too large", f"At most {ENTRY_BYTES_MAX} bytes")
    return entry


def with_state(draft: Draft, state: SubjectState) -> Draft:
    """The draft, holding the state that it brings into force."""
    held = json.loads(encode_state(state))
    return replace(draft, evidence={**draft.evidence, IN_FORCE: held})


def encode_entry(entry: Entry) -> bytes:
    """Canonical JSON: sorted keys, no white space, UTF-8. Equal entries give equal bytes."""
    return _canonical({name: getattr(entry, name) for name in _FIELDS} | {"format": FORMAT})


def decode_entry(value: bytes | None) -> Entry:
    """The entry that `value` is; only its canonical bytes are one.

    Raises ContractError for all else, naming the field.
    """
    fields = _fields_of(value)
    if fields.keys() != _NAMES:
        raise _broken("fields missing or unknown", "value", sorted(fields.keys() ^ _NAMES))
    if type(fields["format"]) is not int or fields["format"] != FORMAT:
        raise _broken(f"another format than {FORMAT}", "format", fields["format"])
    for name in ("number", "time_ns"):
        if type(fields[name]) is not int or not 0 <= fields[name] <= INT64_MAX:
            raise _broken("not a whole number from 0", name, fields[name])
    if not is_hash(fields["previous"]):
        raise _broken("no SHA-256", "previous", fields["previous"])
    try:
        canonical = _canonical(fields)
    except (ValueError, RecursionError):
        raise _broken("not finite JSON", "value", value) from None
    if canonical != value:
        raise _broken("not the canonical bytes of an entry", "value", value)
    del fields["format"]
    entry = Entry(**fields)
    try:
        _refuse_fields(entry)
        window = None if entry.window_ns is None else _window(entry.window_ns)
    except UsageError as error:
        raise _broken(error.message, error.parameter or "value", error.value) from None
    object.__setattr__(entry, "window_ns", window)
    return entry


def encode_head(head: Head) -> bytes:
    """The value under the key `seamline.audit` of the control topic."""
    return _canonical({"format": FORMAT, "hash": head.hash, "number": head.number})


def decode_head(value: bytes | None) -> Head:
    """Raises ContractError for what is no head."""
    fields = _fields_of(value)
    number = fields.get("number")
    if fields.keys() != {"format", "hash", "number"} or fields["format"] != FORMAT:
        raise _broken("no head of an audit chain", "value", value)
    if type(number) is not int or not 0 <= number <= INT64_MAX or not is_hash(fields["hash"]):
        raise _broken("no head of an audit chain", "value", value)
    return Head(number, fields["hash"])


def is_hash(text: object) -> bool:
    """64 hex digits in lower case."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def hash_of(value: bytes) -> str:
    """What the next entry carries of the one whose bytes these are."""
    return sha256(value).hexdigest()


def verify(values: Sequence[bytes | None], head: Head | None) -> ChainReport:
    """Whether these records, all of the topic in its order, are one whole chain up to `head`.

    `head`: as it is kept elsewhere; None says that none is kept, which only an empty chain may.
    """
    before: Entry | None = None
    carried = GENESIS
    for place, value in enumerate(values):
        try:
            entry = decode_entry(value)
        except ContractError as error:
            why = f"record {place} is no entry: {error}"
            # What it carries may still fit; then the record itself is what was changed.
            fits = _carried(value) == carried
            broken = (place, place + 1) if fits else (place - 1, place)
            return ChainReport(False, len(values), broken, why, _head_at_end(values))
        why = _misfit(entry, before, carried, place)
        if why:
            return ChainReport(False, len(values), (place - 1, place), why, _head_at_end(values))
        before, carried = entry, hash_of(value or b"")
    found = None if before is None else Head(before.number, carried)
    if found == head:
        return ChainReport(True, len(values), None, "", found)
    return ChainReport(
        False, len(values), (len(values) - 1, len(values)), _head_misfit(found, head), found
    )


def vouched(values: Sequence[bytes | None], head: Head | None) -> tuple[Entry, ...]:
    """The entries that the kept head vouches for, oldest first: its own, the one whose hash that
    one carries, and so on. What was changed, put in, or stands before a break is not among them."""
    if head is None:
        return ()
    wanted, found = head.hash, []
    for value in reversed(values):
        if wanted == GENESIS:
            break
        if value is None or hash_of(value) != wanted:
            continue
        try:
            entry = decode_entry(value)
        except ContractError:
            break
        found.append(entry)
        wanted = entry.previous
    return tuple(reversed(found))


def place_of(values: Sequence[bytes | None], kept: str) -> int | None:
    """Where the record with this hash stands; None where no record has it."""
    return next((i for i, v in enumerate(values) if v is not None and hash_of(v) == kept), None)


def misfit_of_states(entries: Iterable[Entry], states: Iterable[SubjectState]) -> str:
    """A sentence where the states in force are not those that the chain says; empty when they are.

    A mode that was set past the chain shows here, also when an entry has come after it: it has the
    version that the chain lacks. So does a control topic that was cut.
    """
    told: dict[str, JSON] = {}
    for entry in entries:
        if IN_FORCE not in entry.evidence:
            continue
        state, before = entry.evidence[IN_FORCE], told.get(entry.subject)
        if _version(state) != (0 if before is None else _version(before)) + 1:
            was = "nothing" if before is None else _state(before)
            return (
                f"{entry.subject}: entry {entry.number} set {_state(state)} after {was}: what was "
                "in force in between no entry tells"
            )
        told[entry.subject] = state
    held = {state.subject: json.loads(encode_state(state)) for state in states}
    for subject in sorted(told.keys() | held.keys()):
        if subject not in told:
            return f"{subject}: in force is {_state(held[subject])}, of which no entry tells"
        if subject not in held:
            return f"{subject}: an entry set {_state(told[subject])}, which is not in force"
        if told[subject] != held[subject]:
            what = f"the newest entry set {_state(told[subject])}"
            return f"{subject}: {what}, in force is {_state(held[subject])}"
    return ""


_DRAFT_FIELDS: Final = tuple(Draft.__dataclass_fields__)
_FIELDS: Final = tuple(Entry.__dataclass_fields__)
_NAMES: Final = {*_FIELDS, "format"}


def _misfit(entry: Entry, before: Entry | None, carried: str, place: int) -> str:
    """Why this entry does not follow the one before; empty when it does."""
    if entry.previous != carried:
        if before is None:
            return (
                f"the first record is entry {entry.number} and carries the hash of one before it: "
                "the front of the chain is gone"
            )
        return (
            f"entry {entry.number} at {place} carries {entry.previous[:16]}…, "
            f"the hash of entry {before.number} at {place - 1} is {carried[:16]}…"
        )
    if entry.number != (0 if before is None else before.number + 1):
        return f"entry {entry.number} stands at {place}: numbers must count 0, 1, 2…"
    if before is not None and entry.time_ns < before.time_ns:
        return f"entry {entry.number} is older than entry {before.number} before it"
    return ""


def _head_misfit(found: Head | None, kept: Head | None) -> str:
    if kept is None:
        return "no head is kept beside the chain"
    if found is None:
        return f"the chain is empty, the head that is kept is entry {kept.number}"
    if found.number != kept.number:
        return f"the chain ends with entry {found.number}, the head kept is entry {kept.number}"
    return (
        f"the hash of the last entry {found.number} is {found.hash[:16]}…, "
        f"the head kept is {kept.hash[:16]}…"
    )


def _state(state: JSON) -> str:
    mode = state.get("mode") if isinstance(state, dict) else ""
    return f"{mode} (version {_version(state)})"


def _version(state: JSON) -> int:
    """Of a state as an entry holds it; 0 where it holds none."""
    version = state.get("version") if isinstance(state, dict) else 0
    return version if type(version) is int else 0


def _head_at_end(values: Sequence[bytes | None]) -> Head | None:
    try:
        entry = decode_entry(values[-1])
    except ContractError:
        return None
    return entry.head


def _carried(value: bytes | None) -> object:
    try:
        return _fields_of(value).get("previous")
    except ContractError:
        return None


def _fields_of(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise _broken("a null", "value", None)
    if len(value) > ENTRY_BYTES_MAX:
        raise _broken("larger than any entry", "value", f"{len(value)} bytes")
    try:
        fields = json.loads(value.decode())
    except (ValueError, RecursionError):
        raise _broken("not JSON", "value", value) from None
    if not isinstance(fields, dict):
        raise _broken("not an object", "value", value)
    return fields


_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def _canonical(fields: Mapping[str, JSON]) -> bytes:
    """Raises ValueError, TypeError or RecursionError for what JSON cannot say."""
    return _ENCODER.encode(fields).encode()


def _plain(evidence: Mapping[str, JSON]) -> Mapping[str, JSON]:
    try:
        text = _canonical(dict(evidence))
        plain: dict[str, JSON] = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        _refuse("evidence", type(error).__name__, f"not JSON: {error}", "Give finite JSON values")
    return plain


def _window(window: object) -> tuple[int, int]:
    fix = "Give [start_ns, end_ns) as two whole numbers of UTC nanoseconds"
    if not isinstance(window, tuple | list) or len(window) != 2:
        _refuse("window_ns", window, "not two times", fix)
    start_ns, end_ns = window
    for time_ns in window:
        if type(time_ns) is not int or abs(time_ns) > INT64_MAX:
            _refuse("window_ns", window, "not two times", fix)
    if start_ns > end_ns:
        _refuse("window_ns", window, "ends before it starts", fix)
    return start_ns, end_ns


def _refuse_fields(said: Draft | Entry) -> None:
    """All that is said but the window and the evidence."""
    if said.action not in ACTIONS:
        _refuse("action", said.action, "no such action", f"One of {', '.join(ACTIONS)}")
    _refuse_text("subject", said.subject, SUBJECT_CHARS_MAX)
    _refuse_text("actor", said.actor, ACTOR_CHARS_MAX)
    _refuse_text("reason", said.reason, REASON_CHARS_MAX)
    if said.bundle_sha256 is not None and not is_hash(said.bundle_sha256):
        _refuse("bundle_sha256", said.bundle_sha256, "no SHA-256", "Give 64 hex digits")
    if not isinstance(said.evidence, Mapping):
        _refuse("evidence", said.evidence, "not a mapping", "Give names and JSON values")


def _refuse_text(parameter: str, text: object, chars_max: int) -> None:
    fix = f"Say it in 1 to {chars_max} characters"
    if not isinstance(text, str) or not text.strip():
        _refuse(parameter, text, "empty", fix)
    if len(text) > chars_max:
        _refuse(parameter, text, f"{len(text)} characters", fix)
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(parameter, text, "not text that UTF-8 can hold", fix)


def _refuse(parameter: str, value: object, what: str, fix: str) -> NoReturn:
    raise UsageError(what, parameter=parameter, value=value, fix=fix)


def _broken(what: str, parameter: str, value: object) -> ContractError:
    fix = "Find what else writes to the topic: seamline schema audit verify names the place"
    return ContractError(what, parameter=parameter, value=value, fix=fix)
