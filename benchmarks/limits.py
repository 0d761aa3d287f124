"""What limits cost a small request, and what audit and figures: the tool server beside itself without them.

    python -m benchmarks.limits [ROUNDS]

All serve the same file by turns. Counted is the processor time of all of the server's threads for each
request, which a busy machine changes less than the clock. What is left out of the one is put back to nothing
before it starts; the log keeps its line.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import connect

from benchmarks.floors import program

ROUNDS = 40
WAYS = ("whole", "no limits", "no audit")
_REQUESTS = 400
"""Of each turn, 32 of them at once."""
_AT_ONCE = 32
_BODY = b'{"path": "small.txt"}'
Turn = Callable[[], Awaitable[None]]


def serve(lacks: str) -> None:
    """Become the tool server, whole or without one of the two."""
    from aiohttp import web

    from toolserver import app
    from toolserver.__main__ import main
    from toolserver.tools import auditing, figures, ledger

    def nothing(*_: object) -> None:
        return None

    parts: dict[str, list[tuple[object, str]]] = {
        "whole": [],
        "no limits": [(ledger.Ledger, "admit")],
        "no audit": [(ledger, "subject"), (auditing.Auditing, "note"), (figures.Figures, "add")],
    }
    for where, name in parts[lacks]:
        setattr(where, name, nothing)

    class Runner(web.AppRunner):
        def __init__(self, app: web.Application, _: object, __: object, **options: Any) -> None:
            super().__init__(app, access_log=None, **options)

    if lacks == "no limits":
        vars(app)["Runner"] = Runner
    main(sys.argv[2:])


async def run(rounds: int) -> None:
    """All by turns, over both doors; prints the medians and what the ratio of each round comes to."""
    with tempfile.TemporaryDirectory() as scratch:
        async with AsyncExitStack() as stack:
            turns: dict[str, list[tuple[int, Turn]]] = {"HTTP": [], "WebSocket": []}
            for name in WAYS:
                root = Path(scratch) / name
                root.mkdir()
                (root / "small.txt").write_text("x" * 1024, encoding="ascii")
                flags = [f"--workspace-root={root}", "--port=0"]
                flags += [f"--max-requests-per-second{whose}=10000000" for whose in ("", "-in-all")]
                url, pid = await stack.enter_async_context(
                    program(sys.executable, "-m", __spec__.name, name, *flags)
                )
                web = await stack.enter_async_context(aiohttp.ClientSession(url))
                socket = await stack.enter_async_context(
                    connect(url.replace("http", "ws") + "/v1/ws", compression=None, proxy=None)
                )
                turns["HTTP"].append((pid, lambda web=web: _over_http(web)))  # type: ignore[misc]
                turns["WebSocket"].append((pid, lambda socket=socket: _over_socket(socket)))  # type: ignore[misc]
            for door, servers in turns.items():
                _tell(door, await _by_turns(servers, rounds))


async def _by_turns(servers: list[tuple[int, Turn]], rounds: int) -> list[list[float]]:
    for _, turn in servers:
        await turn()
    found = []
    for number in range(rounds):
        spent = [0.0] * len(servers)
        for index in range(len(servers)):
            # Everybody is the first as often as the others.
            at = (index + number) % len(servers)
            pid, turn = servers[at]
            before = _processor_us(pid)
            await turn()
            spent[at] = (_processor_us(pid) - before) / _REQUESTS
        found.append(spent)
    return found


async def _over_http(web: aiohttp.ClientSession) -> None:
    async def some() -> None:
        for _ in range(_REQUESTS // _AT_ONCE):
            async with web.post("/v1/read", data=_BODY) as response:
                assert response.status == 200, await response.text()
                await response.read()

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


async def _over_socket(socket: Any) -> None:
    for begun in range(0, _REQUESTS, _AT_ONCE):
        for number in range(begun, begun + _AT_ONCE):
            await socket.send(json.dumps({"id": str(number), "op": "read", "params": {"path": "small.txt"}}))
        for _ in range(_AT_ONCE):
            assert '"result"' in await socket.recv()


def _processor_us(pid: int) -> float:
    """Of all its threads so far."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
        total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text(encoding="ascii").split()[0])
    return total / 1000


def _tell(door: str, found: list[list[float]]) -> None:
    for at, name in enumerate(WAYS):
        median = statistics.median(each[at] for each in found)
        ratio = statistics.median(each[0] / each[at] for each in found)
        print(f"{door}, {name}: {median:.1f} us, the whole is {ratio:.3f} of it ({len(found)} rounds)")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in WAYS:
        serve(sys.argv[1])
    else:
        asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
