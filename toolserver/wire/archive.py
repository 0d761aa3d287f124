"""The raw archive door: PUT takes a tree in, GET gives it out, both streamed at any size.

What a save held is asked for afterwards, as its manifest: trailers would come in one request, and most
clients drop them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from protocol import routes
from protocol.errors import ArchiveInvalid, InvalidRequest, TooLarge, ToolError
from protocol.limits import Limits
from protocol.messages.archives import ArchiveFormat, InjectAnswer, InjectMode, Save, Times
from protocol.paths import ROOT
from toolserver.tools.admission import ARCHIVE_IN, ARCHIVE_MANIFEST, ARCHIVE_OUT
from toolserver.tools.archives import Archives
from toolserver.tools.call import Call
from toolserver.tools.ledger import Ledger
from toolserver.tools.watch import Mark
from toolserver.wire.bodies import pieces
from toolserver.wire.digests import held_to, wanted_digests
from toolserver.wire.http import call_of, json_response, stream_answer, stream_kind

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_READ_BYTES = 512 * 1024
"""One turn of a worker thread; smaller ones cost more in hand-overs than in unpacking."""
_READ_SECONDS = 0.2
"""What came in this time is handed on, however little: from a slow sender too, progress is to be seen."""
_TYPES = {
    ArchiveFormat.GZIP: ("application/gzip", "tar.gz"),
    ArchiveFormat.ZSTD: ("application/zstd", "tar.zst"),
    ArchiveFormat.TAR: ("application/x-tar", "tar"),
}
_STALL_SECONDS = 60.0
"""A client that takes nothing for so long is cut: while a save is read, nothing can be injected."""
_CUT = ArchiveInvalid("the upload ended before the archive did")
_Choice = TypeVar("_Choice", bound=enum.Enum)


def put(archives: Archives, limits: Limits, mark: Mark, ledger: Ledger) -> _Handler:
    """PUT /v1/archive?mode=replace|merge|delta&digest=sha256:…, with Content-Digest if need be.

    Asked for a stream (NDJSON, SSE), it tells how far the unpacking is while the archive comes.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ("mode", "digest"))
        mode = option(request, "mode", InjectMode.REPLACE)
        if (request.content_length or 0) > limits.max_archive_bytes:
            raise TooLarge(
                f"the archive has {request.content_length} bytes; the limit is {limits.max_archive_bytes}",
                limit="maxArchiveBytes",
                value=limits.max_archive_bytes,
            )
        digest = request.query.get("digest")
        wanted = wanted_digests(request.headers)

        async def run(call: Call) -> InjectAnswer:
            chunks = body_chunks(request, _CUT, limits, call)

            async def injected() -> InjectAnswer:
                with mark(call, (ROOT,)):
                    return await archives.inject_stream(held_to(chunks, wanted), mode, digest, call)

            return await ledger.through(ARCHIVE_IN, call, injected)

        if kind := stream_kind(request.headers.get("Accept", "")):
            return await stream_answer(request, kind, run, 0)
        return json_response(await run(call_of(request)))

    return handle


def get(archives: Archives, ledger: Ledger) -> _Handler:
    """GET /v1/archive?format=gzip|zstd|tar&exclude=…&include=…&times=kept|fixed&since=sha256:…"""

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ("format", "exclude", "include", "times", "since"))
        form = option(request, "format", ArchiveFormat.GZIP)
        save = Save(
            format=form,
            exclude=request.query.getall("exclude", []),
            include=request.query.getall("include", []),
            times=option(request, "times", Times.KEPT) if "times" in request.query else None,
            since=request.query.get("since"),
        )
        call = call_of(request)
        return await ledger.through(ARCHIVE_OUT, call, lambda: _sent(request, archives, save, call))

    return handle


def manifest(archives: Archives, ledger: Ledger) -> _Handler:
    """GET /v1/archive/manifest?digest=sha256:…: lines of JSON, of the newest save when none is named."""

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ("digest",))
        lines = archives.manifest(request.query.get("digest"))
        headers = {"Content-Type": "application/x-ndjson"}
        call = call_of(request)
        return await ledger.through(ARCHIVE_MANIFEST, call, lambda: _streamed(request, lines, headers, call))

    return handle


def _sent(request: web.Request, archives: Archives, save: Save, call: Call) -> Awaitable[web.StreamResponse]:
    kind, suffix = _TYPES[save.format]
    disposition = f'attachment; filename="workspace.{suffix}"'
    headers = {"Content-Type": kind, "Content-Disposition": disposition}
    return _streamed(request, archives.packed(save), headers, call)


async def _streamed(
    request: web.Request, content: AsyncGenerator[bytes], headers: dict[str, str], call: Call
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={**headers, "Cache-Control": "no-store", routes.REQUEST_ID_HEADER: request["id"]}
    )
    try:
        async with contextlib.aclosing(content) as chunks:
            async for chunk in chunks:
                # The first chunk comes before the headers: what fails at once is told as an error.
                if not response.prepared:
                    await response.prepare(request)
                async with asyncio.timeout(_STALL_SECONDS):
                    await response.write(chunk)
                call.sent += len(chunk)
        await response.write_eof()
    except BaseException:
        # Half an archive must not look whole: the connection is cut instead of ended.
        if response.prepared and request.transport is not None:
            request.transport.abort()
        raise
    return response


def option(request: web.Request, name: str, default: _Choice) -> _Choice:
    """One of a query parameter's values; raises InvalidRequest naming them."""
    text = request.query.get(name, default.value)
    try:
        return type(default)(text)
    except ValueError:
        known = ", ".join(each.value for each in type(default))
        raise InvalidRequest(f"{name!r} is one of {known}, not {text[:50]!r}", field=name) from None


def refuse_unknown_options(request: web.Request, known: tuple[str, ...]) -> None:
    """A misspelt option must not pass in silence."""
    for name in request.query:
        if name not in (*known, routes.TICKET_OPTION):
            raise InvalidRequest(
                f"unknown option {name[:50]!r}; known are {', '.join(known)}", field=name[:50]
            )


async def body_chunks(
    request: web.Request, cut: ToolError, limits: Limits, call: Call
) -> AsyncGenerator[bytes]:
    """The body in pieces of a useful size; raises ``cut`` when it breaks off, Timeout when it stalls."""
    clock = asyncio.get_running_loop().time
    request.content.set_read_chunk_size(_READ_BYTES)
    parts: list[bytes] = []
    size, begun = 0, clock()
    try:
        async for chunk in pieces(request, limits):
            parts.append(chunk)
            call.received += len(chunk)
            size += len(chunk)
            if size >= _READ_BYTES or clock() - begun > _READ_SECONDS:
                yield b"".join(parts)
                parts, size, begun = [], 0, clock()
    except (web.RequestPayloadError, ConnectionError) as error:
        raise type(cut)(f"{cut.message}: {error}") from None
    if parts:
        yield b"".join(parts)
