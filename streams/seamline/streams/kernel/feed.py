"""A live feed as a value: what is new, what is missing, what must wait, what is complete.

Decides: which bars and trades of a feed are new; where a symbol's bars have a hole (by the grid and
by the venue's trade ids); that newer bars of a symbol wait until its hole was filled or the venue
has answered that there is nothing; the watermark; the pauses between reconnections; that a record
counts as done only after it is done.

Invariants: bars of a symbol leave in time order, except late ones, which are older than what has
left; the watermark never moves back, never passes a hole and never passes a bar that has not left;
nothing is dropped without a counter; all memory is bounded by `FeedLimits`. What memory has
forgotten is given again rather than lost: the plane merges repeats, it cannot invent what is gone.

Must not know: sockets, REST, Kafka, clocks. Times are arguments: `venue_ns` is the venue's clock
and may run at any speed, `local_ns` is a monotonic local clock that patience is measured on.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from seamline.schemas.errors import ContractError

NULL_ID = -1
REMEMBERED_BARS = 4_096
REMEMBERED_TRADES = 65_536

Content = tuple[float | int | None, ...]


@dataclass(frozen=True, slots=True)
class FeedBar:
    """One closed bar on its way. Null: NaN in `quote_volume`, -1 in `trades` and the trade ids."""

    open_time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trades: int
    first_trade_id: int
    last_trade_id: int
    source: int
    received_time_ns: int

    def content(self) -> Content:
        """What two bars of one identity are compared by: source and arrival are outside. None is
        null; a NaN price reads as None too, so that a bar with it is given once, not for ever."""
        prices = (self.open, self.high, self.low, self.close)
        floats = (*prices, self.volume, self.quote_volume)
        whole = (self.trades, self.first_trade_id, self.last_trade_id)
        return (
            *(None if math.isnan(f) else f + 0.0 for f in floats),
            *(None if w == NULL_ID else w for w in whole),
        )


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Bounds of one feed. `overdue_ns` is local time: how long a closed bar may take to arrive."""

    remembered_bars: int = REMEMBERED_BARS
    remembered_trades: int = REMEMBERED_TRADES
    held_bars: int = 2_048
    reasked_bars: int = 480
    overdue_ns: int = 2_000_000_000


# --- what is new ----------------------------------------------------------------------------------


class BarDedupe:
    """Bars already given, by identity and content, the newest `remembered` of each symbol.

    A null says nothing: a bar whose other fields are equal (REST tells no trade ids) is a repeat,
    and one that has a value where there was a null is new.
    """

    def __init__(self, remembered: int = REMEMBERED_BARS) -> None:
        self._remembered = remembered
        self._given: dict[str, OrderedDict[int, Content]] = {}
        self.repeats = 0

    def new(self, symbol: str, bars: Iterable[FeedBar]) -> list[FeedBar]:
        """The bars of the batch that were not given with equal content, in their order."""
        given = self._given.setdefault(symbol, OrderedDict())
        fresh: list[FeedBar] = []
        for bar in bars:
            known, content = given.get(bar.open_time_ns), bar.content()
            if known is not None:
                content = tuple(k if c is None else c for c, k in zip(content, known, strict=True))
                if content == known:
                    self.repeats += 1
                    continue
            given[bar.open_time_ns] = content
            given.move_to_end(bar.open_time_ns)
            if len(given) > self._remembered:
                given.popitem(last=False)
            fresh.append(bar)
        return fresh

    def remember(self, symbol: str, bars: Iterable[FeedBar]) -> None:
        """Take bars as given; counts nothing."""
        before = self.repeats
        self.new(symbol, bars)
        self.repeats = before


class TradeDedupe:
    """Trades already given, by trade id, and how many ids between them never came.

    `missing` counts ids that were jumped over; one that comes late after all is taken off again.
    """

    def __init__(self, remembered: int = REMEMBERED_TRADES) -> None:
        self._remembered = remembered
        self._given: dict[str, tuple[set[int], deque[int]]] = {}
        self._newest: dict[str, int] = {}
        self.repeats = 0
        self.missing = 0

    def new(self, symbol: str, trade_ids: Sequence[int]) -> list[int]:
        """Positions in `trade_ids` of the trades that are new. Times play no part: sub-second
        trades are different trades."""
        known, order = self._given.setdefault(symbol, (set(), deque()))
        fresh = []
        for position, trade_id in enumerate(trade_ids):
            if trade_id in known:
                self.repeats += 1
                continue
            known.add(trade_id)
            order.append(trade_id)
            if len(order) > self._remembered:
                known.discard(order.popleft())
            self._count(symbol, trade_id)
            fresh.append(position)
        return fresh

    def _count(self, symbol: str, trade_id: int) -> None:
        newest = self._newest.get(symbol)
        if newest is not None:
            late = trade_id < newest
            self.missing = (
                max(0, self.missing - 1) if late else self.missing + trade_id - newest - 1
            )
        self._newest[symbol] = trade_id if newest is None else max(newest, trade_id)


# --- what is missing, and what waits for it -------------------------------------------------------


class Cause(StrEnum):
    """Why a hole is asked for."""

    CONNECTED = "connected"  # the socket was down, or the connector was
    MISSING = "missing"  # a newer bar came first
    OVERDUE = "overdue"  # the venue's clock says closed, nothing came
    TRADE_IDS = "trade_ids"  # the grid fits, the trade ids do not: the bar before is asked again


@dataclass(frozen=True, slots=True)
class Hole:
    """Bars of `symbol` with open time in `[start_ns, end_ns)` that only the venue's history has."""

    symbol: str
    start_ns: int
    end_ns: int
    cause: Cause


@dataclass(slots=True)
class FeedCounters:
    """Everything that happened to bars, so that nothing happens silently."""

    sent: int = 0
    late: int = 0
    off_grid: int = 0
    held: int = 0
    held_replaced: int = 0
    hold_overflow: int = 0
    holes: int = 0
    id_breaks: int = 0
    id_breaks_kept: int = 0
    empty_cells: int = 0
    empty_proved: int = 0
    settled_compared: int = 0
    settled_differ: int = 0


@dataclass(frozen=True, slots=True)
class _Chain:
    """Trade ids so far: the newest bar that told ids, and the id that has to come next.

    A bar without ids (REST tells none) but with a count moves `next_id` on by it; a bar without a
    count makes it unknown.
    """

    anchor_ns: int
    anchor_first_id: int
    next_id: int | None

    def after(self, bar: FeedBar) -> _Chain:
        if NULL_ID not in (bar.first_trade_id, bar.last_trade_id):
            return _Chain(bar.open_time_ns, bar.first_trade_id, bar.last_trade_id + 1)
        if bar.trades == NULL_ID or self.next_id is None:
            return replace(self, next_id=None)
        return replace(self, next_id=self.next_id + bar.trades)


@dataclass(slots=True)
class _Symbol:
    expected_ns: int
    newest_ns: int | None = None
    chain: _Chain | None = None
    hole: Hole | None = None
    held: dict[int, FeedBar] = field(default_factory=dict)
    rechecked_ns: int | None = None
    due: tuple[int, int, int] | None = None  # expected then, local time, edge of what was closed


class BarFeed:
    """Contiguity of the closed bars of many symbols, with one pending hole each at most.

    `expected` is for each symbol the open time of the next bar: every cell before it has left, or
    the venue has answered that it has none. Effects are the bars to send now, in order.
    """

    def __init__(
        self,
        expected_ns: Mapping[str, int],
        interval_ns: int,
        grid_origin_ns: int = 0,
        limits: FeedLimits | None = None,
    ) -> None:
        self._interval_ns = interval_ns
        self._origin_ns = grid_origin_ns
        self._limits = limits or FeedLimits()
        self._symbols = {s: _Symbol(self.floor(e)) for s, e in expected_ns.items()}
        self._dedupe = BarDedupe(self._limits.remembered_bars)
        self.counters = FeedCounters()

    def floor(self, time_ns: int) -> int:
        """Start of the grid cell that holds the time."""
        return time_ns - (time_ns - self._origin_ns) % self._interval_ns

    @property
    def repeats(self) -> int:
        """Bars that came again with equal content."""
        return self._dedupe.repeats

    @property
    def held(self) -> int:
        """Bars that wait for a hole right now."""
        return sum(len(s.held) for s in self._symbols.values())

    @property
    def watermark_ns(self) -> int:
        """Every closed bar before it has been handed out, for every symbol."""
        return min(s.expected_ns for s in self._symbols.values())

    def expected_ns(self, symbol: str) -> int:
        return self._symbols[symbol].expected_ns

    def holes(self) -> tuple[Hole, ...]:
        """What has to be asked from the venue's history, one hole a symbol at most."""
        return tuple(s.hole for s in self._symbols.values() if s.hole is not None)

    def seed(self, symbol: str, bar: FeedBar) -> None:
        """Take `bar` as already sent (read back from the log on start). Sends nothing."""
        self._dedupe.new(symbol, [bar])
        self._note(self._symbols[symbol], bar)

    def remember(self, symbol: str, bars: Iterable[FeedBar]) -> None:
        """Take bars as already sent, without a place in the chain. Sends nothing."""
        self._dedupe.remember(symbol, bars)

    def on_connected(self, venue_ns: int, symbols: Collection[str] | None = None) -> None:
        """A socket of `symbols` (None: of all) is subscribed: bars that closed before this instant
        come from history only."""
        edge = self.floor(venue_ns)
        for symbol in self._symbols if symbols is None else symbols:
            self._open_hole(symbol, self._symbols[symbol], edge, Cause.CONNECTED)

    def on_tick(self, local_ns: int, venue_ns: int) -> None:
        """Open a hole for bars that were closed `overdue_ns` of local time ago and never came.

        The hole ends where the venue's clock stood when the wait began: what closed since then may
        still be on its way.
        """
        edge = self.floor(venue_ns)
        for symbol, state in self._symbols.items():
            if state.hole is not None or state.expected_ns >= edge:
                state.due = None
            elif state.due is None or state.due[0] != state.expected_ns:
                state.due = (state.expected_ns, local_ns, edge)
            elif local_ns - state.due[1] >= self._limits.overdue_ns:
                self._open_hole(symbol, state, state.due[2], Cause.OVERDUE)
                state.due = None

    def on_bar(self, symbol: str, bar: FeedBar) -> list[FeedBar]:
        """A closed bar came over the socket. Raises KeyError for a symbol not of the feed."""
        state = self._symbols[symbol]
        if self.floor(bar.open_time_ns) != bar.open_time_ns:
            self.counters.off_grid += 1
            return self._send(symbol, [bar])
        if bar.open_time_ns < state.expected_ns:
            sent = self._send(symbol, [bar])
            self.counters.late += len(sent)
            return sent
        self._hold(state, bar)
        return self._drain(symbol, state)

    def on_answer(
        self, symbol: str, start_ns: int, end_ns: int, bars: Iterable[FeedBar]
    ) -> list[FeedBar]:
        """The venue's history answered for `[start_ns, end_ns)`, a prefix of the hole or all of it.

        `bars` are all closed bars it has there; a cell without one is settled as empty. An answer
        that begins behind `expected` leaves what is before it open and moves nothing.
        """
        state = self._symbols[symbol]
        answered = sorted(
            (b for b in bars if start_ns <= b.open_time_ns < end_ns), key=lambda b: b.open_time_ns
        )
        if start_ns > state.expected_ns:
            return []
        cells = range(max(start_ns, state.expected_ns), end_ns, self._interval_ns)
        have = {b.open_time_ns for b in answered} | state.held.keys()
        empty = sum(cell not in have for cell in cells)
        # Of one cell the higher authority goes last. Equal content is then dropped as a repeat,
        # other content is the worker's to decide.
        waiting = [state.held.pop(t) for t in sorted(state.held) if t < end_ns]
        rows = sorted([*answered, *waiting], key=lambda b: (b.open_time_ns, -b.source))
        out = self._send(symbol, rows)
        self._follow(state, start_ns, rows)
        self.counters.empty_cells += empty
        if state.chain is not None and end_ns in state.held:
            proved = state.held[end_ns].first_trade_id == state.chain.next_id
            self.counters.empty_proved += empty * proved
        state.expected_ns = max(state.expected_ns, end_ns)
        hole = state.hole
        if hole is not None:
            state.hole = None if end_ns >= hole.end_ns else replace(hole, start_ns=end_ns)
        return out + self._drain(symbol, state)

    def on_settled(self, symbol: str, bars: Iterable[FeedBar]) -> list[FeedBar]:
        """Settled history, asked once more for bars that have left: what differs leaves again."""
        left_ns = self._symbols[symbol].expected_ns
        asked = [bar for bar in bars if bar.open_time_ns < left_ns]
        sent = self._send(symbol, asked)
        self.counters.settled_compared += len(asked)
        self.counters.settled_differ += len(sent)
        return sent

    def _drain(self, symbol: str, state: _Symbol) -> list[FeedBar]:
        """Hand out what is contiguous from `expected`; what is not becomes a hole."""
        out: list[FeedBar] = []
        while True:
            bar = state.held.get(state.expected_ns)
            if bar is None or self._ids_break(symbol, state, bar):
                break
            del state.held[state.expected_ns]
            self._note(state, bar)
            out += self._send(symbol, [bar])
            state.expected_ns += self._interval_ns
        hole = state.hole
        if hole is not None and hole.cause is not Cause.TRADE_IDS:
            start = max(hole.start_ns, state.expected_ns)
            state.hole = None if start >= hole.end_ns else replace(hole, start_ns=start)
        if state.hole is None and state.held:
            self._open_hole(symbol, state, min(state.held), Cause.MISSING)
        return out

    def _ids_break(self, symbol: str, state: _Symbol, bar: FeedBar) -> bool:
        """Whether `bar` has to wait until what lies before it was asked again."""
        chain = state.chain
        if chain is None or chain.next_id is None or bar.first_trade_id == NULL_ID:
            return False
        if bar.first_trade_id == chain.next_id:
            return False
        too_far = bar.open_time_ns - chain.anchor_ns > self._limits.reasked_bars * self._interval_ns
        if too_far or state.rechecked_ns == chain.anchor_ns:
            self.counters.id_breaks_kept += 1
            return False
        if state.hole is not None:
            return True
        self.counters.id_breaks += 1
        self.counters.holes += 1
        state.rechecked_ns = chain.anchor_ns
        state.hole = Hole(symbol, chain.anchor_ns, bar.open_time_ns, Cause.TRADE_IDS)
        return True

    def _hold(self, state: _Symbol, bar: FeedBar) -> None:
        known = bar.open_time_ns in state.held
        if not known and len(state.held) >= self._limits.held_bars:
            # Not kept, and so never seen: the grid finds it missing again and history answers.
            self.counters.hold_overflow += 1
            return
        if known:
            self.counters.held_replaced += 1
        elif state.hole is not None or bar.open_time_ns > state.expected_ns:
            self.counters.held += 1
        state.held[bar.open_time_ns] = bar

    def _open_hole(self, symbol: str, state: _Symbol, end_ns: int, cause: Cause) -> None:
        hole = state.hole
        if hole is not None:
            # One question at a time: what is missing behind a re-asked bar is found again after it.
            if hole.cause is not Cause.TRADE_IDS and end_ns > hole.end_ns:
                state.hole = replace(hole, end_ns=end_ns)
        elif end_ns > state.expected_ns:
            self.counters.holes += 1
            state.hole = Hole(symbol, state.expected_ns, end_ns, cause)

    def _note(self, state: _Symbol, bar: FeedBar) -> None:
        """Take a bar into the chain of trade ids when it is newer than what is there."""
        if state.newest_ns is not None and bar.open_time_ns <= state.newest_ns:
            return
        state.newest_ns = bar.open_time_ns
        if state.chain is not None:
            state.chain = state.chain.after(bar)
        elif NULL_ID not in (bar.first_trade_id, bar.last_trade_id):
            state.chain = _Chain(bar.open_time_ns, bar.first_trade_id, bar.last_trade_id + 1)

    def _follow(self, state: _Symbol, start_ns: int, rows: Sequence[FeedBar]) -> None:
        """Take history's rows into the chain; when they begin at its anchor they rebuild it."""
        chain = state.chain
        if chain is not None and rows and start_ns == chain.anchor_ns == rows[0].open_time_ns:
            state.chain = replace(chain, next_id=chain.anchor_first_id)
            state.newest_ns = start_ns - 1
        by_time = {b.open_time_ns: b for b in rows if b.first_trade_id == NULL_ID}
        by_time |= {b.open_time_ns: b for b in rows if b.first_trade_id != NULL_ID}
        for time_ns in sorted(by_time):
            self._note(state, by_time[time_ns])

    def _send(self, symbol: str, bars: Sequence[FeedBar]) -> list[FeedBar]:
        fresh = self._dedupe.new(symbol, bars)
        self.counters.sent += len(fresh)
        return fresh


# --- when to try again, and when a record is done -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ladder:
    """Pauses between attempts to connect, in ms: the last step repeats, success resets."""

    steps_ms: tuple[int, ...]
    step: int = 0

    def failed(self) -> tuple[Ladder, int]:
        """The ladder after one more failure, and the pause before the next attempt."""
        pause_ms = self.steps_ms[self.step]
        return replace(self, step=min(self.step + 1, len(self.steps_ms) - 1)), pause_ms

    def connected(self) -> Ladder:
        return replace(self, step=0)


class LogConsumer:
    """Records of a log in order, each at least once until it is done, and once when it is.

    Order of one record: 1. look whether it is done already (a redelivery); 2. process it, again and
    again up to `attempts_max`; 3. only then mark it as done. A record is never skipped.
    """

    def __init__(
        self,
        process: Callable[[Hashable], None],
        *,
        attempts_max: int = 5,
        retried: tuple[type[Exception], ...] = (Exception,),
        remembered: int = 65_536,
    ) -> None:
        self._process = process
        self._attempts_max = attempts_max
        self._retried = retried
        self._remembered = remembered
        self._done: OrderedDict[Hashable, None] = OrderedDict()
        self.redelivered = 0
        self.retries = 0

    def done(self, record: Hashable) -> bool:
        return record in self._done

    def consume(self, record: Hashable) -> bool:
        """Whether the record was processed now.

        Raises ContractError (fields `record`, `attempts`) when every attempt failed: the record is
        not done and nothing behind it was begun.
        """
        if record in self._done:
            self.redelivered += 1
            return False
        for attempt in range(1, self._attempts_max + 1):
            try:
                self._process(record)
                break
            except self._retried as fault:
                self.retries += 1
                if attempt == self._attempts_max:
                    raise ContractError(
                        "a record failed as often as it may",
                        fix="Mend the cause, then consume from this record again",
                        record=record,
                        attempts=attempt,
                    ) from fault
        self._done[record] = None
        if len(self._done) > self._remembered:
            self._done.popitem(last=False)
        return True

    def consume_all(self, records: Iterable[Hashable]) -> list[Hashable]:
        """The records that were processed, in order."""
        return [record for record in records if self.consume(record)]
