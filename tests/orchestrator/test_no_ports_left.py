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
from tests.ports import free_port


@pytest.mark.parametrize("which", ["dev", "tool"])
async def test_the_error_names_the_range_and_the_option_and_nothing_is_left(
    which: str, tmp_path: Path
) -> None:
    sessions = sessions_in(tmp_path)
    with ExitStack() as others:
        first, *rest = [free_port() for _ in range(4)]
        listeners = [
            others.enter_context(socket.create_server(("127.0.0.1", port))) for port in (first, *rest)
        ]
        taken = Wish(first, rest)
        wishes = PortWishes(Wish(0), taken) if which == "dev" else PortWishes(taken, Wish(free_port()))
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
