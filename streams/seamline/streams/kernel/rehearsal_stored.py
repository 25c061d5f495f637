"""Records of our own topics (conformed, storage, seals and the rest) judged as strict would.

Decides: which of them a strict reader would refuse: another schema than the role's, a header that
contradicts it, bytes, a key, a partition or a block digest that do not fit, and values of bars that
break a rule. Invariants: every record but a tombstone of a compacted topic is judged; the value
rules are those of `validate`. Must not know: Kafka, totals, what wrote the record.

No bar goes missing and no symbol gets stale by what lies here: these numbers are of landing topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from seamline.schemas.codec import REASONS, ConformedDecoder, schema_ids
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import BarColumns, ConformedColumns
from seamline.schemas.contract import Schema, subject_rules
from seamline.schemas.errors import ContractError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.times import INT64_MAX
from seamline.schemas.topics import HEADER_FINGERPRINT, partition_of, storage_key
from seamline.streams.kernel.intake import (
    FINGERPRINT_MISMATCH,
    INVALID_BLOCK,
    KEY_MISMATCH,
    NULL_VALUE,
    WRONG_PARTITION,
)
from seamline.streams.kernel.protocol import Record
from seamline.streams.kernel.rehearsal_judge import (
    NO_SCHEMA,
    UNKNOWN,
    Blocked,
    Judged,
    key_text,
    producer_of,
)
from seamline.streams.kernel.rules import QUARANTINE, fate
from seamline.streams.kernel.validate import first_rule, judged, outcome
from seamline.streams.kernel.writers import UNDECODABLE, Resolve, Writer, writer_of

# A null there is the end of a key, in the others it says nothing.
LOGS: Final = ("conformed", "superseded")


class StoredJudge:
    """Judges the records of one partition of a topic that the worker writes."""

    def __init__(
        self,
        preset: Preset,
        partition: int,
        role: str,
        resolve: Resolve,
        tombstones: frozenset[str] = frozenset(),
    ) -> None:
        self._preset = preset
        self._policy = Policy(STRICT, tombstones=tombstones)
        self._partition = partition
        self._role = role
        self._resolve = resolve
        self._names = subject_rules(preset.kind)[role].schemas
        self._decoder = ConformedDecoder()

    @property
    def symbols(self) -> Sequence[str]:
        return ()

    def judge(self, records: Sequence[Record]) -> Judged:
        """Judge records in the order of their offsets. Raises nothing for what they hold."""
        if self._role not in LOGS:
            records = [record for record in records if record.value is not None]
        found = Judged(len(records))
        if not records:
            return found
        found.times_ms = np.fromiter((r.timestamp for r in records), np.int64, len(records))
        ids = schema_ids([record.value or b"" for record in records]).tolist()
        schemas = {number: self._schema_of(number) for number in set(ids)}
        bars: list[int] = []
        for at, record in enumerate(records):
            name, label, writer = schemas[ids[at]]
            reason = NULL_VALUE if record.value is None else writer.reason
            if not reason and _contradicts(record, writer):
                reason = FINGERPRINT_MISMATCH
            if reason:
                self._block(found, record, reason, label, key_text(record), 0)
            elif name == "conformed_bar":
                bars.append(at)
            else:
                self._small(found, record, writer, label)
        if bars:
            chosen = [records[at] for at in bars]
            self._bars(found, chosen, [schemas[ids[at]][1] for at in bars])
        found.blocked.sort(key=lambda each: each.offset)
        return found

    def _schema_of(self, number: int) -> tuple[str, str, Writer]:
        """The record and the label of an id, and what strict makes of it."""
        writer = writer_of(number, self._resolve, self._policy, self._names)
        if not writer.name:
            return "", NO_SCHEMA if number < 0 else f"id {number}", writer
        schema = self._resolve(number)
        version = f" v{schema.version}" if isinstance(schema, Schema) else ""
        return writer.name, f"{writer.name}{version}", writer

    def _bars(self, found: Judged, records: Sequence[Record], labels: Sequence[str]) -> None:
        decoded = self._decoder.decode([record.value or b"" for record in records])
        blocked, rules = self._judged(decoded.columns)
        symbols = self._decoder.symbols
        for at in np.flatnonzero(~decoded.ok).tolist():
            reason = REASONS[decoded.code[at]]
            shown = reason if reason in ("invalid_timestamp", "too_many_symbols") else UNDECODABLE
            self._block(found, records[at], shown, labels[at], key_text(records[at]), 0)
        for at in np.flatnonzero(decoded.ok).tolist():
            symbol = symbols[decoded.sid[at]]
            reason = self._misplaced(records[at], symbol, symbol.encode())
            if not reason and blocked[at]:
                reason = first_rule(int(rules[at]))
            if reason:
                self._block(found, records[at], reason, labels[at], symbol, 1)
            else:
                found.accepted += 1

    def _small(self, found: Judged, record: Record, writer: Writer, label: str) -> None:
        value = record.value or b""
        try:
            if writer.name == "bar_block":
                self._stored_block(found, record, writer.version, label)
                return
            fields = decode_record(writer.name, value, writer.version)
        except ContractError:
            self._block(found, record, UNDECODABLE, label, key_text(record), 0)
            return
        symbol = fields.get("symbol")
        if symbol is None:
            return
        key = (record.key or b"").partition(b"|")[0]
        reason = self._misplaced(record, symbol, symbol.encode(), key)
        if reason:
            self._block(found, record, reason, label, symbol, 0)

    def _stored_block(self, found: Judged, record: Record, version: int, label: str) -> None:
        block = decode_block(record.value or b"", version)
        blocked, rules = self._judged(block.columns)
        wanted = storage_key(block.symbol, block.block_start_ns)
        reason = self._misplaced(record, block.symbol, wanted)
        if not reason and block.digest != block_digest(block.symbol, block.columns):
            reason = INVALID_BLOCK
        bad = len(blocked) if reason else int(np.count_nonzero(blocked))
        if not reason and bad:
            reason = first_rule(int(np.bitwise_or.reduce(rules[blocked])))
        if reason:
            self._block(found, record, reason, label, block.symbol, bad)
        found.accepted += len(blocked) - bad

    def _judged(self, columns: ConformedColumns) -> tuple[Any, Any]:
        """Which rows strict refuses, and the broken rules. The worker has judged the time."""
        wanted = {name: getattr(columns, name) for name in BarColumns.DTYPES if name != "closed"}
        bars = BarColumns(**wanted, closed=np.ones(len(columns), bool))
        _, rules = judged(
            bars,
            interval_ns=self._preset.interval_ns,
            origin_ns=self._preset.grid_origin_ns,
            latest_ns=INT64_MAX,
        )
        return outcome(rules, mode=STRICT, off_grid="reject")[0], rules

    def _misplaced(
        self, record: Record, symbol: str, wanted: bytes, key: bytes | None = None
    ) -> str:
        if (record.key if key is None else key) != wanted:
            return KEY_MISMATCH
        if partition_of(symbol, self._preset.partitions) != self._partition:
            return WRONG_PARTITION
        return ""

    def _block(
        self, found: Judged, record: Record, reason: str, label: str, symbol: str, bars: int
    ) -> None:
        always = fate(reason, CANARY) == QUARANTINE
        place = (self._partition, record.offset, reason, always, label)
        found.blocked.append(Blocked(*place, producer_of(record), symbol or UNKNOWN, bars))


def _contradicts(record: Record, writer: Writer) -> bool:
    return any(n == HEADER_FINGERPRINT and value != writer.header for n, value in record.headers)
