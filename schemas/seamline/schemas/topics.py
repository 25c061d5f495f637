"""Names on the wire: topics, keys, headers, and the partition of a symbol.

Decides: how a preset's topics, their record keys and our headers are spelled, and that partitions
are murmur2 as in Java clients. Invariants: a symbol has the same partition number in every topic of
its preset; every key parses back to what built it. Must not know: a broker, a preset's settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.times import INT64_MAX, NS_PER_MS

PREFIX: Final = "seamline"
LANDING_ROLES: Final[tuple[str, ...]] = ("live", "backfill")
ROLES: Final[tuple[str, ...]] = (
    *LANDING_ROLES,
    *("conformed", "storage", "superseded", "seals", "positions", "gaps"),
    *("quarantine", "reports", "chunks"),
)
SCHEMA_MODES_TOPIC: Final = "seamline.control.schema-modes"
PINS_TOPIC: Final = "seamline.control.pins"
AUDIT_TOPIC: Final = "seamline.audit"

_SUBJECT_SUFFIX: Final = "-value"
# Their values are the bytes of other topics.
_ROLES_WITHOUT_SUBJECT: Final = ("quarantine",)

# The one key of `positions`, written explicitly to each partition.
POSITION_KEY: Final = b"position"

HEADER_FINGERPRINT: Final = "seamline-fp"
FINGERPRINT_HEADER_CHARS: Final = 16
# Who wrote the record, as it names itself: UTF-8, at most PRODUCER_BYTES_MAX bytes.
HEADER_PRODUCER: Final = "seamline-producer"
PRODUCER_BYTES_MAX: Final = 64
# What a record without that header is counted under.
PRODUCER_UNKNOWN: Final = "unknown"
HEADER_VENUE: Final = "seamline-venue"
HEADER_WATERMARK_NS: Final = "seamline-watermark-ns"
# Spans in which the venue itself said that it cannot serve (`seamline.schemas.outages`).
HEADER_OUTAGES: Final = "seamline-outages"
# Of a seal: spans above its frontier that sources were asked for, which no block says yet.
HEADER_CLAIMS: Final = "seamline-claims"
# Of a quarantined record: why, and where its bytes were first.
HEADER_REASON: Final = "seamline-reason"
HEADER_DETAIL: Final = "seamline-detail"
# The writer schema that its frame names, in decimal; absent where there is no frame.
HEADER_SCHEMA_ID: Final = "seamline-schema-id"
# When it failed, by the clock of who refused it: the worker's step, or the connector.
HEADER_FIRST_FAILURE_NS: Final = "seamline-first-failure-ns"
# Of bytes that a connector could not read: the source they came from.
HEADER_SOURCE: Final = "seamline-source"
# How many bytes there were, where not all of them could be kept.
HEADER_SIZE: Final = "seamline-size"
HEADER_ORIGIN_TOPIC: Final = "seamline-origin-topic"
HEADER_ORIGIN_PARTITION: Final = "seamline-origin-partition"
HEADER_ORIGIN_OFFSET: Final = "seamline-origin-offset"
# How large the record was, where that is more than a topic takes and its bytes were cut.
HEADER_ORIGIN_BYTES: Final = "seamline-origin-bytes"
HEADER_ORIGIN_TIMESTAMP_MS: Final = "seamline-origin-timestamp-ms"
# Of a landed record that was in quarantine: `topic/partition/offset` of where it landed first.
HEADER_REDRIVEN: Final = "seamline-redriven"
# Of a mark in a quarantine partition: the offset there that is settled, and how.
HEADER_RESOLVED: Final = "seamline-resolved"

_SEED: Final = 0x9747B28C
_MIX: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_PARTITION_CACHE: Final = 65_536


def topic_name(preset_id: str, role: str) -> str:
    """`seamline.<preset>.<role>`. Raises UsageError for an unknown role."""
    if role not in ROLES:
        raise UsageError(
            "no such topic role", parameter="role", value=role, fix=f"One of {', '.join(ROLES)}"
        )
    return f"{PREFIX}.{preset_id}.{role}"


def parse_topic(topic: str) -> tuple[str, str]:
    """`(preset id, role)` of a preset's topic. Raises UsageError for any other name."""
    head, _, rest = topic.partition(".")
    preset_id, _, role = rest.rpartition(".")
    if head != PREFIX or not preset_id or role not in ROLES:
        raise UsageError("not the topic of a preset", parameter="topic", value=topic)
    return preset_id, role


def subject_of(topic: str) -> str:
    """TopicNameStrategy."""
    return f"{topic}{_SUBJECT_SUFFIX}"


def parse_subject(subject: str) -> tuple[str, str]:
    """`(preset id, role)` of the subject of a preset's topic. Raises UsageError for another."""
    topic = subject.removesuffix(_SUBJECT_SUFFIX)
    if topic != subject:
        try:
            preset_id, role = parse_topic(topic)
            if role not in _ROLES_WITHOUT_SUBJECT:
                return preset_id, role
        except UsageError:
            pass
    raise _no_subject(subject)


def subject_named(text: str) -> str:
    """The subject that a person means: `seamline.P.live-value`, the topic `seamline.P.live`, or
    `P.live` for preset P.

    Raises UsageError for what is none of these and for a topic whose values have no schema
    (quarantine). Whether there is such a preset is the caller's to ask.
    """
    topic = text.strip().removesuffix(_SUBJECT_SUFFIX)
    if not topic.startswith(f"{PREFIX}."):
        topic = f"{PREFIX}.{topic}"
    try:
        parse_subject(subject_of(topic))
    except UsageError:
        raise _no_subject(text) from None
    return subject_of(topic)


def _no_subject(text: str) -> UsageError:
    roles = ", ".join(role for role in ROLES if role not in _ROLES_WITHOUT_SUBJECT)
    return UsageError(
        "not the subject of a preset's topic",
        parameter="subject",
        value=text,
        fix=f"Give PRESET.ROLE, with one of the roles {roles}",
    )


def murmur2(data: bytes) -> int:
    """The hash of Kafka's Java client, as a signed 32-bit number."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _MIX & _MASK
        k = (k ^ (k >> 24)) * _MIX & _MASK
        h = (h * _MIX & _MASK) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _MIX & _MASK
    h = (h ^ (h >> 13)) * _MIX & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


@lru_cache(maxsize=_PARTITION_CACHE)
def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition that Java's default partitioner gives to `key`."""
    if partitions < 1:
        raise UsageError("needs at least one partition", parameter="partitions", value=partitions)
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partition_of(symbol: str, partitions: int) -> int:
    """The partition of a symbol in every topic of its preset."""
    return partition_of_key(symbol.encode(), partitions)


def producer_name(name: str) -> bytes:
    """Value of the header `seamline-producer`. Raises UsageError for a name that cannot be one."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise UsageError(
            "not a printable name", parameter="name", value=name, fix="Give one such as my-feed"
        )
    encoded = name.encode()
    if len(encoded) > PRODUCER_BYTES_MAX:
        raise UsageError(
            f"longer than {PRODUCER_BYTES_MAX} bytes",
            parameter="name",
            value=name,
            fix="Give a shorter one",
        )
    return encoded


def producer_of(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Who wrote a record, by its header: what is no name, or longer, is cut to what can be shown;
    `unknown` where it says nothing."""
    stated = next((value for key, value in headers if key == HEADER_PRODUCER), None)
    text = (stated or b"")[:PRODUCER_BYTES_MAX].decode(errors="replace")
    shown = "".join(c if c.isprintable() else "?" for c in text).strip()
    return shown or PRODUCER_UNKNOWN


def dataset_key(preset_id: str, symbol: str) -> str:
    """`preset|symbol`: the name of one symbol's data, as requests, caches and leases use it.

    Raises UsageError for an empty preset or symbol, and for a preset with a `|`, which no preset
    has: with one the key would not say where the symbol begins.
    """
    if not preset_id or "|" in preset_id:
        raise UsageError("not the id of a preset", parameter="preset", value=preset_id)
    if not isinstance(symbol, str) or not symbol.strip():
        raise UsageError(
            "no symbol", parameter="symbol", value=symbol, fix="Give one such as BTC/USDT"
        )
    return f"{preset_id}|{symbol}"


def parse_dataset_key(key: str) -> tuple[str, str]:
    """`(preset id, symbol)`. Raises ContractError for another key."""
    preset_id, separator, symbol = key.partition("|")
    if not separator or not preset_id or not symbol.strip():
        raise ContractError("not a key `preset|symbol`", parameter="key", value=key)
    return preset_id, symbol


def symbol_key(symbol: str) -> bytes:
    """Key of landing, conformed, superseded and seals."""
    return symbol.encode()


def storage_key(symbol: str, block_start_ns: int) -> bytes:
    return _timed_key(symbol, block_start_ns, "block_start_ns")


def gap_key(symbol: str, start_ns: int) -> bytes:
    return _timed_key(symbol, start_ns, "start_ns")


def report_key(symbol: str, window_start_ns: int) -> bytes:
    return _timed_key(symbol, window_start_ns, "window_start_ns")


def chunk_key(symbol: str, start_ns: int, end_ns: int) -> bytes:
    """`symbol|start_ms|end_ms`: a chunk is named by its whole range."""
    return _timed_key(_timed_key(symbol, start_ns, "start_ns").decode(), end_ns, "end_ns")


def parse_symbol_key(key: bytes) -> str:
    """Raises ContractError when the key is not UTF-8."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ContractError("not a UTF-8 symbol", parameter="key", value=key) from None


def parse_storage_key(key: bytes) -> tuple[str, int]:
    """`(symbol, block_start_ns)`. Raises ContractError for another key."""
    return _parse_timed_key(key)


def parse_gap_key(key: bytes) -> tuple[str, int]:
    """`(symbol, start_ns)`. Raises ContractError for another key."""
    return _parse_timed_key(key)


def parse_report_key(key: bytes) -> tuple[str, int]:
    """`(symbol, window_start_ns)`. Raises ContractError for another key."""
    return _parse_timed_key(key)


def parse_chunk_key(key: bytes) -> tuple[str, int, int]:
    """`(symbol, start_ns, end_ns)`. Raises ContractError for another key."""
    head, end_ns = _parse_timed_key(key)
    symbol, start_ns = _parse_timed_key(head.encode())
    return symbol, start_ns, end_ns


def _timed_key(symbol: str, time_ns: int, parameter: str) -> bytes:
    time_ms, rest = divmod(time_ns, NS_PER_MS)
    if rest:
        raise UsageError("not whole milliseconds", parameter=parameter, value=time_ns)
    return f"{symbol}|{time_ms}".encode()


def _parse_timed_key(key: bytes) -> tuple[str, int]:
    try:
        symbol, separator, time_ms = key.decode().rpartition("|")
        if not separator or not symbol or time_ms != str(int(time_ms)):
            raise ValueError
        time_ns = int(time_ms) * NS_PER_MS
        if abs(time_ns) > INT64_MAX:
            raise ValueError
        return symbol, time_ns
    except ValueError:
        raise ContractError("not a key `symbol|milliseconds`", parameter="key", value=key) from None
