"""Records of quarantine go back to their landing topics, each once, with an entry of the audit.

Decides: how much one transaction holds, and what its entry says. Invariants: landing records, marks
and entry are one transaction of the governance log, under its one id, so two who redrive the same
records cannot both do so: what a mark settles by the time of the commit is left out; records of a
partition go back in the order of the plan; the rules and modes that a plan is held against are
those in force when the door was opened, and the worker judges again by those of its own time. Must
not know: who corrects what.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from seamline.connectors.governance.landed_trades import LandedTrades
from seamline.connectors.governance.log import Change, GovernanceLog, Governed, OutRecord
from seamline.connectors.governance.quarantine import Quarantine
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.registry.registration import id_of, verify
from seamline.connectors.world import World
from seamline.schemas.audit import Draft
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import default_mode
from seamline.schemas.preset import Preset
from seamline.schemas.topics import HEADER_FINGERPRINT, partition_of_key, subject_of, topic_name
from seamline.streams.kernel.correction import (
    BAR,
    BLOCK,
    TRADE,
    corrected,
    decoded,
    encoded,
    record_of,
)
from seamline.streams.kernel.redrive import (
    FIXED,
    REDRIVEN,
    SUPERSEDED,
    Candidate,
    Judge,
    Kept,
    Mark,
    Plan,
    approved_bytes,
    candidate,
    hindrance,
    plan,
)
from seamline.streams.kernel.redrive_rules import judge_of
from seamline.streams.kernel.writers import Resolve

RECORDS_MAX: Final = 500
BYTES_MAX: Final = 8 * 2**20
# Names that an entry lists of each kind; the rest is a number.
NAMED_MAX: Final = 20

# A record that goes back, and the older statements that it stands for.
Unit = tuple[Candidate, tuple[Candidate, ...]]


@dataclass(frozen=True, slots=True)
class Request:
    """`action`: redrive or fix. Raises UsageError without a reason: a dry run says so too."""

    action: str
    actor: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise UsageError("empty", parameter="reason", value=self.reason, fix="Say why")


@dataclass(slots=True)
class Done:
    """What was committed: records that went back, older statements settled with them (and trades
    that had passed), records that somebody else had settled meanwhile, numbers of the entries."""

    records: int = 0
    superseded: int = 0
    settled_before: int = 0
    entries: tuple[int, ...] = ()


Fields = dict[str, Any]


@dataclass(slots=True)
class Door:
    """All that the way back needs of one preset."""

    preset: Preset
    quarantine: Quarantine
    log: GovernanceLog
    client: RemoteSchemaRegistryClient
    resolve: Resolve
    judge: Judge
    clock_ns: Callable[[], int]
    landed: LandedTrades | None = None
    ids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        world: World,
        preset: Preset,
        env: Mapping[str, str],
        clock_ns: Callable[[], int],
        partitions: Iterable[int] | None = None,
    ) -> Door:
        """The door of a preset as things are now.

        Raises UsageError for a preset that has no landing topics, ContractError without a
        quarantine topic, TransportError when broker or registry do not answer.
        """
        if preset.derive_from is not None:
            raise UsageError(
                "nothing goes back: a derived preset has no landing topics",
                parameter="preset",
                value=preset.id,
                fix="Look at them with: seamline quarantine top, show or export",
            )
        log = GovernanceLog(world.cluster)
        book, mode = log.read().book, default_mode(env)
        client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        resolve = Meanings.of_landing(client, preset)
        judge = judge_of(preset, resolve, lambda s: book.policy_of(s, mode), clock_ns())
        chosen = None if partitions is None else tuple(partitions)
        found = Quarantine(world.cluster, preset, chosen)
        landed = None
        if preset.kind == "trades":
            landed = LandedTrades(world.cluster, preset, found, resolve, clock_ns)
        return cls(preset, found, log, client, resolve, judge, clock_ns, landed)

    def plan(
        self, kept: Sequence[Kept], fields: Mapping[tuple[int, int], Fields] | None = None
    ) -> Plan:
        """What of these goes back, as they are or with the fields that they are to have.

        Raises UsageError for fields that are none, ContractError for what a schema cannot hold,
        TransportError when the registry does not answer.
        """
        rewritten = fields is not None
        whys = [(each, hindrance(each, self.preset.id, rewritten=rewritten)) for each in kept]
        refused = [(each, why) for each, why in whys if why]
        good = [each for each, why in whys if not why]
        if self.landed is not None:
            good, untold = self.landed.tellable(good)
            refused += untold
        if fields is None:
            candidates = [candidate(each) for each in good]
        else:
            candidates = [
                self._rewritten(each, fields[each.partition, each.offset]) for each in good
            ]
        found = plan(candidates, self.judge, self.resolve)
        if self.landed is not None:
            found = self.landed.without_passed(found, rewritten=rewritten)
        return replace(found, refused=(*refused, *found.refused))

    def corrected(
        self, kept: Kept, changes: Mapping[str, str], line: Mapping[str, Any] | None
    ) -> Fields:
        """The fields that a record is to have: those of an edited line, or its own with changes.

        Raises UsageError naming record and field, ContractError where the line is of other bytes,
        or the record cannot be read.
        """
        place = f"{kept.partition}:{kept.offset}"
        if line is not None:
            held = None if kept.value is None else b64encode(kept.value).decode()
            if line.get("value_base64") != held:
                raise ContractError(
                    "the line is of other bytes than the record",
                    parameter="value_base64",
                    value=place,
                    fix="Export again: an offset of another topic or cluster is another record",
                )
            fields = line.get("decoded")
        else:
            fields = fields_of(kept, self.resolve)
        if not isinstance(fields, dict):
            raise ContractError(
                "its fields cannot be read",
                parameter="offset",
                value=place,
                fix="Export it, write all its fields under `decoded`, and fix --from that file",
            )
        return corrected(fields, changes)

    def send(self, plan: Plan, request: Request) -> Done:
        """Do what the plan says. Raises TransportError when the broker does not answer."""
        since = None if self.landed is None else self.landed.passed_since
        return send(self.log, self.quarantine, plan, request, self.clock_ns, since)

    def close(self) -> None:
        self.client.close()

    def _rewritten(self, kept: Kept, fields: Fields) -> Candidate:
        name = record_of(fields)
        key, value = encoded(fields, {name: self._id_of(name, kept)})
        own = [header for header in kept.own if header[0] != HEADER_FINGERPRINT]
        return candidate(
            kept,
            value=value,
            key=key,
            partition=partition_of_key(key, self.preset.partitions),
            own=[*own, (HEADER_FINGERPRINT, SCHEMAS[name].header)],
        )

    def _id_of(self, name: str, kept: Kept) -> int:
        """The id of the approved schema, which has to be registered: a dry run changes nothing."""
        if name not in self.ids:
            topic = topic_name(self.preset.id, "backfill" if name == BLOCK else "live")
            schema_id = id_of(self.client, subject_of(topic), SCHEMAS[name])
            if schema_id is None:
                raise ContractError(
                    f"{name} v{SCHEMAS[name].version} is not registered there",
                    parameter="subject",
                    value=subject_of(topic),
                    fix=f"Run: seamline schema register {self.preset.id}",
                )
            verify(self.client, subject_of(topic), SCHEMAS[name], schema_id)
            self.ids[name] = schema_id
        return self.ids[name]


def batches_of(plan: Plan) -> Iterator[tuple[Unit, ...]]:
    """The plan in transactions: one landing topic each, at most RECORDS_MAX records and BYTES_MAX
    bytes (one larger record goes alone)."""
    behind: dict[int, list[Candidate]] = {}
    for older, newer in plan.superseded:
        behind.setdefault(id(newer), []).append(older)
    batch: list[Unit] = []
    records = size = 0
    for each in plan.sent:
        unit = each, tuple(behind.get(id(each), ()))
        more, weight = 1 + len(unit[1]), len(each.key or b"") + len(each.value or b"")
        full = records + more > RECORDS_MAX or size + weight > BYTES_MAX
        if batch and (full or batch[0][0].topic != each.topic):
            yield tuple(batch)
            batch, records, size = [], 0, 0
        batch.append(unit)
        records, size = records + more, size + weight
    if batch:
        yield tuple(batch)
    for topic in sorted({each.topic for each, _ in plan.passed}):
        alone: list[Unit] = [(each, ()) for each, _ in plan.passed if each.topic == topic]
        for at in range(0, len(alone), RECORDS_MAX):
            yield tuple(alone[at : at + RECORDS_MAX])


@contextmanager
def decoder(world: World, preset: Preset) -> Iterator[Callable[[Kept], Fields | None]]:
    """How the fields of kept records are read for people; None for what cannot be read, now."""
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    resolve = Meanings.of_landing(client, preset)

    def read(kept: Kept) -> Fields | None:
        try:
            return fields_of(kept, resolve)
        except TransportError:
            return None  # the client asks a registry that did not answer only now and then

    try:
        yield read
    finally:
        client.close()


def fields_of(kept: Kept, resolve: Resolve) -> Fields | None:
    """The fields of a record where its bytes can be read. Raises TransportError where its schema
    cannot be looked up."""
    found = approved_bytes(kept.value, resolve)
    if found is None or found[0] not in (BAR, BLOCK, TRADE):
        return None
    try:
        name, version, value = found
        return decoded(value, name, version)
    except ContractError:
        return None


def send(
    log: GovernanceLog,
    quarantine: Quarantine,
    plan: Plan,
    request: Request,
    clock_ns: Callable[[], int] = time.time_ns,
    passed_since: Callable[[Iterable[Candidate]], frozenset[int]] | None = None,
) -> Done:
    """Send what the plan says, batch by batch; what is committed stays when a later one fails.
    `passed_since` says which candidates, by id(), must not land any more: they are settled alone; a
    corrected one stays open.

    Raises TransportError when the broker does not answer.
    """
    done = Done()
    known = frozenset(id(each) for each, _ in plan.passed)
    for batch in batches_of(plan):
        left: list[Unit] = []
        passed: set[int] = set()

        def decide(
            _: Governed,
            batch: tuple[Unit, ...] = batch,
            left: list[Unit] = left,
            passed: set[int] = passed,
        ) -> Change:
            quarantine.refresh()
            passed.clear()
            passed |= known
            if passed_since is not None:
                passed |= passed_since(each for each, _ in batch if id(each) not in known)
            left[:] = [
                unit
                for unit in batch
                if not _settled(quarantine, unit[0])
                and not (request.action == "fix" and id(unit[0]) in passed)
            ]
            return change_of(quarantine.topic, left, request, passed) if left else Change()

        entries = log.commit(decide, clock_ns)
        landed = sum(id(each) not in passed for each, _ in left)
        done.entries += tuple(entry.number for entry in entries)
        done.records += landed
        done.superseded += sum(len(older) for _, older in left) + len(left) - landed
        done.settled_before += len(batch) - len(left)
    return done


def change_of(
    topic: str, units: Sequence[Unit], request: Request, passed: Collection[int] = ()
) -> Change:
    """One transaction: the landing records in order, their marks, and the entry that says so.
    `passed`: candidates, by id(), that get their mark and do not land."""
    records: list[OutRecord] = []
    for each, behind in units:
        how = FIXED if request.action == "fix" else REDRIVEN
        if id(each) in passed:
            how = SUPERSEDED
        else:
            landing = OutRecord(each.topic, each.partition, each.key, each.value, each.headers)
            records.append(landing)
        for settled, said in ((each, how), *((older, SUPERSEDED) for older in behind)):
            mark = Mark(settled.kept.offset, said)
            records.append(OutRecord(topic, settled.kept.partition, None, None, mark.headers))
    every = [each for unit in units for each in (unit[0], *unit[1])]
    times = [each.kept.first_failure_ns for each in every]
    draft = Draft(
        action=request.action,
        subject=subject_of(units[0][0].topic),
        actor=request.actor,
        reason=request.reason,
        window_ns=(min(times), max(times) + 1),
        evidence=_evidence(topic, [u for u in units if id(u[0]) not in passed], every),
    )
    return Change((draft,), (), tuple(records))


def _evidence(topic: str, units: Sequence[Unit], every: Sequence[Candidate]) -> dict[str, Any]:
    offsets: dict[str, list[int]] = {}
    for each in every:
        offsets.setdefault(str(each.kept.partition), []).append(each.kept.offset)
    return {
        "quarantine": topic,
        "records": len(units),
        "superseded": len(every) - len(units),
        # Of the bytes that land, in their order: what went back can be proved later.
        "values_sha256": _digest(units),
        "offsets": {partition: sorted(found) for partition, found in sorted(offsets.items())},
        "by_rule": _top(each.kept.reason for each in every),
        "by_producer": _top(each.kept.producer for each in every),
        "by_symbol": _top(each.kept.symbol for each in every),
    }


def _digest(units: Sequence[Unit]) -> str:
    whole = sha256()
    for each, _ in units:
        whole.update(len(each.value or b"").to_bytes(8, "big") + (each.value or b""))
    return whole.hexdigest()


def _top(names: Any) -> dict[str, int]:
    counts = Counter(names)
    named = dict(counts.most_common(NAMED_MAX))
    rest = counts.total() - sum(named.values())
    return {**named, "others": rest} if rest else named


def _settled(quarantine: Quarantine, each: Candidate) -> bool:
    return quarantine.is_settled(each.kept.partition, each.kept.offset)
