"""A retained topic read again and judged as strict would have: the evidence for a promotion.

Decides: from where to where a topic is read, when what was found is kept in a file, and what is
said when less was there than was asked for. Invariants: read committed, from the first record of
`since` or later up to a fence that is taken once; every record between them is judged once, also
when the rehearsal is interrupted and goes on from its file; nothing is written to a topic here.
Must not know: rules, modes, how the evidence is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from seamline.connectors.cycle_search import cycles_searched_seldom
from seamline.connectors.governance import rehearsal_file
from seamline.connectors.governance.rehearsal_file import Progress
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import BATCH_MAX, Message, read_range
from seamline.connectors.registry.meanings import Meanings
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.errors import UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_US, format_time
from seamline.schemas.topics import parse_subject, topic_name
from seamline.streams.kernel.protocol import ROLES, Record
from seamline.streams.kernel.rehearsal import Evidence
from seamline.streams.kernel.rehearsal_judge import Judged, LandingJudge, as_approved
from seamline.streams.kernel.rehearsal_stored import StoredJudge
from seamline.streams.kernel.rehearsal_tally import Tally
from seamline.streams.kernel.rehearsal_trades import TradesJudge
from seamline.streams.kernel.writers import Resolve

SAVE_S: Final = 2.0
TRADES: Final = "trades"
OF_TRADES: Final = (
    "of trades: what is said of bars is said of trades; one is missing when its symbol and id were "
    "accepted nowhere, stale minutes are in the times of the trades"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rehearse. `since` as the person wrote it, `since_ns` what it means now."""

    subject: str
    preset: Preset
    since: str
    since_ns: int
    now_ns: int
    bundle_sha256: str
    mode_version: int = 0
    tombstones: frozenset[str] = frozenset()
    resume: Path | None = None

    @property
    def role(self) -> str:
        return parse_subject(self.subject)[1]

    @property
    def topic(self) -> str:
        return topic_name(self.preset.id, self.role)


class Judge(Protocol):
    """Judges the records of one partition in the order of their offsets."""

    @property
    def symbols(self) -> Sequence[str]: ...

    def judge(self, records: Sequence[Record]) -> Judged: ...


@cycles_searched_seldom()
def rehearse(
    cluster: Cluster,
    plan: Plan,
    resolve: Meanings,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    save_s: float = SAVE_S,
    batch_max: int = BATCH_MAX,
) -> Evidence:
    """Read and judge the topic of the plan; the evidence.

    `on_progress` is called after each batch, when all of it is counted. With `plan.resume` the
    file is taken up if there is one and left complete at the end: whoever has recorded the evidence
    deletes it. Raises UsageError for a topic that does not exist, a `since` that is not in the
    past, and a file that is not of this rehearsal; ContractError when records that are still to be
    read are no longer retained; TransportError when the broker does not answer.
    """
    admin = Admin(cluster)
    of = identity(plan, admin.cluster_id())
    progress = rehearsal_file.load(plan.resume, of) if plan.resume is not None else None
    if progress is None:
        progress = _begin(admin, plan)
        if plan.resume is not None:
            rehearsal_file.save(plan.resume, of, progress)
    judges: dict[int, Judge] = {}
    proposal = plan.bundle_sha256 != BUNDLE_SHA256
    saved_s = time.monotonic()
    starts = {(plan.topic, number): offset for number, offset in progress.positions.items()}
    fences = {(plan.topic, number): offset for number, offset in progress.fences.items()}
    for batch in read_range(cluster, starts, fences, max_records=batch_max):
        for number, records in _by_partition(batch).items():
            judge = judges.get(number)
            if judge is None:
                judge = judges[number] = _judge(plan, number, resolve)
            read = as_approved(records, resolve, resolve.proposed) if proposal else records
            progress.tally.take(number, judge.judge(read), judge.symbols)
            progress.positions[number] = records[-1].offset + 1
        if plan.resume is not None and time.monotonic() - saved_s >= save_s:
            rehearsal_file.save(plan.resume, of, progress)
            saved_s = time.monotonic()
        if on_progress is not None:
            on_progress(progress)
    progress.positions = dict(progress.fences)
    if plan.resume is not None:
        rehearsal_file.save(plan.resume, of, progress)
    spans = {n: (first, progress.fences[n]) for n, first in progress.starts.items()}
    return progress.tally.evidence(
        subject=plan.subject,
        topic=plan.topic,
        bundle_sha256=plan.bundle_sha256,
        partitions=spans,
        mode_version=plan.mode_version,
        notes=(*progress.notes, *_said(progress)),
    )


def _judge(plan: Plan, partition: int, resolve: Resolve) -> Judge:
    if plan.role in ROLES and plan.preset.kind == TRADES:
        return TradesJudge(plan.preset, partition, resolve, plan.tombstones)
    if plan.role in ROLES:
        return LandingJudge(plan.preset, partition, plan.role, resolve, plan.tombstones)
    return StoredJudge(plan.preset, partition, plan.role, resolve, plan.tombstones)


def identity(plan: Plan, cluster_id: str) -> dict[str, str]:
    """What makes this rehearsal another than the next one."""
    preset = plan.preset
    grid = (preset.interval_ns, preset.grid_origin_ns, preset.block_rows, preset.partitions)
    return {
        "subject": plan.subject,
        "since": plan.since,
        "bundle": plan.bundle_sha256,
        # The evidence names one version: that of the fence, which a resumed one took long ago.
        "mode version": str(plan.mode_version),
        "tombstones": " ".join(sorted(plan.tombstones)),
        "cluster": cluster_id,
        "preset": f"{preset.id} {grid} {preset.off_grid}",
    }


def _begin(admin: Admin, plan: Plan) -> Progress:
    if plan.since_ns >= plan.now_ns:
        raise UsageError(
            "not in the past",
            parameter="since",
            value=plan.since,
            fix="Write how far back to read: 48h, 7d, or an ISO time with a zone",
        )
    count = admin.partitions([plan.topic]).get(plan.topic)
    if count is None:
        parent = plan.preset.derive_from if plan.role in ROLES else None
        raise UsageError(
            f"there is no topic {plan.topic} on this broker",
            parameter="subject",
            value=plan.subject,
            fix=f"Make it: seamline topics apply {plan.preset.id}; or name another cluster"
            if parent is None
            else f"A derived preset has no landing topics: rehearse {parent}.{plan.role}",
        )
    tps = [(plan.topic, number) for number in range(count)]
    fences = admin.end_offsets(tps)
    begins = admin.begin_offsets(tps)
    found = admin.offsets_at(tps, plan.since_ns)
    starts = {}
    for tp in tps:
        at = found[tp]
        starts[tp[1]] = fences[tp] if at is None else min(max(at, begins[tp]), fences[tp])
    gone = [n for n, first in starts.items() if 0 < first == begins[plan.topic, n]]
    of_trades = plan.preset.kind == TRADES and plan.role in ROLES
    notes: tuple[str, ...] = (OF_TRADES,) if of_trades else ()
    if gone:
        notes += (
            f"of partitions {gone} everything that is retained was read, from offsets "
            f"{[starts[n] for n in gone]} on: what was before is gone, and may have been of "
            f"{format_time(plan.since_ns)} or later",
        )
    # A trade has no interval: its time is exact.
    unit_ns = NS_PER_US if plan.preset.kind == TRADES else plan.preset.interval_ns
    tally = Tally(since_ns=plan.since_ns, ended_ns=plan.now_ns, interval_ns=unit_ns)
    return Progress(
        since_ns=plan.since_ns,
        ended_ns=plan.now_ns,
        starts=starts,
        positions=dict(starts),
        fences={n: fences[plan.topic, n] for n in starts},
        tally=tally,
        notes=notes,
    )


def _said(progress: Progress) -> tuple[str, ...]:
    traffic = progress.tally.traffic()
    if not traffic.records:
        return ("nothing was there to judge: no record of this time, heartbeats apart",)
    return ()


def _by_partition(batch: Sequence[Message]) -> Mapping[int, Sequence[Message]]:
    """The records of a batch by partition, in their order."""
    if batch[0].partition == batch[-1].partition and len({m.partition for m in batch}) == 1:
        return {batch[0].partition: batch}
    found: dict[int, list[Message]] = {}
    for message in batch:
        found.setdefault(message.partition, []).append(message)
    return found
