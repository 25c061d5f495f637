"""Laws of table digests: equal exactly when names, types and the bag of canonical rows are."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fingerprint_by_hand as by_hand
from seamline.schemas.fingerprint_tables import TableColumn, table_digest

checked = settings(deadline=None, max_examples=200)
DTYPES = {"int64": "i8", "float64": "f8", "bool": "?"}
FILLER: dict[str, list[Any]] = {"int64": [0, 7], "float64": [0.0, 7.5], "bool": [False, True]}
text = st.text(st.characters(codec="utf-8"), max_size=4)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.one_of(st.integers(-2, 2), st.integers(-(2**63), 2**63 - 1)),
    "float64": st.one_of(st.sampled_from([0.0, -0.0, 1.0, float("nan")]), st.floats(width=64)),
    "bool": st.booleans(),
    "text": st.one_of(st.sampled_from(["", "a", "a\0", "\0a"]), text),
}
names = st.one_of(st.sampled_from(["ts", "a", "a:<i8;b", '"a"']), text)
Table = tuple[dict[str, str], list[dict[str, Any]]]


@st.composite
def tables(draw: st.DrawFn, rows_min: int = 0) -> Table:
    types = draw(st.dictionaries(names, st.sampled_from(sorted(CELLS)), max_size=4))
    cells = {name: st.none() | CELLS[kind] for name, kind in types.items()}
    rows = draw(st.lists(st.fixed_dictionaries(cells), min_size=rows_min, max_size=7))
    return (types, rows) if types else (types, [])


def made(table: Table, rng: random.Random, **changed: bool) -> dict[str, TableColumn]:
    """Columns of a table; what stands where a row is null is drawn, too."""
    types, rows = table
    columns = {}
    for name, kind in types.items():
        values = [row[name] for row in rows]
        null = np.array([value is None for value in values], bool)
        if kind == "text":
            held: Any = [rng.choice([None, "?"]) if v is None else v for v in values]
        else:
            filled = [rng.choice(FILLER[kind]) if v is None else v for v in values]
            held = np.array(filled, DTYPES[kind])
            if changed.get("strided"):
                held, null = np.repeat(held, 2)[::2], np.repeat(null, 3)[::3]
        bare = not null.any() and rng.random() < 0.5
        columns[name] = TableColumn(kind, held, None if bare else null)
    return columns


def canonical(table: Table) -> tuple[Any, ...]:
    types, rows = table
    bag = Counter(tuple((name, cell(row[name])) for name in sorted(types)) for row in rows)
    return tuple(sorted(types.items())), bag


def cell(value: Any) -> Any:
    if isinstance(value, float):
        return by_hand.double(value)
    return value


@checked
@given(tables(), st.data(), st.randoms(use_true_random=False))
def test_a_digest_is_what_its_bytes_say_in_any_order(
    table: Table, draw: st.DataObject, rng: random.Random
) -> None:
    types, rows = table
    by = tuple(draw.draw(st.permutations(sorted(types))))[: draw.draw(st.integers(0, 4))]
    expected = by_hand.table(types, rows, by)
    assert table_digest(made(table, rng), by) == expected
    shuffled, order = list(rows), list(types.items())
    rng.shuffle(shuffled)
    rng.shuffle(order)
    other = made((dict(order), shuffled), rng, strided=True)
    before = {name: repr(column.values) for name, column in other.items()}
    assert table_digest(other, by) == expected
    assert before == {name: repr(column.values) for name, column in other.items()}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Table, Table]:
    """A table and one that is near it: a cell, a row, a name or a type is another."""
    types, rows = draw(tables(rows_min=1))
    other_types, other = dict(types), [dict(row) for row in rows]
    change = draw(st.sampled_from(["cell", "drop", "twice", "swap", "name", "type"]))
    if not types or not rows:
        return (types, rows), draw(tables())
    name = draw(st.sampled_from(sorted(types)))
    at = draw(st.integers(0, len(rows) - 1))
    if change == "cell":
        other[at][name] = draw(st.none() | CELLS[types[name]])
    elif change == "drop":
        del other[at]
    elif change == "twice":
        other.append(dict(other[at]))
    elif change == "swap":
        to = draw(st.integers(0, len(rows) - 1))
        other[at][name], other[to][name] = other[to][name], other[at][name]
    elif change == "name":
        fresh = draw(names)
        if fresh not in types:
            other_types = {fresh if n == name else n: kind for n, kind in types.items()}
            other = [{fresh if n == name else n: v for n, v in row.items()} for row in other]
    else:
        other_types[name] = draw(st.sampled_from(sorted(CELLS)))
        for row in other:
            row[name] = draw(st.none() | CELLS[other_types[name]])
    return (types, rows), (other_types, other)


@checked
@given(pairs(), st.randoms(use_true_random=False))
def test_digests_are_equal_exactly_when_the_tables_are(
    pair: tuple[Table, Table], rng: random.Random
) -> None:
    one, other = pair
    digests = [table_digest(made(table, rng)) for table in (one, other)]
    assert (digests[0] == digests[1]) == (canonical(one) == canonical(other))


@checked
@given(tables(rows_min=1), st.randoms(use_true_random=False))
def test_what_is_compared_first_does_not_change_what_is_equal(
    table: Table, rng: random.Random
) -> None:
    types, rows = table
    shuffled = rows[::-1]
    for by in ((), *((name,) for name in types)):
        digests = {table_digest(made(side, rng), by) for side in (table, (types, shuffled))}
        assert len(digests) == 1
