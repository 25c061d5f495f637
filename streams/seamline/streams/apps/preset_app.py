"""The Faust app of one preset: group membership in, owners out.

Decides: the settings of Faust, and which partitions get an owner: those of which this worker holds
both landing topics. Invariants: each preset is a group of its own, so a rebalance of one disturbs
no other; owners of a former assignment are closed before owners of the next are made; the agent
never waits and never raises. Must not know: what a record means, what an owner does with a chunk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import faust
from faust.types import TP

from seamline.connectors.kafka.admin import Admin
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.metrics import TROUBLES, Metrics
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.preset import Preset
from seamline.schemas.times import NS_PER_S
from seamline.schemas.topics import topic_name
from seamline.streams.apps import lane
from seamline.streams.apps.lost_markers import Completed
from seamline.streams.apps.owner import Owner, OwnerSettings
from seamline.streams.apps.tenure import Done, Place
from seamline.streams.kernel.chunk import Chunk
from seamline.streams.kernel.failure_detail import Checked, FailureWindows
from seamline.streams.kernel.inbox import Budget
from seamline.streams.kernel.owner_states import Event, State
from seamline.streams.kernel.protocol import ROLES, MachineFactory, Role, Step
from seamline.streams.kernel.writers import REGISTRY_UNAVAILABLE

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
REQUEST_TIMEOUT_S: Final = 40.0
# aiokafka leaves the group when nobody fetched for so long; an owner that holds everything is alive
# all the same, and its liveness is seen by its positions.
POLL_INTERVAL_S: Final = 7 * 86_400.0
# Chunks between the drain loop and the agent, which takes them at once.
STREAM_BUFFER: Final = 16
# Owners have `grace_s` to finish; a rebalance waits for nothing longer than this.
CLOSE_TIMEOUT_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class AppSettings:
    session_timeout_s: float = 6.0
    directory: Path = Path()
    owner: OwnerSettings = field(default_factory=OwnerSettings)


def group_of(preset_id: str) -> str:
    """Consumer group of a preset's workers; of display only, like the offsets in it."""
    return f"seamline.{preset_id}.conform"


def faust_directory(directory: Path, preset_id: str) -> Path:
    """Where Faust keeps what it wants to keep; nothing of ours is in it."""
    return directory / "faust" / preset_id


class PresetApp:
    """Runs one preset in this process. `on_owned` is told when all partitions of an assignment run,
    `on_checked` what each commit covers: on the event loop, it never blocks and never raises.

    Also the observer of its owners.
    """

    def __init__(
        self,
        preset: Preset,
        cluster: Cluster,
        factory: MachineFactory,
        metrics: Metrics,
        *,
        settings: AppSettings,
        budget: Budget,
        on_owned: Callable[[str, list[int]], None],
        on_checked: Callable[[Checked], None] = lambda _checked: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.preset = preset
        self.owners: dict[int, Owner] = {}
        # Partitions with records set aside because the registry did not answer, until looked at.
        self.unavailable: set[int] = set()
        self.topics: Mapping[Role, str] = {role: topic_name(preset.id, role) for role in ROLES}
        self._cluster, self._factory, self._metrics = cluster, factory, metrics
        # One client for all owners: each would cost threads and connections of its own.
        self.admin = Admin(cluster)
        self._settings, self._budget, self._clock_ns = settings, budget, clock_ns
        self._on_owned, self._announced = on_owned, True
        self._on_checked, self._failures = on_checked, FailureWindows()
        self.app = self._make_app()
        metrics.create(preset.id, ROLES, factory.series())

    def _make_app(self) -> faust.App:
        lane.register()
        session_s = self._settings.session_timeout_s
        app = faust.App(
            group_of(self.preset.id),
            broker=[f"{lane.SCHEME}://{address}" for address in self._cluster.bootstrap.split(",")],
            broker_credentials=credentials(self._cluster),
            broker_session_timeout=session_s,
            broker_rebalance_timeout=session_s,
            broker_heartbeat_interval=min(HEARTBEAT_S, session_s / 3),
            broker_request_timeout=REQUEST_TIMEOUT_S,
            broker_max_poll_interval=POLL_INTERVAL_S,
            consumer_max_fetch_size=lane.FETCH.partition_bytes,
            store="memory://",
            datadir=faust_directory(self._settings.directory, self.preset.id),
            # One standby keeps Faust's own assignor, which gives equal-count topics of a group the
            # same partitions; without it Faust 0.15 uses round robin. There are no tables.
            table_standby_replicas=1,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_buffer_maxsize=STREAM_BUFFER,
            stream_wait_empty=False,
            stream_publish_on_commit=False,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        channel = app.topic(*self.topics.values(), schema=lane.ChunkSchema())
        app.agent(channel, name=f"conform {self.preset.id}", concurrency=1)(self._conform)
        app.on_partitions_assigned.connect(self._assigned)
        app.on_partitions_revoked.connect(self._revoked)
        return app

    async def _conform(self, stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                self._offer(event.value)
            except Exception:
                # Whatever it was: the chain shows a lost chunk and the owner fetches it again.
                log.exception("%s: a chunk was not taken", self.preset.id)

    def _offer(self, chunk: Chunk) -> None:
        owner = self.owners.get(chunk.partition)
        if owner is not None:
            self._metrics.records_in.labels(
                self.preset.id, "live" if chunk.topic == self.topics["live"] else "backfill"
            ).inc(len(chunk.records))
            owner.offer(chunk)

    def current_owners(self) -> Mapping[int, Owner]:
        return self.owners

    # -- assignments

    async def _assigned(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        assigned: set[TP] = args[0]
        await self.close_owners()
        held = {
            role: {tp.partition for tp in assigned if tp.topic == topic}
            for role, topic in self.topics.items()
        }
        live, backfill = held["live"], held["backfill"]
        if live != backfill:
            raise ContractError(
                "the assignor gave this worker different partitions of the two landing topics",
                parameter="partitions",
                value={"live": sorted(live), "backfill": sorted(backfill)},
                fix="All workers of a preset must run the same version of Seamline",
            )
        consumer = app.consumer
        consumer.on_out_of_range = self._out_of_range
        self._announced = False
        for partition in sorted(live):
            self.owners[partition] = Owner(
                Place(self.preset.id, partition, self.topics),
                consumer,
                self._cluster,
                self.admin,
                self._factory,
                self,
                budget=self._budget,
                tps={role: TP(topic, partition) for role, topic in self.topics.items()},
                settings=self._settings.owner,
                clock_ns=self._clock_ns,
            )

    async def _revoked(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        await self.close_owners()

    async def close_owners(self) -> None:
        """Stop all owners; what they do not finish in time is fenced by whoever comes next."""
        closing = [owner.close() for owner in self.owners.values()]
        for partition in self.owners:
            self._metrics.remove(self.preset.id, partition)
        self.owners.clear()
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)

    def _out_of_range(self, tp: TP) -> None:
        owner = self.owners.get(tp.partition)
        if owner is not None:
            owner.break_(f"the position left {tp.topic}[{tp.partition}]")

    # -- what owners tell

    def entered(self, place: Place, state: State, event: Event, cause: str) -> None:
        owner = self.owners.get(place.partition)
        # A closed owner's last words may come after its successor's first.
        if owner is None or state is State.CLOSED:
            return
        preset_id = place.preset_id
        self._metrics.entered(preset_id, place.partition, state)
        if event is Event.TAKEN:
            self._metrics.takes.labels(preset_id).inc()
        elif event in TROUBLES:
            self._metrics.troubles.labels(preset_id, event).inc()
        if not self._announced and all(o.state is State.RUNNING for o in self.owners.values()):
            self._announced = True
            self._on_owned(preset_id, sorted(self.owners))

    def stepped(self, place: Place, role: Role | None, records: int, done: Done) -> None:
        step = done.step
        if done.committed:
            self._tell_failures(step)
            if REGISTRY_UNAVAILABLE in step.quarantined:
                self.unavailable.add(place.partition)
            self._metrics.committed(
                place.preset_id,
                commit_s=done.commit_s,
                counts=step.counts,
                quarantined=step.quarantined,
                failures=step.failures,
                seals=step.seals,
            )
        if done.frontier_ns is not None and place.partition in self.owners:
            age_s = (self._clock_ns() - done.frontier_ns) / NS_PER_S
            self._metrics.staleness.labels(place.preset_id, str(place.partition)).set(age_s)

    def _tell_failures(self, step: Step) -> None:
        """Which records failed, beside the counters, in lines whose number is bounded."""
        for checked in step.checked:
            self._failures.add(checked)
            self._on_checked(checked)
        for line in self._failures.lines(self._clock_ns()):
            log.warning("%s", line)

    def lost(self, place: Place, role: Role, position: int, first: int) -> None:
        self._metrics.expired.labels(place.preset_id, role).inc(first - position)

    def completed(self, place: Place, completed: Completed) -> None:
        self._metrics.completed_open.labels(place.preset_id, completed.fate).inc()


def credentials(cluster: Cluster) -> Any:
    """The cluster's security settings as Faust wants them; None for PLAINTEXT.

    Raises UsageError for a mechanism that the worker's consumer cannot do.
    """
    config = cluster.aiokafka_config()
    protocol = config.get("security_protocol", "PLAINTEXT")
    context = config.get("ssl_context")
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    mechanism = config.get("sasl_mechanism", "PLAIN")
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise UsageError(
            "the worker's consumer has no such mechanism",
            parameter="SEAMLINE_KAFKA_SASL_MECHANISM",
            value=mechanism,
            fix="Use PLAIN or SCRAM",
        )
    return faust.SASLCredentials(
        username=config.get("sasl_plain_username"),
        password=config.get("sasl_plain_password"),
        ssl_context=context,
        mechanism=mechanism,
    )
