"""Which trades of a redrive have passed already: nothing of theirs lands a second time.

Decides: what "passed" means of a trade: a record of its symbol and id landed and was not set aside.
Invariants: a trade is its symbol and id, whatever else it says; where it passed stands, whoever
sends what again; a trade of which this cannot be told does not go back. Must not know: Kafka, in
which order what goes back goes.

Trades are not merged, so a worker could not tell a second one apart: it is told here, before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from seamline.schemas.errors import ContractError
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_MS
from seamline.streams.kernel.protocol import Stored
from seamline.streams.kernel.redrive import Candidate, Kept, Place, Plan, approved_bytes
from seamline.streams.kernel.writers import Resolve

# Places of wanted trades that one run holds.
PLACES_MAX: Final = 1_000_000
# Symbol and trade id.
Identity = tuple[str, int]


def trade_of(value: bytes | None, resolve: Resolve) -> tuple[Identity, int] | None:
    """Who a record is of, and its time in ns; None for what is no trade. Raises TransportError when
    its writer schema cannot be looked up."""
    name, version, approved = approved_bytes(value, resolve) or ("", 0, b"")
    if name != "trade":
        return None
    try:
        trade = decode_record("trade", approved, version)
    except ContractError:
        return None
    return (trade["symbol"], trade["trade_id"]), trade["time_ns"]


class LandedPlaces:
    """Where some trades landed. `take` records in any order."""

    def __init__(self, wanted: Collection[Identity], resolve: Resolve) -> None:
        self._wanted = frozenset(wanted)
        self._keys = {symbol.encode() for symbol, _ in self._wanted}
        self._resolve = resolve
        self._count = 0
        self.places: dict[Identity, set[Place]] = {}

    def take(self, record: Stored) -> None:
        """Note a landed record if it is one of the wanted. What has another key than its symbol is
        none: it never passes. Raises TransportError when its schema cannot be looked up,
        ContractError for more places than a run may hold."""
        if record.value is None or record.key not in self._keys:
            return
        found = trade_of(record.value, self._resolve)
        if found is None or found[0] not in self._wanted:
            return
        self._count += 1
        if self._count > PLACES_MAX:
            raise ContractError(
                f"the chosen trades landed more than {PLACES_MAX} times",
                parameter="choice",
                value=self._count,
                fix="Choose fewer: --symbol, --producer, --since",
            )
        place = Place(record.topic, record.partition, record.offset)
        self.places.setdefault(found[0], set()).add(place)

    def every(self) -> set[Place]:
        """All places that were found."""
        return {place for places in self.places.values() for place in places}

    def passed(self, set_aside: Collection[Place]) -> dict[Identity, Place]:
        """Where each trade passed first; those that did not are absent."""
        found = {}
        for identity, places in self.places.items():
            left = places.difference(set_aside)
            if left:
                found[identity] = min(left, key=lambda p: (p.topic, p.partition, p.offset))
        return found


def untold(
    kept: Kept, begins: Mapping[tuple[str, int], int], retention_ns: int, now_ns: int
) -> str:
    """Why it cannot be told any more whether the id of a kept trade passed since it landed, empty
    when it can. `begins`: first retained offset of each (topic, partition)."""
    at = kept.origin
    if at is None:
        return "it never landed"
    landed_ns = kept.origin_timestamp_ms * NS_PER_MS
    if at.offset >= begins[at.topic, at.partition] and landed_ns >= now_ns - retention_ns:
        return ""
    return f"{at} is too old: what landed since is not all retained, its id may have passed"


def identities(candidates: Iterable[Candidate], resolve: Resolve) -> dict[int, Identity]:
    """Who each candidate is, by its id(); those that are no trade are absent."""
    found = ((id(each), trade_of(each.value, resolve)) for each in candidates)
    return {number: trade[0] for number, trade in found if trade is not None}


def without_passed(plan: Plan, passed: Mapping[int, Place], *, rewritten: bool) -> Plan:
    """The plan without the trades that have passed; `passed`: where, by id() of the candidate.

    They are settled, and so are the older ones that they stood for. A corrected one (`rewritten`)
    stays instead: whoever read the trade was given other values, and a trade has no revisions.
    """
    gone = [each for each in plan.sent if id(each) in passed]
    behind = [pair for pair in plan.superseded if id(pair[1]) in passed]
    sent = tuple(each for each in plan.sent if id(each) not in passed)
    left = tuple(pair for pair in plan.superseded if id(pair[1]) not in passed)
    if rewritten:
        why = "its id passed at {}, and a trade that was read has no revision"
        stays = [(each.kept, why.format(passed[id(each)])) for each in gone]
        stays += [(older.kept, why.format(passed[id(newer)])) for older, newer in behind]
        return replace(plan, sent=sent, superseded=left, refused=(*plan.refused, *stays))
    settled = [(each, str(passed[id(each)])) for each in gone]
    settled += [(older, str(passed[id(newer)])) for older, newer in behind]
    return replace(plan, sent=sent, superseded=left, passed=tuple(settled))
