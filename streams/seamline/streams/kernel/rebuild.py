"""A machine from its own log.

Decides: what is read back, in which order, and what each record means for the state. Invariants: a
rebuilt machine decides every later record like the one that wrote the log; what is read ends at one
fence per topic, taken after the former owner was fenced. Must not know: how records are fetched.

Order: position, then for each level seals, ledger, block index, and the log from the lowest offset
that a seal names (or from its beginning where there is no seal).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seamline.schemas.codec import ConformedDecoder
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import I8, SOURCES, Block, ConformedColumns
from seamline.schemas.contract import version_written
from seamline.schemas.errors import ContractError, TransportError
from seamline.schemas.outages import parse_spans
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.topics import (
    HEADER_CLAIMS,
    HEADER_OUTAGES,
    parse_gap_key,
    parse_storage_key,
    parse_symbol_key,
    topic_name,
)
from seamline.streams.kernel.block_index import BlockIndex, Entry
from seamline.streams.kernel.calendar import ALWAYS, Calendar
from seamline.streams.kernel.coverage import Coverage
from seamline.streams.kernel.gap_causes import UNKNOWN, Rule, written_as
from seamline.streams.kernel.intake import Intake
from seamline.streams.kernel.level import (
    B_CLAIM_END,
    B_CLAIM_START,
    CELL,
    OFFSET,
    REG_WATERMARK,
    S_FIRST,
    S_FRONTIER,
    S_LIVE,
    S_NEWEST,
    SLOTS_MAX,
    SYMBOL,
    UNSET,
    Level,
    Rows,
    Written,
)
from seamline.streams.kernel.level_columns import cells_of_columns
from seamline.streams.kernel.machine import PartitionMachine
from seamline.streams.kernel.protocol import PartitionReader, Stored
from seamline.streams.kernel.restore import (
    FINISHED,
    SLOTS,
    follow_frontiers,
    newest_cell,
    restore,
    settle_newest,
)
from seamline.streams.kernel.seal import Ledger
from seamline.streams.kernel.stage import SLOTS_STEP, Stage, SymbolSeal
from seamline.streams.kernel.writers import Resolve

NO_POSITION: Final = {
    "live_offset": 0,
    "backfill_offset": 0,
    "watermark_ns": None,
    "known_time_ns": 0,
    "rows_total": 0,
    "modes_version": 0,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all machines of one preset share. `ids`: schema name -> registry id; `open_index`:
    the block index of (preset id, partition, storage topic); `calendar`: when bars of the preset
    are expected."""

    preset: Preset
    derived: tuple[Preset, ...]
    ids: Mapping[str, int]
    resolve: Resolve
    owner: str
    open_index: Callable[[str, int, str], BlockIndex]
    calendar: Calendar = ALWAYS


def rebuild(setting: Setting, reader: PartitionReader) -> PartitionMachine:
    """The machine of `reader.partition` as the log has it."""
    position, outages = _position(setting, reader)
    stages: list[Stage] = []
    try:
        for preset in (setting.preset, *setting.derived):
            stages.append(_stage(setting, preset, reader, position["watermark_ns"], stages))
    except BaseException:
        for stage in stages:
            stage.index.close()
        raise
    parent = stages[0]
    for stage, ratio in zip(stages[1:], parent.level.ratios.tolist(), strict=True):
        follow_frontiers(parent.level, stage.level, ratio)
    intake = Intake(setting.preset, reader.partition, parent.level, setting.resolve)
    return PartitionMachine(
        stages=stages,
        intake=intake,
        partition=reader.partition,
        owner=setting.owner,
        position={"live": position["live_offset"], "backfill": position["backfill_offset"]},
        known_ns=position["known_time_ns"],
        rows_total=position["rows_total"],
        ids=setting.ids,
        outages=outages,
        modes_version=position["modes_version"],
    )


def _position(setting: Setting, reader: PartitionReader) -> tuple[Mapping[str, Any], bytes | None]:
    """The newest position, and the venue's statement that came with it."""
    found = newest_records(reader, topic_name(setting.preset.id, "positions"))
    if not found:
        return NO_POSITION, None
    record = found[-1]
    return read_fields("position", record), header_of(record, HEADER_OUTAGES)


def read_fields(name: str, record: Stored) -> dict[str, Any]:
    """The fields of a small record of ours, of whatever approved version."""
    return decode_record(name, record.value or b"", _version(name, record))


def _version(name: str, record: Stored) -> int:
    version = version_written(name, record.headers)
    if version is None:
        raise ContractError(
            f"no approved version of {name}",
            parameter=record.topic,
            value=record.offset,
            fix="Allow only workers to write to it, and run none that is older than the newest",
            reason="unknown_schema",
        )
    return version


def newest_records(reader: PartitionReader, topic: str) -> list[Stored]:
    """The newest record of each key in offset order, no tombstones; `latest` with headers."""
    newest: dict[bytes | None, Stored] = {}
    for records in reader.range(topic, None):
        newest.update((record.key, record) for record in records)
    found = [r for r in newest.values() if r.key is not None and r.value is not None]
    return sorted(found, key=lambda record: record.offset)


def header_of(record: Stored, name: str) -> bytes | None:
    """The first header of that name."""
    return next((value for key, value in record.headers if key == name), None)


def make_level(preset: Preset, parent: Preset, derived: tuple[Preset, ...]) -> Level:
    """The empty level of a preset; `derived` are the presets whose windows it feeds.

    Raises ContractError for a derived preset of an exchange calendar, and for a window that neither
    divides a block nor is whole blocks.
    """
    for child in derived:
        if child.calendar != ALWAYS.name or parent.calendar != ALWAYS.name:
            raise ContractError(
                "a worker rolls up windows of the clock, not sessions of an exchange",
                parameter="calendar",
                value=child.calendar if child.calendar != ALWAYS.name else parent.calendar,
                fix=f"Remove derive_from of {child.id}; roll sessions up with "
                "seamline.streams.kernel.rollup_windows",
                preset=child.id,
            )
    return Level(
        span=preset.block_rows,
        stabilization_bars=parent.stabilization_bars,
        ratios=tuple(child.interval_ns // preset.interval_ns for child in derived),
        derived=preset.id != parent.id,
        rank=tuple(parent.authority.index(source) for source in SOURCES),
    )


def _stage(
    setting: Setting,
    preset: Preset,
    reader: PartitionReader,
    watermark_ns: int | None,
    before: list[Stage],
) -> Stage:
    derived = () if before else setting.derived
    level = make_level(preset, setting.preset, derived)
    if before:
        # Symbols have one number on all levels.
        for name in before[0].level.symbols:
            level.symbol_id(name)
    elif watermark_ns is not None:
        level.state.reg[REG_WATERMARK] = preset.cell_of(watermark_ns)
    storage = topic_name(preset.id, "storage")
    index = setting.open_index(preset.id, reader.partition, storage)
    try:
        _advance_index(index, storage, reader)
        stage = Stage(
            *(preset, level, index),
            lambda entry: _load(reader, storage, index, entry),
            setting.ids,
            parent=before[0] if before else None,
            calendar=setting.calendar,
            owner=setting.owner,
        )
        claims = _seals(stage, reader)
        _ledgers(stage, reader)
        _log(stage, reader)
        _claims(stage, claims)
    except BaseException:
        index.close()
        raise
    return stage


def _load(reader: PartitionReader, topic: str, index: BlockIndex, entry: Entry) -> Block:
    """The newest version of a block. An index that names something else is emptied: it is only a
    copy, and the next machine makes it anew from storage. No record is to blame for it."""
    try:
        record = reader.one(topic, entry.offset)
    except ContractError:
        record = None
    if record is None or record.value is None:
        index.clear()
        raise TransportError(
            "the block index named what storage does not have; it was emptied and is made anew",
            parameter="storage",
            value=f"{entry.symbol}@{entry.start_ns}",
        )
    return _block(record)


def _block(record: Stored) -> Block:
    return decode_block(record.value or b"", _version("bar_block", record))


def _entries(records: Iterable[Stored]) -> Iterable[Entry]:
    for record in records:
        if record.key is None or record.value is None:
            continue
        block = _block(record)
        through = block.complete_through_ns
        yield Entry(
            *(*parse_storage_key(record.key), block.digest, len(block.columns)),
            *(block.range_start_ns, block.range_start_ns if through is None else through),
            record.offset,
        )


def _advance_index(index: BlockIndex, topic: str, reader: PartitionReader) -> None:
    """Bring the index up to the fence; start afresh where the topic is not the one it was made
    of."""
    if index.next_offset and not _still_true(index, topic, reader):
        index.clear()
    for records in reader.range(topic, index.next_offset or None):
        if records:
            index.load(_entries(records), records[-1].offset + 1)


def _still_true(index: BlockIndex, topic: str, reader: PartitionReader) -> bool:
    """Whether the newest indexed record lies where the index says. A newest record is never
    compacted away, so a topic that was deleted and made again shows here."""
    newest = index.newest()
    if newest is None or index.next_offset > reader.fence(topic):
        return False
    try:
        (found,) = _entries([reader.one(topic, newest.offset)])
    except (ContractError, ValueError):
        return False
    return found == newest


def _seals(stage: Stage, reader: PartitionReader) -> dict[int, bytes]:
    """Returns what sources were asked for that no block says, by symbol."""
    level = stage.level
    claims: dict[int, bytes] = {}
    for record in newest_records(reader, topic_name(stage.preset.id, "seals")):
        seal = read_fields("seal", record)
        symbol = level.symbol_id(parse_symbol_key(record.key or b""))
        claims[symbol] = header_of(record, HEADER_CLAIMS) or b""
        level.state.sym[symbol, S_FRONTIER] = stage.cell_of(seal["frontier_ns"])
        level.state.sym[symbol, S_LIVE] = seal["live"]
        if seal["history_start_ns"] < seal["frontier_ns"]:
            level.state.sym[symbol, S_FIRST] = stage.cell_of(seal["history_start_ns"])
        stage.seals[symbol] = SymbolSeal(
            sequence=seal["sequence"],
            storage_sequence=seal["storage_sequence"],
            asked_ns=seal["asked_start_ns"],
            start_ns=seal["history_start_ns"],
            offset_ns=seal["known_time_ns"],
            conformed_offset=seal["conformed_offset"],
        )
    return claims


def _claims(stage: Stage, claims: Mapping[int, bytes]) -> None:
    """Put the claims on open blocks back."""
    level = stage.level
    for symbol, text in claims.items():
        for start_ns, end_ns in parse_spans(text, SLOTS_MAX) or ():
            at, end = stage.cell_of(start_ns), stage.cell_of(end_ns)
            while at < end:
                block = at - at % level.span
                until = min(end, block + level.span)
                slot = level.find_slot(symbol, block)
                if slot < 0:
                    slot = stage.load_block(symbol, block)
                level.state.slot[slot, [B_CLAIM_START, B_CLAIM_END]] = at, until
                at = until


def _ledgers(stage: Stage, reader: PartitionReader) -> None:
    gaps: dict[int, list[tuple[int, int]]] = {}
    causes: dict[int, dict[int, Rule]] = {}
    for record in newest_records(reader, topic_name(stage.preset.id, "gaps")):
        name, _ = parse_gap_key(record.key or b"")
        gap = read_fields("gap", record)
        interval = stage.cell_of(gap["start_ns"]), stage.cell_of(gap["end_ns"])
        symbol = stage.level.symbol_id(name)
        gaps.setdefault(symbol, []).append(interval)
        if gap["cause"] != UNKNOWN:
            why = written_as(gap["cause"], gap["detail"])
            causes.setdefault(symbol, {})[interval[0]] = why
    state = stage.level.state
    for symbol in stage.seals:
        first, frontier = int(state.sym[symbol, S_FIRST]), int(state.sym[symbol, S_FRONTIER])
        if first < frontier:
            ledger = Ledger(Coverage.of_cells(gaps.get(symbol, ())))
            if first != UNSET:
                ledger.start, ledger.end = first, frontier
            ledger.causes = causes.get(symbol, {})
            stage.book.restore(symbol, ledger)


def _log(stage: Stage, reader: PartitionReader) -> None:
    """Put the bars at and above the frontiers back from the log."""
    topic = topic_name(stage.preset.id, "conformed")
    fence = reader.fence(topic)
    stage.bound = fence
    start = min((facts.conformed_offset for facts in stage.seals.values()), default=None)
    decoder = ConformedDecoder()
    numbers = np.empty(0, np.int64)
    for records in reader.range(topic, start):
        values = [record.value for record in records if record.value is not None]
        decoded = decoder.decode(values)
        if not decoded.ok.all():
            raise ContractError(
                "a record that no owner wrote",
                parameter=topic,
                value=records[int(np.flatnonzero(~decoded.ok)[0])].offset,
                fix="Allow only workers to write to conformed topics",
            )
        names = decoder.symbols[len(numbers) :]
        fresh = np.array([stage.level.symbol_id(name) for name in names], np.int64)
        numbers = np.concatenate([numbers, fresh])
        offsets = np.array([record.offset for record in records], np.int64)
        _put_back(stage, numbers[decoded.sid], decoded.columns, offsets)
    if len(stage.level.ratios):
        _load_open_blocks(stage)
    settle_newest(stage.level)


def _load_open_blocks(stage: Stage) -> None:
    """Blocks with their frontier inside: a derived window that is not given on yet may have its
    bars before the frontier, where the log is not read."""
    level = stage.level
    for symbol in stage.seals:
        frontier = int(level.state.sym[symbol, S_FRONTIER])
        block = frontier - frontier % level.span
        if block < frontier and level.find_slot(symbol, block) < 0:
            slot = stage.load_block(symbol, block)
            newest = newest_cell(level, slot)
            level.state.sym[symbol, S_NEWEST] = max(int(level.state.sym[symbol, S_NEWEST]), newest)


def _put_back(stage: Stage, symbols: I8, columns: ConformedColumns, offsets: I8) -> None:
    level = stage.level
    cols, vals = cells_of_columns(columns)
    cols[:, SYMBOL] = symbols
    cols[:, CELL] = stage.cells_of(columns.open_time_ns)
    cols[:, OFFSET] = offsets
    rows = Rows(cols, vals)
    replaced = Written.empty(len(symbols) + 1)
    at, symbol, block = 0, SLOTS, 0
    while symbol != FINISHED:
        at, symbol, block = restore(level.state, rows, at, replaced)
        if symbol == SLOTS:
            level.ensure_free(SLOTS_STEP)
        elif symbol != FINISHED:
            stage.load_block(int(symbol), int(block))
    stage.keep_replaced(replaced)
