"""How many records strict may block before the subject goes back to canary by itself.

Decides: what of a subject's commits counts, and when its budget is spent: more than `records`
blocked and more than `share_ppm` of what was seen, within `window_ns`, so the larger of the two
limits is the budget (decision 0139). Invariants: memory is bounded whatever comes, one small row of
counts per subject; time is an argument, and a clock that goes back neither forgets a failure nor
keeps one for longer than a window of the time that passed; what was counted under an older version
of the state, or in canary, is never held against a newer strict. Must not know: who demotes, how.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from seamline.schemas.errors import UsageError
from seamline.schemas.modes import STRICT
from seamline.schemas.times import NS_PER_S

RECORDS: Final = 20
SHARE_PPM: Final = 1_000
WINDOW_NS: Final = 300 * NS_PER_S
# A window slides by a thirtieth of it: a failure counts for five minutes and at most ten seconds.
SLOTS: Final = 30
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """`share_ppm`: of a million records seen. Raises UsageError for a limit below 0, or no window.

    `records` 0 and `share_ppm` 0 together demote at the first record that is blocked.
    """

    records: int = RECORDS
    share_ppm: int = SHARE_PPM
    window_ns: int = WINDOW_NS

    def __post_init__(self) -> None:
        for name, least in (("records", 0), ("share_ppm", 0), ("window_ns", SLOTS)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(
                    "not a limit of a budget",
                    parameter=name,
                    value=value,
                    fix=f"Give a whole number, {least} or more",
                )

    def allowed(self, seen: int) -> int:
        """Of so many records, how many may be blocked."""
        return max(self.records, seen * self.share_ppm // _MILLION)


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget that is used up: of `seen` records in about `window_ns`, `failed` were blocked where
    `allowed` may be. `version`: of the state under which they were (0: none was known)."""

    subject: str
    version: int
    seen: int
    failed: int
    allowed: int
    window_ns: int


@dataclass(slots=True)
class _Slot:
    number: int
    seen: int
    failed: int


class FailureBudget:
    """The budget of one subject."""

    def __init__(self, subject: str, policy: BudgetPolicy | None = None) -> None:
        self._subject = subject
        self._policy = policy or BudgetPolicy()
        self._slot_ns = self._policy.window_ns // SLOTS
        self._slots: deque[_Slot] = deque(maxlen=SLOTS + 1)
        self._version = 0
        self._clock_ns: int | None = None
        self._passed_ns = 0

    def add(self, mode: str, version: int, seen: int, failed: int, now_ns: int) -> Spent | None:
        """Count one commit: of `seen` records `failed` were blocked. Whether that is too many.

        Another version begins a new count, a mode other than strict none. Commits of an older
        version that come late are left out. Raises UsageError for counts below 0.
        """
        if min(seen, failed) < 0:
            raise UsageError("a count below 0", parameter="seen", value=(seen, failed))
        self._advance(now_ns)
        if version < self._version:
            return None
        if version > self._version or mode != STRICT:
            self._version = version
            self._slots.clear()
        if mode != STRICT:
            return None
        # A failure is a record that was seen, whatever the caller's count of the others is.
        self._count(max(seen, failed), failed)
        return self._spent()

    def clear(self) -> None:
        """Forget what was counted, not which version is known."""
        self._slots.clear()

    def _advance(self, now_ns: int) -> None:
        """A time of its own: what passes forwards on the clock that is given, never back."""
        if self._clock_ns is not None and now_ns > self._clock_ns:
            self._passed_ns += now_ns - self._clock_ns
        self._clock_ns = now_ns

    def _count(self, seen: int, failed: int) -> None:
        number = self._passed_ns // self._slot_ns
        while self._slots and self._slots[0].number < number - SLOTS:
            self._slots.popleft()
        if not self._slots or self._slots[-1].number != number:
            self._slots.append(_Slot(number, 0, 0))
        self._slots[-1].seen += seen
        self._slots[-1].failed += failed

    def _spent(self) -> Spent | None:
        seen = sum(slot.seen for slot in self._slots)
        failed = sum(slot.failed for slot in self._slots)
        allowed = self._policy.allowed(seen)
        if failed <= allowed:
            return None
        return Spent(self._subject, self._version, seen, failed, allowed, self._policy.window_ns)
