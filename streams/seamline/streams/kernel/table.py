"""A frame as the pure kernel sees it: named columns with a type and a mask of valid cells.

Decides: which types a column can have, and how loose cells become one. Invariants: all columns of a
table are equally long; null is said by the mask, never by a value, so NaN and null differ; texts
and exact numbers are codes into `words`, so that work on them is done once for each distinct text;
integers stay int64 or exact text, never a double. Must not know: pandas, Arrow, rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seamline.schemas.columns import Bool
from seamline.schemas.errors import UsageError

INT64: Final = "int64"
FLOAT64: Final = "float64"
BOOL: Final = "bool"
TEXT: Final = "text"
# Exact numbers that int64 and float64 cannot hold: decimals, unsigned and larger integers.
DECIMAL: Final = "decimal"
# Integers since 1970 in `unit`.
TIME: Final = "time"
# Cells that are carried by their row number and never looked at.
OTHER: Final = "other"
NUMBERS: Final = (INT64, FLOAT64, DECIMAL)
WORDS: Final = (TEXT, DECIMAL)
# The texts that stand for IEEE values in a column of numbers.
IEEE: Final = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_I64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of `len(values)` cells.

    `values`: int64 (int64, time, other), float64, bool, or int32 codes into `words` (text,
    decimal). `valid`: False where a cell is null, whose value means nothing; None: all are valid.
    `unit` of a time (s, ms, us, ns, D), or of an integer that states one. `arrived`: the name of
    the type in its frame, where that is not `type`.
    """

    type: str
    values: NDArray[Any]
    valid: Bool | None = None
    words: tuple[str, ...] = ()
    unit: str | None = None
    arrived: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shown(self) -> str:
        """The type as messages name it."""
        return self.arrived or self.type

    def mask(self) -> Bool:
        """True where the cell is valid."""
        return np.ones(len(self), bool) if self.valid is None else self.valid

    def take(self, index: NDArray[Any]) -> Column:
        """The cells of an integer index or a boolean mask."""
        valid = None if self.valid is None else self.valid[index]
        return replace(self, values=self.values[index], valid=valid)

    def cells(self) -> list[object]:
        """The cells as Python values, None for null. For tests and small tables."""
        plain = self.values.tolist()
        if self.type in WORDS:
            plain = [self.words[code] if code >= 0 else None for code in plain]
        return [v if ok else None for v, ok in zip(plain, self.mask().tolist(), strict=True)]

    @classmethod
    def of(cls, cells: Sequence[object]) -> Column:
        """The column of loose Python cells: whole numbers are int64, with others float64, with a
        Decimal or an integer beyond 64 bits decimal; texts or a mixture are text; None is null and
        fits each. Datetimes are their ISO text.

        In a column of numbers the texts NaN, Infinity and -Infinity stand for those values.
        """
        kinds = {_kind(cell) for cell in cells if cell is not None and not _is_ieee(cell)}
        ieee = any(map(_is_ieee, cells))
        valid = np.array([cell is not None for cell in cells], bool)
        mask = None if valid.all() else valid
        if kinds == {BOOL} and not ieee:
            return cls(BOOL, np.array([bool(cell) for cell in cells], bool), mask)
        if kinds <= {INT64, FLOAT64} and (kinds or ieee):
            if kinds == {INT64} and not ieee:
                return cls(INT64, np.array([cell or 0 for cell in cells], np.int64), mask)
            if all(abs(c) <= 2**53 for c in cells if isinstance(c, int)):
                return cls(FLOAT64, np.array([_double(cell) for cell in cells], np.float64), mask)
        if not kinds:
            return cls(OTHER, np.arange(len(cells)), mask)
        exact = kinds <= {*NUMBERS}
        return words_column([None if c is None else _text(c) for c in cells], exact=exact)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns by name. `rows` is stated because a table may have no column at all."""

    columns: Mapping[str, Column]
    rows: int

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != self.rows:
                raise UsageError(
                    f"{len(column)} cells in a table of {self.rows} rows",
                    parameter="columns",
                    value=name,
                    fix="Hand over columns of one length",
                )

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def take(self, index: NDArray[Any]) -> Table:
        """The rows of an integer index or a boolean mask."""
        rows = int(np.count_nonzero(index)) if index.dtype == bool else len(index)
        return Table({name: column.take(index) for name, column in self.columns.items()}, rows)

    def with_columns(self, changed: Mapping[str, Column]) -> Table:
        """The table with some columns replaced or added."""
        return Table({**self.columns, **changed}, self.rows)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[object]]) -> Table:
        """A table of loose Python cells, by the rules of `Column.of`."""
        made = {name: Column.of(cells) for name, cells in columns.items()}
        return cls(made, len(next(iter(made.values()), ())))


def words_column(texts: Sequence[str | None], *, exact: bool = False) -> Column:
    """Texts (or exact numbers as texts) as codes into their distinct words; None is null."""
    numbers: dict[str, int] = {}
    codes = np.array(
        [-1 if text is None else numbers.setdefault(text, len(numbers)) for text in texts], np.int32
    )
    valid = None if not len(codes) or codes.min() >= 0 else codes >= 0
    return Column(DECIMAL if exact else TEXT, codes, valid, tuple(numbers))


def _is_ieee(cell: object) -> bool:
    return isinstance(cell, str) and cell in IEEE


def _kind(cell: object) -> str:
    if isinstance(cell, bool | np.bool_):
        return BOOL
    if isinstance(cell, int | np.integer):
        return INT64 if -_I64_MAX - 1 <= int(cell) <= _I64_MAX else DECIMAL
    if isinstance(cell, float | np.floating):
        return FLOAT64
    return DECIMAL if isinstance(cell, Decimal) else TEXT


def _double(cell: Any) -> float:
    if cell is None:
        return np.nan
    return IEEE[cell] if isinstance(cell, str) else float(cell)


def _text(cell: object) -> str:
    if isinstance(cell, float | np.floating):
        return repr(float(cell))
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return str(cell)
