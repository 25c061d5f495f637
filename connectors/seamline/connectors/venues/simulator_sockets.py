"""The WebSocket side of the venue simulator: the feed that gives frames to its sockets.

Decides: which session gets which frame, in which order, and when a session ends. Invariants: frames
of one session are in the order of simulated time, but for those that a fault delays or reorders; a
reply to a control message stands in the same order; every frame is counted as sent, lost or left
behind in a dropped socket; every strike of a fault is counted. Must not know: REST, where market
values come from, whether a fault strikes (`fault_plan`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from aiohttp import ClientConnectionResetError, WSCloseCode, WSMsgType, web

from seamline.connectors.venues.binance_shapes import shutdown_event
from seamline.connectors.venues.fault_plan import Fate, FaultPlan, Frame, Happening, Moment
from seamline.connectors.venues.faulty_frames import malformed, wrong_symbol
from seamline.connectors.venues.faulty_market import Changed, FaultyMarket
from seamline.connectors.venues.market import MINUTE_MS
from seamline.connectors.venues.simulated_clock import SimulatedClock
from seamline.connectors.venues.socket_session import (
    DELAYED_MAX,
    Oversized,
    Session,
    SocketTally,
)
from seamline.connectors.venues.venue_control import control
from seamline.connectors.venues.venue_events import Event, EventSchedule, dumped
from seamline.schemas.times import NS_PER_MS

# A simulated span is delivered in steps of this length, so that a jump of a day stays responsive.
STEP_MAX_MS = 600_000
IDLE_MS = 3_600_000
MESSAGE_BYTES_MAX = 65_536
# How long before its cut a session is told so; a short one at half of its time.
SESSION_NOTICE_MS = 600_000


@dataclass(frozen=True, slots=True)
class SocketRules:
    """`session_ms` is simulated time; pings are real seconds, as they watch a real connection."""

    session_ms: int
    ping_interval_s: float
    pong_timeout_s: float

    @property
    def announce_ms(self) -> int:
        """The age at which a session is sent `serverShutdown`."""
        return self.session_ms - min(SESSION_NOTICE_MS, self.session_ms // 2)


@dataclass(frozen=True, slots=True)
class _Delayed:
    """A frame that a session gets later."""

    session: Session
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class _Age:
    """A session comes to the age of its announcement, or of its end."""

    session: Session
    over: bool


_What = Event | _Delayed | Moment | Changed | _Age
# In one millisecond: the outage first, then frames, then what is said and done to sockets.
_FIRST, _FRAMES, _LATER, _LAST = range(4)


class Feed:
    """All sessions and the one task that sends market data to them."""

    def __init__(
        self,
        market: FaultyMarket,
        schedule: EventSchedule,
        clock: SimulatedClock,
        plan: FaultPlan,
        rules: SocketRules,
    ) -> None:
        self._market, self._schedule = market, schedule
        self._clock, self._plan, self._rules = clock, plan, rules
        self._sessions: dict[int, Session] = {}
        self._delayed: list[tuple[int, int, int, _What]] = []
        self._serial = count()
        self._changes = any(plan.of_kind("lose-history", "correct-klines"))
        self.tally = SocketTally()

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def streams(self) -> Counter[str]:
        """How many sessions have each stream."""
        # Copies: another thread may ask for the status.
        sessions = list(self._sessions.values())
        return Counter(name for session in sessions for name in list(session.streams))

    def drop_all(self, why: str) -> int:
        """Break all connections after what is queued; returns how many."""
        sessions = list(self._sessions.values())
        for session in sessions:
            session.end(why, None)
        return len(sessions)

    def close_all(self) -> None:
        for session in self._sessions.values():
            session.end("server_stopped", WSCloseCode.GOING_AWAY, "server stopped")

    def note(self, fault: int, **seen: Any) -> None:
        """Count one strike of a fault; what was seen of it is kept among the recent ones."""
        self.tally.fault_hits[fault] += 1
        if seen:
            self.tally.recent.append({"fault": self._plan.faults[fault].text, **seen})

    async def run(self) -> None:
        """Deliver for ever; cancelled by the simulator when it stops."""
        last_ms = self._now_ms()
        while True:
            now_ms = self._now_ms()
            while last_ms < now_ms:
                upto_ms = min(now_ms, last_ms + STEP_MAX_MS)
                self._deliver(last_ms, upto_ms)
                last_ms = upto_ms
                await asyncio.sleep(0)
            await self._clock.wait_until(self._next_ms(now_ms) * NS_PER_MS)

    async def serve(
        self, request: web.Request, streams: list[str], combined: bool
    ) -> web.StreamResponse:
        """One socket from its handshake to its end; 503 while the venue is down."""
        opened_ms = self._now_ms()
        down = self._plan.down("ws", opened_ms)
        if down >= 0:
            self.tally.refused += 1
            self.note(down, time_ms=opened_ms, refused="handshake")
            return web.Response(status=503, text="Service Unavailable")
        socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=MESSAGE_BYTES_MAX
        )
        await socket.prepare(request)
        self.tally.opened += 1
        session = Session(self.tally.opened, request.transport, combined, opened_ms)
        self._sessions[session.number] = session
        self._subscribe(session, streams)
        tasks = [
            asyncio.create_task(session.write(socket, self.tally)),
            asyncio.create_task(self._ping(session, socket)),
        ]
        try:
            await self._read(session, socket)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del self._sessions[session.number]
            self.tally.frames_left += session.left()
            self.tally.ended[session.ending or "client_closed"] += 1
        return socket

    async def _read(self, session: Session, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                answer = control(message.data, session.streams, session.combined)
                if answer.combined is not None:
                    session.combined = answer.combined
                for stream in answer.remove:
                    session.unsubscribe(stream)
                self._subscribe(session, answer.add)
                session.put(dumped(answer.reply))
            elif message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                session.pong_at = time.monotonic()

    async def _ping(self, session: Session, socket: web.WebSocketResponse) -> None:
        rules = self._rules
        while True:
            await asyncio.sleep(rules.ping_interval_s)
            if time.monotonic() - session.pong_at > rules.pong_timeout_s:
                session.break_off("pong_timeout")
                return
            try:
                await socket.ping(str(self._now_ms()).encode())
            except ClientConnectionResetError:
                return

    def _subscribe(self, session: Session, streams: list[str] | tuple[str, ...]) -> None:
        now_ms = self._now_ms()
        for stream in streams:
            session.streams.setdefault(stream, now_ms)
        self._clock.poke()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    def _next_ms(self, now_ms: int) -> int:
        """No later than what comes next, and after `now_ms`."""
        times = [now_ms + IDLE_MS, *(entry[0] for entry in self._delayed[:1])]
        known = (name for name in self.streams() if self._schedule.knows(name))
        times += [self._schedule.next_ms(name, now_ms) for name in known]
        times += [at_ms for session in self._living() for at_ms, _ in self._ages(session)]
        moment_ms = self._plan.next_moment_ms(now_ms)
        if moment_ms is not None:
            times.append(moment_ms)
        if self._changes:
            times.append(now_ms + MINUTE_MS)
        return max(min(times), now_ms + 1)

    def _living(self) -> list[Session]:
        return [session for session in self._sessions.values() if session.ending is None]

    def _ages(self, session: Session) -> list[tuple[int, bool]]:
        rules = self._rules
        ages = [(session.opened_ms + rules.session_ms, True)]
        if not session.announced:
            ages.append((session.opened_ms + rules.announce_ms, False))
        return ages

    def _deliver(self, after_ms: int, upto_ms: int) -> None:
        """Everything of `(after_ms, upto_ms]` in order of time."""
        timeline = self._delayed
        for stream in self.streams():
            if self._schedule.knows(stream):
                for event in self._schedule.events(stream, after_ms, upto_ms):
                    timeline.append((event.event_ms, _FRAMES, next(self._serial), event))
        for moment in self._plan.moments(after_ms, upto_ms):
            outage = self._plan.faults[moment.fault].kind in ("outage", "halt")
            rank = _FIRST if outage else _LATER
            timeline.append((moment.at_ms, rank, next(self._serial), moment))
        if self._changes:
            for change in self._market.changes(after_ms, upto_ms):
                timeline.append((change.at_ms, _LATER, next(self._serial), change))
        for session in self._living():
            for at_ms, over in self._ages(session):
                if at_ms <= upto_ms:
                    timeline.append((at_ms, _LAST, next(self._serial), _Age(session, over)))
        heapify(timeline)
        while timeline and timeline[0][0] <= upto_ms:
            at_ms, _, _, what = heappop(timeline)
            self._befall(at_ms, what)

    def _befall(self, at_ms: int, what: _What) -> None:
        if isinstance(what, Event):
            self._give(what)
        elif isinstance(what, _Delayed):
            what.session.delayed -= 1
            if what.stream in what.session.streams:
                what.session.put_of(what.stream, what.text)
        elif isinstance(what, Changed):
            self.note(what.fault, time_ms=at_ms, symbol=what.symbol, open_ms=what.open_ms)
        elif isinstance(what, Moment):
            self._strike_all(what)
        elif what.over:
            what.session.end("session_cut", WSCloseCode.GOING_AWAY, "session limit")
        else:
            self._announce(what.session, at_ms)

    def _announce(self, session: Session, at_ms: int) -> None:
        session.announced = True
        session.put(dumped(shutdown_event(self._plan.shown_ms(at_ms))))

    def _strike_all(self, moment: Moment) -> None:
        struck = [s for s in self._living() if s.opened_ms < moment.opened_before_ms]
        for session in struck:
            if moment.happening is Happening.ANNOUNCE:
                self._announce(session, moment.at_ms)
            elif moment.happening is Happening.CLOSE:
                session.end("fault", WSCloseCode.GOING_AWAY, "server shutdown")
            else:
                session.end("fault", None)
        if moment.happening is not Happening.CLOSE:
            self.note(moment.fault, time_ms=moment.at_ms, sockets=len(struck))

    def _give(self, event: Event) -> None:
        for session in self._living():
            since_ms = session.streams.get(event.stream)
            if since_ms is None or event.event_ms <= since_ms:
                continue
            session.frames += 1
            frame = Frame(
                *(session.number, session.frames, event.stream, event.symbol),
                *(event.event_ms, event.open_ms, event.closed),
            )
            fate, fault = self._plan.fate(frame)
            text = event.enveloped if session.combined else event.data
            if fate is Fate.SEND:
                session.put_of(event.stream, text)
            elif self._strike(session, frame, fate, fault, text):
                seen = {"session": session.number, "stream": event.stream, "closed": event.closed}
                self.note(fault, time_ms=event.event_ms, open_ms=event.open_ms, **seen)
            clock = self._plan.clock(event.event_ms)[1]
            if clock >= 0:
                self.note(clock)

    def _strike(self, session: Session, frame: Frame, fate: Fate, fault: int, text: str) -> bool:
        """Do to a frame what was decided; False when nothing came of it."""
        stream = frame.stream
        if fate is Fate.LOSE:
            self.tally.frames_lost += 1
        elif fate is Fate.DROP_SOCKET:
            session.end("fault", None)
        elif fate is Fate.DUPLICATE:
            session.put_of(stream, text)
            session.put(text)
        elif fate is Fate.REORDER:
            return session.hold(stream, text)
        elif fate is Fate.DELAY:
            self._delay(session, stream, frame.event_ms + self._plan.faults[fault].by_ms, text)
        elif fate is Fate.OVERSIZE:
            session.put_of(stream, Oversized(text))
        else:
            chance = self._plan.frame_chance(fault, frame)
            session.put_of(stream, self._spoiled(frame, fate, fault, text, chance))
        return True

    def _spoiled(self, frame: Frame, fate: Fate, fault: int, text: str, chance: int) -> str:
        if fate is Fate.MALFORM:
            return malformed(text, chance)
        others = [n for n, listed in self._market.listings.items() if listed.symbol != frame.symbol]
        return wrong_symbol(text, others, self._plan.faults[fault].disguise, chance)

    def _delay(self, session: Session, stream: str, due_ms: int, text: str) -> None:
        if session.delayed == DELAYED_MAX:
            session.break_off("slow_consumer")
            return
        session.delayed += 1
        entry = (due_ms, _FRAMES, next(self._serial), _Delayed(session, stream, text))
        heappush(self._delayed, entry)
