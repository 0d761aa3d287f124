"""The one way to the workspace's files: every open is resolved beneath the root by the kernel.

``openat2`` with RESOLVE_BENEATH decides at open time, so no link swapped between a check and its use can
lead outside. Where it is missing (old kernels, some sandboxes), or where a link inside the workspace is
written as an absolute path, a walk by directory descriptors does the same: each step opens one name with
O_NOFOLLOW below a descriptor already held.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol.errors import (
    AlreadyExists,
    Busy,
    Forbidden,
    Internal,
    InvalidRequest,
    NoSpace,
    NotAFile,
    NotFound,
    OutsideWorkspace,
    ToolError,
)
from protocol.limits import Limits
from protocol.paths import ROOT, WorkspacePath, directory_above, is_within, workspace_path
from toolserver.system.confinement import admitted, confinement
from toolserver.system.room import NOTHING_RESERVED, Room

_SYS_OPENAT2 = 437
"""The same number on every architecture that Linux has gained a system call table for since 5.6."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_CACHED = 0x02, 0x04, 0x08, 0x20
_MAX_LINKS = 40
"""The kernel's own bound on links followed in one resolution."""
_TRIES = 10
"""Of a write: each is lost to another who made the directory that was found here, failed, and removed it."""
_TEMPORARY = ".workspace-core."
"""Begins the name of a file being written; saves leave out names that end in ``~``."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_BYTES = ctypes.sizeof(_OpenHow)
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The workspace root, held by a descriptor for the daemon's life.

    Methods block; call them from a worker thread. They raise the protocol's errors.
    """

    def __init__(self, root: Path, limits: Limits = NOTHING_RESERVED) -> None:
        self.root = root
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.room = Room(self._fd, limits)
        """Asked by whoever writes, before; by ``replace`` here."""

    @property
    def descriptor(self) -> int:
        """Of the root, for who looks at the tree on their own; it stays this object's."""
        return self._fd

    @property
    def highest(self) -> WorkspacePath:
        """The directory that the request under way sees no parent of."""
        return confinement()

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._fd)

    def path(self, raw: str) -> WorkspacePath:
        """``raw`` as a checked path, which the request under way may name."""
        return admitted(workspace_path(raw, str(self.root)))

    def open(self, path: WorkspacePath, flags: int) -> int:
        """A descriptor of ``path``, which must exist; the caller closes it."""
        try:
            return self._resolve(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise refused(error, path) from None

    @contextlib.contextmanager
    def opened(self, path: WorkspacePath, flags: int = os.O_RDONLY) -> Iterator[int]:
        """``open`` for a ``with`` statement."""
        fd = self.open(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def top(self) -> Iterator[int]:
        """The root itself, for what the tool server keeps in it, wherever the request under way may go."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: WorkspacePath) -> Iterator[tuple[int, str]]:
        """The directory that holds ``path``, as a descriptor, and the last name; refuses the root itself."""
        if path == ROOT:
            raise InvalidRequest(
                "the workspace root itself is not a file; name something below it", path=path
            )
        if path == confinement():
            raise Forbidden(f"this token is for what is below {path!r}, and not to change itself", path=path)
        with self.opened(directory_above(path), os.O_RDONLY | os.O_DIRECTORY) as fd:
            yield fd, path.rpartition("/")[2]

    def stat(self, path: WorkspacePath) -> os.stat_result:
        """What is at ``path``; a link at its end is not followed."""
        if path == confinement():
            with self.opened(path, os.O_PATH | os.O_DIRECTORY) as fd:
                return os.fstat(fd)
        try:
            with self.parent(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            raise refused(error, path) from None

    def exists(self, path: WorkspacePath) -> bool:
        """Whether there is anything at ``path``, a broken link included."""
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def read(self, path: WorkspacePath, max_bytes: int | None = None) -> tuple[bytes, os.stat_result]:
        """A regular file's content, at most one byte past ``max_bytes``, and its stat."""
        # O_NONBLOCK: a fifo of that name must not hang the thread; regular files ignore it.
        with self.opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
            info = os.fstat(fd)
            refuse_other_than_file(info, path)
            try:
                with open(fd, "rb", closefd=False) as file:
                    return file.read(-1 if max_bytes is None else max_bytes + 1), info
            except OSError as error:
                raise refused(error, path) from None

    def open_now(self, path: WorkspacePath, flags: int) -> int | None:
        """``open`` without ever waiting for a disk: None where that would be needed, or on any error."""
        if confinement() != ROOT:
            return None
        try:
            return _openat2(self._fd, path, flags | os.O_CLOEXEC, _RESOLVE_CACHED)
        except OSError:
            return None

    def read_now(
        self, path: WorkspacePath, max_bytes: int, *, follow: bool = True
    ) -> tuple[bytes, os.stat_result] | None:
        """``read`` without ever waiting for a disk: None where that would be needed, and for no small file.

        For the event loop itself. The kernel answers from its caches alone, or not at all. Unless told to
        ``follow``, a link at the end of the path is no file.
        """
        fd = self.open_now(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        if fd is None:
            return None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size > max_bytes:
                return None
            content = bytearray(info.st_size + 1)
            count = os.preadv(fd, [content], 0, os.RWF_NOWAIT)
            return (bytes(memoryview(content)[:count]), info) if count == info.st_size else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def replace(
        self, path: WorkspacePath, content: bytes, mode: int | None = None, create_parents: bool = True
    ) -> None:
        """Put ``content`` at ``path`` by rename: whole, on disk, or not at all. As ``adopt`` for the rest."""

        self.room.need(path, len(content))

        def fill(directory: int, name: str) -> int:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            try:
                with open(fd, "wb", closefd=False) as file:
                    file.write(content)
            except BaseException:
                os.close(fd)
                raise
            return fd

        self.adopt(path, fill, mode, create_parents)

    def adopt(
        self,
        path: WorkspacePath,
        fill: Callable[[int, str], int],
        mode: int | None = None,
        create_parents: bool = True,
    ) -> None:
        """Put at ``path`` the file that ``fill`` makes in a directory, under a name; it gives a descriptor.

        A link at the path is followed when it stays inside, so that the file it names is replaced and the
        link stays. Mode and owner of a replaced file are kept. What fails leaves no directory made for it.
        """
        path = self._through_links(path)
        for left in reversed(range(_TRIES)):
            made: list[WorkspacePath] = []
            try:
                made = self.make_directories(directory_above(path)) if create_parents else []
                with self.parent(path) as (fd, name):
                    _adopt_at(fd, name, fill, mode, path)
                return
            except (OSError, ToolError) as error:
                self.remove_directories(made)
                told = refused(error, path) if isinstance(error, OSError) else error
                is_lost = create_parents and not made and isinstance(told, NotFound)
                if not (left and is_lost and not self.exists(directory_above(path))):
                    raise told from None

    def remove_file(self, path: WorkspacePath) -> None:
        """Remove a file, or a link itself; raises NotAFile for a directory."""
        if stat.S_ISDIR(self.stat(path).st_mode):
            raise NotAFile(f"{path!r} is a directory; name a file in it", path=path)
        try:
            with self.parent(path) as (fd, name):
                os.unlink(name, dir_fd=fd)
        except OSError as error:
            raise refused(error, path) from None

    def real_path(self, path: WorkspacePath) -> WorkspacePath:
        """``path`` with every link on it resolved; it must exist."""
        with self.opened(path, os.O_PATH) as fd:
            return self._real_path_of(fd)

    def real_path_now(self, path: WorkspacePath) -> WorkspacePath | None:
        """``real_path`` without ever waiting for a disk: None where that would be needed, or on any error."""
        fd = self.open_now(path, os.O_PATH)
        if fd is None:
            return None
        try:
            return self._real_path_of(fd)
        except (OSError, ToolError):
            return None
        finally:
            os.close(fd)

    def file_of(self, path: WorkspacePath) -> WorkspacePath:
        """``real_path`` of what is there; ``path`` itself of what is not there yet."""
        try:
            return self.real_path(path)
        except NotFound:
            return path

    def directory(self, path: WorkspacePath) -> str:
        """The real, absolute path of a directory in the workspace, to start a program in."""
        with self.opened(path, os.O_PATH | os.O_DIRECTORY) as fd:
            return os.readlink(f"/proc/self/fd/{fd}")

    def place(self, path: WorkspacePath) -> tuple[str, str]:
        """A directory to run a program in, and what to call ``path`` there: a file by its name."""
        with self.opened(path, os.O_PATH) as fd:
            real = os.readlink(f"/proc/self/fd/{fd}")
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return real, "."
        return os.path.split(real)

    def names(self, path: WorkspacePath) -> frozenset[str]:
        """The names in a directory."""
        with self.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            return frozenset(os.listdir(fd))

    def _real_path_of(self, fd: int) -> WorkspacePath:
        with_root = os.readlink(f"/proc/self/fd/{self._fd}")
        return workspace_path(os.readlink(f"/proc/self/fd/{fd}"), with_root)

    def _through_links(self, path: WorkspacePath) -> WorkspacePath:
        try:
            if not stat.S_ISLNK(self.stat(path).st_mode):
                return path
        except NotFound:
            return path
        try:
            return self.real_path(path)
        except NotFound:
            raise NotFound(
                f"{path!r} is a link to something that is not there; write that, or remove the link",
                path=path,
            ) from None

    def make_directories(self, directory: WorkspacePath) -> list[WorkspacePath]:
        """Make what is missing on the way to ``directory``; which those are, the highest first."""
        made: list[WorkspacePath] = []
        try:
            self._make_directories(directory, made)
        except (OSError, ToolError) as error:
            self.remove_directories(made)
            if isinstance(error, OSError):
                raise refused(error, directory) from None
            raise
        return made

    def _make_directories(self, directory: WorkspacePath, made: list[WorkspacePath]) -> None:
        """Make what is missing on the way to ``directory``, and note it in ``made``."""
        if directory == ROOT:
            return
        try:
            with self.opened(directory, os.O_PATH | os.O_DIRECTORY):
                return
        except NotFound:
            self._make_directories(directory_above(directory), made)
        with self.parent(directory) as (fd, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=fd)
            made.append(directory)

    def remove_directories(self, made: list[WorkspacePath]) -> None:
        """Remove them again, the deepest first; one that somebody has used meanwhile stays."""
        for directory in reversed(made):
            with contextlib.suppress(OSError, ToolError), self.parent(directory) as (fd, name):
                os.rmdir(name, dir_fd=fd)

    def _resolve(self, path: WorkspacePath, flags: int) -> int:
        prefix = confinement()
        if prefix == ROOT:
            return self._resolve_below(self._fd, path, flags, prefix)
        if not is_within(path, (prefix,)):
            raise OSError(errno.EXDEV, "leads out of what the token is for")
        # The kernel holds a confined request below its own directory as it holds others below the root.
        base = self._base(prefix)
        try:
            return self._resolve_below(base, _below(path, prefix), flags, prefix)
        finally:
            os.close(base)

    def _base(self, prefix: WorkspacePath) -> int:
        """The directory that a confined request may not leave; a link in its place is none."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return _openat2(self._fd, prefix, flags, _RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
        return self._walk(self._fd, prefix, flags, ROOT)

    def _resolve_below(self, base: int, path: str, flags: int, prefix: WorkspacePath) -> int:
        """``path`` beneath the directory ``base``, which is ``prefix`` in the workspace."""
        try:
            return _openat2(base, path, flags)
        except OSError as error:
            # EXDEV: the way leads outside, or over an absolute link that may point back inside.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EAGAIN):
                raise
        return self._walk(base, path, flags, prefix)

    def _walk(self, base: int, path: str, flags: int, prefix: WorkspacePath) -> int:
        """Resolve name by name. ``held`` is the way down from ``base``, so that ``..`` never climbs above."""
        names = list(reversed(path.split("/")))
        held: list[int] = []
        links = 0
        try:
            while names:
                name = names.pop()
                here = held[-1] if held else base
                if name in ("", "."):
                    continue
                if name == "..":
                    if not held:
                        raise OSError(errno.EXDEV, "climbs out")
                    os.close(held.pop())
                    continue
                info = os.stat(name, dir_fd=here, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, "too many links")
                    target = os.readlink(name, dir_fd=here)
                    if target.startswith("/"):
                        target = self._inside(target, prefix)
                        while held:
                            os.close(held.pop())
                    names.extend(reversed(target.split("/")))
                elif any(part not in ("", ".") for part in names):
                    held.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here))
                else:
                    return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
            return os.open(".", flags | os.O_NOFOLLOW, dir_fd=held[-1] if held else base)
        finally:
            for fd in held:
                os.close(fd)

    def _inside(self, target: str, prefix: WorkspacePath) -> str:
        """An absolute link's target as a path below ``prefix``."""
        with contextlib.suppress(ToolError):
            path = workspace_path(target, str(self.root))
            if is_within(path, (prefix,)):
                return _below(path, prefix)
        raise OSError(errno.EXDEV, "leads outside")


def _below(path: WorkspacePath, prefix: WorkspacePath) -> str:
    """What ``path``, which is within ``prefix``, is called there."""
    return path if prefix == ROOT else path[len(prefix) + 1 :] or ROOT


@functools.lru_cache(maxsize=64)
def _how(flags: int, resolve: int) -> Any:
    """Kept, because to make one takes as long as the call. The system only reads it."""
    return ctypes.byref(_OpenHow(flags, 0, resolve))


def _openat2(directory: int, path: str, flags: int, resolve: int = 0) -> int:
    how = _how(flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | resolve)
    fd: int = _libc.syscall(_SYS_OPENAT2, directory, os.fsencode(path), how, _HOW_BYTES)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def _adopt_at(
    directory: int, name: str, fill: Callable[[int, str], int], mode: int | None, path: WorkspacePath
) -> None:
    old: os.stat_result | None = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(name, dir_fd=directory, follow_symlinks=False)
        refuse_other_than_file(old, path)
    temporary = temporary_name()
    try:
        fd = fill(directory, temporary)
        try:
            keep_mode_and_owner(fd, old, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def temporary_name() -> str:
    """A new name for something that is being made; saves leave it out."""
    return f"{_TEMPORARY}{secrets.token_hex(8)}~"


def is_temporary(name: str) -> bool:
    """Whether it is such a name.

    >>> is_temporary(temporary_name()), is_temporary("draft~")
    (True, False)
    """
    return name.startswith(_TEMPORARY) and name.endswith("~")


def keep_mode_and_owner(fd: int, old: os.stat_result | None, mode: int | None) -> None:
    """Give the open file those of ``old``, which it is to replace; ``mode`` if one is wanted."""
    if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        # Without the right to give files away the new file is ours; its content is what was asked for.
        with contextlib.suppress(PermissionError):
            os.fchown(fd, old.st_uid, old.st_gid)
    kept = stat.S_IMODE(old.st_mode) if old is not None else 0o644
    os.fchmod(fd, kept if mode is None else mode & 0o777)


def refuse_other_than_file(info: os.stat_result, path: str) -> None:
    """Raise NotAFile for a directory, and for what has no content."""
    if stat.S_ISDIR(info.st_mode):
        raise NotAFile(f"{path!r} is a directory; name a file in it, or use 'list'", path=path)
    if not stat.S_ISREG(info.st_mode):
        raise NotAFile(f"{path!r} is neither a file nor a directory, so it has no content to read", path=path)


_KINDS: dict[int, tuple[type[ToolError], str]] = {
    errno.ENOENT: (NotFound, "there is nothing at {path!r}; 'list' shows what there is"),
    errno.ENOTDIR: (NotFound, "{path!r}, or a name on the way to it, is not a directory"),
    errno.EISDIR: (NotAFile, "{path!r} is a directory; name a file in it"),
    errno.EXDEV: (OutsideWorkspace, "{path!r} leads outside the workspace over a link"),
    errno.ELOOP: (
        OutsideWorkspace,
        "{path!r} goes over links that lead in a circle or outside the workspace",
    ),
    errno.EACCES: (Forbidden, "the workspace's user may not do that with {path!r}; see its mode with 'stat'"),
    errno.EPERM: (Forbidden, "the system does not allow that with {path!r}"),
    errno.EROFS: (Forbidden, "{path!r} is on a read-only file system"),
    errno.EEXIST: (AlreadyExists, "{path!r} is there already"),
    errno.ENAMETOOLONG: (InvalidRequest, "a name in {path!r} is too long for the file system"),
    errno.EINVAL: (InvalidRequest, "the file system does not take the name {path!r}"),
    errno.ENOSPC: (NoSpace, "no space is left for {path!r}; nothing was changed. Remove files and try again"),
    errno.EDQUOT: (NoSpace, "the quota is used up, no room for {path!r}; nothing was changed"),
    errno.EMFILE: (Busy, "too many files are open at the moment; try again"),
    errno.ENFILE: (Busy, "too many files are open on this machine; try again"),
}


def refused(error: OSError, path: str) -> ToolError:
    """The protocol's error for one of the system's."""
    kind, sentence = _KINDS.get(error.errno or 0, (Internal, "{path!r}: {reason}"))
    return kind(sentence.format(path=path, reason=error.strerror), path=path)
