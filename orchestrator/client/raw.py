"""Single files over HTTP, streamed: bytes as they are, of any size, by ``/v1/files/{path}``."""

from __future__ import annotations

import io
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from urllib.parse import quote

import msgspec

from orchestrator.client.archives import http_session, raise_for, unreachable
from orchestrator.client.connection import not_understood
from protocol import routes
from protocol.messages.files import WriteAnswer


def file_url(base_url: str, path: str) -> str:
    """The address of a file; what is special in a URL is escaped.

    >>> file_url("http://h", "a b/c#1")
    'http://h/v1/files/a%20b/c%231'
    """
    return base_url + routes.FILE.format(path=quote(path))


async def put_file(
    base_url: str,
    headers: Mapping[str, str],
    path: str,
    chunks: AsyncIterable[bytes] | bytes,
    mode: int | None,
    conditions: Mapping[str, str],
) -> WriteAnswer:
    """Write one file, whole or not at all; ``mode`` is its permission bits. Raises what it says."""
    import aiohttp
    from yarl import URL

    body_sent = io.BytesIO(chunks) if isinstance(chunks, bytes) else chunks
    query = {} if mode is None else {"mode": f"{mode:o}".zfill(3)}
    url = URL(file_url(base_url, path), encoded=True).with_query(query)
    async with http_session(base_url, headers) as session:
        try:
            async with session.put(url, data=body_sent, headers=conditions) as response:
                await raise_for(response, base_url)
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(base_url, error) from error
    try:
        return msgspec.json.decode(body, type=WriteAnswer)
    except msgspec.DecodeError as error:
        raise not_understood(base_url, error) from None


async def get_file(base_url: str, headers: Mapping[str, str], path: str) -> AsyncIterator[bytes]:
    """One file's bytes as they come. Raises, never ends silently, when it was cut short."""
    import aiohttp
    from yarl import URL

    async with http_session(base_url, headers) as session:
        try:
            async with session.get(URL(file_url(base_url, path), encoded=True)) as response:
                await raise_for(response, base_url)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(base_url, error) from error
