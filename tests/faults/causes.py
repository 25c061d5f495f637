"""Faults as things that are done and undone.

Decides: what each cause does to its target. Invariants: a cause that finds nothing to strike (its
target is down already) says so, and is neither counted nor undone; whatever was done is undone.
Must not know: when. Others add the causes of brokers and venues where they know how.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from e2e.workers import WorkerProcess, await_that
from faults.timeline import Fault, Kind, Timeline

END_S = 30.0


@dataclass(frozen=True, slots=True)
class Cause:
    """`do` answers whether it struck. Both get the target that the plan names."""

    name: str
    sentence: str
    do: Callable[[Any], bool]
    undo: Callable[[Any], None]
    shortest_s: float
    longest_s: float

    def on(self, *targets: str) -> Kind:
        """This cause as a kind of a plan."""
        return Kind(self.name, targets, self.shortest_s, self.longest_s)


def signalled(number: signal.Signals) -> Callable[[WorkerProcess], bool]:
    def do(worker: WorkerProcess) -> bool:
        if worker.status is not None:
            return False
        worker.signal(number)
        return True

    return do


def start_again(worker: WorkerProcess) -> None:
    await_that(lambda: _ended(worker), END_S, f"the end of {worker.name}")
    worker.start()


def wake(worker: WorkerProcess) -> None:
    worker.signal(signal.SIGCONT)


def restart(worker: WorkerProcess) -> bool:
    if worker.status is not None:
        return False
    worker.signal(signal.SIGTERM)
    start_again(worker)
    return True


def _ended(worker: WorkerProcess) -> bool:
    # A SIGTERM on a stopped worker takes effect when it is woken: wake it.
    worker.signal(signal.SIGCONT)
    return worker.status is not None


def worker_causes(session_s: float) -> dict[str, Cause]:
    """Of worker processes whose place in the group lapses after `session_s`."""
    causes = (
        Cause("kill", "SIGKILL of a worker", signalled(signal.SIGKILL), start_again, 0.2, 3.0),
        Cause(
            "stop",
            f"SIGSTOP of a worker for longer than its session of {session_s:g} s, then SIGCONT",
            signalled(signal.SIGSTOP),
            wake,
            session_s + 1.5,
            session_s + 3.5,
        ),
        Cause("term", "SIGTERM of a worker", signalled(signal.SIGTERM), start_again, 0.2, 3.0),
        Cause(
            "restart",
            "SIGTERM of a worker, started again the moment it ended",
            restart,
            lambda _: None,
            0.0,
            0.1,
        ),
    )
    return {cause.name: cause for cause in causes}


def play(
    timeline: Timeline, causes: Mapping[str, Cause], targets: Mapping[str, Any]
) -> Counter[str]:
    """Carry the faults out at their times and undo them at theirs; how often each kind struck."""
    began = time.monotonic()
    deeds = sorted(
        [(fault.at_s, "do", fault) for fault in timeline.faults]
        + [(fault.end_s, "undo", fault) for fault in timeline.faults]
    )
    struck: set[Fault] = set()
    for at_s, what, fault in deeds:
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        cause, target = causes[fault.kind], targets[fault.on]
        if what == "do":
            if cause.do(target):
                struck.add(fault)
        elif fault in struck:
            cause.undo(target)
    return Counter(fault.kind for fault in struck)
