"""What one decision of governance writes, and which entries that makes at the end of a chain.

Decides: that nothing changes without an entry, that a state is the next version of its subject, and
after which head an entry stands. Invariant: a damaged chain is continued from the head that is
kept, never mended. Must not know: how a change is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from seamline.connectors.governance.chain import Chain
from seamline.connectors.kafka.reader import Headers
from seamline.schemas.audit import GENESIS, Draft, Entry, Head, append, vouched, with_state
from seamline.schemas.errors import UsageError
from seamline.schemas.modes import ModeBook, SubjectState

RECORDS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record of any topic that becomes visible with the entries of its change."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What one decision writes. `states` and `records` never go without an entry: a state needs a
    draft of its own subject, whose evidence then holds the state as `in_force`."""

    drafts: tuple[Draft, ...] = ()
    states: tuple[SubjectState, ...] = ()
    records: tuple[OutRecord, ...] = ()


def entries_of(chain: Chain, change: Change, clock_ns: int) -> tuple[Entry, ...]:
    """The entries of a change in their places. Raises UsageError for a change that cannot be."""
    _check(chain.book, change)
    known = vouched(chain.values, chain.head)
    head, last_ns = _place(chain), known[-1].time_ns if known else 0
    entries = []
    for draft in _with_states(change):
        entry = append(head, last_ns, draft, clock_ns)
        entries.append(entry)
        head, last_ns = entry.head, entry.time_ns
    return tuple(entries)


def _with_states(change: Change) -> Iterator[Draft]:
    """The last draft of a subject says what its state is from now on."""
    states = {state.subject: state for state in change.states}
    last = {draft.subject: at for at, draft in enumerate(change.drafts)}
    for at, draft in enumerate(change.drafts):
        state = states.get(draft.subject)
        yield with_state(draft, state) if state is not None and last[draft.subject] == at else draft


def _place(chain: Chain) -> Head | None:
    """After which head the next entry stands. Where none is kept although records lie there, it
    carries the hash of nothing: the loss stays visible instead of being mended."""
    if chain.head is not None or not chain.records:
        return chain.head
    return Head(len(chain.records) - 1, GENESIS)


def _check(book: ModeBook, change: Change) -> None:
    if not change.drafts:
        raise UsageError(
            "states and records are written with an entry that says why",
            parameter="drafts",
            value=(),
            fix="Give a Draft",
        )
    if len(change.records) > RECORDS_MAX:
        raise UsageError(
            "too many records for one transaction",
            parameter="records",
            value=len(change.records),
            fix=f"At most {RECORDS_MAX}: make several changes",
        )
    unsaid = {state.subject for state in change.states} - {d.subject for d in change.drafts}
    if unsaid:
        raise UsageError(
            "a state of a subject is written with an entry of that subject",
            parameter="states",
            value=sorted(unsaid),
            fix="Give a Draft of each of these subjects",
        )
    known: dict[str, int] = {}
    for state in change.states:
        held = book.state_of(state.subject)
        before = known.get(state.subject, 0 if held is None else held.version)
        if state.version != before + 1:
            raise UsageError(
                f"version {before} of {state.subject} is in force, the next is {before + 1}",
                parameter="version",
                value=state.version,
                fix="Make the state of the book that `decide` was given",
            )
        known[state.subject] = state.version
