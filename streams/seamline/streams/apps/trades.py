"""The machine of a `trades` preset: landed, checked, and what is wrong to quarantine.

Decides: which landed trades break the contract. Trades have no log, no blocks and no seam of their
own yet: what is right stays on the landing topic. Invariants: every record is good, a heartbeat, or
in quarantine with its original bytes; the position covers exactly what was judged. Must not know:
bars.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.codec import schema_ids
from seamline.schemas.errors import ContractError
from seamline.schemas.modes import Policies, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record, encode_record
from seamline.schemas.times import NS_PER_S, NS_PER_US
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    POSITION_KEY,
    partition_of,
    subject_of,
    topic_name,
)
from seamline.streams.apps.series import series_of
from seamline.streams.kernel.failure_detail import Account, FailedRecords
from seamline.streams.kernel.intake import (
    CLOCK_SKEW_NS,
    FINGERPRINT_MISMATCH,
    KEY_MISMATCH,
    NULL_VALUE,
    POISONED,
    WRONG_PARTITION,
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
from seamline.streams.kernel.writers import UNDECODABLE, UNKNOWN_SCHEMA, Resolve, Writer, writer_of

COMMIT_NS: Final = NS_PER_S
NON_FINITE: Final = "non_finite"
FUTURE_TIME: Final = "future_time"
NAMES: Final = ("trade",)
# Rules that follow the mode.
VALUE_RULES: Final = ("non_positive_price", "non_positive_size")


@dataclass(frozen=True, slots=True)
class Judged:
    """The rules that a trade breaks, the one that decides first; none: it is right."""

    rules: tuple[str, ...] = ()
    detail: str = ""


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
        self._resolve = resolve
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
        ids = schema_ids([record.value or b"" for record in part]).tolist()
        writers = {
            number: writer_of(number, self._resolve, policy, NAMES) for number in sorted(set(ids))
        }
        refused: list[Quarantined] = []
        rules: Counter[str] = Counter()
        detail = FailedRecords()
        trades = beats = blocked = 0
        for record, number in zip(part, ids, strict=True):
            watermark_ns = None if record.value is not None else watermark_of(record)
            if watermark_ns is not None and watermark_ns <= clock_ns + CLOCK_SKEW_NS:
                self._watermark_ns = max(self._watermark_ns or 0, watermark_ns)
                beats += 1
                continue
            judged = self._judge(record, writers[number], clock_ns)
            if judged.rules:
                detail.add(record, judged.rules[0], judged.detail)
            if judged.rules and fate(judged.rules[0], policy.mode) == QUARANTINE:
                refused.append(Quarantined(record, judged.rules[0], judged.detail))
                blocked += RULES[judged.rules[0]].follows_mode
                continue
            trades += 1
            rules.update(judged.rules)
        self._next[role] = part[-1].offset + 1
        self._account.add(
            *(subject_of(topic_name(self._preset.id, role)), policy.mode, policy.version),
            seen=len(part) - beats,
            failed=sum(detail.rules().values()),
            blocked=blocked,
            detail=detail,
        )
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

    def _judge(self, record: Record, writer: Writer, clock_ns: int) -> Judged:
        if record.value is None:
            watermark_ns = watermark_of(record)
            if watermark_ns is not None:
                return Judged((FUTURE_TIME,), f"watermark {watermark_ns} ns")
            return Judged((NULL_VALUE,), "no heartbeat headers")
        if not writer.name:
            return Judged((writer.reason,), writer.detail)
        for key, stated in record.headers:
            if key == HEADER_FINGERPRINT and stated != writer.header:
                detail = f"{writer.detail}, the header says another"
                return Judged((FINGERPRINT_MISMATCH,), detail)
        value: bytes | None = record.value
        if writer.drift is not None:
            value = writer.drift.translate(record.value)
            if value is None:
                return Judged((UNKNOWN_SCHEMA,), "does not resolve as trade")
        try:
            trade = decode_record("trade", value or b"", writer.version)
        except ContractError as error:
            return Judged((UNDECODABLE,), str(error.fields.get("reason", "")))
        return self._judge_trade(record, trade, writer, clock_ns)

    def _judge_trade(
        self, record: Record, trade: Mapping[str, Any], writer: Writer, clock_ns: int
    ) -> Judged:
        symbol = trade["symbol"]
        if record.key != symbol.encode():
            return Judged((KEY_MISMATCH,), "the key is not the UTF-8 symbol of the value")
        if partition_of(symbol, self._preset.partitions) != self._partition:
            detail = "the producer does not partition by murmur2 of the key"
            return Judged((WRONG_PARTITION,), detail)
        if not (math.isfinite(trade["price"]) and math.isfinite(trade["size"])):
            return Judged((NON_FINITE,), "price or size")
        if trade["time_ns"] > clock_ns + CLOCK_SKEW_NS:
            return Judged((FUTURE_TIME,), f"{trade['time_ns']} ns")
        broken = [
            (rule, f"{trade[field]}")
            for rule, field in zip(VALUE_RULES, ("price", "size"), strict=True)
            if trade[field] <= 0
        ]
        rules = (*(rule for rule, _ in broken), *writer.broken)
        return Judged(rules, broken[0][1] if broken else writer.detail)

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
        """Compile the one kernel that is used."""
        schema_ids([b"\x00\x00\x00\x00\x00"])

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
