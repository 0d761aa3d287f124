"""Files: one of 100 MB over the raw door, names and contents in trees of 100 and 50 000 files, a listing."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.floors import program, run
from benchmarks.measure import Act, Figure, compare
from orchestrator.client import Client
from protocol.messages.search import PatternKind, Where

_MIB = 1024 * 1024
_LARGE = 100 * _MIB
_SERVER = """
import sys, uvloop
from aiohttp import web
async def get(request): return web.FileResponse(sys.argv[1])
async def main():
    app = web.Application(); app.router.add_get("/file", get)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0); await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    import asyncio; await asyncio.Event().wait()
uvloop.run(main())
"""


async def raw_files(url: str, root: Path, runs: int) -> list[Figure]:
    """100 MB down, beside aiohttp's own way to send a file; and up, beside the disk's own copy."""
    large = root / "large.bin"
    large.write_bytes(b"0123456789abcdef" * (_LARGE // 16))
    async with (
        program(sys.executable, "-c", _SERVER, str(large)) as (bare, _),
        aiohttp.ClientSession() as web,
    ):

        async def get(address: str) -> None:
            async with web.get(address) as response:
                async for _ in response.content.iter_any():
                    pass

        async def put() -> None:
            with large.open("rb") as file:
                async with web.put(f"{url}/v1/files/put.bin", data=file) as response:
                    await response.read()

        down: list[tuple[str, Act]] = [
            ("aiohttp FileResponse", lambda: get(f"{bare}/file")),
            ("GET /v1/files", lambda: get(f"{url}/v1/files/large.bin")),
        ]
        up: list[tuple[str, Act]] = [
            ("cp and sync", lambda: run("sh", "-c", "cp large.bin cp.bin && sync cp.bin", cwd=root)),
            ("PUT /v1/files, synced", put),
        ]
        figures = [
            *await compare("100 MB from a file", down, runs),
            *await compare("100 MB to a file", up, runs),
        ]
    for name in ("large.bin", "put.bin", "cp.bin"):
        (root / name).unlink(missing_ok=True)
    return figures


async def trees(client: Client, root: Path, rg: str, runs: int) -> list[Figure]:
    """One word, and names, in 100 files and in 50 000."""
    figures: list[Figure] = []
    for count in (100, 50_000):
        top = f"tree-{count}"
        plant(root / top, count)
        by_content: list[tuple[str, Act]] = [
            ("ripgrep", partial(run, rg, "--no-config", "--json", "needle", cwd=root / top)),
            ("search", partial(client.search, pattern="needle", path=top)),
        ]
        by_name: list[tuple[str, Act]] = [
            ("ripgrep --files", partial(run, rg, "--no-config", "--files", cwd=root / top)),
            ("names, literal", partial(_names, client, top, PatternKind.LITERAL, "file-99")),
            ("names, fuzzy", partial(_names, client, top, PatternKind.FUZZY, "fil99")),
            ("names, regex", partial(_names, client, top, PatternKind.REGEX, r"9\d9\.ts$")),
        ]
        figures += await compare(f"a word in {count} files", by_content, runs)
        figures += await compare(f"names of {count} files", by_name, runs)
    return figures


async def listing(client: Client, root: Path, runs: int) -> list[Figure]:
    """1000 entries with size, mode and times."""
    directory = root / "listed"
    directory.mkdir(exist_ok=True)
    for number in range(1000):
        (directory / f"{number}").touch()
    candidates: list[tuple[str, Act]] = [
        ("ls -l", lambda: run("ls", "-l", cwd=directory)),
        ("list", lambda: client.list(path="listed")),
    ]
    return await compare("list 1000 entries", candidates, runs)


def plant(top: Path, count: int) -> None:
    """Small sources, a hundred to a directory; one in a hundred holds the word."""
    for number in range(count):
        path = top / f"{number // 1000}" / f"{number // 100}" / f"file-{number}.ts"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"export const value{number} = {number};\n" * 10 + ("needle\n" if not number % 100 else "")
        )


async def _names(client: Client, top: str, kind: PatternKind, pattern: str) -> object:
    return await client.search(in_=Where.NAMES, kind=kind, pattern=pattern, path=top)
