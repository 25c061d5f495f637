"""The governance log on a real broker: one chain, whoever writes, and nothing half or twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from seamline.connectors.governance.log import Change, GovernanceLog, Governed
from seamline.connectors.world import World
from seamline.schemas.audit import Draft
from seamline.schemas.modes import CANARY, STRICT, SubjectState
from seamline.sdk.audit_export import Audited

SUBJECT = "seamline.ohlcv.test.1m.live-value"
SHA = "ab" * 32


def draft(reason: str, action: str = "register", subject: str = SUBJECT) -> Draft:
    return Draft(action, subject, "ann", reason, SHA, (1, 2), {"n": 1})


def state(version: int, mode: str = STRICT, subject: str = SUBJECT) -> SubjectState:
    return SubjectState(subject, mode, version, 1, "ann", "r", SHA)


def verdict(world: World) -> dict[str, Any]:
    chain = GovernanceLog(world.cluster).chain()
    offsets = [record.offset for record in chain.records]
    return Audited.of(chain.values, offsets, chain.head, [*chain.book.states.values()]).verdict()


def a_mode(reason: str, mode: str = STRICT, subject: str = SUBJECT) -> Callable[[Governed], Change]:
    """A change of the mode of `subject` to the next version."""

    def decide(governed: Governed) -> Change:
        held = governed.book.state_of(subject)
        version = 1 if held is None else held.version + 1
        new = state(version, mode, subject)
        return Change((draft(reason, "promote", subject),), (new,))

    return decide


def test_a_change_is_written_whole_and_read_back(world: World) -> None:
    log = GovernanceLog(world.cluster)
    before = log.read()

    def decide(governed: Governed) -> Change:
        change = a_mode("r2", CANARY)(governed)
        return replace(change, drafts=(draft("r1"), *change.drafts))

    shown = log.preview(decide, lambda: 10)
    assert log.read().entries == before.entries
    written = log.commit(decide, time.time_ns)
    after = log.read()
    assert [e.reason for e in written] == [e.reason for e in shown] == ["r1", "r2"]
    assert after.entries == (*before.entries, *written)
    assert after.head == written[-1].head
    assert after.book.mode_of(SUBJECT, STRICT) == CANARY
    assert written[1].evidence["in_force"]["mode"] == CANARY
    assert verdict(world)["ok"]
    chain = log.chain()
    assert log.commit(lambda _: Change()) == ()
    assert log.chain().values == chain.values
