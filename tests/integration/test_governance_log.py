"""The governance log on a real broker: one chain, whoever writes, and nothing half or twice."""

from __future__ import annotations

import time

from seamline.connectors.governance.log import Change, GovernanceLog, Governed, OutRecord
from seamline.connectors.world import World
from seamline.schemas.audit import Draft, verify
from seamline.schemas.modes import CANARY, STRICT, SubjectState

SUBJECT = "seamline.ohlcv.test.1m.live-value"
SHA = "ab" * 32


def draft(reason: str, action: str = "register") -> Draft:
    return Draft(action, SUBJECT, "ann", reason, SHA, (1, 2), {"n": 1})


def state(version: int, mode: str = STRICT, subject: str = SUBJECT) -> SubjectState:
    return SubjectState(subject, mode, version, 1, "ann", "r", SHA)


def test_a_change_is_written_whole_and_read_back(world: World) -> None:
    log = GovernanceLog(world.cluster)
    before = log.read()

    def decide(governed: Governed) -> Change:
        held = governed.book.state_of(SUBJECT)
        version = 1 if held is None else held.version + 1
        return Change((draft("r1"), draft("r2")), (state(version, CANARY),))

    written = log.commit(decide, time.time_ns)
    after = log.read()
    assert [e.reason for e in written] == ["r1", "r2"]
    assert after.entries == (*before.entries, *written)
    assert after.head == written[-1].head
    assert after.book.mode_of(SUBJECT, STRICT) == CANARY
    chain = log.chain()
    assert verify(chain.values, chain.head).ok
    assert log.commit(lambda _: Change(), time.time_ns) == ()
    assert log.chain().values == chain.values
    assert OutRecord("t", 0, None, None).headers == ()
