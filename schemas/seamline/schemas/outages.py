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
from seamline.schemas.times import INT64_MAX

# [start, end) in ns; None: it goes on.
Outage: TypeAlias = tuple[int, int | None]
OUTAGES_MAX: Final = 16
# Two numbers of 20 characters and their marks: no honest text is longer.
_PAIR_BYTES_MAX: Final = 42
_PAIR: Final = re.compile(r"(0|-?[1-9][0-9]{0,18}):(-|0|-?[1-9][0-9]{0,18})", re.ASCII)


def encode_outages(intervals: Iterable[Outage]) -> bytes:
    """The header's value: spans in any order, joined where they overlap or touch, newest kept.

    Raises ContractError for a span that is empty or outside int64 nanoseconds.
    """
    return _text(_joined(intervals)[-OUTAGES_MAX:])


def parse_outages(value: bytes) -> tuple[Outage, ...] | None:
    """The spans of a header's value; None where it is not one that `encode_outages` makes."""
    return _spans(value, OUTAGES_MAX)


def encode_spans(intervals: Iterable[tuple[int, int]]) -> bytes:
    """Other spans in the same text, as many as there are. Raises ContractError as above."""
    return _text(_joined(intervals))


def parse_spans(value: bytes, spans_max: int) -> tuple[tuple[int, int], ...] | None:
    """At most so many spans that have an end; None where the value says anything else."""
    closed: list[tuple[int, int]] = []
    for start_ns, end_ns in _spans(value, spans_max) or ():
        if end_ns is None:
            return None
        closed.append((start_ns, end_ns))
    return tuple(closed) if closed or not value else None


def _joined(intervals: Iterable[Outage]) -> list[Outage]:
    joined: list[Outage] = []
    for start_ns, end_ns in sorted(intervals, key=lambda span: span[0]):
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
    return joined


def _text(spans: Iterable[Outage]) -> bytes:
    pairs = (f"{start}:{'-' if end is None else end}" for start, end in spans)
    return ",".join(pairs).encode("ascii")


def _spans(value: bytes, spans_max: int) -> tuple[Outage, ...] | None:
    if len(value) > spans_max * _PAIR_BYTES_MAX:
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
    return tuple(spans) if len(spans) <= spans_max else None


def _is_span(start_ns: int, end_ns: int | None) -> bool:
    last_ns = INT64_MAX if end_ns is None else end_ns
    return -INT64_MAX <= start_ns < last_ns <= INT64_MAX
