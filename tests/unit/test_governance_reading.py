"""A commit that is half visible is no broken chain, and a broken one is not waited for."""

from __future__ import annotations

import pytest

from seamline.connectors.governance import log as governance
from seamline.connectors.governance.chain import AUDIT, Chain
from seamline.connectors.governance.log import GovernanceLog
from seamline.connectors.kafka.cluster import Cluster
from seamline.connectors.kafka.reader import Message
from seamline.schemas.audit import Draft, Entry, append, encode_entry
from seamline.schemas.modes import ModeBook


def entries_of(count: int) -> list[Entry]:
    entries: list[Entry] = []
    for _ in range(count):
        head = entries[-1].head if entries else None
        entries.append(append(head, 0, Draft("demote", "s", "ann", "r"), 1))
    return entries


def chain_of(entries: list[Entry], head_at: int) -> Chain:
    """So many entries are seen, and of the heads that of entry `head_at`."""
    records = tuple(
        Message(*AUDIT, number, 0, None, encode_entry(entry), ())
        for number, entry in enumerate(entries)
    )
    return Chain(records, entries_of(head_at + 1)[-1].head, ModeBook(), frozenset())


def reading(monkeypatch: pytest.MonkeyPatch, *found: Chain) -> list[Chain]:
    """What a read of the log gives from now on, one after the other, the last one for ever."""
    left, given = list(found), []

    def read(*_: object) -> Chain:
        given.append(left.pop(0) if len(left) > 1 else left[0])
        return given[-1]

    monkeypatch.setattr(governance, "read_chain", read)
    monkeypatch.setattr(governance, "READ_AGAIN_S", 0.0)
    return given


@pytest.mark.parametrize("entries_first", [True, False])
def test_a_reader_between_two_markers_looks_again(
    entries_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of(3)
    half = chain_of(entries, 1) if entries_first else chain_of(entries[:2], 2)
    given = reading(monkeypatch, half, chain_of(entries, 2))
    governed = GovernanceLog(Cluster("127.0.0.1:1")).read()
    assert (len(governed.entries), len(given)) == (3, 2)


def test_what_stays_apart_is_answered_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = chain_of(entries_of(2), 2)
    given = reading(monkeypatch, cut)
    assert GovernanceLog(Cluster("127.0.0.1:1")).chain() == cut and len(given) == 2
    empty = Chain((), None, ModeBook(), frozenset())
    given = reading(monkeypatch, empty)
    assert GovernanceLog(Cluster("127.0.0.1:1")).read().entries == () and len(given) == 1
