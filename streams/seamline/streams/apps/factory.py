"""The machines of one preset: what they share, made once per worker.

Decides: which ids and schemas a preset's machines write with, where their local files are, and that
kernels are compiled before any partition is owned. Must not know: partitions' data, Faust.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from seamline.connectors.calendars import calendar
from seamline.connectors.registry.client import RegistrySettings, RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.stores.block_index import SqliteIndex
from seamline.connectors.world import World
from seamline.schemas.codec import encode_bars
from seamline.schemas.codec_blocks import encode_block
from seamline.schemas.columns import BarColumns, Block, ConformedColumns
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.modes import CANARY, Policies, Policy
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import partition_of, subject_of, topic_name
from seamline.streams.apps.series import series_of
from seamline.streams.apps.trades import TradesFactory
from seamline.streams.kernel.block_index import BlockIndex, MemoryIndex
from seamline.streams.kernel.machine import PartitionMachine
from seamline.streams.kernel.memory_log import MemoryLog, MemoryRecord
from seamline.streams.kernel.protocol import MachineFactory, PartitionReader, Role
from seamline.streams.kernel.rebuild import Setting, rebuild
from seamline.streams.kernel.stage import OUTPUTS
from seamline.streams.kernel.writers import Resolve

# A good record may be held up for a second by others. Of that a step waits for the registry until
# the patience is spent and for one answer more; what it does not hear waits in quarantine.
PATIENCE_S: Final = 0.3
LOOK_UP_S: Final = 0.6


def make_factory(
    preset: Preset,
    derived: tuple[Preset, ...],
    world: World,
    directory: Path,
    policies: Policies,
) -> MachineFactory:
    """The factory of a preset's kind, with its schemas registered. `policies`: subject -> how its
    records are judged now.

    Raises TransportError without a registry.
    """
    settings = RegistrySettings(patience_s=PATIENCE_S)
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth, settings)
    ids: dict[str, int] = {}
    for each in (*derived, preset):
        found = ensure_registered(client, each, lambda subject: policies(subject).mode)
        ids.update(found)
    owner = f"{socket.gethostname()}:{os.getpid()}"
    resolve = Meanings.of_landing(client, preset, LOOK_UP_S)
    if preset.kind == "trades":
        return TradesFactory(preset, ids, resolve, policies, owner)
    return OhlcvFactory(
        preset=preset,
        derived=derived,
        ids=ids,
        resolve=resolve,
        policies=policies,
        owner=owner,
        directory=directory,
    )


class OhlcvFactory:
    """Machines of an `ohlcv` preset and of all that is derived from it."""

    def __init__(
        self,
        *,
        preset: Preset,
        derived: tuple[Preset, ...],
        ids: Mapping[str, int],
        resolve: Resolve,
        policies: Policies,
        owner: str,
        directory: Path,
    ) -> None:
        def open_index(preset_id: str, partition: int, topic: str) -> BlockIndex:
            return SqliteIndex(directory / "index" / preset_id / f"{partition}.sqlite", topic)

        expected = calendar(preset.calendar)
        self._setting = Setting(preset, derived, ids, resolve, owner, open_index, expected)
        self._policies = policies

    def outputs(self) -> Sequence[str]:
        setting = self._setting
        levels = (setting.preset, *setting.derived)
        own = [topic_name(setting.preset.id, role) for role in ("quarantine", "positions")]
        return [topic_name(level.id, role) for level in levels for role in OUTPUTS] + own

    def rebuild(self, reader: PartitionReader) -> PartitionMachine:
        return rebuild(self._setting, reader)

    def series(self) -> Sequence[tuple[str, str]]:
        return series_of(self._setting.preset, *self._setting.derived)

    def policy(self, role: Role) -> Policy:
        return self._policies(subject_of(topic_name(self._setting.preset.id, role)))

    def warm(self) -> None:
        """Compile every kernel by running a few bars through a machine of its own: flat, as a
        block, late, revised, and back from the log."""
        setting = self._setting
        scratch = replace(
            setting,
            resolve=lambda number: SCHEMAS[_WARM_SCHEMAS[number]],
            open_index=lambda *_: MemoryIndex(),
        )
        symbol = _symbol_of_partition_0(setting.preset.partitions)
        log = MemoryLog(0)
        machine = rebuild(scratch, log)
        for bars, source in ((3 * setting.preset.block_rows, 1), (10, 0)):
            records = _warm_bars(setting.preset, symbol, bars, source)
            log.commit(machine, machine.step("live", records, 0, _WARM_CLOCK_NS, _WARM_POLICY))
        records = _warm_block(setting.preset, symbol)
        step = machine.step("backfill", records, 0, _WARM_CLOCK_NS, _WARM_POLICY)
        log.commit(machine, step)
        machine.close()
        rebuild(scratch, log).close()


_WARM_SCHEMAS = {1: "bar", 2: "bar_block"}
_WARM_CLOCK_NS = 4_000_000_000 * NS_PER_S
_WARM_POLICY = Policy(CANARY)


def _symbol_of_partition_0(partitions: int) -> str:
    names = (f"WARM{i}/USDT" for i in range(100 * partitions))
    return next(name for name in names if partition_of(name, partitions) == 0)


def _warm_columns(preset: Preset, bars: int, source: int) -> BarColumns:
    start_ns = preset.block_start_of(1_000_000_000 * NS_PER_S)
    times = start_ns + np.arange(bars) * preset.interval_ns
    one = np.ones(bars)
    return BarColumns(
        open_time_ns=times,
        open=one + source,
        high=one + source,
        low=one + source,
        close=one + source,
        volume=one,
        quote_volume=one,
        trades=np.ones(bars, np.int64),
        first_trade_id=np.arange(bars),
        last_trade_id=np.arange(bars),
        source=np.full(bars, source, np.uint8),
        closed=np.ones(bars, bool),
        received_time_ns=times,
    )


def _warm_bars(preset: Preset, symbol: str, bars: int, source: int) -> list[MemoryRecord]:
    values = encode_bars([symbol] * bars, _warm_columns(preset, bars, source), 1)
    topic = topic_name(preset.id, "live")
    return [
        MemoryRecord(topic, 0, offset, 0, symbol.encode(), value)
        for offset, value in enumerate(values)
    ]


def _warm_block(preset: Preset, symbol: str) -> list[MemoryRecord]:
    columns = ConformedColumns.of_landing(_warm_columns(preset, 10, 0))
    start_ns = int(columns.open_time_ns[0])
    block = Block(
        symbol=symbol,
        block_start_ns=start_ns,
        block_end_ns=start_ns + preset.block_ns,
        interval_ns=preset.interval_ns,
        range_start_ns=start_ns,
        complete_through_ns=start_ns + preset.block_ns,
        columns=columns,
        digest=block_digest(symbol, columns),
        landing=True,
    )
    topic = topic_name(preset.id, "backfill")
    return [MemoryRecord(topic, 0, 0, 0, symbol.encode(), encode_block(block, 2))]
