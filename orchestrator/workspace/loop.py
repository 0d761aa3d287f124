"""An event loop on a thread of its own, for whoever does not await.

So blocking calls also work where an event loop runs already, a notebook for one. The thread starts with the
first call and is joined by ``close``; it never keeps the interpreter from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """One loop. Calls may come from any thread but its own."""

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether there was a call, and no end yet."""
        return self._thread is not None

    def is_here(self) -> bool:
        """Whether this is its own thread."""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives. An interrupted caller cancels it."""
        if self.is_here():
            work.close()
            raise RuntimeError(
                "a blocking call on the workspace's own loop would wait for itself; use the async API"
            )
        with self._turn:  # else it may be closed in between, and then nobody would do the work, nor refuse it
            future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop and its thread, and what still runs on it."""
        with self._turn:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_finished(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="workspace-loop", daemon=True)
            self._thread.start()
        return self._loop


async def _finished() -> None:
    """Every other task is cancelled and over, and no worker thread is left."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
