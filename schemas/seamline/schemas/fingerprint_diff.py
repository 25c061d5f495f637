"""Where two datasets differ: from the trees the symbols and days, from the rows the bars.

Decides: which days two trees disagree on, and what differs between two sets of bars of one symbol.
Invariants: bars are the same exactly when their digests are (`-0.0` is `0.0`, NaN is NaN in a float
column, -1 is null in an integer column and unlike any value); both sides may come in any order.
Must not know: where rows are kept, which side is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seamline.schemas.columns import CONTENT_FIELDS, I8, Bool
from seamline.schemas.errors import UsageError
from seamline.schemas.fingerprint import Bars, strictly_increasing
from seamline.schemas.fingerprint_tree import (
    DayLeaf,
    FingerprintTree,
    SymbolTree,
    day_text,
)
from seamline.schemas.times import DAY_NS


@dataclass(frozen=True, slots=True)
class DayDifference:
    """A symbol's UTC day that is not the same in a and b; 0 rows: the day is not there at all."""

    symbol: str
    day: int
    rows_a: int
    rows_b: int

    @property
    def start_ns(self) -> int:
        return self.day * DAY_NS

    def __str__(self) -> str:
        return f"{self.symbol} {day_text(self.day)}: {self.rows_a} rows, {self.rows_b} rows"


@dataclass(frozen=True, slots=True, eq=False)
class BarsDifference:
    """Open times of the bars that only a has, that only b has, and that differ, each in order.

    `fields[i, j]` says that `changed_ns[i]` differs in `CONTENT_FIELDS[j]`.
    """

    only_a_ns: I8
    only_b_ns: I8
    changed_ns: I8
    fields: Bool

    def __len__(self) -> int:
        return len(self.only_a_ns) + len(self.only_b_ns) + len(self.changed_ns)

    def changes(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Each changed bar: its open time and the names of the fields that differ."""
        for time_ns, row in zip(self.changed_ns.tolist(), self.fields, strict=True):
            names = zip(CONTENT_FIELDS, row, strict=True)
            yield time_ns, tuple(name for name, differs in names if differs)


def diff(a: FingerprintTree, b: FingerprintTree) -> tuple[DayDifference, ...]:
    """The symbol-days that differ, by symbol (in the order of its UTF-8) and day; () when equal."""
    if a.digest == b.digest:
        return ()
    ours = {branch.symbol: branch for branch in a.symbols}
    theirs = {branch.symbol: branch for branch in b.symbols}
    found: list[DayDifference] = []
    for symbol in sorted(ours.keys() | theirs.keys(), key=str.encode):
        found.extend(_days(symbol, ours.get(symbol), theirs.get(symbol)))
    return tuple(found)


def diff_bars(a: Bars, b: Bars) -> BarsDifference:
    """What differs between two sets of bars of one symbol, say of a day that `diff` named.

    Raises UsageError when an open_time occurs twice on one side.
    """
    order_a, order_b = _order(a, "a"), _order(b, "b")
    times_a, times_b = a.open_time_ns[order_a], b.open_time_ns[order_b]
    shared, at_a, at_b = np.intersect1d(times_a, times_b, assume_unique=True, return_indices=True)
    rows_a, rows_b = order_a[at_a], order_b[at_b]
    fields = np.empty((len(shared), len(CONTENT_FIELDS)), np.bool_)
    for number, name in enumerate(CONTENT_FIELDS):
        one, other = getattr(a, name)[rows_a], getattr(b, name)[rows_b]
        fields[:, number] = (one != other) & ~(np.isnan(one) & np.isnan(other))
    differs = fields.any(axis=1)
    return BarsDifference(
        only_a_ns=np.setdiff1d(times_a, times_b, assume_unique=True),
        only_b_ns=np.setdiff1d(times_b, times_a, assume_unique=True),
        changed_ns=shared[differs],
        fields=fields[differs],
    )


def rows_of_day(columns: Bars, day: int) -> I8:
    """The rows of a UTC day, in the order they have; for `columns.take`."""
    return np.flatnonzero(columns.open_time_ns // DAY_NS == day)


def _days(symbol: str, a: SymbolTree | None, b: SymbolTree | None) -> Iterator[DayDifference]:
    if a is not None and b is not None and a.digest == b.digest:
        return
    ours, theirs = _leaves(a), _leaves(b)
    for day in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(day), theirs.get(day)
        if one is None or other is None or one.digest != other.digest:
            rows_a = 0 if one is None else one.rows
            yield DayDifference(symbol, day, rows_a, 0 if other is None else other.rows)


def _leaves(tree: SymbolTree | None) -> dict[int, DayLeaf]:
    return {} if tree is None else {leaf.day: leaf for leaf in tree.days}


def _order(columns: Bars, parameter: str) -> I8:
    times = columns.open_time_ns
    if strictly_increasing(times):
        return np.arange(len(times))
    order = np.argsort(times, kind="stable")
    if not strictly_increasing(times[order]):
        raise UsageError("a time occurs twice", parameter=parameter, value=len(times))
    return order
