"""One client's conversation on a WebSocket, without the socket.

Frames in, decisions out: ``receive`` answers with what the door has to do next. It knows which ids are in
flight, and that each of them gets exactly one last reply. Nothing here awaits, opens or sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from protocol.codec import Format, ReplyFrame, RequestFrame, decode, decode_params, encode, opened
from protocol.errors import Busy, InvalidRequest, ToolError
from protocol.messages.access import Renewal
from protocol.messages.base import Answer, Event, Request
from protocol.operations import Operation
from toolserver.tools.call import find_operation, read_request

CANCEL = "cancel"
"""A frame that is no operation: it names the id of the request to end."""
RENEW = "renew"
"""The other one: from now on the socket is open by the token in its ``params``."""
_MAX_ID = 128


class Run(NamedTuple):
    """Run ``operation``; give its events and its end back under ``id``."""

    id: str
    operation: Operation
    request: Request
    stream: bool


class CancelRun(NamedTuple):
    """Cancel the request ``id``; its end still comes under that id."""

    id: str


class Renew(NamedTuple):
    """Let the socket be open by this token, and answer under ``id`` by ``result`` or ``error``."""

    id: str
    token: str


class Send(NamedTuple):
    """Send this frame: the refusal of one that starts nothing, under its id."""

    data: bytes
    id: str


Decision = Run | CancelRun | Renew | Send


class Conversation:
    """Who is in flight, and what each frame means."""

    def __init__(
        self, form: Format, max_in_flight: int, refused: Callable[[ToolError], None] = lambda _: None
    ) -> None:
        """``refused`` is told of each frame that starts nothing."""
        self._form: Format = form
        self._max_in_flight = max_in_flight
        self._refused = refused
        self._in_flight: set[str] = set()

    def receive(self, data: bytes) -> Decision | None:
        """What to do about a frame; None when there is nothing to do."""
        try:
            frame = decode(data, RequestFrame, self._form)
        except InvalidRequest as error:
            id = self._readable_id(data)
            return self._refusal("" if id in self._in_flight else id, error)
        if not 0 < len(frame.id) <= _MAX_ID:
            return self._refusal("", InvalidRequest(f"'id' has 1 to {_MAX_ID} characters", field="id"))
        if frame.id in self._in_flight and frame.op != CANCEL:
            # Under no id: a reply under this one would be taken for the last of the request that has it.
            used = InvalidRequest(
                f"id {frame.id!r} is in flight already; use another", field="id", id=frame.id
            )
            return self._refusal("", used)
        if frame.op == CANCEL:
            return CancelRun(frame.id) if frame.id in self._in_flight else None
        try:
            return self._admit(frame)
        except ToolError as error:
            return self._refusal(frame.id, error)

    def event(self, id: str, event: Event) -> bytes:
        """The frame of an event."""
        return encode(ReplyFrame(id=id, event=event), self._form)

    def opened(self, id: str, event: Event, size: int) -> bytes:
        """The frame of an event up to its last field, whose ``size`` bytes follow; in MessagePack only."""
        return opened(ReplyFrame(id=id, event=event), size)

    def result(self, id: str, answer: Answer) -> bytes:
        """The last frame of a request that went well."""
        self._in_flight.discard(id)
        return encode(ReplyFrame(id=id, result=answer), self._form)

    def error(self, id: str, error: ToolError) -> bytes:
        """The last frame of a request that did not."""
        self._in_flight.discard(id)
        return encode(ReplyFrame(id=id, error=error.body(id)), self._form)

    def _admit(self, frame: RequestFrame) -> Run | Renew:
        if frame.op == RENEW:
            return Renew(frame.id, decode_params(frame.params, Renewal, self._form).token)
        if len(self._in_flight) >= self._max_in_flight:
            raise Busy(
                f"{self._max_in_flight} requests are in flight on this socket, which is the limit",
                limit="maxInFlight",
                value=self._max_in_flight,
            )
        operation = find_operation(frame.op)
        request = read_request(operation, frame.params, self._form)
        self._in_flight.add(frame.id)
        return Run(frame.id, operation, request, frame.stream)

    def _refusal(self, id: str, error: ToolError) -> Send:
        """The answer to a frame that starts nothing."""
        self._refused(error)
        return Send(encode(ReplyFrame(id=id, error=error.body(id)), self._form), id)

    def _readable_id(self, data: bytes) -> str:
        """The id of a frame that is otherwise wrong, so that its sender can tell which."""
        try:
            loose: Any = decode(data, dict, self._form)
        except (InvalidRequest, msgspec.DecodeError):
            return ""
        found = loose.get("id", "")
        return found if isinstance(found, str) and len(found) <= _MAX_ID else ""
