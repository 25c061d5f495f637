"""What a reader of the seam needs of Kafka: fences, ranges, a tail, and records as values.

Decides: how each role's records decode, and which are refused. Invariants: only asked partitions
are read and only asked symbols decoded; a record without the fingerprint of the approved schema,
with a key that is not its value's, or that does not decode is a ContractError, never skipped.
Must not know: what the records mean for a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seamline.connectors.kafka.admin import TP, Admin, Isolation
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, Tail, read_range
from seamline.schemas.codec import ConformedDecoder, decode_record
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import Block, ConformedColumns
from seamline.schemas.contract import version_written
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.topics import (
    HEADER_FINGERPRINT,
    SCHEMA_MODES_TOPIC,
    parse_gap_key,
    parse_storage_key,
    parse_symbol_key,
    partition_of,
    topic_name,
)
from seamline.sdk.read_contract import ReadContract
from seamline.streams.kernel.seam import GapFacts, SealFacts

SCHEMA_OF: Final[Mapping[str, str]] = {
    "conformed": "conformed_bar",
    "superseded": "conformed_bar",
    "storage": "bar_block",
    "seals": "seal",
    "gaps": "gap",
    "positions": "position",
}
# Positions are written with each transaction; the newest is among the last offsets.
POSITION_OFFSETS: Final = 64


@dataclass(frozen=True, slots=True)
class Clocks:
    """Times of partitions. Everything of a transaction before `known_ns` is committed and shows."""

    known_ns: dict[int, int]
    watermarks_ns: dict[int, int]


class SeamSource:
    """The topics of one preset, seen by a reader of some of its symbols. With a `contract`, what it
    takes keeps the contract of its subjects, else only what decoding asks for."""

    def __init__(
        self,
        cluster: Cluster,
        preset: Preset,
        symbols: Sequence[str],
        contract: ReadContract | None = None,
    ) -> None:
        self.contract = contract
        self.cluster = cluster
        self.preset = preset
        self.symbols: dict[str, int] = {s: partition_of(s, preset.partitions) for s in symbols}
        self.partitions = tuple(sorted(set(self.symbols.values())))
        self._keys = {symbol.encode() for symbol in symbols}
        self._admin = Admin(cluster)
        self._decoder = ConformedDecoder()

    def topic(self, role: str) -> str:
        """A derived preset is written in the transactions of its parent, whose positions count."""
        if role == "positions" and self.preset.derive_from is not None:
            return topic_name(self.preset.derive_from, role)
        return topic_name(self.preset.id, role)

    def cluster_id(self) -> str:
        return self._admin.cluster_id()

    def check_topics(self) -> None:
        """Raises UsageError when the topics are not there, ContractError for another count."""
        topics = [self.topic(role) for role in SCHEMA_OF]
        counts = self._admin.partitions(topics)
        missing = [topic for topic in topics if topic not in counts]
        if missing:
            raise UsageError(
                "the preset has no topics on this cluster",
                parameter="preset",
                value=self.preset.id,
                fix=f"Run: seamline topics apply {self.preset.id}",
                missing=missing,
            )
        wrong = {t: n for t, n in counts.items() if n != self.preset.partitions}
        if wrong:
            raise ContractError(
                f"topics with another number of partitions than the preset's "
                f"{self.preset.partitions}: symbols would be looked for in wrong places",
                parameter="partitions",
                value=wrong,
                fix=f"Run: seamline topics plan {self.preset.id}",
            )

    def fences(self, role: str, isolation: Isolation = "read_committed") -> dict[int, int]:
        """End offsets of the partitions in use."""
        return self._by_partition(self._admin.end_offsets(self._tps(role), isolation))

    def ends(self, roles: Sequence[str]) -> dict[str, dict[int, int]]:
        """Ends of several roles, open transactions included, asked at once."""
        found = self._admin.end_offsets(
            [tp for role in roles for tp in self._tps(role)], "read_uncommitted"
        )
        topics = {self.topic(role): role for role in roles}
        ends: dict[str, dict[int, int]] = {role: {} for role in roles}
        for (topic, partition), offset in found.items():
            ends[topics[topic]][partition] = offset
        return ends

    def begins(self, role: str) -> dict[int, int]:
        """First retained offsets of the partitions in use."""
        return self._by_partition(self._admin.begin_offsets(self._tps(role)))

    def read(
        self, role: str, starts: Mapping[int, int], fences: Mapping[int, int]
    ) -> Iterator[list[Message]]:
        """Committed records from each start up to its fence, in order per partition."""
        topic = self.topic(role)
        wanted = {(topic, partition): fences[partition] for partition in starts}
        from_ = {(topic, p): min(start, fences[p]) for p, start in starts.items()}
        for messages in read_range(self.cluster, from_, wanted):
            if self.contract is not None:
                self.contract.refresh()
            yield messages

    def tail(self, starts: Mapping[str, Mapping[int, int]]) -> Tail:
        """A tail over roles, each partition from its own offset."""
        tail = Tail(self.cluster)
        for role, offsets in starts.items():
            for partition, offset in offsets.items():
                tail.add((self.topic(role), partition), offset)
        return tail

    # the modes of what is read; nothing without a contract

    def open_contract(self) -> None:
        if self.contract is not None:
            self.contract.create([self.topic(role) for role in SCHEMA_OF])
            self.contract.open()

    def follow_contract(self, tail: Tail) -> None:
        if self.contract is not None:
            self.contract.follow(tail)

    def without_modes(self, messages: list[Message]) -> list[Message]:
        """The messages but those of the control topic, which are heard first."""
        modes = [m for m in messages if m.topic == SCHEMA_MODES_TOPIC]
        if not modes or self.contract is None:
            return messages
        self.contract.take(modes)
        return [m for m in messages if m.topic != SCHEMA_MODES_TOPIC]

    def known_symbols(self) -> list[str]:
        """Every symbol of the preset that was ever sealed. Reads all of `seals`."""
        topic = self.topic("seals")
        tps = [(topic, partition) for partition in range(self.preset.partitions)]
        fences = self._admin.end_offsets(tps)
        found: set[str] = set()
        for batch in read_range(self.cluster, self._admin.begin_offsets(tps), fences):
            found.update(parse_symbol_key(m.key) for m in batch if m.key is not None)
        return sorted(found)

    # records as values

    def blocks(self, messages: Iterable[Message]) -> Iterator[Block]:
        for message in messages:
            symbol, start_ns = parse_storage_key(_key(message))
            if symbol not in self.symbols:
                continue
            if message.value is None:
                raise _refused(message, "a block was removed", "removed")
            self._check(message, "storage")
            block = decode_block(message.value, _version(message, "storage"))
            if self.contract is not None:
                self.contract.check_values(SCHEMA_OF["storage"], [message], block.columns)
            if (block.symbol, block.block_start_ns) != (symbol, start_ns):
                raise _refused(message, "the key is not the block's", "key_differs")
            yield block

    def seals(self, messages: Iterable[Message]) -> Iterator[SealFacts]:
        for message in messages:
            symbol = parse_symbol_key(_key(message))
            if symbol not in self.symbols:
                continue
            if message.value is None:
                raise _refused(message, "a seal was removed", "removed")
            self._check(message, "seals")
            record = _fields(message, message.value, "seals")
            if record["symbol"] != symbol:
                raise _refused(message, "the key is not the seal's", "key_differs")
            yield SealFacts(
                symbol=symbol,
                frontier_ns=record["frontier_ns"],
                conformed_offset=record["conformed_offset"],
                merkle_root=record["merkle_root"],
                sequence=record["sequence"],
                storage_sequence=record["storage_sequence"],
                blocks=record["blocks"],
                rows=record["rows"],
                history_start_ns=record["history_start_ns"],
                asked_start_ns=record["asked_start_ns"],
            )

    def gaps(self, messages: Iterable[Message]) -> Iterator[tuple[str, int, GapFacts | None]]:
        """(symbol, start, entry); no entry: it is closed."""
        for message in messages:
            symbol, start_ns = parse_gap_key(_key(message))
            if symbol not in self.symbols:
                continue
            if message.value is None:
                yield symbol, start_ns, None
                continue
            self._check(message, "gaps")
            record = _fields(message, message.value, "gaps")
            if (record["symbol"], record["start_ns"]) != (symbol, start_ns):
                raise _refused(message, "the key is not the entry's", "key_differs")
            facts = GapFacts(start_ns, record["end_ns"], record["cause"], record["known_time_ns"])
            yield symbol, start_ns, facts

    def clocks(self, messages: Iterable[Message]) -> Clocks:
        """The newest known time and watermark of each partition that these positions tell."""
        found = Clocks({}, {})
        for message in messages:
            if message.value is None:
                continue
            self._check(message, "positions")
            record = _fields(message, message.value, "positions")
            found.known_ns[message.partition] = record["known_time_ns"]
            if record["watermark_ns"] is not None:
                found.watermarks_ns[message.partition] = record["watermark_ns"]
        return found

    def rows(
        self, messages: Iterable[Message], role: str = "conformed"
    ) -> Iterator[tuple[str, ConformedColumns]]:
        """The asked symbols' rows, in offset order for each symbol."""
        wanted = [m for m in messages if m.key in self._keys]
        if not wanted:
            return
        if self.contract is not None:
            self.contract.check_records(SCHEMA_OF[role], wanted)
        for headers in {m.headers for m in wanted}:
            if version_written(SCHEMA_OF[role], headers) is None:
                first = next(m for m in wanted if m.headers == headers)
                raise _refused(first, "not an approved schema", "unknown_schema")
        values = [m.value for m in wanted if m.value is not None]
        if len(values) != len(wanted):
            raise _refused(wanted[0], "a row without a value among these", "removed")
        decoded = self._decoder.decode(values)
        if not decoded.ok.all():
            at = int(np.flatnonzero(~decoded.ok)[0])
            raise _refused(wanted[at], "does not decode", "undecodable")
        if self.contract is not None:
            self.contract.check_values(SCHEMA_OF[role], wanted, decoded.columns)
        names = self._decoder.symbols
        for sid in np.unique(decoded.sid).tolist():
            rows = np.flatnonzero(decoded.sid == sid)
            if names[sid] not in self.symbols:
                raise _refused(wanted[int(rows[0])], "the key is not the bar's", "key_differs")
            yield names[sid], decoded.columns.take(rows)

    def _check(self, message: Message, role: str) -> None:
        if self.contract is not None:
            self.contract.check_records(SCHEMA_OF[role], [message])

    def _tps(self, role: str) -> list[TP]:
        topic = self.topic(role)
        return [(topic, partition) for partition in self.partitions]

    @staticmethod
    def _by_partition(offsets: Mapping[TP, int]) -> dict[int, int]:
        return {partition: offset for (_, partition), offset in offsets.items()}


def _key(message: Message) -> bytes:
    if message.key is None:
        raise _refused(message, "a record without a key", "no_key")
    return message.key


def _version(message: Message, role: str) -> int:
    """Which approved version of the role's record wrote it."""
    version = version_written(SCHEMA_OF[role], message.headers)
    if version is None:
        raise _refused(message, "not an approved schema", "unknown_schema")
    return version


def _fields(message: Message, value: bytes, role: str) -> dict[str, Any]:
    return decode_record(SCHEMA_OF[role], value, _version(message, role))


def _refused(message: Message, what: str, cause: str) -> ContractError:
    return ContractError(
        f"{message.topic}[{message.partition}] at offset {message.offset}: {what}",
        parameter=HEADER_FINGERPRINT if cause == "unknown_schema" else "record",
        value=message.key,
        fix="Only the worker may write this topic; look up the record and its producer",
        cause=cause,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
    )
