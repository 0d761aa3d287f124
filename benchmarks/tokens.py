"""``python -m benchmarks.tokens``: what it costs to believe a token, a thousand times.

The floor is the check of a static token: one digest, compared.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.measure import Figure, compare
from orchestrator.keys import KeyRing
from orchestrator.paths import PathManager
from orchestrator.tokens import Grant, mint
from protocol.tokens import Scope
from toolserver.system.token_memory import TokenMemory
from toolserver.tools.tokens import Tokens
from toolserver.wire.guard import Guard

CASE = "1000 token checks"
_CHECKS = 1000
_DISTINCT = 3000
"""More than are known at a time: asked by turns, each is verified anew."""


async def tokens(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """As a group of the whole run."""
    yield await checks(bench.scratch / "tokens", bench.scale.heavy_runs)


async def checks(scratch: Path, runs: int) -> list[Figure]:
    """A static token, a session token that is known, and session tokens that are seen for the first time."""
    ring = await asyncio.to_thread(KeyRing.open, PathManager(scratch))
    grant = Grant("s1", "ann", list(Scope), "src")
    made = [mint(ring, grant, timedelta(hours=1)).token for _ in range(_DISTINCT)]
    believer = Tokens(TokenMemory(scratch), [key.raw for key in ring.public_keys()], "s1")
    believer.load()
    static, signed = Guard("a-static-token-of-the-bench"), Guard(None, tokens=believer)
    fresh = iter(made * (runs + 2))

    async def compared() -> None:
        for _ in range(_CHECKS):
            static.admit({"Authorization": "Bearer a-static-token-of-the-bench"})

    async def known() -> None:
        for _ in range(_CHECKS):
            signed.admit({"Authorization": f"Bearer {made[0]}"})

    async def verified() -> None:
        for _ in range(_CHECKS):
            signed.admit({"Authorization": f"Bearer {next(fresh)}"})

    named = [("static token", compared), ("ours", known), ("each for the first time", verified)]
    return await compare(CASE, named, runs)


async def _main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for each in await checks(Path(scratch), 20):
            print(each.row())


if __name__ == "__main__":
    asyncio.run(_main())
