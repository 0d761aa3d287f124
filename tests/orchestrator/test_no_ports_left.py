"""Other programs on every port that a session might have."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.ports import Wish
from orchestrator.sessions import PortWishes
from protocol.errors import Busy
from tests.orchestrator.mortal import ANN, sessions_in


@pytest.mark.parametrize("which", ["dev", "tool"])
async def test_the_error_names_the_range_and_the_option_and_nothing_is_left(
    which: str, tmp_path: Path
) -> None:
    sessions = sessions_in(tmp_path)
    with ExitStack() as others:
        listeners = [others.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        first, *rest = [int(listener.getsockname()[1]) for listener in listeners]
        free = rest.pop() if which == "tool" else 0
        if free:
            listeners[-1].close()
        taken = Wish(first, rest)
        wishes = PortWishes(tool=Wish(0), dev=taken) if which == "dev" else PortWishes(taken, Wish(free))
        option = "--dev-port" if which == "dev" else "--port"
        sentence = f"port {first} and all from {rest[0]} to {rest[-1]} are taken; .* by {option}"
        with pytest.raises(Busy, match=sentence):
            await sessions.begin(ANN, "site", wishes, "local")
        assert await sessions.list(ANN, stopped=True) == []
        assert list(tmp_path.glob("workspaces/*/*")) == []
        listeners[1].close()
        record = await sessions.begin(ANN, "site", wishes, "local")
        assert rest[0] in (record.dev_port, record.tool_port)
        await sessions.end(record, keep_files=False)
