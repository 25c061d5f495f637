"""One partition without a broker: presets, landed records, a machine on a log in memory, and what
the log says in the end. For tests of the machine and of the kernel behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.codec_blocks import decode_block, encode_block
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS, Schema
from seamline.schemas.fingerprint import block_digest, merkle_root
from seamline.schemas.modes import CANARY, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_MS, NS_PER_S
from seamline.schemas.topics import partition_of, topic_name
from seamline.streams.apps.factory import OhlcvFactory
from seamline.streams.kernel.machine import PartitionMachine
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord
from seamline.streams.kernel.protocol import Role, Step
from seamline.streams.kernel.writers import Resolve

MINUTE_NS = 60 * NS_PER_S
IDS = {name: number + 10 for number, name in enumerate(SCHEMAS)}
NAMES = {number: name for name, number in IDS.items()}
START_NS = 1_700_006_400 * NS_PER_S  # a block start of one-minute bars
CLOCK_NS = START_NS + 400 * 24 * 3_600 * NS_PER_S


def in_canary(subject: str) -> Policy:
    """Nobody has set a mode."""
    return Policy(CANARY)


def resolve(number: int) -> Schema | None:
    return SCHEMAS[NAMES[number]] if number in NAMES else None


def preset(
    name: str = "ohlcv.test.spot.1m",
    minutes: int = 1,
    derive_from: str | None = None,
    **changes: Any,
) -> Preset:
    fields: dict[str, Any] = {
        "id": name,
        "kind": "ohlcv",
        "interval_ns": minutes * MINUTE_NS,
        "contract_version": "v1",
        "partitions": 4,
        "block_rows": 240,
        "grid_origin_ns": 0,
        "storage": "topic",
        "backfill": None,
        "live": None,
        "conformance_preset": "strict-blocking",
        "sla_preset": "baseline",
        "stabilization_bars": 2,
        "calendar": "24/7",
        "off_grid": "reject",
        "authority": ("rest_settled", "ws_closed", "rest_fresh", "ws_open"),
        "derive_from": derive_from,
        "settle_ns": 300 * NS_PER_S,
        "conformed_retention_ns": 14 * 86_400 * NS_PER_S,
    }
    return Preset(**{**fields, **changes})


PARENT = preset()
FIVE = preset("ohlcv.test.spot.5m", 5, PARENT.id)
HOUR = preset("ohlcv.test.spot.1h", 60, PARENT.id)
SYMBOLS = [f"C{i}/USDT" for i in range(40) if partition_of(f"C{i}/USDT", 4) == 0][:3]


@dataclass(frozen=True)
class Row:
    """One landing bar. `source` is an index of SOURCES."""

    symbol: str
    minute: int
    price: float
    source: int = 1
    volume: float = 1.0
    quote_volume: float = math.nan
    closed: bool = True
    offset_ns: int = 0
    ids: tuple[int, int] = (-1, -1)


def columns_of(rows: Sequence[Row], start_ns: int = START_NS) -> BarColumns:
    price = np.array([row.price for row in rows])
    none = np.full(len(rows), -1, np.int64)
    times = [start_ns + row.minute * MINUTE_NS + row.offset_ns for row in rows]
    return BarColumns(
        open_time_ns=np.array(times, np.int64),
        open=price,
        high=price + 1,
        low=price - 0.5,
        close=price + 0.25,
        volume=np.array([row.volume for row in rows]),
        quote_volume=np.array([row.quote_volume for row in rows]),
        trades=none,
        first_trade_id=np.array([row.ids[0] for row in rows], np.int64),
        last_trade_id=np.array([row.ids[1] for row in rows], np.int64),
        source=np.array([row.source for row in rows], np.uint8),
        closed=np.array([row.closed for row in rows], bool),
        received_time_ns=np.full(len(rows), CLOCK_NS),
    )


def block_value(
    of: Preset, symbol: str, block: int, rows: Sequence[Row], *, start: int, through: int | None
) -> bytes:
    """A landing block; `block`, `start`, `through` are minutes from START_NS."""
    columns = ConformedColumns.of_landing(columns_of(rows))
    start_ns = START_NS + block * MINUTE_NS
    made = Block(
        symbol=symbol,
        block_start_ns=start_ns,
        block_end_ns=start_ns + of.block_ns,
        interval_ns=of.interval_ns,
        range_start_ns=START_NS + start * MINUTE_NS,
        complete_through_ns=None if through is None else START_NS + through * MINUTE_NS,
        columns=columns,
        digest=block_digest(symbol, columns),
        landing=True,
    )
    return encode_block(made, IDS["bar_block"])


@dataclass
class World:
    """A machine, its log and its landing topics."""

    directory: Path
    presets: tuple[Preset, ...] = (PARENT, FIVE, HOUR)
    mode: str = "canary"
    resolve: Resolve = resolve
    tombstones: frozenset[str] = frozenset()
    log: MemoryLog = field(default_factory=lambda: MemoryLog(0))
    clock_ns: int = CLOCK_NS
    machine: PartitionMachine = field(init=False)
    landed: dict[str, list[MemoryRecord]] = field(
        default_factory=lambda: {"live": [], "backfill": []}
    )
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = self._rebuilt()

    def _rebuilt(self) -> PartitionMachine:
        factory = OhlcvFactory(
            preset=self.presets[0],
            derived=self.presets[1:],
            ids=IDS,
            resolve=self.resolve,
            policies=lambda _subject: self.policy,
            owner="test",
            directory=self.directory,
        )
        return factory.rebuild(self.log)

    @property
    def policy(self) -> Policy:
        return Policy(self.mode, 0, self.tombstones)

    def crash(self) -> None:
        """Lose the machine and make it again from the log."""
        self.machine.close()
        self.machine = self._rebuilt()

    def land(
        self, role: Role, key: bytes | None, value: bytes | None, headers: Sequence[Any] = ()
    ) -> None:
        records = self.landed[role]
        topic = topic_name(self.presets[0].id, role)
        records.append(MemoryRecord(topic, 0, len(records), 0, key, value, tuple(headers)))

    def land_bars(self, role: Role, rows: Sequence[Row]) -> None:
        values = encode_bars([row.symbol for row in rows], columns_of(rows), IDS["bar"])
        for row, value in zip(rows, values, strict=True):
            self.land(role, row.symbol.encode(), value)

    def land_heartbeat(self, minute: int, outages: bytes | None = None) -> None:
        watermark = str(START_NS + minute * MINUTE_NS).encode()
        stated = () if outages is None else (("seamline-outages", outages),)
        headers = (("seamline-venue", b"test"), ("seamline-watermark-ns", watermark), *stated)
        self.land("live", None, None, headers)

    def run(self, role: Role, upto: int | None = None) -> None:
        """Feed what has landed and is not consumed yet, as one fetch."""
        at = self.machine._next[role]
        records = self.landed[role][at:upto]
        start = 0
        while start < len(records):
            self.clock_ns += NS_PER_MS
            step = self.machine.step(role, records, start, self.clock_ns, self.policy)
            self.log.commit(self.machine, step)
            self.steps.append(step)
            start = step.next_index

    # --- what the log says

    def conformed(self, of: Preset | None = None) -> list[tuple[Any, ...]]:
        """(symbol, minute, price, volume, source, revision, flags) of every log row, in order."""
        chosen = of or self.presets[0]
        decoder = ConformedDecoder()
        records = self.log.topics.get(topic_name(chosen.id, "conformed"), [])
        decoded = decoder.decode([record.value for record in records if record.value is not None])
        return plain(decoder.symbols, decoded.sid, decoded.columns)

    def blocks(self, of: Preset | None = None) -> dict[tuple[str, int], Block]:
        chosen = of or self.presets[0]
        found = {}
        for _, value, _ in self.log.latest(topic_name(chosen.id, "storage")):
            block = decode_block(value)
            assert block.digest == block_digest(block.symbol, block.columns)
            found[block.symbol, block.block_start_ns] = block
        return found

    def seals(self, of: Preset | None = None) -> dict[str, dict[str, Any]]:
        chosen = of or self.presets[0]
        found = self.log.latest(topic_name(chosen.id, "seals"))
        return {key.decode(): decode_record("seal", value) for key, value, _ in found}

    def gaps(self, of: Preset | None = None) -> set[tuple[str, int, int]]:
        """(symbol, first missing minute, minute after the last)."""
        return set(self.causes(of))

    def reasons(self) -> set[str | None]:
        """What the ledger tells people."""
        found = self.log.latest(topic_name(self.presets[0].id, "gaps"))
        return {decode_record("gap", value)["detail"] for _, value, _ in found}

    def causes(self, of: Preset | None = None) -> dict[tuple[str, int, int], str]:
        """(symbol, first missing minute, minute after the last) -> cause."""
        chosen = of or self.presets[0]
        found = [
            decode_record("gap", value)
            for _, value, _ in self.log.latest(topic_name(chosen.id, "gaps"))
        ]
        return {
            (g["symbol"], minute_of(g["start_ns"]), minute_of(g["end_ns"])): g["cause"]
            for g in found
        }

    def final(self, of: Preset | None = None) -> dict[tuple[str, int], tuple[Any, ...]]:
        """(symbol, minute) -> the value that stands, as a reader of storage and log ends up
        with."""
        standing: dict[tuple[str, int], tuple[Any, ...]] = {}
        seals = self.seals(of)
        for block in self.blocks(of).values():
            for row in plain([block.symbol], np.zeros(len(block.columns), int), block.columns):
                standing[row[0], row[1]] = row
        for row in self.conformed(of):
            if row[1] >= minute_of(seals[row[0]]["frontier_ns"]):
                standing[row[0], row[1]] = row
        return standing

    def check_seals(self, of: Preset) -> None:
        """Every seal fits the blocks it covers."""
        blocks = self.blocks(of)
        for symbol, seal in self.seals(of).items():
            mine = [block for (name, _), block in blocks.items() if name == symbol]
            leaves = [(b.block_start_ns, b.digest, len(b.columns)) for b in mine]
            assert seal["merkle_root"] == merkle_root(leaves, of.block_ns)
            assert seal["rows"] == sum(len(b.columns) for b in mine)
            assert seal["blocks"] == len(mine)
            assert max((b.sequence for b in mine), default=0) == seal["storage_sequence"]
            for block in mine:
                assert (block.columns.open_time_ns < seal["frontier_ns"]).all()


def minute_of(time_ns: int) -> int:
    return (time_ns - START_NS) // MINUTE_NS


def plain(symbols: Sequence[str], sid: Any, columns: ConformedColumns) -> list[tuple[Any, ...]]:
    return [
        (
            symbols[int(sid[i])],
            minute_of(int(columns.open_time_ns[i])),
            float(columns.open[i]),
            float(columns.volume[i]),
            None if math.isnan(columns.quote_volume[i]) else float(columns.quote_volume[i]),
            int(columns.source[i]),
            int(columns.revision[i]),
            int(columns.flags[i]),
        )
        for i in range(len(columns))
    ]


def without_flags(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:-1] for row in rows]
