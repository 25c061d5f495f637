"""One identity of a batch meets another statement of itself: which value stands.

Decides: content, completion, authority field by field, revision, and what becomes of the row; for a
batch what `merge` decides in the agent, by the same rules (docs/decisions/0102). Invariants: an
entry holds numbers of rows, no values; each optional field stands by the highest authority that
stated it. Must not know: time, order, how identities are found.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from seamline.schemas.jit import njit

# Bits of a verdict, the findings first.
OFF_GRID: Final = 1  # set aside: it has no identity
OUT_OF_ORDER: Final = 2  # came after a row of its symbol with a larger time
DUPLICATE_EQUAL: Final = 4  # of an identity that came again with equal content, first row included
DUPLICATE_CONFLICT: Final = 8  # of an identity to which one authority gave two contents
DROPPED: Final = 16  # no row of the result, and authority is not the reason
REVISED: Final = 32  # a higher authority: this row is a new revision
DISCARDED: Final = 64  # other content of a lower authority
OHLC_INCONSISTENT: Final = 128  # high < low, or open or close outside low..high
NEGATIVE_VOLUME: Final = 256
NON_POSITIVE_PRICE: Final = 512  # open, high, low or close <= 0
NON_FINITE: Final = 1024  # open, high, low, close or volume is NaN or infinite
PRICE_JUMP: Final = 2048
# What became of this very row, where the bits above speak of its identity.
REPEATED: Final = 4096  # it said what stood already: with DROPPED, dropped as duplicate_equal
COMPLETED: Final = 8192  # it filled a null
RAISED: Final = 16384  # a higher authority said what stood already

# Columns of an entry: one identity that came again.
E_ROW, E_REVISION, E_RANK, E_BITS, E_FIELD_ROW, E_FIELD_RANK, E_FIRST = 0, 1, 2, 3, 4, 8, 12
ENTRY_WIDTH: Final = 13
FIELDS: Final = 4


@njit
def _same(values: Any, other: Any, i: int, k: int) -> Any:
    """Whether two rows state the same, optional fields aside: -0.0 is 0.0, NaN is NaN."""
    for column in values:
        if len(column):
            a, b = column[i], column[k]
            if a != b and not (np.isnan(a) and np.isnan(b)):
                return False
    return not len(other) or other[i] == other[k]


@njit
def open_entry(entry: Any, row: int, rank: Any, optional: Any) -> None:
    entry[E_ROW] = entry[E_FIRST] = row
    entry[E_REVISION] = 0
    entry[E_RANK] = rank
    entry[E_BITS] = 0
    for j in range(FIELDS):
        entry[E_FIELD_ROW + j] = -1
        entry[E_FIELD_RANK + j] = rank
        if j < len(optional) and not np.isnan(optional[j, row]):
            entry[E_FIELD_ROW + j] = row


@njit
def _optional(entry: Any, row: int, rank: Any, optional: Any) -> Any:
    """Merge the optional fields, each by its own authority.

    Returns bits: 1 a value replaces another, 2 a null is filled, 4 an equal value is confirmed by a
    higher authority, 8 one authority states two values, 16 a lower authority was not heard.
    """
    done = 0
    for j in range(len(optional)):
        if np.isnan(optional[j, row]):
            continue
        held = entry[E_FIELD_ROW + j]
        if held < 0:
            done |= 2
        else:
            equal = optional[j, row] == optional[j, held]
            if rank > entry[E_FIELD_RANK + j]:
                done |= 0 if equal else 16
                continue
            same_rank = rank == entry[E_FIELD_RANK + j]
            if equal and same_rank:
                continue
            if equal:
                done |= 4
            else:
                done |= 9 if same_rank else 1
        entry[E_FIELD_ROW + j] = row
        entry[E_FIELD_RANK + j] = rank
    return done


@njit
def settle(entry: Any, row: int, rank: Any, columns: Any, verdict: Any) -> Any:
    """An identity meets another statement of it. Returns the revision that the row became, 0 where
    it became none."""
    same = _same(columns.values, columns.other, entry[E_ROW], row)
    takes = not same and rank <= entry[E_RANK]
    raised = same and rank < entry[E_RANK]
    by_field = _optional(entry, row, rank, columns.optional)
    conflict = (not same and rank == entry[E_RANK]) or by_field & 8 != 0
    equal = same and by_field & (1 | 8 | 16) == 0
    if conflict:
        entry[E_BITS] |= DUPLICATE_CONFLICT
    if equal:
        entry[E_BITS] |= DUPLICATE_EQUAL
        verdict[row] |= DROPPED | REPEATED
    if takes or raised:
        entry[E_RANK] = rank
    if takes or by_field & 1:
        entry[E_REVISION] += 1
        if not conflict:
            verdict[row] |= REVISED
        if takes or same:
            if conflict:
                verdict[entry[E_ROW]] |= DROPPED
            entry[E_ROW] = row
        elif conflict:
            # Its prices lost by authority; what its own authority said before in a field is gone.
            verdict[row] |= DROPPED
        return entry[E_REVISION]
    if by_field & 2:
        verdict[row] |= COMPLETED
    elif raised or by_field & 4:
        verdict[row] |= RAISED
    elif not equal:
        verdict[row] |= DISCARDED
    return 0
