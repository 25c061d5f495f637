"""The tree and the tables: golden values, each computed a second time by hand, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fingerprint_by_hand as by_hand
from seamline.schemas import fingerprint_tree
from seamline.schemas.columns import BarColumns
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.fingerprint_compat import compat_fingerprint, compat_json
from seamline.schemas.fingerprint_diff import diff, diff_bars, rows_of_day
from seamline.schemas.fingerprint_tables import TableColumn, table_digest
from seamline.schemas.fingerprint_tree import (
    FingerprintTree,
    tree_of,
    tree_of_rows,
    tree_of_value,
    tree_value,
    union,
)
from seamline.schemas.times import DAY_NS

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "fingerprints.json").read_text())
DTYPES = {"int64": "i8", "float64": "f8", "bool": "?"}


def columns_of(rows: list[by_hand.Row]) -> BarColumns:
    columns = BarColumns.empty(len(rows))
    for name in BarColumns.DTYPES:
        getattr(columns, name)[:] = 0
    for name in by_hand.FLOATS:
        getattr(columns, name)[:] = [np.nan if row[name] is None else row[name] for row in rows]
    for name in by_hand.INTS:
        getattr(columns, name)[:] = [-1 if row[name] is None else row[name] for row in rows]
    return columns


def example_parts() -> list[tuple[str, BarColumns]]:
    rows = by_hand.example()
    symbols = dict.fromkeys(symbol for symbol, _ in rows)
    return [(s, columns_of([row for symbol, row in rows if symbol == s])) for s in symbols]


def example_tree() -> FingerprintTree:
    return tree_of(example_parts())


def table_of(types: dict[str, str], rows: list[by_hand.Row]) -> dict[str, TableColumn]:
    columns = {}
    for name, kind in types.items():
        values = [row[name] for row in rows]
        null = np.array([value is None for value in values], bool)
        if kind == "text":
            columns[name] = TableColumn(kind, values, null)
        else:
            held = [0 if value is None else value for value in values]
            columns[name] = TableColumn(kind, np.array(held, DTYPES[kind]), null)
    return columns


def test_the_tree_is_golden_and_made_as_documented() -> None:
    value = tree_value(example_tree())
    assert value == GOLDEN["tree"]
    assert value == by_hand.tree(by_hand.example())
    assert tree_value(tree_of([])) == GOLDEN["tree_empty"] == by_hand.tree([])


def test_tables_are_golden_and_made_as_documented() -> None:
    types, rows = by_hand.example_table()
    for name, by in (("table", ()), ("table_by_ts", ("ts",)), ("table_by_two", ("who", "ts"))):
        digest = table_digest(table_of(types, rows), by)
        assert digest.hex() == GOLDEN[name], name
        assert digest == by_hand.table(types, rows, by), name
    assert table_digest({}).hex() == GOLDEN["table_empty"] == by_hand.table({}, []).hex()


def test_the_compatibility_text_is_golden() -> None:
    rows = [
        {"ts": 20, "c": 1e16, "é": "ü", "n": None},
        {"ts": 0, "c": float("nan"), "é": "", "n": True},
        {"ts": 10, "c": 0.1},
    ]
    told = {"node_id": "n", "interval_s": 10, "conformance_version": "v2"}
    text = compat_json(rows, coverage_bounds_inclusive_s=(0, 20), **told)  # type: ignore[arg-type]
    assert text == GOLDEN["compat_json"]
    assert compat_fingerprint(text) == GOLDEN["compat"]


@pytest.mark.parametrize(
    "row", [{}, {"ts": None}, {"ts": 1.0}, {"ts": True}, {"ts": 0, "c": float("inf")}, {"ts": b"1"}]
)
def test_what_the_compatibility_text_cannot_hold(row: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        compat_json(
            [row],
            node_id="n",
            interval_s=1,
            coverage_bounds_inclusive_s=(0, 0),
            conformance_version="v",
        )


def test_a_leaf_is_the_digest_of_a_block_of_the_day() -> None:
    (symbol, columns), *_ = example_parts()
    branch = example_tree().symbols[0]
    assert branch.symbol == symbol and len(branch.days) == 3
    for leaf in branch.days:
        rows = columns.take(rows_of_day(columns, leaf.day))
        assert (leaf.rows, leaf.digest) == (len(rows), block_digest(symbol, rows))


def test_the_world_outside_does_not_matter() -> None:
    """Another zone, another seed of Python's hashes, another process."""
    code = (
        "from unit.test_fingerprint_tree import *\n"
        "types, rows = by_hand.example_table()\n"
        "print(example_tree().digest.hex(), table_digest(table_of(types, rows)).hex())"
    )
    tests = str(Path(__file__).parent.parent)
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    for zone, seed in (("UTC", "0"), ("Pacific/Kiritimati", "1"), ("America/St_Johns", "77")):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "TZ": zone, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == [GOLDEN["tree"]["digest"], GOLDEN["table"]]


def test_a_value_reads_back_and_trees_add_up() -> None:
    tree = example_tree()
    assert tree_of_value(json.loads(json.dumps(tree_value(tree)))) == tree
    by_symbol = [tree_of([part]) for part in example_parts()]
    assert union(reversed(by_symbol)) == tree
    with pytest.raises(UsageError, match="two trees"):
        union([tree, by_symbol[1]])


def forged(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(GOLDEN["tree"]))
    change(value)
    return value


def eth(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["symbols"]["ETH/USDT"]
    return found


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda v: v.update(format="seamline.fingerprint.2"),
    "another digest": lambda v: v.update(digest="0" * 64),
    "another count": lambda v: v.update(rows=v["rows"] + 1),
    "a field more": lambda v: v.update(note=""),
    "a field less": lambda v: v.pop("rows"),
    "symbols as a list": lambda v: v.update(symbols=[]),
    "a symbol less": lambda v: v["symbols"].pop("Ä/€"),
    "a symbol without days": lambda v: eth(v).update(days={}),
    "another digest of a symbol": lambda v: eth(v).update(digest="0" * 64),
    "true for one": lambda v: v["symbols"]["Ä/€"].update(rows=True),
    "another count of a symbol": lambda v: eth(v).update(rows=1),
    "a day less": lambda v: eth(v)["days"].pop("1970-01-01"),
    "another day": lambda v: eth(v)["days"].update({"1970-01-03": eth(v)["days"]["1970-01-01"]}),
    "a day spelt otherwise": lambda v: eth(v)["days"].update({"19700103": [1, "0" * 64]}),
    "no day": lambda v: eth(v)["days"].update({"tomorrow": [1, "0" * 64]}),
    "no rows": lambda v: eth(v)["days"]["1970-01-01"].__setitem__(0, 0),
    "half a row": lambda v: eth(v)["days"]["1970-01-01"].__setitem__(0, 50.5),
    "no number": lambda v: eth(v)["days"].update({"1970-01-01": ["1", "0" * 64]}),
    "too many rows": lambda v: eth(v)["days"].update({"1970-01-01": [2**63, "0" * 64]}),
    "no digest": lambda v: eth(v)["days"].update({"1970-01-01": [1, "xy"]}),
    "half a digest": lambda v: eth(v)["days"].update({"1970-01-01": [1, "00"]}),
    "a day of one part": lambda v: eth(v)["days"].update({"1970-01-01": [1]}),
    "a day as text": lambda v: eth(v)["days"].update({"1970-01-01": "12"}),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=list(FORGERIES))
def test_a_tree_that_does_not_add_up_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ContractError):
        tree_of_value(forged(change))


@pytest.mark.parametrize("value", [None, [], "", 5, {}])
def test_what_is_no_tree_is_refused(value: object) -> None:
    with pytest.raises(ContractError):
        tree_of_value(value)


def test_differences_name_symbol_day_and_bars() -> None:
    mine, other = dict(example_parts()), dict(example_parts())
    btc = other["BTC/USDT"]
    start_ns = int(btc.open_time_ns[0])
    btc.close[100] += 1
    btc.quote_volume[100] = 5.0
    btc.trades[2_001] = -1
    other["BTC/USDT"] = btc.take(np.arange(len(btc)) != 2_999)
    del other["Ä/€"]
    days = diff(tree_of(mine.items()), tree_of(other.items()))
    assert [(d.symbol, d.day - start_ns // DAY_NS, d.rows_a, d.rows_b) for d in days[:-1]] == [
        ("BTC/USDT", 0, 1_440, 1_440),
        ("BTC/USDT", 1, 1_440, 1_440),
        ("BTC/USDT", 2, 120, 119),
    ]
    assert str(days[2]) == "BTC/USDT 2023-11-17: 120 rows, 119 rows"
    assert str(days[3]) == "Ä/€ 2023-11-15: 1 rows, 0 rows"
    assert days[0].start_ns == start_ns // DAY_NS * DAY_NS
    found = diff_bars(mine["BTC/USDT"], other["BTC/USDT"])
    assert list(found.changes()) == [
        (start_ns + 100 * by_hand.MINUTE_NS, ("close", "quote_volume")),
        (start_ns + 2_001 * by_hand.MINUTE_NS, ("trades",)),
    ]
    assert found.only_a_ns.tolist() == [start_ns + 2_999 * by_hand.MINUTE_NS]
    assert found.only_b_ns.tolist() == []
    assert len(found) == 3
    back = diff_bars(other["BTC/USDT"], mine["BTC/USDT"])
    assert back.only_b_ns.tolist() == found.only_a_ns.tolist()


def test_rows_of_many_symbols_are_checked() -> None:
    (_, columns), *_ = example_parts()
    sid = np.zeros(len(columns), np.int32)
    with pytest.raises(UsageError, match="sid"):
        tree_of_rows(["A"], sid[:-1], columns)
    with pytest.raises(UsageError, match="sid"):
        tree_of_rows([], sid, columns)
    with pytest.raises(UsageError, match="sid"):
        tree_of_rows(["A"], sid - 1, columns)
    with pytest.raises(UsageError, match="symbols"):
        tree_of_rows(["A", "A"], sid, columns)
    assert tree_of_rows(["A"], sid[:0], columns.take(slice(0, 0))) == tree_of([])


def test_a_time_twice_has_no_tree() -> None:
    (_, columns), *_ = example_parts()
    with pytest.raises(UsageError, match="open_time_ns"):
        tree_of([("A", columns), ("A", columns.take(slice(5, 6)))])
    with pytest.raises(UsageError, match="open_time_ns"):
        tree_of_rows(["A", "B"], np.array([1, 0, 1]), columns.take(np.array([0, 0, 0])))
    with pytest.raises(UsageError, match="open_time_ns"):
        tree_of_rows(["A", "B"], np.array([1, 0, 1]), columns.take(np.array([1, 0, 1])))
    with pytest.raises(UsageError, match="twice"):
        diff_bars(columns.take(np.array([0, 0])), columns)


@pytest.mark.parametrize("tile", [1, 2, 3, 100])
@pytest.mark.parametrize("days", [[10, 11, 12, 5, 6, 7], [10, 11, 50, 5], [10, 30, 9, 40, 8]])
def test_a_part_that_is_out_of_order_far_in_is_found_out(
    days: list[int], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first tiles may be in order."""
    monkeypatch.setattr(fingerprint_tree, "TILE_ROWS", tile)
    rows = [row for symbol, row in by_hand.example() if symbol == "ETH/USDT"][: len(days)]
    columns = columns_of(rows)
    columns.open_time_ns[:] = np.array(days) * DAY_NS
    expected = tree_of([("A", columns.take(np.argsort(columns.open_time_ns)))])
    assert tree_of([("A", columns)]) == expected
    assert [leaf.day for leaf in expected.symbols[0].days] == sorted(days)
    columns.open_time_ns[-1] = columns.open_time_ns[0]
    with pytest.raises(UsageError, match="open_time_ns"):
        tree_of([("A", columns)])


def test_tables_that_do_not_fit_are_refused() -> None:
    ints = np.arange(3)
    column = TableColumn("int64", ints)
    with pytest.raises(UsageError, match="lengths"):
        table_digest({"a": column, "b": TableColumn("int64", ints[:2])})
    with pytest.raises(UsageError, match="lengths"):
        table_digest({"a": TableColumn("int64", ints, np.zeros(2, bool))})
    with pytest.raises(UsageError, match="by"):
        table_digest({"a": column}, ("b",))
    with pytest.raises(UsageError, match="by"):
        table_digest({"a": column}, ("a", "a"))
    with pytest.raises(UsageError, match="type"):
        table_digest({"a": TableColumn("int8", ints)})
    with pytest.raises(ContractError, match="float64"):
        table_digest({"a": TableColumn("float64", ints)})
    with pytest.raises(ContractError, match="text"):
        table_digest({"a": TableColumn("text", ["x", None])})
    with pytest.raises(ContractError, match="UTF-8"):
        table_digest({"a": TableColumn("text", ["\ud800"])})
