"""Drivers of the families `fingerprint` and `compat_fingerprint`.

A dataset of a vector becomes a table of the stated types. Times without a unit are ticks: a vector
is evaluated with several units and must come out the same with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seamline.schemas.fingerprint_compat import compat_fingerprint, compat_json
from seamline.schemas.fingerprint_tables import TableColumn, table_digest
from seamline.streams.kernel.casts import type_named
from vectors.engine import CONDITIONS, Case, Fields, driver, outcome_of

CONDITIONS["the optional JSON-canonical fingerprint is built"] = True

UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
TICKS_NS = (1, 1_000_000_000, 60_000_000_000)
TIME = "ts"
INTEGERS = (TIME, "id")
DTYPES = {"int64": "i8", "float64": "f8", "bool": "?"}
IEEE = ("NaN", "Infinity", "-Infinity")


def dataset(given: Mapping[str, Any], where: str, tick_ns: int) -> dict[str, TableColumn]:
    fields = Fields(given, where)
    rows: Sequence[Mapping[str, Any]] = fields["rows"]
    named = [name for row in rows for name in row]
    names = list(dict.fromkeys([*fields.get("columns", ()), *named]))
    types: Mapping[str, str] = fields.get("types", {})
    names += [name for name in types if name not in names]
    unit_ns = UNITS_NS[fields["ts_unit"]] if "ts_unit" in fields else tick_ns
    fields.require_read()
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = types.get(name) or default_type(name, values)
        kind = type_named(kind, parameter=name)
        if name == TIME:
            values = [None if value is None else value * unit_ns for value in values]
        columns[name] = column(kind, values)
    return columns


def default_type(name: str, values: Sequence[Any]) -> str:
    """int64 for ts and id, float64 otherwise; what can be neither says itself what it is."""
    if name in INTEGERS:
        return "int64"
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return "bool"
    texts = [value for value in known if isinstance(value, str) and value not in IEEE]
    return "text" if texts else "float64"


def column(kind: str, values: Sequence[Any]) -> TableColumn:
    null = np.array([value is None for value in values], bool)
    if kind == "text":
        return TableColumn(kind, values, null)
    dtype = DTYPES[kind]
    held = np.zeros(len(values), dtype)
    for row, value in enumerate(values):
        if value is not None:
            held[row] = float(value) if kind == "float64" else value
            assert kind == "float64" or held[row] == value, f"{value!r} is not {kind}"
    return TableColumn(kind, held, null)


def digest(given: Mapping[str, Any], where: str, tick_ns: int) -> bytes:
    columns = dataset(given, where, tick_ns)
    return table_digest(columns, (TIME,) if TIME in columns else ())


@driver("identity", "fingerprint")
def fingerprint_both(case: Case) -> Mapping[str, Any]:
    assert case.call["call"] == "fingerprint_both"
    a, b = case.given["a"], case.given["b"]
    equal = {digest(a, "a", tick) == digest(b, "b", tick) for tick in TICKS_NS}
    assert len(equal) == 1, "the answer depends on the length of a tick"
    (same,) = equal
    return {"equal": same, "distinct": not same}


@driver("identity", "compat_fingerprint")
def compat(case: Case) -> Mapping[str, Any]:
    assert case.call["call"] == "compat_fingerprint"
    given = case.given
    first, last = given["coverage_bounds_inclusive_s"]
    told = {
        "node_id": given["node_id"],
        "interval_s": given["interval_s"],
        "coverage_bounds_inclusive_s": (first, last),
        "conformance_version": given["conformance_version"],
    }

    def one(read: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        text = compat_json(read, **told)
        return {"canonical_json": text, "digest": compat_fingerprint(text)}

    if "a" not in given:
        return outcome_of(lambda: one(rows_of(given)))
    a, b = (one(rows_of(Fields(given[side], side))) for side in "ab")
    return {"equal": a == b, "distinct": a != b}


def rows_of(fields: Fields) -> list[dict[str, Any]]:
    """The rows with the columns and types that are stated; else the values are as they stand."""
    types: Mapping[str, str] = fields.get("types", {})
    names = [*fields.get("columns", ()), *types]
    read = {"int64": int, "float64": float}
    rows = []
    for row in fields["rows"]:
        values = {**dict.fromkeys(names), **row}
        for name, value in values.items():
            if value == "NaN":  # as text it stands for the IEEE value
                values[name] = float("nan")
            elif value is not None and types.get(name) in read:
                values[name] = read[types[name]](value)
        rows.append(values)
    if "ts_unit" in fields:
        assert fields["ts_unit"] in UNITS_NS  # the text holds times as they are given
    return rows
