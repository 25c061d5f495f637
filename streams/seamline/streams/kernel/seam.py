"""The seam: which seal a reader may trust, what its history is, and what is missing from it.

Decides, for one reader and from records alone: (1) the consistent seal of a symbol, (2) the history
`[start, frontier)` out of blocks, (3) the log rows at and above the frontier, newest revision each,
(4) the overlap of both, (5) continuity against the gap ledger, (6) whether the stream may begin.

Order of a reader, each step on top of the one before:
  1. fence of conformed          2. storage to a fence taken after 1
  3. seals to a fence after 2    4. gaps to a fence after 3
  5. conformed from the lowest seal offset of each partition through the fence of 1
  6. history, certificate, live.
Why this order: a bar at or above the frontier of a seal is in conformed at or after the offset the
seal names, and every bar below it is in storage, whenever the seal was written. So no cut between
the topics is needed; only blocks and seal of one symbol have to fit, and `Snapshot` proves that.

Invariants: blocks and seal that do not fit by Merkle root and digests never become history; every
expected cell of `[start, frontier)` is a bar, or a gap that the ledger names, or an error.
Must not know: Kafka clients, the clock, how long somebody is willing to wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from seamline.schemas.columns import CONTENT_FIELDS, I8, PROVISIONAL, Block, Bool, ConformedColumns
from seamline.schemas.errors import ContractError
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.schemas.times import format_time
from seamline.streams.kernel.seam_cells import Grid, explained, missing_runs
from seamline.streams.kernel.seam_events import NOT_BACKFILLED, UNKNOWN, Gap, SeamBroken
from seamline.streams.kernel.stabilization import settled_ns

# Named in an error message; its fields have all.
GAPS_SHOWN = 5


class OnGap(StrEnum):
    FAIL = "fail"
    WAIT = "wait"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Request:
    """What a reader asks for. `start_ns` is inclusive, `end_ns` exclusive (None: no end)."""

    preset_id: str
    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    on_gap: OnGap
    grid: Grid
    block_ns: int
    stabilization_bars: int

    @property
    def stop_ns(self) -> int:
        return 2**63 - 1 if self.end_ns is None else self.end_ns

    def repair(self, symbol: str, start_ns: int, end_ns: int) -> str:
        """The command that brings in what is missing."""
        return (
            f"seamline backfill run {self.preset_id} --symbols {symbol} "
            f"--start {format_time(start_ns)} --end {format_time(end_ns)}"
        )

    def read_again(self) -> str:
        """The command that reads all of it, from the start."""
        end = "" if self.end_ns is None else f" --end {format_time(self.end_ns)}"
        return (
            f"seamline read {self.preset_id} --symbols {','.join(self.symbols)} "
            f"--start {format_time(self.start_ns)}{end}"
        )


@dataclass(frozen=True, slots=True)
class SealFacts:
    """A seal record."""

    symbol: str
    frontier_ns: int
    conformed_offset: int
    merkle_root: bytes
    sequence: int
    storage_sequence: int
    blocks: int
    rows: int
    history_start_ns: int
    asked_start_ns: int


@dataclass(frozen=True, slots=True)
class GapFacts:
    """An entry of the gap ledger."""

    start_ns: int
    end_ns: int
    cause: str
    known_time_ns: int = 0

    @property
    def entry(self) -> tuple[int, int, GapFacts]:
        """As `explained` takes it."""
        return self.start_ns, self.end_ns, self


@dataclass(frozen=True, slots=True, eq=False)
class StoredBlock:
    """The newest version of a block. `columns` is None when the reader does not need its rows."""

    block_start_ns: int
    block_end_ns: int
    digest: bytes
    rows: int
    sequence: int
    columns: ConformedColumns | None


@dataclass(slots=True)
class _Shelf:
    """Everything read of one symbol."""

    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    seals: dict[int, SealFacts] = field(default_factory=dict)  # newest by storage sequence
    gaps: dict[int, GapFacts] = field(default_factory=dict)
    newest_block: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """Blocks of one symbol in order, and the seal that covers exactly them (None: never sealed)."""

    symbol: str
    seal: SealFacts | None
    blocks: tuple[StoredBlock, ...]
    gaps: tuple[GapFacts, ...]


class Snapshot:
    """Blocks, seals and gaps of the asked symbols, newest version each. Records of one topic must
    come in offset order; what belongs to other symbols is ignored."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.rows_held = 0
        self._shelves = {symbol: _Shelf() for symbol in request.symbols}

    def wants(self, symbol: str) -> bool:
        return symbol in self._shelves

    def add_block(self, block: Block) -> None:
        """Raises ContractError where rows and digest do not fit."""
        shelf = self._shelves.get(block.symbol)
        if shelf is None:
            return
        needed = block.block_end_ns > self._request.start_ns
        old = shelf.blocks.get(block.block_start_ns)
        if needed:
            self.rows_held += len(block.columns) - (0 if old is None else old.rows)
        shelf.blocks[block.block_start_ns] = StoredBlock(
            block_start_ns=block.block_start_ns,
            block_end_ns=block.block_end_ns,
            digest=block.digest,
            rows=len(block.columns),
            sequence=block.sequence,
            columns=checked_rows(block) if needed else None,
        )
        shelf.newest_block = max(shelf.newest_block, block.sequence)

    def add_seal(self, seal: SealFacts) -> None:
        shelf = self._shelves.get(seal.symbol)
        if shelf is None:
            return
        held = shelf.seals.get(seal.storage_sequence)
        if held is None or held.sequence < seal.sequence:
            shelf.seals[seal.storage_sequence] = seal
        for old in [s for s in shelf.seals if s < shelf.newest_block]:
            del shelf.seals[old]  # a seal older than the blocks can never fit again

    def add_gap(self, symbol: str, start_ns: int, gap: GapFacts | None) -> None:
        shelf = self._shelves.get(symbol)
        if shelf is None:
            return
        if gap is None:
            shelf.gaps.pop(start_ns, None)
        else:
            shelf.gaps[start_ns] = gap

    def unsettled(self) -> dict[str, str]:
        """Symbols whose blocks and seal do not fit yet, with the reason: read both further."""
        reasons = {}
        for symbol, shelf in self._shelves.items():
            if (shelf.seals or shelf.blocks) and shelf.newest_block not in shelf.seals:
                known = max(shelf.seals, default=None)
                reasons[symbol] = (
                    f"storage is at seal {shelf.newest_block}, its newest seal covers "
                    f"{'nothing' if known is None else known}"
                )
        return reasons

    def settle(self, symbol: str) -> Settled:
        """Raises ContractError when the blocks are not the ones that the seal was made over."""
        shelf = self._shelves[symbol]
        blocks = tuple(shelf.blocks[start] for start in sorted(shelf.blocks))
        gaps = tuple(shelf.gaps[start] for start in sorted(shelf.gaps))
        seal = shelf.seals.get(shelf.newest_block)
        if seal is None:
            return Settled(symbol, None, blocks, gaps)
        root = merkle_root(
            ((b.block_start_ns, b.digest, b.rows) for b in blocks), self._request.block_ns
        )
        if root != seal.merkle_root:
            raise ContractError(
                f"storage and the seal of {symbol} do not fit: {len(blocks)} blocks in storage "
                "have another Merkle root than the seal names",
                parameter="merkle_root",
                value=root.hex(),
                fix="Check who writes to storage and seals besides the worker",
                cause="root_differs",
                symbol=symbol,
                sealed_root=seal.merkle_root.hex(),
                seal_sequence=seal.sequence,
            )
        return Settled(symbol, seal, blocks, gaps)


def checked_rows(block: Block) -> ConformedColumns:
    """The rows of a block. Raises ContractError where digest, order or span is not kept."""
    columns = block.columns
    digest = block_digest(block.symbol, columns)
    if digest != block.digest:
        raise ContractError(
            f"the block of {block.symbol} at {format_time(block.block_start_ns)} is not what its "
            "digest says",
            parameter="digest",
            value=block.digest.hex(),
            fix="Rewrite the block by a backfill of its span",
            cause="digest_differs",
            symbol=block.symbol,
            computed=digest.hex(),
        )
    times = columns.open_time_ns
    if len(times) and not (
        times[0] >= block.block_start_ns
        and times[-1] < block.block_end_ns
        and bool((np.diff(times) > 0).all())
    ):
        raise ContractError(
            f"rows of the block of {block.symbol} at {format_time(block.block_start_ns)} are not "
            "in ascending order within its span",
            parameter="open_time",
            cause="rows_out_of_span",
            symbol=block.symbol,
        )
    return columns


@dataclass(frozen=True, slots=True)
class Overlap:
    """Log rows below the frontier against storage. `newer`: storage has a later revision."""

    compared: int = 0
    equal: int = 0
    completed: int = 0
    newer: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One symbol's part of the history: sealed rows, log rows above them, gaps, the overlap.

    `tail`: every version that was read of the log, in offset order."""

    settled: Settled
    sealed: ConformedColumns
    log: ConformedColumns
    tail: ConformedColumns
    log_provisional: Bool
    overlap: Overlap
    gaps: tuple[Gap, ...]  # named by the ledger, or never asked for
    open_gaps: tuple[Gap, ...]  # above the frontier: may still come
    unexplained: tuple[Gap, ...]
    passed_ns: int

    @property
    def symbol(self) -> str:
        return self.settled.symbol

    @property
    def known(self) -> bool:
        return self.settled.seal is not None or len(self.log) > 0


def join_offset(settled: Settled, begin_offset: int) -> int:
    """Where a reader of this symbol starts in conformed; never sealed: at the first record."""
    return begin_offset if settled.seal is None else settled.seal.conformed_offset


def assemble(
    request: Request,
    settled: Settled,
    tail: ConformedColumns,
    *,
    watermark_ns: int | None,
    begin_offset: int,
) -> Part:
    """The history of one symbol. `tail`: its conformed rows from the join through the fence, in
    offset order; `begin_offset`: first retained offset of its partition of conformed.

    Raises SeamBroken when log and storage contradict each other or when the join point is gone.
    """
    seal = settled.seal
    start, stop = request.grid.up(request.start_ns), request.stop_ns
    newest = newest_rows(tail)
    frontier = _first_frontier(request, newest) if seal is None else seal.frontier_ns
    sealed = _sealed_rows(settled, start, min(frontier, stop))
    times = newest.open_time_ns
    overlap = compare_overlap(
        request,
        settled.symbol,
        sealed,
        newest.take((times >= start) & (times < min(frontier, stop))),
    )
    log = newest.take((times >= max(frontier, start)) & (times < stop))
    if seal is not None and begin_offset > seal.conformed_offset and stop > frontier:
        _check_join_is_retained(request, seal, newest.take(times >= frontier), begin_offset)
    passed = max(start, min(frontier, stop))
    if len(log):
        passed = max(passed, int(log.open_time_ns[-1]) + request.grid.interval_ns)
    first = int(times[0]) if len(times) else None
    history, asked = _claims(seal, first, frontier)
    gaps, unexplained = _sealed_gaps(request, settled, sealed, frontier, history)
    gaps = _never_asked(request, settled.symbol, min(asked, history)) + gaps
    open_runs = missing_runs(request.grid, log.open_time_ns, max(frontier, start, history), passed)
    # The ledger may be ahead of blocks and log: what it says is settled already.
    entries = [gap.entry for gap in settled.gaps]
    settled_runs, open_runs = explained(request.grid, open_runs, entries)
    gaps += tuple(gap_of(settled.symbol, *run) for run in settled_runs)
    return Part(
        settled=settled,
        sealed=sealed,
        log=log,
        tail=tail,
        log_provisional=provisional_rows(request, log, watermark_ns),
        overlap=overlap,
        gaps=gaps,
        open_gaps=tuple(Gap(settled.symbol, a, b, n, UNKNOWN, True) for a, b, n in open_runs),
        unexplained=unexplained,
        passed_ns=passed,
    )


def newest_rows(tail: ConformedColumns) -> ConformedColumns:
    """One row for each open time, ascending: the highest revision, of these the last in the log (a
    completion or confirmation keeps its revision and repeats or adds to the content)."""
    if not len(tail):
        return tail
    order = np.lexsort((np.arange(len(tail)), tail.revision, tail.open_time_ns))
    times = tail.open_time_ns[order]
    last = np.append(times[1:] != times[:-1], True)
    return tail.take(order[last])


def provisional_rows(request: Request, log: ConformedColumns, watermark_ns: int | None) -> Bool:
    """Rows that were young when written and still are, by newer bars and the venue's watermark."""
    young: Bool = (log.flags & PROVISIONAL) != 0
    newer = np.arange(len(log))[::-1]
    young &= newer < request.stabilization_bars
    if watermark_ns is not None:
        interval_ns = request.grid.interval_ns
        settled = settled_ns(watermark_ns, interval_ns, request.stabilization_bars)
        young &= log.open_time_ns + interval_ns > settled
    return young


def compare_overlap(
    request: Request, symbol: str, sealed: ConformedColumns, log: ConformedColumns
) -> Overlap:
    """Raises SeamBroken where storage lacks a log row, is older, or differs in one revision."""
    if not len(log):
        return Overlap()
    at = np.searchsorted(sealed.open_time_ns, log.open_time_ns)
    inside = at < len(sealed)
    found = np.zeros(len(log), np.bool_)
    found[inside] = sealed.open_time_ns[at[inside]] == log.open_time_ns[inside]
    if not found.all():
        raise _contradiction(
            request, symbol, log, ~found, "overlap_missing", "has no bar that the log has"
        )
    stored = sealed.take(at)
    older = stored.revision < log.revision
    if older.any():
        raise _contradiction(request, symbol, log, older, "overlap_older", "is older than the log")
    equal, fills = _same_content(stored, log)
    newer = stored.revision > log.revision
    differs = ~newer & ~equal & ~fills
    if differs.any():
        raise _contradiction(
            request, symbol, log, differs, "overlap_differs", "differs from the log"
        )
    same = ~newer & equal
    return Overlap(
        compared=len(log),
        equal=int(same.sum()),
        completed=int((~newer & ~equal).sum()),
        newer=int(newer.sum()),
    )


def _same_content(stored: ConformedColumns, log: ConformedColumns) -> tuple[Bool, Bool]:
    """(equal, only nulls of the log filled) for each row."""
    equal = np.ones(len(log), np.bool_)
    fills = np.ones(len(log), np.bool_)
    for name in CONTENT_FIELDS:
        ours, theirs = getattr(stored, name), getattr(log, name)
        same = ours == theirs
        if name == "quote_volume":
            null = np.isnan(theirs)
            same |= np.isnan(ours) & null
        else:
            null = theirs < 0
        equal &= same
        fills &= same | null if name not in ("open", "high", "low", "close", "volume") else same
    return equal, fills


def _contradiction(
    request: Request, symbol: str, log: ConformedColumns, rows: Bool, cause: str, what: str
) -> SeamBroken:
    times = log.open_time_ns[rows]
    first, last = int(times[0]), int(times[-1]) + request.grid.interval_ns
    return SeamBroken(
        f"storage of {symbol} {what} at {format_time(first)} ({len(times)} bars in all)",
        cause=cause,
        missing=[Gap(symbol, first, last, len(times), cause)],
        command=request.repair(symbol, first, last),
        symbol=symbol,
        open_times_ns=tuple(int(t) for t in times[:GAPS_SHOWN]),
    )


def _first_frontier(request: Request, newest: ConformedColumns) -> int:
    """A symbol that was never sealed has no history; its log begins with its first bar."""
    if not len(newest):
        return request.grid.up(request.start_ns)
    return int(newest.open_time_ns[0])


def _sealed_rows(settled: Settled, start_ns: int, stop_ns: int) -> ConformedColumns:
    parts = []
    frontier = None if settled.seal is None else settled.seal.frontier_ns
    for block in settled.blocks:
        if block.columns is None:
            continue
        times = block.columns.open_time_ns
        if len(times) and frontier is not None and times[-1] >= frontier:
            raise ContractError(
                f"storage of {settled.symbol} has a bar at {format_time(int(times[-1]))}, not "
                f"before its frontier {format_time(frontier)}",
                parameter="frontier",
                value=frontier,
                cause="row_beyond_frontier",
                symbol=settled.symbol,
            )
        lo, hi = np.searchsorted(times, (start_ns, max(start_ns, stop_ns)))
        if hi > lo:
            parts.append(block.columns.take(slice(lo, hi)))
    rows = ConformedColumns.concat(parts)
    if len(rows) and not bool((np.diff(rows.open_time_ns) > 0).all()):
        raise ContractError(
            f"two blocks of {settled.symbol} hold the same open time",
            parameter="block_start",
            cause="blocks_overlap",
            symbol=settled.symbol,
        )
    return rows


def _check_join_is_retained(
    request: Request, seal: SealFacts, above: ConformedColumns, begin_offset: int
) -> None:
    """Retention removes the oldest records. A bar whose first revision is retained has all later
    ones too, so nothing was lost when the bars from the frontier on are all there."""
    newest = int(above.open_time_ns[-1]) + request.grid.interval_ns if len(above) else None
    if newest is not None and not missing_runs(
        request.grid, above.open_time_ns, seal.frontier_ns, newest
    ):
        return
    end = seal.frontier_ns + request.block_ns if newest is None else newest
    lost = missing_runs(request.grid, above.open_time_ns, seal.frontier_ns, end)
    missing = [Gap(seal.symbol, a, b, n, "retention") for a, b, n in lost]
    raise SeamBroken(
        f"the join point of {seal.symbol} is gone: conformed is needed from offset "
        f"{seal.conformed_offset}, its first retained record is {begin_offset}",
        cause="join_point_gone",
        missing=missing,
        command=request.repair(seal.symbol, seal.frontier_ns, end),
        symbol=seal.symbol,
        conformed_offset=seal.conformed_offset,
        begin_offset=begin_offset,
    )


def _claims(seal: SealFacts | None, first_ns: int | None, frontier_ns: int) -> tuple[int, int]:
    """(first bar, start of what was asked for). The log may have a bar before what the seal knows;
    without any bar there is nothing before the frontier."""
    if seal is None:
        start = frontier_ns if first_ns is None else first_ns
        return start, start
    history = seal.history_start_ns if first_ns is None else min(seal.history_start_ns, first_ns)
    return history, seal.asked_start_ns


def _never_asked(request: Request, symbol: str, covered_ns: int) -> tuple[Gap, ...]:
    """What lies before the first bar is missing only where nobody asked for it."""
    start, stop = request.grid.up(request.start_ns), min(covered_ns, request.stop_ns)
    bars = request.grid.count(start, stop)
    return (Gap(symbol, start, stop, bars, NOT_BACKFILLED),) if bars else ()


def _sealed_gaps(
    request: Request,
    settled: Settled,
    sealed: ConformedColumns,
    frontier_ns: int,
    history_ns: int,
) -> tuple[tuple[Gap, ...], tuple[Gap, ...]]:
    """(gaps with a cause, gaps without) between the first bar and the frontier."""
    symbol, grid = settled.symbol, request.grid
    start, stop = max(grid.up(request.start_ns), history_ns), min(frontier_ns, request.stop_ns)
    runs = missing_runs(grid, sealed.open_time_ns, start, stop)
    causes, unexplained = explained(grid, runs, [gap.entry for gap in settled.gaps])
    return (
        tuple(gap_of(symbol, *cause) for cause in causes),
        tuple(Gap(symbol, a, b, n, UNKNOWN) for a, b, n in unexplained),
    )


def gap_of(symbol: str, start_ns: int, end_ns: int, bars: int, entry: GapFacts) -> Gap:
    """What a ledger's entry says of a span."""
    return Gap(symbol, start_ns, end_ns, bars, entry.cause, known_time_ns=entry.known_time_ns)


def merged_order(parts: Sequence[Part]) -> tuple[ConformedColumns, I8, Bool]:
    """All rows of all symbols by (open time, symbol): columns, index of the part, provisional."""
    columns, owners, young = [], [], []
    for index, part in enumerate(parts):
        columns += [part.sealed, part.log]
        owners.append(np.full(len(part.sealed) + len(part.log), index, np.int64))
        young += [np.zeros(len(part.sealed), np.bool_), part.log_provisional]
    rows = ConformedColumns.concat(columns)
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    flags = np.concatenate(young) if young else np.zeros(0, np.bool_)
    if len(parts) == 1:
        return rows, owner, flags
    order = np.lexsort((owner, rows.open_time_ns))
    return rows.take(order), owner[order], flags[order]


def by_partition(symbols: Mapping[str, int]) -> dict[int, list[str]]:
    """Symbols of each partition."""
    found: dict[int, list[str]] = {}
    for symbol, partition in symbols.items():
        found.setdefault(partition, []).append(symbol)
    return found
