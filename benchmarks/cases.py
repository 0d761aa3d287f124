"""The quick cases: what a workspace is asked most, each beside its floor."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect

from benchmarks.edits import edits
from benchmarks.files import listing, raw_files, trees
from benchmarks.floors import bare_server, kept_bash, program, run
from benchmarks.measure import Act, Figure, compare
from benchmarks.processes import fresh_processes, under_load
from benchmarks.streams import streams
from orchestrator.client import Client, open_client

_KIB = 1024
Cases = AsyncIterator[list[Figure]]


async def all_cases(scratch: Path, rg: str, runs: int) -> Cases:
    """Every case's figures, one list each; ``runs`` is for the quick ones, heavy ones take fewer."""
    yield await starts(scratch, max(3, runs // 50))
    root = scratch / "app"
    async with (
        program(*bare_server()) as (bare, _),
        program(*_daemon(root)) as (url, pid),
        open_client(url) as client,
        aiohttp.ClientSession() as web,
        connect(bare.replace("http", "ws") + "/ws", compression=None, proxy=None) as echo,
    ):
        yield [memory(pid, "idle, after start")]
        await client.write(path="small.txt", content="x" * _KIB)

        async def floor_http() -> None:
            async with web.post(f"{bare}/get", data=b'{"path":"small.txt"}') as response:
                await response.read()

        async def our_http() -> None:
            async with web.post(f"{url}/v1/read", data=b'{"path":"small.txt"}') as response:
                await response.read()

        async def floor_socket() -> None:
            await echo.send(b"x" * 1200)
            await echo.recv()

        http = [("bare aiohttp handler", floor_http), ("read 1 KiB, HTTP", our_http)]
        yield await compare("small request, HTTP", http, runs)
        socket: list[tuple[str, Act]] = [
            ("bare echo", floor_socket),
            ("dev_status", client.dev_status),
            ("read 1 KiB", lambda: client.read(path="small.txt")),
            ("write 1 KiB", lambda: client.write(path="written.txt", content="x" * _KIB)),
        ]
        yield await compare("small request, WebSocket", socket, runs)
        yield await edits(client, root, runs)
        yield await fresh_processes(client, scratch, runs)
        yield await under_load(client, url, runs)
        async with kept_bash() as bash:
            kept = [
                ("bash on a pipe", lambda: bash("echo hi")),
                ("shell echo, WebSocket", lambda: client.shell(command="echo hi")),
            ]
            yield await compare("kept shell", kept, runs)
        yield await streams(client, scratch, max(3, runs // 50))
        yield await searches(client, root, rg, max(5, runs // 10))
        yield await archives(client, scratch, max(3, runs // 50))
        yield await raw_files(url, root, max(3, runs // 50))
        yield await listing(client, root, max(5, runs // 4))
        yield await trees(client, root, rg, max(5, runs // 10))
        yield [memory(pid, "idle, after the cases")]


async def starts(scratch: Path, runs: int) -> list[Figure]:
    """From the command line to an answer on /health, beside Python with aiohttp loaded."""
    root = scratch / "starting"

    async def healthy(argv: tuple[str, ...], path: str) -> None:
        async with (
            program(*argv) as (url, _),
            aiohttp.ClientSession() as web,
            web.get(f"{url}{path}") as response,
        ):
            await response.read()

    candidates: list[tuple[str, Act]] = [
        ("bare aiohttp server", lambda: healthy(bare_server(), "/")),
        ("tool server", lambda: healthy(_daemon(root), "/health")),
    ]
    return await compare("start to healthy", candidates, runs)


async def searches(client: Client, root: Path, rg: str, runs: int) -> list[Figure]:
    """One word in 1000 files."""
    for number in range(1000):
        path = root / f"tree/{number % 20}/{number}.ts"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"export const value{number} = {number};\n" * 20 + ("needle\n" if number % 100 == 0 else "")
        )
    candidates = [
        ("ripgrep", lambda: run(rg, "--no-config", "--json", "needle", cwd=root)),
        ("search", lambda: client.search(pattern="needle")),
    ]
    return await compare("search in 1000 files", candidates, runs)


async def archives(client: Client, scratch: Path, runs: int) -> list[Figure]:
    """A tree of 1000 small files in and out."""
    packed, target = scratch / "tree.tar.gz", scratch / "unpacked"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=6) as archive:
        archive.add(scratch / "app" / "tree", "tree")
    packed.write_bytes(data.getvalue())

    async def tar_in() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        await run("tar", "-xzf", str(packed), "-C", str(target))

    async def ours_out() -> None:
        async for _ in client.get_archive():
            pass

    into = [("tar xzf", tar_in), ("PUT /v1/archive", lambda: client.put_archive(data.getvalue()))]
    out = [
        ("tar czf", lambda: run("tar", "-czf", str(scratch / "out.tar.gz"), "-C", str(target), ".")),
        ("GET /v1/archive", ours_out),
    ]
    return [
        *await compare("archive in, 1000 files", into, runs),
        *await compare("archive out, 1000 files", out, runs),
    ]


def memory(pid: int, what: str) -> Figure:
    """Resident memory, in MiB where other rows have milliseconds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    mib = round(kib / 1024, 1)
    return Figure("memory, MiB", what, mib, mib, 1, 1.0)


def _daemon(root: Path) -> tuple[str, ...]:
    root.mkdir(exist_ok=True)
    return sys.executable, "-m", "toolserver", "--port", "0", "--workspace-root", str(root)


def stamp() -> str:
    """For the name of a result file."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())
