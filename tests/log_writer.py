"""A writer of conformed, storage, seals, superseded, gaps and positions, by the protocol's rules.

It is the smallest thing that keeps what a reader relies on: a seal and its blocks in one
transaction, `conformed_offset` as a lower bound, sequences, Merkle roots. `LogWriter` decides the
records; a sink takes a transaction and answers with the offsets of its conformed rows: `MemorySink`
here for tests of the pure machine, the real producer in the integration tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from seamline.schemas.columns import COMPLETED, CONFIRMED, PROVISIONAL, Block, ConformedColumns
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.streams.kernel.seam import GapFacts, SealFacts

MINUTE = 60_000_000_000
BLOCK_ROWS = 8
NULLABLE = ("trades", "trade_id")
START = 1_700_000_000_000_000_000 // (BLOCK_ROWS * MINUTE) * (BLOCK_ROWS * MINUTE)


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a bar; `fields` are the content columns."""

    open_time_ns: int
    fields: Mapping[str, float]
    revision: int = 0
    flags: int = 0
    known_time_ns: int = 0
    source: int = 1


def columns_of(rows: Iterable[Row]) -> ConformedColumns:
    listed = list(rows)
    columns = ConformedColumns.empty(len(listed))
    for name, dtype in ConformedColumns.DTYPES.items():
        column = getattr(columns, name)
        for i, row in enumerate(listed):
            value: Any = row.fields.get(name)
            if value is None:
                value = getattr(row, name, 0)
            column[i] = np.dtype(dtype).type(value)
    return columns


def content(cell: int, salt: int = 0, *, optional: bool = True) -> dict[str, float]:
    """Some content that depends on cell and salt alone."""
    price = 100.0 + cell + salt / 16
    filled = {"quote_volume": price * 2, "trades": 10 + cell, "first_trade_id": 1000 + cell}
    return {
        "open": price,
        "high": price + 1,
        "low": price - 1,
        "close": price + 0.5,
        "volume": 2.0,
        "quote_volume": float("nan"),
        "trades": -1,
        "first_trade_id": -1,
        "last_trade_id": -1,
        **(filled if optional else {}),
    }


@dataclass(frozen=True, slots=True)
class Record:
    """One record before encoding. `payload`: a Row, Block, SealFacts, GapFacts, time or None.
    `start_ns`: of a closed gap its start, of a position its known time."""

    role: str
    symbol: str
    payload: Any
    start_ns: int = 0


class Sink(Protocol):
    def commit(self, records: Sequence[Record]) -> list[int]:
        """Write a transaction; offsets of its conformed rows, in order."""
        ...

    def next_conformed(self, symbol: str) -> int:
        """A lower bound of the next offset of conformed in the partition of a symbol."""
        ...


@dataclass(slots=True)
class _State:
    rows: dict[int, Row] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    blocks: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    frontier: int = START
    asked: int = START
    sequence: int = 0
    storage_sequence: int = 0


@dataclass(slots=True)
class LogWriter:
    """Cells are minutes from START."""

    sink: Sink
    known: int = START
    states: dict[str, _State] = field(default_factory=dict)
    pending: list[Record] = field(default_factory=list)
    bounds: dict[str, int] = field(default_factory=dict)

    def state(self, symbol: str) -> _State:
        return self.states.setdefault(symbol, _State())

    def bar(self, symbol: str, cell: int, salt: int = 0, **kind: Any) -> None:
        """Insert or revise by the rules; below the frontier only storage changes."""
        self.put(symbol, cell, content(cell, salt, optional=kind.get("optional", True)))

    def put(self, symbol: str, cell: int, fields: Mapping[str, float]) -> None:
        state, time_ns = self.state(symbol), START + cell * MINUTE
        held = state.rows.get(time_ns)
        row = Row(time_ns, fields, 0 if held is None else held.revision + 1, 0, self.known)
        if held is not None:
            self.pending.append(Record("superseded", symbol, held))
        state.rows[time_ns] = row
        self._log(symbol, replace(row, flags=PROVISIONAL))

    def complete(self, symbol: str, cell: int) -> None:
        """Fill the nulls of a bar: same revision, same known time."""
        state, time_ns = self.state(symbol), START + cell * MINUTE
        held = state.rows[time_ns]
        values = content(cell)
        nulls = {
            n for n, v in held.fields.items() if np.isnan(v) or (n.endswith(NULLABLE) and v < 0)
        }
        filled = {n: values[n] if n in nulls else v for n, v in held.fields.items()}
        state.rows[time_ns] = replace(held, fields=filled)
        self._log(symbol, replace(state.rows[time_ns], flags=COMPLETED))

    def confirm(self, symbol: str, cell: int) -> None:
        held = self.state(symbol).rows[START + cell * MINUTE]
        self._log(symbol, replace(held, flags=CONFIRMED, source=0))

    def _log(self, symbol: str, row: Row) -> None:
        state = self.state(symbol)
        if row.open_time_ns >= state.frontier:
            self.pending.append(Record("conformed", symbol, row))
            bound = self.bounds.setdefault(symbol, self.sink.next_conformed(symbol))
            state.offsets.setdefault(row.open_time_ns, bound)

    def gap(self, symbol: str, first: int, last: int | None, cause: str = "unknown") -> None:
        """Cells [first, last) are missing; None closes the entry."""
        start = START + first * MINUTE
        facts = None if last is None else GapFacts(start, START + last * MINUTE, cause, self.known)
        self.pending.append(Record("gaps", symbol, facts, start))

    def seal(self, symbol: str, frontier: int, *, overlap: int = 2) -> SealFacts:
        """Move the frontier to a cell, write every block that changed, then the seal."""
        state = self.state(symbol)
        state.frontier = max(state.frontier, START + frontier * MINUTE)
        state.sequence += 1
        written = [b for b in self._changed_blocks(symbol) if b is not None]
        if written:
            state.storage_sequence = state.sequence
        self.pending += [
            Record("storage", symbol, block, block.block_start_ns) for block in written
        ]
        lowest = state.frontier - overlap * MINUTE
        offsets = [offset for time_ns, offset in state.offsets.items() if time_ns >= lowest]
        leaves = [(start, digest, rows) for start, (digest, rows) in state.blocks.items()]
        seal = SealFacts(
            symbol=symbol,
            frontier_ns=state.frontier,
            conformed_offset=min(offsets, default=self.sink.next_conformed(symbol)),
            merkle_root=merkle_root(leaves, BLOCK_ROWS * MINUTE),
            sequence=state.sequence,
            storage_sequence=state.storage_sequence,
            blocks=len(leaves),
            rows=sum(rows for _, _, rows in leaves),
            history_start_ns=min(state.rows, default=state.asked),
            asked_start_ns=state.asked,
        )
        self.pending.append(Record("seals", symbol, seal))
        return seal

    def _changed_blocks(self, symbol: str) -> Iterable[Block]:
        state, span = self.state(symbol), BLOCK_ROWS * MINUTE
        sealed = sorted(t for t in state.rows if t < state.frontier)
        for start in sorted({t - t % span for t in sealed}):
            times = [t for t in sealed if start <= t < start + span]
            columns = columns_of(state.rows[t] for t in times)
            digest = block_digest(symbol, columns)
            if state.blocks.get(start) == (digest, len(times)):
                continue
            state.blocks[start] = (digest, len(times))
            end = start + span
            yield Block(
                symbol=symbol,
                block_start_ns=start,
                block_end_ns=end,
                interval_ns=MINUTE,
                range_start_ns=start,
                complete_through_ns=None if state.frontier >= end else state.frontier,
                columns=columns,
                digest=digest,
                sequence=state.sequence,
            )

    def watermark(self, symbol: str, cell: int) -> None:
        """The venue has sent everything before a cell, in the partition of a symbol."""
        self.pending.append(Record("positions", symbol, START + cell * MINUTE, self.known))

    def commit(self) -> None:
        """One transaction; the known time of the next is later."""
        records, self.pending = self.pending, []
        symbols = {record.symbol for record in records}
        symbols -= {record.symbol for record in records if record.role == "positions"}
        records += [Record("positions", symbol, None, self.known) for symbol in sorted(symbols)]
        self.bounds.clear()
        offsets = self.sink.commit(records)
        logged = [record for record in records if record.role == "conformed"]
        for record, offset in zip(logged, offsets, strict=True):
            self.state(record.symbol).offsets.setdefault(record.payload.open_time_ns, offset)
        self.known += 1_000_000


@dataclass(slots=True)
class MemorySink:
    """One partition; every transaction ends with a marker that takes an offset, as on a broker."""

    logs: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    def commit(self, records: Sequence[Record]) -> list[int]:
        offsets = []
        for record in records:
            at = self.ends.get(record.role, 0)
            self.logs.setdefault(record.role, []).append((at, record))
            self.ends[record.role] = at + 1
            if record.role == "conformed":
                offsets.append(at)
        for role in {record.role for record in records}:
            self.ends[role] += 1
        return offsets

    def next_conformed(self, symbol: str) -> int:
        return self.ends.get("conformed", 0)
