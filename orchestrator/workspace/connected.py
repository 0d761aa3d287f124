"""A workspace's connection and its life: started with the first use, connected anew, paused, resumed, closed.

A connection that was lost is made anew with the next call. What was under way on it is not repeated, for only
the caller knows what may be done twice.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from orchestrator.backends import Properties
from orchestrator.client import Client, open_client
from orchestrator.workspace.places import Place, Reached
from protocol.errors import Unavailable

_AGAIN_SECONDS = 0.3
"""Between tries to connect. A killed tool server is gone within milliseconds on a quiet machine."""


class Connected:
    """What has a tool server, found or started when it is first needed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._reached: Reached | None = None
        self._watch: asyncio.Task[None] | None = None
        self._paused = self._closed = False

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> Client:
        """The client of its tool server, started or connected anew when need be."""
        async with self._turn:
            self._refuse_unless_open()
            if self._client is None or self._watch is None or self._watch.done():
                await self._disconnect()
                self._client = await self._connected()
                self._watch = asyncio.create_task(self._client.wait_closed())
            return self._client

    async def _reach(self) -> tuple[Client, Reached]:
        """Its client, and where its tool server is for what goes by HTTP."""
        client = await self.connect()
        assert self._reached is not None
        return client, self._reached

    async def _connected(self) -> Client:
        for last in (False, False, True):
            self._reached = await self._place.open()
            client = open_client(self._reached.url, self._reached.token, self._reached.headers)
            try:
                return await self._stack.enter_async_context(client)
            except Unavailable:
                # A process that was killed is there, and its port too, until its last thread is gone.
                if last:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
        raise AssertionError("the last try returns or raises")

    async def pause(self) -> None:
        """End everything that runs in it, so that it takes no memory and no processor; keep every file."""
        async with self._turn:
            self._refuse_closed()
            await self._disconnect()
            await self._place.pause()
            self._paused = True

    async def resume(self) -> None:
        """Go on after ``pause``. Files are as they were; programs are not started again."""
        self._paused = False
        await self.connect()

    async def close(self) -> None:
        """End everything that runs in it. Twice is no error."""
        async with self._turn:
            self._closed = True
            await self._disconnect()
            await self._place.close()

    @property
    def client(self) -> Client:
        """Every operation of the tool server: ``await workspace.client.processes()``. After ``connect``."""
        if self._client is None:
            raise Unavailable("this workspace is not connected: use `async with`, or await connect() first")
        return self._client

    @property
    def properties(self) -> Properties:
        """What is kept apart from what, as data; ``left_open`` says what is not."""
        return self._place.properties

    @property
    def preview_url(self) -> str | None:
        """Where its dev server answers, once one runs."""
        return self._place.preview_url

    @property
    def session_id(self) -> str | None:
        """Its session; None when it is none, as in place."""
        return None

    async def _disconnect(self) -> None:
        self._client = self._reached = None
        watch, self._watch = self._watch, None
        await self._stack.aclose()
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Unavailable("this workspace was closed; make a new one")

    def _refuse_unless_open(self) -> None:
        self._refuse_closed()
        if self._paused:
            raise Unavailable("this workspace is paused; call resume() first")
