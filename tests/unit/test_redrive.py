"""What lies in quarantine, what of it goes back, and how much of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from machine_world import CLOCK_NS, IDS, PARENT, SYMBOLS, Row, columns_of, resolve
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.governance.redriving import (
    BYTES_MAX,
    RECORDS_MAX,
    Door,
    Request,
    batches_of,
    change_of,
)
from seamline.connectors.kafka.cluster import Cluster
from seamline.schemas.codec import encode_bars
from seamline.schemas.errors import ContractError, TransportError, UsageError
from seamline.schemas.modes import CANARY, STRICT, Policy
from seamline.schemas.topics import HEADER_REASON, HEADER_RESOLVED, HEADER_SOURCE, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import Header
from seamline.streams.kernel.quarantined import KEPT_BYTES_MAX, Quarantined
from seamline.streams.kernel.redrive import (
    Kept,
    Mark,
    Place,
    Plan,
    able,
    candidate,
    hindrance,
    plan,
    read,
)
from seamline.streams.kernel.redrive_rules import judge_of

A, B = SYMBOLS[:2]
LIVE = topic_name(PARENT.id, "live")
QUARANTINE = topic_name(PARENT.id, "quarantine")


def landed(row: Row, offset: int, headers: Sequence[Header] = ()) -> MemoryRecord:
    (value,) = encode_bars([row.symbol], columns_of([row]), IDS["bar"])
    return MemoryRecord(LIVE, 0, offset, 5, row.symbol.encode(), value, tuple(headers))


def kept(record: MemoryRecord, offset: int, reason: str = "negative_volume") -> Kept:
    refused = Quarantined(record, reason, "why")
    headers = refused.headers(CLOCK_NS)
    found = read(MemoryRecord(QUARANTINE, 0, offset, 9, refused.key, refused.value, headers))
    assert isinstance(found, Kept)
    return found


def planned(records: Sequence[Kept], mode: str = CANARY) -> Plan:
    candidates, refused = able(records, PARENT.id)
    found = plan(candidates, judge_of(PARENT, resolve, lambda _: Policy(mode), CLOCK_NS), resolve)
    return replace(found, refused=(*refused, *found.refused))


def test_a_kept_record_is_read_back_as_it_landed() -> None:
    own = (("seamline-producer", b"feed-7"), (HEADER_REASON, b"its own"))
    record = landed(Row(A, 1, 100.0), 7, own)
    found = kept(record, 3)
    assert found.own == own
    assert (found.reason, found.detail, found.producer) == ("negative_volume", "why", "feed-7")
    assert (found.schema_id, found.first_failure_ns) == (IDS["bar"], CLOCK_NS)
    assert found.origin == found.first == Place(LIVE, 0, 7)
    assert (found.key, found.value) == (record.key, record.value)
    back = candidate(found)
    assert (back.topic, back.partition, back.key, back.value) == (LIVE, 0, record.key, record.value)
    assert back.headers == (*own, ("seamline-redriven", f"{LIVE}/0/7".encode()))


def test_the_place_where_it_landed_first_is_kept_when_it_is_refused_again() -> None:
    back = candidate(kept(landed(Row(A, 1, 100.0), 7), 3))
    again = kept(replace(landed(Row(A, 1, 100.0), 90), headers=back.headers), 4)
    assert again.origin == Place(LIVE, 0, 90)
    assert again.first == Place(LIVE, 0, 7)
    assert candidate(again).headers == back.headers


def test_a_mark_is_a_null_of_ours_and_nothing_else_is_one() -> None:
    mark = Mark(12, "fixed")
    record = MemoryRecord(QUARANTINE, 0, 20, 9, None, None, mark.headers)
    assert read(record) == mark
    assert read(replace(record, value=b"")) is None
    assert read(replace(record, headers=((HEADER_RESOLVED, b"12/gone"),))) is None
    # Somebody lands a null that claims to be one: it is refused, and is a kept record.
    foreign = MemoryRecord(LIVE, 0, 4, 5, None, None, mark.headers)
    refused = Quarantined(foreign, "null_value").headers(CLOCK_NS)
    found = read(MemoryRecord(QUARANTINE, 0, 21, 9, None, None, refused))
    assert isinstance(found, Kept) and found.origin == Place(LIVE, 0, 4)


def test_what_cannot_go_back_is_said() -> None:
    why = ((HEADER_REASON, b"malformed"), (HEADER_SOURCE, b"sdk.producer"))
    aside = read(MemoryRecord(QUARANTINE, 0, 1, 9, None, b"{", why))
    assert isinstance(aside, Kept)
    assert hindrance(aside, PARENT.id).startswith("put aside by sdk.producer before it landed")
    large = replace(landed(Row(A, 1, 100.0), 7), value=b"\0" * (KEPT_BYTES_MAX + 1))
    cut = kept(large, 3)
    assert cut.cut and "beginning" in hindrance(cut, PARENT.id)
    assert hindrance(cut, PARENT.id, rewritten=True) == ""
    assert "no landing topic" in hindrance(kept(landed(Row(A, 1, 1.0), 7), 3), "other")
    null = kept(replace(landed(Row(A, 1, 100.0), 7), value=None), 3, "null_value")
    late = kept(landed(Row(A, 1, 100.0), 8), 4, "future_time")
    found = planned([null, late])
    assert found.sent == ()
    assert ["null_value" in why or "future" in why for _, why in found.refused] == [True, True]


def test_the_rules_of_now_decide_what_goes_back() -> None:
    records = [
        kept(landed(Row(A, 1, 100.0, volume=-1.0), 1), 1),
        kept(landed(Row(A, 2, 100.0), 2), 2),
        kept(replace(landed(Row(A, 3, 100.0), 3), value=b"no frame"), 3, "undecodable"),
    ]
    sent = [each.kept.offset for each in planned(records).sent]
    assert sent == [1, 2]
    strict = planned(records, STRICT)
    assert [each.kept.offset for each in strict.sent] == [2]
    assert {each.offset: why.partition(":")[0] for each, why in strict.refused} == {
        1: "negative_volume",
        3: "undecodable",
    }


def test_of_one_bar_and_authority_the_newest_goes_back_in_the_order_of_the_log() -> None:
    rows = [
        (Row(A, 5, 1.0), 40),
        (Row(B, 1, 2.0), 41),
        (Row(A, 5, 3.0), 50),
        (Row(A, 2, 4.0), 45),
        (Row(A, 5, 5.0, source=0), 60),
        (Row(A, 6, 6.0, quote_volume=9.0), 61),
        (Row(A, 6, 7.0), 62),
    ]
    records = [kept(landed(row, at), number) for number, (row, at) in enumerate(rows)]
    found = planned(records[::-1])
    assert [each.offset for each in found.sent] == [41, 45, 50, 60, 62, 61]
    assert [(a.offset, b.offset) for a, b in found.superseded] == [(40, 50)]


def test_nothing_goes_before_a_newer_statement_that_has_to_be_mended_first() -> None:
    """It would stand, and the newer one lose the tie when it comes back."""
    older = kept(landed(Row(A, 5, 1.0), 1), 11)
    newer = kept(landed(Row(A, 5, 2.0, volume=-1.0), 2), 12)
    others = [kept(landed(Row(A, 5, 3.0, source=0), 3), 13), kept(landed(Row(A, 6, 4.0), 4), 14)]
    found = planned([older, newer, *others], STRICT)
    assert [each.kept for each in found.sent] == others
    why = {each.offset: why for each, why in found.refused}
    assert why.keys() == {11, 12} and "0:12 is newer" in why[11]
    # One that is newer still goes, and settles what is older and can go.
    newest = kept(landed(Row(A, 5, 5.0), 5), 15)
    found = planned([older, newer, newest], STRICT)
    assert [each.kept for each in found.sent] == [newest]
    assert [pair[0].kept for pair in found.superseded] == [older]
    # Where the rules take all of them, the newest goes.
    assert [each.kept for each in planned([older, newer]).sent] == [newer]


def test_a_registry_that_does_not_answer_holds_all_of_them() -> None:
    def away(number: int) -> None:
        raise TransportError("does not answer", parameter="url", value="http://x")

    record = kept(landed(Row(A, 1, 100.0), 1), 1, "registry_unavailable")
    candidates, _ = able([record], PARENT.id)
    found = plan(candidates, judge_of(PARENT, away, lambda _: Policy(CANARY), CLOCK_NS), away)
    assert found.sent == ()
    assert found.refused[0][1].startswith("registry_unavailable")


def test_many_records_are_many_transactions() -> None:
    records = [kept(landed(Row(A, n, 100.0), n), n) for n in range(2 * RECORDS_MAX + 1)]
    found = planned(records)
    sizes = [len(batch) for batch in batches_of(found)]
    assert sizes == [RECORDS_MAX, RECORDS_MAX, 1]
    heavy = [replace(each, value=b"\0" * (BYTES_MAX // 3)) for each in found.sent[:7]]
    sizes = [len(batch) for batch in batches_of(Plan(tuple(heavy), (), ()))]
    assert sizes == [2, 2, 2, 1]


def test_one_transaction_holds_records_marks_and_entry() -> None:
    records = [kept(landed(Row(A, 5, n), n), n + 10) for n in (1, 2)]
    (batch,) = batches_of(planned(records))
    change = change_of(QUARANTINE, batch, Request("redrive", "ann", "clean again"))
    (draft,) = change.drafts
    assert (draft.action, draft.subject, draft.actor) == ("redrive", f"{LIVE}-value", "ann")
    assert draft.window_ns == (CLOCK_NS, CLOCK_NS + 1)
    assert draft.evidence["offsets"] == {"0": [11, 12]}
    assert draft.evidence["by_symbol"] == {A: 2}
    back, *marks = change.records
    assert (back.topic, back.key) == (LIVE, A.encode())
    assert [(m.topic, m.key, m.value, dict(m.headers)[HEADER_RESOLVED]) for m in marks] == [
        (QUARANTINE, None, None, b"12/redriven"),
        (QUARANTINE, None, None, b"11/superseded"),
    ]


class Emptied:
    """A registry that holds nothing, and can only be asked."""

    def lookup(self, subject: str, text: str) -> None:
        return None

    def history(self, subject: str) -> list[Any]:
        return []


def test_a_plan_registers_nothing() -> None:
    """Not the approved schema either: a dry run is a plan."""
    found = kept(landed(Row(A, 1, 100.0), 1), 1)
    judge = judge_of(PARENT, resolve, lambda _: Policy(CANARY), CLOCK_NS)
    log = GovernanceLog(Cluster("127.0.0.1:1"))
    rest: Any = (None, log, Emptied(), resolve, judge, lambda: CLOCK_NS)
    door = Door(PARENT, *rest)
    fields = door.corrected(found, {"close": "100.5"}, None)
    with pytest.raises(ContractError, match="schema register") as told:
        door.plan([found], {(0, 1): fields})
    assert told.value.parameter == "subject" and told.value.value == f"{LIVE}-value"
    door.ids["bar"] = IDS["bar"]
    assert len(door.plan([found], {(0, 1): fields}).sent) == 1


def test_who_gives_no_reason_is_told_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match="reason"):
        Request("redrive", "ann", " ")


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1" * 20, None])
def test_headers_that_are_no_numbers_are_none(value: bytes | None) -> None:
    headers = ((HEADER_REASON, b"x"), ("seamline-origin-topic", LIVE.encode()))
    broken = (*headers, ("seamline-origin-partition", b"0"), ("seamline-origin-offset", value))
    found = read(MemoryRecord(QUARANTINE, 0, 1, 9, None, b"{", broken))  # type: ignore[arg-type]
    assert isinstance(found, Kept) and found.origin is None
