"""Whether a subject may become strict: the gate between canary and strict, as one pure function.

Decides: what has to be shown before strict may block anything (a fresh, complete rehearsal of this
bundle under this state, up to the end of the topic, in which nothing was blocked but what a person
accepted by name and number; and a canary window of real traffic), and what each refusal says.
Invariants: every reason to refuse is told at once, each with field, value and fix; what is not
known is a reason to refuse; an exception that the rehearsal does not need is refused like one that
is too small, so that no exception is carried along unread. Must not know: a broker, a registry,
the clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.schemas.audit import Entry
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import STRICT, SubjectState
from seamline.schemas.times import NS_PER_S, format_duration, format_time
from seamline.streams.kernel.rehearsal import OTHERS, Evidence

REHEARSE: Final = "rehearse"
REGISTER: Final = "register"
HOUR_NS: Final = 3_600 * NS_PER_S
MINUTE_NS: Final = 60 * NS_PER_S
# Clocks of two machines: what is this little in the future is now.
SKEW_NS: Final = MINUTE_NS
EXCEPTIONS_MAX: Final = 50
_ACCEPT: Final = re.compile(r"([a-z][a-z0-9_]{0,63})=([1-9]\d{0,11})", re.ASCII)
_SINCE_NS: Final = 48 * HOUR_NS


@dataclass(frozen=True, slots=True)
class PromotionPolicy:
    """`fresh_ns`: how old a rehearsal may be. `canary_window_ns`: how long the subject was in
    canary and had traffic, at least.

    Of that window a silence may be one part in `silence_parts`, and one of `silence_ns` (two bars
    of a minute) is none whatever the window; first and last record may miss as much of the window.
    In each partition a rehearsal may have left unread one part in `tail_parts` of what it read, and
    `tail_offsets` whatever it read (ten minutes of heartbeats).
    """

    fresh_ns: int = HOUR_NS
    canary_window_ns: int = 24 * HOUR_NS
    silence_parts: int = 4
    silence_ns: int = 2 * MINUTE_NS
    tail_parts: int = 20
    tail_offsets: int = 600

    def __post_init__(self) -> None:
        for name, least in (
            *(("fresh_ns", 1), ("canary_window_ns", 0), ("silence_parts", 1)),
            *(("silence_ns", 0), ("tail_parts", 1), ("tail_offsets", 0)),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(
                    "not a limit of a promotion", parameter=name, value=value, fix=f"From {least}"
                )

    @property
    def silence_max_ns(self) -> int:
        return max(self.silence_ns, self.canary_window_ns // self.silence_parts)

    @property
    def span_ns(self) -> int:
        """From the first record to the last, at least."""
        return self.canary_window_ns - self.canary_window_ns // self.silence_parts


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why not: the field at fault, its value, what is wrong, and the way out."""

    field: str
    value: object
    what: str
    fix: str

    def error(self, also: Sequence[Refusal] = ()) -> ContractError:
        """As an exception; `also` are in its field `refusals` together with this one."""
        every = [{"field": r.field, "value": r.value, "what": r.what, "fix": r.fix} for r in also]
        return ContractError(
            self.what, parameter=self.field, value=self.value, fix=self.fix, refusals=every
        )


@dataclass(frozen=True, slots=True)
class Case:
    """What a promotion of `subject` is judged by, all of it read at one moment.

    `state` None: never set, so canary. `ends`: partition -> end offset of the topic now.
    `accepted`: rule -> how many blocked records of it somebody answers for.
    """

    subject: str
    state: SubjectState | None
    entries: Sequence[Entry]
    bundle_sha256: str
    ends: Mapping[int, int]
    accepted: Mapping[str, int]
    now_ns: int

    @property
    def version(self) -> int:
        return 0 if self.state is None else self.state.version


def parse_accepted(texts: Iterable[str]) -> dict[str, int]:
    """`RULE=N` each. Raises UsageError naming `accept` for what is not, or a rule named twice."""
    accepted: dict[str, int] = {}
    for text in texts:
        match = _ACCEPT.fullmatch(text.strip())
        if match is None or match[1] in accepted or match[1] == OTHERS:
            raise UsageError(
                "not an exception of one rule, or its rule is named twice",
                parameter="accept",
                value=text,
                fix="Write the exact name of a rule and how many records: duplicate_symbol=3",
            )
        accepted[match[1]] = int(match[2])
        if len(accepted) > EXCEPTIONS_MAX:
            raise UsageError(
                "that many exceptions are no rehearsal that is clean",
                parameter="accept",
                value=len(accepted),
                fix=f"At most {EXCEPTIONS_MAX}",
            )
    return accepted


def newest_rehearsal(entries: Iterable[Entry], subject: str) -> Entry | None:
    """The last rehearsal of the subject in the order of the log."""
    found = [e for e in entries if e.action == REHEARSE and e.subject == subject]
    return found[-1] if found else None


def judge(case: Case, policy: PromotionPolicy) -> tuple[Evidence | None, tuple[Refusal, ...]]:
    """The evidence, and why the subject may not become strict; allowed when there is no reason."""
    if case.state is not None and case.state.mode == STRICT:
        return None, (_strict_already(case.state),)
    entry = newest_rehearsal(case.entries, case.subject)
    if entry is None:
        return None, (_no_rehearsal(case, policy, "no rehearsal of this subject is on record"),)
    try:
        evidence = Evidence.from_json(entry.evidence)
    except ContractError as error:
        what = f"entry {entry.number} holds no evidence of a rehearsal: {error}"
        return None, (_no_rehearsal(case, policy, what),)
    if evidence.subject != case.subject:
        what = f"entry {entry.number} holds the evidence of {evidence.subject}"
        return None, (_no_rehearsal(case, policy, what),)
    refusals = (
        *_of_time(case, evidence, policy),
        *_of_contract(case, evidence, policy),
        *_of_schemas(case, entry, evidence, policy),
        *_of_end(case, evidence, policy),
        *_of_blocked(case, evidence),
        *_of_canary(case, evidence, policy),
    )
    return evidence, refusals


def _strict_already(state: SubjectState) -> Refusal:
    since = format_time(state.since_ns)
    return Refusal(
        "mode",
        STRICT,
        f"strict since {since} (version {state.version}, by {state.actor}: {state.reason})",
        "Nothing is left to do",
    )


def _no_rehearsal(case: Case, policy: PromotionPolicy, what: str) -> Refusal:
    return Refusal("rehearsal", None, what, again(case.subject, policy))


def again(subject: str, policy: PromotionPolicy) -> str:
    """The command whose evidence would do."""
    since = max(_SINCE_NS, policy.canary_window_ns + policy.canary_window_ns // 4)
    return f"Run: seamline schema rehearse {subject} --since {-(-since // HOUR_NS)}h"


def _of_time(case: Case, evidence: Evidence, policy: PromotionPolicy) -> Iterable[Refusal]:
    age_ns = case.now_ns - evidence.ended_ns
    shown = format_time(evidence.ended_ns)
    if age_ns > policy.fresh_ns:
        limit = format_duration(policy.fresh_ns)
        what = f"the rehearsal is {_about(age_ns)} old, {limit} at most"
        yield Refusal("rehearsal.ended_ns", shown, what, again(case.subject, policy))
    elif age_ns < -SKEW_NS:
        what = f"the rehearsal ended {_about(-age_ns)} after now: a clock went back or is wrong"
        fix = "Set the clock right, then rehearse again"
        yield Refusal("rehearsal.ended_ns", shown, what, fix)


def _of_contract(case: Case, evidence: Evidence, policy: PromotionPolicy) -> Iterable[Refusal]:
    fix = again(case.subject, policy)
    if evidence.bundle_sha256 != case.bundle_sha256:
        what = f"the rehearsal is of another bundle, in force is {case.bundle_sha256}"
        yield Refusal("rehearsal.bundle_sha256", evidence.bundle_sha256, what, fix)
    if evidence.mode_version != case.version:
        what = f"the state of the subject was changed since, it is version {case.version} now"
        yield Refusal("rehearsal.mode_version", evidence.mode_version, what, fix)
    if not evidence.complete:
        notes = "; ".join(evidence.notes) or "a registry or a limit kept it from being final"
        yield Refusal(
            "rehearsal.complete", False, f"the rehearsal could not judge every record: {notes}", fix
        )


def _of_schemas(
    case: Case, rehearsal: Entry, evidence: Evidence, policy: PromotionPolicy
) -> Iterable[Refusal]:
    """A schema that the subject got since the fence of the rehearsal: what its writers will send
    was not there to be judged."""
    since = [
        entry
        for entry in case.entries
        if (entry.action, entry.subject) == (REGISTER, case.subject)
        and not entry.evidence.get("was_there")
        and (entry.number > rehearsal.number or entry.time_ns >= evidence.ended_ns)
    ]
    if since:
        told = since[-1]
        what = f"entry {told.number} registered a schema for the subject since the rehearsal began"
        named = told.evidence.get("fingerprint")
        yield Refusal("rehearsal.schemas", named, what, again(case.subject, policy))


def _of_end(case: Case, evidence: Evidence, policy: PromotionPolicy) -> Iterable[Refusal]:
    """Of what was landed since the rehearsal nobody knows what strict would do with it."""
    fix = again(case.subject, policy)
    missing = sorted(case.ends.keys() - evidence.partitions.keys())
    if missing or not case.ends:
        what = "partitions of the topic that the rehearsal did not read"
        yield Refusal("rehearsal.partitions", missing, what, fix)
    worst: tuple[int, int, int] | None = None
    for number, (first, end) in sorted(evidence.partitions.items()):
        now = case.ends.get(number)
        if now is None or now < end:
            what = f"partition {number} was read up to {end} and ends at {now}: another topic"
            yield Refusal("rehearsal.partitions", number, what, fix)
            continue
        allowed = max(policy.tail_offsets, (end - first) // policy.tail_parts)
        if now - end > allowed and (worst is None or now - end > worst[1]):
            worst = (number, now - end, allowed)
    if worst is not None:
        number, unread, allowed = worst
        what = (
            f"partition {number} got {unread} offsets since the rehearsal, {allowed} at most may "
            "be unread"
        )
        yield Refusal("rehearsal.partitions", number, what, fix)


def _of_blocked(case: Case, evidence: Evidence) -> Iterable[Refusal]:
    for rule, count in sorted(evidence.by_rule.items()):
        most = case.accepted.get(rule, 0)
        if count <= most:
            continue
        told = f", {most} are accepted" if most else ""
        fix = "Mend the producer and rehearse again"
        if rule != OTHERS:
            fix += f", or answer for them: --accept {rule}={count}"
        what = f"strict would have blocked {count} records by this rule{told}"
        yield Refusal(f"by_rule.{rule}", count, what, fix)
    for rule in sorted(case.accepted.keys() - evidence.by_rule.keys()):
        named = ", ".join(sorted(evidence.by_rule)) or "none"
        what = f"the rehearsal blocked nothing by this rule; rules that it blocked by: {named}"
        value = f"{rule}={case.accepted[rule]}"
        yield Refusal("accept", value, what, "Leave the exception out, or write the rule's name")


def _of_canary(case: Case, evidence: Evidence, policy: PromotionPolicy) -> Iterable[Refusal]:
    window = format_duration(policy.canary_window_ns)
    traffic = evidence.traffic
    # A subject without a state is in canary from its first record on, as far as is known.
    since_ns = traffic.first_ns if case.state is None else case.state.since_ns
    if traffic.records == 0:
        what = "the rehearsal found no record: there was no traffic to learn from"
        yield Refusal("traffic.records", 0, what, "Let the producers run, then rehearse")
        return
    in_canary_ns = case.now_ns - since_ns
    if in_canary_ns < policy.canary_window_ns:
        left = _about(policy.canary_window_ns - in_canary_ns)
        what = f"in canary for {_about(max(0, in_canary_ns))}, the canary window is {window}"
        fix = f"Promote in {left}, or state another window: --canary-window"
        yield Refusal("canary_window", format_time(since_ns), what, fix)
    span_ns = traffic.last_ns - traffic.first_ns
    if span_ns < policy.span_ns:
        what = (
            f"the records of the rehearsal span {_about(span_ns)}, of a canary window of {window} "
            f"{_about(policy.span_ns)} at least"
        )
        fix = f"{again(case.subject, policy)}, or wait for more traffic"
        yield Refusal("traffic.first_ns", format_time(traffic.first_ns), what, fix)
    if traffic.longest_silence_ns > policy.silence_max_ns:
        what = (
            f"nothing came for {_about(traffic.longest_silence_ns)}, in a canary window of "
            f"{window} {_about(policy.silence_max_ns)} at most: silence proves nothing"
        )
        fix = "Wait for traffic, or state a longer window if the market is closed at times"
        value = traffic.longest_silence_ns
        yield Refusal("traffic.longest_silence_ns", value, what, fix)


def _about(duration_ns: int) -> str:
    """For people: two of days, hours, minutes, seconds."""
    seconds = duration_ns // NS_PER_S
    units = [(seconds // 86_400, "d"), (seconds // 3_600 % 24, "h")]
    units += [(seconds // 60 % 60, "m"), (seconds % 60, "s")]
    while len(units) > 1 and units[0][0] == 0:
        units.pop(0)
    if units == [(0, "s")]:
        return f"{duration_ns // 1_000_000}ms"
    return " ".join(f"{count}{unit}" for count, unit in units[:2] if count)
