"""Which landed records may have made a machine fail, and when one of them alone is to blame.

Decides: how a failed step is narrowed down to one record, how often that record is tried alone, and
that it is passed over after that. Invariants: only a failure while a single record was in the step
counts as its attempt; a record is passed over after `attempts_max` such failures and never before;
narrowing takes few failures (a rebuild costs more than many small steps); what is known of a record
is forgotten once it went through. Must not know: whose failure it was (broker, registry and disk
are never reported here), Kafka, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seamline.streams.kernel.protocol import Record, Role

ATTEMPTS_MAX: Final = 5
# 20,000 records are narrowed to one by three failures: 625, 19, 1.
NARROWED_BY: Final = 32


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A record that no step can take: `attempts` failures, the last one with `cause`."""

    offset: int
    attempts: int
    cause: str


@dataclass(slots=True)
class Suspicion:
    """Of one topic: the culprit is at or before `last`, and steps of at most `rows` records are
    tried. `tried`: the record that failed alone, how often and with which text."""

    last: int
    rows: int
    tried: Poisoned | None = None


class Suspects:
    """What the owner of one partition remembers of failed steps, over all its machines."""

    def __init__(self, attempts_max: int = ATTEMPTS_MAX) -> None:
        self._attempts_max = max(1, attempts_max)
        self._of: dict[Role, Suspicion] = {}

    def narrowed(self, role: Role, records: Sequence[Record]) -> Sequence[Record]:
        """What of `records` the next step may be given."""
        suspicion = self._of.get(role)
        if suspicion is None or records[0].offset > suspicion.last:
            return records
        return records[: suspicion.rows]

    def failed(self, role: Role, records: Sequence[Record], cause: str) -> int:
        """A machine failed on `records` by itself. How often it did so on this one alone; 0 for
        several."""
        last, count = records[-1].offset, len(records)
        if count > 1:
            self._of[role] = Suspicion(last, max(1, count // NARROWED_BY))
            return 0
        before = self._of.get(role)
        tried = None if before is None else before.tried
        attempts = 1 if tried is None or tried.offset != last else tried.attempts + 1
        self._of[role] = Suspicion(last, 1, Poisoned(last, attempts, cause))
        return attempts

    def poisoned(self, role: Role, records: Sequence[Record]) -> Poisoned | None:
        """What is known of the first of `records` when it is to be passed over."""
        suspicion = self._of.get(role)
        tried = None if suspicion is None else suspicion.tried
        if tried is None or tried.offset != records[0].offset:
            return None
        return tried if tried.attempts >= self._attempts_max else None

    def passed(self, role: Role, offset: int) -> None:
        """The record at `offset`, and all before it, went through."""
        suspicion = self._of.get(role)
        if suspicion is not None and offset >= suspicion.last:
            del self._of[role]
