"""Completes what a killed broker left open in an owner's output partitions (decision 0128).

Decides: what counts as left open (after `init` nothing of ours may be, but markers may be under
way), which records tell what became of it, and with which records it is completed. A marker closes
all that its producer id has open in a partition, and our transactional id keeps its producer id: so
one transaction that touches exactly these partitions does it.

Invariants: nothing is written while nothing is open; a record that is committed in order to write a
marker repeats the newest open one, in the log with the flag CONFIRMED. Every wait has a limit.
Must not know: machines, chunks, the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.connectors.kafka.reader import UNCOMMITTED, Message, ReaderSettings, read_range
from seamline.schemas.codec import ConformedDecoder, encode_conformed, schema_ids
from seamline.schemas.columns import CONFIRMED
from seamline.schemas.contract import version_written
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.records import decode_record
from seamline.schemas.topics import HEADER_ORIGIN_TOPIC, parse_topic
from seamline.streams.kernel.lost_markers import Fate, Side, Trace, fate

log = logging.getLogger(__name__)

MARKERS_S: Final = 5.0
CHECK_S: Final = 0.05
# Any end of an owner's transaction.
COMMIT_TIMEOUT_S: Final = 15.0
# How far back a topic is read for evidence. What is looked for is the newest of it.
TAIL_OFFSETS: Final = 500
# Role -> schema of records that state the known time of their transaction.
KNOWN_IN: Final[Mapping[str, str]] = {
    "conformed": "conformed_bar",
    "seals": "seal",
    "positions": "position",
    "gaps": "gap",
    "reports": "report",
}
# Connectors write there too, some in transactions of their own.
SHARED: Final = "quarantine"


@dataclass(frozen=True, slots=True)
class Completed:
    """What was left open, and how it was completed."""

    fate: Fate
    topics: tuple[str, ...]


def complete_open(
    producer: TransactionalProducer,
    cluster: Cluster,
    admin: Admin,
    partition: int,
    outputs: Iterable[str],
) -> Completed | None:
    """Settle what an earlier transaction of `producer` left open; None where nothing is.

    `producer` has had its `init`. Raises ContractError where the evidence contradicts itself,
    TransportError when the partitions stay open.
    """
    tps = [(topic, partition) for topic in outputs]
    spans = _await_markers(admin, tps)
    if not spans:
        return None
    stable = admin.end_offsets(tps) | {tp: span[0] for tp, span in spans.items()}
    rows = _open_rows(cluster, spans)
    if not rows:
        return None
    begins = admin.begin_offsets(tps)
    starts = {tp: max(begins[tp], stable[tp] - TAIL_OFFSETS) for tp in tps}
    found = fate(_sides(cluster, starts, stable, rows))
    topics = tuple(sorted(topic for topic, _ in rows))
    log.warning(
        "partition %d of %s: open without an owner since a broker was killed; completed by %s",
        *(partition, ", ".join(topics), found),
    )
    _complete(producer, found, {tp: of[-1] for tp, of in rows.items()})
    left = _await_markers(admin, [tp for tp in rows if _role(tp) != SHARED])
    if left:
        raise TransportError(
            f"stays open although it was completed by {found}",
            parameter="open",
            value=", ".join(f"{topic}[{number}]" for topic, number in left),
        )
    return Completed(found, topics)


def _await_markers(admin: Admin, tps: Sequence[TP]) -> dict[TP, tuple[int, int]]:
    """Where committed readers stop before the end, and where the end is, after a wait for markers
    that are under way."""
    deadline = time.monotonic() + MARKERS_S
    while True:
        ends = admin.end_offsets(tps, "read_uncommitted")
        stable = admin.end_offsets(tps)  # asked for last: what lands meanwhile opens nothing
        tps = [tp for tp in tps if stable[tp] < ends[tp]]
        if not tps or time.monotonic() >= deadline:
            return {tp: (stable[tp], ends[tp]) for tp in tps}
        time.sleep(CHECK_S)


def _open_rows(
    cluster: Cluster, spans: Mapping[TP, tuple[int, int]]
) -> dict[TP, tuple[Message, ...]]:
    """The newest open records of each; a partition that only others have open is left out."""
    starts = {tp: max(stable, end - TAIL_OFFSETS) for tp, (stable, end) in spans.items()}
    ends = {tp: end for tp, (_, end) in spans.items()}
    rows: dict[TP, list[Message]] = {}
    for message in _read(cluster, starts, ends, UNCOMMITTED):
        tp = (message.topic, message.partition)
        ours = any(name == HEADER_ORIGIN_TOPIC for name, _ in message.headers)
        if _role(tp) != SHARED or ours:
            rows.setdefault(tp, []).append(message)
    return {tp: tuple(of) for tp, of in rows.items()}


def _sides(
    cluster: Cluster,
    starts: Mapping[TP, int],
    stable: Mapping[TP, int],
    rows: Mapping[TP, Sequence[Message]],
) -> list[Side]:
    visible = {(m.topic, m.partition, m.offset) for m in _read(cluster, starts, stable, None)}
    closed: dict[TP, list[Trace]] = {tp: [] for tp in stable}
    for m in _read(cluster, starts, stable, UNCOMMITTED):
        closed[m.topic, m.partition].append(_trace(m, (m.topic, m.partition, m.offset) in visible))
    return [
        Side(
            topic=tp[0],
            role=_role(tp),
            open=tuple(_trace(m, False) for m in rows.get(tp, ())),
            closed=tuple(closed[tp]),
        )
        for tp in sorted(stable)
    ]


def _read(
    cluster: Cluster,
    starts: Mapping[TP, int],
    ends: Mapping[TP, int],
    settings: ReaderSettings | None,
) -> Iterable[Message]:
    for batch in read_range(cluster, starts, ends, settings=settings):
        yield from batch


def _trace(message: Message, visible: bool) -> Trace:
    schema = KNOWN_IN.get(_role((message.topic, message.partition)))
    known_ns: int | None = None
    if schema is not None and message.value is not None:
        try:
            version = version_written(schema, message.headers)
            known_ns = decode_record(schema, message.value, version)["known_time_ns"]
        except ContractError:
            known_ns = None  # nothing that an owner wrote
    return Trace(known_ns, message.timestamp_ms, visible)


def _complete(producer: TransactionalProducer, found: Fate, newest: Mapping[TP, Message]) -> None:
    producer.begin()
    for (topic, partition), record in newest.items():
        value = record.value
        if found is Fate.COMMIT and _role((topic, partition)) == "conformed":
            value = confirmed(value or b"")
        producer.send(topic, partition, record.key, value, record.headers, want="first")
    if found is Fate.COMMIT:
        producer.commit(COMMIT_TIMEOUT_S)
    else:
        producer.abort(COMMIT_TIMEOUT_S)


def confirmed(value: bytes) -> bytes:
    """A row of the log again, as one that only confirms it: of the same revision, no new one."""
    decoder = ConformedDecoder()
    decoded = decoder.decode([value])
    if not decoded.ok.all():
        raise ContractError(
            "an open record that no owner wrote",
            parameter="conformed",
            value=value[:32].hex(),
            fix="Allow only workers to write to conformed topics",
        )
    decoded.columns.flags[:] |= CONFIRMED
    names = [name.encode() for name in decoder.symbols]
    sid = np.zeros(1, np.int32)
    return encode_conformed(names, sid, decoded.columns, int(schema_ids([value])[0]))[0]


def _role(tp: TP) -> str:
    return parse_topic(tp[0])[1]
