"""The governance log: the audit chain and the modes, read together and changed together.

Decides: how one change becomes visible whole or not at all, and when a writer that lost its place
starts again. Invariants: the chain cannot fork: all writers share one transactional id, and what a
writer decides it decides on a log that nobody can change before its commit without its commit
failing; nothing stands twice: before a writer tries again it looks for its own records by content;
a change of modes never stands without its entry; a damaged chain is continued from the kept head,
never mended, so the damage stays visible. Must not know: why a change is made.

The order of a commit: 1 take the id (fences every other writer, settles what one left open),
2 read both topics to the fence, 3 decide, 4 send all, 5 commit, 6 wait until readers see it.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import Headers, Message, read_range
from seamline.schemas.audit import (
    GENESIS,
    Draft,
    Entry,
    Head,
    append,
    decode_head,
    encode_entry,
    encode_head,
    vouched,
    with_state,
)
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import HEAD_KEY, ModeBook, SubjectState, encode_state
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC

TRANSACTIONAL_ID: Final = AUDIT_TOPIC
ATTEMPTS: Final = 5
BACKOFF_MAX_S: Final = 5.0
VISIBLE_S: Final = 10.0
CHECK_S: Final = 0.02
RECORDS_MAX: Final = 20_000
# Which attempt wrote an entry: two writers may say the same in the same nanosecond.
HEADER_ATTEMPT: Final = "seamline-attempt"
AUDIT: Final[TP] = (AUDIT_TOPIC, 0)
MODES: Final[TP] = (SCHEMA_MODES_TOPIC, 0)


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


@dataclass(frozen=True, slots=True)
class Chain:
    """`seamline.audit` as it lies there, and the head as the control topic keeps it."""

    records: tuple[Message, ...]
    head: Head | None
    book: ModeBook

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


@dataclass(frozen=True, slots=True)
class Governed:
    """What is in force. `entries` are those that the kept `head` vouches for, oldest first: a
    record that was changed or put in by somebody else is not among them, so no decision rests on
    it. `book` holds the modes."""

    entries: tuple[Entry, ...]
    head: Head | None
    book: ModeBook


class GovernanceLog:
    """The one way to read and to change `seamline.audit` and `seamline.control.schema-modes`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._admin = Admin(cluster)

    def ensure_topics(self) -> None:
        """Make the two topics where they are missing.

        Raises ContractError where one exists and is set otherwise (an audit topic that deletes is
        none), TransportError when the broker does not answer.
        """
        topics.ensure_shared(self._cluster, (AUDIT_TOPIC, SCHEMA_MODES_TOPIC))

    def chain(self) -> Chain:
        """All committed records of both topics up to a fence; empty where a topic is absent.

        Raises TransportError when the broker does not answer.
        """
        there = self._admin.partitions((AUDIT_TOPIC, SCHEMA_MODES_TOPIC))
        tps = [tp for tp in (AUDIT, MODES) if tp[0] in there]
        return self._chain(tps)

    def read(self) -> Governed:
        """What is in force now. Raises TransportError when the broker does not answer."""
        return _governed(self.chain())

    def commit(
        self, decide: Callable[[Governed], Change], clock_ns: Callable[[], int] = time.time_ns
    ) -> tuple[Entry, ...]:
        """Write what `decide` makes of the log as it is, whole or not at all; the entries written.

        `decide` is called again where another writer came in between; what it raises passes
        through, and nothing was written. An empty Change writes nothing. Returns when readers see
        the change. Raises TransportError when the broker does not answer or after ATTEMPTS (fields
        `attempts`, and `unknown`: whether something may have been written all the same).
        """
        self.ensure_topics()
        tried: dict[str, tuple[Entry, ...]] = {}
        last: TransportError | None = None
        for again in range(ATTEMPTS):
            began_s = time.monotonic()
            with TransactionalProducer(self._cluster, TRANSACTIONAL_ID) as producer:
                try:
                    chain = self._take(producer)
                except TransportError as error:
                    last = _passing(error)
                else:
                    found = _attempt_of(chain, tried)
                    if found is not None:
                        return found
                    change = decide(_governed(chain))
                    if change == Change():
                        return ()
                    entries, attempt = _entries(chain, change, clock_ns()), secrets.token_hex(8)
                    tried[attempt] = entries
                    try:
                        self._write(producer, change, entries, attempt)
                    except TransportError as error:
                        last = _passing(error)
                    else:
                        return entries
            if again + 1 < ATTEMPTS:
                # Two who fence each other at the same pace would do so for ever.
                took_s = time.monotonic() - began_s
                time.sleep(random.uniform(0, min(BACKOFF_MAX_S, took_s * 2**again)))
        raise _given_up(tried, last)

    def preview(
        self, decide: Callable[[Governed], Change], clock_ns: Callable[[], int] = time.time_ns
    ) -> tuple[Entry, ...]:
        """The entries that `commit` would write now. Writes nothing and fences nobody."""
        chain = self.chain()
        change = decide(_governed(chain))
        return () if change == Change() else _entries(chain, change, clock_ns())

    def _take(self, producer: TransactionalProducer) -> Chain:
        """Take the id, then read: from now on nobody writes without this producer being fenced."""
        producer.init()
        return self._chain((AUDIT, MODES))

    def _write(
        self,
        producer: TransactionalProducer,
        change: Change,
        entries: Sequence[Entry],
        attempt: str,
    ) -> None:
        named = ((HEADER_ATTEMPT, attempt.encode()),)
        newest: dict[int, TP] = {}
        producer.begin()
        for record in change.records:
            number = producer.send(
                record.topic,
                record.partition,
                record.key,
                record.value,
                record.headers,
                want="first",
            )
            newest[number] = (record.topic, record.partition)
        for state in change.states:
            producer.send(*MODES, state.subject.encode(), encode_state(state), named)
        for entry in entries:
            number = producer.send(*AUDIT, None, encode_entry(entry), named, want="first")
            newest[number] = AUDIT
        newest[
            producer.send(*MODES, HEAD_KEY, encode_head(entries[-1].head), named, want="first")
        ] = MODES
        offsets = producer.commit()
        ends: dict[TP, int] = {}
        for number, tp in newest.items():
            ends[tp] = max(ends.get(tp, 0), offsets[number][0] + 1)
        self._until_visible(ends)

    def _until_visible(self, ends: dict[TP, int]) -> None:
        """A commit is told before its markers are written, and a broker that is killed in between
        may forget them: nobody is told of a change that readers do not see."""
        deadline = time.monotonic() + VISIBLE_S
        while True:
            fences = self._admin.end_offsets(ends)
            hidden = [tp for tp, end in ends.items() if fences[tp] < end]
            if not hidden:
                return
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"committed, and not visible after {VISIBLE_S:g} s",
                    parameter="topic",
                    value=[f"{topic}[{partition}]" for topic, partition in hidden[:5]],
                    fix="See which transaction is open there: kafka-transactions list",
                )
            time.sleep(CHECK_S)

    def _chain(self, tps: Sequence[TP]) -> Chain:
        fences = self._admin.end_offsets(tps)
        starts = self._admin.begin_offsets(tps)
        records: list[Message] = []
        head, book = None, ModeBook()
        for batch in read_range(self._cluster, starts, fences):
            for message in batch:
                if message.topic == AUDIT_TOPIC:
                    records.append(message)
                elif message.key == HEAD_KEY:
                    head = _head(message.value)
                else:
                    book.take(message.key, message.value)
        return Chain(tuple(records), head, book)


def _passing(error: TransportError) -> TransportError:
    """The error when another attempt can help; raises it when not."""
    if error.retriable or isinstance(error, FencedError):
        return error
    raise error


def _given_up(tried: dict[str, tuple[Entry, ...]], last: TransportError | None) -> TransportError:
    return TransportError(
        f"not written in {ATTEMPTS} attempts, the last: {last}",
        parameter="transactional.id",
        value=TRANSACTIONAL_ID,
        fix="See what stands there before you try again: seamline schema audit log",
        attempts=ATTEMPTS,
        unknown=bool(tried),
    )


def _governed(chain: Chain) -> Governed:
    return Governed(vouched(chain.values, chain.head), chain.head, chain.book)


def _attempt_of(chain: Chain, tried: dict[str, tuple[Entry, ...]]) -> tuple[Entry, ...] | None:
    """The entries of the attempt that was committed although its writer was not told."""
    for record in reversed(chain.records):
        for name, value in record.headers:
            if name == HEADER_ATTEMPT and value.decode("ascii", "replace") in tried:
                return tried[value.decode("ascii")]
    return None


def _head(value: bytes | None) -> Head | None:
    try:
        return decode_head(value)
    except ContractError:
        return None


def _entries(chain: Chain, change: Change, clock_ns: int) -> tuple[Entry, ...]:
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
