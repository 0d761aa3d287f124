"""One request on its way through the tools, and the way to the handler of its operation."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import msgspec

from protocol.codec import Format, decode_params
from protocol.errors import Cancelled, Internal, NotFound, ToolError
from protocol.messages.base import Answer, Event, Request
from protocol.operations import OPERATIONS, Operation
from protocol.paths import ROOT
from toolserver.system.confinement import confined
from toolserver.system.pulse import Pulse
from toolserver.tools.admission import EVERYTHING, Admission, Door, refuse_beyond

Emit = Callable[[Event], Awaitable[None]]
T = TypeVar("T")
Handler = Callable[[Any, "Call"], Awaitable[Answer]]
AtOnce = Callable[[Any], Answer | None]

log = logging.getLogger("toolserver.operations")


async def _drop(_: Event) -> None:
    """Where nobody listens."""


class Call:
    """What a handler knows of its caller."""

    def __init__(self, request_id: str, emit: Emit | None = None, admission: Admission = EVERYTHING) -> None:
        self.request_id = request_id
        self.admission = admission
        """Who asks, and what they may."""
        self.streaming = emit is not None
        """Whether events reach somebody; if not, the answer has to hold all."""
        self.emit: Emit = emit or _drop
        """Sends an event; waits while this caller is slow, and only this one."""
        self.abandoned = False
        """The caller is gone without asking for an end: a command goes on without it."""

    def without_events(self) -> Call:
        """The same caller, for a step whose events are not to be seen."""
        return Call(self.request_id, admission=self.admission)


class Dispatcher:
    """The handlers of all operations, by name."""

    def __init__(
        self,
        *families: object,
        pulse: Pulse | None = None,
        around: Callable[[Request, Call], AbstractContextManager[None]] = lambda *_: nullcontext(),
    ) -> None:
        """Each family has one async method per operation, of the operation's name.

        ``around`` makes the context in which a request's handler runs.
        Raises LookupError when an operation has none, or two: found at start, not at the first request.
        A family may have a plain method ``NAME_at_once`` beside it, for requests that change nothing: it
        answers what needs no wait whatever, and gives None for all else.
        """
        self._pulse = pulse or Pulse()
        self._around = around
        self._handlers: dict[str, Handler] = {}
        for name in OPERATIONS:
            handlers = [getattr(family, name) for family in families if hasattr(family, name)]
            if len(handlers) != 1:
                raise LookupError(f"{len(handlers)} handlers for {name!r}, and there is to be one")
            self._handlers[name] = handlers[0]
        self._at_once: dict[str, AtOnce] = {
            name: getattr(family, f"{name}_at_once")
            for name in OPERATIONS
            for family in families
            if hasattr(family, f"{name}_at_once")
        }

    def at_once(self, operation: Operation, request: Request, call: Call) -> Answer | None:
        """The answer, where neither a disk nor anybody else is waited for; else None, and ``run`` has it.

        Half of what a small request costs is the task that it runs in.
        """
        handler = self._at_once.get(operation.name)
        if handler is None or call.admission.path != ROOT:
            return None
        begun = time.monotonic()
        try:
            refuse_beyond(call.admission, operation)
            answer = handler(request)
        except Exception:
            return None  # ``run`` meets the same, and tells it
        if answer is not None:
            self._pulse.answered()
            _log_soon(call.request_id, operation.name, "ok", begun)
        return answer

    async def run(self, operation: Operation, request: Request, call: Call) -> Answer:
        """The operation's answer; raises ToolError only, but for a cancellation."""

        return await through(operation, call, lambda: self._handled(operation, request, call))

    async def _handled(self, operation: Operation, request: Request, call: Call) -> Answer:
        with self._around(request, call), self._pulse.request(operation.name):
            return await self._handlers[operation.name](request, call)


async def through(what: Operation | Door, call: Call, work: Callable[[], Awaitable[T]]) -> T:
    """``work``, if the caller's token is good for it, and told in the log either way: the one way in."""
    return await told(what.name, call, _permitted(what, call, work))


async def _permitted(what: Operation | Door, call: Call, work: Callable[[], Awaitable[T]]) -> T:
    """``work``, no further than the caller's token reaches; raises Forbidden."""
    refuse_beyond(call.admission, what)
    with confined(call.admission.path):
        return await work()


async def told(name: str, call: Call, work: Awaitable[T]) -> T:
    """``work``, with one line in the log for it; raises ToolError only, but for a cancellation."""
    begun = time.monotonic()
    outcome = "ok"
    try:
        return await work
    except ToolError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = Cancelled.code
        raise
    except Exception as error:
        outcome = Internal.code
        raise failed(name, call.request_id) from error
    finally:
        _log_soon(call.request_id, name, outcome, begun)


def _log_soon(request_id: str, name: str, outcome: str, begun: float) -> None:
    line = {
        "requestId": request_id,
        "operation": name,
        "outcome": outcome,
        "durationMs": round((time.monotonic() - begun) * 1000, 3),
    }
    # In the next turn of the loop: the answer goes out first.
    asyncio.get_running_loop().call_soon(_log, line)


def _log(line: dict[str, object]) -> None:
    log.info("operation", extra={"data": line})


def failed(name: str, request_id: str) -> Internal:
    """What a caller is told of a fault of ours; called where it is caught, so that the log gets all."""
    log.exception("failed", extra={"data": {"requestId": request_id, "operation": name}})
    return Internal(f"{name} failed for a reason of our own; see request {request_id} in the log")


def find_operation(name: str) -> Operation:
    """The operation of that name; raises NotFound with the nearest one.

    >>> find_operation("serch")
    Traceback (most recent call last):
    protocol.errors.NotFound: there is no operation 'serch'; did you mean 'search'?
    """
    if name in OPERATIONS:
        return OPERATIONS[name]
    close = difflib.get_close_matches(name, OPERATIONS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(OPERATIONS))}"
    raise NotFound(f"there is no operation {name[:100]!r}; {hint}", operation=name[:100])


def read_request(operation: Operation, params: bytes | msgspec.Raw, form: Format) -> Request:
    """The request out of its bytes; raises InvalidRequest."""
    return decode_params(params, operation.request, form)
