"""One thread, from which programs are started; it lives as long as the daemon.

Who asks hands it a piece of work and gets what comes of it, waiting on a lock or on the loop. The queue and
the locks are the interpreter's own, in C: a hop costs some 30 microseconds, half of it while the program
already runs.
"""

from __future__ import annotations

import _thread
import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_Work = Callable[[], None]


class Arrival(Generic[U]):
    """What comes of a piece of work that nobody can call back. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._value: list[U] = []
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def arrive(self, then: Callable[[T], U], result: T) -> None:
        """It is there; ``then`` makes of it what is waited for, in this turn and whoever still waits."""
        try:
            self._value.append(then(result))
        except BaseException as raised:
            self._error = raised
        self._wake()

    def fail(self, error: BaseException) -> None:
        """It comes to nothing."""
        self._error = error
        self._wake()

    async def value(self) -> U:
        """What arrived, or raises what was raised. One task may wait.

        Its cancellation, however often, takes effect only after something has arrived: at the task's next
        wait, so that who is given something can let go of it; at once where there is nothing to let go of.
        """
        cancelled: asyncio.CancelledError | None = None
        while not self._value and self._error is None:
            # A future of its own, which a cancellation may cancel: a shield costs a turn of the loop.
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            if self._error is not None:
                raise cancelled
            _cancel_anew()
        if self._error is not None:
            raise self._error
        return self._value[0]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _cancel_anew() -> None:
    """Cancelled as before, and not once more: who counts cancellations knows his own by it."""
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    task.cancel()


class Spawner:
    """The thread. ``close`` lets it end after what it was given."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spawn", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> T:
        """Its result, or what it raises. Blocks until then."""
        answer: list[T] = []
        error: list[BaseException] = []
        done = _thread.allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                answer.append(work())
            except BaseException as raised:
                error.append(raised)
            done.release()

        self._queue.put(run)
        done.acquire()
        if error:
            raise error[0]
        return answer[0]

    def soon(self, work: Callable[[], T], then: Callable[[T], U]) -> Arrival[U]:
        """The same for the loop, which calls ``then`` with the result as soon as it is there."""
        loop = asyncio.get_running_loop()
        arrival: Arrival[U] = Arrival()

        def run() -> None:
            try:
                result = work()
            except BaseException as raised:
                loop.call_soon_threadsafe(arrival.fail, raised)
            else:
                loop.call_soon_threadsafe(arrival.arrive, then, result)

        self._queue.put(run)
        return arrival

    def close(self) -> None:
        """No more work is taken."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
