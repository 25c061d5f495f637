"""The owner's table: every pair that can happen, and what the table as a whole promises."""

from __future__ import annotations

import pytest

from seamline.streams.kernel.owner_states import (
    DROPS_CHUNKS,
    DROPS_MACHINE,
    TRANSITIONS,
    Event,
    State,
    transition,
)


@pytest.mark.parametrize(
    ("state", "event", "after"),
    [
        (State.TAKING, Event.TAKEN, State.RESTARTING),
        (State.RESTARTING, Event.RESTARTED, State.RUNNING),
        (State.RUNNING, Event.BROKEN, State.RESTARTING),
        (State.RUNNING, Event.FENCED, State.WAITING),
        (State.WAITING, Event.WAITED, State.TAKING),
        (State.RUNNING, Event.CLOSE, State.CLOSED),
    ],
)
def test_the_order_of_an_owners_life(state: State, event: Event, after: State) -> None:
    assert transition(state, event) is after


def test_running_is_reached_only_by_a_take_and_a_restart() -> None:
    into_running = {pair for pair, after in TRANSITIONS.items() if after is State.RUNNING}
    into_restarting = {pair for pair, after in TRANSITIONS.items() if after is State.RESTARTING}
    assert into_running == {(State.RESTARTING, Event.RESTARTED)}
    # A break keeps the machine: nothing of it was in doubt. Everything else took anew.
    assert into_restarting == {(State.TAKING, Event.TAKEN), (State.RUNNING, Event.BROKEN)}


def test_a_failure_or_a_fence_is_survived_everywhere_and_drops_the_machine() -> None:
    for state in (State.TAKING, State.RESTARTING, State.RUNNING):
        for event in (Event.FAILED, Event.FENCED):
            assert transition(state, event) in DROPS_MACHINE & DROPS_CHUNKS


def test_every_state_but_the_last_can_be_closed_and_the_last_is_final() -> None:
    for state in State:
        if state is State.CLOSED:
            assert not [pair for pair in TRANSITIONS if pair[0] is state]
        else:
            assert transition(state, Event.CLOSE) is State.CLOSED


def test_what_cannot_happen_is_a_fault_of_the_program() -> None:
    with pytest.raises(KeyError):
        transition(State.WAITING, Event.TAKEN)
    with pytest.raises(KeyError):
        transition(State.CLOSED, Event.WAITED)


def test_nothing_fetched_before_a_restart_is_used_after_it() -> None:
    assert State.RESTARTING in DROPS_CHUNKS
    assert State.RUNNING not in DROPS_CHUNKS
