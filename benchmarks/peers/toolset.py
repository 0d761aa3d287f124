"""The agent toolset of the Anthropic SDK: no server, functions that an agent's own process calls.

They run in the Python of their environment, in a program that takes a line of JSON each and looks at the
clock itself, so that the pipe to it costs them nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.measure import Taken
from benchmarks.peers.environments import python_environment
from benchmarks.peers.piped import Pipe, piped
from benchmarks.peers.tools import MARK, SAY_MARK, Tools, expect

NAME = "Anthropic toolset, in process"
PACKAGES = ("anthropic==2.12.0",)
_DRIVER = """
import asyncio, json, os, sys, time
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401
async def main():
    context = AgentToolContext(workdir=sys.argv[1], max_file_bytes=None)
    tools = {tool.name: tool for tool in beta_agent_toolset_20260401(context)}
    loop = asyncio.get_running_loop()
    print(json.dumps({"id": 0}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        try:
            begun = time.perf_counter()
            text = await tools[asked["tool"]].call(asked["input"])
            taken = (time.perf_counter() - begun) * 1000
            text = text if isinstance(text, str) else json.dumps([str(each) for each in text])
            told = {"taken": taken, "size": len(text), "head": text[:2000], "lines": text.count("\\n")}
        except Exception as error:
            told = {"error": str(error)}
        print(json.dumps({"id": asked["id"], **told}), flush=True)
asyncio.run(main())
"""


class Toolset(Tools):
    """As functions; the times are theirs."""

    def __init__(self, root: Path, pipe: Pipe) -> None:
        super().__init__(NAME, root)
        self._pipe = pipe

    def many(self, verb: str) -> bool:
        # One question at a time: the pipe to it, not it.
        return False

    async def shell(self) -> Taken:
        return await self._call("bash", MARK, command=SAY_MARK)

    async def read(self, path: str, size: int) -> Taken:
        return await self._call("read", "", size, file_path=path)

    async def write(self, path: str, content: str) -> Taken:
        return await self._call("write", "", file_path=path, content=content)

    async def edit(self, path: str, old: str, new: str) -> Taken:
        return await self._call("edit", "", file_path=path, old_string=old, new_string=new)

    async def search(self, path: str, word: str, count: int) -> Taken:
        return await self._call("grep", word, pattern=word, path=path)

    async def names(self, path: str, part: str, count: int) -> Taken:
        return await self._call("glob", part, pattern=f"**/*{part}*", path=path)

    async def _call(self, tool: str, holds: str, size: int = 0, **given: str) -> Taken:
        answer = await self._pipe.ask({"tool": tool, "input": given})
        expect(holds in answer["head"], f"an answer without {holds!r}")
        expect(answer["size"] >= size, f"{answer['size']} characters of {size}")
        return Taken(answer["taken"])


async def install() -> Path:
    """Raises Unobtainable."""
    return await python_environment("anthropic", PACKAGES)


@asynccontextmanager
async def opened(place: Path, root: Path) -> AsyncIterator[Toolset]:
    """Its functions, ready to be called."""
    async with piped((str(place / "python"), "-c", _DRIVER, str(root)), root) as pipe:
        await pipe.ready()
        yield Toolset(root, pipe)
