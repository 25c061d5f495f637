"""What a rollback goes back to, and the ways into strict that it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seamline.schemas.audit import GENESIS, Entry
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel import rollback
from seamline.streams.kernel.promotion import HOUR_NS, MINUTE_NS
from seamline.streams.kernel.rollback import Standing, change_of, standing

SUBJECT = "seamline.ohlcv.x.spot.1m.live-value"
BUNDLE, OTHER = "a" * 64, "b" * 64
NOW = 1_790_000_000 * NS_PER_S
STRICT_2 = SubjectState(SUBJECT, STRICT, 2, NOW, "ann", "clean", BUNDLE)
CANARY_3 = SubjectState(SUBJECT, CANARY, 3, NOW, "ann", "wrong", BUNDLE)


def entry(action: str, before: SubjectState | None, after: SubjectState, **changed: int) -> Entry:
    evidence = change_of(standing(before), standing(after))
    made = Entry(7, NOW, GENESIS, action, SUBJECT, "ann", "r", BUNDLE, None, evidence)
    return replace(made, **changed)  # type: ignore[arg-type]


def refused(state: SubjectState | None, *entries: Entry, bundle: str = BUNDLE) -> list[str]:
    _, _, refusals = rollback.target(
        SUBJECT, state, entries, bundle_sha256=bundle, fresh_ns=HOUR_NS, now_ns=NOW + HOUR_NS
    )
    return [refusal.field for refusal in refusals]


def test_it_goes_to_what_stood_before_the_last_change_of_this_subject() -> None:
    other = replace(entry("demote", STRICT_2, CANARY_3), subject="other", number=8)
    rehearsed = replace(other, subject=SUBJECT, action="rehearse", number=9)
    promoted = entry("promote", None, STRICT_2)
    found, before, refusals = rollback.target(
        *(SUBJECT, STRICT_2, [promoted, other, rehearsed]),
        bundle_sha256=BUNDLE,
        fresh_ns=HOUR_NS,
        now_ns=NOW,
    )
    assert (found, before, refusals) == (promoted, Standing(CANARY, 0, "", ()), ())


def test_without_a_change_there_is_nothing_to_go_back_to() -> None:
    assert refused(None) == ["subject"]


def test_into_strict_only_soon_and_under_the_same_bundle() -> None:
    demoted = entry("demote", STRICT_2, CANARY_3)
    assert refused(CANARY_3, demoted) == []
    assert refused(CANARY_3, replace(demoted, time_ns=NOW - 1)) == ["time_ns"]
    assert refused(CANARY_3, demoted, bundle=OTHER) == ["bundle_sha256"]
    # A clock that went back makes an old change no newer.
    assert refused(CANARY_3, replace(demoted, time_ns=NOW + 2 * HOUR_NS)) == ["time_ns"]
    assert refused(CANARY_3, replace(demoted, time_ns=NOW + HOUR_NS + MINUTE_NS)) == []
    # Out of strict it may go at any time.
    promoted = entry("promote", None, STRICT_2, time_ns=0)
    assert refused(STRICT_2, promoted, bundle=OTHER) == []


def test_what_the_budget_ended_no_rollback_begins_again() -> None:
    assert refused(CANARY_3, entry("budget_demote", STRICT_2, CANARY_3)) == ["action"]


def test_a_withdrawn_schema_comes_back_and_the_mode_stays() -> None:
    after = replace(STRICT_2, version=3, tombstones=("c" * 64,))
    assert refused(after, entry("tombstone", STRICT_2, after, time_ns=0), bundle=OTHER) == []


def test_a_state_that_no_entry_made_is_not_gone_back_from() -> None:
    promoted = entry("promote", None, STRICT_2)
    assert refused(replace(CANARY_3, version=9), promoted) == ["version"]
    assert refused(replace(STRICT_2, version=9), promoted) == ["version"]
    assert refused(None, promoted) == ["version"]


@pytest.mark.parametrize("before", [None, {}, {"mode": "strict"}, {"mode": "loud", "version": 1}])
def test_an_entry_that_does_not_say_what_stood_before_is_refused(before: object) -> None:
    promoted = entry("promote", None, STRICT_2)
    broken = replace(promoted, evidence=dict(promoted.evidence) | {"before": before})
    assert refused(STRICT_2, broken) == ["evidence"]
