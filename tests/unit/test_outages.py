"""The statement of a venue's outages on a heartbeat: one text for one set of spans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.schemas.errors import ContractError
from seamline.schemas.outages import OUTAGES_MAX, Outage, encode_outages, parse_outages

TIMES = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-50, 50)
SPANS = st.tuples(TIMES, TIMES | st.none()).filter(lambda s: s[1] is None or s[0] < s[1])


def test_spans_are_joined_sorted_and_the_newest_kept() -> None:
    assert encode_outages([(30, 40), (10, 20), (20, 25)]) == b"10:25,30:40"
    assert encode_outages([(30, None), (10, 20), (50, 60)]) == b"10:20,30:-"
    assert encode_outages([]) == b""
    many = [(4 * i, 4 * i + 1) for i in range(OUTAGES_MAX + 3)]
    assert parse_outages(encode_outages(many)) == tuple(many[3:])


@given(st.lists(SPANS, max_size=20))
def test_what_is_said_is_read(spans: list[Outage]) -> None:
    try:
        value = encode_outages(spans)
    except ContractError:
        assert any(end is None and start == 2**63 - 1 for start, end in spans)
        return
    read = parse_outages(value)
    assert read is not None and encode_outages(read) == value
    if len(read) < OUTAGES_MAX:
        for at in {start for start, _ in spans} | {end for _, end in spans if end is not None}:
            said = any(start <= at and (end is None or at < end) for start, end in spans)
            assert said == any(start <= at and (end is None or at < end) for start, end in read)


NONSENSE = (
    *(b"nonsense", b"1", b"1:", b":1", b"2:1", b"1:1", b"-:1", b"1:2,", b",1:2", b" 1:2", b"1:2 "),
    *(b"+1:2", b"01:2", b"1_0:20", b"-0:1", b"1:2,2:3", b"3:4,1:2", b"1:-,5:6", b"1:2:3"),
    *(b"\xff:\xfe", "\u0661:\u0662".encode(), b"1:99999999999999999999", b"1:\n2", b"1:2\n"),
    *(b"9" * 5_000 + b":-", b",".join(b"%d:%d" % (2 * i, 2 * i + 1) for i in range(17))),
)


@pytest.mark.parametrize("value", NONSENSE)
def test_nonsense_is_no_statement(value: bytes) -> None:
    assert parse_outages(value) is None


@given(st.binary(max_size=40) | st.text("0123456789:,- ", max_size=40).map(str.encode))
def test_no_bytes_crash_and_only_one_text_says_a_thing(value: bytes) -> None:
    read = parse_outages(value)
    assert read is None or encode_outages(read) == value


@pytest.mark.parametrize("span", [(5, 5), (6, 5), (2**63, None), (0, 2**63), (-(2**63), 0)])
def test_a_span_that_is_none_is_refused(span: Outage) -> None:
    with pytest.raises(ContractError, match="not a span of time"):
        encode_outages([span])
