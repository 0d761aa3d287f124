"""The HTTP door: one request, one answer, or a stream of events when ``Accept`` asks for one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from protocol import routes
from protocol.codec import StreamFrame, encode
from protocol.errors import Forbidden, Internal, InvalidRequest, NotFound, TooLarge, ToolError, Unauthorized
from protocol.export.schema import ErrorAnswer
from protocol.limits import Limits
from protocol.messages.base import Event, Request
from protocol.operations import Operation
from toolserver.system.shares import Share, Shares
from toolserver.tools.admission import Admission
from toolserver.tools.call import Call, Dispatcher, Emit, find_operation, read_request
from toolserver.tools.editing.aliases import spelled
from toolserver.tools.ledger import Ledger, failed
from toolserver.tools.presence import Presence
from toolserver.tools.tokens import KeysWanted
from toolserver.wire.bodies import pieces
from toolserver.wire.browsers import preflight_answer
from toolserver.wire.guard import Guard

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_ROUTES = frozenset((routes.HEALTH, routes.READY))
"""Answered without a token."""

_KEEPALIVE_SECONDS = 20.0
"""A stream that is silent for so long gets a line that means nothing: proxies cut what is silent for 60 s."""

_NDJSON, SSE = "application/x-ndjson", "text/event-stream"

PRESENCE = web.AppKey("presence", Presence)
T = TypeVar("T")

log = logging.getLogger("toolserver.http")


def middleware(guard: Guard, ledger: Ledger, limits: Limits = Limits()) -> Any:
    """Request id in, guard, errors as bodies out. Headers that every answer has: ``answering``."""
    shares = Shares(_share(limits.max_sockets))

    async def within_share(request: web.Request, handler: _Next, who: str) -> web.StreamResponse:
        """A connection has one request at a time, a WebSocket's until it closes."""
        shares.refuse(who)
        shares.take(who)
        try:
            return await handler(request)
        finally:
            shares.give_back(who)

    @web.middleware
    async def handle(request: web.Request, handler: _Next) -> web.StreamResponse:
        request["id"] = _request_id(request)
        try:
            if (preflight := preflight_answer(guard, request)) is not None:
                return preflight
            if request.path not in OPEN_ROUTES:
                admission = request["admission"] = await _admission(request, guard, ledger)
                response = await within_share(request, handler, admission.who)
            else:
                response = await handler(request)
        except ToolError as error:
            ledger.hit(error)
            return error_response(error, request["id"])
        except web.HTTPException as error:
            return _refusal_of_aiohttp(error, request)
        except Exception:
            return error_response(failed(request.path, request["id"]), request["id"])
        if not response.prepared:
            response.headers[routes.REQUEST_ID_HEADER] = request["id"]
        return response

    return handle


def _share(value: int) -> Share:
    told = f"{value} connections of this user are at work, which is the limit; close some, or wait for one"
    return Share("maxSockets", value, told)


async def _admission(request: web.Request, guard: Guard, ledger: Ledger) -> Admission:
    try:
        try:
            return await _admitted(guard, request)
        except KeysWanted:
            await guard.load_keys()
            return await _admitted(guard, request)
    except ToolError as error:
        # By its pattern: what stands in the address may be a name, or a secret put there by mistake.
        resource = request.match_info.route.resource
        address = resource.canonical if resource is not None else "unknown"
        ledger.refused(address, error, request["id"], peer=request.remote)
        raise


async def _admitted(guard: Guard, request: web.Request) -> Admission:
    ticket = request.query.get(routes.TICKET_OPTION)
    if ticket is None:
        return guard.admit(request.headers)
    options = [(name, value) for name, value in request.query.items() if name != routes.TICKET_OPTION]
    if len(dict(options)) + 1 != len(request.query):
        raise Forbidden("a signed address has each option once")
    guard.refuse_foreign(request.headers)
    return await guard.redeem(ticket, request.method, request.path, dict(options))


def operation_handler(dispatcher: Dispatcher, limits: Limits = Limits()) -> _Next:
    """POST /v1/{operation}."""

    async def asked(request: web.Request) -> tuple[Operation, Request, bytes]:
        try:
            operation = find_operation(request.match_info["operation"])
            body = await body_of(request, limits)
            return operation, read_request(operation, spelled(operation.name, body), "json"), body
        except ToolError:
            # What starts nothing counts as what does.
            dispatcher.ledger.charge(request["admission"], time.monotonic())
            raise

    async def handle(request: web.Request) -> web.StreamResponse:
        operation, params, body = await asked(request)
        kind = stream_kind(request.headers.get("Accept", "")) if operation.streams else None
        if kind is not None:
            return await stream_answer(
                request, kind, lambda call: dispatcher.run(operation, params, call), len(body)
            )
        call = _http_call(request)
        call.received = len(body)
        answer = dispatcher.at_once(operation, params, call)
        if answer is None:
            answer = await dispatcher.run(operation, params, call)
        response = json_response(answer)
        call.sent = response.content_length or 0
        return response

    return handle


def stream_kind(accept: str) -> str | None:
    """The stream that a client asks for, if it does.

    >>> stream_kind("application/json"), stream_kind("application/x-ndjson, */*")
    (None, 'application/x-ndjson')
    """
    return next((kind for kind in (_NDJSON, SSE) if kind in accept), None)


def json_response(answer: Any, status: int = 200) -> web.Response:
    """``answer`` as JSON, on a line of its own for whoever reads it in a terminal."""
    return web.Response(body=encode(answer) + b"\n", status=status, content_type="application/json")


def error_response(error: ToolError, request_id: str) -> web.Response:
    """The error's status and body."""
    response = json_response(ErrorAnswer(error.body(request_id)), error.status)
    response.headers[routes.REQUEST_ID_HEADER] = request_id
    if (wait_ms := error.details.get("retryAfterMs")) is not None:
        response.headers["Retry-After"] = str(math.ceil(wait_ms / 1000))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def until_over(request: web.Request, work: Awaitable[T]) -> T:
    """``work``, for as long as the token of ``request`` is good; then it is cancelled, and this raises.

    For streams: one that follows what happens may go on for ever.
    """
    reasons: list[str] = []
    task = asyncio.current_task()
    assert task is not None

    def end(reason: str) -> None:
        # Once: a second cancellation would cut off what the first has begun, such as to end a command.
        if not reasons:
            task.cancel()
        reasons.append(reason)

    with request.app[PRESENCE].stay(request["admission"], end):
        try:
            return await work
        except asyncio.CancelledError:
            if not reasons:
                raise
            task.uncancel()
            raise Unauthorized(reasons[0]) from None


async def stream_answer(
    request: web.Request, kind: str, run: Callable[[Call], Awaitable[Any]], received: int
) -> web.StreamResponse:
    """Events as they come and the answer, or the error, last; ``kind`` is one that ``stream_kind`` gives."""
    response = await open_stream(request, kind)

    sent = 0

    def put(frame: StreamFrame) -> bytes:
        nonlocal sent
        data = encode(frame)
        data = data + b"\n" if kind == _NDJSON else b"data: " + data + b"\n\n"
        sent += len(data)
        return data

    async def emit(event: Event) -> None:
        # A client that is gone is told by aiohttp, which cancels this handler: no second error for it here.
        with contextlib.suppress(ConnectionError):
            await response.write(put(StreamFrame(event=event)))

    call = _http_call(request, emit)
    call.received = received
    alive = asyncio.create_task(keep_alive(response, b"\n" if kind == _NDJSON else b":\n\n"))
    with contextlib.suppress(ConnectionError):
        try:
            last = StreamFrame(result=await until_over(request, run(call)))
        except ToolError as error:
            last = StreamFrame(error=error.body(request["id"]))
        finally:
            alive.cancel()
        data = put(last)
        # Here and not in ``put``: an ``emit`` that held its own call would keep both, and the request, until
        # the collector of garbage comes by.
        call.sent = sent
        await response.write(data)
        await response.write_eof()
    return response


async def open_stream(request: web.Request, kind: str) -> web.StreamResponse:
    """The beginning of an answer that comes piece by piece, past proxies that like to wait for the end."""
    headers = {"Content-Type": kind, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers | {routes.REQUEST_ID_HEADER: request["id"]})
    await response.prepare(request)
    return response


async def keep_alive(response: web.StreamResponse, nothing: bytes) -> None:
    """Send ``nothing``, an empty line or a comment of SSE, now and then; no frame is ever cut by it."""
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(_KEEPALIVE_SECONDS)
            await response.write(nothing)


def call_of(request: web.Request, emit: Emit | None = None) -> Call:
    """What a handler is to know of who sent ``request``."""
    return Call(request["id"], emit, request["admission"])


def _http_call(request: web.Request, emit: Emit | None = None) -> Call:
    """Over HTTP nobody can ask for an end: a cancellation means a client that is gone. A command goes on."""
    call = call_of(request, emit)
    call.abandoned = True
    return call


async def body_of(request: web.Request, limits: Limits) -> bytes:
    """All of the request's body; raises TooLarge, InvalidRequest, Timeout."""
    # Before a byte of it is awaited: what is announced too large is refused, not waited for.
    if (request.content_length or 0) > request.client_max_size:
        raise _too_large(request)
    try:
        if request.content.is_eof():
            return await request.read()
        body = bytearray()
        async for piece in pieces(request, limits):
            body += piece
            if len(body) > request.client_max_size:
                raise _too_large(request)
        return bytes(body)
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(request) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise InvalidRequest(f"the body could not be read whole: {error}") from None


def _too_large(request: web.Request) -> TooLarge:
    limit = request.client_max_size
    return TooLarge(
        f"a request's body has at most {limit} bytes; archives go to PUT {routes.ARCHIVE}",
        limit="maxFrameBytes",
        value=limit,
    )


def _refusal_of_aiohttp(error: web.HTTPException, request: web.Request) -> web.Response:
    response = error_response(_of_aiohttp(error, request), request["id"])
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.set_status(405)
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _of_aiohttp(error: web.HTTPException, request: web.Request) -> ToolError:
    if error.status == 413:
        return _too_large(request)
    if isinstance(error, web.HTTPMethodNotAllowed):
        taken = ", ".join(sorted(error.allowed_methods))
        return InvalidRequest(
            f"{request.path[:200]} does not take {request.method}; it takes {taken}", method=request.method
        )
    if error.status == 404:
        return NotFound(
            f"there is nothing at {request.path[:200]}; see {routes.OPENAPI}", path=request.path[:200]
        )
    if error.status < 500:
        return InvalidRequest(error.reason)
    return Internal(error.reason)


def _request_id(request: web.Request) -> str:
    given = request.headers.get(routes.REQUEST_ID_HEADER, "")
    return (
        given
        if 0 < len(given) <= 128 and given.isascii() and given.isprintable()
        else f"r{secrets.token_hex(8)}"
    )
