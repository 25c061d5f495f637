"""What the demo does: the whole plane once, with a worker that is killed, and a verdict.

Decides: the order of the story, the simulated times, when it has shown enough. Invariants: every
process is the command that a person would run; nothing is judged by the plane's own word alone: the
bars that a reader was given are compared with the venue's. Must not know: how it is printed.

Order: stack, topics, venue, live, worker; two days of history; a reader passes the seam; the worker
is killed and started again while the reader follows; a second reader reads everything again and
gets the certificate; the certificate is checked from Kafka alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from seamline.connectors.embedded import stack
from seamline.connectors.kafka import topics
from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.partition_reader import LogReader
from seamline.connectors.venues.binance import BinanceEndpoints, BinanceRest
from seamline.connectors.venues.file_market import read_rows
from seamline.connectors.world import World
from seamline.presets import loader
from seamline.schemas.columns import PRICE_FIELDS
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.records import decode_record
from seamline.schemas.times import NS_PER_MS, NS_PER_S, format_time, parse_time
from seamline.schemas.topics import LANDING_ROLES, topic_name
from seamline.sdk import SeamStream, stitch
from seamline.sdk.demo.children import Children
from seamline.sdk.demo.follower import Follower, Kept
from seamline.streams.kernel.seam_certificate import Certificate
from seamline.streams.kernel.seam_events import Bar

PRESET: Final = "ohlcv.binance.spot.1m"
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
MINUTE_NS: Final = 60 * NS_PER_S
HOUR_NS: Final = 60 * MINUTE_NS
DAY_NS: Final = 24 * HOUR_NS
PARTITIONS: Final = 4
SEED_SPEED: Final = 120
# A file is played in so many real seconds from the start of its live part.
FILE_LIVE_S: Final = 40
# Live bars of each symbol before the worker is killed, and after it is back.
BEFORE_KILL: Final = 10
AFTER_KILL: Final = 10
STEP_S: Final = 240.0
# What a worker says when it owns something.
OWNS: Final = "owns partitions"
PRESETS: Final = f"""\
version: 1
data_presets:
  {PRESET}:
    kind: ohlcv
    interval_ms: 60000
    partitions: {PARTITIONS}
    backfill: {{source: "ccxt:binance", mode: background, window_bars: 1920}}
    live: {{feed: binance.ws.kline.1m, max_lag_seconds: 45}}
  ohlcv.binance.spot.5m: {{kind: ohlcv, interval_ms: 300000, derive_from: {PRESET}}}
  ohlcv.binance.spot.1h: {{kind: ohlcv, interval_ms: 3600000, derive_from: {PRESET}}}
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The simulated times (ns) and what the venue serves."""

    symbols: tuple[str, ...]
    history_start_ns: int
    venue_start_ns: int
    until_ns: int
    speed: int
    on_gap: str
    data: Path | None = None
    seed: int = 7


@dataclass(slots=True)
class Outcome:
    """What was seen. `missing` and `invented` are (symbol, open time ns) against the venue."""

    plan: Plan
    followed: Kept
    reread: Kept
    certificate: Certificate
    verdict: str
    missing: list[tuple[str, int]] = field(default_factory=list)
    invented: list[tuple[str, int]] = field(default_factory=list)
    different: list[tuple[str, int]] = field(default_factory=list)
    killed_pid: int = 0
    elapsed_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether continuity is proved and every bar is the venue's."""
        wrong = self.missing or self.invented or self.different
        duplicates = self.followed.duplicates + self.reread.duplicates
        return (
            self.certificate.contiguous
            and self.verdict == "verified"
            and not wrong
            and not duplicates
        )


def seed_plan(now_ns: int, seed: int) -> Plan:
    """Two days of history before a venue that starts a few hours ago and crosses a block boundary
    while the reader follows."""
    boundary_ns = (now_ns - 6 * HOUR_NS) // (4 * HOUR_NS) * (4 * HOUR_NS)
    start_ns = boundary_ns - 45 * MINUTE_NS
    return Plan(
        symbols=SYMBOLS,
        history_start_ns=start_ns - 2 * DAY_NS,
        venue_start_ns=start_ns,
        until_ns=boundary_ns + 6 * HOUR_NS,
        speed=SEED_SPEED,
        on_gap="fail",
        seed=seed,
    )


def file_plan(path: Path, symbol: str | None) -> Plan:
    """The first two thirds of a file as history, the rest as live bars."""
    name = symbol or _symbol_of(path)
    times_ms = [row[0] for row in read_rows(path)]
    if not times_ms:
        raise UsageError("no bars", parameter="data", value=str(path), fix="Give a file with rows")
    first_ns, last_ns = times_ms[0] * NS_PER_MS, times_ms[-1] * NS_PER_MS
    start_ns = first_ns + (last_ns - first_ns) * 2 // 3 // MINUTE_NS * MINUTE_NS
    return Plan(
        symbols=(name,),
        history_start_ns=first_ns,
        venue_start_ns=start_ns,
        until_ns=last_ns + 6 * MINUTE_NS,
        speed=max(1, (last_ns - start_ns) // NS_PER_S // FILE_LIVE_S),
        on_gap="flag",
        data=path,
    )


def _symbol_of(path: Path) -> str:
    found = re.search(
        r"(?:^|_)([a-z0-9]{2,6}?)(usdt|usdc|busd|usd|eur)(?:_|\.|$)", path.name.lower()
    )
    if found is None:
        raise UsageError(
            "its name does not tell the symbol",
            parameter="data",
            value=str(path),
            fix="Name it with --symbol BASE/QUOTE",
        )
    return f"{found[1]}/{found[2]}".upper()


@contextmanager
def _world(directory: Path, say: Say) -> Iterator[World]:
    """The world of the environment, else an embedded stack of its own for the demo."""
    if os.environ.get("SEAMLINE_BOOTSTRAP_SERVERS"):
        yield World.resolve(os.environ)
        return
    with stack.running(directory / "stack", notify=say) as found:
        yield World.resolve(
            {
                "SEAMLINE_BOOTSTRAP_SERVERS": found.bootstrap,
                "SEAMLINE_SCHEMA_REGISTRY_URL": found.registry_url,
            }
        )


def tell(plan: Plan, say: Say, directory: Path | None = None) -> Outcome:
    """Run the whole story. Raises what went wrong; logs are in `directory` if one is given."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seamline-demo-") as temporary:
        home = directory or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        presets_file = home / "presets.yaml"
        presets_file.write_text(PRESETS)
        presets = loader.load(presets_file, {})
        with _world(home, say) as world:
            env = {**world.environment(), "SEAMLINE_PRESETS_FILE": str(presets_file)}
            with Children(home / "logs", env) as children:
                outcome = _Story(plan, say, world, presets, children, home).tell()
    outcome.elapsed_s = time.monotonic() - began
    return outcome


class _Story:
    def __init__(
        self,
        plan: Plan,
        say: Say,
        world: World,
        presets: Any,
        children: Children,
        home: Path,
    ) -> None:
        self._plan = plan
        self._say = say
        self._world = world
        self._presets = presets
        self._preset: Preset = presets[PRESET]
        self._children = children
        self._home = home

    def tell(self) -> Outcome:
        self._say("making topics, starting a worker")
        for preset in (self._preset, *loader.derived_of(self._presets, PRESET)):
            topics.apply(self._world.cluster, preset)
        # The venue's time runs fast: what compiles at a first start comes before it.
        self._start_worker()
        self._await(lambda: self._children.said("worker", OWNS), "the worker owns partitions")
        self._say("starting the venue and the live connector")
        venue = self._start_venue()
        self._start_live(venue)
        self._await(self._live_is_conformed, "the live connector and the worker are at work")
        self._say(f"replaying history from {format_time(self._plan.history_start_ns)}")
        landed = self._backfill(venue)
        self._await(self._landed_is_conformed, "the worker has taken the history in")
        self._say(f"{landed['bars']} bars of history landed; a reader passes the seam")
        follower = Follower(self._open)
        follower.start()
        try:
            killed_pid = self._follow(follower)
        finally:
            follower.stop()
        self._say("reading everything again for the certificate")
        reread = self._reread(follower)
        assert reread.certificate is not None
        outcome = Outcome(
            plan=self._plan,
            followed=follower.kept,
            reread=reread,
            certificate=reread.certificate,
            verdict=self._verify(reread.certificate),
            killed_pid=killed_pid,
        )
        self._compare(outcome, venue)
        return outcome

    def _start_venue(self) -> dict[str, Any]:
        plan = self._plan
        arguments = [
            *("venue-sim", "-o", "json", "--seed", str(plan.seed), "--speed", str(plan.speed)),
            *("--start", format_time(plan.venue_start_ns), "--until", format_time(plan.until_ns)),
            *("--symbols", ",".join(plan.symbols)),
        ]
        if plan.data is not None:
            arguments += ["--data", f"{plan.symbols[0]}={plan.data.resolve()}"]
        self._children.start("venue", arguments)
        return self._children.answer("venue", STEP_S)

    def _start_worker(self) -> None:
        self._children.start("worker", ["worker", PRESET, "--dir", str(self._home)])

    def _start_live(self, venue: dict[str, Any]) -> None:
        symbols = ",".join(self._plan.symbols)
        where = ["--ws-url", venue["ws_url"], "--rest-url", venue["rest_url"]]
        self._children.start("live", ["live", PRESET, "--symbols", symbols, *where])

    def _backfill(self, venue: dict[str, Any]) -> dict[str, Any]:
        return self._children.run(
            "backfill",
            [
                *("backfill", "run", PRESET, "--symbols", ",".join(self._plan.symbols)),
                *("--start", format_time(self._plan.history_start_ns)),
                *("--end", format_time(self._venue_minute(venue))),
                *("--rest-url", venue["rest_url"], "-o", "json"),
            ],
            STEP_S,
        )

    def _venue_minute(self, venue: dict[str, Any]) -> int:
        """The venue's clock, cut to the minute."""
        endpoints = BinanceEndpoints(venue["rest_url"], venue["ws_url"])

        async def ask() -> int:
            async with BinanceRest(endpoints) as rest:
                return await rest.venue_time_ns()

        return asyncio.run(ask()) // MINUTE_NS * MINUTE_NS

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until true. Raises ContractError when it takes longer than STEP_S."""
        deadline = time.monotonic() + STEP_S
        while not condition():
            self._children.check()
            if time.monotonic() > deadline:
                raise ContractError(
                    f"not within {STEP_S:g} s", parameter="demo", value=what, fix="See the logs"
                )
            time.sleep(0.05)

    def _live_is_conformed(self) -> bool:
        """Whether a live bar of every symbol is in the log: from there on live has no hole, so
        history that ends later joins it."""
        conformed = topic_name(PRESET, "conformed")
        admin = Admin(self._world.cluster)
        found: set[bytes | None] = set()
        for partition in range(self._preset.partitions):
            with closing(LogReader(self._world.cluster, partition, admin)) as reader:
                for records in reader.range(conformed, None):
                    found.update(record.key for record in records)
        return found >= {symbol.encode() for symbol in self._plan.symbols}

    def _landed_is_conformed(self) -> bool:
        """Whether the committed positions cover all that has landed by backfill. Offsets alone do
        not tell: the end of a transaction takes one too."""
        backfill, positions = topic_name(PRESET, LANDING_ROLES[1]), topic_name(PRESET, "positions")
        admin = Admin(self._world.cluster)
        for partition in range(self._preset.partitions):
            with closing(LogReader(self._world.cluster, partition, admin)) as reader:
                found = reader.latest(positions)
                covered = _backfill_offset(found[-1][1]) if found else None
                if any(reader.range(backfill, covered)):
                    return False
        return True

    def _open(self, *, follow: bool = True) -> SeamStream:
        plan = self._plan
        return stitch(
            PRESET,
            plan.symbols,
            format_time(plan.history_start_ns),
            follow=follow,
            on_gap=plan.on_gap,
            world=self._world,
            presets=self._presets,
        )

    def _follow(self, follower: Follower) -> int:
        """Follow live, kill the worker, follow on; returns the pid that was killed."""
        symbols = self._plan.symbols
        live = follower.kept.live

        def seen(bars: int, since: dict[str, int]) -> bool:
            # A file may be through before so many bars are seen.
            through = self._plan.data is not None and self._far_enough(follower)
            return through or all(live.get(s, 0) - since.get(s, 0) >= bars for s in symbols)

        self._await(lambda: seen(BEFORE_KILL, {}), "live bars pass the seam")
        pid = self._children.kill("worker")
        self._say(f"the worker (pid {pid}) got SIGKILL; starting it again while the reader follows")
        since = dict(live)
        self._start_worker()
        self._await(lambda: seen(AFTER_KILL, since), "live bars after the worker is back")
        self._await(lambda: self._far_enough(follower), "the stream reaches the next block")
        return pid

    def _far_enough(self, follower: Follower) -> bool:
        """Past a block boundary after the start of live; with a file, at its last bar."""
        plan = self._plan
        if plan.data is not None:
            goal_ns = plan.until_ns - 6 * MINUTE_NS
        else:
            block_ns = self._preset.block_ns
            goal_ns = (plan.venue_start_ns // block_ns + 1) * block_ns + 5 * MINUTE_NS
        follower.check()
        return all(follower.newest.get(symbol, 0) >= goal_ns for symbol in plan.symbols)

    def _reread(self, follower: Follower) -> Kept:
        """Read history and log again, once the block that the live bars filled is sealed."""
        block_ns = self._preset.block_ns
        newest_ns = min(follower.newest.values()) + MINUTE_NS
        sealed_ns = newest_ns // block_ns * block_ns
        kept = Kept()

        def sealed() -> bool:
            nonlocal kept
            kept = Kept()
            with closing(self._open(follow=False)) as stream:
                for event in stream:
                    kept.take(event)
            assert kept.certificate is not None
            entries = kept.certificate.symbols
            return all(_time(entry["frontier"]) >= sealed_ns for entry in entries)

        self._await(sealed, "the last full block is sealed")
        return kept

    def _verify(self, certificate: Certificate) -> str:
        path = self._home / "certificate.json"
        path.write_text(certificate.to_json())
        found = self._children.run(
            "verify", ["seam", "verify", str(path), "-o", "json"], STEP_S, statuses=(0, 1)
        )
        return str(found["status"])

    def _compare(self, outcome: Outcome, venue: dict[str, Any]) -> None:
        """Hold what the reader was given against the venue's own answer, bar for bar."""
        truth = asyncio.run(self._truth(venue, outcome.followed))
        given = outcome.followed.bars
        outcome.missing = sorted(truth.keys() - given.keys())
        outcome.invented = sorted(given.keys() - truth.keys())
        outcome.different = sorted(
            key
            for key in truth.keys() & given.keys()
            if truth[key] != _content(given[key])
            or (key in outcome.reread.bars and truth[key] != _content(outcome.reread.bars[key]))
        )

    async def _truth(
        self, venue: dict[str, Any], followed: Kept
    ) -> dict[tuple[str, int], tuple[float, ...]]:
        endpoints = BinanceEndpoints(venue["rest_url"], venue["ws_url"])
        truth: dict[tuple[str, int], tuple[float, ...]] = {}
        async with BinanceRest(endpoints) as rest:
            for symbol, listed in (await rest.resolve(self._plan.symbols)).items():
                page = await rest.klines(
                    listed,
                    self._plan.history_start_ns,
                    followed.newest_ns(symbol) + MINUTE_NS,
                    interval_ns=MINUTE_NS,
                    settle_ns=self._preset.settle_ns,
                )
                bars = page.columns
                for i in range(len(bars)):
                    values = tuple(float(getattr(bars, name)[i]) for name in PRICE_FIELDS)
                    truth[symbol, int(bars.open_time_ns[i])] = values
        return truth


def _content(bar: Bar) -> tuple[float, ...]:
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)


def _backfill_offset(value: bytes) -> int:
    return int(decode_record("position", value)["backfill_offset"])


def _time(text: str) -> int:
    return parse_time(text, now_ns=0, parameter="frontier")
