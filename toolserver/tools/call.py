"""One request on its way through the tools, and the way to the handler of its operation."""

from __future__ import annotations

import difflib
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import msgspec

from protocol.codec import Format, decode_params
from protocol.errors import NotFound
from protocol.messages.base import Answer, Event, Request
from protocol.operations import OPERATIONS, Operation
from protocol.paths import ROOT
from toolserver.system.pulse import Pulse
from toolserver.tools.admission import EVERYTHING, Admission, refuse_beyond
from toolserver.tools.ledger import Ledger

Emit = Callable[[Event], Awaitable[None]]
Pour = Callable[[Event, bytes], Awaitable[None]]
T = TypeVar("T")
Handler = Callable[[Any, "Call"], Awaitable[Answer]]
AtOnce = Callable[[Any], Answer | None]


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
        self.pour: Pour | None = None
        """Sends an event whose last field, empty in it, is these bytes: not copied on their way. None where
        the door's form has no room for bytes as they are."""
        self.received = self.sent = 0
        """Bytes, as far as the door knows them: of the request, and of the answer with its events."""
        self.left: dict[str, Any] = {}
        """For the details of the refusal, should it be cancelled: what there is of it all the same."""
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
        ledger: Ledger | None = None,
    ) -> None:
        """Each family has one async method per operation, of the operation's name.

        ``around`` makes the context in which a request's handler runs.
        Raises LookupError when an operation has none, or two: found at start, not at the first request.
        A family may have a plain method ``NAME_at_once`` beside it, for requests that change nothing: it
        answers what needs no wait whatever, and gives None for all else.
        """
        self._pulse = pulse or Pulse()
        self._around = around
        self.ledger = ledger or Ledger()
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
            if answer is not None:
                self.ledger.admit(call, begun)
        except Exception:
            return None  # ``run`` meets the same, and tells it
        if answer is not None:
            self._pulse.answered()
            self.ledger.note_later(operation.name, call, begun, request)
        return answer

    def run(self, operation: Operation, request: Request, call: Call) -> Coroutine[Any, Any, Answer]:
        """The operation's answer; raises ToolError only, but for a cancellation."""
        return self.ledger.through(operation, call, lambda: self._handled(operation, request, call), request)

    async def _handled(self, operation: Operation, request: Request, call: Call) -> Answer:
        with self._around(request, call), self._pulse.request(operation.name):
            return await self._handlers[operation.name](request, call)


def find_operation(name: str) -> Operation:
    """The operation of that name; raises NotFound with the nearest one.

    >>> find_operation("serch")
    Traceback (most recent call last):
    protocol.errors.NotFound: there is no operation 'serch'; did you mean 'search'?
    """
    if name in OPERATIONS:
        return OPERATIONS[name]
    name = name[:100]
    raise NotFound(f"there is no operation {name!r}; {_hint(name)}", operation=name)


@functools.lru_cache(maxsize=64)
def _hint(name: str) -> str:
    """Kept: who asks wrongly asks so again, and to look for the nearest takes as long as to read a file."""
    close = difflib.get_close_matches(name, OPERATIONS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(OPERATIONS))}"


def read_request(operation: Operation, params: bytes | msgspec.Raw, form: Format) -> Request:
    """The request out of its bytes; raises InvalidRequest."""
    return decode_params(params, operation.request, form)
