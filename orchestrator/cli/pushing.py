"""An author's directory, followed: what changed in it goes into a running workspace.

Two looks at the directory say what changed, so nothing depends on every notice of the system arriving, and a
rename is a removal and a new file. What was pushed is remembered only once it is in place: a push that failed
is tried again with the next one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.substitution import substituted_files
from orchestrator.templates import Source, read_template
from protocol.archives import refuse_leaving_symlink
from protocol.errors import ArchiveUnsafe, Conflict, InvalidRequest, NotAFile, ToolError
from protocol.exclusions import Exclusions
from protocol.messages.archives import InjectMode
from protocol.package_managers import LOCK_FILES
from protocol.tar import Kind, Member, pack
from protocol.templates import PACKAGE_FILE, TEMPLATE_FILE, Template

if TYPE_CHECKING:
    from orchestrator.client import Client

_DEBOUNCE_MS, _STEP_MS = 100, 20
"""How long changes that follow each other are waited for. An editor's save is over in one step."""
_LOOK_MS = 500
"""Without a notice: some may be lost, as those before the watch began, and those past the kernel's queue."""
_AGAIN_SECONDS = 0.5
_READ_BYTES = 256 * 1024

Snapshot = dict[str, "Seen"]
"""By path, relative and POSIX; a directory before what is in it."""


@dataclass(frozen=True)
class Seen:
    """What is at a path, and what changes whenever its content does."""

    kind: Kind
    mode: int = 0o755
    size: int = 0
    modified_ns: int = 0
    inode: int = 0
    target: str = ""
    digest: str = ""
    """Of a file that the template's variables were put into: it changes with them too."""


@dataclass(frozen=True)
class Pushed:
    """One push, in path order."""

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


def look(directory: Path, exclusions: Exclusions) -> Snapshot:
    """What a workspace made from ``directory`` now would hold. Blocks."""
    return dict(_below(directory, "", exclusions))


def without_leaving_links(snapshot: Snapshot) -> tuple[Snapshot, list[str]]:
    """The same without links that lead out, and what is wrong with each: one must not keep the rest back.

    >>> without_leaving_links({"a": Seen(Kind.FILE), "b": Seen(Kind.SYMLINK, target="/etc/passwd")})[0].keys()
    dict_keys(['a'])
    """
    stay, wrong = {}, []
    for path, seen in snapshot.items():
        try:
            if seen.kind is Kind.SYMLINK:
                refuse_leaving_symlink(path, seen.target)
            stay[path] = seen
        except ArchiveUnsafe as error:
            wrong.append(error.message)
    return stay, wrong


def _below(directory: Path, below: str, exclusions: Exclusions) -> Iterator[tuple[str, Seen]]:
    with os.scandir(directory / below) as found:
        entries = sorted(found, key=lambda each: each.name)
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if exclusions.excludes_entry(path, is_directory):
            continue
        try:
            seen = _seen(Path(entry), entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue
        if seen is not None:
            yield path, seen
        if is_directory:
            yield from _below(directory, path, exclusions)


def _seen(path: Path, info: os.stat_result) -> Seen | None:
    if stat.S_ISDIR(info.st_mode):
        return Seen(Kind.DIRECTORY)
    if stat.S_ISLNK(info.st_mode):
        return Seen(Kind.SYMLINK, target=str(path.readlink()))
    if not stat.S_ISREG(info.st_mode):
        return None
    mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
    return Seen(Kind.FILE, mode, info.st_size, info.st_mtime_ns, info.st_ino)


def difference(before: Snapshot, now: Snapshot) -> Pushed:
    """What has to be sent, and what has to go: also what is of another kind now.

    >>> file, link = Seen(Kind.FILE, inode=1), Seen(Kind.SYMLINK, target="x")
    >>> difference({"a": file, "b": file}, {"a": file, "c": file, "b": link})
    Pushed(changed=('b', 'c'), removed=('b',))
    """
    changed = sorted(path for path, seen in now.items() if before.get(path) != seen)
    removed = sorted(path for path, seen in before.items() if path not in now or now[path].kind != seen.kind)
    return Pushed(tuple(changed), tuple(removed))


def in_the_way(removed: Collection[str], now: Snapshot) -> list[str]:
    """Those of ``removed`` whose place is taken by something of another kind, with what is in them.

    >>> in_the_way(["a", "a/x", "b"], {"a": Seen(Kind.FILE)})
    ['a', 'a/x']
    """
    gone = set(removed)
    places = {path for path in gone if path in now}
    return [path for path in removed if not places.isdisjoint(_and_above(path))]


def _and_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def archive_of(
    directory: Path,
    snapshot: Snapshot,
    paths: Collection[str],
    contents: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """A plain tar of these paths. Blocks; raises Conflict when one is not what it was any more.

    ``contents`` stand in for those of files.
    """

    def content(path: str) -> Iterator[bytes]:
        put_in = contents.get(path)
        return _content(directory / path, snapshot[path]) if put_in is None else iter([put_in])

    try:
        return b"".join(pack((_member(path, snapshot[path]), content(path)) for path in paths))
    except FileNotFoundError as error:
        raise Conflict(f"{error.filename} was removed meanwhile") from None


def _member(path: str, seen: Seen) -> Member:
    # With its own time: a server that goes by times must see that this is a later one.
    return Member(
        name=path,
        kind=seen.kind,
        size=seen.size,
        mode=seen.mode,
        mtime_ns=seen.modified_ns,
        link=seen.target,
    )


def _content(file: Path, seen: Seen) -> Iterator[bytes]:
    if seen.kind is not Kind.FILE:
        return
    with file.open("rb") as opened:
        while chunk := opened.read(_READ_BYTES):
            yield chunk


NEEDS_INSTALL = frozenset((PACKAGE_FILE, *LOCK_FILES))
"""Names at the root whose change asks for an install and a new start of the dev server."""


class Pusher:
    """One directory, and what of it a workspace has."""

    def __init__(self, source: Source) -> None:
        """Blocks. To be made before the workspace is, so that no change falls between the two."""
        self.directory = source.path
        self.template: Template = source.template
        self._started_by = source.template
        self._exclusions = source.exclusions
        self._source = source
        self._contents: dict[str, bytes] = {}
        self._pushed = self._put_in(look(self.directory, self._exclusions))
        self.left_out: list[str] = []
        """Links that lead out, and are not pushed: what to do about each."""
        self.broken = ""
        """Why template.json is not taken as it stands; empty while it is."""

    async def push(self, client: Client) -> Pushed:
        """Bring the workspace up to date, in one step but for removals; raises Conflict."""
        now = await asyncio.to_thread(self._look)
        found = difference(self._pushed, now)
        first = in_the_way(found.removed, now)
        await self._remove(client, first)
        if found.changed:
            archive = await asyncio.to_thread(archive_of, self.directory, now, found.changed, self._contents)
            await client.put_archive(archive, InjectMode.MERGE)
        # Last, so that a file that was renamed is never in neither place.
        await self._remove(client, [path for path in found.removed if path not in first])
        self._pushed = now
        return found

    async def _remove(self, client: Client, paths: Collection[str]) -> None:
        for path in sorted(paths, reverse=True):  # what is in a directory before the directory
            await _remove(client, path, self._pushed[path])

    async def differs(self) -> bool:
        """Whether there is anything to push. Asks the directory only."""
        return bool(difference(self._pushed, await asyncio.to_thread(self._look)))

    def restarts(self, pushed: Pushed) -> str:
        """What of a push the dev server has to be started anew for; empty when it has not.

        By the template that it was started by, for a push that failed has read the one of now already.
        """
        names = NEEDS_INSTALL.intersection((*pushed.changed, *pushed.removed))
        if names:
            return ", ".join(sorted(names))
        before, now = self._started_by, self.template
        started_by = (before.install_request(), before.dev_request())
        return "" if started_by == (now.install_request(), now.dev_request()) else TEMPLATE_FILE

    def restarting(self) -> Template:
        """What the dev server is started by now."""
        self._started_by = self.template
        return self.template

    async def changes(self) -> AsyncIterator[None]:
        """Whenever something may have changed: at a notice of the system, and at the latest after a while."""
        from watchfiles import awatch

        watching = awatch(
            self.directory,
            watch_filter=lambda _, path: self._counts(path),
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        )
        async for _ in watching:
            yield None

    def _counts(self, path: str) -> bool:
        relative = os.path.relpath(path, self.directory)
        return not self._exclusions.excludes(relative.replace(os.sep, "/"))

    def _look(self) -> Snapshot:
        self._read_template()
        now, self.left_out = without_leaving_links(look(self.directory, self._exclusions))
        now = self._put_in(now)
        if self.broken and TEMPLATE_FILE in self._pushed:
            now[TEMPLATE_FILE] = self._pushed[TEMPLATE_FILE]
        elif self.broken:
            now.pop(TEMPLATE_FILE, None)
        return now

    def _put_in(self, now: Snapshot) -> Snapshot:
        """With the files as they are after the template's variables were put in."""
        self._contents = substituted_files(replace(self._source, template=self.template))
        changed = {
            path: replace(now[path], size=len(content), digest=hashlib.sha256(content).hexdigest())
            for path, content in self._contents.items()
            if path in now
        }
        return {**now, **changed}

    def _read_template(self) -> None:
        try:
            self.template = read_template(self.directory)
            self._exclusions = Exclusions.default().with_rules(self.template.files.exclude)
            self.broken = ""
        except InvalidRequest as error:
            self.broken = error.message


async def _remove(client: Client, path: str, seen: Seen) -> None:
    """A directory goes only when nothing else is in it: what was built there is not the author's."""
    try:
        await client.remove(path=path, missing_ok=True)
    except (Conflict, NotAFile):
        if seen.kind is not Kind.DIRECTORY:
            raise


async def retried(pusher: Pusher, client: Client) -> Pushed:
    """Push until nothing changes under the hand; raises what is no matter of waiting."""
    while True:
        try:
            return await pusher.push(client)
        except ToolError as error:
            if not (isinstance(error, Conflict) or error.code == "busy"):
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
