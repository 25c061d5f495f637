"""One question to a registry: how long it may take, and what is known of an outage.

Decides: that a question is given up after a time of ours (a server that sends a byte now and then
never meets the timeout of an HTTP client), that a registry which failed is left alone for a moment
(a record of an unknown id must not cost a timeout each), that those whom others wait for spend a
part of their time on questions and no more, and that an outage is said once when it begins and once
when it ends. Invariants: at most `ASKING_MAX` questions are open, and more of them wait for their
turn: that many ask at once is no fault of the registry; a question that was given up may end later
and harms nobody. Must not know: what is asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import BoundedSemaphore, Event, Lock, Thread, local
from typing import Final, Generic, TypeVar

T = TypeVar("T")

ASKING_MAX: Final = 8
# The longer a question took in vain, the longer the registry is left alone.
PAUSE_FACTOR: Final = 4.0
PAUSE_MAX_S: Final = 30.0
# Of the time of a caller that holds others up: what it may spend on questions in the long run.
PATIENT_SHARE: Final = 0.2

log = logging.getLogger("seamline.registry")


class GivenUpError(Exception):
    """No answer in time, or too many questions without one."""


class _Question(Generic[T]):
    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self.done = Event()
        self.answer: T | None = None
        self.error: Exception | None = None

    def run(self, slots: BoundedSemaphore) -> None:
        try:
            self.answer = self._ask()
        except Exception as error:
            self.error = error
        finally:
            slots.release()
            self.done.set()


class Asking:
    """Asks within a time. May be shared by threads."""

    def __init__(self) -> None:
        self._slots = BoundedSemaphore(ASKING_MAX)

    def within(self, ask: Callable[[], T], seconds: float) -> T:
        """The answer, or what `ask` raised; GivenUpError after `seconds`."""
        deadline_s = time.monotonic() + seconds
        if not self._slots.acquire(timeout=seconds):
            raise GivenUpError(f"{ASKING_MAX} questions are without an answer in {seconds:g} s")
        question = _Question(ask)
        asked = (self._slots,)
        try:
            Thread(target=question.run, args=asked, name="schema registry", daemon=True).start()
        except RuntimeError:  # no more threads now: the turn is free again
            self._slots.release()
            raise
        if not question.done.wait(max(0.0, deadline_s - time.monotonic())):
            raise GivenUpError(f"no answer in {seconds:g} s")
        if question.error is not None:
            raise question.error
        return question.answer  # type: ignore[return-value]


class Patience(local):
    """What a thread that holds others up has spent on questions: `most_s` at once, and in the long
    run PATIENT_SHARE of its time, however slow the answers are and however many ids are made up.
    Each thread has its own.
    """

    def __init__(self, most_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._left_s, self._clock_s = most_s, most_s, clock_s
        self._at_s = clock_s()

    @property
    def spent(self) -> bool:
        """Whether nothing may be asked now."""
        return self._left() <= 0

    def took(self, seconds: float) -> None:
        """A question took so long."""
        self._left_s = self._left() - seconds

    def _left(self) -> float:
        now_s = self._clock_s()
        earned_s = PATIENT_SHARE * (now_s - self._at_s)
        self._left_s, self._at_s = min(self._most_s, self._left_s + earned_s), now_s
        return self._left_s


@dataclass(frozen=True, slots=True)
class Outage:
    """A registry that fails. `since_s` and `until_s` are of the monotonic clock: when it began, and
    when it is asked again."""

    cause: str
    since_s: float
    until_s: float
    failures: int


class OutageBook:
    """What is known of one registry's outage. May be shared by threads."""

    def __init__(self, url: str, cached: Callable[[], int]) -> None:
        self._url = url
        self._cached = cached
        self._now: Outage | None = None
        self._lock = Lock()

    @property
    def now(self) -> Outage | None:
        return self._now

    def paused(self) -> str | None:
        """Why it is not asked at this moment, None when it may be."""
        now = self._now
        return now.cause if now is not None and time.monotonic() < now.until_s else None

    def failed(self, cause: str, began_s: float, pause_s: float) -> None:
        """A question that began at `began_s` failed; leave the registry alone for a while."""
        end_s = time.monotonic()
        rest_s = max(pause_s, min(PAUSE_MAX_S, PAUSE_FACTOR * (end_s - began_s)))
        with self._lock:
            before = self._now
            since_s = began_s if before is None else before.since_s
            failures = 1 if before is None else before.failures + 1
            self._now = Outage(cause, since_s, end_s + rest_s, failures)
        if before is None:
            log.error(
                "the schema registry %s is out: %s; works on %d cached schemas, records of other"
                " ids cannot be read until it answers",
                *(self._url, cause, self._cached()),
            )

    def answered(self) -> None:
        """The registry answered."""
        with self._lock:
            before, self._now = self._now, None
        if before is not None:
            log.warning(
                "the schema registry %s answers again after %.1f s and %d failed requests",
                *(self._url, time.monotonic() - before.since_s, before.failures),
            )
