"""A writer of the governance log as a process of its own, which may fall inside its transaction.

    python -m integration.governance_writer BOOTSTRAP NAME ROUNDS [kill|stop STEP TOPIC]

Decides: one change a round, each with an entry, a mode of the subject NAME and a record of TOPIC;
at STEP of its first transaction (see STEPS) it is ended or stopped by a signal, after what it sent
so far has reached the broker. Prints the hash of each entry written. Must not know: what others
write.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from seamline.connectors.governance import log
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.producer import TransactionalProducer
from seamline.schemas.audit import Draft
from seamline.schemas.modes import STRICT, SubjectState

SHA = "cd" * 32
STEPS = ("init", "begin", "entry", "state", "record", "head", "commit", "committed")
FAULTS: dict[int, signal.Signals] = {}


class Stumbling(TransactionalProducer):
    """The real producer; a signal comes before the step that FAULTS names, once."""

    steps = 0

    def _step(self) -> None:
        fault = FAULTS.pop(Stumbling.steps, None)
        Stumbling.steps += 1
        if fault is not None:
            self._producer.flush(10)
            os.kill(os.getpid(), fault)

    def init(self, timeout_s: float = 30.0) -> None:
        self._step()
        super().init(timeout_s)

    def begin(self) -> None:
        self._step()
        super().begin()

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._step()
        return super().send(*args, **kwargs)

    def commit(self, timeout_s: float = 30.0) -> Mapping[int, list[int]]:
        self._step()
        offsets = super().commit(timeout_s)
        self._step()
        return offsets


def change(governed: log.Governed, name: str, number: int, topic: str | None) -> log.Change:
    held = governed.book.state_of(name)
    version = 1 if held is None else held.version + 1
    reason = f"{name} {number}"
    record = () if topic is None else (log.OutRecord(topic, 0, b"k", reason.encode()),)
    state = SubjectState(name, STRICT, version, 1, name, reason, SHA)
    return log.Change((Draft("promote", name, name, reason),), (state,), record)


def main(bootstrap: str, name: str, rounds: str, *fault: str) -> None:
    topic = None
    if fault:
        kind, step, topic = fault
        FAULTS[int(step)] = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
        log.__dict__["TransactionalProducer"] = Stumbling
    governance = log.GovernanceLog(Cluster(bootstrap))
    for number in range(int(rounds)):
        entries = governance.commit(partial(change, name=name, number=number, topic=topic))
        print(*(entry.hash for entry in entries), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
