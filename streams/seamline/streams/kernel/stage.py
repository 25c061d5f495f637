"""One level on its way through a transaction: the kernel's level, its index, ledgers and seals.

Decides: when blocks are loaded, what each seal says, what is encoded for which topic. Invariants: a
block, its seal, the ledger, and the superseded values of its bars are in one transaction; the
sequence of a symbol's seals has no hole; nothing is written for a level that did not change. Must
not know: where rows come from (`intake`), how batches are sent (`owner`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from seamline.schemas.codec import encode_conformed
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import F8, I8, PARTIAL, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.fingerprint import block_digest, group_of, merkle_group, merkle_top
from seamline.schemas.outages import encode_spans
from seamline.schemas.preset import Preset
from seamline.schemas.records import encode_record
from seamline.schemas.topics import (
    HEADER_CLAIMS,
    HEADER_FINGERPRINT,
    gap_key,
    report_key,
    storage_key,
    symbol_key,
    topic_name,
)
from seamline.streams.kernel.block_index import BlockIndex, Entry
from seamline.streams.kernel.calendar import ALWAYS, Calendar
from seamline.streams.kernel.coverage import Coverage
from seamline.streams.kernel.failure_detail import Untold
from seamline.streams.kernel.gap_book import Change, GapBook
from seamline.streams.kernel.intake import QUARANTINED
from seamline.streams.kernel.level import (
    B_BLOCK,
    B_CLAIM_END,
    B_CLAIM_START,
    B_SYMBOL,
    B_WRITTEN,
    CELL,
    CHILD,
    COUNTED,
    OFFSET,
    REG_SYMBOLS,
    S_COUNTS,
    S_FIRST,
    S_FRONTIER,
    S_LIVE,
    SEALED,
    SYMBOL,
    UNSET,
    Level,
    Rows,
    Written,
)
from seamline.streams.kernel.level_columns import (
    columns_of_rows,
    fill_slot,
)
from seamline.streams.kernel.merge import DONE, NEED_BLOCK, NEED_SLOT, merge
from seamline.streams.kernel.protocol import Batch, Header, Want
from seamline.streams.kernel.rules import DUPLICATE_CONFLICT, DUPLICATE_EQUAL, GAP
from seamline.streams.kernel.seal import (
    BlockWrite,
    GapEntry,
    SealWrite,
    due,
    log_offset,
    open_claims,
    releasable,
    write_seal,
)

# Of each level, in the order in which they are written.
OUTPUTS: Final = ("conformed", "storage", "superseded", "gaps", "reports", "seals")
# Slots asked for at once: fewer, larger growths.
SLOTS_STEP: Final = 64
ROOM_ROWS: Final = 2_048
# Derived bars that lack some of their inputs; the parent's ledger says which.
PARTIAL_WINDOW: Final = "partial_window"
LoadBlock = Callable[[Entry], Block]


@dataclass(slots=True)
class SymbolSeal:
    """What the newest seal of a symbol said, and the roots that the next one is built on.

    `[asked_ns, start_ns)`: what some source was asked for before the first bar (or the frontier);
    `offset_ns`: known time of the seal that first said `conformed_offset`.
    """

    sequence: int = 0
    storage_sequence: int = 0
    asked_ns: int = UNSET
    start_ns: int = UNSET
    blocks: int = 0
    rows: int = 0
    offset_ns: int = 0
    conformed_offset: int = 0
    groups: dict[int, bytes] | None = None
    reported: I8 = field(default_factory=lambda: np.zeros(len(COUNTED), np.int64))


@dataclass(slots=True)
class Output:
    """Records for one topic of the transaction under way."""

    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    want: Want = "none"
    schema: str = ""
    # Of seals: what sources were asked for that no stored block says yet.
    claims: list[bytes] = field(default_factory=list)

    def headers(self) -> tuple[Header, ...] | list[tuple[Header, ...]]:
        ours = fingerprint_header(self.schema)
        if not any(self.claims):
            return ours
        return [(*ours, (HEADER_CLAIMS, each)) if each else ours for each in self.claims]


class Stage:
    """One preset's level in one partition. `ids`: schema name -> registry id; `owner`: who runs
    it, for people."""

    def __init__(
        self,
        preset: Preset,
        level: Level,
        index: BlockIndex,
        load: LoadBlock,
        ids: Mapping[str, int],
        parent: Stage | None = None,
        calendar: Calendar = ALWAYS,
        owner: str = "",
    ) -> None:
        self.preset = preset
        self.level = level
        self.index = index
        self.seals: dict[int, SymbolSeal] = {}
        self.book: GapBook = GapBook(
            preset, level, index, load, None if parent is None else parent.book
        )
        # Values that a revision replaced, until their block is written: (symbol, block) -> rows.
        self.replaced: dict[tuple[int, int], list[tuple[I8, F8]]] = {}
        # Every log row of the next transaction gets this offset or a later one.
        self.bound = 0
        self._load = load
        self._ids = ids
        self._parent = parent
        self._calendar = calendar
        self._owner = owner
        self._expected = None if calendar.sessions is None else self._expected_cells
        self._key_bytes: list[bytes] = []
        self._outputs: dict[str, Output] = {}
        self._staged: list[Entry] = []
        self.sealed = 0
        # What the kernel writes to: small enough to stay in the processor's cache, emptied often.
        self._accepted = Written.empty(ROOM_ROWS)
        self._replaced_rows = Written.empty(ROOM_ROWS)
        self._child = Written.empty(ROOM_ROWS if len(level.ratios) else 1)

    # --- rows in

    def merge(self, rows: Rows, known_ns: int) -> list[Rows]:
        """Merge rows; returns the rows of each derived level. Log rows are encoded on the way."""
        level = self.level
        accepted, replaced = self._accepted, self._replaced_rows
        children = len(level.ratios)
        child = self._child_room()
        parts: list[list[Rows]] = [[] for _ in range(children)]
        at, status = 0, -1
        while status != DONE:
            at, status, symbol, block = merge(
                *(level.state, rows, at, accepted, replaced, child),
                *(level.ratios, level.rank, known_ns, self.bound),
            )
            if status == NEED_BLOCK:
                self.load_block(int(symbol), int(block))
            elif status == NEED_SLOT:
                level.ensure_free(SLOTS_STEP)
            else:
                self.keep_replaced(replaced)
                self._log(accepted)
                for number in range(children):
                    parts[number].append(_child_rows(child, number))
                accepted.done[0] = replaced.done[0] = child.done[0] = 0
        return [Rows.concat(found) for found in parts]

    def _child_room(self) -> Written:
        """Room for what one row can give on at most, and a good deal more."""
        symbols = int(self.level.state.reg[REG_SYMBOLS])
        most = len(self.level.ratios) * (self.level.span + 2 * symbols + 5) + 1
        if len(self._child.cols) <= most:
            self._child = Written.empty(2 * most)
        return self._child

    def _log(self, accepted: Written) -> None:
        """Encode the accepted bars at and above the frontier for the log."""
        n = int(accepted.done[0])
        open_rows = np.flatnonzero(accepted.cols[:n, SEALED] == 0)
        if not len(open_rows):
            return
        cols, vals = accepted.cols[open_rows], accepted.vals[open_rows]
        output = self._output("conformed", "conformed_bar", "first")
        keys = self._keys()
        symbols = cols[:, SYMBOL]
        output.values += encode_conformed(
            keys,
            symbols.astype(np.int32),
            columns_of_rows(self.preset, cols, vals),
            self._ids["conformed_bar"],
        )
        output.keys += [keys[symbol] for symbol in symbols.tolist()]

    def _keys(self) -> list[bytes]:
        known = self._key_bytes
        known += [symbol_key(name) for name in self.level.symbols[len(known) :]]
        return known

    def keep_replaced(self, replaced: Written) -> None:
        for i in range(int(replaced.done[0])):
            cols = replaced.cols[i]
            place = int(cols[SYMBOL]), int(cols[CELL] - cols[CELL] % self.level.span)
            self.replaced.setdefault(place, []).append((cols.copy(), replaced.vals[i].copy()))

    # --- blocks back from storage

    def load_block(self, symbol: int, block: int) -> int:
        """Put a block into a slot as storage has it, empty where it has none; returns the slot."""
        level = self.level
        slot = level.open_slot(symbol, block)
        entry = self.index.get(level.symbols[symbol], self.time_of(block))
        if entry is None:
            return slot
        stored = self._load(entry)
        fill_slot(level, slot, self.cells_of(stored.columns.open_time_ns), stored.columns)
        state = level.state
        state.slot[slot, B_WRITTEN] = min(int(state.sym[symbol, S_FRONTIER]), block + level.span)
        if entry.claim_end_ns > entry.claim_start_ns:
            state.slot[slot, B_CLAIM_START] = self.cell_of(entry.claim_start_ns)
            state.slot[slot, B_CLAIM_END] = self.cell_of(entry.claim_end_ns)
        return slot

    def time_of(self, cell: int) -> int:
        return cell * self.preset.interval_ns + self.preset.grid_origin_ns

    def cell_of(self, time_ns: int) -> int:
        return self.preset.cell_of(time_ns)

    def cells_of(self, times_ns: I8) -> I8:
        return (times_ns - self.preset.grid_origin_ns) // self.preset.interval_ns

    # --- seals out

    def seal(self, known_ns: int, untold: Untold) -> None:
        """Write the blocks, seals, ledger entries and reports of every symbol that needs them;
        `untold`: what reports have to say."""
        symbols = due(self.level)
        self.book.asked.clear()
        for symbol in symbols:
            write = write_seal(self.level, self.book.ledgers, symbol, self.bound, self._expected)
            self._seal(write, known_ns, untold)
        self._gaps(self.book.again(symbols), known_ns)

    def _expected_cells(self, low: int, high: int) -> Coverage:
        preset = self.preset
        origin_ns, interval_ns = preset.grid_origin_ns, preset.interval_ns
        found = self._calendar.expected_where_known(
            (self.time_of(low), self.time_of(high)), interval_ns=interval_ns, origin_ns=origin_ns
        )
        return Coverage.of_cells((found.spans - origin_ns) // interval_ns)

    def reseal(self, symbol: int, known_ns: int) -> None:
        """The same seal with a newer log offset: an idle symbol must not keep an old one. Bars
        behind the frontier are compared with the log no more: it is about to forget them. Nothing
        where an open bar holds the offset: it is sealed before the log forgets it."""
        offset = log_offset(self.level, symbol, self.bound, overlap=False)
        if offset <= self.seals[symbol].conformed_offset:
            return
        frontier = int(self.level.state.sym[symbol, S_FRONTIER])
        for slot in self.level.slots_of(symbol):
            sealed = max(0, frontier - int(self.level.state.slot[slot, B_BLOCK]))
            self.level.state.cells[slot, :sealed, OFFSET] = -1
        ledger = self.book.ledgers.get(symbol)
        named = Coverage() if ledger is None else ledger.gaps
        claims = open_claims(self.level, symbol)
        write = SealWrite(symbol, frontier, offset, (), {}, named, claims)
        self._seal(write, known_ns, Untold())

    def _seal(self, write: SealWrite, known_ns: int, untold: Untold) -> None:
        symbol = write.symbol
        name = self.level.symbols[symbol]
        facts = self.seals.setdefault(symbol, SymbolSeal())
        facts.sequence += 1
        roots = self._roots(facts, name)
        if write.blocks:
            facts.storage_sequence = facts.sequence
        for block in write.blocks:
            self._write_block(name, facts, roots, block, write, known_ns, untold)
        first = int(self.level.state.sym[symbol, S_FIRST])
        frontier_ns = self.time_of(write.frontier)
        start_ns = frontier_ns if first == UNSET else self.time_of(first)
        facts.asked_ns, facts.start_ns = self._asked(symbol, facts, start_ns), start_ns
        if write.offset != facts.conformed_offset or facts.sequence == 1:
            facts.offset_ns, facts.conformed_offset = known_ns, write.offset
        self._put(
            "seals",
            "seal",
            symbol_key(name),
            {
                "symbol": name,
                "frontier_ns": frontier_ns,
                "conformed_offset": write.offset,
                "merkle_root": merkle_top(roots.items()),
                "sequence": facts.sequence,
                "storage_sequence": facts.storage_sequence,
                "owner": self._owner,
                "blocks": facts.blocks,
                "rows": facts.rows,
                "history_start_ns": start_ns,
                "asked_start_ns": facts.asked_ns,
                "known_time_ns": known_ns,
                "live": bool(self.level.state.sym[symbol, S_LIVE]),
            },
        )
        claims = [(self.time_of(low), self.time_of(high)) for low, high in write.claims]
        self._outputs["seals"].claims.append(encode_spans(claims))
        self._gaps(self.book.sealed(symbol, write), known_ns)
        self.sealed += 1

    def _roots(self, facts: SymbolSeal, name: str) -> dict[int, bytes]:
        if facts.groups is None:
            members: dict[int, list[tuple[int, bytes, int]]] = {}
            for entry in self.index.of_symbol(name):
                number = group_of(entry.start_ns, self.preset.block_ns)
                members.setdefault(number, []).append((entry.start_ns, entry.digest, entry.rows))
                facts.blocks += 1
                facts.rows += entry.rows
            facts.groups = {number: merkle_group(leaves) for number, leaves in members.items()}
        return facts.groups

    def _write_block(
        self,
        name: str,
        facts: SymbolSeal,
        roots: dict[int, bytes],
        write: BlockWrite,
        seal: SealWrite,
        known_ns: int,
        untold: Untold,
    ) -> None:
        state, preset = self.level.state, self.preset
        cols = state.cells[write.slot, write.cells].copy()
        cols[:, CELL] = write.block + write.cells
        columns = columns_of_rows(self.preset, cols, state.vals[write.slot, write.cells])
        start_ns = self.time_of(write.block)
        digest = block_digest(name, columns)
        claim = write.claim or (write.block, write.block)
        before = self.index.get(name, start_ns)
        entry = Entry(
            *(name, start_ns, digest, len(columns)),
            *(self.time_of(claim[0]), self.time_of(claim[1])),
        )
        block = Block(
            symbol=name,
            block_start_ns=start_ns,
            block_end_ns=start_ns + preset.block_ns,
            interval_ns=preset.interval_ns,
            range_start_ns=entry.claim_start_ns,
            complete_through_ns=entry.claim_end_ns if write.claim else None,
            columns=columns,
            digest=digest,
            sequence=facts.sequence,
        )
        output = self._output("storage", "bar_block", "all")
        output.keys.append(storage_key(name, start_ns))
        output.values.append(encode_block(block, self._ids["bar_block"]))
        self.index.stage(entry)
        self._staged.append(entry)
        facts.blocks += before is None
        facts.rows += len(columns) - (0 if before is None else before.rows)
        number = group_of(start_ns, preset.block_ns)
        roots[number] = self._group(name, number)
        self._superseded(seal.symbol, write.block, seal.frontier)
        self._report(name, seal, write, columns, known_ns, untold)

    def _group(self, name: str, number: int) -> bytes:
        span = self.preset.block_ns * 64
        members = self.index.of_symbol(name, number * span, (number + 1) * span)
        return merkle_group((entry.start_ns, entry.digest, entry.rows) for entry in members)

    def _asked(self, symbol: int, facts: SymbolSeal, start_ns: int) -> int:
        """Start of the contiguous span that some source was asked for: `start_ns`, or further back
        as far as the claims of stored blocks reach without a hole. A derived preset was asked for
        the whole windows of what its parent was asked for."""
        if self._parent is not None:
            of_parent = self._parent.seals.get(symbol)
            if of_parent is None:
                return start_ns
            whole = self.cell_of(of_parent.asked_ns + self.preset.interval_ns - 1)
            return min(start_ns, self.time_of(whole))
        name, at = self.level.symbols[symbol], start_ns
        while True:
            if facts.asked_ns < at <= facts.start_ns:
                at = facts.asked_ns
            entry = self.index.get(name, self.preset.block_start_of(at - 1))
            if entry is None or not entry.claim_start_ns < at <= entry.claim_end_ns:
                return at
            at = entry.claim_start_ns

    def _superseded(self, symbol: int, block: int, frontier: int) -> None:
        """Values that were replaced in a block, of the bars before the frontier: a rebuilt machine
        finds those of open bars in the log again."""
        held = self.replaced.pop((symbol, block), [])
        rows = [row for row in held if row[0][CELL] < frontier]
        if len(rows) < len(held):
            self.replaced[symbol, block] = [row for row in held if row[0][CELL] >= frontier]
        if not rows:
            return
        output = self._output("superseded", "conformed_bar", "none")
        keys = self._keys()
        cols = np.array([cols for cols, _ in rows])
        vals = np.array([vals for _, vals in rows])
        output.values += encode_conformed(
            keys,
            cols[:, SYMBOL].astype(np.int32),
            columns_of_rows(self.preset, cols, vals),
            self._ids["conformed_bar"],
        )
        output.keys += [keys[symbol]] * len(rows)

    def _gaps(self, changes: Iterable[Change], known_ns: int) -> None:
        for symbol, start, entry in changes:
            self._gap(symbol, start, entry, known_ns)

    def _gap(self, symbol: int, start: int, entry: GapEntry, known_ns: int) -> None:
        name = self.level.symbols[symbol]
        key = gap_key(name, self.time_of(start))
        if entry is None:
            output = self._output("gaps", "gap", "none")
            output.keys.append(key)
            output.values.append(None)
            return
        end, found = entry
        gap = {
            "symbol": name,
            "start_ns": self.time_of(start),
            "end_ns": self.time_of(end),
            "bars": end - start,
            "cause": found.cause,
            "known_time_ns": known_ns,
            "detail": found.because,
        }
        self._put("gaps", "gap", key, gap)

    def _report(
        self,
        name: str,
        seal: SealWrite,
        write: BlockWrite,
        columns: ConformedColumns,
        known_ns: int,
        untold: Untold,
    ) -> None:
        """Rows of the block as they stand; counters since the symbol's report before."""
        facts = self.seals[seal.symbol]
        counts = self.level.state.sym[seal.symbol, S_COUNTS:]
        fresh = dict(zip(COUNTED, (counts - facts.reported).tolist(), strict=True))
        facts.reported = counts.copy()
        found = {r: n for (symbol, r), n in untold.findings.items() if symbol == seal.symbol}
        for rule in found:
            del untold.findings[seal.symbol, rule]
        first = max(write.block, int(self.level.state.sym[seal.symbol, S_FIRST]))
        end = min(seal.frontier, write.block + self.level.span)
        missing = self.book.ledgers[seal.symbol].missing(first, end) if len(columns) else 0
        quarantined = found.pop(QUARANTINED, 0)
        found[GAP] = missing
        found[PARTIAL_WINDOW] = int(np.count_nonzero(columns.flags & PARTIAL))
        if not self.level.derived:
            found[DUPLICATE_EQUAL] = fresh["equal"]
            found[DUPLICATE_CONFLICT] = fresh["conflicts"]
        start_ns = self.time_of(write.block)
        self._put(
            "reports",
            "report",
            report_key(name, start_ns),
            {
                "symbol": name,
                "window_start_ns": start_ns,
                "window_end_ns": start_ns + self.preset.block_ns,
                "rows": len(columns),
                "missing": missing,
                "revisions": int(columns.revision.sum()),
                "confirmed": fresh["confirmed"] + fresh["raised"],
                "discarded": fresh["discarded"],
                "conflicts": fresh["conflicts"],
                "late": fresh["late"],
                "quarantined": quarantined,
                "findings": {rule: n for rule, n in sorted(found.items()) if n},
                "known_time_ns": known_ns,
                "failures": untold.told(name),
            },
        )

    # --- records out

    def _output(self, role: str, schema: str, want: Want) -> Output:
        output = self._outputs.get(role)
        if output is None:
            output = self._outputs[role] = Output(want=want, schema=schema)
        return output

    def _put(self, role: str, schema: str, key: bytes, record: Mapping[str, Any]) -> None:
        output = self._output(role, schema, "none")
        output.keys.append(key)
        output.values.append(encode_record(schema, record, self._ids[schema]))

    def take_batches(self) -> list[tuple[str, Batch]]:
        """`(role, batch)` of everything since the last call: log first, then blocks, then seals."""
        outputs, self._outputs = self._outputs, {}
        return [
            (
                role,
                Batch(
                    topic=topic_name(self.preset.id, role),
                    keys=outputs[role].keys,
                    values=outputs[role].values,
                    headers=outputs[role].headers(),
                    want=outputs[role].want,
                ),
            )
            for role in OUTPUTS
            if role in outputs
        ]

    def committed(self, log_rows: int, log_offset_first: int | None, blocks: Sequence[int]) -> None:
        """The transaction is committed: its log rows begin at `log_offset_first`, its blocks lie at
        `blocks`."""
        if log_offset_first is not None:
            # The marker of the transaction takes an offset too. Without it a seal could never point
            # at the end of a log that retention has emptied.
            self.bound = log_offset_first + log_rows + 1
        staged, self._staged = self._staged, []
        self.index.commit(staged, blocks)
        state = self.level.state
        behind = state.slot[:, B_BLOCK] + self.level.span
        # Only symbols with a block behind their frontier have something to let go.
        symbols = state.slot[:, B_SYMBOL]
        used = state.sym[symbols, S_FRONTIER] >= behind
        for symbol in np.unique(symbols[used]).tolist():
            for slot in releasable(self.level, symbol):
                self.level.release(slot)


def _child_rows(child: Written, number: int) -> Rows:
    n = int(child.done[0])
    mine = child.cols[:n, CHILD] == number
    return Rows(child.cols[:n][mine], child.vals[:n][mine])


def fingerprint_header(schema: str) -> tuple[Header, ...]:
    return ((HEADER_FINGERPRINT, SCHEMAS[schema].header),)
