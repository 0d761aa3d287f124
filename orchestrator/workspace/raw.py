"""Files of any size over HTTP, streamed: a few hundred KiB in memory, whole or not at all on both sides."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

import msgspec

from orchestrator.client.addresses import authorized, is_loopback
from orchestrator.client.archives import load_http, refusal, unreachable
from orchestrator.workspace.places import Reached
from protocol.errors import Conflict, InvalidRequest, NotFound
from protocol.messages.files import WriteAnswer

if TYPE_CHECKING:
    import aiohttp

_CHUNK_BYTES = 256 * 1024
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 120.0
"""Without a byte: twice what the tool server waits for a client that takes nothing."""
_MAX_ERROR_BYTES = 64 * 1024
_FILES = "/v1/files/"


async def upload(reached: Reached, source: Path, path: str) -> WriteAnswer:
    """Send ``source`` as the workspace's ``path``, with its permission bits."""
    file = await asyncio.to_thread(_opened, source)
    try:
        info = os.fstat(file.fileno())
        headers = {"Content-Length": str(info.st_size), "Content-Type": "application/octet-stream"}
        query = f"?mode={info.st_mode & 0o777:03o}"
        async with _asked(reached, "PUT", path, query, _content(file, info), headers) as response:
            return msgspec.json.decode(await response.read(), type=WriteAnswer)
    finally:
        file.close()


async def download(reached: Reached, path: str, target: Path, mode: int) -> int:
    """Write the workspace's ``path`` to ``target``, by rename; makes what is missing above it. Its size."""
    async with _asked(reached, "GET", path) as response:
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
        try:
            size = await _written(response, part, mode)
            await asyncio.to_thread(part.replace, target)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return size


async def content(reached: Reached, path: str) -> bytes:
    """A file's bytes, in memory."""
    async with _asked(reached, "GET", path) as response:
        return await response.read()


def _opened(source: Path) -> IO[bytes]:
    if source.is_dir():
        raise InvalidRequest(f"{source} is a directory: upload its files, or send it whole as an archive")
    try:
        return source.open("rb", buffering=0)
    except FileNotFoundError:
        raise NotFound(f"there is no file {source} on this machine", path=str(source)) from None


async def _content(file: IO[bytes], before: os.stat_result) -> AsyncIterator[bytes]:
    """As many bytes as were promised; raises Conflict when the file becomes another one on the way."""
    left = before.st_size
    while left:
        chunk = await asyncio.to_thread(file.read, min(_CHUNK_BYTES, left))
        if not chunk:
            break
        left -= len(chunk)
        yield chunk
    if left or os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
        raise Conflict("the file changed while it was uploaded; upload it again")


async def _written(response: aiohttp.ClientResponse, part: Path, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = await asyncio.to_thread(os.open, part, flags, mode)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        size = 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            await asyncio.to_thread(_write_all, file, chunk)
            size += len(chunk)
        # Not at the opening alone: of what is asked for there, the umask takes its part.
        with suppress(PermissionError):  # by a file system that knows no bits
            await asyncio.to_thread(os.fchmod, descriptor, mode)
    return size


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


@asynccontextmanager
async def _asked(
    reached: Reached,
    method: str,
    path: str,
    query: str = "",
    body: AsyncIterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to one request; raises the tool server's error, or Unavailable."""
    await asyncio.to_thread(load_http)
    import aiohttp
    from yarl import URL

    url = URL(f"{reached.url}{_FILES}{quote(os.fsencode(path), safe='/')}{query}", encoded=True)
    clock = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    sent = {**authorized(reached.headers, reached.token), "Accept-Encoding": "identity", **(headers or {})}
    # Compressed or not is the file's own affair: bytes are taken as they come.
    session = aiohttp.ClientSession(
        timeout=clock, auto_decompress=False, trust_env=not is_loopback(reached.url)
    )
    async with session:
        try:
            async with session.request(method, url, data=body, headers=sent) as response:
                if response.status >= 400:
                    answer = await response.content.read(_MAX_ERROR_BYTES)
                    raise refusal(response.status, answer, reached.url)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error.__cause__, Conflict):
                raise error.__cause__ from None
            raise unreachable(reached.url, error) from error
