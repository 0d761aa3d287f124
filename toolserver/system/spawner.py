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
from typing import TypeVar

T = TypeVar("T")

_Work = Callable[[], None]


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

    def soon(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The same for the loop. Not to be cancelled: the work is done all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as raised:
                loop.call_soon_threadsafe(_fail, future, raised)
            else:
                loop.call_soon_threadsafe(_fulfil, future, result)

        self._queue.put(run)
        return future

    def close(self) -> None:
        """No more work is taken."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _fulfil(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
