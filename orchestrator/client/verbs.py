"""A client's methods, one line per operation, typed by the operation's own Structs.

``read = Verb(Read, ReadAnswer)`` in a class makes ``client.read(path="a", start_line=1)``: the parameters are
those of the Struct's constructor, for mypy and for an editor, and so can never differ from the protocol.
An operation with events is also a stream::

    async with client.command.stream(command="npm test") as events:
        async for event in events: ...
        answer = await events.result()
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from orchestrator.client.connection import Connection, not_understood
from orchestrator.client.mailbox import Mailbox
from orchestrator.client.versions import explained
from protocol.errors import InvalidRequest, NotFound
from protocol.messages.base import Answer, Request
from protocol.operations import OPERATIONS, Operation

P = ParamSpec("P")
A = TypeVar("A", bound=Answer)
E = TypeVar("E")

BY_REQUEST: dict[type[Request], Operation] = {each.request: each for each in OPERATIONS.values()}


class Events(Generic[E]):
    """Carries a union of event types to the type checker, which takes no bare union as an argument."""


class Caller(Protocol):
    """What a verb hangs on."""

    @property
    def connection(self) -> Connection:
        """Where requests go."""


class Stream(Generic[E, A]):
    """One request under way: its events, then its answer. Leaving early cancels it on the tool server."""

    def __init__(self, connection: Connection, operation: Operation, request: Request) -> None:
        self._connection = connection
        self._operation = operation
        self._request = request
        self._id = ""
        self._mailbox: Mailbox

    async def __aenter__(self) -> Stream[E, A]:
        self._id, self._mailbox = await self._connection.send(
            self._operation.name, self._request, wants_events=True
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._mailbox.finished:
            await self._connection.cancel(self._id)

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        """The next event. Ends when there is none: ``result`` then tells how it went, or raises."""
        raw = await self._mailbox.next_event()
        if raw is None:
            raise StopAsyncIteration
        event: E = decoded(self._connection, raw, self._operation.events)
        return event

    async def result(self) -> A:
        """The answer, or the tool server's error raised. Events not taken by now are let go."""
        self._mailbox.drop_events()
        raw = await _outcome(self._connection, self._operation, self._request, self._mailbox)
        answer: A = decoded(self._connection, raw, self._operation.answer)
        return answer


async def call(connection: Connection, request: Request) -> Answer:
    """Ask and wait for the answer; a cancelled caller cancels the request on the tool server too."""
    operation = BY_REQUEST[type(request)]
    request_id, mailbox = await connection.send(operation.name, request, wants_events=False)
    try:
        raw = await _outcome(connection, operation, request, mailbox)
    finally:
        if not mailbox.finished:
            connection.cancel_soon(request_id)
    answer: Answer = decoded(connection, raw, operation.answer)
    return answer


async def _outcome(
    connection: Connection, operation: Operation, request: Request, mailbox: Mailbox
) -> msgspec.Raw:
    try:
        return await mailbox.outcome()
    except (InvalidRequest, NotFound) as error:
        raise explained(error, operation.name, request, connection.url, connection.version) from None


def decoded(connection: Connection, raw: msgspec.Raw, kind: Any) -> Any:
    """``raw`` as ``kind``; raises Internal when it is not one."""
    try:
        return _decoder(kind).decode(raw)
    except msgspec.DecodeError as error:
        raise not_understood(connection.url, error) from None


@functools.cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


class Bound(Generic[P, A]):
    """An operation of one client, to be called."""

    def __init__(self, connection: Connection, request: Callable[P, Request]) -> None:
        self._connection = connection
        self._request = request

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Ask with the Struct's fields as keywords; raises the tool server's error."""
        answer: A = await call(self._connection, self._request(*args, **kwargs))  # type: ignore[assignment]
        return answer


class BoundStream(Bound[P, A], Generic[P, A, E]):
    """The same, for an operation with events."""

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[E, A]:
        """Ask, and follow what comes before the answer."""
        request = self._request(*args, **kwargs)
        return Stream(self._connection, BY_REQUEST[type(request)], request)


class Verb(Generic[P, A]):
    """A class attribute that becomes a method."""

    def __init__(self, request: Callable[P, Request], answer: type[A]) -> None:
        self.request = request
        self.answer = answer

    def __get__(self, caller: Caller, owner: type[object]) -> Bound[P, A]:
        return Bound(caller.connection, self.request)


class StreamingVerb(Generic[P, A, E]):
    """A class attribute that becomes a method with ``.stream``."""

    def __init__(self, request: Callable[P, Request], answer: type[A], events: type[Events[E]]) -> None:
        self.request = request
        self.answer = answer
        self.events = events

    def __get__(self, caller: Caller, owner: type[object]) -> BoundStream[P, A, E]:
        return BoundStream(caller.connection, self.request)
