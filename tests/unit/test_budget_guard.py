"""The guard of strict budgets: when it demotes, what it writes, and a log that does not answer.

The log is kept in memory: what a broker does to it is held by `integration/test_governance_log`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from seamline.connectors.governance.budget_guard import ATTEMPTS, BudgetGuard
from seamline.connectors.governance.log import Change, Governed
from seamline.schemas.audit import Entry, append
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import CANARY, STRICT, ModeBook, SubjectState, encode_state
from seamline.streams.kernel.failure_budget import WINDOW_NS

SUBJECT = "seamline.ohlcv.x.spot.1m.live-value"
BUNDLE = "a" * 64
NOW = 1_790_000_000_000_000_000
STRICT_2 = SubjectState(SUBJECT, STRICT, 2, NOW - 1, "ann", "clean", BUNDLE)


class HeldLog:
    """Entries and states in memory; fails the first `failures` commits."""

    def __init__(self, *states: SubjectState, failures: int = 0) -> None:
        self.entries: tuple[Entry, ...] = ()
        self.book = ModeBook()
        self.failures, self.calls = failures, 0
        self._lock = threading.Lock()
        for state in states:
            self.take(state)

    def take(self, state: SubjectState) -> None:
        assert self.book.take(state.subject.encode(), encode_state(state)) == state

    def commit(
        self, decide: Callable[[Governed], Change], clock_ns: Callable[[], int]
    ) -> tuple[Entry, ...]:
        with self._lock:
            self.calls += 1
            if self.calls <= self.failures:
                raise TransportError("no broker")
            head = self.entries[-1].head if self.entries else None
            change = decide(Governed(self.entries, head, self.book))
            written: list[Entry] = []
            for draft in change.drafts:
                written.append(append(head, 0, draft, clock_ns()))
                head = written[-1].head
            for state in change.states:
                self.take(state)
            self.entries += tuple(written)
            return tuple(written)


class Counted:
    def __init__(self) -> None:
        self.demoted: list[str] = []
        self.failed: list[str] = []

    def budget_demoted(self, subject: str) -> None:
        self.demoted.append(subject)

    def budget_demotion_failed(self, subject: str) -> None:
        self.failed.append(subject)


def guard(log: HeldLog, told: Counted, actor: str = "worker:1") -> BudgetGuard:
    made = BudgetGuard(
        lambda: log, [SUBJECT], actor=actor, told=told, clock_ns=lambda: NOW, again_s=0.001
    )
    made.start()
    return made


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_spent_budget_is_one_entry_with_what_was_counted() -> None:
    log, told = HeldLog(STRICT_2), Counted()
    made = guard(log, told)
    made.count(SUBJECT, STRICT, 2, 60, 20)
    made.count("seamline.other.live-value", STRICT, 2, 60, 60)
    made.count(SUBJECT, STRICT, 2, 40, 5)
    await_that(lambda: told.demoted == [SUBJECT])
    # What is judged strict before the worker follows the change is not counted once more.
    made.count(SUBJECT, STRICT, 2, 40, 40)
    made.stop()
    (entry,) = log.entries
    assert (entry.action, entry.actor, entry.window_ns) == (
        *("budget_demote", "worker:1"),
        (NOW - WINDOW_NS, NOW),
    )
    assert "25 of 100 records" in entry.reason
    counted = {name: entry.evidence[name] for name in ("seen", "blocked", "allowed")}
    assert counted == {"seen": 100, "blocked": 25, "allowed": 20}
    state = log.book.state_of(SUBJECT)
    assert state is not None and (state.mode, state.version) == (CANARY, 3)
    assert (log.calls, told.failed) == (1, [])


def test_two_workers_that_both_want_it_give_one_entry() -> None:
    log, told = HeldLog(STRICT_2), Counted()
    guards = [guard(log, told, f"worker:{n}") for n in range(2)]
    for each in guards:
        each.count(SUBJECT, STRICT, 2, 30, 30)
    await_that(lambda: log.calls == 2)
    for each in guards:
        each.stop()
    assert len(log.entries) == 1 and told.demoted == [SUBJECT]


def test_a_strict_that_somebody_set_meanwhile_stands() -> None:
    newer = replace(STRICT_2, version=4)
    log, told = HeldLog(newer), Counted()
    made = guard(log, told)
    made.count(SUBJECT, STRICT, 2, 30, 30)
    await_that(lambda: log.calls == 1)
    # Under the newer state its own failures count.
    made.count(SUBJECT, STRICT, 4, 30, 20)
    made.count(SUBJECT, STRICT, 4, 30, 1)
    await_that(lambda: told.demoted == [SUBJECT])
    made.stop()
    assert [entry.evidence["before"]["version"] for entry in log.entries] == [4]


def test_strict_by_default_alone_is_demoted_too() -> None:
    log, told = HeldLog(), Counted()
    made = guard(log, told)
    made.count(SUBJECT, STRICT, 0, 30, 30)
    await_that(lambda: told.demoted == [SUBJECT])
    made.stop()
    state = log.book.state_of(SUBJECT)
    assert state is not None and (state.mode, state.version) == (CANARY, 1)


def test_a_log_that_does_not_answer_is_tried_again_and_told_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, told = HeldLog(STRICT_2, failures=2), Counted()
    with caplog.at_level(logging.WARNING):
        made = guard(log, told)
        made.count(SUBJECT, STRICT, 2, 30, 30)
        await_that(lambda: told.demoted == [SUBJECT])
        made.stop()
    assert told.failed == [SUBJECT] * 2 and len(log.entries) == 1
    assert caplog.text.count("could not be demoted") == 2
    assert "canary again" in caplog.text


def test_after_the_last_attempt_the_next_blocked_record_begins_anew() -> None:
    log, told = HeldLog(STRICT_2, failures=ATTEMPTS), Counted()
    made = guard(log, told)
    made.count(SUBJECT, STRICT, 2, 30, 30)
    await_that(lambda: len(told.failed) == ATTEMPTS)

    def demoted() -> bool:
        made.count(SUBJECT, STRICT, 2, 1, 1)
        return told.demoted == [SUBJECT]

    await_that(demoted)
    made.stop()
    assert len(told.failed) == ATTEMPTS and len(log.entries) == 1
