"""Bars for runs under faults: how they land, how they are read back, and the worker that takes
them.

Decides: what a bar made of (minute, price, source) is. Must not know: faults.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from e2e.workers import WorkerProcess
from preset_making import FreshPreset
from seamline.connectors.kafka.reader import Message
from seamline.schemas.codec import ConformedDecoder, encode_bars
from seamline.schemas.columns import CONFIRMED, BarColumns
from seamline.schemas.times import NS_PER_S

MINUTE_NS = 60 * NS_PER_S
START_NS = 1_700_006_400 * NS_PER_S  # where a block of 240 minutes starts
OWNS = "owns partitions"

Landed = tuple[int, float, int]  # minute, price, source


def columns_of(rows: Sequence[Landed]) -> BarColumns:
    """Landing bars; everything of a bar follows from its minute and price."""
    price = np.array([row[1] for row in rows])
    none = np.full(len(rows), -1, np.int64)
    return BarColumns(
        open_time_ns=np.array([START_NS + row[0] * MINUTE_NS for row in rows], np.int64),
        open=price,
        high=price + 1,
        low=price - 0.5,
        close=price + 0.25,
        volume=np.ones(len(rows)),
        quote_volume=np.full(len(rows), math.nan),
        trades=none,
        first_trade_id=none,
        last_trade_id=none,
        source=np.array([row[2] for row in rows], np.uint8),
        closed=np.ones(len(rows), bool),
        received_time_ns=np.full(len(rows), START_NS),
    )


class Bars:
    """Bars of 37 symbols on each landing topic, each once and in order, so that each is one row of
    the log. A record's id is (symbol, minute), its content the price."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._bar_id = ids["bar"]
        self._decoder = ConformedDecoder()

    def record(self, role: str, number: int) -> tuple[bytes, bytes]:
        (symbol, minute), price = self.made(role, number)
        columns = columns_of([(minute, price, 1 if role == "live" else 0)])
        return symbol.encode(), encode_bars([symbol], columns, self._bar_id)[0]

    def made(self, role: str, number: int) -> tuple[tuple[str, int], float]:
        return (f"{role[0].upper()}{number % 37}/USDT", number // 37), 100.0 + number % 91

    def read(self, message: Message) -> tuple[tuple[str, int], float] | None:
        assert message.value is not None
        decoded = self._decoder.decode([message.value])
        assert decoded.ok.all()
        if decoded.columns.flags[0] & CONFIRMED:
            return None
        minute = (int(decoded.columns.open_time_ns[0]) - START_NS) // MINUTE_NS
        symbol = self._decoder.symbols[int(decoded.sid[0])]
        return (symbol, minute), float(decoded.columns.open[0])


def worker_process(
    name: str, directory: Path, made: Sequence[FreshPreset], session_s: float
) -> WorkerProcess:
    """`seamline worker` over presets that share one file; not yet running."""
    home = directory / name
    command = [sys.executable, "-m", "seamline.sdk.cli", "worker", *(p.preset.id for p in made)]
    command += ["--dir", str(home), "--session-timeout", f"{session_s:g}s"]
    return WorkerProcess(name, home, made[0].world, command, made[0].environment())
