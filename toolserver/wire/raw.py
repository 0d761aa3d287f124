"""The raw files door: GET, HEAD, PUT and DELETE /v1/files/{path}, streamed at any size."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import web

from protocol import routes
from protocol.errors import Conflict, InvalidRequest, TooLarge
from protocol.limits import Limits
from protocol.messages.files import WriteAnswer
from toolserver.tools.admission import RAW_READ, RAW_REMOVE, RAW_WRITE
from toolserver.tools.call import Call
from toolserver.tools.ledger import Ledger
from toolserver.tools.raw import Conditions, Opened, RawFiles, byte_range, names
from toolserver.tools.watch import Mark
from toolserver.wire.archive import body_chunks, refuse_unknown_options
from toolserver.wire.http import call_of, error_response, json_response

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_SEND_BYTES = 512 * 1024
"""One turn of a worker thread; 100 MB came at the speed of aiohttp's own FileResponse or above."""
_CUT = InvalidRequest("the upload ended before the file did; send it again")
_STALL_SECONDS = 60.0
"""A client that takes nothing for so long is cut."""
_SAFE = {
    # A page out of the workspace must not run with this tool server as its origin.
    "Content-Security-Policy": "sandbox; frame-ancestors 'none'",
    "Accept-Ranges": "bytes",
    "Cache-Control": "no-cache",
}


def add_routes(
    router: web.UrlDispatcher, files: RawFiles, limits: Limits, mark: Mark, ledger: Ledger
) -> None:
    """The four methods."""
    address = routes.FILE.format(path="{path:(?s:.+)}")  # a name may hold a line feed
    router.add_get(address, get(files, ledger))  # and HEAD
    router.add_put(address, put(files, limits, mark, ledger))
    router.add_delete(address, delete(files, mark, ledger))


def get(files: RawFiles, ledger: Ledger) -> _Handler:
    """GET and HEAD, with Range, If-Range, If-None-Match and If-Match."""

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ())
        call = call_of(request)
        return await ledger.through(RAW_READ, call, lambda: _sent(request, files, call), _path(request))

    return handle


def put(files: RawFiles, limits: Limits, mark: Mark, ledger: Ledger) -> _Handler:
    """PUT ?mode=755, with If-Match and If-None-Match."""

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ("mode",))
        mode = octal(request.query.get("mode"))
        size = request.content_length or 0
        if size > limits.max_upload_bytes:
            raise TooLarge(
                f"the file has {size} bytes; the limit is {limits.max_upload_bytes}",
                limit="maxUploadBytes",
                value=limits.max_upload_bytes,
            )
        call = call_of(request)
        body = body_chunks(request, _CUT, limits, call)

        async def written() -> tuple[WriteAnswer, str]:
            with mark(call, (_path(request),)):
                return await files.write(_path(request), body, _conditions(request), mode, call)

        try:
            answer, tag = await ledger.through(RAW_WRITE, call, written, _path(request))
        except Conflict as error:
            return _precondition_failed(error, request)
        response = json_response(answer, 201 if answer.created else 200)
        response.headers["ETag"] = f'"{tag}"'
        return response

    return handle


def delete(files: RawFiles, mark: Mark, ledger: Ledger) -> _Handler:
    """DELETE, with If-Match."""

    async def handle(request: web.Request) -> web.StreamResponse:
        refuse_unknown_options(request, ())
        call = call_of(request)

        async def removed() -> None:
            with mark(call, (_path(request),)):
                await files.remove(_path(request), _conditions(request), call)

        try:
            await ledger.through(RAW_REMOVE, call, removed, _path(request))
        except Conflict as error:
            return _precondition_failed(error, request)
        return web.Response(status=204)

    return handle


def octal(text: str | None) -> int | None:
    """Permission bits as ``chmod`` takes them; raises InvalidRequest.

    >>> octal("755") == 0o755, octal(None)
    (True, None)
    """
    if text is None:
        return None
    if not (len(text) in (3, 4) and all(digit in "01234567" for digit in text) and int(text, 8) <= 0o777):
        raise InvalidRequest(f"'mode' holds permission bits as 644 or 755, not {text[:20]!r}", field="mode")
    return int(text, 8)


async def _sent(request: web.Request, files: RawFiles, call: Call) -> web.StreamResponse:
    async with files.opened(_path(request)) as file:
        conditions, tags = _conditions(request), frozenset({file.tag})
        if conditions.if_match is not None and not names(conditions.if_match, tags, weak=False):
            changed = Conflict(f"{_path(request)!r} is not the version that was asked for")
            return _precondition_failed(changed, request)
        headers = _headers(request, file)
        if conditions.if_none_match is not None and names(conditions.if_none_match, tags, weak=True):
            return web.Response(status=304, headers=headers)
        size = file.info.st_size
        try:
            wanted = byte_range(_range(request, file), size)
        except IndexError:
            return _past_the_end(request, size)
        offset, count = wanted or (0, size)
        response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
        response.content_length = count
        if wanted:
            response.headers["Content-Range"] = f"bytes {offset}-{offset + count - 1}/{size}"
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(request, response, file, offset, count, call)
        return response


async def _send(
    request: web.Request, response: web.StreamResponse, file: Opened, offset: int, count: int, call: Call
) -> None:
    """The bytes; a file that gets shorter meanwhile cuts the connection, for its length was promised."""
    try:
        while count:
            data = await _piece(file, offset, min(count, _SEND_BYTES))
            if not data:
                raise ConnectionError("the file got shorter while it was sent")
            async with asyncio.timeout(_STALL_SECONDS):
                await response.write(data)
            call.sent += len(data)
            offset, count = offset + len(data), count - len(data)
        await response.write_eof()
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise


async def _piece(file: Opened, offset: int, count: int) -> bytes:
    if file.content is not None:
        return file.read(offset, count)
    return await asyncio.to_thread(file.read, offset, count)


def _headers(request: web.Request, file: Opened) -> dict[str, str]:
    kind, encoding = mimetypes.guess_type(_path(request))
    return {
        **_SAFE,
        "Content-Type": "application/octet-stream" if kind is None or encoding else kind,
        "ETag": f'"{file.tag}"',
        "Last-Modified": formatdate(max(0.0, file.info.st_mtime), usegmt=True),
        routes.REQUEST_ID_HEADER: request["id"],
    }


def _range(request: web.Request, file: Opened) -> str | None:
    """The Range header, unless If-Range says that it is about another version."""
    version = request.headers.get("If-Range")
    return request.headers.get("Range") if version in (None, f'"{file.tag}"') else None


def _conditions(request: web.Request) -> Conditions:
    return Conditions(request.headers.get("If-Match"), request.headers.get("If-None-Match"))


def _precondition_failed(error: Conflict, request: web.Request) -> web.Response:
    response = error_response(error, request["id"])
    if "If-Match" in request.headers or "If-None-Match" in request.headers:
        response.set_status(412)
    return response


def _past_the_end(request: web.Request, size: int) -> web.Response:
    past = InvalidRequest(f"the file has {size} bytes; ask for a range within", field="Range", size=size)
    response = error_response(past, request["id"])
    response.set_status(416)
    response.headers["Content-Range"] = f"bytes */{size}"
    return response


def _path(request: web.Request) -> str:
    return request.match_info["path"]
