"""Every case there is. One value each; a new one is added to its module's CASES, or here."""

from __future__ import annotations

from faults import broker_cases, reader_cases, venue_cases, worker_cases
from faults.case import Case

CASES: tuple[Case, ...] = (
    *worker_cases.CASES,
    *broker_cases.CASES,
    *venue_cases.CASES,
    *reader_cases.CASES,
)
