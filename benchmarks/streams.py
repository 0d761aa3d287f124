"""A command's output on its way to one reader, beside what the pipe itself takes."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Act, Figure, compare, figure
from orchestrator.client import Client
from protocol.messages.base import Encoding
from protocol.messages.commands import Stdout, WhenSlow

OUTPUT_BYTES = 100_000_000
_LINES = 100
_TELL_THE_TIME = (
    "import os, time\n"
    f"for _ in range({_LINES}): os.write(1, b'%d\\n' % time.monotonic_ns()); time.sleep(0.005)"
)


async def streams(client: Client, scratch: Path, runs: int) -> list[Figure]:
    """100 MB to one reader beside ``cat`` through a pipe into Python; then the time to the first byte."""
    large = scratch / "large.txt"
    await asyncio.to_thread(
        large.write_bytes, (b"0123456789abcde\n" * (OUTPUT_BYTES // 16 + 1))[:OUTPUT_BYTES]
    )
    candidates: list[tuple[str, Act]] = [
        ("cat | Python", lambda: asyncio.to_thread(_through_a_pipe, large)),
        ("command, text", lambda: _streamed(client, large, Encoding.UTF8)),
        ("command, base64", lambda: _streamed(client, large, Encoding.BASE64)),
    ]
    first = await _first_bytes(client)
    return [
        *await compare("100 MB of output", candidates, runs),
        *await compare("1 GiB of output, nobody reads", [("head -c 1G", lambda: _unread(client))], 1),
        figure("byte written to byte received", "command", first, statistics.median(first)),
    ]


def _through_a_pipe(large: Path) -> None:
    with subprocess.Popen([_cat(), large], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 65536):
            pass


async def _streamed(client: Client, large: Path, encoding: Encoding) -> None:
    received = 0
    argv = [_cat(), str(large)]
    async with client.command.stream(
        argv=argv, encoding=encoding, max_output_bytes=0, when_slow=WhenSlow.WAIT
    ) as events:
        async for event in events:
            if isinstance(event, Stdout):
                received += event.next_offset - event.offset
    if received != OUTPUT_BYTES:
        raise AssertionError(f"{received} bytes of {OUTPUT_BYTES}")


async def _unread(client: Client) -> None:
    await client.command(command="head -c 1G /dev/zero", max_output_bytes=0)


async def _first_bytes(client: Client) -> list[float]:
    """Milliseconds from the write in the command to the event in the client; one clock, one machine."""
    async with client.command.stream(argv=[sys.executable, "-c", _TELL_THE_TIME]) as events:
        return [
            (time.monotonic_ns() - int(event.data.split()[0])) / 1e6
            async for event in events
            if isinstance(event, Stdout)
        ]


def _cat() -> str:
    return shutil.which("cat") or "/bin/cat"
