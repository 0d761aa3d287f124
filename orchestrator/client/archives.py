"""Archives over HTTP, streamed: a tree of any size in, a tree of any size out.

A frame holds 16 MiB; an archive may hold gigabytes. So these two go by ``PUT`` and ``GET /v1/archive``.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from orchestrator.client.addresses import is_loopback
from orchestrator.client.connection import not_understood
from protocol import routes
from protocol.errors import ErrorBody, ToolError, Unavailable, from_body
from protocol.messages.archives import InjectAnswer, InjectMode, ManifestEntry, ManifestHead, Save

if TYPE_CHECKING:
    import aiohttp

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 600.0
"""Without a byte from the tool server: it says nothing while it unpacks, 8 GiB at 20 MB/s at worst."""
_MAX_ERROR_BYTES = 64 * 1024


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: ErrorBody


def load_http() -> None:
    """Import what HTTP needs, beforehand. Blocks for a quarter of a second."""
    import aiohttp  # noqa: F401


async def put_archive(
    base_url: str,
    headers: Mapping[str, str],
    chunks: AsyncIterable[bytes] | bytes,
    mode: InjectMode,
    digest: str | None,
) -> InjectAnswer:
    """Send an archive; it is in place whole, or the tree is as it was and this raises."""
    import aiohttp

    # aiohttp writes plain bytes in one go, which would hold up every other task of this loop.
    body_sent = io.BytesIO(chunks) if isinstance(chunks, bytes) else chunks
    query = {"mode": mode.value} | ({"digest": digest} if digest else {})
    url = base_url + routes.ARCHIVE
    async with http_session(base_url, headers) as session:
        try:
            async with session.put(url, params=query, data=body_sent) as response:
                await raise_for(response, base_url)
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(base_url, error) from error
    try:
        return msgspec.json.decode(body, type=InjectAnswer)
    except msgspec.DecodeError as error:
        raise not_understood(base_url, error) from None


async def get_archive(base_url: str, headers: Mapping[str, str], save: Save) -> AsyncIterator[bytes]:
    """The workspace's content as it comes. Raises, never ends silently, when it was cut short."""
    import aiohttp

    query = [("format", save.format.value)]
    query += [("exclude", name) for name in save.exclude] + [("include", name) for name in save.include]
    query += [("times", save.times.value)] if save.times else []
    query += [("since", save.since)] if save.since else []

    async with http_session(base_url, headers) as session:
        try:
            async with session.get(base_url + routes.ARCHIVE, params=query) as response:
                await raise_for(response, base_url)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(base_url, error) from error


async def get_manifest(
    base_url: str, headers: Mapping[str, str], digest: str | None
) -> tuple[ManifestHead, list[ManifestEntry]]:
    """What a save held, by its digest; the newest save of the tool server when none is named."""
    import aiohttp

    query = {"digest": digest} if digest else {}
    async with http_session(base_url, headers) as session:
        try:
            async with session.get(base_url + routes.MANIFEST, params=query) as response:
                await raise_for(response, base_url)
                head, *lines = (await response.read()).splitlines()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(base_url, error) from error
    try:
        entries = [msgspec.json.decode(line, type=ManifestEntry) for line in lines]
        return msgspec.json.decode(head, type=ManifestHead), entries
    except msgspec.DecodeError as error:
        raise not_understood(base_url, error) from None


def http_session(base_url: str, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """For streams of any length: no clock but for silence."""
    # aiohttp is imported here and not above: it costs a third of a second, and most commands send no archive.
    import aiohttp

    clock = aiohttp.ClientTimeout(
        total=None, connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
    )
    # An archive arrives as it was packed; nobody in between is to unpack or pack it again.
    return aiohttp.ClientSession(
        headers={**headers, "Accept-Encoding": "identity"},
        timeout=clock,
        auto_decompress=False,
        trust_env=not is_loopback(base_url),
    )


async def raise_for(response: aiohttp.ClientResponse, base_url: str) -> None:
    """Raise what an answer of 400 or more says."""
    if response.status < 400:
        return
    raise refusal(response.status, await response.content.read(_MAX_ERROR_BYTES), base_url)


def refusal(status: int, body: bytes, base_url: str) -> ToolError:
    """What an HTTP answer of 400 or more says: the tool server's own error, or that somebody else answered.

    >>> refusal(502, b"<html>", "http://h")
    Unavailable('http://h answered 502, and not as a tool server does; is a proxy in between?')
    """
    try:
        return from_body(msgspec.json.decode(body, type=_ErrorAnswer).error)
    except msgspec.DecodeError:
        message = f"{base_url} answered {status}, and not as a tool server does; is a proxy in between?"
        return Unavailable(message, url=base_url, status=status)


def unreachable(base_url: str, error: Exception) -> ToolError:
    """The tool server was not there, or went away."""
    reason = str(error) or type(error).__name__
    return Unavailable(f"the tool server at {base_url} could not be reached: {reason}", url=base_url)
