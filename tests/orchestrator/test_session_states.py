"""A session's life as a table."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.session_states import BETWEEN, LIVE, NEXT, Event, State, after
from protocol.errors import Conflict

CELLS = list(product(State, Event))


def test_every_cell_is_named() -> None:
    assert {state: set(row) for state, row in NEXT.items()} == {state: set(Event) for state in State}


@pytest.mark.parametrize(("state", "event"), CELLS, ids=lambda each: each.value)
def test_a_move_that_is_none_is_refused_in_a_sentence_that_names_the_state(
    state: State, event: Event
) -> None:
    found = NEXT[state][event]
    if isinstance(found, State):
        assert after(state, event, "s1") is found
        return
    with pytest.raises(Conflict, match=f"^s1 is {state.value}: {found}$"):
        after(state, event, "s1")


def test_every_state_can_be_left_to_the_end_and_an_end_is_no_dead_end() -> None:
    for state in State:
        assert NEXT[state][Event.STOP] is State.STOPPING
    assert NEXT[State.STOPPING][Event.ENDED] is State.STOPPED
    assert {NEXT[state][Event.RESUME] for state in (State.STOPPED, State.ERROR)} == {State.CREATING}


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_what_holds_no_ports_is_never_between_two_states(events: list[Event]) -> None:
    state = State.CREATING
    for event in events:
        found = NEXT[state][event]
        state = found if isinstance(found, State) else state
        assert state in LIVE or state in (State.STOPPED, State.ERROR)
        assert not (state in BETWEEN and state not in LIVE)


def test_only_a_session_that_was_initializing_becomes_ready() -> None:
    ready = [state for state in State if NEXT[state][Event.READY] is State.RUNNING]
    assert ready == [State.INITIALIZING]
