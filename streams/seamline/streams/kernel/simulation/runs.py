"""A run: all acts of a seed, then calm, then the account of everything.

Decides: when a world has healed and what must be true then. The end: 1. every process runs, nothing
goes wrong any more, until all that landed is consumed and read; 2. what the venue settled is stored
or a gap; 3. a backfill of everything: every bar has its settled value; 4. time passes until open
bars are sealed by the clock, compaction and retention do their work; 5. a new reader reads all of
it, and every certificate is checked again. Invariant: bounded rounds; what does not heal fails.
Must not know: how a run is shown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import PARTIAL, ConformedColumns
from seamline.schemas.errors import SeamlineError
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import partition_of, topic_name
from seamline.streams.kernel.memory_log import MemoryRecord
from seamline.streams.kernel.protocol import ROLES
from seamline.streams.kernel.seam import Snapshot
from seamline.streams.kernel.seam_proof import UNEXPLAINED, Now, recheck
from seamline.streams.kernel.simulation.backfill import Backfill
from seamline.streams.kernel.simulation.broker import Log, LogReader
from seamline.streams.kernel.simulation.checks import Violation, rows_of
from seamline.streams.kernel.simulation.minutes import strips
from seamline.streams.kernel.simulation.plan import Act, Settings, acts_of, settings_of
from seamline.streams.kernel.simulation.reader import seal_facts
from seamline.streams.kernel.simulation.venue import HISTORY_MINUTES, minute_of, time_of
from seamline.streams.kernel.simulation.world import Parts, World

ROUNDS_MAX: Final = 40
AGES: Final = 16


@dataclass(frozen=True, slots=True)
class Failure:
    """`act`: number of the act that it showed in, None: at the end."""

    invariant: str
    detail: str
    act: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """What came of some acts in a world."""

    world: World
    acts: Sequence[Act]
    failure: Failure | None

    @property
    def checked(self) -> Counter[str]:
        return self.world.audit.checked


@dataclass(frozen=True, slots=True)
class Survey:
    """Many seeds in short: what went wrong in them, what was judged, and which of them failed."""

    seeds: int
    faults: Counter[str]
    checked: Counter[str]
    failures: tuple[tuple[int, str], ...]


def survey(seeds: Sequence[int], parts: Parts | None = None) -> Survey:
    """Run the seeds one after the other."""
    faults: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        done = run_seed(seed, parts)
        faults.update(done.world.faults)
        checked.update(done.checked)
        if done.failure is not None:
            failures.append((seed, done.failure.invariant))
    return Survey(len(seeds), faults, checked, tuple(failures))


def run_seed(seed: int, parts: Parts | None = None) -> Run:
    """The world of a seed and all its acts."""
    settings = settings_of(seed)
    return run(settings, acts_of(settings), parts)


def run(settings: Settings, acts: Sequence[Act], parts: Parts | None = None) -> Run:
    """Some acts, then the end. What is raised in between is a failure too: nothing may crash."""
    world = World(settings, parts)
    at: int | None = None
    try:
        for number, act in enumerate(acts):
            at = number
            world.do(act)
        at = None
        finish(world)
    except Violation as violation:
        return Run(world, acts, Failure(violation.invariant, violation.detail, at))
    except (SeamlineError, AssertionError, ArithmeticError, LookupError, ValueError) as error:
        return Run(world, acts, Failure(type(error).__name__, str(error), at))
    return Run(world, acts, None)


def finish(world: World) -> None:
    """Calm, and everything that must be true then."""
    begin_calm(world)
    heal(world)
    check_logs(world)
    check_settled(world)
    world.minutes = strips(world)
    backfill_all(world)
    heal(world)
    check_logs(world)
    check_values(world)
    if world.settings.retains:
        grow_old(world)
    fresh_reader(world)
    check_certificates(world)


def begin_calm(world: World) -> None:
    """Nothing goes wrong any more, and who was away comes back."""
    world.calm = True
    world.venue.come_back(world.now_ns)
    world.delayed.clear()
    world.broker.settle_all()
    # Who still waits inside a transaction wakes up first: the group has gone on without it.
    for name, worker in world.workers.items():
        world.do(Act("resume", name))
        worker.up = True
    world.advance(15)
    world.broker.expire()
    world.rebalance(0)
    world.connector.start()
    for reader in world.readers.values():
        if not reader.up:
            reader.start()
    world.note("world", "all is calm")


def heal(world: World) -> None:
    """Rounds until everything that landed is consumed, shown and read."""
    rng = random.Random(0)
    for _ in range(ROUNDS_MAX):
        world.advance(20)
        world.connector.turn(rng, calm=True)
        for worker in world.workers.values():
            worker.turn(rng, None, moves=60)
        _finish_backfills(world, rng)
        for reader in world.readers.values():
            reader.turn(rng, steps=6, limit=5_000)
        world.check_readers()
        if _healed(world):
            return
    raise Violation("alive", f"not healed: {_unhealed(world)}")


def _finish_backfills(world: World, rng: random.Random) -> None:
    while world.backfills:
        run = world.backfills.pop(0)
        while run.turn(rng, calm=True):
            pass


def _healed(world: World) -> bool:
    return not _unhealed(world)


def _unhealed(world: World) -> list[str]:
    """What is left to do, for people."""
    found = []
    feed = world.connector.feed
    edge = minute_of(world.venue.now_ns(world.now_ns))
    if feed is None or feed.holes() or minute_of(feed.watermark_ns) < edge - 1:
        found.append("the feed has holes")
    for partition in range(world.settings.partitions):
        reader = LogReader(world.broker, partition)
        positions = reader.latest(topic_name(world.preset.id, "positions"))
        position = decode_record("position", positions[-1][1]) if positions else {}
        for role in ROLES:
            log = world.broker.log(topic_name(world.preset.id, role), partition)
            left = log.committed(position.get(f"{role}_offset", 0), log.end)
            # What only moves the watermark may wait a second for its commit.
            if any(record.value is not None for record in left) or len(left) > 2:
                found.append(f"{len(left)} records of {role} {partition}")
    for one in world.readers.values():
        known = {symbol for symbol, _ in world.audit.standing(one)}
        if known >= set(one.symbols) and not (one.follows and one.at_end()):
            found.append(f"{one.name} is behind")
    return found


# --- what the logs hold


def check_logs(world: World) -> None:
    """Read everything again from the broker alone, every preset, and compare with the model."""
    for preset in (world.preset, *world.derived):
        ratio = preset.interval_ns // world.preset.interval_ns
        for partition, model in world.audit.models.items():
            found = _standing(world, preset, partition)
            wanted: dict[tuple[str, int], tuple[Any, ...]] = {}
            if ratio == 1:
                wanted = model.final()
                found = {at: row[:-1] for at, row in found.items()}
            else:
                wanted = model.derived(ratio)
                found = {at: (*row[:-2], bool(row[-1] & PARTIAL)) for at, row in found.items()}
            world.audit.expect(
                found == wanted,
                "log",
                lambda p=preset, f=found, w=wanted: f"{p.id} holds {_unlike(f, w)}",
            )


def _unlike(found: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    keys = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    return str([(key, found.get(key), wanted.get(key)) for key in keys[:3]])


def _standing(
    world: World, preset: Preset, partition: int
) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What a reader of storage below the frontier and of the log from the seal's offset has.
    Checks digests and roots of storage and seals on the way."""
    reader = LogReader(world.broker, partition)
    expect = world.audit.expect
    seals = {}
    for key, value, _ in reader.latest(topic_name(preset.id, "seals")):
        seals[key.decode()] = decode_record("seal", value)
    blocks: dict[str, list[Any]] = {symbol: [] for symbol in seals}
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for _, value, _ in reader.latest(topic_name(preset.id, "storage")):
        block = decode_block(value)
        if preset is not world.preset:  # those of the preset were recomputed when they were written
            digest = block_digest(block.symbol, block.columns)
            expect(digest == block.digest, "digest", f"{preset.id} {block.symbol}")
        blocks[block.symbol].append((block.block_start_ns, block.digest, len(block.columns)))
        for minute, values, source, revision, flags in rows_of(block.columns):
            found[block.symbol, minute] = (*values, source, revision, flags)
    for symbol, seal in seals.items():
        root = merkle_root(blocks[symbol], preset.block_ns)
        expect(root == seal["merkle_root"], "digest", f"root of {preset.id} {symbol}")
        below = [at for name, at in found if name == symbol]
        frontier = minute_of(seal["frontier_ns"])
        expect(all(at < frontier for at in below), "digest", f"{symbol} beyond {frontier}")
        _check_derived_ledger(world, preset, reader, symbol, set(below), seal)
    for symbol, row, offset in _log_rows(world, reader, preset):
        minute, values, source, revision, flags = row
        seal = seals[symbol]
        if minute >= minute_of(seal["frontier_ns"]):
            expect(offset >= seal["conformed_offset"], "stream", f"{symbol} {minute} at {offset}")
            found[symbol, minute] = (*values, source, revision, flags)
    return found


def _log_rows(
    world: World, reader: LogReader, preset: Preset
) -> list[tuple[str, tuple[Any, ...], int]]:
    records = [r for part in reader.range(topic_name(preset.id, "conformed"), None) for r in part]
    decoder = world.audit.decoder
    decoded = decoder.decode([record.value or b"" for record in records])
    rows = rows_of(decoded.columns)
    names = [decoder.symbols[sid] for sid in decoded.sid.tolist()]
    return [(names[i], row, records[i].offset) for i, row in enumerate(rows)]


def _check_derived_ledger(
    world: World, preset: Preset, reader: LogReader, symbol: str, cells: set[int], seal: Any
) -> None:
    """Every preset's ledger names exactly what is missing below its frontier."""
    step = preset.interval_ns // world.preset.interval_ns
    named: set[int] = set()
    for _, value, _ in reader.latest(topic_name(preset.id, "gaps")):
        gap = decode_record("gap", value)
        if gap["symbol"] == symbol:
            start, end = minute_of(gap["start_ns"]), minute_of(gap["end_ns"])
            named.update(range(start, end, step))
    first, frontier = minute_of(seal["history_start_ns"]), minute_of(seal["frontier_ns"])
    missing = set(range(first, frontier, step)) - cells if first < frontier else set()
    world.audit.expect(
        named == missing, "gap", f"{preset.id} {symbol}: {sorted(missing)} is {sorted(named)}"
    )


# --- against the venue


def check_settled(world: World) -> None:
    """Every bar that the venue has, from the first accepted one to the watermark, stands or is a
    gap in the ledger."""
    feed = world.connector.feed
    assert feed is not None
    for symbol in world.symbols:
        series = world.audit.model_of(symbol).series.get(symbol)
        if series is None or not series.bars:
            continue
        named: set[int] = set()
        for start, (end, _) in world.audit.of(symbol).ledger.items():
            named.update(range(start, end))
        first, frontier = min(series.bars), series.frontier or 0
        for minute in range(first, minute_of(feed.watermark_ns)):
            traded = minute in world.venue.truth[symbol]
            there = minute in series.bars or minute in named or minute >= frontier
            world.audit.expect(not traded or there, "settled", f"{symbol} {minute}")


def backfill_all(world: World) -> None:
    """Ask the venue for everything that has settled."""
    edge = minute_of(world.venue.now_ns(world.now_ns) - world.preset.settle_ns)
    for symbol in world.symbols:
        span = (time_of(-HISTORY_MINUTES), time_of(edge))
        world.backfills.append(Backfill(world, symbol, *span, again=True))


def check_values(world: World) -> None:
    """Everything that has settled is there with its settled value; nothing else is, but what third
    parties wrote."""
    edge = minute_of(world.venue.now_ns(world.now_ns) - world.preset.settle_ns) - 20
    for symbol in world.symbols:
        series = world.audit.model_of(symbol).series[symbol]
        for minute in range(-HISTORY_MINUTES, edge):
            if (symbol, minute) in world.foreign:
                continue
            bar = series.bars.get(minute)
            found = None if bar is None else bar.values[:7]
            wanted = world.venue.settled(symbol, minute, world.now_ns)
            world.audit.expect(
                found == wanted, "settled", f"{symbol} {minute}: {found}, settled {wanted}"
            )


def grow_old(world: World) -> None:
    """The venue falls silent, time passes: what is open is sealed by the clock before the log
    forgets it."""
    rng = random.Random(0)
    world.connector.crash()
    step_s = world.settings.retention_ns // 10**9 // AGES
    for age in range(AGES * 3 // 2):
        world.now_ns += step_s * 10**9
        world.broker.now_ns = world.now_ns
        for worker in world.workers.values():
            worker.turn(rng, None, moves=10)
        for reader in world.readers.values():
            reader.turn(rng, steps=6, limit=5_000)
        world.check_readers()
        if age % 6 == 5:
            world.do(Act("expire"))
            world.do(Act("compact"))
    log = world.audit.symbols
    for symbol in world.symbols:
        series = world.audit.model_of(symbol).series[symbol]
        left = [cell for cell in series.bars if cell >= (series.frontier or 0)]
        world.audit.expect(
            not left, "alive", f"{symbol} {left} not sealed within retention {log[symbol].sealed}"
        )


def fresh_reader(world: World) -> None:
    """A reader that begins now delivers all there is, in one history."""
    reader = world.parts.reader(world, "fresh", world.symbols, -HISTORY_MINUTES)
    world.readers["fresh"] = reader
    reader.start()
    rng = random.Random(0)
    for _ in range(6):
        if not (reader.follows and reader.at_end()):
            reader.turn(rng, steps=6, limit=5_000)
    world.audit.expect(reader.follows and reader.at_end(), "alive", "a new reader does not begin")
    world.audit.at_rest(reader)


def check_certificates(world: World) -> None:
    """What the certificates of all readers state can be proved from the broker later."""
    snapshot = Snapshot(world.readers["fresh"].request)
    for partition in range(world.settings.partitions):
        for record in _newest(_log(world, "storage", partition)):
            snapshot.add_block(world.audit.block(record))
        for record in _newest(_log(world, "seals", partition)):
            snapshot.add_seal(seal_facts(record.value or b""))
    for reader in world.readers.values():
        for certificate in reader.certificates if reader.ratio == 1 else ():
            now = {
                symbol: _now(world, snapshot, symbol, certificate.facts["positions"])
                for symbol in reader.symbols
            }
            verdict = recheck(certificate, now)
            world.audit.expect(
                verdict.status != UNEXPLAINED,
                "stream",
                lambda v=verdict, r=reader: f"a certificate of {r.name}: {v.changes}",
            )


def _newest(log: Log) -> list[MemoryRecord]:
    """The newest committed record of each key, in offset order."""
    newest = {record.key: record for record in log.committed(0, log.end)}
    return sorted(newest.values(), key=lambda record: record.offset)


def _log(world: World, role: str, partition: int) -> Log:
    return world.broker.log(topic_name(world.preset.id, role), partition)


def _now(world: World, snapshot: Snapshot, symbol: str, positions: Any) -> Now:
    """What the broker holds of a symbol, as `sdk.certificate` reads it."""
    partition = partition_of(symbol, world.settings.partitions)
    where = positions[str(partition)]["conformed"]
    conformed = _log(world, "conformed", partition)
    superseded = _log(world, "superseded", partition)
    return Now(
        settled=snapshot.settle(symbol),
        log=_columns(world, conformed.committed(where["from"], where["fence"]), symbol),
        later=_columns(world, conformed.committed(where["fence"], 2**62), symbol),
        retained=where["from"] >= conformed.begin,
        superseded=_columns(world, superseded.committed(0, 2**62), symbol),
    )


def _columns(world: World, records: Sequence[Any], symbol: str) -> ConformedColumns:
    values = [record.value for record in records if record.key == symbol.encode()]
    return world.audit.decoder.decode(values).columns
