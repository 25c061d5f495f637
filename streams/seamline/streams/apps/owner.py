"""The owner of one partition: takes it, drives its own fetching, turns chunks into transactions.

Decides: when to take, restart, step, tick, wait and give up, by the table of `owner_states`.
Invariants: only chunks of the present session that follow one another are used; a break in one
topic restarts both; a failure discards machine and producer and leads to a new take after a wait
that grows while the same position fails; nothing raised in here leaves the task; after `close`
nothing is begun any more. Group offsets and Faust's acks play no part.

Must not know: Faust, what a record means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.faults import FencedError
from seamline.schemas.errors import SeamlineError
from seamline.streams.apps.blocking import BlockingThread
from seamline.streams.apps.lost_markers import Completed
from seamline.streams.apps.tenure import Done, Place, Tenure, UndecidedError
from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.inbox import BYTES_MAX, CHUNKS_MAX, Budget, Inbox, Verdict
from seamline.streams.kernel.owner_states import (
    DROPS_CHUNKS,
    DROPS_MACHINE,
    Event,
    State,
    transition,
)
from seamline.streams.kernel.protocol import ROLES, STEP_ROWS_MAX, MachineFactory, Record, Role
from seamline.streams.kernel.suspects import ATTEMPTS_MAX, Suspects

T = TypeVar("T")
TP = tuple[str, int]
log = logging.getLogger(__name__)

BREAKS_MAX: Final = 3
ROWS_MIN: Final = 500
LEVELS: Final = {
    Event.BROKEN: logging.WARNING,
    Event.FAILED: logging.ERROR,
    Event.FENCED: logging.WARNING,
}


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """Bounds of an owner; times in seconds.

    `cadence_s` is the least time between the begins of two small transactions, `small_rows` what
    counts as small, `busy_s` how long one may take before its commit. `lost_s`: handed over by the
    lane and not arrived for so long is lost. `grace_s`: how long a close waits for the transaction
    that is under way. `attempts_max`: failures of the machine on one record alone after which the
    record goes to quarantine.
    """

    chunks_max: int = CHUNKS_MAX
    bytes_max: int = BYTES_MAX
    rows_max: int = STEP_ROWS_MAX
    busy_s: float = 0.2
    cadence_s: float = 0.02
    small_rows: int = 2_000
    tick_s: float = 1.0
    lost_s: float = 2.0
    wait_first_s: float = 0.1
    wait_fenced_s: float = 1.0
    wait_max_s: float = 10.0
    grace_s: float = 1.0
    attempts_max: int = ATTEMPTS_MAX


class Lane(Protocol):
    """What an owner asks of the lane (`lane.LaneConsumer`)."""

    async def restart_at(
        self, positions: Mapping[Any, int], began: Callable[[Mapping[Any, int]], None]
    ) -> None: ...
    def end(self, tps: Iterable[Any]) -> None: ...
    def hold(self, tp: Any) -> None: ...
    def release(self, tp: Any) -> None: ...
    def handed(self, tp: Any) -> tuple[int, int | None] | None: ...
    def fetched_to(self, tp: Any) -> int | None: ...


class Observer(Protocol):
    """Who is told what happened; never raises, never blocks."""

    def entered(self, place: Place, state: State, event: Event, cause: str) -> None: ...
    def stepped(self, place: Place, role: Role | None, records: int, done: Done) -> None: ...
    def lost(self, place: Place, role: Role, position: int, first: int) -> None: ...
    def completed(self, place: Place, completed: Completed) -> None: ...


class Closed(Exception):  # noqa: N818
    """The owner is to stop; never leaves this module."""


class Owner:
    """Made when its worker holds the partition of both landing topics; `close` ends it."""

    def __init__(
        self,
        place: Place,
        lane: Lane,
        cluster: Cluster,
        admin: Admin,
        factory: MachineFactory,
        observer: Observer,
        *,
        budget: Budget,
        tps: Mapping[Role, TP],
        settings: OwnerSettings | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.place = place
        self.state = State.TAKING
        self.position: Mapping[str, int] = {}
        self.frontier_ns: int | None = None
        self.beat_s = time.monotonic()
        self._settings = settings or OwnerSettings()
        self.inbox = Inbox(budget, self._settings.chunks_max, self._settings.bytes_max)
        self._lane, self._factory = lane, factory
        self._cluster, self._admin = cluster, admin
        self._observer, self._clock_ns = observer, clock_ns
        self._tps = tps
        self._roles = {topic: role for role, topic in place.topics.items()}
        self._thread = BlockingThread(f"owner {place}")
        self._tenure: Tenure | None = None
        self._signal = asyncio.Event()
        self._closing = asyncio.Event()
        self._cause = ""
        self._rows_max = self._settings.rows_max
        self._breaks = 0
        self._suspects = Suspects(self._settings.attempts_max)
        self._attempts: int | None = None
        self._failed_at: Mapping[str, int] | None = None
        self._wait_s = 0.0
        self._began_s = 0.0
        self._ticked_s = 0.0
        self._behind_since: float | None = None
        self._task = asyncio.create_task(self._run(), name=f"owner {place}")

    # -- called by the worker, on the event loop

    def offer(self, chunk: Chunk) -> None:
        """A chunk of one of the partition's topics. Returns at once; a full queue holds the topic
        in the lane, where it stops nobody else."""
        role = self._roles[chunk.topic]
        verdict = self.inbox.offer(role, chunk)
        if verdict is Verdict.BROKEN:
            self.break_(f"{chunk.topic}: the chunk before offset {chunk.records[0].offset} is lost")
        elif verdict is Verdict.ACCEPTED:
            self._breaks = 0
            if self.inbox.full(role):
                self._lane.hold(self._tps[role])
            self._signal.set()

    def break_(self, cause: str) -> None:
        """Both topics are fetched again from the committed positions."""
        if self.state is State.RUNNING and not self._cause:
            self._cause = cause
            self.inbox.end()
            self._signal.set()

    def covered(self, role: Role) -> int:
        """All of the topic before this offset is committed, or needs no commit."""
        position, tp = self.position.get(role, 0), self._tps[role]
        if self.state is State.RUNNING and self.inbox.idle(role, self._lane.handed(tp)):
            # Nothing is left of what was fetched: the fetch position stepped over the markers.
            return max(position, self._lane.fetched_to(tp) or 0)
        return position

    def close(self) -> asyncio.Task[None]:
        """Begin to stop; the task ends within `grace_s` and a little."""
        self._closing.set()
        self._signal.set()
        return self._task

    # -- the protocol

    async def _run(self) -> None:
        phases = {
            State.TAKING: self._take,
            State.RESTARTING: self._restart,
            State.RUNNING: self._serve,
            State.WAITING: self._wait,
        }
        while self.state is not State.CLOSED:
            self.beat_s = time.monotonic()
            cause, trace = "", None
            try:
                if self._closing.is_set():
                    raise Closed
                event = await phases[self.state]()
                cause = self._cause
            except (Closed, asyncio.CancelledError):
                event = Event.CLOSE
            except FencedError as error:
                event, cause = Event.FENCED, str(error)
            except UndecidedError as error:
                event, cause, trace = Event.FAILED, str(error), error.__cause__
                self._attempts = self._suspects.failed(error.role, error.records, error.cause)
            except Exception as error:
                event, cause = Event.FAILED, f"{type(error).__name__}: {error}"
                # What Seamline raises on purpose says everything in its text.
                trace = None if isinstance(error, SeamlineError) else error
            self._enter(event, cause, trace)

    def _enter(self, event: Event, cause: str, trace: BaseException | None = None) -> None:
        before, self.state, self._cause = self.state, transition(self.state, event), ""
        if self.state in DROPS_CHUNKS:
            self.inbox.end()
            self._lane.end(self._tps.values())
        if self.state in DROPS_MACHINE:
            self._discard()
        if self.state is State.WAITING:
            self._lengthen_wait(event)
        elif self.state is State.CLOSED:
            self._thread.finish()
        log.log(
            LEVELS.get(event, logging.INFO),
            "%s: %s -> %s %s",
            *(self.place, before, event, cause),
            exc_info=trace,
        )
        self._observer.entered(self.place, self.state, event, cause)

    async def _take(self) -> Event:
        closing = self._closing

        def take() -> Tenure:
            # A close that came while this waited for the thread: do not fence the next owner.
            if closing.is_set():
                raise Closed
            tenure = Tenure(self.place, self._cluster, self._admin, self._factory)
            if closing.is_set():
                tenure.close()
                raise Closed
            return tenure

        tenure = self._tenure = await self._blocking(take)
        self.position, self.frontier_ns = tenure.position, tenure.frontier_ns
        if tenure.completed is not None:
            self._observer.completed(self.place, tenure.completed)
        return Event.TAKEN

    async def _restart(self) -> Event:
        points = await self._blocking(self._held.points)
        for role, (position, first) in points.lost.items():
            log.error(
                "%s: %s expired before they were read: offsets %s to %s",
                self.place,
                self.place.topics[role],
                position,
                first,
            )
            self._observer.lost(self.place, role, position, first)
        roles = {tp: role for role, tp in self._tps.items()}

        def began(sessions: Mapping[TP, int]) -> None:
            # In the lane's own step: no chunk of the session is on its way before this.
            self.inbox.begin({roles[tp]: session for tp, session in sessions.items()})

        await self._unless_closed(
            self._lane.restart_at({self._tps[r]: at for r, at in points.positions.items()}, began)
        )
        self._behind_since = None
        return Event.RESTARTED

    async def _serve(self) -> Event:
        while True:
            self.beat_s = time.monotonic()
            if not self._cause:
                self._look_for_lost()
            if self._cause:
                self._breaks += 1
                return Event.FAILED if self._breaks > BREAKS_MAX else Event.BROKEN
            if self._closing.is_set():
                raise Closed
            if self.beat_s - self._ticked_s >= self._settings.tick_s:
                # By the clock, not by silence: heartbeats alone would keep it from ever coming.
                await self._tick()
            work = self.inbox.next(self._rows_max)
            if work is None:
                await self._idle()
                continue
            role, records = work[0], self._suspects.narrowed(*work)
            if len(records) < self._settings.small_rows and await self._too_soon():
                continue
            self._began_s = time.monotonic()
            done = await self._blocking(self._decide, role, records)
            self._settle(role, records[: done.step.next_index], done)

    def _decide(self, role: Role, records: Sequence[Record]) -> Done:
        """One step, or the first of the records into quarantine. In the owner's thread."""
        poisoned = self._suspects.poisoned(role, records)
        if poisoned is None:
            return self._held.step(role, records, self._clock_ns())
        log.error(
            "%s: offset %d of %s is passed over, in quarantine as poisoned after %d attempts: %s",
            *(self.place, poisoned.offset, self.place.topics[role]),
            *(poisoned.attempts, poisoned.cause),
        )
        return self._held.pass_over(role, records[0], poisoned.cause, self._clock_ns())

    async def _idle(self) -> None:
        self._signal.clear()
        if not self.inbox.empty or self._cause or self._closing.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._signal.wait(), self._settings.tick_s)

    async def _tick(self) -> None:
        self._ticked_s = time.monotonic()
        done = await self._blocking(self._held.tick, self._clock_ns())
        if done is not None:
            self._settle(None, (), done)

    async def _too_soon(self) -> bool:
        """Wait out the cadence so that more arrives for the same transaction."""
        left = self._began_s + self._settings.cadence_s - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(left)
        return True

    def _settle(self, role: Role | None, records: Sequence[Record], done: Done) -> None:
        self.position, self.frontier_ns = done.position, done.frontier_ns
        if role is not None:
            self._suspects.passed(role, records[-1].offset)
        # A break may have emptied the inbox meanwhile: the position says what was committed.
        if role is not None and not self._cause:
            self.inbox.advance(role, len(records))
            if self.inbox.relieved(role):
                self._lane.release(self._tps[role])
        if done.committed:
            self._adapt(done)
            self._failed_at = None
        self._observer.stepped(self.place, role, len(records), done)

    def _adapt(self, done: Done) -> None:
        """Keep one transaction within `busy_s`, whatever a row costs today."""
        if done.busy_s > self._settings.busy_s:
            self._rows_max = max(ROWS_MIN, self._rows_max // 2)
        elif done.busy_s < self._settings.busy_s / 4:
            self._rows_max = min(self._settings.rows_max, self._rows_max * 2)

    def _look_for_lost(self) -> None:
        behind = [r for r in ROLES if not self.inbox.follows(r, self._lane.handed(self._tps[r]))]
        now = time.monotonic()
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > self._settings.lost_s:
            self.break_(f"fetched and never arrived: {', '.join(behind)}")

    async def _wait(self) -> Event:
        try:
            await asyncio.wait_for(self._closing.wait(), self._wait_s)
        except TimeoutError:
            return Event.WAITED
        raise Closed

    def _lengthen_wait(self, event: Event) -> None:
        """Failing again at the same position waits longer and offers fewer rows: it never
        spins, and a transaction that is too large gets smaller."""
        again = self._failed_at == self.position
        attempts, self._attempts = self._attempts, None
        self._failed_at, self._breaks = self.position, 0
        if attempts is not None:
            # The machine's own failure: by the attempts of the one record, short while there are
            # several, which the next step has fewer of.
            longer = self._settings.wait_first_s * 2.0 ** max(0, attempts - 1)
            self._wait_s = min(self._settings.wait_max_s, longer)
        elif again:
            self._wait_s = min(self._settings.wait_max_s, self._wait_s * 2)
            self._rows_max = max(1, self._rows_max // 8)
        else:
            self._wait_s = self._settings.wait_first_s
        if event is Event.FENCED:
            # Somebody else owns it. Most likely a rebalance will say so; do not fence back at once.
            self._wait_s = max(self._wait_s, self._settings.wait_fenced_s)

    # -- blocking calls

    @property
    def _held(self) -> Tenure:
        assert self._tenure is not None
        return self._tenure

    async def _blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run in the owner's thread. When closing, wait `grace_s` for it, then leave it alone."""
        future = self._thread.call(function, *args)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait(_either(future, closing), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                await asyncio.wait({future}, timeout=self._settings.grace_s)
        finally:
            closing.cancel()
        if not future.done():
            future.add_done_callback(_log_failure)
            raise Closed
        return future.result()

    async def _unless_closed(self, work: Any) -> None:
        task = asyncio.create_task(work)
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait(_either(task, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            if not task.done():
                task.cancel()
        if not task.done():
            raise Closed
        task.result()

    def _discard(self) -> None:
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            self._thread.call(tenure.close).add_done_callback(_log_failure)


def _either(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)


def _log_failure(future: asyncio.Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, Closed):
        log.warning("after the end of a tenure: %s", error)
