"""dev_feedback, and what an edit with ``waitForDev`` adds to its answer.

The dev server tells its pages what became of a change; here we listen as a page does. It compiles a module
when somebody asks for it, so after it has noticed the change we ask for what was edited: an error is known
even where no page is open. The channel is opened for who asks, and closed when nobody has for a while: a
channel that is always open would look like a page that somebody has before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from protocol.errors import InvalidRequest
from protocol.messages.devserver import DevState
from protocol.messages.diagnostics import DevError, DevFeedback, DevFeedbackAnswer, DevOutcome
from toolserver.system.disk import Disk
from toolserver.tools.call import Call
from toolserver.tools.devserver import DevServer

Frame = Mapping[str, Any]
Frames = AsyncIterator[Frame]

WAIT_MS = 5_000
"""How long an edit waits; a page of Astro took 2 s on two cores."""
_MAX_WAIT_MS = 60_000
_NOTICE_SECONDS = 1.0
"""From a change until the dev server has told of it, when a page uses the file; Vite took 63 ms."""
_AFTER_SECONDS = 3.0
"""After an answer that is an error: the channel tells where it is. Astro takes 0.2 s, more than one on two
busy cores."""
_KEPT_FRAMES = 256
_KEPT_OPEN_SECONDS = 60.0
_AGAIN_SECONDS = 0.2
_MAX_ERRORS = 20
_MAX_UPDATED = 100
_MAX_ASKED = 20
_MAX_TEXT = 4_000
_MODULES = frozenset(
    ".js .mjs .cjs .jsx .ts .mts .cts .tsx .vue .svelte .astro .md .mdx .css .scss .sass .less .styl".split()
)
_OVERLAY = re.compile(r"const error = (\{.*?\})\s*(?:;|\n)", re.S)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

log = logging.getLogger("toolserver.diagnostics")


class Page(NamedTuple):
    """An answer over HTTP."""

    status: int
    text: str


class Channel(Protocol):
    """How the dev server is reached."""

    def opened(self, port: int) -> AbstractAsyncContextManager[Frames | None]:
        """Its frames; None when it has none."""

    async def get(self, port: int, path: str, is_page: bool) -> Page:
        """What it answers, to somebody who wants a page or a script."""


class Diagnostics:
    """The handler, the channel while it is open, and what was heard on it."""

    def __init__(self, dev: DevServer, disk: Disk, channel: Channel) -> None:
        self._dev = dev
        self._disk = disk
        self._channel = channel
        self._heard: deque[tuple[int, Frame]] = deque(maxlen=_KEPT_FRAMES)
        self._number = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._port = 0
        self._connected = asyncio.Event()
        self._is_known = True
        self._asked = 0.0

    async def dev_feedback(self, request: DevFeedback, call: Call) -> DevFeedbackAnswer:
        """Ask for the files now."""
        if not 1 <= request.timeout_ms <= _MAX_WAIT_MS:
            raise InvalidRequest(f"'timeoutMs' is from 1 to {_MAX_WAIT_MS}", field="timeoutMs")
        paths = [self._disk.path(each) for each in request.paths]
        number = await self.listening()
        return await self.feedback(number, paths, request.timeout_ms, notice_seconds=0)

    async def listening(self) -> int:
        """Have the channel open, before a change; the number of what was heard last."""
        self._asked = time.monotonic()
        if self._dev.state is not DevState.READY:
            return self._number
        if self._task is None or self._task.done() or self._port != self._dev.port:
            # In one turn: of requests at the same time all wait for the same channel, and there is but one.
            before, self._port, self._is_known = self._task, self._dev.port, True
            self._connected = asyncio.Event()
            self._task = asyncio.create_task(self._listen_after(before, self._port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_MS / 1000):
                await self._connected.wait()
        return self._number

    async def feedback(
        self,
        number: int,
        paths: Sequence[str],
        timeout_ms: int = WAIT_MS,
        notice_seconds: float = _NOTICE_SECONDS,
    ) -> DevFeedbackAnswer:
        """What was said after ``number`` of a change to ``paths``."""
        begun = time.monotonic()
        if self._dev.state is not DevState.READY:
            return DevFeedbackAnswer(outcome=DevOutcome.NOT_RUNNING)
        asked: list[Page] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                if self._is_known:
                    await self._noticed(number, notice_seconds)
                await self._ask(paths, asked)
        frames = [frame for each, frame in self._heard if each > number]
        answer = self._judged(frames, asked)
        duration_ms = round((time.monotonic() - begun) * 1000)
        return DevFeedbackAnswer(
            outcome=answer.outcome, errors=answer.errors, updated=answer.updated, duration_ms=duration_ms
        )

    async def close(self) -> None:
        """Hear no more."""
        await _ended(self._task)

    async def _listen_after(self, before: asyncio.Task[None] | None, port: int) -> None:
        """Once the earlier one, of another port, hears no more."""
        await _ended(before)
        await self._listen(port)

    async def _listen(self, port: int) -> None:
        """While the dev server is ready and somebody has asked of late; connected again when cut."""
        while self._dev.state is DevState.READY and self._dev.port == port:
            left = self._asked + _KEPT_OPEN_SECONDS - time.monotonic()
            if left <= 0:
                return
            try:
                async with self._channel.opened(port) as frames:
                    self._is_known = frames is not None
                    self._connected.set()
                    if frames is None:
                        return
                    await self._hear(frames)
            except OSError as error:
                log.info("the dev server's channel was cut", extra={"data": {"reason": str(error)}})
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _hear(self, frames: Frames) -> None:
        """Until the channel ends, or nobody asks any more."""
        coming = asyncio.ensure_future(anext(frames, None))
        try:
            while (left := self._asked + _KEPT_OPEN_SECONDS - time.monotonic()) > 0:
                await asyncio.wait([coming], timeout=left)
                if coming.done():
                    if (frame := coming.result()) is None:
                        return
                    self._note(frame)
                    coming = asyncio.ensure_future(anext(frames, None))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    def _note(self, frame: Frame) -> None:
        if frame.get("type") in ("update", "full-reload", "error"):
            self._number += 1
            self._heard.append((self._number, frame))
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _noticed(self, number: int, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._number <= number:
                    await self._news.wait()

    async def _ask(self, paths: Sequence[str], asked: list[Page]) -> None:
        """For the modules among ``paths``, then for the pages that they make, as a browser would."""
        modules = [path for path in paths if is_module(path)][:_MAX_ASKED]
        wanted = [f"/{quote(path)}?import&t={time.time_ns()}" for path in modules]
        for path in [*wanted, *dict.fromkeys(map(page_of, modules))]:
            number = self._number
            with contextlib.suppress(OSError):
                asked.append(page := await self._channel.get(self._port, path, path not in wanted))
                if page.status >= 500:  # what is wrong comes by the channel, with its place
                    await self._noticed(number, _AFTER_SECONDS)
                    return

    def _judged(self, frames: Sequence[Frame], asked: Sequence[Page]) -> DevFeedbackAnswer:
        return judged(frames, asked, str(self._disk.root), self._is_known)


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def judged(frames: Sequence[Frame], asked: Sequence[Page], root: str, is_known: bool) -> DevFeedbackAnswer:
    """What frames and answers come to.

    >>> judged([{"type": "update", "updates": [{"path": "/a.css"}]}], [], "/app", True).updated
    ['/a.css']
    >>> judged([], [Page(200, "")], "/app", True).outcome
    <DevOutcome.COMPILED: 'compiled'>
    """
    errors = [error_of(frame.get("err"), root) for frame in frames if frame.get("type") == "error"]
    if not errors:
        errors = [error_in(page.text, root) for page in asked if page.status >= 500]
    kinds = {frame.get("type") for frame in frames}
    if errors:
        outcome = DevOutcome.ERROR
    elif "full-reload" in kinds:
        outcome = DevOutcome.FULL_RELOAD
    elif "update" in kinds:
        outcome = DevOutcome.UPDATE
    elif any(page.status < 400 for page in asked) and is_known:
        outcome = DevOutcome.COMPILED
    else:
        outcome = DevOutcome.SILENT if is_known else DevOutcome.NO_CHANNEL
    unique = list({(each.file, each.line, each.message): each for each in errors}.values())
    return DevFeedbackAnswer(outcome=outcome, errors=unique[:_MAX_ERRORS], updated=_updated(frames))


def _updated(frames: Sequence[Frame]) -> list[str]:
    found = [each for frame in frames for each in _list(frame.get("updates"))]
    names = [str(each["path"]) for each in found if isinstance(each, dict) and "path" in each]
    return list(dict.fromkeys(names))[:_MAX_UPDATED]


def error_of(err: object, root: str) -> DevError:
    """An error as Vite sends it.

    >>> error_of({"message": "bad", "loc": {"file": "/app/src/a.ts", "line": 3, "column": 1}}, "/app").file
    'src/a.ts'
    """
    told: Mapping[str, Any] = err if isinstance(err, dict) else {}
    loc = told.get("loc") if isinstance(told.get("loc"), dict) else {}
    place: Mapping[str, Any] = loc if isinstance(loc, dict) else {}
    file = place.get("file") or told.get("id")
    return DevError(
        message=_text(told.get("message")) or "the dev server told of an error without a message",
        file=_inside(str(file), root) if file else None,
        line=_number(place.get("line")),
        column=_number(place.get("column")),
        plugin=_text(told.get("plugin")),
        frame=_text(told.get("frame")),
    )


def error_in(page: str, root: str) -> DevError:
    """An error out of the page that stands in a module's place."""
    found = _OVERLAY.search(page)
    if found is not None:
        with contextlib.suppress(ValueError):
            return error_of(json.loads(found[1]), root)
    title = re.search(r"<title>(.*?)</title>", page, re.S)
    plain = title[1] if title else re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.S)
    return DevError(message=" ".join(plain.split())[:_MAX_TEXT] or "the dev server answered with an error")


def is_module(path: str) -> bool:
    """Whether a dev server compiles it for pages.

    >>> is_module("src/a.ts"), is_module("notes.txt"), is_module("vite.config.ts")
    (True, False, False)
    """
    name = PurePosixPath(path)
    return name.suffix in _MODULES and ".config." not in name.name and name.name != "package.json"


def page_of(path: str) -> str:
    """The page to ask for so that a module is rendered: its own route, else the first page.

    >>> page_of("src/pages/blog/index.astro"), page_of("src/pages/a b.md"), page_of("src/pages/[id].astro")
    ('/blog', '/a%20b', '/')
    """
    route = path.partition("src/pages/")[2].rpartition(".")[0]
    route = route.removesuffix("index").rstrip("/")
    return "/" if "[" in route else f"/{quote(route)}"


def _inside(file: str, root: str) -> str:
    """
    >>> _inside("/app/src/a.ts?import", "/app"), _inside("/elsewhere/b.ts", "/app")
    ('src/a.ts', '/elsewhere/b.ts')
    """
    return file.partition("?")[0].removeprefix(f"{root}/")


def _text(value: object) -> str | None:
    return _ANSI.sub("", value)[:_MAX_TEXT] if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
