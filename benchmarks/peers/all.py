"""The peers of a run: installed, started side by side, and what became of those that were not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import reason
from benchmarks.peers import agent_server, jupyter, mcp_filesystem, swerex, toolset
from benchmarks.peers.tools import Tools

OPEN_SECONDS = 120.0


@dataclass(frozen=True)
class Peer:
    """How one is had and started."""

    name: str
    release: str
    install: Callable[[], Awaitable[Path]]
    opened: Callable[[Path, Path], AbstractAsyncContextManager[Tools]]


PEERS = (
    Peer(swerex.NAME, swerex.PACKAGES[0], swerex.install, swerex.opened),
    Peer(jupyter.NAME, jupyter.PACKAGES[0], jupyter.install, jupyter.opened),
    Peer(mcp_filesystem.NAME, mcp_filesystem.PACKAGE, mcp_filesystem.install, mcp_filesystem.opened),
    Peer(toolset.NAME, toolset.PACKAGES[0], toolset.install, toolset.opened),
    # Last: where time is short, its start takes that of all others.
    Peer(agent_server.NAME, agent_server.PACKAGES[0], agent_server.install, agent_server.opened),
)


@dataclass
class Field:
    """Those that can be had here, with their directories, and why the others cannot."""

    places: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> list[Peer]:
        """Those with a place."""
        return [each for each in PEERS if each.name in self.places]

    @asynccontextmanager
    async def running(self, root: Path) -> AsyncIterator[list[Tools]]:
        """All that start, on one root; one that does not is absent from now on."""
        async with AsyncExitStack() as stack:
            tools = []
            for each in self.peers:
                try:
                    async with asyncio.timeout(OPEN_SECONDS):
                        tools.append(
                            await stack.enter_async_context(each.opened(self.places[each.name], root))
                        )
                except Exception as error:  # a peer's failure is a line in the report
                    self.absent[each.name] = f"it does not start: {reason(error)}"
                    del self.places[each.name]
            yield tools


async def gather(wanted: bool) -> Field:
    """Install what can be installed, one after the other; none unless ``wanted``."""
    found = Field()
    for each in PEERS:
        if not wanted:
            found.absent[each.name] = "left out by --no-peers"
            continue
        try:
            found.places[each.name] = await each.install()
        except Exception as error:  # no registry, no compiler, no such Python: a line in the report
            found.absent[each.name] = reason(error)
    return found
