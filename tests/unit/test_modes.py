"""The modes of subjects: how they are spelled, kept, and never changed by what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import (
    CANARY,
    HEAD_KEY,
    STRICT,
    TOMBSTONES_MAX,
    ModeBook,
    Policy,
    SubjectState,
    decode_state,
    effective_mode,
    encode_state,
    parse_mode,
)

SUBJECT = "seamline.ohlcv.x.1m.live-value"
KEY = SUBJECT.encode()
STATE = SubjectState(SUBJECT, STRICT, 3, 1_700_000_000_000_000_000, "ann", "größer", "ab" * 32)


def raw(**changes: Any) -> bytes:
    fields = json.loads(encode_state(STATE))
    fields.update(changes)
    return json.dumps(fields).encode()


def test_a_mode_is_one_of_two_words() -> None:
    assert [parse_mode(text) for text in ("canary", " STRICT\n")] == [CANARY, STRICT]
    for wrong in ("audit", "", "strict canary", None, 1):
        with pytest.raises(UsageError) as caught:
            parse_mode(wrong, "--mode")  # type: ignore[arg-type]
        assert caught.value.parameter == "--mode" and "canary or strict" in str(caught.value)


def test_a_subjects_own_mode_wins_over_the_environment() -> None:
    env = {"SEAMLINE_SCHEMA_VALIDATION_MODE": "strict"}
    found = [effective_mode(own, given) for own in (None, CANARY, STRICT) for given in ({}, env)]
    assert found == [CANARY, STRICT, CANARY, CANARY, STRICT, STRICT]
    with pytest.raises(UsageError, match="SEAMLINE_SCHEMA_VALIDATION_MODE = 'audit'"):
        effective_mode(None, {"SEAMLINE_SCHEMA_VALIDATION_MODE": "audit"})


def test_a_state_comes_back_from_its_canonical_bytes() -> None:
    state = replace(STATE, tombstones=("cd" * 32, "ab" * 32, "cd" * 32))
    assert state.tombstones == ("ab" * 32, "cd" * 32)
    value = encode_state(state)
    assert decode_state(value) == state and encode_state(decode_state(value)) == value
    assert value.startswith(b'{"actor":"ann","bundle_sha256":"abab') and b'"format":1' in value


@pytest.mark.parametrize(
    ("value", "parameter"),
    [
        (b"", "value"),
        (b"\xff", "value"),
        (b"[" * 100_000, "value"),
        (b"[]", "value"),
        (b"x" * 200_001, "value"),
        (encode_state(STATE)[:-1] + b',"mode":"canary"}', "value"),
        (raw(extra=1), "value"),
        (raw(format=2), "format"),
        (raw(format=True), "format"),
        (raw(mode="audit"), "mode"),
        (raw(mode=["strict"]), "mode"),
        (raw(subject=""), "subject"),
        (raw(version=0), "version"),
        (raw(version=True), "version"),
        (raw(version=1.0), "version"),
        (raw(since_ns=2**63), "since_ns"),
        (raw(actor=" "), "actor"),
        (raw(reason=None), "reason"),
        (raw(reason="r" * 2_001), "reason"),
        (raw(bundle_sha256="AB" * 32), "bundle_sha256"),
        (raw(tombstones="ab" * 32), "tombstones"),
        (raw(tombstones=["ab"]), "tombstones"),
        (raw(tombstones=[f"{n:064x}" for n in range(TOMBSTONES_MAX + 1)]), "tombstones"),
    ],
)
def test_what_is_no_state_is_refused_by_name_and_changes_nothing(
    value: bytes, parameter: str
) -> None:
    with pytest.raises(ContractError) as caught:
        decode_state(value)
    assert caught.value.parameter == parameter and caught.value.fix
    book = ModeBook()
    assert book.take(KEY, encode_state(STATE)) == STATE
    assert book.take(KEY, value) is None
    assert book.state_of(SUBJECT) == STATE and book.unreadable == 1 and parameter in book.fault


def test_the_book_keeps_the_newest_version_of_each_subject() -> None:
    book = ModeBook()
    assert book.mode_of(SUBJECT, CANARY) == CANARY and book.mode_of(SUBJECT, STRICT) == STRICT
    assert book.take(KEY, encode_state(STATE)) == STATE
    for version in (2, 3):  # an older one, and the same one with another mode
        old = replace(STATE, version=version, mode=CANARY)
        assert book.take(KEY, encode_state(old)) is None
    assert book.stale == 2 and book.mode_of(SUBJECT, CANARY) == STRICT
    newer = replace(STATE, version=4, mode=CANARY)
    assert book.take(KEY, encode_state(newer)) == newer
    assert dict(book.states) == {SUBJECT: newer} and book.unreadable == 0


def test_a_null_a_foreign_key_and_the_head_of_the_audit_change_no_mode() -> None:
    book = ModeBook()
    book.take(KEY, encode_state(STATE))
    assert book.take(HEAD_KEY, b'{"number":7}') is None
    assert book.fault == ""
    newer = encode_state(replace(STATE, version=4, mode=CANARY))
    for key, value in ((KEY, None), (None, newer), (b"other-value", newer)):
        assert book.take(key, value) is None
    assert book.unreadable == 3 and book.state_of(SUBJECT) == STATE


def test_a_policy_is_what_the_state_says_or_the_default() -> None:
    book = ModeBook()
    assert book.policy_of(SUBJECT, STRICT) == Policy(STRICT)
    book.take(KEY, encode_state(replace(STATE, tombstones=("cd" * 32,))))
    assert book.policy_of(SUBJECT, CANARY) == Policy(STRICT, 3, frozenset({"cd" * 32}))
