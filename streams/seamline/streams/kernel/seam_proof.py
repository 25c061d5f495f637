"""The evidence of a seam: how a certificate is made, and how it is checked against Kafka later.

Decides: which facts prove a seam, and what became of them: the same, revised with an explanation,
or different without one. Invariants: a fact is stated only if it can be recomputed from Kafka; a
change counts as explained only when the rows known at the time of the certificate, found again in
storage, `superseded` and the log by their known time, give the certificate's digest. A version that
was accepted later has a greater known time than everything the certificate saw of its symbol: known
times grow strictly from one transaction of a partition to the next.
Must not know: Kafka clients, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from seamline.schemas.columns import NULL_FLOAT, NULL_INT, PRICE_FIELDS, ConformedColumns
from seamline.schemas.fingerprint import block_digest, dataset_digest
from seamline.schemas.times import NS_PER_MS, format_time, parse_time
from seamline.streams.kernel.seam import Overlap, Part, Request, Settled, newest_rows
from seamline.streams.kernel.seam_certificate import VERSION, Certificate

VERIFIED: Final = "verified"
REVISED: Final = "revised"
EXPIRED: Final = "expired"
UNEXPLAINED: Final = "unexplained"

Positions = Mapping[int, Mapping[str, Mapping[str, int]]]  # partition -> role -> from, fence


def certify(
    request: Request,
    parts: Sequence[Part],
    partitions: Mapping[str, int],
    positions: Positions,
    *,
    made_ns: int,
    resumed: Mapping[str, Any] | None = None,
) -> Certificate:
    """The certificate of a history that is delivered up to the fences of `positions`. `resumed`:
    what of it was handed out before, for a reader that went on from a position."""
    symbols = [_entry(request, part, partitions[part.symbol]) for part in parts]
    whole = dataset_digest((entry["symbol"], bytes.fromhex(entry["digest"])) for entry in symbols)
    through = max((part.passed_ns for part in parts), default=request.start_ns)
    return Certificate.of(
        {
            "certificate": VERSION,
            "preset": request.preset_id,
            "interval_ms": request.grid.interval_ns // NS_PER_MS,
            "start": format_time(request.start_ns),
            "end": None if request.end_ns is None else format_time(request.end_ns),
            "through": format_time(through),
            "on_gap": request.on_gap.value,
            "made": format_time(made_ns),
            "positions": {
                str(partition): {role: dict(where) for role, where in roles.items()}
                for partition, roles in positions.items()
            },
            "symbols": symbols,
            "bars_history": sum(entry["history"]["bars"] for entry in symbols),
            "bars_log": sum(entry["log"]["bars"] for entry in symbols),
            "missing_bars": sum(gap["bars"] for entry in symbols for gap in entry["gaps"]),
            "missing_without_entry": sum(entry["missing_without_entry"] for entry in symbols),
            "duplicates": sum(entry["duplicates"] for entry in symbols),
            "digest": whole.hex(),
            **({} if resumed is None else {"resumed": dict(resumed)}),
        }
    )


def _entry(request: Request, part: Part, partition: int) -> dict[str, Any]:
    seal = part.settled.seal
    stop = request.stop_ns if seal is None else min(request.stop_ns, seal.frontier_ns)
    used = [
        block
        for block in part.settled.blocks
        if block.columns is not None and block.block_start_ns < stop
    ]
    rows = ConformedColumns.concat([part.sealed, part.log])
    duplicates = len(rows) - len(np.unique(rows.open_time_ns))
    known = [block.columns for block in used if block.columns is not None]
    return {
        "symbol": part.symbol,
        "partition": partition,
        "frontier": None if seal is None else format_time(seal.frontier_ns),
        "seal_sequence": None if seal is None else seal.sequence,
        "storage_sequence": None if seal is None else seal.storage_sequence,
        "conformed_offset": None if seal is None else seal.conformed_offset,
        "merkle_root": None if seal is None else seal.merkle_root.hex(),
        "blocks_sealed": 0 if seal is None else seal.blocks,
        "rows_sealed": 0 if seal is None else seal.rows,
        "history_start": None if seal is None else format_time(seal.history_start_ns),
        "asked_start": None if seal is None else format_time(seal.asked_start_ns),
        "blocks": [
            {
                "start": format_time(block.block_start_ns),
                "rows": block.rows,
                "digest": block.digest.hex(),
                "prices_digest": prices_digest(part.symbol, columns).hex(),
            }
            for block, columns in zip(used, known, strict=True)
        ],
        "history": {
            "bars": len(part.sealed),
            "known_through": _known_through(known),
        },
        "log": {
            "bars": len(part.log),
            "digest": block_digest(part.symbol, part.log).hex(),
            "known_through": _known_through([part.log]),
        },
        "overlap": _overlap_facts(part.overlap),
        "gaps": [gap.fields() for gap in part.gaps],
        "open": [gap.fields() for gap in part.open_gaps],
        "missing_without_entry": sum(gap.bars for gap in part.unexplained),
        "duplicates": duplicates,
        "digest": block_digest(part.symbol, rows).hex(),
    }


def prices_digest(symbol: str, columns: ConformedColumns) -> bytes:
    """The block digest with all optional fields null: what a completion cannot change."""
    nulls = np.full(len(columns), NULL_INT, np.int64)
    return block_digest(
        symbol,
        replace(
            columns,
            quote_volume=np.full(len(columns), NULL_FLOAT),
            trades=nulls,
            first_trade_id=nulls,
            last_trade_id=nulls,
        ),
    )


def _overlap_facts(overlap: Overlap) -> dict[str, Any]:
    return {
        "compared": overlap.compared,
        "equal": overlap.equal,
        "completed": overlap.completed,
        "newer_in_storage": overlap.newer,
        "empty": overlap.compared == 0,
    }


def _known_through(parts: Sequence[ConformedColumns]) -> str | None:
    newest = max((int(part.known_time_ns.max()) for part in parts if len(part)), default=None)
    return None if newest is None else format_time(newest)


@dataclass(frozen=True, slots=True)
class Change:
    """A span of a certificate whose bars are others now. `status` is `revised` or `unexplained`."""

    symbol: str
    start_ns: int
    status: str
    by: str
    revised: int
    added: int

    def fields(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "start": format_time(self.start_ns),
            "status": self.status,
            "by": self.by,
            "revised": self.revised,
            "added": self.added,
        }


@dataclass(frozen=True, slots=True)
class Now:
    """What Kafka holds of one symbol now.

    `log` are the conformed rows from the certificate's first offset through its fence, `later`
    those after it, both in offset order; `retained` is false when the first of them are deleted.
    """

    settled: Settled
    log: ConformedColumns
    later: ConformedColumns
    retained: bool
    superseded: ConformedColumns


@dataclass(frozen=True, slots=True)
class Verdict:
    """`status` is verified, revised, expired or unexplained; `reasons` are for people."""

    status: str
    changes: tuple[Change, ...]
    reasons: tuple[str, ...]
    blocks_checked: int
    log_bars_checked: int


def recheck(certificate: Certificate, now: Mapping[str, Now]) -> Verdict:
    """Recompute every digest of the certificate from what Kafka holds now."""
    changes: list[Change] = []
    reasons: list[str] = []
    blocks = log_bars = 0
    expired = False
    for entry in certificate.symbols:
        present = now[entry["symbol"]]
        blocks += len(entry["blocks"])
        changes += _changed_blocks(entry, present)
        if present.retained:
            log_bars += entry["log"]["bars"]
            changes += _changed_log(certificate, entry, present)
        elif entry["log"]["bars"] or entry["overlap"]["compared"]:
            expired = True
            reasons.append(
                f"{entry['symbol']}: conformed no longer reaches back to the certificate's offset"
            )
    statuses = {change.status for change in changes}
    if UNEXPLAINED in statuses:
        status = UNEXPLAINED
    elif expired:
        status = EXPIRED
    else:
        status = REVISED if statuses else VERIFIED
    return Verdict(status, tuple(changes), tuple(reasons), blocks, log_bars)


def _time(text: str | None, default: int) -> int:
    return default if text is None else parse_time(text, now_ns=0, parameter="certificate")


def _changed_blocks(entry: Mapping[str, Any], now: Now) -> Iterable[Change]:
    symbol = entry["symbol"]
    frontier = _time(entry["frontier"], 0)
    horizon = _time(entry["history"]["known_through"], 0)
    held = {block.block_start_ns: block for block in now.settled.blocks}
    for stated in entry["blocks"]:
        start, digest = _time(stated["start"], 0), bytes.fromhex(stated["digest"])
        block = held.get(start)
        if block is None or block.columns is None:
            yield Change(symbol, start, UNEXPLAINED, "the block is gone", stated["rows"], 0)
            continue
        rows = _before(block.columns, frontier)
        if block_digest(symbol, rows) == digest:
            continue
        old = _within(now.superseded, start, min(block.block_end_ns, frontier))
        then = _as_of(ConformedColumns.concat([old, rows]), horizon)
        added = int(((rows.known_time_ns > horizon) & (rows.revision == 0)).sum())
        revised = int(((rows.known_time_ns > horizon) & (rows.revision > 0)).sum())
        if block_digest(symbol, then) == digest:
            by = "added rows" if not revised else "superseded"
            yield Change(symbol, start, REVISED, by, revised, added)
        elif prices_digest(symbol, then).hex() == stated["prices_digest"]:
            # A completion keeps revision and known time, so nothing tells which values were null.
            yield Change(symbol, start, REVISED, "completed", revised, added)
        else:
            yield Change(symbol, start, UNEXPLAINED, "nothing in superseded", revised, added)


def _changed_log(certificate: Certificate, entry: Mapping[str, Any], now: Now) -> Iterable[Change]:
    symbol = entry["symbol"]
    start = _time(certificate.facts["start"], 0)
    stop = _time(certificate.facts["end"], 2**63 - 1)
    newest = newest_rows(now.log)
    frontier = _time(entry["frontier"], start)
    log = _within(newest, max(start, frontier), stop)
    if block_digest(symbol, log).hex() != entry["log"]["digest"]:
        yield Change(symbol, frontier, UNEXPLAINED, "the log has other rows", len(log), 0)
        return
    below = len(_within(newest, start, min(frontier, stop))) if entry["frontier"] else 0
    if below != entry["overlap"]["compared"]:
        yield Change(symbol, frontier, UNEXPLAINED, "the log has another overlap", below, 0)
        return
    changed, proved = _revised_since(log, now, _time(entry["log"]["known_through"], 0))
    if changed:
        yield Change(
            symbol,
            frontier,
            REVISED if proved else UNEXPLAINED,
            "later revisions" if proved else "storage contradicts the log",
            changed,
            0,
        )


def _revised_since(log: ConformedColumns, now: Now, horizon_ns: int) -> tuple[int, bool]:
    """(rows of the log part with another content now, whether each is known to be later)."""
    stored = [block.columns for block in now.settled.blocks if block.columns is not None]
    current = newest_rows(ConformedColumns.concat([*stored, now.later]))
    at = np.searchsorted(current.open_time_ns, log.open_time_ns)
    inside = at < len(current)
    found = np.zeros(len(log), np.bool_)
    found[inside] = current.open_time_ns[at[inside]] == log.open_time_ns[inside]
    ours, theirs = log.take(found), current.take(at[found])
    differs = np.array(
        [
            block_digest("", ours.take(slice(i, i + 1)))
            != block_digest("", theirs.take(slice(i, i + 1)))
            for i in range(len(ours))
        ],
        np.bool_,
    )
    seal = now.settled.seal
    sealed = np.zeros(len(log), np.bool_) if seal is None else log.open_time_ns < seal.frontier_ns
    vanished = int((sealed & ~found).sum())
    completed = np.ones(len(ours), np.bool_)  # same prices: only a completion keeps the known time
    for name in PRICE_FIELDS:
        completed &= getattr(ours, name) == getattr(theirs, name)
    later = (theirs.known_time_ns > horizon_ns) | completed
    return int(differs.sum()) + vanished, vanished == 0 and bool(later[differs].all())


def _before(columns: ConformedColumns, stop_ns: int) -> ConformedColumns:
    return columns.take(slice(0, int(np.searchsorted(columns.open_time_ns, stop_ns))))


def _within(columns: ConformedColumns, start_ns: int, stop_ns: int) -> ConformedColumns:
    times = columns.open_time_ns
    return columns.take((times >= start_ns) & (times < stop_ns))


def _as_of(versions: ConformedColumns, horizon_ns: int) -> ConformedColumns:
    """For each open time the newest version known at `horizon_ns`."""
    return newest_rows(versions.take(versions.known_time_ns <= horizon_ns))
