"""Whether what a reader takes keeps the contract of its subject, in the mode of now.

Decides: what a reader checks beside decoding (the schema that the id means, withdrawn schemas, the
value rules of bars), what canary and strict make of it, and how a reader knows the mode: it reads
the control topic to a fence when it opens, on while its history lasts, and in the tail of its live
part. Invariants: nobody reads without knowing the modes; in strict nothing passes unchecked: an id
whose schema nobody can tell ends the read; in canary a check stops nothing and costs at most one
short question per id. Must not know: symbols, the order of a stream, how records decode.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import numpy as np

from seamline.connectors.kafka.admin import TP, Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message, Tail, read_range
from seamline.connectors.metrics import ValidationFailures
from seamline.connectors.registry.client import RegistrySettings, RemoteSchemaRegistryClient
from seamline.connectors.world import World
from seamline.schemas.columns import ConformedColumns
from seamline.schemas.contract import SCHEMAS, by_fingerprint, fingerprint_of_text
from seamline.schemas.errors import ContractError, SchemaValidationError, TransportError
from seamline.schemas.modes import MODES, STRICT, ModeBook, Policy
from seamline.schemas.topics import HEADER_FINGERPRINT, SCHEMA_MODES_TOPIC, subject_of
from seamline.schemas.wire import FRAME_BYTES
from seamline.streams.kernel.breach import broken_field, broken_values
from seamline.streams.kernel.intake import FINGERPRINT_MISMATCH
from seamline.streams.kernel.rules import TOMBSTONED_SCHEMA
from seamline.streams.kernel.validate import first_rule
from seamline.streams.kernel.writers import UNKNOWN_SCHEMA

# How old the modes may be before a history that is read looks for changes.
REFRESH_S: Final = 2.0
# How often a live reader looks for a control topic that is not there.
LOOK_S: Final = 5.0
# In canary nobody waits for a registry.
QUICK: Final = RegistrySettings(timeout_s=1.0, retries=0, deadline_s=1.0)
VERDICTS_MAX: Final = 10_000
NO_SUCH_ID: Final = "none of this id"

# Schema id, whether there is time for it -> the text that it means. Raises ContractError where
# there is none, TransportError where nobody answers.
TextOf = Callable[[int, bool], str]


def text_in(world: World) -> TextOf:
    """What ids mean in the registry of a world. Nothing stays open."""

    def text_of(schema_id: int, patient: bool) -> str:
        settings = RegistrySettings() if patient else QUICK
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth, settings)
        try:
            return client.by_id(schema_id)
        finally:
            client.close()

    return text_of


class ReadContract:
    """Of one reader; `open` before anything is read. `default_mode`: of subjects without one of
    their own. One thread at a time."""

    def __init__(
        self,
        cluster: Cluster,
        default_mode: str,
        text_of: TextOf,
        failures: ValidationFailures | None = None,
    ) -> None:
        self.failures = failures if failures is not None else ValidationFailures()
        self._cluster, self._default, self._text_of = cluster, default_mode, text_of
        self._admin: Admin | None = None
        self._book = ModeBook()
        self._next: dict[TP, int] = {}
        self._read_s = 0.0
        # Schema id -> fingerprint of its schema, as far as it was told; ids asked for in canary.
        self._meanings: dict[int, str] = {}
        self._asked: set[int] = set()
        self._verdicts: dict[tuple[str, bytes, object], tuple[str, str] | None] = {}
        # The last offset counted: a history that is read again is not counted again.
        self._counted: dict[tuple[str, str, int], int] = {}
        self._schema_broken: set[tuple[int, int]] = set()

    def create(self, topics: Collection[str]) -> None:
        """Count the failures of these topics, from 0."""
        self.failures.create([subject_of(topic) for topic in topics], MODES)

    # the modes

    def open(self) -> None:
        """Read the modes up to a fence. Raises TransportError where that cannot be done."""
        admin = self._admin = self._admin or Admin(self._cluster)
        count = admin.partitions([SCHEMA_MODES_TOPIC]).get(SCHEMA_MODES_TOPIC, 0)
        tps = [(SCHEMA_MODES_TOPIC, number) for number in range(count)]
        fences = admin.end_offsets(tps)
        fresh = [tp for tp in tps if tp not in self._next]
        self._next |= admin.begin_offsets(fresh)
        starts = {tp: min(self._next[tp], fences[tp]) for tp in tps}
        for messages in read_range(self._cluster, starts, fences):
            self.take(messages)
        self._next |= fences
        self._read_s = time.monotonic()

    def refresh(self) -> None:
        """Look for changes where the modes are old. Where nobody answers, the last known stand."""
        if time.monotonic() - self._read_s >= REFRESH_S:
            self._read_s = time.monotonic()
            try:
                self.open()
            except TransportError as error:
                if not error.retriable:
                    raise

    def follow(self, tail: Tail) -> None:
        """Let a tail bring the changes from now on; `take` gets its messages of this topic. Looks
        for the topic now and then while there is none."""
        following = {tp for tp in tail.partitions if tp[0] == SCHEMA_MODES_TOPIC}
        if following:
            return
        if not self._next:
            if time.monotonic() - self._read_s < LOOK_S:
                return
            self._read_s = 0.0
            self.refresh()
        for tp, offset in self._next.items():
            tail.add(tp, offset)

    def take(self, messages: Iterable[Message]) -> None:
        """Records of the control topic."""
        for message in messages:
            if self._book.take(message.key, message.value) is not None:
                self._verdicts.clear()

    def policy(self, topic: str) -> Policy:
        return self._book.policy_of(subject_of(topic), self._default)

    # the checks

    def check_records(self, record: str, messages: Sequence[Message]) -> None:
        """Check what these messages of one topic say of their schema; `record`: the name of what
        the topic holds. Raises SchemaValidationError in strict, for the first that breaks it."""
        if not messages:
            return
        topic = messages[0].topic
        policy = self.policy(topic)
        kinds = {((m.value or b"")[:FRAME_BYTES], m.headers) for m in messages}
        broken = {}
        self._schema_broken.clear()
        for head, headers in kinds:
            verdict = self._verdict(topic, record, head, headers, policy)
            if verdict is not None:
                broken[head, headers] = verdict
        if not broken:
            return
        found = [m for m in messages if ((m.value or b"")[:FRAME_BYTES], m.headers) in broken]
        self._schema_broken.update((m.partition, m.offset) for m in found)
        self._count("schema", found, policy.mode)
        if policy.mode == STRICT:
            first = found[0]
            rule, writer = broken[(first.value or b"")[:FRAME_BYTES], first.headers]
            stated = dict(first.headers).get(HEADER_FINGERPRINT)
            raise _refused(first, record, rule, (HEADER_FINGERPRINT, stated), writer, len(found))

    def check_values(
        self, record: str, messages: Sequence[Message], columns: ConformedColumns
    ) -> None:
        """Check bars by the rules of their values; `messages`: one a row, or the one that all rows
        came in. Raises SchemaValidationError in strict, for the first that breaks one."""
        rules = broken_values(columns)
        if not rules.any():
            return
        rows = np.flatnonzero(rules)
        topic, alone = messages[0].topic, len(messages) == 1
        policy = self.policy(topic)
        found = [messages[0]] if alone else [messages[row] for row in rows.tolist()]
        fresh = [m for m in found if (m.partition, m.offset) not in self._schema_broken]
        self._count("values", fresh, policy.mode)
        if policy.mode == STRICT:
            row = int(rows[0])
            field = broken_field(int(rules[row]), columns, row)
            rule = first_rule(int(rules[row]))
            message = messages[0 if alone else row]
            raise _refused(message, record, rule, field, _stated(message), len(rows))

    def _count(self, check: str, found: Sequence[Message], mode: str) -> None:
        """Each record once, however often its history is read."""
        fresh = 0
        for message in found:
            where = (check, message.topic, message.partition)
            if message.offset > self._counted.get(where, -1):
                self._counted[where] = message.offset
                fresh += 1
        if fresh:
            self.failures.add(subject_of(found[0].topic), mode, fresh)

    def _verdict(
        self,
        topic: str,
        record: str,
        head: bytes,
        headers: tuple[tuple[str, bytes], ...],
        policy: Policy,
    ) -> tuple[str, str] | None:
        """The rule that a kind of records breaks and what wrote them, None where it breaks none."""
        key = (topic, head, headers)
        if key not in self._verdicts:
            verdict, known = self._judged(record, head, headers, policy)
            if not known:
                return verdict
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return self._verdicts[key]

    def _judged(
        self, record: str, head: bytes, headers: tuple[tuple[str, bytes], ...], policy: Policy
    ) -> tuple[tuple[str, str] | None, bool]:
        """As `_verdict`, and whether it stands as long as the modes do."""
        named = {value for name, value in headers if name == HEADER_FINGERPRINT}
        if len(named) > 1:
            return (FINGERPRINT_MISMATCH, "several schemas"), True
        stated = by_fingerprint(dict(headers).get(HEADER_FINGERPRINT) or b"")
        if stated is None or stated.name != record or len(head) < FRAME_BYTES or head[0]:
            return (UNKNOWN_SCHEMA, "an unapproved schema"), True
        writer = f"{stated.name} v{stated.version}"
        if stated.fingerprint in policy.tombstones:
            return (TOMBSTONED_SCHEMA, writer), True
        schema_id = struct.unpack(">xI", head)[0]
        meant = self._meaning(schema_id, patient=policy.mode == STRICT)
        if meant is None:
            return None, False
        if meant == NO_SUCH_ID:
            return (UNKNOWN_SCHEMA, f"schema id {schema_id}"), policy.mode != STRICT
        if meant != stated.fingerprint:
            return (FINGERPRINT_MISMATCH, f"schema id {schema_id} of {meant[:16]}"), True
        return None, True

    def _meaning(self, schema_id: int, *, patient: bool) -> str | None:
        """The fingerprint of what an id means; None where nobody answers and there is no need."""
        known = self._meanings.get(schema_id)
        if known is not None and not (patient and known == NO_SUCH_ID):
            return known
        if not patient and schema_id in self._asked:
            return None
        if len(self._asked) >= VERDICTS_MAX:
            self._asked.clear()
            self._meanings.clear()
        self._asked.add(schema_id)
        try:
            self._meanings[schema_id] = fingerprint_of_text(self._text_of(schema_id, patient))
        except ContractError:
            self._meanings[schema_id] = NO_SUCH_ID
        except TransportError:
            if patient:
                raise
            return None
        return self._meanings[schema_id]


def _stated(message: Message) -> str | None:
    found = by_fingerprint(dict(message.headers).get(HEADER_FINGERPRINT) or b"")
    return None if found is None else f"{found.name} v{found.version}"


def _refused(
    message: Message,
    record: str,
    rule: str,
    broken: tuple[str | None, object],
    writer: str | None,
    count: int,
) -> SchemaValidationError:
    name, value = broken
    return SchemaValidationError(
        f"{message.topic}[{message.partition}] at offset {message.offset} may not be read",
        subject=subject_of(message.topic),
        field=name,
        value=value,
        rule=rule,
        writer_schema=writer,
        reader_schema=f"{record} v{SCHEMAS[record].version}",
        fix="Only the worker may write this topic; look up the record, or set its subject to "
        "canary: seamline schema demote",
        cause=rule,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        invalid=count,
    )
