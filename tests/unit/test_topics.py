"""Names, keys and partitions on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.schemas import topics
from seamline.schemas.errors import ContractError, UsageError

# From Kafka's own tests of the Java client.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), MURMUR2.items())
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    assert topics.murmur2(key) == expected
    assert topics.partition_of_key(key, 8) == (expected & 0x7FFFFFFF) % 8


@given(st.binary(max_size=40), st.integers(1, 64))
def test_murmur2_is_aiokafkas(key: bytes, partitions: int) -> None:
    from aiokafka.partitioner import DefaultPartitioner

    every = list(range(partitions))
    theirs = DefaultPartitioner()(key or b"\0", every, every)
    assert topics.partition_of_key(key or b"\0", partitions) == theirs


def test_a_partition_needs_partitions() -> None:
    with pytest.raises(UsageError, match="partitions"):
        topics.partition_of("BTC/USDT", 0)


@pytest.mark.parametrize("role", topics.ROLES)
def test_topic_names_parse_back(role: str) -> None:
    name = topics.topic_name("ohlcv.binance.spot.1m", role)
    assert name == f"seamline.ohlcv.binance.spot.1m.{role}"
    assert topics.parse_topic(name) == ("ohlcv.binance.spot.1m", role)
    assert topics.subject_of(name) == f"{name}-value"


@pytest.mark.parametrize(
    "name", ["seamline.audit", "seamline.live", "seamline.p.other", "other.p.live", "", "seamline"]
)
def test_other_topics_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="topic"):
        topics.parse_topic(name)


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(UsageError, match="role"):
        topics.topic_name("p", "history")


@given(st.text(min_size=1).filter(lambda t: t.isprintable()), st.integers(-(2**43), 2**43))
def test_timed_keys_parse_back(symbol: str, time_ms: int) -> None:
    time_ns = time_ms * 1_000_000
    assert topics.parse_storage_key(topics.storage_key(symbol, time_ns)) == (symbol, time_ns)
    assert topics.parse_gap_key(topics.gap_key(symbol, time_ns)) == (symbol, time_ns)
    assert topics.parse_report_key(topics.report_key(symbol, time_ns)) == (symbol, time_ns)


@given(st.text(min_size=1).filter(lambda t: t.isprintable()), st.integers(-(2**43), 2**43))
def test_chunk_keys_parse_back(symbol: str, start_ms: int) -> None:
    start_ns, end_ns = start_ms * 1_000_000, (start_ms + 5) * 1_000_000
    key = topics.chunk_key(symbol, start_ns, end_ns)
    assert topics.parse_chunk_key(key) == (symbol, start_ns, end_ns)


@pytest.mark.parametrize("key", [b"A", b"A|5", b"|5|6", b"A|5|", b"A|5|06", b"\xff|5|6"])
def test_other_chunk_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ContractError, match="key"):
        topics.parse_chunk_key(key)


def test_a_storage_key_as_written() -> None:
    assert topics.storage_key("BTC/USDT", 1_700_000_000_000_000_000) == b"BTC/USDT|1700000000000"


@pytest.mark.parametrize("key", [b"BTC/USDT", b"|5", b"A|", b"A|x", b"A|05", b"A|+5", b"\xff|5"])
def test_other_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ContractError, match="key"):
        topics.parse_storage_key(key)


def test_a_key_holds_whole_milliseconds() -> None:
    with pytest.raises(UsageError, match="block_start_ns"):
        topics.storage_key("BTC/USDT", 1)


def test_a_symbol_key_is_utf8() -> None:
    assert topics.parse_symbol_key(topics.symbol_key("BTC/ÜSDT")) == "BTC/ÜSDT"
    with pytest.raises(ContractError, match="key"):
        topics.parse_symbol_key(b"\xff\xfe")


@given(st.text(min_size=1).filter(str.strip))
def test_dataset_keys_parse_back(symbol: str) -> None:
    preset = "ohlcv.binance.spot.1m"
    assert topics.parse_dataset_key(topics.dataset_key(preset, symbol)) == (preset, symbol)


@pytest.mark.parametrize(
    ("preset", "symbol", "parameter"),
    [("p.q", "", "symbol"), ("p.q", "  ", "symbol"), ("", "A/B", "preset"), ("p|q", "A", "preset")],
)
def test_half_a_dataset_has_no_key(preset: str, symbol: str, parameter: str) -> None:
    with pytest.raises(UsageError) as raised:
        topics.dataset_key(preset, symbol)
    assert raised.value.parameter == parameter


@pytest.mark.parametrize("key", ["", "p.q", "|A/B", "p.q|", "p.q| "])
def test_other_dataset_keys_are_refused(key: str) -> None:
    with pytest.raises(ContractError, match="key"):
        topics.parse_dataset_key(key)


@pytest.mark.parametrize(
    "text",
    [
        "seamline.ohlcv.binance.spot.1m.live-value",
        "seamline.ohlcv.binance.spot.1m.live",
        "ohlcv.binance.spot.1m.live",
        " ohlcv.binance.spot.1m.live-value ",
    ],
)
def test_a_subject_has_three_spellings(text: str) -> None:
    subject = topics.subject_named(text)
    assert subject == "seamline.ohlcv.binance.spot.1m.live-value"
    assert topics.parse_subject(subject) == ("ohlcv.binance.spot.1m", "live")
    assert topics.subject_named(subject) == subject


@pytest.mark.parametrize(
    "text",
    [
        "",
        "live",
        "-value",
        "x.quarantine",
        "x.lives",
        "seamline.live",
        "seamline.x.live-key",
        "..",
        "x",
    ],
)
def test_what_is_no_subject_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"subject = .*PRESET\.ROLE"):
        topics.subject_named(text)


@pytest.mark.parametrize("name", ["backfill", "live:binance", "Käse feed", "x" * 64])
def test_a_producers_name_is_read_back(name: str) -> None:
    headers = [("other", b"1"), (topics.HEADER_PRODUCER, topics.producer_name(name))]
    assert topics.producer_of(headers) == name


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 65, "ü" * 33, None, b"bytes"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        topics.producer_name(name)
    assert raised.value.parameter == "name"


@pytest.mark.parametrize("stated", [None, b"", b" ", b"\xff\xfe\n", b"a\x1b[31m", b"y" * 1_000])
def test_whatever_a_third_party_calls_itself_can_be_shown(stated: bytes | None) -> None:
    shown = topics.producer_of([(topics.HEADER_PRODUCER, stated)])
    assert shown.isprintable() and 0 < len(shown) <= topics.PRODUCER_BYTES_MAX
    if not (stated or b"").strip():
        assert shown == topics.PRODUCER_UNKNOWN


def test_a_record_that_names_no_producer_is_unknown() -> None:
    assert topics.producer_of([]) == topics.PRODUCER_UNKNOWN
