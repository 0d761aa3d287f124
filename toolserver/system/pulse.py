"""What goes on at the daemon's doors, counted as it comes and goes.

One ``Pulse`` per daemon. A request counts while it is under way, a socket while it is open; what only asks
how busy the daemon is counts for nothing, else those who watch would keep awake what they watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

WATCHING = frozenset(("activity", "audit"))
"""Operations that are no activity."""


class _Socket:
    watched = worked = False

    @property
    def counts(self) -> bool:
        return self.worked or not self.watched


_here: ContextVar[_Socket | None] = ContextVar("socket", default=None)
"""The socket on which a request came; tasks inherit it."""


class Pulse:
    """Counts of one daemon; for its event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._requests = 0
        self._under_way = _UnderWay(self)
        self._sockets: set[_Socket] = set()

    @property
    def requests(self) -> int:
        """Under way."""
        return self._requests

    @property
    def sockets(self) -> int:
        """Open, but for those that only watch."""
        return sum(socket.counts for socket in self._sockets)

    def request(self, operation: str = "") -> AbstractContextManager[None]:
        """One is under way."""
        socket = _here.get()
        if operation in WATCHING:
            if socket is not None:
                socket.watched = True
            return nullcontext()
        if socket is not None:
            socket.worked = True
        return self._under_way

    def begin(self) -> None:
        """A request begins."""
        self._requests += 1

    def end(self) -> None:
        """And ends."""
        self._requests -= 1
        self.touch()

    def answered(self) -> None:
        """One came that is answered already."""
        socket = _here.get()
        if socket is not None:
            socket.worked = True
        self.touch()

    @contextmanager
    def socket(self) -> Iterator[None]:
        """One is open; requests from within are its own."""
        socket = _Socket()
        self._sockets.add(socket)
        token = _here.set(socket)
        try:
            yield
        finally:
            _here.reset(token)
            self._sockets.discard(socket)
            if socket.counts:
                self.touch()

    def touch(self) -> None:
        """Something happened just now."""
        self._last = self._clock()

    def idle_seconds(self, *others: float) -> float:
        """Since the last thing happened; ``others`` are instants of the same clock at which more did."""
        return max(0.0, self._clock() - max((self._last, *others)))


class _UnderWay(AbstractContextManager[None]):
    """One for all requests, as it remembers nothing."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def __enter__(self) -> None:
        self._pulse.begin()

    def __exit__(self, *_: object) -> None:
        self._pulse.end()
