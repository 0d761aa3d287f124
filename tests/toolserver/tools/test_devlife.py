"""The dev server's life: every cell of the table named."""

from __future__ import annotations

import pytest

from protocol.messages.devserver import DevState
from toolserver.tools.devlife import NEXT, DevEvent, after

DRAWN = """
             INSTALL     INSTALLED   START      ANSWERED   EXITED     STOP
DOWN         INSTALLING  .           STARTING   .          .          .
INSTALLING   .           DOWN        .          .          .          .
STARTING     .           .           .          READY      CRASHED    STOPPING
READY        .           .           .          .          CRASHED    STOPPING
CRASHED      INSTALLING  .           STARTING   .          .          DOWN
STOPPING     .           .           .          .          DOWN       .
"""


def cells() -> list[tuple[DevState, DevEvent, DevState]]:
    head, *rows = (line.split() for line in DRAWN.strip().splitlines())
    return [
        (DevState[row[0]], DevEvent[event], DevState[row[0] if cell == "." else cell])
        for row in rows
        for event, cell in zip(head, row[1:], strict=True)
    ]


@pytest.mark.parametrize(("state", "event", "expected"), cells())
def test_every_event_in_every_state(state: DevState, event: DevEvent, expected: DevState) -> None:
    assert after(state, event) is expected


def test_the_drawing_is_complete() -> None:
    assert len(cells()) == len(DevState) * len(DevEvent)
    assert NEXT.keys() == set(DevState)


def test_ready_is_reached_by_an_answer_only() -> None:
    assert {(state, event) for state, event, to in cells() if to is DevState.READY and state is not to} == {
        (DevState.STARTING, DevEvent.ANSWERED)
    }


def test_every_state_can_be_left() -> None:
    assert all(NEXT[state] for state in DevState)
