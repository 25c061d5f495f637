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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.connectors.governance.chain import (
    AUDIT,
    HEADER_ALONG,
    HEADER_ATTEMPT,
    MODES,
    Chain,
    along_of,
    read_chain,
)
from seamline.connectors.governance.change import Change, OutRecord, entries_of
from seamline.connectors.governance.unfinished import complete_unfinished
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.schemas.audit import Entry, Head, encode_entry, encode_head, hash_of, vouched
from seamline.schemas.errors import TransportError
from seamline.schemas.modes import HEAD_KEY, ModeBook, encode_state
from seamline.schemas.topics import AUDIT_TOPIC, SCHEMA_MODES_TOPIC

__all__ = ["Change", "GovernanceLog", "Governed", "OutRecord"]

TRANSACTIONAL_ID: Final = AUDIT_TOPIC
ATTEMPTS: Final = 5
BACKOFF_MAX_S: Final = 5.0
VISIBLE_S: Final = 10.0
CHECK_S: Final = 0.02
# Who finds entry and head apart looks again, at most so often: a commit may be half visible.
READS: Final = 5
READ_AGAIN_S: Final = 0.2


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

        The markers of one commit reach the two topics one after the other: while the newest entry
        and the kept head are apart and something moves it is read again. Raises TransportError when
        the broker does not answer.
        """
        chain = read_chain(self._cluster, self._admin)
        for _ in range(READS - 1):
            if _together(chain):
                break
            time.sleep(READ_AGAIN_S)
            before, chain = chain, read_chain(self._cluster, self._admin)
            if (before.head, before.values) == (chain.head, chain.values):
                break
        return chain

    def deletes(self) -> str:
        """A sentence where one of the two topics is set to lose what must stay, empty where none
        is. Raises TransportError when the broker does not answer."""
        for each in topics.shared_differences(self._cluster, (AUDIT_TOPIC, SCHEMA_MODES_TOPIC)):
            if each.field in _KEEPING:
                return f"topic {each.topic} has {each.field} = {each.have}, wanted {each.want}"
        return ""

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
                    chain = self._take(producer, clock_ns)
                except TransportError as error:
                    last = _passing(error)
                else:
                    found = _attempt_of(chain, tried)
                    if found is not None:
                        return found
                    change = decide(_governed(chain))
                    if change == Change():
                        return ()
                    entries, attempt = entries_of(chain, change, clock_ns()), secrets.token_hex(8)
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
        return () if change == Change() else entries_of(chain, change, clock_ns())

    def _take(self, producer: TransactionalProducer, clock_ns: Callable[[], int]) -> Chain:
        """Take the id, then read: from now on nobody writes without this producer being fenced."""
        producer.init()
        complete_unfinished(producer, self._cluster, self._admin, clock_ns)
        return read_chain(self._cluster, self._admin)

    def _write(
        self,
        producer: TransactionalProducer,
        change: Change,
        entries: Sequence[Entry],
        attempt: str,
    ) -> None:
        named = ((HEADER_ATTEMPT, attempt.encode()),)
        along = {(record.topic, record.partition) for record in change.records}
        newest: dict[int, TP] = {}
        producer.begin()
        for entry in entries:
            marked = (*named, (HEADER_ALONG, along_of(along)))
            number = producer.send(*AUDIT, None, encode_entry(entry), marked, want="first")
            newest[number] = AUDIT
        for state in change.states:
            producer.send(*MODES, state.subject.encode(), encode_state(state), named)
        for record in change.records:
            tp, headers = (record.topic, record.partition), (*record.headers, *named)
            number = producer.send(*tp, record.key, record.value, headers, want="first")
            newest[number] = tp
        head = encode_head(entries[-1].head)
        newest[producer.send(*MODES, HEAD_KEY, head, named, want="first")] = MODES
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


# Settings of a topic that say for how long its records stay.
_KEEPING: Final = ("cleanup.policy", "retention.ms", "retention.bytes")


def _together(chain: Chain) -> bool:
    """Whether the kept head is that of the newest record."""
    if chain.head is None or not chain.records:
        return chain.head is None and not chain.records
    return hash_of(chain.records[-1].value or b"") == chain.head.hash


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
    return next((tried[attempt] for attempt in tried if attempt in chain.attempts), None)
