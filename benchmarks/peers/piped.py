"""A contender at the other end of two pipes: a line of JSON each way."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.servers import end
from benchmarks.peers.tools import Wrong, expect

_MAX_LINE_BYTES = 512 * 1024 * 1024


class Pipe:
    """One question at a time, each with a number that its answer repeats."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._in, self._out = process.stdin, process.stdout
        self._numbers = itertools.count(1)

    async def ask(self, question: Mapping[str, object]) -> Any:
        """The answer to a question, which gets an ``id``; what is in between is passed over."""
        number = next(self._numbers)
        await self.tell({**question, "id": number})
        while True:
            line = await self._out.readline()
            expect(line, "it ended")
            answer = json.loads(line)
            if answer.get("id") == number:
                if "error" in answer:
                    raise Wrong(str(answer["error"])[:200])
                return answer

    async def ready(self) -> None:
        """Wait for the line that a program of ours begins with."""
        expect(await self._out.readline(), "it ended at its start")

    async def tell(self, message: Mapping[str, object]) -> None:
        """Without an answer."""
        self._in.write(json.dumps(message).encode() + b"\n")
        await self._in.drain()


@asynccontextmanager
async def piped(
    argv: tuple[str, ...], cwd: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Pipe]:
    """The program's two pipes; it is ended with all that it started."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
    )
    try:
        yield Pipe(process)
    finally:
        await end(process)
