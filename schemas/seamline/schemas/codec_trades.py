"""Landed trades to columns.

Decides: what a batch of trades reads as. Invariant: row by row the answer of `decode_record`, the
reason for a refusal included: kernels read what is surely a trade, and whatever they do not is
asked there, one by one. Must not know: which schema id means which schema; the caller says which
approved version wrote each.

Side and source are checked and not kept: nothing judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seamline.schemas import trade_kernels as kernels
from seamline.schemas.codec import SymbolTable, versions_each
from seamline.schemas.columns import F8, I4, I8, U1, Bool
from seamline.schemas.errors import ContractError
from seamline.schemas.records import decode_record
from seamline.schemas.wire import joined


@dataclass(frozen=True, slots=True, eq=False)
class DecodedTrades:
    """One row per record. `sid` is the index of the symbol in the decoder's `symbols`; -1 where it
    is not `ok`, and where `others` has the symbol, one that a symbol table does not hold (empty,
    longer than 64 bytes, one too many). `reasons`: of every row that is not ok, whose columns are
    cleared. Times are UTC nanoseconds; a double has the bits of the wire."""

    sid: I4
    trade_id: I8
    time_ns: I8
    received_time_ns: I8
    price: F8
    size: F8
    ok: Bool
    reasons: Mapping[int, str]
    others: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.sid)


class TradeDecoder:
    """Trades to columns. Keeps its symbol table for its life."""

    __slots__ = ("table",)

    def __init__(self, table: SymbolTable | None = None) -> None:
        self.table = SymbolTable() if table is None else table

    @property
    def symbols(self) -> list[str]:
        return self.table.names

    def decode(self, values: Sequence[bytes], versions: int | U1 | None = None) -> DecodedTrades:
        """Records of writer schemas `trade`: all of one version (none given: the newest), or one
        version a record. The ids themselves are not looked at."""
        rows = len(values)
        each = versions_each(rows, "trade", versions)
        buffer, ends = joined(values)
        ints, floats = np.empty((3, rows), np.int64), np.empty((2, rows), np.float64)
        sid, code = np.empty(rows, np.int32), np.empty(rows, np.uint8)
        kernels.decode_trades(
            *(buffer, ends, each, self.table.arrays, ints, floats.view(np.uint8), sid, code)
        )
        self.table.refresh()
        ok: Bool = np.equal(code, 0)
        reasons: dict[int, str] = {}
        others: dict[int, str] = {}
        for row in np.flatnonzero(code).tolist():
            try:
                trade = decode_record("trade", values[row], int(each[row]))
            except ContractError as error:
                reasons[row] = str(error.fields.get("reason", ""))
                continue
            others[row], ok[row] = trade["symbol"], True
            ints[:, row] = trade["trade_id"], trade["time_ns"], trade["received_time_ns"]
            floats[:, row] = trade["price"], trade["size"]
        trade_id, time_ns, received_time_ns = ints
        price, size = floats
        return DecodedTrades(
            sid, trade_id, time_ns, received_time_ns, price, size, ok, reasons, others
        )
