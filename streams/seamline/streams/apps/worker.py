"""The worker process: checks the world, compiles, joins the groups, and ends cleanly.

Decides: what is refused before anything is joined, the order of start and end, and the exit.
Invariants: the modes of all subjects are known and the kernels are compiled before the group is
joined (a compiling member looks dead to the others); on SIGTERM the owners finish or abandon their
transaction, then the group is left, all within HAND_OVER_S; a preset that crashes ends the whole
process with an error, never silently. Must not know: what a machine decides.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from seamline.connectors.cycle_search import search_cycles_seldom
from seamline.connectors.governance.budget_guard import BudgetGuard
from seamline.connectors.governance.follow import ModeFollower
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka.topics import assert_partitions
from seamline.connectors.metrics import Metrics, serve
from seamline.connectors.registry.client import RemoteSchemaRegistryClient
from seamline.connectors.registry.registration import subjects_of
from seamline.connectors.world import World
from seamline.schemas.errors import TransportError, UsageError
from seamline.schemas.modes import Policies, default_mode
from seamline.schemas.preset import Preset
from seamline.schemas.topics import LANDING_ROLES, subject_of, topic_name
from seamline.streams.apps.arenas import bound_arenas
from seamline.streams.apps.owner import OwnerSettings
from seamline.streams.apps.preset_app import AppSettings, PresetApp, faust_directory
from seamline.streams.apps.self_redrive import SelfRedrive
from seamline.streams.apps.watch import Watch
from seamline.streams.kernel.inbox import Budget
from seamline.streams.kernel.protocol import MachineFactory

log = logging.getLogger(__name__)

SESSION_TIMEOUT_NS: Final = 6_000_000_000
SESSION_RANGE_NS: Final = (1_000_000_000, 60_000_000_000)
# All of a hand-over: owners, leaving the group, the rest of the clients.
HAND_OVER_S: Final = 2.5
# With what a client that cannot reach its broker makes of it.
FORCED_END_S: Final = 2.9

FactoryMaker: TypeAlias = Callable[
    [Preset, tuple[Preset, ...], World, Path, Policies], MachineFactory
]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """`directory` is the worker's own; two workers never share one. `metrics_port` None: none."""

    directory: Path
    session_timeout_ns: int = SESSION_TIMEOUT_NS
    metrics_port: int | None = None
    owner: OwnerSettings = field(default_factory=OwnerSettings)


@dataclass(frozen=True, slots=True)
class Told:
    """Whom the worker tells: `owned(preset id, partitions)`, `scraped(port)`."""

    owned: Callable[[str, list[int]], None] = lambda _preset, _partitions: None
    scraped: Callable[[int], None] = lambda _port: None


def run_worker(
    presets: Sequence[Preset],
    derived: Mapping[str, tuple[Preset, ...]],
    world: World,
    make_factory: FactoryMaker,
    settings: WorkerSettings,
    told: Told | None = None,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
) -> None:
    """Run until SIGTERM or SIGINT. `derived`: the presets rolled up from each of `presets`.

    Raises UsageError for a derived or unlandable preset, a session timeout out of range and an
    unknown default mode, ContractError and TransportError for a world that is not ready or fails
    for good.
    """
    bound_arenas()
    told = told or Told()
    check_presets(presets)
    check_session(settings.session_timeout_ns)
    make_directories(settings.directory, presets)
    every = [each for preset in presets for each in (preset, *derived.get(preset.id, ()))]
    for each in every:
        assert_partitions(world.cluster, each)
    modes = ModeFollower(
        world.cluster,
        default_mode(os.environ),
        subjects={subject.name for each in every for subject in subjects_of(each)},
    )
    modes.start()
    try:
        factories = {
            preset.id: make_factory(
                *(preset, derived.get(preset.id, ()), world, settings.directory), modes.policy
            )
            for preset in presets
        }
        for factory in factories.values():
            factory.warm()
        search_cycles_seldom()
        metrics = Metrics()
        if settings.metrics_port is not None:
            told.scraped(serve(metrics, settings.metrics_port))
        asyncio.run(_run(presets, world, factories, metrics, settings, told, clock_ns))
    finally:
        modes.stop()


async def _run(
    presets: Sequence[Preset],
    world: World,
    factories: Mapping[str, MachineFactory],
    metrics: Metrics,
    settings: WorkerSettings,
    told: Told,
    clock_ns: Callable[[], int],
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    budget = Budget()
    guard = budget_guard(presets, world, metrics, clock_ns)
    app_settings = AppSettings(
        settings.session_timeout_ns / 1e9, settings.directory, settings.owner
    )
    apps = [
        PresetApp(
            preset,
            world.cluster,
            factories[preset.id],
            metrics,
            settings=app_settings,
            budget=budget,
            on_owned=told.owned,
            on_checked=guard.checked,
            clock_ns=clock_ns,
        )
        for preset in presets
    ]
    guard.start()
    tasks = [asyncio.create_task(run_app(app)) for app in apps]
    watches = [Watch(app.admin, metrics, app.current_owners) for app in apps]
    tasks += [asyncio.create_task(watch.run()) for watch in watches]
    waiting = [SelfRedrive(app, world, clock_ns) for app in apps]
    tasks += [asyncio.create_task(each.run()) for each in waiting]
    stop = asyncio.create_task(ended.wait())
    try:
        done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        guard.stop()
        end_anyway(0 if ended.is_set() else 1)
        await end_apps(apps, tasks)
    for task in done - {stop}:
        task.result()


def budget_guard(
    presets: Sequence[Preset], world: World, metrics: Metrics, clock_ns: Callable[[], int]
) -> BudgetGuard:
    """Over the landing subjects of these presets, in the name of this process."""
    return BudgetGuard(
        lambda: GovernanceLog(world.cluster),
        [subject_of(topic_name(preset.id, role)) for preset in presets for role in LANDING_ROLES],
        actor=f"worker {socket.gethostname()}:{os.getpid()}",
        told=metrics,
        registry=RemoteSchemaRegistryClient(world.registry_url, world.registry_auth),
        clock_ns=clock_ns,
    )


async def run_app(app: PresetApp) -> None:
    """Until the app stops. Raises TransportError when it crashed."""
    await app.app.maybe_start()
    await app.app.wait_until_stopped()
    reason = app.app._crash_reason
    if reason is not None:
        raise TransportError(
            f"the worker of this preset ended: {type(reason).__name__}: {reason}",
            parameter="preset",
            value=app.preset.id,
            fix="Start the worker again; what is committed is committed",
        ) from reason


def end_anyway(status: int) -> None:
    """A client that cannot reach its broker may never end its threads; the process does.

    Nothing is lost by it: what is not committed is settled by the next owner.
    """
    timer = threading.Timer(FORCED_END_S, os._exit, (status,))
    timer.daemon = True
    timer.start()


async def end_apps(apps: Sequence[PresetApp], tasks: Sequence[asyncio.Task[None]]) -> None:
    """1 the owners finish or abandon, 2 the groups are left, 3 everything else."""
    deadline = time.monotonic() + HAND_OVER_S
    await asyncio.gather(*(app.close_owners() for app in apps))  # 1
    stopping = [asyncio.create_task(app.app.stop()) for app in apps]  # 2
    await asyncio.wait(stopping, timeout=max(0.1, deadline - time.monotonic()))
    for task in (*stopping, *tasks):  # 3
        task.cancel()
    await asyncio.gather(*stopping, *tasks, return_exceptions=True)


# -- what is refused before anything is joined


def check_presets(presets: Sequence[Preset], roots: Mapping[str, str] | None = None) -> None:
    """Raises UsageError for a derived preset (naming its parent), one named twice, or none.

    `roots`: preset id -> the one that its worker runs, where a chain of derived presets is known.
    """
    seen: set[str] = set()
    for preset in presets:
        if preset.derive_from is not None:
            raise UsageError(
                "a derived preset is made by the worker of its parent",
                parameter="preset",
                value=preset.id,
                fix=f"Run: seamline worker {(roots or {}).get(preset.id, preset.derive_from)}",
            )
        if preset.id in seen:
            raise UsageError("named twice", parameter="preset", value=preset.id)
        seen.add(preset.id)
    if not presets:
        raise UsageError("name at least one preset", parameter="preset", value=None)


def check_session(timeout_ns: int) -> None:
    low, high = SESSION_RANGE_NS
    if not low <= timeout_ns <= high:
        raise UsageError(
            "outside 1s to 60s",
            parameter="session_timeout",
            value=f"{timeout_ns / 1e9:g}s",
            fix="6s to 10s is right for most brokers",
        )


def make_directories(directory: Path, presets: Sequence[Preset]) -> None:
    """Raises UsageError where nothing can be written."""
    try:
        for preset in presets:
            faust_directory(directory, preset.id).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}",
            parameter="dir",
            value=str(directory),
            fix="Give a directory of the worker's own",
        ) from None
