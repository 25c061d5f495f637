"""Whether the owners of a process get on, judged by positions alone.

Decides: the lag of each partition, when an owner that should move does not and is broken off, and
when a worker is beyond help and ends so that something else can start it anew. Invariants: lag is
measured against offsets asked of the broker, not against what the consumer believes; a marker at
the end of a topic is not lag; rows that wait behind a moving topic are no stall; asking never
blocks the event loop. Must not know: Faust, records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.metrics import Metrics
from seamline.schemas.errors import SeamlineError, TransportError
from seamline.streams.apps.blocking import BlockingThread
from seamline.streams.apps.owner import Owner
from seamline.streams.kernel.owner_states import State
from seamline.streams.kernel.protocol import ROLES, Role

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
STALLED_S: Final = 15.0
# Every wait inside an owner is shorter: one that gave no sign for so long will never give one.
DEAD_S: Final = 120.0


@dataclass(slots=True)
class Seen:
    """What one topic of an owner looked like when it last moved (`moved_s`), or had nothing to do
    (`since_s`)."""

    owner: Owner
    covered: int
    since_s: float
    moved_s: float


class Watch:
    """Over the owners of one preset. `owners` gives those of now."""

    def __init__(
        self,
        admin: Admin,
        metrics: Metrics,
        owners: Callable[[], Mapping[int, Owner]],
        *,
        stalled_s: float = STALLED_S,
        dead_s: float = DEAD_S,
    ) -> None:
        self._admin, self._metrics, self._owners = admin, metrics, owners
        self._stalled_s, self._dead_s = stalled_s, dead_s
        self._seen: dict[tuple[int, Role], Seen] = {}

    async def run(self) -> None:
        """Until cancelled. Raises TransportError when an owner is dead."""
        thread = BlockingThread("watch")
        try:
            await self._run(thread)
        finally:
            thread.finish()

    async def _run(self, thread: BlockingThread) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            owners = dict(self._owners())
            tps = [
                (owner.place.topics[role], number)
                for number, owner in owners.items()
                for role in ROLES
            ]
            try:
                ends = await thread.call(self._admin.end_offsets, tps)
            except SeamlineError as error:
                log.warning("the lag is unknown: %s", error)
                ends = {}
            held = {n: o for n, o in owners.items() if self._owners().get(n) is o}
            self.look(held, ends, time.monotonic())

    def look(
        self, owners: Mapping[int, Owner], ends: Mapping[tuple[str, int], int], now: float
    ) -> None:
        """One look. `ends`: read-committed end offsets by (topic, partition); `now`: a monotonic
        clock in seconds."""
        self._seen = {
            (number, role): seen
            for (number, role), seen in self._seen.items()
            if owners.get(number) is seen.owner
        }
        for number, owner in owners.items():
            if now - owner.beat_s > self._dead_s:
                raise TransportError(
                    f"the owner gave no sign for {self._dead_s:g} s",
                    parameter="owner",
                    value=str(owner.place),
                    fix="Start the worker again",
                )
            for role in ROLES:
                end = ends.get((owner.place.topics[role], number))
                if end is not None:
                    self._look_at(owner, role, end, now)

    def _look_at(self, owner: Owner, role: Role, end: int, now: float) -> None:
        number, covered = owner.place.partition, owner.covered(role)
        lag = max(0, end - covered)
        self._metrics.lag.labels(owner.place.preset_id, role, str(number)).set(lag)
        seen = self._seen.get((number, role))
        if seen is None or seen.covered != covered:
            self._seen[(number, role)] = Seen(owner, covered, now, now)
        elif lag == 0 or owner.state is not State.RUNNING:
            seen.since_s = now
        elif now - seen.since_s > self._stalled_s and not self._busy(owner, role, now):
            owner.break_(f"{role} did not move for {self._stalled_s:g} s, {lag} offsets behind")
            seen.since_s = now

    def _busy(self, owner: Owner, role: Role, now: float) -> bool:
        """Whether rows of the topic wait in the owner, which gets on with the other topic: fetched
        again they would wait in the same place."""
        number = owner.place.partition
        others = (self._seen.get((number, other)) for other in ROLES if other != role)
        moving = any(seen and now - seen.moved_s <= self._stalled_s for seen in others)
        return moving and owner.inbox.waiting(role) > 0
