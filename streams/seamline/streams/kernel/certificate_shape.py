"""What a certificate must look like before anything in it is used.

Decides: the fields and their types. A hash that fits proves that nobody changed the text, not that
the program wrote it: whoever can make a hash can leave a field out. Invariant: a tree that passes
has every field that a check of it reads, with the type and the range it is read with. Must not
know: what the facts mean, Kafka.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from seamline.schemas.errors import UsageError
from seamline.schemas.times import INT64_MAX, parse_time

# Where the fault is, None where there is none.
Shape = Callable[[str, Any], str | None]
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)


def fault_of(tree: Mapping[str, Any]) -> str | None:
    """The dotted name of the first field that is missing or of another type, None without one."""
    return _CERTIFICATE("", tree)


def _simple(good: Callable[[Any], bool]) -> Shape:
    return lambda at, value: None if good(value) else at


def _is_whole(value: Any) -> bool:
    return type(value) is int and -1 <= value <= INT64_MAX


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or not value[:1].isdigit():
        return False
    try:
        parse_time(value, now_ns=0, parameter="certificate")
    except UsageError:
        return False
    return True


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1_000 and value.isprintable()


def _or_null(shape: Shape) -> Shape:
    return lambda at, value: None if value is None else shape(at, value)


def _fields(**fields: Shape) -> Shape:
    def fault(at: str, value: Any) -> str | None:
        if not isinstance(value, dict):
            return at
        for name, shape in fields.items():
            where = f"{at}.{name}" if at else name
            found = shape(where, value[name]) if name in value else where
            if found is not None:
                return found
        return None

    return fault


def _each(shape: Shape) -> Shape:
    def fault(at: str, value: Any) -> str | None:
        if not isinstance(value, list):
            return at
        found = (shape(f"{at}.{number}", item) for number, item in enumerate(value))
        return next((where for where in found if where is not None), None)

    return fault


def _partitions(shape: Shape) -> Shape:
    def fault(at: str, value: Any) -> str | None:
        if not isinstance(value, dict) or not all(map(_NUMBER.fullmatch, value)):
            return at
        found = (shape(f"{at}.{name}", item) for name, item in value.items())
        return next((where for where in found if where is not None), None)

    return fault


_WHOLE: Final = _simple(_is_whole)
_TIME: Final = _simple(_is_time)
_NAME: Final = _simple(_is_name)
_DIGEST: Final = _simple(lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)))
_BOOL: Final = _simple(lambda value: isinstance(value, bool))
_LENGTH: Final = _simple(lambda value: _is_whole(value) and 0 < value <= INT64_MAX // 10**6)
_FENCE: Final = _fields(**{"from": _WHOLE, "fence": _WHOLE})
_GAPS: Final = _each(_fields(bars=_WHOLE))
_BLOCK: Final = _fields(start=_TIME, rows=_WHOLE, digest=_DIGEST, prices_digest=_DIGEST)
_OVERLAP: Final = _fields(
    empty=_BOOL, compared=_WHOLE, equal=_WHOLE, completed=_WHOLE, newer_in_storage=_WHOLE
)
_ENTRY: Final = _fields(
    symbol=_NAME,
    partition=_WHOLE,
    frontier=_or_null(_TIME),
    seal_sequence=_or_null(_WHOLE),
    conformed_offset=_or_null(_WHOLE),
    blocks=_each(_BLOCK),
    history=_fields(bars=_WHOLE, known_through=_or_null(_TIME)),
    log=_fields(bars=_WHOLE, digest=_DIGEST, known_through=_or_null(_TIME)),
    overlap=_OVERLAP,
    gaps=_GAPS,
    open=_GAPS,
    missing_without_entry=_WHOLE,
    duplicates=_WHOLE,
    digest=_DIGEST,
)
_CERTIFICATE: Final = _fields(
    preset=_NAME,
    interval_ms=_LENGTH,
    start=_TIME,
    end=_or_null(_TIME),
    positions=_partitions(_fields(conformed=_FENCE)),
    symbols=_each(_ENTRY),
    bars_history=_WHOLE,
    bars_log=_WHOLE,
    missing_bars=_WHOLE,
    missing_without_entry=_WHOLE,
    duplicates=_WHOLE,
    digest=_DIGEST,
)
