"""Takes a subject back to canary when strict blocks more than its budget, without being asked.

Decides: when a spent budget becomes a demotion, how often that is tried, and what is said of it.
Invariants: counting never blocks and never raises, so no commit waits for it; a demotion is decided
again on the log as it is: two workers that both want it give one entry, and a strict that somebody
set meanwhile stands; a version of a state is demoted once and not counted any more; while a
demotion does not succeed strict goes on blocking (nothing passes unchecked), every failed attempt
is logged as an error and counted, and after ATTEMPTS the next blocked record begins anew. Must not
know: rules, records, Faust.

The order: 1 entry and mode in one transaction, 2 metric and log, 3 the registry's level. A crash
after 1 leaves a strict level, which the next governance command of the subject takes back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from seamline.connectors.governance.log import Change, Governed
from seamline.connectors.governance.promoting import Registry, demotion
from seamline.connectors.registry.registration import CANARY_LEVEL
from seamline.schemas.audit import Entry
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.errors import SeamlineError
from seamline.schemas.modes import STRICT
from seamline.schemas.times import format_duration
from seamline.streams.kernel.failure_budget import BudgetPolicy, FailureBudget, Spent
from seamline.streams.kernel.failure_detail import Checked
from seamline.streams.kernel.rollback import BUDGET_DEMOTE

log = logging.getLogger(__name__)

ATTEMPTS: Final = 5
AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 30.0


class Commits(Protocol):
    """The one thing that is asked of a `GovernanceLog`."""

    def commit(
        self, decide: Callable[[Governed], Change], clock_ns: Callable[[], int]
    ) -> tuple[Entry, ...]: ...


class Told(Protocol):
    """Who counts what the guard did; never raises, never blocks."""

    def budget_demoted(self, subject: str) -> None: ...
    def budget_demotion_failed(self, subject: str) -> None: ...


class BudgetGuard:
    """The budgets of the landing subjects of one worker. `actor`: the worker's name.

    `governance` is asked for a log when one is needed: most workers never do. `registry` None: its
    level is left to the next command. `start` before `stop`; `count` at any time, from any thread.
    """

    def __init__(
        self,
        governance: Callable[[], Commits],
        subjects: Iterable[str],
        *,
        actor: str,
        told: Told,
        registry: Registry | None = None,
        policy: BudgetPolicy | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        again_s: float = AGAIN_S,
    ) -> None:
        self._governance, self._registry, self._told = governance, registry, told
        self._actor, self._clock_ns, self._again_s = actor, clock_ns, again_s
        self._lock = threading.Lock()
        # One of each for every subject, so bounded by them; guarded by the lock.
        self._budgets = {name: FailureBudget(name, policy) for name in subjects}
        self._ended: dict[str, int] = {}
        self._pending: dict[str, Spent] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budget guard", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, without waiting. A demotion that is under way ends with the process:
        it is written whole or not at all, and where not the next worker counts anew."""
        self._stopping.set()
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether a demotion is wanted and not written yet."""
        with self._lock:
            return bool(self._pending)

    def checked(self, commit: Checked) -> None:
        """Count what a commit covered."""
        self.count(commit.subject, commit.mode, commit.version, commit.seen, commit.blocked)

    def count(self, subject: str, mode: str, version: int, seen: int, blocked: int) -> None:
        """One commit: of `seen` records of the subject, judged under that version of its state,
        `blocked` are in quarantine because it is strict. Other subjects are left out."""
        with self._lock:
            budget = self._budgets.get(subject)
            if budget is None or version <= self._ended.get(subject, -1):
                return
            spent = budget.add(mode, version, seen, blocked, self._clock_ns())
            if spent is None or subject in self._pending:
                return
            self._pending[subject] = spent
        self._wake.set()

    # -- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            for spent in self._taken():
                self._handle(spent)

    def _taken(self) -> list[Spent]:
        with self._lock:
            return list(self._pending.values())

    def _handle(self, spent: Spent) -> None:
        wait_s = self._again_s
        for attempt in range(1, ATTEMPTS + 1):
            try:
                entries = self._governance().commit(
                    lambda now: self._decide(now, spent), self._clock_ns
                )
            except Exception as error:
                # Whatever it was: strict goes on, and nobody may take that for a demotion.
                self._say_failed(spent, attempt, error)
            else:
                self._close(spent, ended=True)
                self._say_done(spent, entries)
                return
            if attempt < ATTEMPTS and self._stopping.wait(wait_s):
                return
            wait_s = min(AGAIN_MAX_S, wait_s * 2)
        self._close(spent, ended=False)

    def _close(self, spent: Spent, *, ended: bool) -> None:
        with self._lock:
            del self._pending[spent.subject]
            if ended:
                self._ended[spent.subject] = spent.version
                self._budgets[spent.subject].clear()

    def _decide(self, governed: Governed, spent: Spent) -> Change:
        state = governed.book.state_of(spent.subject)
        if state is not None and state.version > spent.version:
            return Change()  # what was blocked was blocked under a state that is over
        now_ns = self._clock_ns()
        plan = demotion(
            governed,
            spent.subject,
            actor=self._actor,
            reason=_reason(spent),
            bundle_sha256=BUNDLE_SHA256,
            default_mode=STRICT,  # it was in force, or nothing would have been blocked
            clock_ns=now_ns,
            action=BUDGET_DEMOTE,
            evidence={
                "seen": spent.seen,
                "blocked": spent.failed,
                "allowed": spent.allowed,
                "window_ns": spent.window_ns,
            },
            window_ns=(now_ns - spent.window_ns, now_ns),
        )
        return Change() if plan is None else plan.change

    def _say_done(self, spent: Spent, entries: tuple[Entry, ...]) -> None:
        if not entries:
            log.warning("%s: somebody else changed its mode already", spent.subject)
            return
        self._told.budget_demoted(spent.subject)
        log.error(
            "%s is canary again, records pass and are counted: %s (audit entry %d)",
            *(spent.subject, _reason(spent), entries[0].number),
        )
        if self._registry is None:
            return
        try:
            self._registry.set_compatibility(spent.subject, CANARY_LEVEL)
        except SeamlineError as error:
            log.warning(
                "%s: its level in the registry stays strict until the next schema command: %s",
                *(spent.subject, error),
            )

    def _say_failed(self, spent: Spent, attempt: int, error: Exception) -> None:
        self._told.budget_demotion_failed(spent.subject)
        log.error(
            "%s: its budget is spent and it could not be demoted (attempt %d of %d), strict goes "
            "on blocking; demote it by hand if this lasts: %s",
            *(spent.subject, attempt, ATTEMPTS),
            error if isinstance(error, SeamlineError) else f"{type(error).__name__}: {error}",
        )


def _reason(spent: Spent) -> str:
    return (
        f"the failure budget is spent: {spent.failed} of {spent.seen} records blocked in "
        f"{format_duration(spent.window_ns)}, {spent.allowed} are allowed"
    )
