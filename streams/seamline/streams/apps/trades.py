"""The machine of a `trades` preset: landed, checked, and what is wrong to quarantine.

Decides: what becomes of a landed trade that breaks the contract (`kernel.trade_rules` says which
do). Trades have no log, no blocks and no seam of their own yet: what is right stays on the landing
topic. Invariants: every record is good, a heartbeat, or in quarantine with its original bytes; the
position covers exactly what was judged. Must not know: bars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.schemas.codec import schema_ids
from seamline.schemas.codec_trades import TradeDecoder
from seamline.schemas.modes import Policies, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.records import encode_record
from seamline.schemas.times import NS_PER_S, NS_PER_US
from seamline.schemas.topics import (
    POSITION_KEY,
    subject_of,
    topic_name,
)
from seamline.schemas.wire import FRAME_BYTES
from seamline.streams.apps.series import series_of
from seamline.streams.kernel.failure_detail import Account, FailedRecords
from seamline.streams.kernel.intake import (
    CLOCK_SKEW_NS,
    POISONED,
    watermark_of,
)
from seamline.streams.kernel.protocol import (
    ROLES,
    STEP_ROWS_MAX,
    Batch,
    PartitionReader,
    Record,
    Role,
    Step,
)
from seamline.streams.kernel.quarantined import Quarantined, quarantine_batch
from seamline.streams.kernel.rebuild import newest_records, read_fields
from seamline.streams.kernel.rules import QUARANTINE, RULES, fate
from seamline.streams.kernel.stage import fingerprint_header
from seamline.streams.kernel.trade_rules import TradeRules, is_heartbeat
from seamline.streams.kernel.writers import Resolve

COMMIT_NS: Final = NS_PER_S
# A frame around nothing.
WARM_VALUE: Final = bytes(FRAME_BYTES)


class TradesMachine:
    """Checks the trades of one partition."""

    def __init__(
        self,
        *,
        preset: Preset,
        partition: int,
        ids: Mapping[str, int],
        resolve: Resolve,
        owner: str,
        position: Mapping[str, int],
        known_ns: int,
        rows_total: int,
    ) -> None:
        self._preset = preset
        self._partition = partition
        self._ids = ids
        self._rules = TradeRules(preset, partition, resolve)
        self._owner = owner
        self._position = dict(position)
        self._next = dict(position)
        self._known_ns = known_ns
        self._rows_total = rows_total
        self._committed_ns = 0
        self._watermark_ns: int | None = None
        self._account = Account()

    @property
    def position(self) -> Mapping[str, int]:
        return self._position

    @property
    def frontier_ns(self) -> int | None:
        return None

    def step(
        self, role: Role, records: Sequence[Record], start: int, clock_ns: int, policy: Policy
    ) -> Step:
        """Judge records[start:], at most STEP_ROWS_MAX of them."""
        part = records[start : start + STEP_ROWS_MAX]
        landed: list[Record] = []
        for record in part:
            if is_heartbeat(record, clock_ns):
                self._watermark_ns = max(self._watermark_ns or 0, watermark_of(record) or 0)
            else:
                landed.append(record)
        writers = self._rules.writers(landed, policy)
        judged = self._rules.judge(landed, writers, clock_ns + CLOCK_SKEW_NS)
        refused: list[Quarantined] = []
        rules: Counter[str] = Counter()
        detail = FailedRecords()
        blocked = 0
        for at, broken in sorted(judged.broken.items()):
            detail.add(landed[at], broken.rules[0], broken.detail)
            if fate(broken.rules[0], policy.mode) == QUARANTINE:
                refused.append(Quarantined(landed[at], broken.rules[0], broken.detail))
                blocked += RULES[broken.rules[0]].follows_mode
            else:
                rules.update(broken.rules)
        self._next[role] = part[-1].offset + 1
        self._account.add(
            *(subject_of(topic_name(self._preset.id, role)), policy.mode, policy.version),
            seen=len(landed),
            failed=sum(detail.rules().values()),
            blocked=blocked,
            detail=detail,
        )
        trades = len(landed) - len(refused)
        return self._step(start + len(part), trades, refused, rules, clock_ns)

    def _step(
        self,
        next_index: int,
        trades: int,
        refused: list[Quarantined],
        rules: Counter[str],
        clock_ns: int,
    ) -> Step:
        if not refused and not trades and clock_ns - self._committed_ns < COMMIT_NS:
            return Step((), next_index, 0)
        self._committed_ns = clock_ns
        self._rows_total += trades
        self._known_ns = max(clock_ns - clock_ns % NS_PER_US, self._known_ns + NS_PER_US)
        batches = [quarantine_batch(self._preset.id, refused, clock_ns)] if refused else []
        batches.append(self._position_batch())
        return Step(
            batches=tuple(batches),
            next_index=next_index,
            rows=trades,
            counts={"inserted": trades, **rules},
            quarantined=dict(Counter(each.reason for each in refused)),
            checked=self._account.taken(),
            note=dict(self._next),
        )

    def refuse(self, role: Role, record: Record, detail: str, clock_ns: int) -> Step:
        """Quarantine and position alone."""
        self._next[role] = record.offset + 1
        self._committed_ns = clock_ns
        self._known_ns = max(clock_ns - clock_ns % NS_PER_US, self._known_ns + NS_PER_US)
        refused = Quarantined(record, POISONED, detail)
        return Step(
            batches=(
                quarantine_batch(self._preset.id, [refused], clock_ns),
                self._position_batch(),
            ),
            next_index=1,
            rows=0,
            quarantined={POISONED: 1},
            note=dict(self._next),
        )

    def _position_batch(self) -> Batch:
        record = {
            "partition": self._partition,
            "live_offset": self._next["live"],
            "backfill_offset": self._next["backfill"],
            "watermark_ns": self._watermark_ns,
            "known_time_ns": self._known_ns,
            "owner": self._owner,
            "conformed_offset": 0,
            "rows_total": self._rows_total,
        }
        return Batch(
            topic=topic_name(self._preset.id, "positions"),
            keys=[POSITION_KEY],
            values=[encode_record("position", record, self._ids["position"])],
            headers=fingerprint_header("position"),
        )

    def tick(self, clock_ns: int) -> Step | None:
        return None

    def committed(self, step: Step, offsets: Mapping[int, Sequence[int]]) -> None:
        self._position = dict(step.note)

    def close(self) -> None:
        """Holds no file."""


@dataclass(frozen=True, slots=True)
class TradesFactory:
    """Machines of a `trades` preset."""

    preset: Preset
    ids: Mapping[str, int]
    resolve: Resolve
    policies: Policies
    owner: str

    def warm(self) -> None:
        """Compile the two kernels that are used."""
        schema_ids([WARM_VALUE])
        TradeDecoder().decode([WARM_VALUE])

    def series(self) -> Sequence[tuple[str, str]]:
        return series_of(self.preset)

    def policy(self, role: Role) -> Policy:
        return self.policies(subject_of(topic_name(self.preset.id, role)))

    def outputs(self) -> Sequence[str]:
        return [topic_name(self.preset.id, role) for role in ("quarantine", "positions")]

    def rebuild(self, reader: PartitionReader) -> TradesMachine:
        found = newest_records(reader, topic_name(self.preset.id, "positions"))
        last = read_fields("position", found[-1]) if found else {}
        return TradesMachine(
            preset=self.preset,
            partition=reader.partition,
            ids=self.ids,
            resolve=self.resolve,
            owner=self.owner,
            position={role: last.get(f"{role}_offset", 0) for role in ROLES},
            known_ns=last.get("known_time_ns", 0),
            rows_total=last.get("rows_total", 0),
        )
