"""Bring a mode into force on a broker, for tests of who follows it.

Decides: nothing of promotion: the mode is set as the governance log sets it, without evidence.
"""

from __future__ import annotations

from seamline.connectors.governance.log import Change, GovernanceLog, Governed
from seamline.connectors.world import World
from seamline.schemas.audit import Draft
from seamline.schemas.contract import BUNDLE_SHA256
from seamline.schemas.modes import STRICT, SubjectState

SINCE_NS = 1_700_000_000_000_000_000


def set_mode(world: World, subject: str, mode: str, tombstones: tuple[str, ...] = ()) -> None:
    """Returns when readers see it."""

    def decide(governed: Governed) -> Change:
        before = governed.book.state_of(subject)
        version = 1 if before is None else before.version + 1
        why = ("test", "for a test", BUNDLE_SHA256)
        state = SubjectState(subject, mode, version, SINCE_NS, *why, tombstones)
        action = "promote" if mode == STRICT else "demote"
        return Change((Draft(action, subject, *why),), (state,))

    GovernanceLog(world.cluster).commit(decide)
