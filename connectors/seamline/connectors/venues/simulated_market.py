"""A market from a seed: a random walk of trades per symbol, at any minute, without walking there.

Decides: prices, sizes, times and ids of the trades; klines are made of the trades and of nothing
else. Invariants: everything is a function of (seed, symbol, minute), so the far past costs as much
as the present; only +, -, *, / and square roots of floats are used, so that every machine gets the
same ticks; sums are of integers; ids are contiguous; a minute opens near the close of the one
before it.

The price at the start of a minute is a sum of linear noises over lattices of 1 minute to 30 days,
with amplitudes that grow as the root of the scale: it looks like a random walk and is bounded. The
first trade id of minute m is `m * mean + jitter(m)`: no count of what came before is needed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from seamline.connectors.venues.market import (
    MINUTE_MS,
    Kline,
    Listing,
    Trade,
    empty_kline,
    fixed_text,
    listing_of,
    listings_by_venue_symbol,
)
from seamline.schemas.errors import UsageError

CHUNK_MINUTES = 240
CHUNKS_KEPT_MAX = 192
# The first and the last of every eight minutes always trade: runs of empty minutes stay short, and
# a chunk is made without a look at its neighbours.
EIGHT = 8
SCALES_MIN = (1, 5, 30, 240, 1_440, 10_080, 43_200)
MINUTE_STEP = 0.0004
WIGGLE = 0.0003
MEAN_NOTIONAL = 400.0
KNOWN_PRICES = {"BTC": 60_000.0, "ETH": 3_000.0, "BNB": 500.0, "SOL": 150.0, "XRP": 0.6}

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """The shape of a seeded market. `empty_share` of the minutes have no trade at all."""

    seed: int = 0
    trades_per_minute: int = 12
    empty_share: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.trades_per_minute <= 1_000:
            raise UsageError(
                "outside 1 to 1000", parameter="trades_per_minute", value=self.trades_per_minute
            )
        if not 0.0 <= self.empty_share <= 0.9:
            raise UsageError("outside 0 to 0.9", parameter="empty_share", value=self.empty_share)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The trades of one symbol in CHUNK_MINUTES minutes; those of minute j are [starts[j],
    starts[j+1])."""

    first_minute: int
    first_id: int
    starts: I64
    time_ms: I64
    ticks: I64
    lots: I64
    maker: NDArray[np.bool_]


class SimulatedMarket:
    """A seeded market; satisfies `Market`. Several threads may ask it."""

    def __init__(self, symbols: Sequence[str], settings: MarketSettings | None = None) -> None:
        self._settings = settings or MarketSettings()
        self._walks = {}
        listed = []
        for symbol in symbols:
            walk = _Walk(symbol, self._settings)
            self._walks[walk.listing.venue_symbol] = walk
            listed.append(walk.listing)
        self._listings = listings_by_venue_symbol(listed)
        self._chunks: OrderedDict[tuple[str, int], _Chunk] = OrderedDict()
        # Whoever compares with a running venue asks for its truth from another thread.
        self._lock = Lock()

    @property
    def listings(self) -> Mapping[str, Listing]:
        return self._listings

    def page(
        self, venue_symbol: str, start_ms: int, end_ms: int, limit: int, newest: bool
    ) -> list[Kline]:
        first = max(-(-start_ms // MINUTE_MS), 0)
        stop = -(-end_ms // MINUTE_MS)
        if newest:
            first = max(first, stop - limit)
        stop = min(stop, first + limit)
        found: list[Kline] = []
        while first < stop:
            chunk = self._chunk(venue_symbol, first)
            upto = min(stop, chunk.first_minute + CHUNK_MINUTES)
            found += self._walks[venue_symbol].klines(chunk, first, upto)
            first = upto
        return found

    def as_of(self, venue_symbol: str, open_ms: int, at_ms: int) -> Kline | None:
        minute, off_grid = divmod(open_ms, MINUTE_MS)
        if off_grid or minute < 0:
            return None
        if at_ms >= open_ms + MINUTE_MS:
            return self.page(venue_symbol, open_ms, open_ms + 1, 1, newest=False)[0]
        chunk = self._chunk(venue_symbol, minute)
        row = minute - chunk.first_minute
        low, high = int(chunk.starts[row]), int(chunk.starts[row + 1])
        high = low + int(np.searchsorted(chunk.time_ms[low:high], at_ms, side="right"))
        walk = self._walks[venue_symbol]
        if high > low:
            return walk.kline(chunk, open_ms, low, high)
        if low == 0:  # the last trade before this minute stands in the chunk before
            chunk = self._chunk(venue_symbol, max(minute - 1, 0))
            low = int(chunk.starts[-1])
        return walk.empty(open_ms, int(chunk.ticks[low - 1]))

    def trades(self, venue_symbol: str, start_ms: int, end_ms: int) -> list[Trade]:
        found: list[Trade] = []
        minute = max(start_ms // MINUTE_MS, 0)
        while minute * MINUTE_MS < end_ms:
            chunk = self._chunk(venue_symbol, minute)
            low, high = np.searchsorted(chunk.time_ms, [start_ms, end_ms], side="left")
            found += self._walks[venue_symbol].trades(chunk, int(low), int(high))
            minute = chunk.first_minute + CHUNK_MINUTES
        return found

    def _chunk(self, venue_symbol: str, minute: int) -> _Chunk:
        key = (venue_symbol, minute // CHUNK_MINUTES)
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is None:
                chunk = self._walks[venue_symbol].chunk(key[1] * CHUNK_MINUTES)
                self._chunks[key] = chunk
                if len(self._chunks) > CHUNKS_KEPT_MAX:
                    self._chunks.popitem(last=False)
            else:
                self._chunks.move_to_end(key)
            return chunk


class _Walk:
    """The random walk of one symbol. It keeps no state but its keys."""

    def __init__(self, symbol: str, settings: MarketSettings) -> None:
        base, _, _ = symbol.partition("/")
        self._seed = f"{settings.seed}:{symbol}"
        price = KNOWN_PRICES.get(base, 0.5 + (self._key("price") % 20_000) / 100.0)
        price_decimals = 2 if price >= 100 else 4
        size_decimals = 5 if price >= 1_000 else 2
        self.listing = listing_of(
            symbol, price_decimals=price_decimals, size_decimals=size_decimals
        )
        self._base_ticks = price * 10.0**price_decimals
        # The cube of a uniform has the mean 1/4: four times the mean notional is the largest trade.
        self._largest_lots = max(4.0 * MEAN_NOTIONAL / price * 10.0**size_decimals, 1.0)
        self._mean = settings.trades_per_minute
        self._empty_share = settings.empty_share
        self._lattice_keys = [self._key(f"lattice-{scale}") for scale in SCALES_MIN]
        self._jitter_key, self._empty_key = self._key("jitter"), self._key("empty")
        self._time_key, self._price_key = self._key("time"), self._key("wiggle")
        self._size_key, self._side_key = self._key("size"), self._key("side")

    def _key(self, purpose: str) -> int:
        digest = hashlib.sha256(f"{self._seed}:{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def chunk(self, first_minute: int) -> _Chunk:
        minutes = np.arange(first_minute, first_minute + CHUNK_MINUTES + 1, dtype=np.int64)
        first_ids = self._first_ids(minutes)
        counts = np.diff(first_ids)
        row = np.repeat(np.arange(CHUNK_MINUTES), counts)
        ids = np.arange(first_ids[0], first_ids[-1], dtype=np.int64)
        place = ids - first_ids[row]
        fraction = (place + _uniform(ids, self._time_key)) / counts[row]
        offset_ms = (fraction * MINUTE_MS).astype(np.int64)
        anchors = self._anchors(minutes)
        line = anchors[row] + (anchors[row + 1] - anchors[row]) * fraction
        bridge = 4.0 * fraction * (1.0 - fraction)
        wiggle = (2.0 * _uniform(ids, self._price_key) - 1.0) * bridge * WIGGLE
        size = _uniform(ids, self._size_key)
        return _Chunk(
            first_minute=first_minute,
            first_id=int(first_ids[0]),
            starts=first_ids - first_ids[0],
            time_ms=minutes[row] * MINUTE_MS + np.minimum(offset_ms, MINUTE_MS - 1),
            ticks=np.maximum(np.rint(line * (1.0 + wiggle)).astype(np.int64), 1),
            lots=1 + (size * size * size * self._largest_lots).astype(np.int64),
            maker=(_hashed(ids, self._side_key) & np.uint64(1)).astype(np.bool_),
        )

    def _first_ids(self, minutes: I64) -> I64:
        jitter = (_uniform(minutes, self._jitter_key) * self._mean).astype(np.int64)
        first_ids = minutes * self._mean + jitter
        if self._empty_share:
            empty = _uniform(minutes, self._empty_key) < self._empty_share
            empty &= (minutes % EIGHT != 0) & (minutes % EIGHT != EIGHT - 1)
            # A minute is empty when the next one starts with the same id.
            for index in np.flatnonzero(empty[:-1]):
                first_ids[index + 1] = first_ids[index]
        return first_ids

    def _anchors(self, minutes: I64) -> F64:
        """The price in ticks, not yet whole, at the start of each minute."""
        moved = np.zeros(len(minutes))
        for scale, key in zip(SCALES_MIN, self._lattice_keys, strict=True):
            cell = minutes // scale
            along = (minutes - cell * scale) / scale
            left = 2.0 * _uniform(cell, key) - 1.0
            right = 2.0 * _uniform(cell + 1, key) - 1.0
            moved += MINUTE_STEP * sqrt(scale) * (left + (right - left) * along)
        return self._base_ticks * (1.0 + moved)

    def klines(self, chunk: _Chunk, first: int, stop: int) -> list[Kline]:
        found = []
        for minute in range(first, stop):
            row = minute - chunk.first_minute
            low, high = int(chunk.starts[row]), int(chunk.starts[row + 1])
            if high > low:
                found.append(self.kline(chunk, minute * MINUTE_MS, low, high))
            else:
                found.append(self.empty(minute * MINUTE_MS, int(chunk.ticks[low - 1])))
        return found

    def kline(self, chunk: _Chunk, open_ms: int, low: int, high: int) -> Kline:
        ticks, lots = chunk.ticks[low:high].tolist(), chunk.lots[low:high].tolist()
        bought = [not maker for maker in chunk.maker[low:high].tolist()]
        money = [tick * lot for tick, lot in zip(ticks, lots, strict=True)]
        price, size = self.listing.price_decimals, self.listing.size_decimals
        return Kline(
            open_ms=open_ms,
            open=fixed_text(ticks[0], price),
            high=fixed_text(max(ticks), price),
            low=fixed_text(min(ticks), price),
            close=fixed_text(ticks[-1], price),
            volume=fixed_text(sum(lots), size),
            quote_volume=fixed_text(sum(money), price + size),
            taker_volume=fixed_text(_picked(lots, bought), size),
            taker_quote_volume=fixed_text(_picked(money, bought), price + size),
            first_id=chunk.first_id + low,
            last_id=chunk.first_id + high - 1,
            trades=high - low,
        )

    def empty(self, open_ms: int, last_ticks: int) -> Kline:
        return empty_kline(open_ms, fixed_text(last_ticks, self.listing.price_decimals))

    def trades(self, chunk: _Chunk, low: int, high: int) -> list[Trade]:
        price, size = self.listing.price_decimals, self.listing.size_decimals
        return [
            Trade(
                id=chunk.first_id + index,
                time_ms=int(chunk.time_ms[index]),
                price=fixed_text(int(chunk.ticks[index]), price),
                size=fixed_text(int(chunk.lots[index]), size),
                buyer_is_maker=bool(chunk.maker[index]),
            )
            for index in range(low, high)
        ]


def _picked(values: list[int], chosen: list[bool]) -> int:
    return sum(value for value, take in zip(values, chosen, strict=True) if take)


def _hashed(counter: I64, key: int) -> U64:
    """splitmix64 of each counter under a key; arrays wrap, as the mixing needs."""
    mixed = (counter.astype(np.uint64) ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _uniform(counter: I64, key: int) -> F64:
    """Uniform in [0, 1) for each counter."""
    return (_hashed(counter, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
