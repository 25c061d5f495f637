"""The gate before strict: what has to be shown, and what each refusal says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seamline.schemas.audit import GENESIS, Entry
from seamline.schemas.errors import UsageError
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.promotion import (
    HOUR_NS,
    MINUTE_NS,
    Case,
    PromotionPolicy,
    judge,
    parse_accepted,
)
from seamline.streams.kernel.rehearsal import Evidence, Traffic

SUBJECT = "seamline.ohlcv.x.spot.1m.live-value"
BUNDLE, OTHER = "a" * 64, "b" * 64
NOW = 1_790_000_000 * NS_PER_S
POLICY = PromotionPolicy()
STATE = SubjectState(SUBJECT, CANARY, 3, NOW - 30 * HOUR_NS, "ann", "starts", BUNDLE)


def evidence(**changed: Any) -> Evidence:
    """Clean, ten minutes old, over two days."""
    rules: Mapping[str, int] = changed.pop("by_rule", {})
    blocked = sum(rules.values())
    ended = NOW - 10 * MINUTE_NS
    made = Evidence(
        subject=SUBJECT,
        topic=SUBJECT.removesuffix("-value"),
        bundle_sha256=BUNDLE,
        since_ns=ended - 48 * HOUR_NS,
        window_ns=48 * HOUR_NS,
        ended_ns=ended,
        records=200_000,
        bars=200_000,
        blocked_records=blocked,
        blocked_in_canary=0,
        blocked_bars=0,
        missing_bars=0,
        stale_minutes=0.0,
        by_rule=rules,
        by_schema={"bar v1": blocked} if blocked else {},
        by_producer={"feed": blocked} if blocked else {},
        by_symbol={"BTC/USDT": blocked} if blocked else {},
        samples={},
        partitions={0: (0, 100_000), 1: (0, 100_000)},
        traffic=Traffic(ended - 47 * HOUR_NS, ended - MINUTE_NS, 200_000, MINUTE_NS),
        mode_version=3,
    )
    return replace(made, **changed)


def entry(number: int, found: Evidence | None, **changed: Any) -> Entry:
    plain = {} if found is None else found.to_json()
    made = Entry(number, NOW, GENESIS, "rehearse", SUBJECT, "ann", "r", BUNDLE, None, plain)
    return replace(made, **changed)


def case(found: Evidence | None, **changed: Any) -> Case:
    entries = (entry(0, found),) if found is not None else ()
    made = Case(SUBJECT, STATE, entries, BUNDLE, {0: 100_100, 1: 100_100}, {}, NOW)
    return replace(made, **changed)


def refused(found: Case, policy: PromotionPolicy = POLICY) -> list[str]:
    _, refusals = judge(found, policy)
    for refusal in refusals:
        assert refusal.what and refusal.fix and refusal.field
    return [refusal.field for refusal in refusals]


def test_a_fresh_clean_rehearsal_over_a_canary_window_is_enough() -> None:
    assert refused(case(evidence())) == []


def registered(number: int, **changed: Any) -> Entry:
    held = {"fingerprint": OTHER, "id": 7, "was_there": False}
    return entry(number, None, action="register", evidence=held, **changed)


def test_a_schema_that_came_after_the_rehearsal_began_makes_it_stale() -> None:
    found = evidence()
    rehearsal = entry(5, found)
    early = found.ended_ns - 1
    for other, fields in (
        (registered(6), ["rehearsal.schemas"]),
        (registered(6, time_ns=early), ["rehearsal.schemas"]),
        # Recorded before the rehearsal was, and after its fence.
        (registered(4), ["rehearsal.schemas"]),
        (registered(4, time_ns=early), []),
        (registered(6, subject="another"), []),
        (replace(registered(6), evidence={"was_there": True}), []),
    ):
        entries = sorted((rehearsal, other), key=lambda each: each.number)
        assert refused(replace(case(found), entries=entries)) == fields, other


def test_a_subject_that_never_had_a_state_is_in_canary_since_its_first_record() -> None:
    never = evidence(mode_version=0)
    assert refused(case(never, state=None)) == []
    traffic = replace(never.traffic, first_ns=NOW - 20 * HOUR_NS)
    assert refused(case(replace(never, traffic=traffic), state=None)) == ["canary_window"]


def test_strict_already_is_the_only_refusal_of_a_subject_that_is_strict() -> None:
    state = replace(STATE, mode=STRICT, version=4, actor="bob", reason="clean")
    _, refusals = judge(case(None, state=state), POLICY)
    assert [r.field for r in refusals] == ["mode"]
    assert "bob: clean" in refusals[0].what and "version 4" in refusals[0].what


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"ended_ns": NOW - HOUR_NS - 1}, ["rehearsal.ended_ns"]),
        ({"ended_ns": NOW + 2 * MINUTE_NS}, ["rehearsal.ended_ns"]),
        ({"ended_ns": NOW + MINUTE_NS}, []),
        ({"ended_ns": NOW - HOUR_NS}, []),
        ({"bundle_sha256": OTHER}, ["rehearsal.bundle_sha256"]),
        ({"mode_version": 2}, ["rehearsal.mode_version"]),
        ({"complete": False, "notes": ("registry down",)}, ["rehearsal.complete"]),
        ({"complete": False, "notes": ()}, ["rehearsal.complete"]),
        ({"partitions": {0: (0, 100_000)}}, ["rehearsal.partitions"]),
        ({"partitions": {0: (0, 100_000), 1: (0, 100_101)}}, ["rehearsal.partitions"]),
        ({"partitions": {0: (0, 100_000), 1: (0, 95_000)}}, ["rehearsal.partitions"]),
        ({"partitions": {0: (99_990, 100_000), 1: (0, 96_000)}}, []),
        ({"partitions": {0: (99_000, 99_499), 1: (0, 96_000)}}, ["rehearsal.partitions"]),
    ],
)
def test_a_rehearsal_that_says_nothing_of_now_is_refused(
    changed: dict[str, Any], fields: list[str]
) -> None:
    if "ended_ns" in changed:
        changed["since_ns"] = changed["ended_ns"] - 48 * HOUR_NS
    assert refused(case(evidence(**changed))) == fields


def test_the_newest_rehearsal_counts_and_only_of_this_subject() -> None:
    assert refused(case(None)) == ["rehearsal"]
    assert refused(case(None, entries=(entry(0, evidence(), subject="other"),))) == ["rehearsal"]
    dirty = evidence(by_rule={"high_below_low": 1})
    assert refused(case(None, entries=(entry(0, dirty), entry(1, evidence())))) == []
    later = (entry(0, evidence()), entry(1, dirty))
    assert refused(case(None, entries=later)) == ["by_rule.high_below_low"]


def test_an_entry_without_evidence_is_never_passed_over_for_an_older_one() -> None:
    later = (entry(0, evidence()), entry(1, None))
    assert refused(case(None, entries=later)) == ["rehearsal"]
    foreign = entry(1, evidence(subject="other"))
    assert refused(case(None, entries=(entry(0, evidence()), foreign))) == ["rehearsal"]


@pytest.mark.parametrize(
    ("rules", "accepted", "fields"),
    [
        (
            {"high_below_low": 3, "non_finite": 4},
            {},
            ["by_rule.high_below_low", "by_rule.non_finite"],
        ),
        ({"high_below_low": 3, "non_finite": 4}, {"high_below_low": 3}, ["by_rule.non_finite"]),
        ({"high_below_low": 3}, {"high_below_low": 2}, ["by_rule.high_below_low"]),
        ({"high_below_low": 3}, {"high_below_low": 5}, []),
        ({"high_below_low": 3}, {"high_below": 3}, ["by_rule.high_below_low", "accept"]),
        ({}, {"high_below_low": 3}, ["accept"]),
        ({"others": 3}, {"others": 3}, []),
    ],
)
def test_blocked_records_need_an_exception_of_exact_name_and_number(
    rules: dict[str, int], accepted: dict[str, int], fields: list[str]
) -> None:
    assert refused(case(evidence(by_rule=rules), accepted=accepted)) == fields


@pytest.mark.parametrize(
    ("traffic", "since_ns", "fields"),
    [
        ({}, NOW - 24 * HOUR_NS + 1, ["canary_window"]),
        ({}, NOW - 24 * HOUR_NS, []),
        ({}, NOW + HOUR_NS, ["canary_window"]),
        ({"longest_silence_ns": 6 * HOUR_NS}, STATE.since_ns, []),
        ({"longest_silence_ns": 6 * HOUR_NS + 1}, STATE.since_ns, ["traffic.longest_silence_ns"]),
        ({"first_ns": NOW - 18 * HOUR_NS}, STATE.since_ns, ["traffic.first_ns"]),
        ({"records": 0}, STATE.since_ns, ["traffic.records"]),
    ],
)
def test_a_canary_window_is_time_and_real_traffic(
    traffic: dict[str, int], since_ns: int, fields: list[str]
) -> None:
    found = evidence()
    found = replace(found, traffic=replace(found.traffic, **traffic))
    if "records" in traffic:
        found = replace(found, records=0)
    assert refused(case(found, state=replace(STATE, since_ns=since_ns))) == fields


def test_a_short_window_forgives_the_silence_between_two_bars() -> None:
    policy = PromotionPolicy(canary_window_ns=2 * NS_PER_S)
    found = evidence()
    traffic = Traffic(NOW - 13 * MINUTE_NS, NOW - 11 * MINUTE_NS, 200_000, 2 * MINUTE_NS)
    state = replace(STATE, since_ns=NOW - 3 * NS_PER_S)
    assert refused(case(replace(found, traffic=traffic), state=state), policy) == []


def test_every_reason_is_told_at_once_and_as_an_error_too() -> None:
    found = evidence(by_rule={"non_finite": 1}, bundle_sha256=OTHER)
    _, refusals = judge(case(found, state=replace(STATE, since_ns=NOW)), POLICY)
    assert [r.field for r in refusals] == [
        *("rehearsal.bundle_sha256", "by_rule.non_finite", "canary_window")
    ]
    error = refusals[0].error(refusals)
    assert error.parameter == "rehearsal.bundle_sha256"
    assert [each["field"] for each in error.fields["refusals"]] == [r.field for r in refusals]


def test_exceptions_are_read_exactly() -> None:
    assert parse_accepted(["non_finite=3", " key_mismatch=1 "]) == {
        "non_finite": 3,
        "key_mismatch": 1,
    }
    for text in (
        "non_finite",
        "non_finite=0",
        "non_finite=-1",
        "=3",
        "a=1=2",
        "A=1",
        "a=x",
        "others=3",
    ):
        with pytest.raises(UsageError, match="accept"):
            parse_accepted([text])
    with pytest.raises(UsageError, match="accept"):
        parse_accepted(["a=1", "a=2"])
    with pytest.raises(UsageError, match="At most"):
        parse_accepted([f"rule_{n}=1" for n in range(51)])


@pytest.mark.parametrize("name", ["fresh_ns", "canary_window_ns", "silence_parts", "tail_parts"])
def test_a_policy_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        PromotionPolicy(**{name: -1})


laws = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
RULES = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 9))


@laws
@given(RULES, RULES)
def test_nothing_blocked_passes_without_being_answered_for_and_no_exception_is_idle(
    blocked: dict[str, int], accepted: dict[str, int]
) -> None:
    fields = refused(case(evidence(by_rule=blocked), accepted=accepted))
    covered = all(accepted.get(rule, 0) >= count for rule, count in blocked.items())
    assert (fields == []) == (covered and accepted.keys() == blocked.keys())
