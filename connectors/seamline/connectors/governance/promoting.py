"""Changing what is in force for a subject: promote, demote, tombstone, roll back.

Decides: in which order registry and governance log are changed, and what a change writes.
Invariants: a change and its audit entry are one transaction, made on the log as it is at that
moment: of two promotions at once one wins and the other is refused; whatever command is killed
where, the mode in force is the one of the newest entry, and a subject that must be strict is never
looser in the registry for longer than until its next command; a demotion needs the broker alone.
Must not know: whether a rehearsal is good enough (`kernel.promotion`), where a rollback may go
(`kernel.rollback`), how a command answers.

Into strict (promote, a rollback into strict):
1. judge on the log as it is; a refusal ends here and nothing was changed
2. the subject's level in the registry becomes the strict one
3. judge again inside the log's transaction; entry and mode become visible together
A crash after 2 leaves a canary subject with a strict level: the registry may refuse a new schema,
records flow as before.

Everything else (demote, tombstone, a rollback out of strict):
1. entry and mode in one transaction
2. the registry follows: level NONE in canary, withdrawn versions deleted softly, others back
A crash after 1 leaves a strict level, or a version that only our own check refuses.

In both cases the last step of every command is to make the registry what the newest state says
(`_settle`), so whatever a crash or a registry that was down left over is done by the next command
of that subject; what could not be done is in the answer's `left`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from seamline.connectors.governance.log import Change, GovernanceLog, Governed
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.registry.registration import CANARY_LEVEL, Subject
from seamline.schemas.audit import Draft, Entry
from seamline.schemas.contract import (
    BUNDLE_SHA256,
    SCHEMAS,
    approved,
    by_fingerprint,
    fingerprint_of_text,
)
from seamline.schemas.errors import ContractError, SeamlineError, UsageError
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.streams.kernel import rollback as rollbacks
from seamline.streams.kernel.promotion import (
    Case,
    PromotionPolicy,
    Refusal,
    judge,
    newest_rehearsal,
)
from seamline.streams.kernel.rehearsal import Evidence
from seamline.streams.kernel.rollback import change_of, standing

# How often the state may change while the registry is made to follow it.
SETTLE_MAX: Final = 3
_VERSION: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)
# Whole, or as much of its beginning as tables show.
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12,64}")


class Registry(Protocol):
    """What this module asks of a schema registry; each call may raise TransportError."""

    def compatibility(self, subject: str) -> str | None: ...
    def set_compatibility(self, subject: str, level: str) -> None: ...
    def register(self, subject: str, text: str) -> int: ...
    def versions(self, subject: str) -> Mapping[int, str]: ...
    def withdraw(self, subject: str, version: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did. `entry` None: nothing had to be written, or nothing was (a dry run).

    `draft`, `state`: what was written, or would be. `left`: what the registry could not be told;
    the next command of the subject does it.
    """

    draft: Draft | None
    state: SubjectState | None
    entry: Entry | None = None
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One change of one subject, decided on the log as it is."""

    draft: Draft
    state: SubjectState

    @property
    def change(self) -> Change:
        return Change((self.draft,), (self.state,))


class Promoting:
    """The changes of one person or program, named `actor`.

    `default_mode`: of subjects that have no state. Every method raises ContractError for a refusal
    (field `refusals`), UsageError for wrong arguments, TransportError where the broker, or for a
    change into strict the registry, does not answer.
    """

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        *,
        actor: str,
        default_mode: str = CANARY,
        bundle_sha256: str = BUNDLE_SHA256,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster, self._registry = cluster, registry
        self._log = GovernanceLog(cluster)
        self._actor, self._default_mode = actor, default_mode
        self._bundle_sha256, self._clock_ns = bundle_sha256, clock_ns

    def promote(
        self,
        subject: Subject,
        reason: str,
        policy: PromotionPolicy,
        accepted: Mapping[str, int],
        *,
        dry_run: bool = False,
    ) -> Outcome:
        """Canary to strict, where the evidence allows it."""

        def decide(governed: Governed) -> Plan:
            return self._promotion(governed, subject, reason, policy, accepted)

        return self._carry_out(subject, decide, dry_run)

    def demote(self, subject: Subject, reason: str, *, dry_run: bool = False) -> Outcome:
        """Back to canary. A subject that is there already is no error; nothing is written."""

        def decide(governed: Governed) -> Plan | None:
            return demotion(
                governed,
                subject.name,
                actor=self._actor,
                reason=reason,
                bundle_sha256=self._bundle_sha256,
                default_mode=self._default_mode,
                clock_ns=self._clock_ns(),
            )

        return self._carry_out(subject, decide, dry_run)

    def tombstone(
        self, subject: Subject, version: str, reason: str, *, dry_run: bool = False
    ) -> Outcome:
        """Withdraw a writer schema for this subject: `version` is its number in the registry, or
        its fingerprint, of which the first 12 digits are enough."""
        fingerprint = self._fingerprint_of(subject, version)

        def decide(governed: Governed) -> Plan:
            state = governed.book.state_of(subject.name)
            held = () if state is None else state.tombstones
            if fingerprint in held:
                what = "withdrawn for this subject already"
                raise Refusal("version", version, what, "Nothing is left to do").error()
            after = self._next(governed, subject.name, reason, tombstones=(*held, fingerprint))
            evidence = {"fingerprint": fingerprint, "named": version}
            return self._plan("tombstone", governed, after, evidence)

        return self._carry_out(subject, decide, dry_run)

    def rollback(
        self, subject: Subject, reason: str, policy: PromotionPolicy, *, dry_run: bool = False
    ) -> Outcome:
        """To what stood before the last change of the subject."""

        def decide(governed: Governed) -> Plan:
            return self._rollback(governed, subject, reason, policy)

        return self._carry_out(subject, decide, dry_run)

    # -- carrying out

    def _carry_out(
        self, subject: Subject, decide: Callable[[Governed], Plan | None], dry_run: bool
    ) -> Outcome:
        governed = self._log.read()
        try:
            plan = decide(governed)
        except SeamlineError:
            if not dry_run:
                self._settle(subject)
            raise
        if dry_run:
            return _shown(plan)
        if plan is None:
            done, left = self._settle(subject)
            return Outcome(None, governed.book.state_of(subject.name), None, done, left)
        held: str | None = None
        if plan.state.mode == STRICT:
            held = self._registry.compatibility(subject.name)
            self._registry.set_compatibility(subject.name, subject.strict_level)
        written: list[Plan] = []

        def change(now: Governed) -> Change:
            written.clear()
            decided = decide(now)
            if decided is None:
                return Change()
            written.append(decided)
            return decided.change

        try:
            entries = self._log.commit(change, self._clock_ns)
        except SeamlineError:
            self._settle(subject, stateless=held)
            raise
        done, left = self._settle(subject, registered=_returned(plan.draft))
        if not entries:
            return replace(_shown(None), done=done, left=left)
        return replace(_shown(written[-1]), entry=entries[0], done=done, left=left)

    def _settle(
        self,
        subject: Subject,
        registered: tuple[str, ...] = (),
        *,
        stateless: str | None = None,
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The registry as the newest state says: what was done, and what could not be. A subject
        that still has none gets its level of before back, `stateless`, where one is given."""
        done: list[str] = []
        try:
            for _ in range(SETTLE_MAX):
                state = self._log.read().book.state_of(subject.name)
                if state is None:
                    if stateless is not None:
                        self._registry.set_compatibility(subject.name, stateless)
                    return (), ()
                strict = state.mode == STRICT
                level = subject.strict_level if strict else CANARY_LEVEL
                if self._registry.compatibility(subject.name) != level:
                    self._registry.set_compatibility(subject.name, level)
                    done.append(f"level {level}")
                done += self._withdraw(subject, state)
                done += self._give_back(subject, state, registered)
                if self._log.read().book.state_of(subject.name) == state:
                    break
        except SeamlineError as error:
            return tuple(done), (str(error),)
        return tuple(done), ()

    def _withdraw(self, subject: Subject, state: SubjectState) -> list[str]:
        if not state.tombstones:
            return []
        done = []
        for version, text in self._registry.versions(subject.name).items():
            if _fingerprint(text) in state.tombstones:
                self._registry.withdraw(subject.name, version)
                done.append(f"version {version} deleted")
        return done

    def _give_back(
        self, subject: Subject, state: SubjectState, registered: tuple[str, ...]
    ) -> list[str]:
        """What a rollback took back; a registry gives a deleted text its id again."""
        done = []
        for fingerprint in registered:
            schema = by_fingerprint(fingerprint)
            if schema is not None and fingerprint not in state.tombstones:
                self._registry.register(subject.name, schema.text)
                done.append(f"{schema.name} v{schema.version} registered")
        return done

    # -- deciding

    def _promotion(
        self,
        governed: Governed,
        subject: Subject,
        reason: str,
        policy: PromotionPolicy,
        accepted: Mapping[str, int],
    ) -> Plan:
        case = Case(
            subject.name,
            governed.book.state_of(subject.name),
            governed.entries,
            self._bundle_sha256,
            self._ends(subject),
            accepted,
            self._clock_ns(),
        )
        evidence, refusals = judge(case, policy)
        if refusals:
            raise refusals[0].error(refusals)
        assert evidence is not None
        entry = newest_rehearsal(governed.entries, subject.name)
        assert entry is not None
        after = self._next(governed, subject.name, reason, mode=STRICT)
        window = (evidence.since_ns, evidence.ended_ns)
        told = _told(entry, evidence, policy, accepted) | {"level": subject.strict_level}
        return self._plan("promote", governed, after, told, window)

    def _rollback(
        self, governed: Governed, subject: Subject, reason: str, policy: PromotionPolicy
    ) -> Plan:
        state = governed.book.state_of(subject.name)
        entry, before, refusals = rollbacks.target(
            subject.name,
            state,
            governed.entries,
            bundle_sha256=self._bundle_sha256,
            fresh_ns=policy.fresh_ns,
            now_ns=self._clock_ns(),
        )
        if refusals:
            raise refusals[0].error(refusals)
        assert entry is not None and before is not None and state is not None
        for fingerprint in before.tombstones:
            _refuse_ours(subject, fingerprint, fingerprint)
        after = self._next(
            governed, subject.name, reason, mode=before.mode, tombstones=before.tombstones
        )
        returned = sorted(set(state.tombstones) - set(before.tombstones))
        evidence = {"rolled_back": entry.number, "action": entry.action, "returned": returned}
        return self._plan("rollback", governed, after, evidence)

    def _next(self, governed: Governed, subject: str, reason: str, **changed: Any) -> SubjectState:
        state = governed.book.state_of(subject)
        now_ns = chain_time(governed, self._clock_ns())
        return following(
            subject,
            state,
            actor=self._actor,
            reason=reason,
            bundle_sha256=self._bundle_sha256,
            now_ns=now_ns,
            mode=changed.get("mode", self._default_mode if state is None else state.mode),
            tombstones=changed.get("tombstones", () if state is None else state.tombstones),
        )

    def _plan(
        self,
        action: str,
        governed: Governed,
        after: SubjectState,
        evidence: Mapping[str, Any],
        window_ns: tuple[int, int] | None = None,
    ) -> Plan:
        before = standing(governed.book.state_of(after.subject), self._default_mode)
        return Plan(
            Draft(
                action,
                after.subject,
                after.actor,
                after.reason,
                self._bundle_sha256,
                window_ns,
                {**change_of(before, standing(after)), **evidence},
            ),
            after,
        )

    def _ends(self, subject: Subject) -> Mapping[int, int]:
        admin = Admin(self._cluster)
        topic = subject.name.removesuffix("-value")
        count = admin.partitions([topic]).get(topic, 0)
        ends = admin.end_offsets([(topic, number) for number in range(count)])
        return {number: end for (_, number), end in ends.items()}

    def _fingerprint_of(self, subject: Subject, version: str) -> str:
        text = version.strip().lower()
        if _VERSION.fullmatch(text):
            known = self._registry.versions(subject.name)
            if int(text) not in known:
                raise UsageError(
                    "the subject has no such version in the registry",
                    parameter="version",
                    value=version,
                    fix=f"It has {', '.join(map(str, known)) or 'none'}",
                )
            fingerprint = _fingerprint(known[int(text)])
        elif _FINGERPRINT.fullmatch(text):
            known_ones = {schema.fingerprint for schema in approved()}
            if text not in known_ones:
                texts = self._registry.versions(subject.name).values()
                known_ones |= set(map(_fingerprint, texts))
            found = [each for each in known_ones if each.startswith(text)]
            if len(found) != 1:
                raise UsageError(
                    f"{len(found) or 'no'} approved schemas and versions of the subject have a"
                    " fingerprint that begins so",
                    parameter="version",
                    value=version,
                    fix="See seamline schema list -o json",
                )
            fingerprint = found[0]
        else:
            raise UsageError(
                "neither a version of the registry nor a fingerprint",
                parameter="version",
                value=version,
                fix="Give a number such as 2, or the first 12 or more hex digits of a fingerprint",
            )
        _refuse_ours(subject, fingerprint, version)
        return fingerprint


def demotion(
    governed: Governed,
    subject: str,
    *,
    actor: str,
    reason: str,
    bundle_sha256: str,
    default_mode: str,
    clock_ns: int,
    action: str = "demote",
    evidence: Mapping[str, Any] | None = None,
    window_ns: tuple[int, int] | None = None,
) -> Plan | None:
    """Back to canary; None where the subject's own state is canary already."""
    state = governed.book.state_of(subject)
    if state is not None and state.mode == CANARY:
        return None
    after = following(
        subject,
        state,
        actor=actor,
        reason=reason,
        bundle_sha256=bundle_sha256,
        now_ns=chain_time(governed, clock_ns),
        mode=CANARY,
        tombstones=() if state is None else state.tombstones,
    )
    change = change_of(standing(state, default_mode), standing(after))
    told = {**change, **(evidence or {})}
    draft = Draft(action, subject, actor, reason, bundle_sha256, window_ns, told)
    return Plan(draft, after)


def following(
    subject: str,
    state: SubjectState | None,
    *,
    actor: str,
    reason: str,
    bundle_sha256: str,
    now_ns: int,
    mode: str,
    tombstones: tuple[str, ...],
) -> SubjectState:
    """The next version. While the mode stays, so do the time since which it is in force and the
    bundle that it was set for."""
    if state is not None and state.mode == mode:
        return replace(
            state, version=state.version + 1, actor=actor, reason=reason, tombstones=tombstones
        )
    version = 1 if state is None else state.version + 1
    return SubjectState(
        subject, mode, version, now_ns, actor, reason, bundle_sha256, tuple(tombstones)
    )


def chain_time(governed: Governed, clock_ns: int) -> int:
    """A clock that went back does not take the states back either."""
    return max(clock_ns, governed.entries[-1].time_ns) if governed.entries else clock_ns


def _told(
    entry: Entry, evidence: Evidence, policy: PromotionPolicy, accepted: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "rehearsal": {"number": entry.number, "hash": entry.hash},
        "records": evidence.records,
        "blocked_records": evidence.blocked_records,
        "by_rule": dict(evidence.by_rule),
        "accepted": dict(accepted),
        "canary_window_ns": policy.canary_window_ns,
    }


def _shown(plan: Plan | None) -> Outcome:
    return Outcome(None, None) if plan is None else Outcome(plan.draft, plan.state)


def _returned(draft: Draft) -> tuple[str, ...]:
    return tuple(draft.evidence.get("returned", ()))


def _fingerprint(text: str) -> str:
    """Of a foreign text that may be no schema at all: then it equals no tombstone."""
    try:
        return fingerprint_of_text(text)
    except ContractError:
        return ""


def _refuse_ours(subject: Subject, fingerprint: str, named: str) -> None:
    for name in subject.schemas:
        if SCHEMAS[name].fingerprint == fingerprint:
            raise Refusal(
                "version",
                named,
                f"{name} v{SCHEMAS[name].version} is what our own producers write now",
                "Approve and roll out a newer version first",
            ).error()
