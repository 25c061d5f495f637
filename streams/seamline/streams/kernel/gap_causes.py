"""Why bars are missing, as far as evidence goes.

Decides: the one cause that a gap has, by a table over five facts; which missing runs a change of
bars may give another cause. Invariants: every combination of facts has exactly one cause; a cause
that is proved is never made `unknown` by more evidence; nothing is proved by the absence of bars
alone. Must not know: where evidence lies, when it is looked up, clocks.

The proof is the venue's own numbering: it numbers the trades of a symbol without a hole, so the
last trade of the bar before and the first trade of the bar after are neighbours exactly when nobody
traded between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from seamline.schemas.columns import (
    I8,
    OPTIONAL_AUTHORITY_SHIFT,
    REST_SETTLED,
    SUSPECT,
    WS_CLOSED,
)

Interval = tuple[int, int]
Cause = Literal["no_trades", "venue_outage", "our_loss", "late", "unknown"]
NO_TRADES: Final = "no_trades"
VENUE_OUTAGE: Final = "venue_outage"
OUR_LOSS: Final = "our_loss"
LATE: Final = "late"
UNKNOWN: Final = "unknown"
PROVED: Final = (NO_TRADES, VENUE_OUTAGE, OUR_LOSS)

# What the trade ids on both sides say: they join; trades are missing between them; nothing.
Ids = Literal["join", "jump", "silent"]
# These state a bar that is over; a bar asked for too early may lack its last trades.
TRUSTED: Final = (REST_SETTLED, WS_CLOSED)
_FIRST_ID_SHIFT: Final = OPTIONAL_AUTHORITY_SHIFT[2]
_LAST_ID_SHIFT: Final = OPTIONAL_AUTHORITY_SHIFT[3]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one gap. Intervals and cells are of one unit and half-open.

    last_id_before, first_id_after: trade ids of the bars on both sides, None where there is no
    trusted one. whole_sides: those bars miss none of their own trades. sent: ranges for which a
    source stated that it sent bars. outages: ranges in which the venue says it was down. answered:
    ranges that a source was asked for and answered. settled_through: what is before it is older
    than the settle time, None: all is. forgotten_before: what is before it the venue's statement no
    longer reaches, and `stated_down` says that the gap was in it once; None: it reaches all.
    """

    last_id_before: int | None = None
    first_id_after: int | None = None
    whole_sides: bool = True
    sent: tuple[Interval, ...] = ()
    outages: tuple[Interval, ...] = ()
    answered: tuple[Interval, ...] = ()
    settled_through: int | None = None
    forgotten_before: int | None = None
    stated_down: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Evidence, seen from one gap. lost: something was sent for it. down: the venue was, all the
    while. awaited: part of it may still come. answered: a source was asked for all of it."""

    ids: Ids
    lost: bool
    down: bool
    awaited: bool
    answered: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table; None fits every value. `because` is for people."""

    cause: Cause
    ids: Ids
    lost: bool | None = None
    down: bool | None = None
    awaited: bool | None = None
    answered: bool | None = None
    because: str | None = None

    def fits(self, facts: Facts) -> bool:
        return (
            self.ids == facts.ids
            and self.lost in (None, facts.lost)
            and self.down in (None, facts.down)
            and self.awaited in (None, facts.awaited)
            and self.answered in (None, facts.answered)
        )


JOINED: Final = Rule(
    NO_TRADES, "join", because="the trade ids on both sides join: nobody traded in between"
)
# Our own loss would have been filled by the answer.
LOST_THERE: Final = Rule(
    *(VENUE_OUTAGE, "jump"),
    answered=True,
    because="the trade ids jump, and the settled history of the venue was asked for all of it and "
    "has no bar: the venue lost it",
)
LOST_HERE: Final = Rule(
    *(OUR_LOSS, "jump"),
    answered=False,
    because="the trade ids jump: bars are missing here, and settled history was not asked for all "
    "of it; a backfill brings them",
)
SENT: Final = Rule(OUR_LOSS, "silent", lost=True, because="a source says that it sent bars for it")
STATED: Final = Rule(
    *(VENUE_OUTAGE, "silent"),
    lost=False,
    down=True,
    because="the venue itself said that it was down all the while",
)
AWAITED: Final = Rule(
    *(LATE, "silent"),
    lost=False,
    down=False,
    awaited=True,
    because="not older than the settle time, and not answered: part of it may still come",
)
UNPROVED: Final = Rule(UNKNOWN, "silent", lost=False, down=False, awaited=False)
# Exactly one row fits any facts. Ids come first: they are about the gap itself, bar by bar, where a
# statement of a source is about what it meant to send, and a notice about a span of time. Where ids
# jump the market traded, whether the venue could tell of it then or not: what decides is whether it
# can tell of it now.
TABLE: Final = (JOINED, LOST_THERE, LOST_HERE, SENT, STATED, AWAITED, UNPROVED)


def cause(gap: Interval, evidence: Evidence) -> Cause:
    """The cause of the missing cells `gap` = [start, end)."""
    return verdict(gap, evidence).cause


def verdict(gap: Interval, evidence: Evidence) -> Rule:
    """The row of the table that fits the missing cells `gap` = [start, end)."""
    facts = facts_of(gap, evidence)
    return next(rule for rule in TABLE if rule.fits(facts))


def written_as(found: Cause, because: str | None) -> Rule:
    """The row that a ledger entry was written by; an entry without its reason, or with one that no
    row has any more, gets a row of its cause, and its own when it is judged again. A cause that no
    row states (a newer program wrote it) is not known here."""
    rows = [rule for rule in TABLE if rule.cause == found]
    rows = rows or [rule for rule in TABLE if rule.cause == UNKNOWN]
    return next((rule for rule in rows if rule.because == because), rows[0])


def facts_of(gap: Interval, evidence: Evidence) -> Facts:
    through, forgotten = evidence.settled_through, evidence.forgotten_before
    young = through is not None and gap[1] > through
    answered = _covers(evidence.answered, gap)
    out_of_reach = forgotten is not None and gap[1] <= forgotten
    return Facts(
        ids=_ids(evidence),
        lost=any(start < gap[1] and gap[0] < end for start, end in evidence.sent if start < end),
        down=_covers(evidence.outages, gap) or (out_of_reach and evidence.stated_down),
        awaited=young and not answered,
        answered=answered,
    )


def _ids(evidence: Evidence) -> Ids:
    before, after = evidence.last_id_before, evidence.first_id_after
    if before is None or after is None or after <= before:
        return "silent"  # ids that run backwards are no numbering
    if after == before + 1:
        return "join"
    # What is missing may belong to the sides themselves where they are not whole.
    return "jump" if evidence.whole_sides else "silent"


def _covers(intervals: Iterable[Interval], gap: Interval) -> bool:
    at = gap[0]
    for start, end in sorted(intervals):
        if start <= at < end:
            at = end
    return at >= gap[1]


@dataclass(frozen=True, slots=True)
class Side:
    """The bar beside a gap: its trade ids (-1: null), authority (index of SOURCES) and flags."""

    first_id: int
    last_id: int
    source: int
    flags: int

    def trusted_first(self, *, derived: bool) -> int | None:
        return self._trusted(self.first_id, _FIRST_ID_SHIFT, derived)

    def trusted_last(self, *, derived: bool) -> int | None:
        return self._trusted(self.last_id, _LAST_ID_SHIFT, derived)

    def _trusted(self, number: int, shift: int, derived: bool) -> int | None:
        """A derived bar has the lowest authority of its inputs, and that is the one of its ids."""
        authority = self.source if derived else self.flags >> shift & 3
        good = number >= 0 and authority in TRUSTED and not self.flags & SUSPECT
        return number if good else None


def touching(gaps: I8, start: int, end: int) -> list[Interval]:
    """The gaps that a bar of the cells [start, end) may lie in or beside. `gaps`: sorted, disjoint
    intervals, int64 (n, 2)."""
    first = np.searchsorted(gaps[:, 1], start, "left")
    last = np.searchsorted(gaps[:, 0], end, "right")
    return [(int(low), int(high)) for low, high in gaps[first:last].tolist()]
