"""Changes of the tree as they happen: numbered, kept for a while, exact.

The kernel's notices name suspects; the index looks at them on a thread and says what became of each. Whoever
follows holds a number and asks for what came after it, so a slow one delays nobody: when the past that it
needs is gone, it is told to look at everything again (``Resync``).

Numbers go on from the microsecond of the start: one of an earlier daemon is always too old to be followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from protocol.errors import Unavailable
from protocol.limits import Limits
from toolserver.system.inotify import (
    ATTRIB,
    CONTENT,
    CREATE,
    IGNORED,
    IS_DIRECTORY,
    MOVED_TO,
    OVERFLOW,
    Inotify,
    Notice,
)
from toolserver.system.settling import Settling
from toolserver.system.threads import until_done, whole
from toolserver.system.touching import Marks
from toolserver.system.tree_index import Change, Entry, Look, TooMany, TreeIndex

_BLIND_SECONDS = 5.0
"""Between two looks at everything, where the system grants no watch for every directory."""
_NO_MORE = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

log = logging.getLogger("toolserver.watcher")


@dataclass(frozen=True)
class Numbered:
    """A change, its number, and the request that made it, when it was one of ours."""

    number: int
    change: Change
    request_id: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """All files at one moment; whoever has it may look at it on any thread."""

    version: int
    """Another one when something came, went, or moved, or an entry became another."""
    files: Mapping[str, Entry]


class Watcher:
    """The changes below ``root`` (a descriptor that stays the caller's). Belongs to the event loop.

    It starts with the first who asks: a workspace that nobody follows costs neither memory nor watches.
    """

    def __init__(self, root: int, limits: Limits) -> None:
        self.number = time.time_ns() // 1000
        """Of the newest change."""
        self._marks = Marks()
        self._root = root
        self._limits = limits
        self._past: deque[Numbered] = deque(maxlen=limits.max_kept_changes)
        self._oldest = self.number
        """Whoever knows everything up to here can be told the rest."""
        self._inotify: Inotify | None = None
        self._index: TreeIndex | None = None
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._blind = False
        """Some directories could not be watched."""
        self._suspects: dict[str, Look] = {}
        self._overflowed = False
        self._snapshot: Snapshot | None = None
        self._starting: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._looking = asyncio.Lock()
        self._told = asyncio.Event()
        self._noticed = asyncio.Event()
        self._settling = Settling()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, unless begun; afterwards every change has a number. Raises Unavailable, with the way out."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """End."""
        tasks = [task for task in (self._starting, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._looking:  # a look under way ends first: it holds descriptors of ours
            if self._inotify is not None:
                asyncio.get_running_loop().remove_reader(self._inotify.fd)
                self._inotify.close()
                self._inotify = None

    async def index(self) -> TreeIndex:
        """What is there, up to date with all that happened before this call."""
        await self.start()
        await self._take_all_notices()
        if self._blind:
            self._suspects[""] = Look.INTO
        await self._look()
        if self._index is None:  # given up while this one waited for its look
            assert self._failure is not None
            raise self._failure
        return self._index

    async def entries(self) -> dict[str, Entry]:
        """A copy of what is there, as ``index``; taken between two looks: within one, some is missing."""
        index = await self.index()
        async with self._looking:
            return await whole(dict, index.entries)

    async def snapshot(self) -> Snapshot:
        """What is there, up to date with all that happened before this call."""
        index = await self.index()
        async with self._looking:
            if self._snapshot is None or self._snapshot.version != index.version:
                files = await whole(index.regular_files)
                self._snapshot = Snapshot(index.version, files)
            return self._snapshot

    def since(self, number: int) -> list[Numbered] | None:
        """What came after ``number``; None when that is not known any more."""
        if not self._oldest <= number <= self.number:
            return None
        return [each for each in self._past if each.number > number]

    async def wait_past(self, number: int) -> None:
        """Until there is something after ``number``, or what came after it is lost. Raises Unavailable."""
        while self.number <= number and self._oldest <= number:
            await self._told.wait()
            if self._starting is None and isinstance(self._failure, Unavailable):
                raise self._failure

    @contextlib.contextmanager
    def touching(self, request_id: str, paths: tuple[str, ...]) -> Iterator[None]:
        """Around what a request does to these paths and what is below them: its changes are its own."""
        self._marks.begin(request_id, paths)
        try:
            yield
        finally:
            self._marks.end(request_id)
            self._take_notices()
            if not self._suspects and not self._looking.locked():
                self._marks.forget()

    async def _start(self) -> None:
        try:
            self._inotify = Inotify()
        except OSError as error:
            told = Unavailable(
                f"the system grants no more change notices ({error.strerror}): raise "
                "fs.inotify.max_user_instances, or stop another workspace"
            )
            self._give_up(told)
            raise told from error
        index = TreeIndex(self._root, self._limits.max_indexed_entries, self._watch, self._unwatch)
        try:
            async with self._looking:
                await whole(index.fill)
        except BaseException as error:
            failure = self._too_many() if isinstance(error, TooMany) else error
            self._give_up(failure)
            raise failure from None
        self._index = index
        asyncio.get_running_loop().add_reader(self._inotify.fd, self._take_notices)
        self._task = asyncio.create_task(self._run())

    def _give_up(self, error: BaseException) -> None:
        """End it for everybody who follows; the next one to ask begins anew."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
        self._inotify = self._index = self._starting = self._snapshot = None
        self._paths.clear()
        self._watches.clear()
        self._failure = error
        self._forget_past()

    async def _run(self) -> None:
        """Look whenever something was noticed; and now and then, where not everything can be."""
        while True:
            with contextlib.suppress(TimeoutError):
                # What a look that failed has left is looked at again, but not at once.
                again = self._blind or self._suspects
                async with asyncio.timeout(_BLIND_SECONDS if again else None):
                    await self._noticed.wait()
            if self._blind:
                self._suspects.setdefault("", Look.INTO)
            await self._settling.gather()
            self._noticed.clear()
            try:
                await self._look()
            except Unavailable as error:
                log.error("changes are followed no more", extra={"data": {"reason": error.message}})
                self._give_up(error)
                return
            except OSError as error:
                log.warning("a look at the tree failed", extra={"data": {"reason": str(error)}})
                self._noticed.clear()

    async def _look(self) -> None:
        """Take all suspects and tell what became of them; also when who asked for it is cancelled."""
        async with self._looking:
            suspects, self._suspects = self._suspects, {}
            overflowed, self._overflowed = self._overflowed, False
            self._settling.look()
            if not suspects or self._index is None:
                return
            begun = time.monotonic()
            work = asyncio.ensure_future(asyncio.to_thread(self._index.refresh, suspects))
            try:
                await until_done(work)
            finally:
                self._settling.looked(time.monotonic() - begun)
                self._looked(work, overflowed)
            if isinstance(work.exception(), TooMany):
                raise self._too_many() from None
            work.result()

    def _looked(self, work: asyncio.Future[list[Change]], overflowed: bool) -> None:
        if work.cancelled() or work.exception() is not None:
            # What was found went with it: all is looked at again, and who follows is told to do so, too.
            self._suspects[""] = Look.INTO
            self._overflowed = True
            self._noticed.set()
            return
        self._tell(work.result(), overflowed)
        if not self._suspects:
            self._marks.forget()

    def _tell(self, changes: list[Change], overflowed: bool) -> None:
        for change in changes:
            self.number += 1
            self._past.append(Numbered(self.number, change, self._marks.request_of(change)))
        if len(self._past) == self._past.maxlen:
            self._oldest = max(self._oldest, self._past[0].number - 1)
        if overflowed:
            # A write that left times and size alone went unseen: nobody may believe that this is all.
            self._forget_past()
        if changes or overflowed:
            told, self._told = self._told, asyncio.Event()
            told.set()

    def _forget_past(self) -> None:
        self.number += 1
        self._oldest = self.number
        self._past.clear()
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def _take_all_notices(self) -> None:
        """Those of all that has happened: of a thousand files they may be more than one read gives."""
        left = 0 if self._inotify is None else self._inotify.waiting()
        while left > 0 and (taken := self._take_notices()):
            left -= taken
            if left > 0:
                await asyncio.sleep(0)  # the others' turn

    def _take_notices(self) -> int:
        """One read of them; their size."""
        if self._inotify is None:
            return 0
        notices, size = self._inotify.read()
        for notice in notices:
            self._take(notice)
        if self._suspects:
            self._noticed.set()
        self._settling.weigh(under_way=self._marks.any_open)
        return size

    def _take(self, notice: Notice) -> None:
        if notice.mask & OVERFLOW:
            self._overflowed = True
            self._suspects[""] = Look.INTO
            self._settling.expect_more()
            return
        if notice.mask & IGNORED:
            path = self._paths.pop(notice.watch, None)
            if path is not None and self._watches.get(path) == notice.watch:
                del self._watches[path]
            return
        above = self._paths.get(notice.watch)
        if above is None or (notice.mask & ATTRIB and notice.mask & IS_DIRECTORY):
            return
        path = f"{above}/{notice.name}" if above else notice.name
        self._suspects[path] = self._suspects.get(path, Look.AGAIN) | _why(notice.mask)
        self._settling.notice(path, notice.mask, self._index.entries if self._index is not None else ())

    def _watch(self, path: str, fd: int) -> None:
        """Called on the index's thread, before it reads the directory."""
        if self._inotify is None:
            return
        try:
            watch = self._inotify.add(fd)
        except OSError as error:
            if error.errno not in _NO_MORE:
                return
            if not self._blind:
                data = {"reason": str(error)}
                log.warning("some directories are only looked at now and then", extra={"data": data})
            self._blind = True
            return
        self._watches[path] = watch
        self._paths[watch] = path

    def _unwatch(self, path: str) -> None:
        watch = self._watches.pop(path, None)
        # A directory that moved keeps its watch, which is that of its new path by now.
        if watch is not None and self._paths.get(watch) == path:
            del self._paths[watch]
            if self._inotify is not None:
                self._inotify.remove(watch)

    def _too_many(self) -> Unavailable:
        most = self._limits.max_indexed_entries
        return Unavailable(
            f"the workspace has more than {most} entries to follow; raise maxIndexedEntries",
            limit="maxIndexedEntries",
            value=most,
        )


def _why(mask: int) -> Look:
    """
    >>> _why(CREATE | IS_DIRECTORY), _why(CONTENT), _why(ATTRIB)
    (<Look.INTO: 2>, <Look.WRITTEN: 1>, <Look.AGAIN: 0>)
    """
    if mask & IS_DIRECTORY:
        return Look.INTO if mask & (CREATE | MOVED_TO) else Look.AGAIN
    return Look.WRITTEN if mask & CONTENT else Look.AGAIN
