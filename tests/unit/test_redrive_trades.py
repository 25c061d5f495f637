"""A trade goes back out of quarantine once, and only if none of its id has passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from machine_world import CLOCK_NS, IDS, SYMBOLS, resolve
from seamline.connectors.governance.redriving import Request, batches_of, change_of
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.topics import HEADER_RESOLVED, topic_name
from seamline.streams.kernel import redrive_trades
from seamline.streams.kernel.correction import corrected, decoded, encoded, record_of
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.quarantined import Quarantined
from seamline.streams.kernel.redrive import Kept, Place, Plan, able, plan, read
from seamline.streams.kernel.redrive_rules import judge_of
from seamline.streams.kernel.redrive_trades import LandedPlaces, identities, untold, without_passed
from unit.test_rehearsal_trades import TRADES, trade

A, B = SYMBOLS[:2]
LIVE, BACKFILL = (topic_name(TRADES.id, role) for role in ("live", "backfill"))
QUARANTINE = topic_name(TRADES.id, "quarantine")


def landed(value: bytes, offset: int, topic: str = LIVE, symbol: str = A) -> MemoryRecord:
    return MemoryRecord(topic, 0, offset, 5, symbol.encode(), value, ())


def kept(record: MemoryRecord, offset: int, reason: str = "non_positive_price") -> Kept:
    refused = Quarantined(record, reason, "why")
    headers = refused.headers(CLOCK_NS)
    found = read(MemoryRecord(QUARANTINE, 0, offset, 9, refused.key, refused.value, headers))
    assert isinstance(found, Kept)
    return found


def planned(records: Sequence[Kept], mode: str = CANARY) -> Plan:
    candidates, _ = able(records, TRADES.id)
    return plan(candidates, judge_of(TRADES, resolve, lambda _: Policy(mode), CLOCK_NS), resolve)


def places(records: Sequence[MemoryRecord], *wanted: tuple[str, int]) -> LandedPlaces:
    found = LandedPlaces(wanted, resolve)
    for record in records:
        found.take(record)
    return found


def test_the_rules_of_the_worker_decide_what_goes_back_in_order_of_landing() -> None:
    records = [
        kept(landed(trade(3, price=-1.0), 12), 1),
        kept(landed(trade(2, size=-1.0), 11), 2),
        kept(landed(trade(9)[:-1], 13), 3, "undecodable"),
        kept(landed(trade(1, symbol=B), 10, symbol=B), 4),
    ]
    found = planned(records)
    assert [each.kept.offset for each in found.sent] == [4, 2, 1]
    assert [(each.offset, why) for each, why in found.refused] == [(3, "undecodable: undecodable")]
    strict = planned(records, STRICT)
    assert [each.kept.offset for each in strict.sent] == [4]
    assert {why.partition(":")[0] for _, why in strict.refused} == {
        *("non_positive_price", "non_positive_size", "undecodable")
    }


def test_of_one_trade_the_newest_goes_back_whichever_topic_it_landed_on() -> None:
    records = [
        kept(landed(trade(1, price=-1.0), 50, BACKFILL), 1),
        kept(landed(trade(1, price=-2.0), 7), 2),
        kept(landed(trade(1, price=-3.0), 9), 3),
        kept(landed(trade(2, price=-4.0), 8), 4),
    ]
    found = planned(records)
    assert [each.kept.offset for each in found.sent] == [4, 3]
    assert {(a.kept.offset, b.kept.offset) for a, b in found.superseded} == {(1, 3), (2, 3)}


def test_a_trade_passed_where_a_record_of_its_id_was_not_set_aside() -> None:
    records = [
        landed(trade(1), 4),
        landed(trade(1, price=7.0), 3),
        landed(trade(1), 1, BACKFILL),
        landed(trade(2), 5),
        landed(trade(3), 6),
        landed(trade(1, symbol=B), 7, symbol=B),
        replace(landed(trade(2), 8), key=b"other"),  # it was refused, by nature
        replace(landed(trade(2), 9), value=b"no frame"),
        replace(landed(trade(2), 10), value=None),
    ]
    found = places(records, (A, 1), (A, 2))
    assert found.every() == {
        *(Place(LIVE, 0, 3), Place(LIVE, 0, 4), Place(LIVE, 0, 5), Place(BACKFILL, 0, 1))
    }
    assert found.passed({Place(LIVE, 0, 5), Place(BACKFILL, 0, 1)}) == {(A, 1): Place(LIVE, 0, 3)}
    assert found.passed(found.every()) == {}


def test_more_copies_than_a_run_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redrive_trades, "PLACES_MAX", 2)
    with pytest.raises(ContractError, match="landed more than 2 times"):
        places([landed(trade(1), at) for at in range(3)], (A, 1))


def passed_one() -> tuple[Plan, dict[int, Place]]:
    """Trades 1 (two statements) and 2, of which 1 has passed."""
    records = [kept(landed(trade(n, price=-1.0), 10 + at), at) for at, n in enumerate((1, 1, 2))]
    found = planned(records)
    who = identities(found.sent, resolve)
    return found, {number: Place(LIVE, 0, 30) for number, one in who.items() if one == (A, 1)}


def test_what_passed_is_settled_and_does_not_land() -> None:
    found, passed = passed_one()
    left = without_passed(found, passed, rewritten=False)
    assert [each.kept.offset for each in left.sent] == [2]
    assert {(each.kept.offset, at) for each, at in left.passed} == {
        *((0, f"{LIVE}/0/30"), (1, f"{LIVE}/0/30"))
    }
    assert left.superseded == () and left.refused == ()
    landing, settling = batches_of(left)
    request = Request("redrive", "ann", "clean again")
    gone = {id(each) for each, _ in left.passed}
    (back, _) = change_of(QUARANTINE, landing, request, gone).records
    assert (back.topic, back.value) == (LIVE, trade(2, price=-1.0))
    change = change_of(QUARANTINE, settling, request, gone)
    assert {dict(mark.headers)[HEADER_RESOLVED] for mark in change.records} == {
        *(b"0/superseded", b"1/superseded")
    }
    assert all(mark.value is None for mark in change.records)
    evidence = change.drafts[0].evidence
    assert (evidence["records"], evidence["superseded"]) == (0, 2)


def test_a_correction_of_what_was_read_already_is_refused() -> None:
    found, passed = passed_one()
    left = without_passed(found, passed, rewritten=True)
    assert [each.kept.offset for each in left.sent] == [2] and left.passed == ()
    assert [(each.offset, "no revision" in why) for each, why in left.refused] == [
        *((1, True), (0, True))
    ]


def test_of_an_old_trade_it_cannot_be_told() -> None:
    record = kept(replace(landed(trade(1), 40), timestamp=1_000), 1)
    second_ns = 10**9
    for begin, retention_ns, now_ns, told in (
        (40, second_ns, 2 * second_ns, True),
        (40, second_ns, 2 * second_ns + 1, False),
        (41, second_ns, second_ns, False),
        (0, second_ns, second_ns, True),
    ):
        why = untold(record, {(LIVE, 0): begin}, retention_ns, now_ns)
        assert (why == "") == told, (begin, now_ns, why)


def test_a_trade_is_corrected_by_its_fields() -> None:
    value = trade(7, price=-1.0)
    fields = decoded(value, "trade")
    assert record_of(fields) == "trade"
    fixed = corrected(fields, {"price": "2.5", "side": "sell"})
    key, again = encoded(fixed, {"trade": IDS["trade"]})
    assert (key, again) == (A.encode(), trade(7, price=2.5, side="sell"))
    for field, text in (("price", "x"), ("trade_id", "1.5"), ("close", "1"), ("time_ns", "null")):
        with pytest.raises(UsageError) as told:
            corrected(fields, {field: text})
        assert told.value.parameter == field
    with pytest.raises(UsageError, match="no such value"):
        encoded(corrected(fields, {"side": "both"}), {"trade": IDS["trade"]})
