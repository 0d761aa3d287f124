"""The WebSocket door: all operations, many at once, over one ``Conversation``."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web
from aiohttp.http import WSCloseCode, WSMsgType

from protocol import __version__
from protocol.codec import Format
from protocol.errors import Cancelled, RateLimited, ToolError
from protocol.limits import Limits
from protocol.messages.base import Answer, Event
from protocol.routes import CLOSE_UNAUTHORIZED, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, VERSION_HEADER
from toolserver.session import RENEW, CancelRun, Conversation, Renew, Run, Send
from toolserver.tools.access import Access, renewal_answer
from toolserver.tools.call import Call, Dispatcher
from toolserver.tools.ledger import failed
from toolserver.tools.presence import Stay
from toolserver.wire.heartbeat import Heartbeat
from toolserver.wire.outgoing import Outgoing

_HEARTBEAT_SECONDS = 20.0
"""A ping this often keeps proxies (60 s is a common idle limit) from cutting a silent command."""

_CLOSE_SECONDS = 5.0
"""For the client to take that its token is over; then it is cut off."""

_STOP_SECONDS = 1.0
"""The same where the daemon stops: who reads nothing would hold up its end, and that of the commands."""

_ANSWERS_PER_TURN = 32
"""Given at once, one after the other, to a client that asks without waiting; then the others' turn: two
milliseconds or so."""


class WebSocketDoor:
    """GET /v1/ws. Knows its open sockets, so that a stop can close them in order."""

    def __init__(self, dispatcher: Dispatcher, access: Access, limits: Limits) -> None:
        self._dispatcher = dispatcher
        self._access = access
        self._limits = limits
        self._open: dict[web.WebSocketResponse, web.Request] = {}

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Speak until the client, or the daemon, closes."""
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON),
            max_msg_size=self._limits.max_frame_bytes,
            autoping=False,
            compress=False,
            decode_text=False,
        )
        socket.headers[VERSION_HEADER] = __version__
        await socket.prepare(request)
        form: Format = "msgpack" if socket.ws_protocol == SUBPROTOCOL_MSGPACK else "json"
        self._open[socket] = request
        try:
            await _Peer(socket, request, form, self._dispatcher, self._access, self._limits).speak()
        finally:
            self._open.pop(socket, None)
        return socket

    async def close(self, _: web.Application) -> None:
        """Tell every client that the daemon goes away."""
        await asyncio.gather(
            *(
                _close(socket, request, WSCloseCode.GOING_AWAY, "the tool server stops", _STOP_SECONDS)
                for socket, request in list(self._open.items())
            ),
            return_exceptions=True,
        )


async def _close(
    socket: web.WebSocketResponse, request: web.Request, code: int, reason: str, seconds: float
) -> None:
    """Say why; who does not take that within so many seconds is cut off."""
    try:
        async with asyncio.timeout(seconds):
            await socket.close(code=code, message=reason.encode())
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()


class _Peer:
    """One socket: a reader, a writer (``outgoing``), and a task per request."""

    _stay: Stay
    """By which token it is open, once it speaks."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        form: Format,
        dispatcher: Dispatcher,
        access: Access,
        limits: Limits,
    ) -> None:
        self._socket = socket
        self._request = request
        self._binary = form == "msgpack"
        self._dispatcher = dispatcher
        self._access = access
        self._closing: asyncio.Task[None] | None = None
        self._conversation = Conversation(form, limits.max_in_flight, dispatcher.ledger.hit)
        self._outgoing = Outgoing(socket, request, self._binary, limits.max_queued_frames)
        self._bulky = asyncio.Semaphore(limits.max_bulky_answers)
        self._running: dict[str, tuple[asyncio.Task[None], Call]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        """Have the last frame of a request, and wait for room to send it."""
        self._answered = 0
        self._heartbeat = Heartbeat(socket, request, _HEARTBEAT_SECONDS)

    async def speak(self) -> None:
        """Until the socket closes, or its token ends; then requests lose their caller, not their commands."""
        with self._access.presence.stay(self._request["admission"], self._end) as self._stay:
            await self._speak()

    def _end(self, reason: str) -> None:
        """The token is no longer good: close the socket, and say why."""
        self._closing = self._closing or asyncio.create_task(
            _close(self._socket, self._request, CLOSE_UNAUTHORIZED, reason, _CLOSE_SECONDS)
        )

    async def _speak(self) -> None:
        writer = asyncio.create_task(self._outgoing.write())
        try:
            with self._heartbeat.beating():
                await self._listen()
        finally:
            # All are cancelled before anything is awaited: aiohttp may cancel us here, while we wait.
            writer.cancel()
            closing = [self._closing] if self._closing is not None else []
            await asyncio.gather(writer, *closing, *self._abandon(), return_exceptions=True)

    async def _listen(self) -> None:
        async for message in self._socket:
            self._heartbeat.heard = True
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._take(message.data)
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                if message.type is WSMsgType.PING:
                    await self._socket.pong(message.data)
                await self._within_rate()
            else:
                break
            if self._request.transport is None:
                break  # nobody is there any more for what is still to be read

    async def _take(self, data: Any) -> None:
        decision = self._conversation.receive(data)
        match decision:
            case Send(refusal, id):
                await self._outgoing.send(self._beyond_rate(id) or refusal)
                await self._others_turn()
            case CancelRun(id):
                await self._cancel(id)
            case Renew(id, token):
                await self._outgoing.send(self._renewed(id, token))
            case Run():
                await self._run(decision, len(data))
            case None:
                await self._within_rate()

    async def _run(self, run: Run, size: int) -> None:
        """By a task; but for what needs no wait at all, while the socket has room."""
        call = self._call(run.id, run.stream)
        call.received = size
        answer = (
            self._dispatcher.at_once(run.operation, run.request, call) if self._outgoing.has_room() else None
        )
        if answer is None:
            self._running[run.id] = asyncio.create_task(self._answer(run, call)), call
            return
        self._outgoing.send_now(self._result(run, answer, call))
        await self._others_turn()

    async def _others_turn(self) -> None:
        self._answered += 1
        if self._answered % _ANSWERS_PER_TURN == 0:
            await asyncio.sleep(0)

    async def _cancel(self, id: str) -> None:
        # A task cancelled before its first step would end without a reply: let it begin.
        await asyncio.sleep(0)
        task = self._running[id][0] if id in self._running else None
        if task is None or task.cancelling():
            # Once is enough: a second time would end what the first has begun, such as to wait for the end.
            await self._within_rate()
        else:
            task.cancel()

    def _beyond_rate(self, id: str) -> bytes | None:
        """What is told instead of a refusal to who has many: a frame that starts nothing counts as one that
        does."""
        ledger = self._dispatcher.ledger
        try:
            ledger.charge(self._stay.admission, time.monotonic())
        except RateLimited as error:
            ledger.hit(error)
            return self._conversation.error(id, error)
        return None

    async def _within_rate(self) -> None:
        """After a frame that gets no answer. It counts as one that does; nobody could be told, so who sends
        too many is read only as quickly as the rate has it."""
        ledger = self._dispatcher.ledger
        try:
            ledger.charge(self._stay.admission, time.monotonic())
        except RateLimited as error:
            ledger.hit(error)
            await asyncio.sleep(error.details["retryAfterMs"] / 1000)
        await self._others_turn()

    def _renewed(self, id: str, token: str) -> bytes:
        ledger, begun, before = self._dispatcher.ledger, time.monotonic(), self._stay.admission
        try:
            # A signature costs as much as a small request, and a wrong one is a guess like any other.
            ledger.admit(Call(id, None, before), begun)
            admission = self._access.renewed(before, token)
        except ToolError as error:
            ledger.refused(RENEW, error, id, before.who)
            return self._conversation.error(id, error)
        self._stay.renew(admission)
        ledger.note_soon(RENEW, Call(id, None, admission), "ok", begun, None)
        return self._conversation.result(id, renewal_answer(admission))

    def _call(self, id: str, stream: bool) -> Call:
        # It holds neither its call nor the request: a circle of those, with all the content that came, would
        # stay until the collector of garbage comes by.
        if not stream:
            return Call(id, None, self._stay.admission)

        async def emit(event: Event) -> None:
            frame = self._conversation.event(id, event)
            if id in self._running:
                self._running[id][1].sent += len(frame)
            await self._outgoing.send(frame)

        async def pour(event: Event, data: bytes) -> None:
            head = self._conversation.opened(id, event, len(data))
            if id in self._running:
                self._running[id][1].sent += len(head) + len(data)
            await self._outgoing.send_parts(head, data)

        call = Call(id, emit, self._stay.admission)
        call.pour = pour if self._binary else None
        return call

    async def _answer(self, run: Run, call: Call) -> None:
        # Until it is taken: a client that asks and never reads would else have us hold all it asked for.
        if not run.operation.bulky:
            await self._tell(await self._last_frame(run, call))
            return
        async with AsyncExitStack() as turn:
            await self._tell(await self._last_frame(run, call, turn))

    async def _tell(self, frame: bytes) -> None:
        if self._outgoing.has_room():
            self._outgoing.send_now(frame)
            return
        task = asyncio.current_task()
        assert task is not None
        self._telling.add(task)
        try:
            await self._outgoing.send(frame)
        finally:
            self._telling.discard(task)

    async def _last_frame(self, run: Run, call: Call, turn: AsyncExitStack | None = None) -> bytes:
        try:
            if turn is not None:
                await turn.enter_async_context(self._bulky)
            return self._result(run, await self._dispatcher.run(run.operation, run.request, call), call)
        except ToolError as error:
            return self._conversation.error(run.id, error)
        except asyncio.CancelledError:
            if call.abandoned:
                raise
            cancelled = Cancelled(f"{run.operation.name} was cancelled", **call.left)
            return self._conversation.error(run.id, cancelled)
        except Exception:
            return self._conversation.error(run.id, failed(run.operation.name, run.id))
        finally:
            del self._running[run.id]

    def _result(self, run: Run, answer: Answer, call: Call) -> bytes:
        try:
            frame = self._conversation.result(run.id, answer)
            call.sent += len(frame)
            return frame
        except Exception:
            # Every request gets its last frame, also one whose answer could not be put into bytes.
            return self._conversation.error(run.id, failed(run.operation.name, run.id))

    def _abandon(self) -> list[asyncio.Task[None]]:
        running = list(self._running.values())
        for task, call in running:
            call.abandoned = True
            task.cancel()
        telling = list(self._telling)
        for task in telling:
            task.cancel()
        return [*(task for task, _ in running), *telling]
