"""Backfill onto a real broker from a real venue simulator."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seamline.connectors.backfill import Backfill, BackfillSettings, BackfillTally, Planned
from seamline.connectors.kafka.faults import FencedError
from seamline.connectors.venues.binance import BinanceEndpoints, BinanceRest, RestRules, VenueSymbol
from seamline.connectors.venues.simulator import VenueSimulator
from seamline.connectors.venues.weight_limit import WeightRules
from seamline.connectors.world import World
from seamline.schemas.codec_blocks import decode_block
from seamline.schemas.columns import REST_FRESH, REST_SETTLED, Block
from seamline.schemas.errors import TransportError
from seamline.schemas.fingerprint import block_digest
from seamline.schemas.preset import Preset
from seamline.schemas.times import format_time
from seamline.schemas.topics import partition_of, producer_of
from seamline.streams.kernel.chunks import RetryPolicy
from venue_world import (
    DAY_NS,
    MIN_NS,
    START_NS,
    SYMBOLS,
    Truth,
    all_records,
    command_environment,
    fresh_preset,
    registered,
    simulator,
    truth,
    until,
    write_presets,
)

REST_VARIABLE = "SEAMLINE_BINANCE_REST_URL"
RULES = RestRules(attempts=1)
COINBASE = Path(__file__).parent.parent / "data/crypto_1m/coinbase_btcusd_20161007_3d.csv"


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test

    asyncio.run(bounded())


async def backfill(
    world: World,
    preset: Preset,
    venue: VenueSimulator,
    start_ns: int,
    end_ns: int,
    symbols: tuple[str, ...] = SYMBOLS,
    settings: BackfillSettings | None = None,
    seen: list[Planned] | None = None,
) -> BackfillTally:
    endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
    async with BinanceRest(endpoints, RULES) as rest:
        job = Backfill(
            *(world.cluster, preset, registered(world, preset), rest, settings),
            progress=(seen if seen is not None else []).append,
        )
        await job.run(await rest.resolve(symbols), start_ns, end_ns)
        return job.tally


def landed_blocks(world: World, preset: Preset) -> list[Block]:
    """The blocks on the topic, each in its symbol's partition and with a digest that fits."""
    blocks = []
    for record in all_records(world, preset, "backfill"):
        assert record.value is not None
        block = decode_block(record.value)
        assert record.key == block.symbol.encode()
        assert record.partition == partition_of(block.symbol, preset.partitions)
        assert block.digest == block_digest(block.symbol, block.columns)
        assert producer_of(record.headers) == "backfill"
        blocks.append(block)
    return blocks


def rows(blocks: list[Block]) -> Truth:
    found: Truth = {}
    for block in blocks:
        c = block.columns
        columns = (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trades)
        for i in range(len(c)):
            key = (block.symbol, int(c.open_time_ns[i]))
            assert key not in found, "a bar landed twice"
            found[key] = tuple(float(column[i]) for column in columns)
    return found


def test_history_lands_in_blocks_and_a_second_run_changes_nothing(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        end_ns = START_NS + DAY_NS - 7 * MIN_NS
        start_ns = START_NS + 3 * MIN_NS
        async with simulator(start_ns=START_NS + DAY_NS, speed=1.0, until_ns=None) as venue:
            seen: list[Planned] = []
            tally = await backfill(world, preset, venue, start_ns, end_ns, seen=seen)
            wanted = truth(venue, start_ns, end_ns)
            blocks = landed_blocks(world, preset)
            assert rows(blocks) == wanted
            assert tally.bars == len(wanted) == 3 * 1_430
            assert seen[-1] == Planned(tally.bars, tally.bars)
            assert tally.weight > 0
            for block in blocks:
                assert block.block_start_ns % (240 * MIN_NS) == 0
                assert block.range_start_ns == max(start_ns, block.block_start_ns)
                assert block.complete_through_ns == min(end_ns, block.block_end_ns)
                assert (block.columns.source == REST_SETTLED).all()

            again = await backfill(world, preset, venue, start_ns, end_ns)
            assert (again.chunks, again.bars, again.skipped_bars) == (0, 0, len(wanted))
            assert len(landed_blocks(world, preset)) == len(blocks)

            wider = await backfill(world, preset, venue, START_NS, end_ns)
            assert (wider.bars, wider.skipped_bars) == (3 * 3, len(wanted))
            assert rows(landed_blocks(world, preset)) == truth(venue, START_NS, end_ns)

            forced = await backfill(
                *(world, preset, venue, START_NS, START_NS + 240 * MIN_NS, SYMBOLS[:1]),
                BackfillSettings(again=True),
            )
            assert forced.bars == 240

    run(test())


def test_what_has_not_settled_is_sent_but_not_promised(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        now_ns = START_NS + DAY_NS + 30 * 1_000_000_000
        async with simulator(start_ns=now_ns, speed=0.001, until_ns=None) as venue:
            end_ns = START_NS + DAY_NS
            start_ns = end_ns - 20 * MIN_NS
            tally = await backfill(world, preset, venue, start_ns, end_ns, SYMBOLS[:1])
            (block,) = landed_blocks(world, preset)
            # Asked 30 s after the last close: what closed in the 300 s before is fresh.
            settled_ns = end_ns - 5 * MIN_NS
            assert block.complete_through_ns == settled_ns
            fresh = block.columns.open_time_ns >= settled_ns
            assert (block.columns.source[fresh] == REST_FRESH).all()
            assert (block.columns.source[~fresh] == REST_SETTLED).all()
            assert (tally.bars, tally.fresh_bars) == (20, 5)

            again = await backfill(world, preset, venue, start_ns, end_ns, SYMBOLS[:1])
            assert (again.bars, again.skipped_bars) == (5, 15), "only what had not settled"

    run(test())


def test_the_kline_that_is_still_open_is_not_sent(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        now_ns = START_NS + DAY_NS + 30 * 1_000_000_000
        async with simulator(start_ns=now_ns, speed=0.001, until_ns=None) as venue:
            start_ns = START_NS + DAY_NS - MIN_NS
            tally = await backfill(
                world, preset, venue, start_ns, START_NS + DAY_NS + MIN_NS, SYMBOLS[:1]
            )
            (block,) = landed_blocks(world, preset)
            assert len(block.columns) == 1 and block.complete_through_ns is None
            assert (tally.bars, tally.open_klines) == (1, 1)

    run(test())


def test_a_range_without_bars_lands_as_empty_blocks(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        start_ns = 1_475_798_400_000_000_000  # the first of the file's three days
        async with simulator(
            symbols=(),
            data={"BTC/USD": COINBASE},
            speed=0.001,
            start_ns=start_ns + 5 * DAY_NS,
            until_ns=None,
        ) as venue:
            tally = await backfill(
                *(world, preset, venue, start_ns - DAY_NS, start_ns + 4 * DAY_NS), ("BTC/USD",)
            )
            wanted = truth(venue, start_ns - DAY_NS, start_ns + 4 * DAY_NS)
            assert rows(landed_blocks(world, preset)) == wanted
            assert tally.bars == len(wanted) == 4_216
            assert (tally.blocks, tally.empty_blocks) == (5 * 6, 2 * 6)
            again = await backfill(
                *(world, preset, venue, start_ns - DAY_NS, start_ns + 4 * DAY_NS), ("BTC/USD",)
            )
            assert again.chunks == 0

    run(test())


def test_a_venue_that_limits_is_waited_for_and_then_given_up(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        waited: list[float] = []

        async def sleep(seconds: float) -> None:
            waited.append(seconds)

        weights = WeightRules(limit=6)
        async with simulator(
            start_ns=START_NS + DAY_NS, speed=0.001, until_ns=None, weights=weights
        ) as venue:
            endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
            async with BinanceRest(endpoints, replace(RULES, weight_share=1e9)) as rest:
                job = Backfill(
                    *(world.cluster, preset, registered(world, preset), rest),
                    BackfillSettings(RetryPolicy(max_attempts=3)),
                    sleep=sleep,
                )
                listed = {"BTC/USDT": VenueSymbol("BTC/USDT", "BTCUSDT", "TRADING")}
                with pytest.raises(TransportError, match="429"):
                    await job.run(listed, START_NS, START_NS + DAY_NS)
        assert len(waited) == 2 and all(seconds >= 1 for seconds in waited), "Retry-After counts"
        assert 0 < len(rows(landed_blocks(world, preset))) < 1_440, "what landed stays"

    run(test())


def test_a_newer_run_fences_an_older_one(world: World) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        async with simulator(start_ns=START_NS + DAY_NS, speed=0.001, until_ns=None) as venue:
            endpoints = BinanceEndpoints(venue.rest_url, venue.ws_url)
            async with BinanceRest(endpoints, RULES) as rest:
                gate, began = asyncio.Event(), asyncio.Event()

                class Gated:
                    """The venue's REST, which waits before its second answer."""

                    requests, used_weight, asked = 0, 0, 0

                    async def klines(self, *args: Any, **named: Any) -> Any:
                        self.asked += 1
                        if self.asked == 2:
                            began.set()
                            await gate.wait()
                        return await rest.klines(*args, **named)

                older = Backfill(world.cluster, preset, registered(world, preset), Gated())
                listed = await rest.resolve(SYMBOLS[:1])
                task = asyncio.create_task(older.run(listed, START_NS, START_NS + DAY_NS))
                await began.wait()
                newer = await backfill(
                    world, preset, venue, START_NS, START_NS + DAY_NS, SYMBOLS[:1]
                )
                gate.set()
                with pytest.raises(FencedError, match="another backfill"):
                    await task
                assert newer.skipped_bars == 480
                wanted = truth(venue, START_NS, START_NS + DAY_NS)
                mine = {k: v for k, v in wanted.items() if k[0] == SYMBOLS[0]}
                assert rows(landed_blocks(world, preset)) == mine

    run(test())


def test_a_run_that_is_killed_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    async def test() -> None:
        preset = fresh_preset(world)
        registered(world, preset)
        start_ns, end_ns = START_NS - 40 * DAY_NS, START_NS
        async with simulator(start_ns=START_NS + DAY_NS, speed=0.001, until_ns=None) as venue:
            command = backfill_command(tmp_path, preset, start_ns, end_ns)
            env = {**command_environment(world, tmp_path), REST_VARIABLE: venue.rest_url}
            killed = await asyncio.create_subprocess_exec(*command, env=env)

            def far_enough() -> bool:
                done = killed.returncode is not None
                return done or len(all_records(world, preset, "chunks")) >= 5

            await until(far_enough, "five chunks")
            killed.kill()
            assert await killed.wait() == -signal.SIGKILL
            before = venue.status()["requests"]["klines 200"]

            finished = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await finished.communicate()
            assert finished.returncode == 0
            answer = json.loads(out)
            wanted = truth(venue, start_ns, end_ns)
            mine = {key: value for key, value in wanted.items() if key[0] == SYMBOLS[0]}
            assert rows(landed_blocks(world, preset)) == mine
            assert answer["skipped"] >= 5 * 480
            assert answer["bars"] == len(mine) - answer["skipped"]
            assert venue.status()["requests"]["klines 200"] - before == answer["chunks"]

    run(test())


def backfill_command(folder: Path, preset: Preset, start_ns: int, end_ns: int) -> list[str]:
    write_presets(folder, preset)
    return [
        *(sys.executable, "-m", "seamline.sdk.cli", "backfill", "run", preset.id),
        *("--symbols", SYMBOLS[0], "--start", format_time(start_ns), "--end", format_time(end_ns)),
        *("-o", "json"),
    ]
