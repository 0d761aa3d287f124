"""The filesystem server of the Model Context Protocol: Node, JSON-RPC over standard streams, files only."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Unobtainable, node_environment
from benchmarks.peers.piped import Pipe, piped
from benchmarks.peers.tools import Tools, expect
from orchestrator.toolchain import Toolchain, ToolchainError, find_toolchain

NAME = "MCP filesystem"
PACKAGE = "@modelcontextprotocol/server-filesystem@2026.8.31"
_HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class McpFilesystem(Tools):
    """By ``tools/call``."""

    def __init__(self, root: Path, pipe: Pipe) -> None:
        super().__init__(NAME, root, pipe.pid)
        self._pipe = pipe

    def many(self, verb: str) -> bool:
        # One question at a time: the pipe to it, not it.
        return False

    async def small(self) -> None:
        await self._pipe.ask({"jsonrpc": "2.0", "method": "ping"})

    async def read(self, path: str, size: int) -> None:
        text = await self._call("read_text_file", path)
        expect(len(text) == size, f"{len(text)} characters of {size}")

    async def write(self, path: str, content: str) -> None:
        await self._call("write_file", path, content=content)

    async def edit(self, path: str, old: str, new: str) -> None:
        await self._call("edit_file", path, edits=[{"oldText": old, "newText": new}])

    async def list(self, path: str, count: int) -> None:
        text = await self._call("list_directory_with_sizes", path)
        expect(text.count("[FILE]") == count, f"{text.count('[FILE]')} entries of {count}")

    async def names(self, path: str, part: str, count: int) -> None:
        text = await self._call("search_files", path, pattern=f"**/*{part}*")
        expect(part in text, "nothing was found")

    async def _call(self, tool: str, path: str, **more: object) -> str:
        asked = {"name": tool, "arguments": {"path": str(self.root / path), **more}}
        answer = await self._pipe.ask({"jsonrpc": "2.0", "method": "tools/call", "params": asked})
        result: dict[str, Any] = answer["result"]
        text: str = result["content"][0]["text"]
        expect(not result.get("isError"), text[:120])
        return text


async def install() -> Path:
    """Raises Unobtainable."""
    return await node_environment("mcp-filesystem", PACKAGE, str(_toolchain().npm))


@asynccontextmanager
async def opened(place: Path, root: Path) -> AsyncIterator[McpFilesystem]:
    """A server that has said hello."""
    script = place / "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
    async with piped((str(_toolchain().node), str(script), str(root)), root) as pipe:
        await pipe.ask({"jsonrpc": "2.0", "method": "initialize", "params": _HELLO})
        await pipe.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield McpFilesystem(root, pipe)


def _toolchain() -> Toolchain:
    try:
        return find_toolchain(os.environ)
    except ToolchainError as error:
        raise Unobtainable(str(error)) from None
