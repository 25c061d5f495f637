"""The WebSocket side of the venue simulator: sessions, and the feed that gives frames to them.

Decides: which session gets which frame, in which order, and when a session ends. Invariants: frames
of one session are in the order of simulated time; a reply to a control message stands in the same
order; every frame is counted as sent, lost or left behind in a dropped socket; a queue that is full
ends its session, nothing is dropped out of the middle. Must not know: REST, where market values
come from.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientConnectionResetError, WSCloseCode, WSMsgType, web

from seamline.connectors.venues.simulated_clock import SimulatedClock
from seamline.connectors.venues.venue_control import control
from seamline.connectors.venues.venue_events import Event, EventSchedule, dumped
from seamline.connectors.venues.venue_faults import Fate, FaultPlan, Frame
from seamline.schemas.times import NS_PER_MS

QUEUE_MAX = 20_000
# A simulated span is delivered in steps of this length, so that a jump of a day stays responsive.
STEP_MAX_MS = 600_000
IDLE_MS = 3_600_000
MESSAGE_BYTES_MAX = 65_536
RECENT_MAX = 1_000


@dataclass(frozen=True, slots=True)
class SocketRules:
    """`session_ms` is simulated time; pings are real seconds, as they watch a real connection."""

    session_ms: int
    ping_interval_s: float
    pong_timeout_s: float


@dataclass(slots=True)
class SocketTally:
    """What the sockets did so far. `recent` holds the newest decisions of faults."""

    opened: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    frames_sent: int = 0
    frames_lost: int = 0
    frames_left: int = 0
    fault_hits: Counter[int] = field(default_factory=Counter)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))


@dataclass(frozen=True, slots=True)
class _End:
    """The last item of a session's queue. Without a code the connection just breaks."""

    code: int | None
    text: str = ""


class Session:
    """One client socket. `streams` maps a stream to the simulated time of its subscription."""

    def __init__(
        self,
        number: int,
        transport: asyncio.BaseTransport | None,
        combined: bool,
        opened_ms: int,
    ) -> None:
        self.number, self.combined, self.opened_ms = number, combined, opened_ms
        self.streams: dict[str, int] = {}
        self.frames = 0
        self.ending: str | None = None
        self.pong_at = time.monotonic()
        self._transport = transport
        self._queue: asyncio.Queue[str | _End] = asyncio.Queue(QUEUE_MAX)

    def put(self, text: str) -> None:
        if self.ending is None:
            try:
                self._queue.put_nowait(text)
            except asyncio.QueueFull:
                self.break_off("slow_consumer")

    def end(self, why: str, code: int | None, text: str = "") -> None:
        """End after what is queued: with a close frame, or with none where `code` is None."""
        if self.ending is None:
            self.ending = why
            try:
                self._queue.put_nowait(_End(code, text))
            except asyncio.QueueFull:
                self._abort()

    def break_off(self, why: str) -> None:
        """End at once; what is queued is not sent."""
        if self.ending is None:
            self.ending = why
            self._abort()

    def left(self) -> int:
        """How many queued texts were never sent; empties the queue."""
        count = 0
        while not self._queue.empty():
            count += isinstance(self._queue.get_nowait(), str)
        return count

    def _abort(self) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()

    async def write(self, socket: web.WebSocketResponse, tally: SocketTally) -> None:
        """Send what is queued until the session ends."""
        while True:
            item = await self._queue.get()
            try:
                if isinstance(item, str):
                    await socket.send_str(item)
                    tally.frames_sent += 1
                    continue
                if item.code is None:
                    self._abort()
                else:
                    await socket.close(code=item.code, message=item.text.encode())
            except ClientConnectionResetError:
                # The reader of this session sees the same and ends it.
                tally.frames_left += isinstance(item, str)
            return


class Feed:
    """All sessions and the one task that sends market data to them."""

    def __init__(
        self, schedule: EventSchedule, clock: SimulatedClock, plan: FaultPlan, rules: SocketRules
    ) -> None:
        self._schedule, self._clock, self._plan, self._rules = schedule, clock, plan, rules
        self._sessions: dict[int, Session] = {}
        self.tally = SocketTally()

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def streams(self) -> Counter[str]:
        """How many sessions have each stream."""
        return Counter(name for session in self._sessions.values() for name in session.streams)

    def drop_all(self, why: str) -> int:
        """Break all connections after what is queued; returns how many."""
        sessions = list(self._sessions.values())
        for session in sessions:
            session.end(why, None)
        return len(sessions)

    def close_all(self) -> None:
        for session in self._sessions.values():
            session.end("server_stopped", WSCloseCode.GOING_AWAY, "server stopped")

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
    ) -> web.WebSocketResponse:
        """One socket from its handshake to its end."""
        socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=MESSAGE_BYTES_MAX
        )
        await socket.prepare(request)
        self.tally.opened += 1
        session = Session(self.tally.opened, request.transport, combined, self._now_ms())
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
                    session.streams.pop(stream, None)
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
        times = [now_ms + IDLE_MS]
        known = (name for name in self.streams() if self._schedule.knows(name))
        times += [self._schedule.next_ms(name, now_ms) for name in known]
        living = (session for session in self._sessions.values() if session.ending is None)
        times += [session.opened_ms + self._rules.session_ms for session in living]
        drop_ms = self._plan.next_drop_ms(now_ms)
        return max(min(times if drop_ms is None else [*times, drop_ms]), now_ms + 1)

    def _deliver(self, after_ms: int, upto_ms: int) -> None:
        """Everything of `(after_ms, upto_ms]` in order of time: frames, then drops and cuts."""
        timeline: list[tuple[int, int, Event | int | Session]] = []
        for stream in self.streams():
            if self._schedule.knows(stream):
                events = self._schedule.events(stream, after_ms, upto_ms)
                timeline += ((event.event_ms, 0, event) for event in events)
        timeline += ((at, 1, fault) for at, fault in self._plan.drops(after_ms, upto_ms))
        for session in self._sessions.values():
            cut_ms = session.opened_ms + self._rules.session_ms
            if cut_ms <= upto_ms:
                timeline.append((cut_ms, 2, session))
        for at_ms, _, what in sorted(timeline, key=lambda entry: entry[:2]):
            if isinstance(what, Event):
                self._give(what)
            elif isinstance(what, Session):
                what.end("session_cut", WSCloseCode.GOING_AWAY, "session limit")
            else:
                dropped = self.drop_all("fault")
                self._note(what, {"time_ms": at_ms, "sockets": dropped})

    def _give(self, event: Event) -> None:
        for session in self._sessions.values():
            since_ms = session.streams.get(event.stream)
            if since_ms is None or event.event_ms <= since_ms or session.ending is not None:
                continue
            session.frames += 1
            frame = Frame(
                *(session.number, session.frames, event.stream, event.symbol),
                *(event.event_ms, event.open_ms, event.closed),
            )
            fate, fault = self._plan.fate(frame)
            if fate is Fate.SEND:
                session.put(event.enveloped if session.combined else event.data)
                continue
            if fate is Fate.LOSE:
                self.tally.frames_lost += 1
            else:
                session.end("fault", None)
            seen = {"session": session.number, "stream": event.stream, "closed": event.closed}
            self._note(fault, {"time_ms": event.event_ms, "open_ms": event.open_ms, **seen})

    def _note(self, fault: int, seen: dict[str, Any]) -> None:
        self.tally.fault_hits[fault] += 1
        self.tally.recent.append({"fault": self._plan.faults[fault].text, **seen})
