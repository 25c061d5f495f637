"""The invariants, checked when each transaction commits and with each event that a reader gets.

Decides: whether what was written and what was read is what the model says. Invariants that it
holds the plane to, by name (`INVARIANTS`): what is below. Everything is read back from the broker's
records; nothing of the machine's memory is looked at. Must not know: why an act was done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import (
    COMPLETED,
    CONFIRMED,
    PROVISIONAL,
    Block,
    ConformedColumns,
)
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.schemas.records import decode_record
from seamline.schemas.topics import parse_gap_key, partition_of, topic_name
from seamline.streams.kernel.intake import CLOCK_SKEW_NS
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import Bar, Event, LateBar, Revision
from seamline.streams.kernel.simulation.broker import Transaction
from seamline.streams.kernel.simulation.model import Bar as LandedBar
from seamline.streams.kernel.simulation.model import Beat, LogRow, Model, Series
from seamline.streams.kernel.simulation.venue import MINUTE_NS, minute_of, time_of

if TYPE_CHECKING:
    from seamline.streams.kernel.simulation.reader import Reader
    from seamline.streams.kernel.simulation.worker import Taken
    from seamline.streams.kernel.simulation.world import World

INVARIANTS: Final = {
    "gap": "no gap without a ledger entry",
    "final": "no bar is called final before it is",
    "duplicate": "no duplicate of identity and revision in the conformed log",
    "invented": "no value that was never received",
    "digest": "sealed digests and roots equal a recomputation from the model",
    "stream": "a reader's stream equals the model's",
    "log": "the committed log is what the model makes of what landed",
    "once": "every landed record is consumed once, in its order",
    "watermark": "a watermark speaks of nothing that has not landed",
    "settled": "what the venue settled is stored, or a gap in the ledger",
    "alive": "when all is calm everything goes on",
}
FIELDS: Final = ("open", "high", "low", "close", "volume", "quote_volume")
IDS: Final = ("trades", "first_trade_id", "last_trade_id")


class Violation(AssertionError):  # noqa: N818 - what it is, not that it is an error
    """An invariant does not hold. `invariant` is a key of INVARIANTS."""

    def __init__(self, invariant: str, detail: str) -> None:
        self.invariant = invariant
        self.detail = detail
        super().__init__(f"{INVARIANTS.get(invariant, invariant)}: {detail}")


def rows_of(columns: ConformedColumns) -> list[tuple[Any, ...]]:
    """(minute, values, source, revision, flags) of each row."""
    floats = [getattr(columns, name).tolist() for name in FIELDS]
    whole = [[None if i < 0 else i for i in getattr(columns, name).tolist()] for name in IDS]
    floats[5] = [None if f != f else f for f in floats[5]]  # noqa: PLR0124 - NaN
    values = zip(*floats, *whole, strict=True)
    minutes = ((columns.open_time_ns - time_of(0)) // MINUTE_NS).tolist()
    return list(
        zip(
            *(minutes, values, columns.source.tolist()),
            *(columns.revision.tolist(), columns.flags.tolist()),
            strict=True,
        )
    )


def columns_of(rows: Sequence[tuple[int, Sequence[Any]]]) -> ConformedColumns:
    """(minute, values) as columns; all else is 0."""
    columns = ConformedColumns.empty(len(rows))
    for name in ConformedColumns.DTYPES:
        getattr(columns, name)[:] = 0
    columns.open_time_ns[:] = [time_of(minute) for minute, _ in rows]
    for place, name in enumerate(FIELDS):
        found = [values[place] for _, values in rows]
        getattr(columns, name)[:] = [np.nan if value is None else value for value in found]
    for place, name in enumerate(IDS, len(FIELDS)):
        found = [values[place] for _, values in rows]
        getattr(columns, name)[:] = [-1 if value is None else value for value in found]
    return columns


@dataclass(slots=True)
class Symbol:
    """What the records of one symbol have said so far. `history`: each accepted version of a bar,
    `first`: offset of its first log row, `digests`: block -> (what it was made of, digest)."""

    history: dict[int, list[LogRow]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    ledger: dict[int, tuple[int, str]] = field(default_factory=dict)
    blocks: dict[int, tuple[bytes, int, int]] = field(default_factory=dict)
    sealed: int | None = None
    digests: dict[int, tuple[tuple[int, int], bytes]] = field(default_factory=dict)
    touched: Counter[int] = field(default_factory=Counter)
    superseded: set[tuple[int, int]] = field(default_factory=set)


class Auditor:
    """Sees what is landed, committed and delivered. Raises Violation."""

    def __init__(self, world: World) -> None:
        self._world = world
        preset = world.preset
        self.models = {
            partition: Model(preset.block_rows, preset.stabilization_bars, world.settings.mode)
            for partition in range(preset.partitions)
        }
        self.symbols: dict[str, Symbol] = {}
        self.checked: Counter[str] = Counter()
        self._at: dict[tuple[int, str], int] = {}
        self._known_ns: dict[int, int] = {}
        self._rows: set[tuple[str, str, int, int]] = set()
        self._beat_at: dict[str, int] = {}
        self.decoder = ConformedDecoder(world.table)
        self._empties: dict[str, bytes] = {}
        self._decoded: dict[tuple[str, int, int], Block] = {}

    def model_of(self, symbol: str) -> Model:
        return self.models[partition_of(symbol, self._world.preset.partitions)]

    def of(self, symbol: str) -> Symbol:
        return self.symbols.setdefault(symbol, Symbol())

    def expect(self, holds: bool, invariant: str, detail: object) -> None:
        """`detail` is shown as it is, or called for what to show."""
        self.checked[invariant] += 1
        if not holds:
            raise Violation(invariant, str(detail() if callable(detail) else detail))

    # --- a connector's heartbeat

    def heartbeat(self, through: int, began: Mapping[str, int]) -> None:
        """Every bar of the venue before `through` has landed on `live`."""
        venue, landed = self._world.venue, self._world.landed_live
        for symbol, first in began.items():
            start = max(self._beat_at.get(symbol, first), first)
            for minute in range(start, through):
                there = minute not in venue.truth[symbol] or (symbol, minute) in landed
                where = (symbol, minute)
                self.expect(there, "watermark", lambda w=where: f"{w} before {through} not landed")
            self._beat_at[symbol] = max(start, through)

    # --- a transaction

    def commit(
        self, partition: int, taken: Sequence[Taken], transaction: Transaction, *, ticked: bool
    ) -> None:
        """What one owner's transaction says, against the model that consumed the same records."""
        by_role: dict[str, list[MemoryRecord]] = {}
        preset = self._world.preset
        for record in transaction.records:
            head, _, role = record.topic.rpartition(".")
            if head.endswith(preset.id):
                by_role.setdefault(role, []).append(record)
        self.expect("positions" in by_role, "once", "a transaction without its position")
        position = decode_record("position", by_role["positions"][-1].value or b"")
        self._consumed(partition, taken, position)
        model = self.models[partition]
        refused = self._see(model, taken)
        quarantined = len(by_role.get("quarantine", ()))
        self.expect(quarantined == refused, "once", f"{quarantined} quarantined, {refused} refused")
        seals = [decode_record("seal", record.value or b"") for record in by_role.get("seals", ())]
        if ticked:
            frontiers = {seal["symbol"]: minute_of(seal["frontier_ns"]) for seal in seals}
            try:
                model.tick(frontiers)
            except AssertionError as error:
                raise Violation("log", f"a tick moved a frontier too far: {frontiers}") from error
        self._log(model, by_role.get("conformed", ()))
        self._derived(model, transaction)
        self._replaced(by_role.get("superseded", ()))
        for record in by_role.get("storage", ()):
            self._block(model, self.block(record))
        for record in by_role.get("gaps", ()):
            self._entry(record)
        for seal in seals:
            self._seal(model, seal)
        self._position(partition, model, position)

    def _consumed(
        self, partition: int, taken: Sequence[Taken], position: Mapping[str, Any]
    ) -> None:
        """The position covers exactly the records that were consumed, each once."""
        preset = self._world.preset
        for role in ("live", "backfill"):
            at, upto = self._at.get((partition, role), 0), position[f"{role}_offset"]
            log = self._world.broker.log(topic_name(preset.id, role), partition)
            expected = [record.offset for record in log.committed(at, upto)]
            seen: dict[int, None] = {}
            for one in taken:
                if one.role == role:
                    for record in one.records:
                        # What changed nothing has no commit of its own and may be offered again.
                        again = record.offset in seen or record.offset < at
                        holds = not again or self._idle(record)
                        self.expect(holds, "once", f"{role} {record.offset} consumed twice")
                        seen[record.offset] = None
            covered = [offset for offset in seen if at <= offset < upto]
            self.expect(
                upto >= at and covered == expected,
                "once",
                f"{role} of {partition}: position {at} to {upto} covers {expected}, "
                f"consumed were {covered}",
            )
            self._at[partition, role] = upto

    def _idle(self, record: MemoryRecord) -> bool:
        """A heartbeat, or the preview of a bar that is still open."""
        event = self._world.landed[record.topic, record.partition].get(record.offset)
        return isinstance(event, Beat) or (isinstance(event, LandedBar) and not event.closed)

    def _see(self, model: Model, taken: Sequence[Taken]) -> int:
        """Let the model consume; the number of records that it refuses."""
        world = self._world
        refused = 0
        for one in taken:
            model.mode = one.mode
            for record in one.records:
                event = world.landed[record.topic, record.partition].get(record.offset)
                # A bar off the grid is over at its own time, not at its cell's.
                shift_ns = event.shift_ns if isinstance(event, LandedBar) else 0
                closed = minute_of(one.clock_ns + CLOCK_SKEW_NS - shift_ns)
                if event is None:
                    refused += 1
                elif model.see(one.role, event, closed):
                    refused += 1
                    strict = isinstance(event, LandedBar) and event.volume < 0
                    world.faults["refused_strict" if strict else "refused_future"] += 1
        for row in model.history:
            symbol = self.of(row.symbol)
            symbol.history.setdefault(row.cell, []).append(row)
            symbol.touched[model.floor(row.cell)] += 1
        model.history.clear()
        return refused

    def _log(self, model: Model, records: Sequence[MemoryRecord]) -> None:
        """The log rows are the model's, in its order; none invented, none twice."""
        expected, model.log = model.log, []
        values = [record.value or b"" for record in records]
        decoded = self.decoder.decode(values) if values else None
        rows = [] if decoded is None else rows_of(decoded.columns)
        self.expect(
            len(rows) == len(expected), "log", lambda: f"rows {rows}, the model has {expected}"
        )
        for i, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
            assert decoded is not None
            minute, stated, source, revision, flags = row
            name = self.decoder.symbols[decoded.sid[i]]
            if not flags & (COMPLETED | CONFIRMED):
                identity = (self._world.preset.id, name, minute, revision)
                self.expect(identity not in self._rows, "duplicate", identity)
                self._rows.add(identity)
            self._received(name, minute, stated)
            found = (name, minute, tuple(stated), source, revision)
            asked = (wanted.symbol, wanted.cell, wanted.values, wanted.source, wanted.revision)
            self.expect(found == asked, "log", lambda f=found, a=asked: f"row {f}, not {a}")
            final = not flags & PROVISIONAL
            self.expect(final != wanted.provisional, "final", f"{name} {minute} said to be {final}")
            self.of(name).first.setdefault(minute, records[i].offset)

    def _derived(self, model: Model, transaction: Transaction) -> None:
        """Log rows and causes of each derived preset."""
        for ratio, of in zip(self._world.settings.ratios, self._world.derived, strict=True):
            log, gaps = (topic_name(of.id, role) for role in ("conformed", "gaps"))
            rows = [record for record in transaction.records if record.topic == log]
            self._derived_log(model, of.id, ratio, rows)
            for record in transaction.records:
                if record.topic == gaps and record.value is not None:
                    gap = decode_record("gap", record.value)
                    start, end = minute_of(gap["start_ns"]), minute_of(gap["end_ns"])
                    self._silent(gap["symbol"], start, end, gap["cause"])

    def _derived_log(
        self, model: Model, preset_id: str, ratio: int, records: Sequence[MemoryRecord]
    ) -> None:
        """None twice, and none is final before all its minutes are."""
        if not records:
            return
        decoded = self.decoder.decode([record.value or b"" for record in records])
        for i, (minute, _, _, revision, flags) in enumerate(rows_of(decoded.columns)):
            name = self.decoder.symbols[decoded.sid[i]]
            if not flags & (COMPLETED | CONFIRMED):
                identity = (preset_id, name, minute, revision)
                self.expect(identity not in self._rows, "duplicate", identity)
                self._rows.add(identity)
            stable = model.series[name].stable
            final = max(
                at for at in (stable, model.series[name].frontier, minute) if at is not None
            )
            over = minute + ratio <= final
            self.expect(
                over or bool(flags & PROVISIONAL),
                "final",
                lambda n=name, m=minute, f=final: f"{n} {m}, {ratio} minutes, stable before {f}",
            )

    def _silent(self, name: str, start: int, end: int, cause: str) -> None:
        """Nobody traded in a gap that is said to be without trades."""
        truth = self._world.venue.truth[name]
        traded = [cell for cell in range(start, end) if cell in truth]
        holds = cause != "no_trades" or not traded
        self.expect(holds, "gap", f"{name} {traded} were traded, not {cause}")

    def _received(self, symbol: str, minute: int, values: Sequence[Any]) -> None:
        """The prices were stated together, each optional field by somebody."""
        stated = self._world.venue.stated.get((symbol, minute), ())
        holds = any(s[:5] == tuple(values[:5]) for s in stated)
        for place in range(5, 9):
            value = values[place]
            holds = holds and (value is None or any(s[place] == value for s in stated))
        self.expect(holds, "invented", lambda: f"{symbol} {minute}: {values}")

    def _replaced(self, records: Sequence[MemoryRecord]) -> None:
        values = [record.value or b"" for record in records]
        if not values:
            return
        decoded = self.decoder.decode(values)
        for i, (minute, stated, _, revision, _) in enumerate(rows_of(decoded.columns)):
            name = self.decoder.symbols[decoded.sid[i]]
            known = self.of(name).history.get(minute, ())
            holds = any(r.revision == revision and r.values == stated for r in known)
            self.expect(holds, "invented", f"superseded {name} {minute} {stated}")
            self.of(name).superseded.add((minute, revision))

    def _block(self, model: Model, block: Block) -> None:
        """A block holds the model's bars below the frontier, and its digest is theirs."""
        start = minute_of(block.block_start_ns)
        digest, cells = self._recomputed(model, block.symbol, start)
        bars = model.series[block.symbol].bars
        found = [(row[0], row[1], row[3]) for row in rows_of(block.columns)]
        wanted = [(cell, bars[cell].values, bars[cell].revision) for cell in cells]
        self.expect(
            found == wanted and block.digest == digest,
            "digest",
            lambda: f"block {block.symbol} {start}: {found}, the model has {wanted}",
        )
        self.of(block.symbol).blocks[start] = (block.digest, len(block.columns), block.sequence)

    def _recomputed(self, model: Model, symbol: str, start: int) -> tuple[bytes, list[int]]:
        """Digest and cells of a block by the model."""
        known, series = self.of(symbol), model.series[symbol]
        assert series.frontier is not None
        stop = min(start + model.span, series.frontier)
        cells = [cell for cell in range(start, stop) if cell in series.bars]
        made_of = (known.touched[start], len(cells))
        held = known.digests.get(start)
        if held is None or held[0] != made_of:
            columns = columns_of([(cell, series.bars[cell].values) for cell in cells])
            held = known.digests[start] = (made_of, block_digest(symbol, columns))
        return held[1], cells

    def _empty(self, name: str) -> bytes:
        if name not in self._empties:
            self._empties[name] = block_digest(name, columns_of([]))
        return self._empties[name]

    def block(self, record: MemoryRecord) -> Block:
        """A block record decoded; records never change, so once is enough."""
        where = (record.topic, record.partition, record.offset)
        held = self._decoded.get(where)
        if held is None:
            held = self._decoded[where] = decode_block(record.value or b"")
        return held

    def _entry(self, record: MemoryRecord) -> None:
        symbol, start_ns = parse_gap_key(record.key or b"")
        ledger = self.of(symbol).ledger
        if record.value is None:
            ledger.pop(minute_of(start_ns), None)
            return
        gap = decode_record("gap", record.value)
        ledger[minute_of(start_ns)] = (minute_of(gap["end_ns"]), gap["cause"])

    def _seal(self, model: Model, seal: Mapping[str, Any]) -> None:
        """Frontier, root and log offset of a seal, and the ledger behind it."""
        name, frontier = seal["symbol"], minute_of(seal["frontier_ns"])
        known, series = self.of(name), model.series[name]
        self.expect(
            frontier == series.frontier,
            "log",
            lambda: f"frontier of {name}: {frontier}, the model's is {series.frontier}",
        )
        starts = {model.floor(cell) for cell in series.bars if cell < frontier}
        leaves = []
        for start in sorted(starts):
            digest, cells = self._recomputed(model, name, start)
            leaves.append((time_of(start), digest, len(cells)))
        empty = [s for s, (_, rows, _) in known.blocks.items() if not rows and s not in starts]
        for start in empty:
            asked = any(start <= cell < start + model.span for cell in series.claimed)
            self.expect(asked, "digest", f"an empty block of {name} at {start}: nobody asked")
            leaves.append((time_of(start), self._empty(name), 0))
        root = merkle_root(leaves, self._world.preset.block_ns)
        self.expect(
            seal["merkle_root"] == root
            and seal["rows"] == sum(leaf[2] for leaf in leaves)
            and seal["blocks"] == len(leaves),
            "digest",
            lambda: f"seal {seal}, the model has {leaves}",
        )
        above = [at for cell, at in known.first.items() if cell >= frontier]
        reached = min(above, default=2**62)
        self.expect(
            seal["conformed_offset"] <= reached,
            "stream",
            f"the seal of {name} sends readers to {seal['conformed_offset']}, past {reached}",
        )
        known.sealed = frontier
        self._ledger(name, model)

    def _ledger(self, name: str, model: Model) -> None:
        """What is missing between the first bar and the frontier is in the ledger, nothing else."""
        known, series = self.of(name), model.series[name]
        frontier = series.frontier
        missing: set[int] = set()
        if series.bars and frontier is not None:
            missing = set(range(min(series.bars), frontier)) - series.bars.keys()
        truth = self._world.venue.truth[name]
        named: set[int] = set()
        for start, (end, cause) in known.ledger.items():
            named.update(range(start, end))
            traded = [cell for cell in range(start, end) if cell in truth]
            self._silent(name, start, end, cause)
            proved = self._joined(name, series, start, end)
            self.expect(
                not proved or cause == "no_trades", "gap", f"{name} {start} to {end}: {cause}"
            )
            self._stated(name, model, (start, end), cause)
            if cause == "our_loss":
                # The venue itself may have stated the bar before without its last trade.
                short = series.bars[start - 1].values[8] != truth[start - 1].last_trade_id
                self.expect(bool(traded) or short, "gap", f"{name} {start} to {end}: no loss")
        self.expect(
            named == missing,
            "gap",
            lambda: f"{name}: missing {sorted(missing)}, the ledger names {sorted(named)}",
        )

    def _stated(self, name: str, model: Model, gap: tuple[int, int], cause: str) -> None:
        """An outage is one that the venue stated, or a loss that its settled history owns up to;
        what is awaited has not settled."""
        down: set[int] = set()
        for start, end in model.outages:
            down.update(range(start, (model.watermark or start) if end is None else end))
        missing = set(range(*gap))
        stated, answered = missing <= down, missing <= model.series[name].claimed
        settled = -(2**62)
        if model.watermark is not None:
            settled = minute_of(time_of(model.watermark) - self._world.preset.settle_ns)
        holds = {
            "venue_outage": stated or answered,
            "late": model.watermark is not None and gap[1] > settled and not stated,
            "unknown": not stated,
        }.get(cause, True)
        self.expect(holds, "gap", lambda: f"{name} {gap}: {cause}, stated {model.outages}")

    def _joined(self, name: str, series: Series, start: int, end: int) -> bool:
        """Whether the trade ids of the bars on both sides prove that nobody traded between."""
        sides = series.bars.get(start - 1), series.bars.get(end)
        if None in sides or not self._world.foreign.isdisjoint({(name, start - 1), (name, end)}):
            return False
        before, after = sides
        assert before is not None
        assert after is not None
        trusted = before.stated[3] <= 1 and after.stated[2] <= 1
        ids = before.values[8], after.values[7]
        return trusted and None not in ids and ids[0] + 1 == ids[1]

    def _position(self, partition: int, model: Model, position: Mapping[str, Any]) -> None:
        stated = position["watermark_ns"]
        watermark = None if stated is None else minute_of(stated)
        self.expect(
            watermark == model.watermark, "log", f"watermark {watermark}, not {model.watermark}"
        )
        known_ns = position["known_time_ns"]
        before_ns = self._known_ns.get(partition, 0)
        self.expect(known_ns > before_ns, "log", f"known time {known_ns} after {before_ns}")
        self._known_ns[partition] = known_ns

    # --- readers

    def watermarks(self) -> dict[int, int]:
        return {
            partition: time_of(model.watermark)
            for partition, model in self.models.items()
            if model.watermark is not None
        }

    def shown(self, reader: Reader) -> dict[tuple[str, int], int]:
        """(symbol, minute) -> number of versions that every reader can see by now; nothing where a
        transaction is not shown everywhere, and of derived presets: the model keeps no versions of
        theirs."""
        if self._world.broker.unsettled or reader.ratio > 1:
            return {}
        return {
            (name, minute): len(versions)
            for name in reader.symbols
            for minute, versions in self.of(name).history.items()
            if minute >= reader.start_minute
        }

    def delivered(self, reader: Reader, event: Event) -> None:
        """Every bar that a reader gets is a version that the model accepted."""
        if reader.ratio > 1 or not isinstance(event, Bar | LateBar | Revision):
            return
        bar = event if isinstance(event, Bar) else event.bar
        versions = self.of(bar.symbol).history.get(minute_of(bar.open_time_ns), ())
        holds = any(v.revision == bar.revision and v.values == bar.content for v in versions)
        self.expect(holds, "stream", lambda: f"{reader.name} got {bar}, the model had {versions}")

    def caught_up(self, reader: Reader, certificate: Certificate) -> None:
        """History holds all that was committed when the reader began, none of it older."""
        held = reader.delivered.bars
        for where, versions in reader.must.items():
            bar = held.get(where)
            name, minute = where
            accepted = self.of(name).history[minute]
            holds = bar is not None and any(
                v.values == bar.content for v in accepted[versions - 1 :]
            )
            self.expect(holds, "stream", lambda w=where, b=bar: f"{w} is {b} in the history")
        self.expect(
            certificate.facts["duplicates"] == 0
            and certificate.facts["missing_without_entry"] == 0,
            "stream",
            "a certificate with duplicates or gaps without an entry",
        )

    def at_rest(self, reader: Reader) -> None:
        """A reader that has read all that is shown holds exactly what stands."""
        found = {where: bar.content for where, bar in reader.delivered.bars.items()}
        whole = self.standing(reader)
        expected = {at: row for at, row in whole.items() if at[1] >= reader.start_minute}
        self.expect(
            found == expected,
            "stream",
            lambda: f"{reader.name} differs at {_differences(found, expected)}",
        )
        for name in reader.symbols:
            self._told(reader, name, {cell for symbol, cell in found if symbol == name})

    def standing(self, reader: Reader) -> dict[tuple[str, int], tuple[Any, ...]]:
        """What a reader's symbols have in its preset: (symbol, minute) -> values."""
        expected = {}
        for name in reader.symbols:
            model = self.model_of(name)
            if reader.ratio > 1:
                rows = model.derived(reader.ratio, name)
                expected.update({at: row[:9] for at, row in rows.items()})
            elif name in model.series:
                bars = model.series[name].bars
                expected.update({(name, cell): bar.values for cell, bar in bars.items()})
        return expected

    def _told(self, reader: Reader, name: str, cells: set[int]) -> None:
        """What is missing before a reader's newest bar has been told as a gap."""
        if not cells:
            return
        told: set[int] = set()
        for start, end in reader.delivered.told.get(name, ()):
            told.update(range(start, end))
        missing = set(range(min(cells), max(cells), reader.ratio)) - cells - told
        self.expect(not missing, "gap", lambda: f"{reader.name} was not told {name} {missing}")


def _differences(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> str:
    keys = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    shown = [f"{k}: {found.get(k)} for {expected.get(k)}" for k in keys[:3]]
    return f"{len(keys)} bars: {shown}"
