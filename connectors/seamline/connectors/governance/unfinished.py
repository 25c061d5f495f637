"""Completes what a killed broker left without markers in a transaction of the governance log.

Decides: what counts as left open (after `init` nothing of ours may be), and whether it is committed
or aborted: committed where a reader can see any of it already, else aborted, for a writer is told
of its commit only when readers see all of it. Invariants: both topics and every partition that the
transaction wrote to end in the same way; a completion by commit is an entry of its own, because an
entry must not stand twice; every wait has a limit. Must not know: what the change was.

See decisions 0128 and 0136: a broker that is killed after its coordinator decided may forget the
markers; the next marker of the same producer would complete the old records beside the new ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from seamline.connectors.governance.chain import (
    AUDIT,
    MODES,
    Chain,
    along,
    attempt_of,
    chain_of,
    read_messages,
)
from seamline.connectors.governance.change import Change, entries_of
from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import UNCOMMITTED, Message, read_range
from seamline.schemas.audit import Draft, encode_entry, encode_head
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.modes import HEAD_KEY
from seamline.schemas.topics import AUDIT_TOPIC

log = logging.getLogger(__name__)

MARKERS_S: Final = 5.0
CHECK_S: Final = 0.05
# Of an open partition so many offsets are looked at: more than one change has records.
SPAN_MAX: Final = 30_000
ACTOR: Final = "seamline"
REASON: Final = "a broker was killed before it had written the markers of this transaction"

Rows = Mapping[TP, tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class _Left:
    """Open records of ours by partition; `chain`: as if they were committed."""

    rows: Rows
    commit: bool
    chain: Chain


def complete_unfinished(
    producer: TransactionalProducer,
    cluster: Cluster,
    admin: Admin,
    clock_ns: Callable[[], int],
) -> bool:
    """Settle what an earlier transaction of `producer` left open; whether there was something.

    `producer` has had its `init`. Raises ContractError where the evidence contradicts itself,
    TransportError where partitions stay open or another producer holds one open.
    """
    left = _left_open(cluster, admin)
    if left is None:
        return False
    named = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(left.rows))
    how = "committed" if left.commit else "aborted"
    log.warning("open without an owner since a broker was killed: %s; it is %s", named, how)
    _complete(producer, left, named, clock_ns())
    stays = _ours(cluster, admin, left.rows)
    if stays:
        raise TransportError(
            f"stays open although it was {how}", parameter="partitions", value=sorted(stays)
        )
    return True


def _left_open(cluster: Cluster, admin: Admin) -> _Left | None:
    messages = read_messages(cluster, admin)
    seen = chain_of(messages)
    rows = _ours(cluster, admin, (AUDIT, MODES))
    attempts = {attempt_of(row) for of in rows.values() for row in of}
    # The newest entry may be complete here and not in the partitions that were written with it.
    newest = [row for row in seen.records if attempt_of(row) in attempts] + [*seen.records[-1:]]
    others = {tp for row in (*rows.get(AUDIT, ()), *newest) for tp in along(row)}
    rows = {**rows, **_ours(cluster, admin, others)}
    if not rows:
        return None
    attempts = {attempt_of(row) for of in rows.values() for row in of}
    visible = attempts & seen.attempts
    if visible and visible != attempts:
        raise ContractError(
            "open transactions of which readers see one and not another",
            parameter="attempts",
            value=sorted(str(attempt) for attempt in attempts),
            fix="Look at both topics with read_uncommitted before anything is written to them",
        )
    open_rows = (*rows.get(AUDIT, ()), *rows.get(MODES, ()))
    return _Left(rows, bool(visible), chain_of((*messages, *open_rows)))


def _ours(cluster: Cluster, admin: Admin, tps: Iterable[TP]) -> dict[TP, tuple[Message, ...]]:
    """The open records of the governance log by partition, after a wait for markers under way.

    Raises TransportError where another producer holds open one of the two topics: what we wrote
    behind its records could not be seen.
    """
    deadline = time.monotonic() + MARKERS_S
    tps = sorted(set(tps))
    while True:
        rows: dict[TP, tuple[Message, ...]] = {}
        for tp, of in _open(cluster, admin, tps).items():
            if attempt_of(of[0]) is not None:
                rows[tp] = tuple(row for row in of if attempt_of(row) is not None)
            elif tp in (AUDIT, MODES) and time.monotonic() >= deadline:
                raise TransportError(
                    "another producer has an open transaction here",
                    parameter="topic",
                    value=tp[0],
                    fix="Allow only the governance log to write there; see kafka-transactions",
                )
            elif tp in (AUDIT, MODES):
                rows[tp] = of
        if not rows or time.monotonic() >= deadline:
            return rows
        tps = sorted(rows)
        time.sleep(CHECK_S)


def _open(cluster: Cluster, admin: Admin, tps: Iterable[TP]) -> dict[TP, tuple[Message, ...]]:
    """All records behind the point where committed readers stop; empty partitions left out."""
    tps = list(tps)
    ends = admin.end_offsets(tps, "read_uncommitted")
    stable = admin.end_offsets(tps)  # asked for last: what lands meanwhile opens nothing
    starts = {tp: at for tp, at in stable.items() if at < ends[tp]}
    fences = {tp: min(ends[tp], at + SPAN_MAX) for tp, at in starts.items()}
    rows: dict[TP, list[Message]] = {}
    for batch in read_range(cluster, starts, fences, settings=UNCOMMITTED):
        for message in batch:
            rows.setdefault((message.topic, message.partition), []).append(message)
    return {tp: tuple(of) for tp, of in rows.items()}


def _complete(producer: TransactionalProducer, left: _Left, named: str, clock_ns: int) -> None:
    """One transaction of the same producer that touches exactly these partitions."""
    producer.begin()
    for tp, of in left.rows.items():
        if not (left.commit and tp == AUDIT):  # an entry must not stand twice
            producer.send(*tp, of[-1].key, of[-1].value, of[-1].headers)
    if not left.commit:
        producer.abort()
        return
    draft = Draft("fix", AUDIT_TOPIC, ACTOR, REASON, evidence={"completed": named})
    (entry,) = entries_of(left.chain, Change((draft,)), clock_ns)
    producer.send(*AUDIT, None, encode_entry(entry))
    producer.send(*MODES, HEAD_KEY, encode_head(entry.head))
    producer.commit()
