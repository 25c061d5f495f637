"""What becomes of rows that their owner's coordinator left without a marker (decision 0128).

Decides: whether such a transaction is committed or aborted, from what its partitions show. A
marker that was written somewhere settles it for all; a transaction writes its position last, so one
without a position never came to its commit. Invariants: evidence that contradicts itself is
refused; where nothing speaks, nobody has seen any of it, and its owner does it again. Must not
know: Kafka clients, how records are read or completed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from seamline.schemas.errors import ContractError

POSITIONS: Final = "positions"
# Their records do not state a known time, but have their owner's clock as timestamp.
BY_CLOCK: Final = ("storage", "superseded")
# Quarantine has the broker's clock; how far apart the two may be, with the time of a commit.
BROKERS_CLOCK: Final = ("quarantine",)
CLOCKS_APART_MS: Final = 10_000


class Fate(StrEnum):
    ABORT = "abort"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Trace:
    """One record. `known_ns`: known time of its transaction, None where it does not state it;
    `visible`: to readers of committed records, False for an open one."""

    known_ns: int | None
    written_ms: int
    visible: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """The newest records of the owner's partition of one output topic, in order: `closed` before
    the end for committed readers, `open` from there on."""

    topic: str
    role: str
    open: tuple[Trace, ...] = ()
    closed: tuple[Trace, ...] = ()


def fate(sides: Sequence[Side]) -> Fate:
    """What to do with all that is open. `sides` has one of the role positions.

    Raises ContractError, naming the topics, when one part of it was committed and another aborted.
    """
    position = next(side for side in sides if side.role == POSITIONS)
    known = {t.known_ns for side in sides for t in side.open if t.known_ns is not None}
    if position.open:
        if any(trace.known_ns is None for trace in position.open):
            raise _refused(sides, "a position that no owner wrote")
        verdicts = _others(sides, position) if not _seen(sides, known) else set()
    elif known:
        verdicts = {_by_position(position.closed, each, sides) for each in known}
    else:
        verdicts = {_by_clock(sides, position.closed)}
    verdicts |= _seen(sides, known)
    if len(verdicts) > 1:
        raise _refused(sides, "committed in one place and aborted in another")
    return verdicts.pop() if verdicts else Fate.ABORT


def _seen(sides: Iterable[Side], known: set[int]) -> set[Fate]:
    """What became of records of these very transactions where a marker was written."""
    return {_of(t) for side in sides for t in side.closed if t.known_ns in known}


def _by_position(closed: Sequence[Trace], known_ns: int, sides: Sequence[Side]) -> Fate:
    if closed and closed[-1].known_ns is None:
        raise _refused(sides, "a position that no owner wrote")
    for trace in reversed(closed):
        if trace.known_ns == known_ns:
            return _of(trace)
    # Its own position may be compacted away: an owner that went on had its commit acknowledged.
    gone_on = any(t.visible and (t.known_ns or 0) > known_ns for t in closed)
    return Fate.COMMIT if gone_on else Fate.ABORT


def _by_clock(sides: Sequence[Side], closed: Sequence[Trace]) -> Fate:
    """Only topics whose records state no known time are open: the first position after them is
    theirs. With the broker's clock it is one of several; then twice is better than lost."""
    loose = all(side.role in BROKERS_CLOCK for side in sides if side.open)
    apart_ms = CLOCKS_APART_MS if loose else 0
    exact = [s for s in sides if s.open and (loose or s.role not in BROKERS_CLOCK)]
    last_ms = max(trace.written_ms for side in exact for trace in side.open)
    after = [trace for trace in closed if trace.written_ms + apart_ms >= last_ms]
    told = after if loose else after[:1]
    return Fate.COMMIT if any(trace.visible for trace in told) else Fate.ABORT


def _others(sides: Sequence[Side], position: Side) -> set[Fate]:
    """Of an open position, what topics show whose records have nothing but the owner's clock."""
    before_ms = position.closed[-1].written_ms if position.closed else -1
    until_ms = position.open[-1].written_ms
    found = {
        _of(trace)
        for side in sides
        if side.role in BY_CLOCK
        for trace in side.closed
        if before_ms < trace.written_ms <= until_ms
    }
    # One that was aborted before it may lie in the same span; a visible record can only be its.
    return {Fate.COMMIT} if Fate.COMMIT in found else found


def _of(trace: Trace) -> Fate:
    return Fate.COMMIT if trace.visible else Fate.ABORT


def _refused(sides: Sequence[Side], what: str) -> ContractError:
    return ContractError(
        f"rows were left open by a killed broker, and what became of them is unclear: {what}",
        parameter="open",
        value=", ".join(side.topic for side in sides if side.open),
        fix="Abort what is open there (kafka-transactions.sh find-hanging, abort), start the "
        "worker, and land the span before its position again: seamline backfill",
    )
