"""What lies in quarantine, and what of it goes back to its landing topic, in which order.

Decides: what a record of a quarantine partition is (a kept record, or the mark that one is
settled), which kept records can go back at all, which of several statements of one bar does, and in
what order. Invariants: of one bar, or one range of a block, and one authority only the newest goes
back, and none before a newer one that has to be mended first; records of a partition go back in
the order in which they landed first; what the present rules would refuse again does not go; nothing
is taken out of quarantine, a mark says what was settled. Must not know: Kafka, who asked for it,
what the audit says.

A record that goes back is older than what has landed since: the machine lets it lose a tie of equal
authority (`merge._standing`). Of two that came back the first stands, so statements of one thing
take each other's places, newest first: those of one bar, and the messages of one block. A trade is
its id on whichever landing topic; that it passed meanwhile is told by `redrive_trades`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import OPTIONAL_FIELDS
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.records import decode_record
from seamline.schemas.times import INT64_MAX, NS_PER_MS
from seamline.schemas.topics import (
    HEADER_DETAIL,
    HEADER_FIRST_FAILURE_NS,
    HEADER_ORIGIN_BYTES,
    HEADER_ORIGIN_OFFSET,
    HEADER_ORIGIN_PARTITION,
    HEADER_ORIGIN_TIMESTAMP_MS,
    HEADER_ORIGIN_TOPIC,
    HEADER_REASON,
    HEADER_REDRIVEN,
    HEADER_RESOLVED,
    HEADER_SCHEMA_ID,
    HEADER_SIZE,
    HEADER_SOURCE,
    LANDING_ROLES,
    parse_topic,
    producer_of,
)
from seamline.schemas.wire import schema_id_of
from seamline.streams.kernel.protocol import Header, Stored
from seamline.streams.kernel.writers import Drifted, Resolve, version_read

# How a kept record was settled: it went back, an older statement of the same was left behind, or a
# corrected copy of it went back.
REDRIVEN: Final = "redriven"
SUPERSEDED: Final = "superseded"
FIXED: Final = "fixed"
HOW: Final = (REDRIVEN, SUPERSEDED, FIXED)
# Said of its own time, so that no later clock makes it right.
OF_THE_FUTURE: Final = "future_time"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record landed."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A record in quarantine. `own`: the headers with which it landed. `origin`: where, None of
    what never did: a frame that a connector could not read, a bar that an SDK producer put aside.
    `first`: where it landed for the first time, if it was redriven and refused again. `cut`: not
    all of its bytes were kept."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    own: tuple[Header, ...]
    reason: str
    detail: str
    producer: str
    schema_id: int | None
    first_failure_ns: int
    origin: Place | None
    origin_timestamp_ms: int
    first: Place | None
    cut: bool
    source: str

    @property
    def symbol(self) -> str:
        """The key as text; what is no UTF-8 is shown by its bytes."""
        return (self.key or b"").decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Mark:
    """The kept record at `offset` of the same partition is settled."""

    offset: int
    how: str

    @property
    def headers(self) -> tuple[Header, ...]:
        return ((HEADER_RESOLVED, f"{self.offset}/{self.how}".encode()),)


def read(record: Stored) -> Kept | Mark | None:
    """What a record of a quarantine topic is; None for what is neither, such as a transaction's
    leftover of another program."""
    headers = dict(record.headers)  # the last of a name is ours
    reason = headers.get(HEADER_REASON)
    if reason is None:
        return _mark(headers.get(HEADER_RESOLVED)) if record.value is None else None
    origin = _origin(headers)
    landed = [at for at, (name, _) in enumerate(record.headers) if name == HEADER_REASON][-1]
    own = tuple(record.headers[:landed]) if origin else ()
    cut = HEADER_ORIGIN_BYTES in headers if origin else HEADER_SIZE in headers
    if origin and own and own[-1][0] == HEADER_ORIGIN_BYTES:
        own = own[:-1]
    failure_ns = _number(headers.get(HEADER_FIRST_FAILURE_NS))
    return Kept(
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        key=record.key,
        value=record.value,
        own=own,
        reason=_text(reason),
        detail=_text(headers.get(HEADER_DETAIL)),
        producer=producer_of(own or record.headers),
        schema_id=_number(headers.get(HEADER_SCHEMA_ID)) or schema_id_of(record.value),
        first_failure_ns=record.timestamp_ms * NS_PER_MS if failure_ns is None else failure_ns,
        origin=origin,
        origin_timestamp_ms=_number(headers.get(HEADER_ORIGIN_TIMESTAMP_MS)) or 0,
        first=_place(next((v for n, v in own if n == HEADER_REDRIVEN), None)) or origin,
        cut=cut,
        source=_text(headers.get(HEADER_SOURCE)),
    )


def hindrance(kept: Kept, preset_id: str, *, rewritten: bool = False) -> str:
    """Why a record cannot go back whatever the rules are, empty when it can. `rewritten`: its bytes
    do not matter, a corrected copy goes."""
    if kept.origin is None:
        who = kept.source or kept.producer
        return f"put aside by {who} before it landed: it lands when its source sends it again"
    try:
        of, role = parse_topic(kept.origin.topic)
    except UsageError:
        of, role = "", ""
    if of != preset_id or role not in LANDING_ROLES:
        return f"{kept.origin.topic} is no landing topic of {preset_id}"
    if kept.cut and not rewritten:
        return "larger than a topic takes: only its beginning was kept"
    return ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kept record as it would land again; to the rules it is a landed record, at the place where
    it landed last."""

    kept: Kept
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def candidate(
    kept: Kept,
    *,
    value: bytes | None = None,
    key: bytes | None = None,
    partition: int | None = None,
    own: Iterable[Header] | None = None,
) -> Candidate:
    """The kept record with its own headers and the reference to where it landed first; what is
    given (of a corrected one) replaces what was kept."""
    origin, first = kept.origin, kept.first
    assert origin is not None and first is not None  # `hindrance` was asked
    headers = [header for header in (kept.own if own is None else own) if not _ours(header[0])]
    return Candidate(
        kept=kept,
        topic=origin.topic,
        partition=origin.partition if partition is None else partition,
        offset=origin.offset,
        timestamp=kept.origin_timestamp_ms,
        key=kept.key if value is None else key,
        value=kept.value if value is None else value,
        headers=(*headers, (HEADER_REDRIVEN, str(first).encode())),
    )


def able(found: Iterable[Kept], preset_id: str) -> tuple[list[Candidate], list[tuple[Kept, str]]]:
    """Those that can go back as they are, and why the others cannot."""
    candidates, refused = [], []
    for kept in found:
        why = hindrance(kept, preset_id)
        if why:
            refused.append((kept, why))
        else:
            candidates.append(candidate(kept))
    return candidates, refused


# What the present rules say of candidates: those that they would refuse, with reason and detail.
Judge = Callable[[Sequence[Candidate]], Sequence[tuple[Candidate, str, str]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """`sent`: in this order. `superseded`: (older statement, the newer one of the same that is
    sent). `refused`: (record, why it stays). `passed`: (a trade that is settled without being sent,
    the place where it passed)."""

    sent: tuple[Candidate, ...]
    superseded: tuple[tuple[Candidate, Candidate], ...]
    refused: tuple[tuple[Kept, str], ...]
    passed: tuple[tuple[Candidate, str], ...] = ()


def plan(candidates: Sequence[Candidate], judge: Judge, resolve: Resolve) -> Plan:
    """What goes back. Raises TransportError when a writer schema cannot be looked up."""
    again = judge(candidates)
    refused = [
        (each.kept, f"{reason}: {detail}" if detail else reason) for each, reason, detail in again
    ]
    blamed = {id(each) for each, _, _ in again}
    passing = []
    for each in candidates:
        if id(each) in blamed:
            continue
        if each.value is None:
            refused.append((each.kept, "a heartbeat or a null says nothing of another time"))
        elif each.kept.reason == OF_THE_FUTURE and each.value == each.kept.value:
            refused.append((each.kept, "it spoke of the future when it landed"))
        else:
            passing.append(each)
    passing.sort(key=_order)
    groups: dict[tuple[object, ...], list[tuple[int, frozenset[str]]]] = {}
    for at, each in enumerate(passing):
        identity, states = stated(each, resolve)
        groups.setdefault(identity, []).append((at, states))
    ordered: list[Candidate | None] = list(passing)
    superseded = []
    staying = _staying([each for each, _, _ in again], resolve)
    for identity, found in groups.items():
        known: frozenset[str] = frozenset()
        newest, going = passing[found[-1][0]], []
        newer = staying.get((newest.partition, *identity))
        if newer is not None and _order(newer) > _order(newest):
            why = f"{newer.kept.partition}:{newer.kept.offset} is newer and stays: fix that first"
            for at, _ in found:
                refused.append((passing[at].kept, why))
                ordered[at] = None
            continue
        for at, states in reversed(found):
            ordered[at] = None
            if passing[at] is newest or not states <= known:
                going.append(passing[at])
                known |= states
            else:
                superseded.append((passing[at], newest))
        # Newest first, in the places of as many of the newest.
        for (at, _), each in zip(found[-len(going) :], going, strict=True):
            ordered[at] = each
    sent = tuple(each for each in ordered if each is not None)
    return Plan(sent, tuple(superseded), tuple(refused))


def _staying(refused: Iterable[Candidate], resolve: Resolve) -> dict[tuple[object, ...], Candidate]:
    """The newest of the refused statements of each bar and block that can be read, by partition and
    what it speaks of. What is older must not go before it: it would stand, and the newer one lose
    the tie once it is mended. Of a trade the first statement stands anyway."""
    newest: dict[tuple[object, ...], Candidate] = {}
    for each in refused:
        try:
            identity, _ = stated(each, resolve)
        except TransportError:
            continue  # it is refused for that very reason, what it states nobody can know
        place = (each.partition, *identity)  # between two partitions nobody knows what came first
        known = newest.get(place)
        if identity[0] != "trade" and (known is None or _order(known) < _order(each)):
            newest[place] = each
    return newest


def stated(each: Candidate, resolve: Resolve) -> tuple[tuple[object, ...], frozenset[str]]:
    """What a record speaks of (a bar of one authority, a block, a trade), and what it states beside
    the prices. Every message of a block states something of its own, and so does a record that
    passes although it cannot be read here."""
    own = frozenset((f"{each.kept.partition}/{each.kept.offset}",))
    name, version, value = approved_bytes(each.value, resolve) or ("", 0, b"")
    try:
        if name == "bar":
            bar = decode_record("bar", value, version)
            states = frozenset(name for name in OPTIONAL_FIELDS if bar[name] is not None)
            return (each.topic, bar["symbol"], bar["open_time_ns"], bar["source"]), states
        if name == "bar_block":
            block = decode_block(value, version)
            return (each.topic, block.symbol, block.block_start_ns), own
        if name == "trade":
            trade = decode_record("trade", value, version)
            return (name, trade["symbol"], trade["trade_id"]), frozenset()
    except ContractError:
        pass
    return (each.topic, each.kept.partition, *own), own


def approved_bytes(value: bytes | None, resolve: Resolve) -> tuple[str, int, bytes] | None:
    """Which record and version a value is of, and its bytes in the approved schema; None where it
    is none."""
    schema_id = schema_id_of(value)
    found = None if schema_id is None else resolve(schema_id)
    if found is None or value is None:
        return None
    if not isinstance(found, Drifted):
        return found.name, version_read(found), value
    translated = found.drift.translate(value)
    schema = found.drift.schema
    return None if translated is None else (schema.name, schema.version, translated)


def _order(each: Candidate) -> tuple[str, int, int, int]:
    first = each.kept.first
    offset = each.offset if first is None else first.offset
    return each.topic, each.partition, offset, each.kept.offset


def _ours(name: str) -> bool:
    """Headers that a landed record must not bring along from elsewhere."""
    return name in (HEADER_REDRIVEN, HEADER_RESOLVED)


def _mark(value: bytes | None) -> Mark | None:
    number, _, how = _text(value).partition("/")
    offset = _number(number.encode())
    return None if offset is None or how not in HOW else Mark(offset, how)


def _origin(headers: dict[str, bytes]) -> Place | None:
    topic = headers.get(HEADER_ORIGIN_TOPIC)
    partition = _number(headers.get(HEADER_ORIGIN_PARTITION))
    offset = _number(headers.get(HEADER_ORIGIN_OFFSET))
    if topic is None or partition is None or offset is None:
        return None
    return Place(_text(topic), partition, offset)


def _place(value: bytes | None) -> Place | None:
    """`topic/partition/offset`, None for what is none."""
    head, _, last = _text(value).rpartition("/")
    topic, _, middle = head.rpartition("/")
    partition, offset = _number(middle.encode()), _number(last.encode())
    return (
        None
        if not topic or partition is None or offset is None
        else Place(topic, partition, offset)
    )


def _number(value: bytes | None) -> int | None:
    if not value or len(value) > 19 or not value.isdigit():
        return None
    number = int(value)
    return number if number <= INT64_MAX else None


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
