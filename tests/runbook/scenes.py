"""What happens beside the commands of docs/schema-governance.md: a worker, a feed, another team.

Decides: the preset of the page, and what each scene does. Invariants: a scene has ended when the
worker has taken in all that landed by it; nobody's clock is waited for but the broker's. Must not
know: what the commands print.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from e2e.workers import await_that
from faults.bars import OWNS, worker_process
from preset_making import FreshPreset, make_named
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.records import decode_record
from seamline.sdk.producing import Producer
from third_party import ThirdParty

PRESET: Final = "ohlcv.acme.spot.1m"
MINUTE_NS: Final = 60_000_000_000
OURS: Final = ("BTC/USDT", "ETH/USDT")
THEIRS: Final = "SOL/USDT"
SESSION_S: Final = 10.0
START_S: Final = 180.0
TAKEN_S: Final = 120.0


class Scenes:
    """The world of the page. Use `with`."""

    def __init__(self, world: World, directory: Path) -> None:
        self.directory = directory
        self.fresh: FreshPreset = make_named(world, directory, PRESET)
        self._worker = worker_process("worker", directory, [self.fresh], SESSION_S)
        self._newest = dict.fromkeys((*OURS, THEIRS), 0)

    def __enter__(self) -> Scenes:
        self._worker.start()
        logs = {"worker": self._worker.log}
        await_that(lambda: self._worker.said(OWNS) >= 1, START_S, "the worker owns", logs)
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.end()

    def environment(self) -> Mapping[str, str]:
        return self.fresh.environment()

    def play(self, words: str) -> None:
        name, *rest = words.split()
        scene: Callable[..., None] = getattr(self, f"scene_{name}")
        scene(*rest)

    def scene_feed(self, bars: str) -> None:
        """Our own feed: the newest closed minutes of two symbols."""
        fresh = self.fresh
        with Producer(
            PRESET, name="acme-feed", world=fresh.world, presets=fresh.presets
        ) as producer:
            for symbol in OURS:
                times = self._minutes(symbol, int(bars))
                producer.send_bars(symbol, [_bar(time_ns) for time_ns in times])
            producer.flush()
        self._taken()

    def scene_propose(self, folder: str) -> None:
        """A bar with one field more, beside the approved schemas."""
        bar = json.loads(SCHEMAS["bar"].text)
        bar["fields"].append({"name": "vwap", "type": ["null", "double"], "default": None})
        name = f"bar.v{SCHEMAS['bar'].version + 1}.avsc"
        (self.directory / folder / name).write_text(json.dumps(bar, indent=2), encoding="utf-8")

    def scene_drift(self, bars: str) -> None:
        """The other team: its volumes are texts."""
        with ThirdParty(self.fresh.world, self.fresh.preset, retype={"volume": "string"}) as feed:
            for time_ns in self._minutes(THEIRS, int(bars)):
                feed.send(THEIRS, time_ns, volume="12.5")
        self._taken()

    def scene_mended(self) -> None:
        """The other team has taken over our schema."""
        with ThirdParty(self.fresh.world, self.fresh.preset) as feed:
            for time_ns in self._minutes(THEIRS, 5):
                feed.send(THEIRS, time_ns)
        self._taken()

    def _minutes(self, symbol: str, count: int) -> list[int]:
        """Open times of minutes that are over, one after the other, none twice."""
        first = self._newest[symbol] or (time.time_ns() // MINUTE_NS - 1_000) * MINUTE_NS
        times = [first + n * MINUTE_NS for n in range(count)]
        self._newest[symbol] = times[-1] + MINUTE_NS
        return times

    def _taken(self) -> None:
        """The worker's positions cover all that landed."""
        fresh = self.fresh
        admin = Admin(fresh.world.cluster)
        tps = [(fresh.topic("live"), n) for n in range(fresh.preset.partitions)]
        ends = admin.end_offsets(tps)

        def covered() -> bool:
            return all(self._live_offset(admin, n) >= ends[tp] for n, tp in enumerate(tps))

        await_that(covered, TAKEN_S, "the worker has taken it", {"worker": self._worker.log})

    def _live_offset(self, admin: Admin, partition: int) -> int:
        reader = LogReader(self.fresh.world.cluster, partition, admin)
        try:
            found = reader.latest(self.fresh.topic("positions"))
            return int(decode_record("position", found[-1][1])["live_offset"]) if found else 0
        finally:
            reader.close()


def _bar(time_ns: int) -> dict[str, object]:
    price = 100.0 + float(np.sin(time_ns // MINUTE_NS))
    return {
        "open_time_ns": time_ns,
        **dict.fromkeys(("open", "high", "low", "close"), price),
        "volume": 1.0,
    }
