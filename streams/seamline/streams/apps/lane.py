"""The lane: one Faust event per (partition, fetch), restarted only by the owner of the partition.

Decides: how records leave the consumer. A fetch of one partition is one `Chunk`; a partition is
fetched only while it has a session, which a restart begins and a rebalance ends; every chunk names
its session and the last offset of the chunk before it.

Invariants: a restart happens between two fetches, so nothing fetched before it carries the new
session; the consumer reads committed records only; a position that left the topic is an end of the
session, never a silent jump; a held partition stops nobody else. Faust's acks, seeks and commits
decide nothing: each is answered and ignored here.

Must not know: what a record means, who owns it, transactions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import faust
from faust.transport import drivers
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from seamline.connectors.kafka import fetching
from seamline.schemas.errors import ContractError, TransportError
from seamline.streams.kernel.chunk import Chunk, size_of
from seamline.streams.kernel.protocol import Record

SCHEME: Final = "seamline"
FETCH: Final = fetching.FetchSettings()
# Between two fetches restarts, holds and releases are seen; a fetch waits no longer than this.
POLL_S: Final = 0.1
RESTART_TIMEOUT_S: Final = 30.0

# What these classes log is Faust's own talk; it goes where Faust's goes.
log = logging.getLogger("faust.seamline.lane")

OutOfRange: TypeAlias = Callable[[TP], None]


@dataclass(frozen=True, slots=True)
class Restart:
    """An owner's wish: fetch these partitions from these offsets.

    `began` is called with the new sessions before anything of them is fetched.
    """

    positions: Mapping[TP, int]
    began: Callable[[Mapping[TP, int]], None]
    done: asyncio.Future[None]


class ChunkSchema(faust.Schema[Any, Any]):
    """Hands the message's value through untouched: it is a Chunk, not bytes."""

    def compile(self, app: Any, **_: Any) -> Any:
        async def decode(message: Any, **_: Any) -> Any:
            return app.create_event(message.key, message.value, message.headers, message)

        return decode


class LaneThread(driver.AIOKafkaConsumerThread):
    """aiokafka's consumer as the lane needs it; Faust has no settings for these."""

    logger = log

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        fetching.prepare(consumer, FETCH)
        return consumer

    def refused(self) -> list[str]:
        """Which of the lane's settings the started consumer does not run with."""
        found = fetching.settings_refused(self._ensure_consumer(), FETCH)
        # Faust falls back to round robin where it sees no need for its own assignor; an owner would
        # then hold partition p of one landing topic only.
        if self._assignor is not self.app.assignor:
            found.append("partition_assignment_strategy")
        return found

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """The error reaches whoever runs the app; it need not be printed from here as well."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's guess at stalled partitions goes by acks and commits; positions say it better."""


class LaneConsumer(driver.Consumer):
    """Faust's consumer with the drain loop replaced. All state belongs to the event loop."""

    logger = log

    # Sessions are never reused in a process: a chunk that outlives its session fits no other.
    _serial: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sessions: dict[TP, int] = {}
        self._last: dict[TP, int | None] = {}
        self._restarts: list[Restart] = []
        self._held: set[TP] = set()
        self._wake = asyncio.Event()
        self.on_out_of_range: OutOfRange = lambda _: None
        super().__init__(*args, **kwargs)

    _thread: LaneThread

    def _new_consumer_thread(self) -> LaneThread:
        return LaneThread(self, loop=self.loop, beacon=self.beacon)

    async def on_started(self) -> None:
        await super().on_started()
        refused = self._thread.refused()
        if refused:
            raise ContractError(
                "the consumer did not take the lane's settings",
                parameter="lane",
                value=refused,
                fix="Install the pinned versions of faust-streaming and aiokafka",
            )

    # -- what an owner may ask

    async def restart_at(
        self, positions: Mapping[TP, int], began: Callable[[Mapping[TP, int]], None]
    ) -> None:
        """Begin a new session for each partition, fetching from its position.

        Raises TransportError when a partition is not assigned here, or nothing happened within
        RESTART_TIMEOUT_S (a rebalance that does not end).
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wish = Restart(positions, began, done)
        self._restarts.append(wish)
        self._wake.set()
        try:
            await asyncio.wait_for(done, RESTART_TIMEOUT_S)
        except TimeoutError:
            raise TransportError(
                "the lane did not restart in time",
                parameter="partitions",
                value=[f"{tp.topic}[{tp.partition}]" for tp in positions],
            ) from None
        finally:
            if wish in self._restarts:
                self._restarts.remove(wish)

    def end(self, tps: Iterable[TP]) -> None:
        """End the sessions: nothing of these partitions is fetched until a restart."""
        for tp in tps:
            self._sessions.pop(tp, None)
            self._last.pop(tp, None)
            self._held.discard(tp)

    def hold(self, tp: TP) -> None:
        """Fetch no more of `tp`; what is under way may still arrive."""
        self._held.add(tp)

    def release(self, tp: TP) -> None:
        if tp in self._held:
            self._held.discard(tp)
            self._wake.set()

    def handed(self, tp: TP) -> tuple[int, int | None] | None:
        """`(session, last offset handed to Faust)`, None without a session."""
        session = self._sessions.get(tp)
        return None if session is None else (session, self._last.get(tp))

    def fetched_to(self, tp: TP) -> int | None:
        """The next offset that will be fetched; it steps over transaction markers."""
        if tp not in self._sessions:
            return None
        return fetching.fetch_position(self._thread._ensure_consumer(), tp.topic, tp.partition)

    # -- the drain loop

    async def _drain_messages(self, fetcher: Any) -> None:
        stopped, fetcher_stopped = self._stopped.is_set, fetcher._stopped.is_set
        try:
            while not (stopped() or fetcher_stopped()):
                await self._serve_restarts()
                # Taken before the fetch: what it brings belongs to the sessions of now.
                sessions = dict(self._sessions)
                fetched = await self._fetch_once(sessions)
                if self.should_stop:
                    break
                for tp, records in fetched.items():
                    await self._deliver(ensure_TP(tp), records, sessions)
                if not fetched:
                    await asyncio.sleep(0)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _serve_restarts(self) -> None:
        # No fetch is under way here: this is the only place where a position moves.
        wishes, self._restarts[:] = list(self._restarts), []
        for wish in wishes:
            if wish.done.done():
                continue
            try:
                await self._begin_sessions(wish)
            except Exception as error:
                self.end(wish.positions)
                if not wish.done.done():
                    wish.done.set_exception(TransportError(f"the lane could not restart: {error}"))

    async def _begin_sessions(self, wish: Restart) -> None:
        self.end(wish.positions)
        missing = set(wish.positions) - self.assignment()
        if missing:
            raise LookupError(f"not assigned: {sorted(missing)}")
        wanted = wish.positions.items()
        seeks: Any = {fetching.partition(tp.topic, tp.partition): at for tp, at in wanted}
        await self._thread.seek_wait(seeks)
        if wish.done.done() or not set(wish.positions) <= self.assignment():
            raise LookupError("given up, or revoked meanwhile")
        sessions = {tp: next(self._serial) for tp in wish.positions}
        self._sessions.update(sessions)
        self._last.update(dict.fromkeys(sessions))
        wish.began(sessions)
        wish.done.set_result(None)

    async def _fetch_once(self, sessions: Mapping[TP, int]) -> Mapping[Any, list[Record]]:
        if not self.flow_active:
            await self.wait_first(self.can_resume_flow.wait(), timeout=POLL_S)
        active = {tp for tp in sessions if tp not in self._held}
        if not active or not self.flow_active:
            self._wake.clear()
            if not self._restarts:
                await self.wait_first(self._wake.wait(), timeout=POLL_S)
            return {}
        try:
            return await self._getmany(active, POLL_S) or {}
        except fetching.FetchError as error:
            self._lost_position(error, sessions)
            return {}

    def _lost_position(self, error: Exception, sessions: Mapping[TP, int]) -> None:
        """A fetch failed for good. Its partitions' sessions end; the owner restarts them."""
        if fetching.is_harmless(error):
            return
        lost = {TP(*named) for named in fetching.partitions_named(error)} or set(sessions)
        for tp in lost:
            if tp in sessions and self._sessions.get(tp) == sessions[tp]:
                self.end([tp])
                self.on_out_of_range(tp)

    async def _deliver(self, tp: TP, records: list[Record], sessions: Mapping[TP, int]) -> None:
        session = sessions.get(tp)
        # Revoked or restarted while the fetch was under way: nobody accepts these.
        if session is None or self._sessions.get(tp) != session or not records:
            return
        chunk = Chunk(
            tp.topic, tp.partition, session, self._last.get(tp), records, size_of(records)
        )
        message: Any = self._to_message(tp, records[-1])
        message.value, message.key = chunk, None
        self._last[tp] = chunk.last
        await self.wait_first(self.callback(message), self.suspend_flow.wait())

    # -- what Faust does beside: answered, and ignored

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.end(list(self._sessions))
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Would move positions behind the owner's back."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Group offsets are not used."""
        return False

    def ack(self, message: Any) -> bool:
        """Faust also acks what an agent dropped; positions in the log say what is done."""
        return False

    def track_message(self, message: Any) -> None:
        """Nothing waits for acks."""

    def on_buffer_full(self, tp: TP) -> None:
        """Holds are the owner's."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Holds are the owner's."""


class LaneTransport(driver.Transport):
    Consumer = LaneConsumer


def register() -> None:
    """Make `seamline://host:port` a broker address for Faust."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:{LaneTransport.__name__}"
