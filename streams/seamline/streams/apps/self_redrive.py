"""Records that waited for the registry go back by themselves when it answers.

Decides: when a worker looks for them (once for each partition that it comes to own, and whenever
one of its steps had to set some aside), and how often it asks a registry that does not answer.
Invariants: only partitions that this process owns; every record goes through the rules of now
before it goes back, and through those of its owner when it lands; one that they refuse stays, and
is not looked at again by this process; each transaction has its entry in the audit, with `worker`
as its actor; a failure is said once and tried again, it ends nothing. Must not know: how a record
goes back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from typing import Final

from seamline.connectors.governance.quarantine import Choice
from seamline.connectors.governance.redriving import Door, Request
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.meanings import Meanings
from seamline.connectors.world import World
from seamline.schemas.errors import SeamlineError, TransportError
from seamline.streams.apps.blocking import BlockingThread
from seamline.streams.apps.preset_app import PresetApp
from seamline.streams.kernel.writers import REGISTRY_UNAVAILABLE, Resolve

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
# Between two tries while the registry does not answer.
AGAIN_S: Final = 5.0
ACTOR: Final = "worker"
WHY: Final = "the registry answers again"


class SelfRedrive:
    """Watches one preset of this process. `run` until it is cancelled."""

    def __init__(
        self, app: PresetApp, world: World, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._app, self._world, self._clock_ns = app, world, clock_ns
        self._looked: set[int] = set()
        self._refused: set[tuple[int, int]] = set()
        self._waits = False
        # Ids that the registry could not be asked for: it is asked before quarantine is read again.
        self._ids: set[int] = set()
        self._client = RemoteSchemaRegistryClient(world.registry_url, world.registry_auth)
        self._resolve = Meanings.of_landing(self._client, app.preset)

    async def run(self) -> None:
        """Look, send back, wait; for ever."""
        thread = BlockingThread(f"{self._app.preset.id} redrive")
        try:
            while True:
                await asyncio.sleep(AGAIN_S if self._waits else LOOK_S)
                wanted = self._wanted()
                if wanted:
                    await self._try(thread, wanted)
        finally:
            thread.finish()
            self._client.close()

    def _wanted(self) -> frozenset[int]:
        owned = set(self._app.owners)
        self._looked &= owned
        self._looked -= self._app.unavailable
        self._app.unavailable.clear()
        return frozenset(owned - self._looked)

    async def _try(self, thread: BlockingThread, wanted: frozenset[int]) -> None:
        preset = self._app.preset.id
        try:
            waiting = await thread.call(self.look, wanted)
        except Exception as error:
            waiting = True
            if not self._waits:
                log.warning("%s: quarantine is looked at again later: %s", preset, error)
            if not isinstance(error, SeamlineError):
                log.debug("%s: redrive", preset, exc_info=error)
        if waiting:
            self._waits = True
        else:
            self._waits = False
            self._looked |= wanted

    def look(self, partitions: frozenset[int]) -> bool:
        """Send back what can go; whether some still wait for the registry.

        Raises ContractError for more than one run may hold, TransportError without a broker.
        """
        preset = self._app.preset
        if self._ids and not answers(self._resolve, self._ids):
            return True
        door = Door.open(self._world, preset, os.environ, self._clock_ns, partitions)
        try:
            choice = Choice(rules=frozenset((REGISTRY_UNAVAILABLE,)))
            found = [
                each
                for each in door.quarantine.loaded(choice)
                if (each.partition, each.offset) not in self._refused
            ]
            if not found:
                return False
            self._ids = {each.schema_id for each in found if each.schema_id is not None}
            if not answers(self._resolve, self._ids):
                self._say_waiting(len(found))
                return True
            self._ids = set()
            plan = door.plan(found)
            done = door.send(plan, Request("redrive", ACTOR, WHY))
        finally:
            door.close()
        stays = [each for each in plan.refused if not each[1].startswith(REGISTRY_UNAVAILABLE)]
        self._refused.update((kept.partition, kept.offset) for kept, _ in stays)
        if done.records or done.superseded:
            log.warning(
                "%s: the registry answers; %d records went back to their topic, %d older ones are "
                "settled with them",
                *(preset.id, done.records, done.superseded),
            )
        if stays:
            log.warning(
                "%s: %d records that waited for the registry stay in quarantine, the first: %s",
                *(preset.id, len(stays), stays[0][1]),
            )
        return len(stays) < len(plan.refused)

    def _say_waiting(self, records: int) -> None:
        if not self._waits:
            log.warning(
                "%s: %d records wait in quarantine until the registry answers",
                *(self._app.preset.id, records),
            )


def answers(resolve: Resolve, schema_ids: Collection[int]) -> bool:
    """Whether the registry says of one of these ids what it means, or that it means nothing: an id
    that it always fails on must not hold back the records of the others."""
    for number in schema_ids:
        try:
            resolve(number)
        except TransportError:
            continue
        return True
    return not schema_ids
