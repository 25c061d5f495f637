"""The audit chain: what an entry is, what follows what, and which link a change breaks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from seamline.schemas.audit import (
    ACTIONS,
    ENTRY_BYTES_MAX,
    GENESIS,
    Draft,
    Entry,
    Head,
    append,
    decode_entry,
    decode_head,
    encode_entry,
    encode_head,
    misfit_of_states,
    verify,
    vouched,
    with_state,
)
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.modes import MODES, SubjectState

SHA = "0123456789abcdef" * 4


def draft(reason: str = "r1", **fields: Any) -> Draft:
    return Draft(**{"action": "promote", "subject": "s", "actor": "ann", "reason": reason} | fields)


def chain_of(*reasons: str, clock_ns: int = 100) -> list[Entry]:
    entries: list[Entry] = []
    for reason in reasons:
        head = entries[-1].head if entries else None
        last_ns = entries[-1].time_ns if entries else 0
        entries.append(append(head, last_ns, draft(reason), clock_ns))
    return entries


def values_of(entries: list[Entry]) -> list[bytes | None]:
    return [encode_entry(entry) for entry in entries]


def test_the_bytes_and_the_hash_of_an_entry_by_hand() -> None:
    entry = append(
        None, 0, draft("why", bundle_sha256=SHA, window_ns=(1, 2), evidence={"b": 1, "a": [0.5]}), 7
    )
    value = (
        b'{"action":"promote","actor":"ann","bundle_sha256":"' + SHA.encode() + b'",'
        b'"evidence":{"a":[0.5],"b":1},"format":1,"number":0,"previous":"' + b"0" * 64 + b'",'
        b'"reason":"why","subject":"s","time_ns":7,"window_ns":[1,2]}'
    )
    assert encode_entry(entry) == value
    assert entry.hash == hashlib.sha256(value).hexdigest()
    assert decode_entry(value) == entry
    follower = append(entry.head, entry.time_ns, draft("r2"), 8)
    assert (follower.number, follower.previous) == (1, entry.hash)
    assert decode_head(encode_head(entry.head)) == entry.head


def test_a_clock_that_goes_back_does_not_take_the_chain_back() -> None:
    first = append(None, 0, draft(), 1_000)
    second = append(first.head, first.time_ns, draft(), 10)
    third = append(second.head, second.time_ns, draft(), 2_000)
    assert [e.time_ns for e in (first, second, third)] == [1_000, 1_000, 2_000]
    assert verify(values_of([first, second, third]), third.head).ok
    back = replace(second, time_ns=999)
    report = verify(values_of([first, back]), back.head)
    assert (report.broken, "older" in report.why) == ((0, 1), True)
    with pytest.raises(UsageError, match="clock_ns"):
        append(None, 0, draft(), 2**63)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_one(action: str) -> None:
    assert decode_entry(encode_entry(append(None, 0, draft(action=action), 1))).action == action


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action", "delete"),
        ("subject", " "),
        ("subject", "s" * 301),
        ("actor", ""),
        ("actor", 7),
        ("actor", "\ud800"),
        ("reason", "\n\t"),
        ("reason", "r" * 2_001),
        ("bundle_sha256", SHA[1:]),
        ("bundle_sha256", SHA.upper()),
        ("window_ns", (2, 1)),
        ("window_ns", (1.0, 2)),
        ("window_ns", (True, 2)),
        ("window_ns", 5),
        ("window_ns", (0, 2**63)),
        ("evidence", {"x": float("nan")}),
        ("evidence", {"x": b"bytes"}),
        ("evidence", {"x": "\udfff"}),
        ("evidence", {1: 2, "1": 3}),
        ("evidence", [1]),
    ],
)
def test_a_wrong_draft_names_its_field(field: str, value: object) -> None:
    fields: dict[str, Any] = {"action": "fix", "subject": "s", "actor": "a", "reason": "r"}
    fields[field] = value
    with pytest.raises(UsageError) as raised:
        Draft(**fields)
    assert raised.value.parameter == field
    assert raised.value.fix


def test_evidence_too_large_or_too_deep_is_refused() -> None:
    with pytest.raises(UsageError, match="too large"):
        append(None, 0, draft(evidence={"x": "y" * ENTRY_BYTES_MAX}), 1)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UsageError, match="evidence"):
        draft(evidence={"x": deep})


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"format":1}',
        b"[" * 100_000,
        b"9" * 5_000,
        b" " * (ENTRY_BYTES_MAX + 1),
    ],
)
def test_what_is_no_entry_and_no_head(value: bytes | None) -> None:
    with pytest.raises(ContractError):
        decode_entry(value)
    with pytest.raises(ContractError):
        decode_head(value)


def test_only_the_canonical_bytes_are_an_entry() -> None:
    value = values_of(chain_of("r1"))[0] or b""
    fields = json.loads(value)
    for other in (
        value + b" ",
        json.dumps(fields).encode(),
        value.replace(b'"number":0', b'"number":0,"number":0'),
        value.replace(b'"number":0', b'"number":false'),
        value.replace(b'"format":1', b'"format":2'),
        value.replace(b'"format":1', b'"format":true'),
        value.replace(b'"time_ns":100', b'"time_ns":-100'),
        value.replace(b'"previous":"0', b'"previous":"g'),
        value.replace(b'"promote"', b'"promoted"'),
        value.replace(b'"reason"', b'"reasons"'),
    ):
        assert other != value
        with pytest.raises(ContractError):
            decode_entry(other)


def test_a_change_breaks_the_link_to_the_one_after() -> None:
    entries = chain_of("r1", "r2", "r3", "r4")
    head = entries[-1].head
    for at in range(3):
        changed = [*entries]
        changed[at] = replace(entries[at], reason="other")
        report = verify(values_of(changed), head)
        assert (report.ok, report.broken) == (False, (at, at + 1))
    changed = [*entries[:3], replace(entries[3], actor="bob")]
    report = verify(values_of(changed), head)
    assert report.broken == (3, 4)
    assert "head kept" in report.why


def test_every_byte_of_every_entry_counts() -> None:
    entries = chain_of("r1", "r2", "r3")
    values, head = values_of(entries), entries[-1].head
    for at, value in enumerate(values):
        assert value is not None
        for place in range(len(value)):
            changed = bytearray(value)
            changed[place] ^= 1
            report = verify([*values[:at], bytes(changed), *values[at + 1 :]], head)
            assert not report.ok
            assert report.broken in ((at - 1, at), (at, at + 1))


def test_what_was_cut_put_in_swapped_or_made_again_shows() -> None:
    entries = chain_of("r1", "r2", "r3", "r4")
    values, head = values_of(entries), entries[-1].head
    cases: list[tuple[list[bytes | None], Head | None, tuple[int, int]]] = [
        (values[1:], head, (-1, 0)),
        (values[:-1], head, (2, 3)),
        ([], head, (-1, 0)),
        (values, None, (3, 4)),
        ([*values[:1], *values[2:]], head, (0, 1)),
        ([values[1], values[0], *values[2:]], head, (-1, 0)),
        ([*values[:2], values[1], *values[2:]], head, (1, 2)),
        ([*values[:2], b"hello", *values[2:]], head, (1, 2)),
        ([*values[:2], None, *values[2:]], head, (1, 2)),
        ([*values, b"hello"], head, (3, 4)),
        (values_of(chain_of("r1", "r2", "other", "r4")), head, (3, 4)),
    ]
    for changed, kept, broken in cases:
        report = verify(changed, kept)
        assert (report.ok, report.broken) == (False, broken), report.why
        assert report.why
        assert report.entries == len(changed)
    assert verify([], None).ok
    assert verify(values, head).head == head


def test_a_mode_that_was_set_past_the_chain_shows_for_good() -> None:
    states = [SubjectState("s", mode, n, 5, "ann", "r", SHA) for n, mode in enumerate(MODES * 2, 1)]
    entries: list[Entry] = []
    for state in states:
        head = entries[-1].head if entries else None
        entries.append(append(head, 0, with_state(draft(), state), 1))
    entries.append(append(entries[-1].head, 0, draft(subject="another"), 1))
    assert misfit_of_states(entries, states[-1:]) == ""
    assert "which is not in force" in misfit_of_states(entries, [])
    assert "no entry tells" in misfit_of_states(entries[-1:], states[-1:])
    assert "in force is canary (version 1)" in misfit_of_states(entries, states[:1])
    # Version 2 stood in the control topic alone; what came after it is an entry again.
    assert "entry 2 set canary (version 3) after canary (version 1)" in misfit_of_states(
        [entries[0], *entries[2:]], states[-1:]
    )
    assert "entry 1 set strict (version 2) after nothing" in misfit_of_states(
        entries[1:], states[-1:]
    )


def test_numbers_must_count_although_the_hashes_fit() -> None:
    first = append(None, 0, draft(), 1)
    third = append(Head(1, first.hash), 1, draft(), 1)
    report = verify(values_of([first, third]), third.head)
    assert (report.broken, "numbers" in report.why) == ((0, 1), True)


def test_the_head_vouches_for_what_hangs_on_it_and_nothing_else() -> None:
    entries = chain_of("r1", "r2", "r3", "r4")
    values, head = values_of(entries), entries[-1].head
    assert vouched(values, head) == tuple(entries)
    assert vouched(values, None) == ()
    assert vouched(values[:-1], head) == ()
    # Put in by somebody else, wherever it stands: not among them.
    forged = append(head, 100, draft("a rehearsal that never was", action="rehearse"), 101)
    assert vouched([*values, encode_entry(forged)], head) == tuple(entries)
    assert vouched([*values[:2], b"hello", None, *values[2:]], head) == tuple(entries)
    # What was changed, and all before it, has nobody who vouches for it.
    changed = [*entries]
    changed[1] = replace(entries[1], reason="other")
    assert vouched(values_of(changed), head) == tuple(entries[2:])
    # A chain that was continued after its head was lost begins there.
    again = append(Head(3, GENESIS), 100, draft("after the loss"), 200)
    assert vouched([*values, encode_entry(again)], again.head) == (again,)
    assert not verify([*values, encode_entry(again)], again.head).ok
