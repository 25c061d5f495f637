"""Laws of the audit chain: every chain verifies, every change of it shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from seamline.schemas.audit import (
    ACTIONS,
    Draft,
    Entry,
    append,
    decode_entry,
    encode_entry,
    verify,
    vouched,
)
from seamline.schemas.times import INT64_MAX

laws = settings(deadline=None, max_examples=150)
letters = st.characters(exclude_categories=["Cs"])  # what UTF-8 can hold
texts = st.text(letters, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(letters, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(letters, max_size=4), inner)
    ),
    max_leaves=6,
)
times = st.integers(-INT64_MAX, INT64_MAX)
drafts = st.builds(
    Draft,
    st.sampled_from(ACTIONS),
    texts,
    texts,
    texts,
    st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.none() | st.tuples(times, times).map(lambda pair: (min(pair), max(pair))),
    st.dictionaries(st.text(letters, max_size=5), json_values, max_size=3),
)
clocks = st.integers(-(2**40), INT64_MAX)


def chain_of(pairs: Sequence[tuple[Draft, int]]) -> list[Entry]:
    entries: list[Entry] = []
    for draft, clock_ns in pairs:
        last = entries[-1] if entries else None
        entries.append(
            append(last.head if last else None, last.time_ns if last else 0, draft, clock_ns)
        )
    return entries


chains = st.lists(st.tuples(drafts, clocks), min_size=1, max_size=5).map(chain_of)


@given(chains)
@laws
def test_every_chain_verifies_and_reads_back(entries: list[Entry]) -> None:
    values = [encode_entry(entry) for entry in entries]
    assert [decode_entry(value) for value in values] == entries
    head = entries[-1].head
    report = verify(values, head)
    assert (report.ok, report.broken, report.head) == (True, None, head)
    assert vouched(values, head) == tuple(entries)
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(entries))


@given(chains, st.data())
@laws
def test_one_changed_byte_shows_and_names_its_entry(
    entries: list[Entry], data: st.DataObject
) -> None:
    values: list[bytes] = [encode_entry(entry) for entry in entries]
    at = data.draw(st.integers(0, len(values) - 1))
    place = data.draw(st.integers(0, len(values[at]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != values[at][place]))
    changed = values[at][:place] + bytes([byte]) + values[at][place + 1 :]
    report = verify([*values[:at], changed, *values[at + 1 :]], entries[-1].head)
    assert not report.ok
    assert report.broken in ((at - 1, at), (at, at + 1))


@given(chains, st.data())
@laws
def test_no_other_order_and_no_part_verifies(entries: list[Entry], data: st.DataObject) -> None:
    values = [encode_entry(entry) for entry in entries]
    places = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=7))
    chosen = [values[place] for place in places]
    report = verify(chosen, entries[-1].head)
    assert report.ok == (places == list(range(len(values))))
    assert vouched(chosen, entries[-1].head) == () or len(values) - 1 in places


@given(st.binary(max_size=60) | st.none(), chains)
@laws
def test_bytes_of_others_never_verify(foreign: bytes | None, entries: list[Entry]) -> None:
    values: list[bytes | None] = [encode_entry(entry) for entry in entries]
    for at in range(len(values) + 1):
        report = verify([*values[:at], foreign, *values[at:]], entries[-1].head)
        assert not report.ok
