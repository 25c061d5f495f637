"""What becomes of rows without a marker, by every kind of evidence."""

from __future__ import annotations

import pytest

from seamline.schemas.errors import ContractError
from seamline.streams.kernel.lost_markers import Fate, Side, Trace, fate

ABORT, COMMIT = Fate.ABORT, Fate.COMMIT
# Transactions are named by their known time; 7 is the one in question, 6 was before it.
BEFORE, SEEN, UNSEEN = Trace(6, 600, True), Trace(7, 700, True), Trace(7, 700)
OPEN = (Trace(7, 700),)
UNTOLD = (Trace(None, 695),)  # storage and superseded state no known time
AT = "positions"


def side(role: str, *closed: Trace, opened: tuple[Trace, ...] = ()) -> Side:
    return Side(f"seamline.p.{role}", role, opened, closed)


WITH_POSITION = {
    "its position is committed": (
        [side(AT, BEFORE, SEEN), side("conformed", BEFORE, opened=OPEN)],
        COMMIT,
    ),
    "its position is aborted": (
        [side(AT, BEFORE, UNSEEN), side("conformed", BEFORE, opened=OPEN)],
        ABORT,
    ),
    "it never came to its position": (
        [side(AT, BEFORE), side("conformed", BEFORE, opened=OPEN)],
        ABORT,
    ),
    "there is no position at all": ([side(AT), side("conformed", opened=OPEN)], ABORT),
    "its owner went on for long": (
        [side(AT, Trace(90, 9_000, True), Trace(91, 9_100)), side("gaps", opened=OPEN)],
        COMMIT,
    ),
    "nobody came to a commit after it": (
        [side(AT, BEFORE, Trace(8, 800)), side("conformed", opened=OPEN)],
        ABORT,
    ),
    "by the owner's clock, committed": (
        [side(AT, BEFORE, SEEN, Trace(8, 800)), side("storage", opened=UNTOLD)],
        COMMIT,
    ),
    "by the owner's clock, aborted": (
        [side(AT, BEFORE, UNSEEN, Trace(8, 800, True)), side("storage", opened=UNTOLD)],
        ABORT,
    ),
    "by the owner's clock, no position": (
        [side(AT, BEFORE), side("storage", opened=UNTOLD)],
        ABORT,
    ),
    "quarantine has the broker's clock": (
        [side(AT, BEFORE, SEEN), side("quarantine", opened=(Trace(None, 900),))],
        COMMIT,
    ),
    "quarantine long after the last position": (
        [side(AT, BEFORE, SEEN), side("quarantine", opened=(Trace(None, 99_000),))],
        ABORT,
    ),
}
WITHOUT_POSITION = {
    "committed elsewhere": (
        [side(AT, BEFORE, opened=OPEN), side("conformed", BEFORE, SEEN)],
        COMMIT,
    ),
    "aborted elsewhere": ([side(AT, BEFORE, opened=OPEN), side("seals", BEFORE, UNSEEN)], ABORT),
    "nobody has seen any of it": (
        [side(AT, BEFORE, opened=OPEN), side("conformed", BEFORE), side("storage")],
        ABORT,
    ),
    "all of it is open": (
        [side(AT, BEFORE, opened=OPEN), side("conformed", BEFORE, opened=OPEN)],
        ABORT,
    ),
    "seen by the owner's clock": (
        [side(AT, BEFORE, opened=OPEN), side("storage", Trace(None, 695, True))],
        COMMIT,
    ),
    "aborted by the owner's clock": (
        [side(AT, BEFORE, opened=OPEN), side("storage", Trace(None, 695))],
        ABORT,
    ),
    "an aborted one before it proves nothing": (
        [
            side(AT, BEFORE, opened=OPEN),
            side("superseded", Trace(None, 650)),
            side("storage", Trace(None, 695, True)),
        ],
        COMMIT,
    ),
    "an older block proves nothing": (
        [side(AT, BEFORE, opened=OPEN), side("storage", Trace(None, 595, True))],
        ABORT,
    ),
    "the log outweighs the clock": (
        [
            side(AT, BEFORE, opened=OPEN),
            side("conformed", SEEN),
            side("storage", Trace(None, 650)),
        ],
        COMMIT,
    ),
}
CONTRADICTIONS = {
    "the log and the seals differ": [
        side(AT, BEFORE, opened=OPEN),
        side("conformed", SEEN),
        side("seals", UNSEEN),
    ],
    "the log was committed without its position": [
        side(AT, BEFORE),
        side("conformed", SEEN),
        side("seals", opened=OPEN),
    ],
    "the position without the log": [
        side(AT, SEEN),
        side("conformed", UNSEEN),
        side("seals", opened=OPEN),
    ],
    "two transactions of different fates": [
        side(AT, SEEN, Trace(8, 800)),
        side("gaps", opened=(*OPEN, Trace(8, 800))),
    ],
    "an open position of a stranger": [side(AT, BEFORE, opened=(Trace(None, 700),))],
    "a stranger's newest position": [side(AT, Trace(None, 600)), side("seals", opened=OPEN)],
}


@pytest.mark.parametrize("name", WITH_POSITION)
def test_where_the_position_has_its_marker_it_tells(name: str) -> None:
    sides, expected = WITH_POSITION[name]
    assert fate(sides) is expected


@pytest.mark.parametrize("name", WITHOUT_POSITION)
def test_where_the_position_is_open_the_others_tell(name: str) -> None:
    sides, expected = WITHOUT_POSITION[name]
    assert fate(sides) is expected


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_and_named(name: str) -> None:
    with pytest.raises(ContractError) as caught:
        fate(CONTRADICTIONS[name])
    said = str(caught.value)
    assert "unclear" in said and "kafka-transactions.sh" in said
    assert all(each.topic in said for each in CONTRADICTIONS[name] if each.open)
