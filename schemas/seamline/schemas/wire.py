"""The Confluent frame, and times in the units of the wire.

Decides: what is before every value, and when nanoseconds may become whole milliseconds or
microseconds: never by rounding. Must not know: Avro, schemas.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import I8, U1
from seamline.schemas.errors import ContractError, UsageError

FRAME_BYTES: Final = 5
SCHEMA_ID_MAX: Final = 2**32 - 1


def frame(schema_id: int) -> bytes:
    """The five bytes of the Confluent wire format before every value."""
    if not 0 <= schema_id <= SCHEMA_ID_MAX:
        raise UsageError("not a schema id", parameter="schema_id", value=schema_id)
    return struct.pack(">BI", 0, schema_id)


def schema_id_of(value: bytes | None) -> int | None:
    """The id that the frame of a value names, None where it has no frame."""
    if value is None or len(value) < FRAME_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:FRAME_BYTES], "big")


def joined(values: Sequence[bytes]) -> tuple[U1, I8]:
    """All values in one read-only buffer, and where each ends."""
    ends = np.fromiter(map(len, values), np.int64, len(values))
    return np.frombuffer(b"".join(values), np.uint8), np.cumsum(ends, out=ends)


def symbol_bytes_of(symbol: str) -> bytes:
    """UTF-8. Raises ContractError for a text that has none (a lone surrogate)."""
    try:
        return symbol.encode()
    except UnicodeEncodeError:
        raise ContractError("not a symbol", parameter="symbol", value=symbol) from None


def whole(times_ns: I8, unit_ns: int, parameter: str) -> I8:
    """Nanoseconds as whole units. Raises ContractError when a time is between two of them."""
    units = times_ns // unit_ns
    off = units * unit_ns != times_ns
    if off.any():
        at = int(off.argmax())
        raise ContractError(
            f"not whole units of {unit_ns} ns", parameter=parameter, value=int(times_ns[at]), row=at
        )
    return units


def whole_one(time_ns: int, unit_ns: int, parameter: str) -> int:
    """As `whole`, of one time."""
    units, rest = divmod(time_ns, unit_ns)
    if rest:
        raise ContractError(f"not whole units of {unit_ns} ns", parameter=parameter, value=time_ns)
    return units


def below(numbers: NDArray[np.uint8], bound: int, parameter: str) -> NDArray[np.uint8]:
    """The numbers of an enum. Raises ContractError when one is `bound` or more."""
    if len(numbers) and numbers.max() >= bound:
        raise ContractError("not in the enum", parameter=parameter, value=int(numbers.max()))
    return numbers
