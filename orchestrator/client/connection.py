"""One WebSocket, shared by many requests: frames out, replies back to whom they belong.

Ids are counted up and never used twice, so a late reply reaches nobody instead of somebody else. A closed
connection fails everything that is under way with Unavailable; nothing here reconnects, for only the caller
knows what may be asked a second time.
"""

from __future__ import annotations

import asyncio
import itertools
from types import TracebackType
from typing import Any, Final

import msgspec
from websockets.exceptions import ConnectionClosed

from orchestrator.client.mailbox import PATIENCE_SECONDS, Mailbox
from orchestrator.client.socket import Socket
from protocol.codec import Format, RawReplyFrame, encode
from protocol.errors import Internal, TooLarge, ToolError, Unavailable, from_body
from protocol.limits import Limits
from protocol.routes import VERSION_HEADER

FORMAT: Final[Format] = "msgpack"
_MAX_SENT_BYTES = Limits().max_frame_bytes
_CANCEL = "cancel"


class _Sent(msgspec.Struct, frozen=True):
    """What ``RequestFrame`` is to the tool server, with the parameters not encoded yet."""

    id: str
    op: str
    params: Any
    stream: bool


class Connection:
    """Requests and their mailboxes. Use as an async context manager: leaving closes the socket."""

    def __init__(
        self,
        socket: Socket,
        url: str,
        close_timeout_seconds: float,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.url = url
        self.version = socket.response.headers.get(VERSION_HEADER) if socket.response else None
        """The tool server's; None where it tells none."""
        self._socket = socket
        self._close_timeout_seconds = close_timeout_seconds
        self._patience_seconds = patience_seconds
        self._ids = itertools.count(1)
        self._pending: dict[str, Mailbox] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(RawReplyFrame)
        self._closed: ToolError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._cancels: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Connection:
        self._reader = asyncio.create_task(self._read())
        self._socket.take = self._take
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fail_all(Unavailable(f"this client of {self.url} was closed", url=self.url))
        assert self._reader is not None
        try:
            # Its own bound begins only when all that is to be sent has gone.
            async with asyncio.timeout(self._close_timeout_seconds):
                await self._socket.close()
        except TimeoutError:
            self._socket.transport.abort()
        finally:
            self._reader.cancel()
        await asyncio.wait({self._reader, *self._cancels}, timeout=self._close_timeout_seconds)

    async def send(self, operation: str, params: Any, *, wants_events: bool) -> tuple[str, Mailbox]:
        """Send a request: its id, and where its replies arrive."""
        if self._closed is not None:
            raise self._closed
        request_id = str(next(self._ids))
        frame = self._encoder.encode(_Sent(request_id, operation, params, wants_events))
        _refuse_too_large(operation, len(frame))
        mailbox = Mailbox(wants_events=wants_events, patience_seconds=self._patience_seconds)
        self._pending[request_id] = mailbox
        try:
            if not self._socket.send_at_once(frame):
                await self._socket.send(frame)
        except ConnectionClosed:
            raise self._gone() from None
        except BaseException:
            self.cancel_soon(request_id)
            raise
        return request_id, mailbox

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await self._socket.wait_closed()

    async def cancel(self, request_id: str) -> None:
        """Ask for the request's end and wait for it, so that after this the tool server does no more for it.

        The wait is bounded by the close timeout; a tool server that stays silent is left behind.
        """
        mailbox = self._pending.get(request_id)
        if mailbox is None or self._closed is not None:
            return
        if not mailbox.finished:  # one that was given up keeps what it has for its owner
            mailbox.drop_events()
        try:
            async with asyncio.timeout(self._close_timeout_seconds):
                await self._send_cancel(request_id)
                await mailbox.outcome()
        except (TimeoutError, ToolError):
            pass
        finally:
            self._pending.pop(request_id, None)

    def cancel_soon(self, request_id: str) -> None:
        """Like ``cancel`` from where nothing may be awaited, because a cancellation is passing through."""
        task = asyncio.create_task(self.cancel(request_id))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _send_cancel(self, request_id: str) -> None:
        try:
            await self._socket.send(encode({"id": request_id, "op": _CANCEL}, FORMAT))
        except ConnectionClosed:
            raise self._gone() from None

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                await self._deliver(self._decoder.decode(_bytes(message)))
                self._socket.taken()
            self._fail_all(self._gone())  # closed in good order, which raises nothing
        except ConnectionClosed:
            self._fail_all(self._gone())
        except msgspec.DecodeError as error:
            self._fail_all(not_understood(self.url, error))
            await self._socket.close()

    def _take(self, data: bytes) -> bool:
        """Deliver a message in the turn of the loop in which it comes; False leaves it to the reader."""
        try:
            frame = self._decoder.decode(data)
        except msgspec.DecodeError:
            return False
        if _is_event(frame):
            mailbox = self._pending.get(frame.id)
            return mailbox is None or mailbox.put_at_once(frame.event)
        self._settle(frame)
        return True

    async def _deliver(self, frame: RawReplyFrame) -> None:
        if not _is_event(frame):
            self._settle(frame)
            return
        mailbox = self._pending.get(frame.id)
        if mailbox is not None and not await mailbox.put(frame.event):
            self.cancel_soon(frame.id)

    def _settle(self, frame: RawReplyFrame) -> None:
        mailbox = self._pending.pop(frame.id, None)
        if mailbox is None:
            if not frame.id and frame.error is not None:
                self._fail_all(from_body(frame.error))  # about the conversation itself, so about all of it
        elif frame.error is not None:
            mailbox.fail(from_body(frame.error))
        else:
            mailbox.finish(frame.result)

    def _fail_all(self, error: ToolError) -> None:
        self._closed = self._closed or error
        for mailbox in self._pending.values():
            mailbox.fail(_same(error))
        self._pending.clear()

    def _gone(self) -> ToolError:
        reason = self._socket.close_reason or f"code {self._socket.close_code}"
        return Unavailable(f"the tool server at {self.url} closed the connection: {reason}", url=self.url)


def not_understood(url: str, error: Exception) -> ToolError:
    """An answer that our types do not fit: two versions of the protocol, or it is no tool server."""
    return Internal(
        f"what {url} answered is not understood ({error}); are tool server and client of one version?",
        url=url,
    )


def _is_event(frame: RawReplyFrame) -> bool:
    return frame.error is None and not memoryview(frame.result)


def _same(error: ToolError) -> ToolError:
    """One error object for each waiter, else their tracebacks would grow into each other."""
    return type(error)(error.message, **error.details)


def _bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _refuse_too_large(operation: str, size: int) -> None:
    if size > _MAX_SENT_BYTES:  # the tool server would close the socket, and fail every other request on it
        raise TooLarge(
            f"this {operation!r} request is {size} bytes, a frame takes {_MAX_SENT_BYTES}: send an archive "
            "by put_archive, and a large file in an archive",
            limit="maxFrameBytes",
            value=_MAX_SENT_BYTES,
        )
