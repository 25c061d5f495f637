"""The validation mode of each subject: what a mode is, who set it, and the book of them all.

Decides: how a mode is spelled, which mode is in force (a subject's own, else the environment's,
else canary), and what a record of `seamline.control.schema-modes` is. Invariants: what cannot be
read never changes a mode, the state before it stands; a subject's versions only grow, so an old
record that comes again changes nothing; a null is not a state: nothing of ours deletes one, and a
deleted strict would pass what strict must block. Must not know: a broker, which rules there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import INT64_MAX
from seamline.schemas.topics import AUDIT_TOPIC

CANARY: Final = "canary"
STRICT: Final = "strict"
MODES: Final = (CANARY, STRICT)
VALIDATION_MODE_VARIABLE: Final = "SEAMLINE_SCHEMA_VALIDATION_MODE"

FORMAT: Final = 1
# Limits of one record: the topic is read whole by everybody who validates.
TEXT_CHARS_MAX: Final = 2_000
SUBJECT_CHARS_MAX: Final = 255
TOMBSTONES_MAX: Final = 1_000
RECORD_BYTES_MAX: Final = 200_000
SUBJECTS_MAX: Final = 100_000
# Not a subject: the head of the audit chain is kept under this key of the same topic.
HEAD_KEY: Final = AUDIT_TOPIC.encode()
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def parse_mode(text: str, parameter: str = "mode") -> str:
    """`canary` or `strict`, in any case. Raises UsageError naming `parameter` for all else."""
    mode = text.strip().lower() if isinstance(text, str) else text
    if mode not in MODES:
        raise UsageError(
            "no such validation mode",
            parameter=parameter,
            value=text,
            fix=f"Use {CANARY} or {STRICT}",
        )
    return mode


def default_mode(env: Mapping[str, str]) -> str:
    """The mode of subjects without one of their own. Raises UsageError naming the variable."""
    return parse_mode(env.get(VALIDATION_MODE_VARIABLE, CANARY), VALIDATION_MODE_VARIABLE)


def effective_mode(subject_mode: str | None, env: Mapping[str, str]) -> str:
    """The subject's own mode, else the environment's, else canary. Raises UsageError."""
    return default_mode(env) if subject_mode is None else parse_mode(subject_mode)


@dataclass(frozen=True, slots=True)
class Policy:
    """How the records of one subject are judged now. `version` is that of its state, 0 where the
    subject has none; `tombstones` are fingerprints of withdrawn writer schemas, 64 hex digits."""

    mode: str
    version: int = 0
    tombstones: frozenset[str] = frozenset()


# Subject -> how it is judged now; never raises, never blocks.
Policies = Callable[[str], Policy]


@dataclass(frozen=True, slots=True)
class SubjectState:
    """What is in force for one subject since `since_ns` (UTC), who set it and why.

    `version` counts 1, 2, 3… per subject. `tombstones`: fingerprints (64 hex digits, sorted) of
    writer schemas that are withdrawn for this subject. Raises ContractError for what is no state.
    """

    subject: str
    mode: str
    version: int
    since_ns: int
    actor: str
    reason: str
    bundle_sha256: str
    tombstones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _text("subject", self.subject, SUBJECT_CHARS_MAX)
        if self.mode not in MODES:
            raise _broken("no such validation mode", "mode", self.mode, f"{CANARY} or {STRICT}")
        _whole("version", self.version, 1)
        _whole("since_ns", self.since_ns, 0)
        _text("actor", self.actor, TEXT_CHARS_MAX)
        _text("reason", self.reason, TEXT_CHARS_MAX)
        _digest("bundle_sha256", self.bundle_sha256)
        if not isinstance(self.tombstones, list | tuple):
            raise _broken("not a list", "tombstones", self.tombstones, "Give fingerprints")
        for each in self.tombstones:
            _digest("tombstones", each)
        if len(self.tombstones) > TOMBSTONES_MAX:
            fix = f"At most {TOMBSTONES_MAX}"
            raise _broken("too many fingerprints", "tombstones", len(self.tombstones), fix)
        object.__setattr__(self, "tombstones", tuple(sorted(set(self.tombstones))))


def encode_state(state: SubjectState) -> bytes:
    """Canonical JSON: sorted keys, no white space, ASCII. Equal states give equal bytes."""
    fields = {name: getattr(state, name) for name in _FIELDS} | {"format": FORMAT}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def decode_state(value: bytes) -> SubjectState:
    """The state that `value` is. Raises ContractError for what is none, naming the field."""
    if len(value) > RECORD_BYTES_MAX:
        fix = f"At most {RECORD_BYTES_MAX} bytes"
        raise _broken("larger than any state", "value", len(value), fix)
    try:
        fields = json.loads(value.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _broken("not JSON", "value", value, _REMEDY) from None
    if not isinstance(fields, dict):
        raise _broken("not an object", "value", fields, _REMEDY)
    if type(fields.get("format")) is not int or fields["format"] != FORMAT:
        raise _broken("another format", "format", fields.get("format"), f"This reads {FORMAT}")
    names = {*_FIELDS, "format"}
    if fields.keys() != names:
        raise _broken("fields missing or unknown", "value", sorted(fields.keys() ^ names), _REMEDY)
    del fields["format"]
    return SubjectState(**fields)


class ModeBook:
    """The newest state of every subject, fed with the records of the control topic in order.

    `unreadable` counts the records that are no states, `stale` those that were not newer than what
    is known; `fault` says what the last unreadable one was. One thread at a time.
    """

    def __init__(self) -> None:
        self._states: dict[str, SubjectState] = {}
        self.unreadable = 0
        self.stale = 0
        self.fault = ""

    @property
    def states(self) -> Mapping[str, SubjectState]:
        """By subject."""
        return MappingProxyType(self._states)

    def take(self, key: bytes | None, value: bytes | None) -> SubjectState | None:
        """The state that this record brings into force, None when it changes nothing."""
        if key == HEAD_KEY:
            return None
        try:
            state = self._read(key, value)
        except ContractError as error:
            self.unreadable += 1
            self.fault = str(error)
            return None
        known = self._states.get(state.subject)
        if known is not None and state.version <= known.version:
            self.stale += 1
            return None
        self._states[state.subject] = state
        return state

    def state_of(self, subject: str) -> SubjectState | None:
        return self._states.get(subject)

    def mode_of(self, subject: str, default: str) -> str:
        state = self._states.get(subject)
        return default if state is None else state.mode

    def policy_of(self, subject: str, default: str) -> Policy:
        """`default` is the mode of a subject without a state; nothing is withdrawn for it."""
        state = self._states.get(subject)
        if state is None:
            return Policy(default)
        return Policy(state.mode, state.version, frozenset(state.tombstones))

    def _read(self, key: bytes | None, value: bytes | None) -> SubjectState:
        if value is None:
            raise _broken("a null is no state", "value", None, "Demote a subject, do not delete it")
        state = decode_state(value)
        if key != state.subject.encode("utf-8", "surrogatepass"):
            raise _broken("the key is not the subject of the value", "key", key, _REMEDY)
        if len(self._states) >= SUBJECTS_MAX and state.subject not in self._states:
            raise _broken("too many subjects", "subject", state.subject, f"At most {SUBJECTS_MAX}")
        return state


_FIELDS: Final = tuple(SubjectState.__dataclass_fields__)
_REMEDY: Final = "Set the mode with `seamline schema promote` or `seamline schema demote`"


def _broken(what: str, parameter: str, value: object, fix: str) -> ContractError:
    return ContractError(what, parameter=parameter, value=value, fix=fix)


def _text(parameter: str, value: object, chars_max: int) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > chars_max:
        fix = f"Give 1 to {chars_max} characters"
        raise _broken("not a text that says something", parameter, value, fix)


def _whole(parameter: str, value: object, least: int) -> None:
    if type(value) is not int or not least <= value <= INT64_MAX:
        raise _broken("not a number of that kind", parameter, value, f"{least} to int64's end")


def _digest(parameter: str, value: object) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _broken("not a SHA-256", parameter, value, "Give 64 hex digits in lower case")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A field that is there twice has two meanings; ValueError, as for any other broken JSON."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field twice")
    return fields
