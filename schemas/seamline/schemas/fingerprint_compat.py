"""The compatibility fingerprint: SHA-256 of a table as canonical JSON, as other systems state it.

Decides: that text. Rows go by `ts`, each an object of all columns; keys are sorted, there are no
blanks, text outside ASCII is escaped, floats have the shortest form that reads back as the same
float, and NaN, null and an absent value are null. Its coverage bounds are inclusive, in this format
only. Invariants: the text does not depend on the order of columns, nor on that of rows of different
times; rows of one time keep theirs, since the format has no order for them. Weaker than
`fingerprint_tables` (NaN is null, 1 and 1.0 differ only by the type handed in); for comparing with
what others published. Must not know: symbols, intervals, the grid.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from seamline.schemas.errors import ContractError

TIME: Final = "ts"
PREFIX: Final = "sha256:"


def compat_json(
    rows: Sequence[Mapping[str, Any]],
    *,
    node_id: str,
    interval_s: int,
    coverage_bounds_inclusive_s: tuple[int, int],
    conformance_version: str,
) -> str:
    """The canonical text. `ts` of each row is an int in the unit of the dataset.

    Raises ContractError for a row without such a `ts`, and for values that JSON cannot hold.
    """
    names = sorted({name for row in rows for name in row})
    for row in rows:
        if isinstance(row.get(TIME), bool) or not isinstance(row.get(TIME), int):
            raise ContractError("a row needs an int", parameter=TIME, value=row.get(TIME))
    first, last = coverage_bounds_inclusive_s
    document = {
        "frame": [
            {name: _value(name, row.get(name)) for name in names}
            for row in sorted(rows, key=lambda row: int(row[TIME]))
        ],
        "metadata": {
            "conformance_version": conformance_version,
            "coverage_bounds": [first, last],
            "interval": interval_s,
            "node_id": node_id,
        },
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=_refuse)


def compat_fingerprint(text: str) -> str:
    """`sha256:` and 64 hex digits of a `compat_json`."""
    return PREFIX + hashlib.sha256(text.encode("ascii")).hexdigest()


def _value(name: str, value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        raise ContractError("JSON has no infinities", parameter=name, value=value)
    return None if math.isnan(value) else value


def _refuse(value: object) -> object:
    raise ContractError("not a value of JSON", parameter="rows", value=value)
