"""What a venue says of its own outages, as one header on a heartbeat.

Decides: how spans of the venue's time are written into HEADER_OUTAGES and which bytes are one. The
value is ASCII, `start_ns:end_ns` pairs joined by `,`; an end of `-` is an outage that goes on.
Invariants: spans are sorted, disjoint, not empty, at most OUTAGES_MAX, only the last one may go on;
exactly one text says a tuple of spans, so what parses encodes to the same bytes; the empty text
says that no outage is known. Must not know: who asked the venue, what an outage explains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from seamline.schemas.errors import ContractError

# [start, end) in ns; None: it goes on.
Outage: TypeAlias = tuple[int, int | None]
OUTAGES_MAX: Final = 16
# 16 pairs of two 20-character numbers and their marks: no honest statement is longer.
OUTAGES_BYTES_MAX: Final = OUTAGES_MAX * 42
_I64_MAX: Final = 2**63 - 1
_PAIR: Final = re.compile(r"(0|-?[1-9][0-9]{0,18}):(-|0|-?[1-9][0-9]{0,18})", re.ASCII)


def encode_outages(intervals: Iterable[Outage]) -> bytes:
    """The header's value: spans in any order, joined where they overlap or touch, newest kept.

    Raises ContractError for a span that is empty or outside int64 nanoseconds.
    """
    spans = sorted(intervals, key=lambda span: span[0])
    joined: list[Outage] = []
    for start_ns, end_ns in spans:
        if not _is_span(start_ns, end_ns):
            raise ContractError(
                "not a span of time",
                parameter="intervals",
                value=(start_ns, end_ns),
                fix="Give [start, end) in int64 nanoseconds, start < end; None as end: it goes on",
            )
        if joined and (joined[-1][1] is None or start_ns <= joined[-1][1]):
            before, until = joined.pop()
            later = None if until is None or end_ns is None else max(until, end_ns)
            joined.append((before, later))
        else:
            joined.append((start_ns, end_ns))
    pairs = (f"{start}:{'-' if end is None else end}" for start, end in joined[-OUTAGES_MAX:])
    return ",".join(pairs).encode("ascii")


def parse_outages(value: bytes) -> tuple[Outage, ...] | None:
    """The spans of a header's value; None where it is not one that `encode_outages` makes."""
    if len(value) > OUTAGES_BYTES_MAX:
        return None
    if not value:
        return ()
    spans: list[Outage] = []
    for pair in value.decode("latin-1").split(","):
        match = _PAIR.fullmatch(pair)
        if match is None:
            return None
        start_ns = int(match[1])
        end_ns = None if match[2] == "-" else int(match[2])
        if not _is_span(start_ns, end_ns):
            return None
        # One that goes on is the last, and none touches the one before it.
        if spans and (spans[-1][1] is None or start_ns <= spans[-1][1]):
            return None
        spans.append((start_ns, end_ns))
    return tuple(spans) if len(spans) <= OUTAGES_MAX else None


def _is_span(start_ns: int, end_ns: int | None) -> bool:
    last_ns = _I64_MAX if end_ns is None else end_ns
    return -_I64_MAX <= start_ns < last_ns <= _I64_MAX
