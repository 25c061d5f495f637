"""What one seed means: the settings of a small world and the list of acts that are done to it.

Decides: sizes, rates of faults, and which act follows which. Invariants: the same seed gives the
same plan; every choice inside an act comes from the act's own salt, so that an act does the same
thing when others before it are left out. Must not know: how an act is done.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from seamline.schemas.modes import MODES
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_S
from seamline.streams.kernel.simulation.venue import HISTORY_MINUTES, MINUTE_NS
from seamline.streams.kernel.simulation.worker import CUTS

PRESET_ID: Final = "ohlcv.simulated.spot.1m"
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
BLOCK_ROWS: Final = 12
MINUTES: Final = (40, 66)
DAYS_14_NS: Final = 14 * 86_400 * NS_PER_S
# Longer than any worker is away, and short enough that open bars are sealed by the clock.
SHORT_RETENTION_NS: Final = 160 * MINUTE_NS
# Worlds in which nobody changes a mode, and how often it is changed at most in the others.
QUIET_WORLDS: Final = 0.4
MODE_CHANGES_MAX: Final = 6
UNSOUND_MAX: Final = 10
RATIOS: Final = ((), (), (3,), (6,), (2, 4), (12,))


@dataclass(frozen=True, slots=True)
class Rates:
    """How likely each small fault is where it can happen."""

    frame_lost: float = 0.0
    frame_repeated: float = 0.0
    frame_late: float = 0.0
    connector_crash: float = 0.0
    history_error: float = 0.0
    repeated_send: float = 0.0
    backfill_crash: float = 0.0
    chunk_lost: float = 0.0
    chunk_stale: float = 0.0
    slow_marker: float = 0.0
    cut: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One world. Skews are ns against the world's clock."""

    seed: int
    minutes: int
    partitions: int
    symbols: tuple[str, ...]
    workers: int
    readers: int
    stabilization_bars: int
    ratios: tuple[int, ...]
    off_grid: str
    mode: str
    settle_ns: int
    retention_ns: int
    durable_index: bool
    empty_ratio: float
    early_ratio: float
    venue_skew_ns: int
    connector_skew_ns: int
    worker_skews_ns: tuple[int, ...]
    rates: Rates

    @property
    def retains(self) -> bool:
        """Whether retention removes records of the log in this world."""
        return self.retention_ns < DAYS_14_NS

    def preset(self, ratio: int = 1) -> Preset:
        """The preset, or the one derived from it with windows of `ratio` minutes."""
        parent = f"{PRESET_ID[:-2]}"
        return Preset(
            id=f"{parent}{ratio}m",
            kind="ohlcv",
            interval_ns=ratio * MINUTE_NS,
            contract_version="v1",
            partitions=self.partitions,
            block_rows=BLOCK_ROWS if ratio == 1 else BLOCK_ROWS // ratio,
            grid_origin_ns=0,
            storage="topic",
            backfill=None,
            live=None,
            conformance_preset="strict-blocking",
            sla_preset="baseline",
            stabilization_bars=self.stabilization_bars,
            calendar="24/7",
            off_grid=self.off_grid,
            authority=("rest_settled", "ws_closed", "rest_fresh", "ws_open"),
            derive_from=None if ratio == 1 else PRESET_ID,
            settle_ns=self.settle_ns,
            conformed_retention_ns=self.retention_ns,
        )


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens. `wait_s` passes before it; `salt` decides what is left open."""

    kind: str
    who: str = ""
    what: str = ""
    amount: int = 0
    salt: int = 0
    wait_s: int = 0

    def __str__(self) -> str:
        words = (self.kind, self.who, self.what, str(self.amount) if self.amount else "")
        return f"+{self.wait_s}s {' '.join(word for word in words if word)}"


def settings_of(seed: int) -> Settings:
    """The world of a seed."""
    rng = random.Random(f"settings {seed}")
    workers = rng.choice((2, 2, 3))

    def skew() -> int:
        return rng.randrange(-4, 5) * NS_PER_S

    skews = [skew() for _ in range(workers)]
    if rng.random() < 0.06:
        # A clock so far behind that what the venue closed seems to lie in the future.
        skews[-1] = -40 * NS_PER_S
    return Settings(
        seed=seed,
        minutes=rng.randrange(*MINUTES),
        partitions=rng.choice((1, 2)),
        symbols=SYMBOLS[: rng.choice((2, 2, 3))],
        workers=workers,
        readers=rng.choice((1, 2)),
        stabilization_bars=rng.choice((0, 1, 2, 2, 3)),
        ratios=rng.choice(RATIOS),
        off_grid=rng.choice(("reject", "reject", "snap")),
        mode=rng.choice(("canary", "canary", "strict")),
        settle_ns=rng.choice((60, 180, 300)) * NS_PER_S,
        retention_ns=rng.choice((DAYS_14_NS, DAYS_14_NS, SHORT_RETENTION_NS)),
        durable_index=rng.random() < 0.5,
        empty_ratio=rng.choice((0.0, 0.03, 0.1)),
        early_ratio=rng.choice((0.0, 0.05, 0.2)),
        venue_skew_ns=skew() // 2,
        connector_skew_ns=skew(),
        worker_skews_ns=tuple(skews),
        rates=_rates(rng),
    )


def _rates(rng: random.Random) -> Rates:
    def one(most: float) -> float:
        return rng.choice((0.0, 0.3, 1.0)) * most

    return Rates(
        frame_lost=one(0.1),
        frame_repeated=one(0.1),
        frame_late=one(0.1),
        connector_crash=one(0.06),
        history_error=one(0.3),
        repeated_send=one(0.2),
        backfill_crash=one(0.2),
        chunk_lost=one(0.06),
        chunk_stale=one(0.1),
        slow_marker=one(0.5),
        cut=one(0.2),
    )


@dataclass(slots=True)
class _Script:
    settings: Settings
    rng: random.Random
    acts: list[Act] = field(default_factory=list)
    later: list[tuple[int, Act]] = field(default_factory=list)
    minute: int = 0

    def do(self, kind: str, who: str = "", what: str = "", amount: int = 0, wait: int = -1) -> None:
        wait_s = self.rng.choice((0, 1, 2, 4)) if wait < 0 else wait
        salt = self.rng.randrange(2**32)
        self.acts.append(Act(kind, who, what, amount, salt, wait_s))

    def after(self, minutes: int, kind: str, who: str = "") -> None:
        salt = self.rng.randrange(2**32)
        self.later.append((self.minute + minutes, Act(kind, who, salt=salt, wait_s=1)))

    def round(self) -> None:
        """Some minutes pass, then everybody may move, and something may go wrong."""
        rng, settings = self.rng, self.settings
        step = rng.choice((1, 2, 3, 3, 5))
        self.minute += step
        self.do("time", wait=step * 60 + rng.randrange(-20, 21))
        for due, act in [one for one in self.later if one[0] <= self.minute]:
            self.later.remove((due, act))
            self.acts.append(act)
        moves = ["live"]
        moves += [f"work w{n}" for n in range(settings.workers) if rng.random() < 0.85]
        moves += [f"read r{n}" for n in range(settings.readers) if rng.random() < 0.6]
        moves += ["backfill"] * (rng.random() < 0.5)
        if rng.random() < 0.4:
            moves.append("fault")
        rng.shuffle(moves)
        for move in moves:
            kind, _, who = move.partition(" ")
            if kind == "work":
                cut = rng.choice(CUTS) if rng.random() < settings.rates.cut else ""
                self.do("work", who, cut)
                if cut == "pause":
                    self.after(rng.randrange(1, 6), "resume", who)
                    self.after(rng.randrange(0, 4), "rebalance")
                elif cut in CUTS[:4]:
                    self.after(rng.randrange(0, 5), "start", who)
                    self.after(rng.randrange(0, 3), "rebalance")
            elif kind == "read":
                self.do("read", who, amount=rng.choice((1, 2, 3, 5, 40)))
            elif kind == "fault":
                self.fault()
            else:
                self.do(kind)
                if kind == "live":
                    self.after(rng.randrange(1, 4), "start", "connector")

    def fault(self) -> None:
        rng, settings = self.rng, self.settings
        kind = rng.choice(FAULTS)
        worker = f"w{rng.randrange(settings.workers)}"
        if kind == "crash":
            who = rng.choice(("connector", worker, worker, f"r{rng.randrange(settings.readers)}"))
            self.do("crash", who)
            self.after(rng.randrange(1, 5), "start", who)
            if who == worker:
                self.after(rng.randrange(1, 3), "rebalance")
        elif kind == "pause":
            self.do("pause", worker)
            self.after(rng.randrange(1, 8), "resume", worker)
            self.after(rng.randrange(1, 4), "rebalance")
        elif kind in ("outage", "cut"):
            self.do(kind, amount=rng.randrange(1, 9))
        elif kind == "request":
            first = rng.randrange(-HISTORY_MINUTES, self.minute + 1)
            last = rng.randrange(first, self.minute + 2)
            what = f"{first} {last}" + (" again" if rng.random() < 0.3 else "")
            self.do("request", rng.choice(settings.symbols), what)
        else:
            self.do(kind, rng.choice(settings.symbols), amount=rng.randrange(1, 12))


FAULTS: Final = (
    *("crash", "crash", "pause", "rebalance", "outage", "cut", "correct", "request", "request"),
    *("compact", "expire", "foreign", "foreign"),
)


def acts_of(settings: Settings) -> Sequence[Act]:
    """The acts of a world, in order."""
    script = _Script(settings, random.Random(f"acts {settings.seed}"))
    script.do("start", "connector", wait=0)
    for number in range(settings.readers):
        script.after(script.rng.randrange(0, settings.minutes), "start", f"r{number}")
    while script.minute < settings.minutes:
        script.round()
    return tuple(_governed(settings, script.acts))


def _governed(settings: Settings, acts: Sequence[Act]) -> list[Act]:
    """The acts, in some worlds with changes of mode and unsound bars between them. These are drawn
    by themselves, so that all else of a seed is as it is without them."""
    rng = random.Random(f"modes {settings.seed}")
    governed = list(acts)
    if rng.random() < QUIET_WORLDS:
        return governed
    for number in range(rng.randrange(1, MODE_CHANGES_MAX)):
        place = rng.randrange(1, len(governed) + 1)
        mode = MODES[number % 2] if rng.random() < 0.8 else rng.choice(MODES)
        governed.insert(place, Act("mode", what=mode, salt=rng.randrange(2**32)))
    for _ in range(rng.randrange(UNSOUND_MAX)):
        place = rng.randrange(1, len(governed) + 1)
        who, amount = rng.choice(settings.symbols), rng.randrange(1, 12)
        governed.insert(place, Act("foreign", who, "unsound", amount, rng.randrange(2**32)))
    return governed
