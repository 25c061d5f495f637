"""A preset on the real broker and a venue simulator in this process, for tests of the connectors.

Decides: how tests read what landed and what the venue says is true. Must not know: connectors.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.reader import Message, read_range
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import ensure_registered
from seamline.connectors.venues.simulated_market import MarketSettings
from seamline.connectors.venues.simulator import SimulatorConfig, VenueSimulator
from seamline.connectors.venues.venue_faults import parse_faults
from seamline.connectors.world import World
from seamline.schemas.codec import BarDecoder
from seamline.schemas.modes import CANARY
from seamline.schemas.preset import BackfillSource, LiveFeed, Preset
from seamline.schemas.topics import HEADER_WATERMARK_NS, topic_name

MIN_NS = 60_000_000_000
START_NS = 1_767_225_600_000_000_000  # 2026-01-01
DAY_NS = 86_400_000_000_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
# open, high, low, close, volume, quote volume, trades
Truth = dict[tuple[str, int], tuple[float, ...]]


def fresh_preset(world: World, *, feed: str = "binance.ws.kline.1m", **changes: Any) -> Preset:
    """A preset of a name nobody has with its topics, a live feed and a backfill source."""
    preset = Preset(
        id=f"ohlcv.t{uuid.uuid4().hex[:10]}.spot.1m",
        kind="ohlcv",
        interval_ns=MIN_NS,
        contract_version="v1",
        partitions=4,
        block_rows=240,
        grid_origin_ns=0,
        storage="topic",
        backfill=BackfillSource("ccxt:binance", "background", 480),
        live=LiveFeed(feed, 45_000_000_000),
        conformance_preset="strict-blocking",
        sla_preset="baseline",
        stabilization_bars=2,
        calendar="24/7",
        off_grid="reject",
        authority=("rest_settled", "ws_closed", "rest_fresh", "ws_open"),
        derive_from=None,
        settle_ns=5 * MIN_NS,
        conformed_retention_ns=14 * DAY_NS,
    )
    preset = replace(preset, **changes)
    topics.apply(world.cluster, preset)
    return preset


def write_presets(folder: Path, preset: Preset) -> Path:
    """A presets file that describes `preset`, for commands in other processes."""
    assert preset.live is not None and preset.backfill is not None
    path = folder / "presets.yaml"
    path.write_text(
        f"""version: 1
data_presets:
  {preset.id}:
    kind: {preset.kind}
    interval_ms: {preset.interval_ns // 1_000_000}
    partitions: {preset.partitions}
    backfill: {{source: "{preset.backfill.source}", window_bars: {preset.backfill.window_bars}}}
    live: {{feed: {preset.live.feed}, max_lag_seconds: 45}}
"""
    )
    return path


def command_environment(world: World, folder: Path) -> dict[str, str]:
    """What a command in another process needs to reach `world` with the presets of `folder`."""
    presets = {"SEAMLINE_PRESETS_FILE": str(folder / "presets.yaml")}
    return {**os.environ, **world.environment(), **presets}


def registered(world: World, preset: Preset) -> Mapping[str, int]:
    client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
    try:
        return ensure_registered(client, preset, lambda _: CANARY)
    finally:
        client.close()


def simulator(
    *, faults: str = "", minutes: int = 120, market: MarketSettings | None = None, **changes: Any
) -> VenueSimulator:
    """A venue from START_NS on, whose clock stops after so many minutes."""
    settings: dict[str, Any] = {
        "start_ns": START_NS,
        "symbols": SYMBOLS,
        "speed": 1_200.0,
        "until_ns": START_NS + minutes * MIN_NS,
        "market": market or MarketSettings(seed=7),
        "faults": parse_faults(faults, start_ns=START_NS),
    }
    return VenueSimulator(SimulatorConfig(**(settings | changes)))


def truth(venue: VenueSimulator, start_ns: int, end_ns: int) -> Truth:
    """What the venue states of every minute in the end: its decimal texts parsed once."""
    found: Truth = {}
    for listing in venue.market.listings.values():
        span = (start_ns // 1_000_000, end_ns // 1_000_000)
        for k in (settled.kline for settled in venue.settled(listing.symbol, *span)):
            if k is not None:
                texts = (k.open, k.high, k.low, k.close, k.volume, k.quote_volume)
                key = (listing.symbol, k.open_ms * 1_000_000)
                found[key] = (*map(float, texts), float(k.trades))
    return found


def all_records(world: World, preset: Preset, role: str) -> list[Message]:
    """Every committed record of a topic, partition by partition in order."""
    topic = topic_name(preset.id, role)
    tps = [(topic, p) for p in range(preset.partitions)]
    admin = Admin(world.cluster)
    batches = read_range(world.cluster, admin.begin_offsets(tps), admin.end_offsets(tps))
    return [record for batch in batches for record in batch]


def landed_bars(records: list[Message]) -> list[tuple[str, int, tuple[float, ...], int]]:
    """(symbol, open time, values as in `truth`, source) of bar records, in order."""
    values = [r.value for r in records if r.value is not None]
    decoder = BarDecoder()
    decoded = decoder.decode(values)
    assert decoded.ok.all() and decoded.columns.closed.all()
    c = decoded.columns
    return [
        (
            decoder.symbols[decoded.sid[i]],
            int(c.open_time_ns[i]),
            tuple(
                float(column[i])
                for column in (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trades)
            ),
            int(c.source[i]),
        )
        for i in range(len(c))
    ]


def watermarks(records: list[Message]) -> dict[int, list[int]]:
    """The watermarks of the heartbeats of each partition, in order."""
    found: dict[int, list[int]] = {}
    for record in records:
        if record.value is None:
            mark = int(dict(record.headers)[HEADER_WATERMARK_NS])
            found.setdefault(record.partition, []).append(mark)
    return found


async def until(condition: Callable[[], bool], what: str, deadline_s: float = 120.0) -> None:
    """Poll `condition` until it holds. Fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


async def aside(task: Awaitable[None], condition: Callable[[], bool], what: str) -> None:
    """As `until`, failing at once with the cause when `task` ends meanwhile."""
    running = asyncio.ensure_future(task)
    await until(lambda: condition() or running.done(), what)
    if running.done():
        running.result()
        raise AssertionError(f"ended before: {what}")
