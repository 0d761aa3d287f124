"""Entries of the tree moved, copied and removed, each in one step that the kernel takes whole.

What is removed or replaced goes out of the tree by a rename and is taken apart afterwards, where nobody sees
it (``removal``). What is copied is made under a temporary name beside its place and then renamed. Methods
block: they belong on a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from protocol.errors import AlreadyExists, Conflict, InvalidRequest, NotAFile, ToolError
from protocol.limits import Limits
from protocol.paths import RESERVED, ROOT, WorkspacePath, directory_above
from toolserver.system import moving
from toolserver.system.copying import Copying, held
from toolserver.system.directories import DIRECTORY
from toolserver.system.disk import Disk, refused, temporary_name
from toolserver.system.removal import remove_trash, trash_name

_TRIES = 10
"""Each is lost to another who removes at the same instant."""


class Places:
    """The acts, on one workspace; ``state`` is the tool server's own directory."""

    def __init__(self, disk: Disk, state: Path, limits: Limits) -> None:
        self._disk = disk
        self._state = state
        self._limits = limits

    def make_directory(self, path: WorkspacePath, mode: int | None, parents: bool) -> bool:
        """False when it was there already; raises AlreadyExists for something else of that name."""
        if path == ROOT:
            return False
        made = self._disk.make_directories(directory_above(path)) if parents else []
        try:
            with self._disk.parent(path) as (fd, name):
                return _made(fd, name, mode, path)
        except (OSError, ToolError) as error:
            self._disk.remove_directories(made)
            raise _told(error, path) from None

    def move(self, path: WorkspacePath, to: WorkspacePath, overwrite: bool, parents: bool) -> bool:
        """Rename; whether something was replaced."""
        self._refuse_inside_itself(path, to, "moved")
        made = self._disk.make_directories(directory_above(to)) if parents else []
        try:
            with self._disk.parent(path) as source, self._disk.parent(to) as target:
                return self._put(source, target, overwrite, to)
        except (OSError, ToolError) as error:
            self._disk.remove_directories(made)
            raise _told(error, path) from None

    def copy(
        self, path: WorkspacePath, to: WorkspacePath, overwrite: bool, parents: bool
    ) -> tuple[Copying, bool]:
        """What the copy consists of, and whether something was replaced."""
        self._refuse_inside_itself(path, to, "copied")
        copying, staged = Copying(self._limits, self._disk.room), temporary_name()
        made = self._disk.make_directories(directory_above(to)) if parents else []
        try:
            with self._disk.parent(path) as (fd, name), self._disk.parent(to) as (above, _):
                try:
                    copying.entry(fd, name, above, staged, path)
                    with self._disk.parent(to) as target:
                        return copying, self._put((above, staged), target, overwrite, to)
                except BaseException:
                    if moving.exists(above, staged):
                        self._throw_away(above, staged)
                    raise
        except (OSError, ToolError) as error:
            self._disk.remove_directories(made)
            raise _told(error, path) from None

    def remove(self, path: WorkspacePath, recursive: bool) -> None:
        """Take it out of the tree; ``empty_trash`` does the rest. Raises Conflict for a directory in use."""
        try:
            with self._disk.parent(path) as (fd, name):
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=fd)
                elif recursive:
                    self._throw_away(fd, name)
                else:
                    _remove_empty(fd, name, path)
        except OSError as error:
            raise refused(error, path) from None

    def set_mode(self, path: WorkspacePath, mode: int) -> int:
        """The permission bits before."""
        with self._disk.opened(path, os.O_PATH) as fd:
            info = os.fstat(fd)
            if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
                raise NotAFile(f"{path!r} is neither a file nor a directory; its mode stays", path=path)
            try:
                os.chmod(f"/proc/self/fd/{fd}", mode)
            except OSError as error:
                raise refused(error, path) from None
        return stat.S_IMODE(info.st_mode)

    def empty_trash(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Take apart what was removed; what ``stop`` or a kill leaves is removed at the next start."""
        for base in self._bases():
            with base as fd:
                remove_trash(fd, stop)

    def _put(self, source: tuple[int, str], target: tuple[int, str], overwrite: bool, to: str) -> bool:
        """Give ``source`` the name ``target``; what had it goes out of the tree. Whether something had."""
        try:
            _rename_new(source, target)
            return False
        except FileExistsError:
            if not overwrite:
                raise AlreadyExists(
                    f"{to!r} is there already; remove it, or say 'overwrite'", path=to
                ) from None
        if _is_directory(*source) or _is_directory(*target):
            moving.rename(source, target, moving.EXCHANGE)
            self._throw_away(*source)
        else:
            moving.rename(source, target, 0)
        return True

    def _throw_away(self, above: int, name: str) -> None:
        """Out of the tree in one step, to where names beginning with ``trash-`` are nobody's."""
        for _ in range(_TRIES):
            try:
                return self._thrown_away(above, name)
            except FileNotFoundError:
                # Else it was the root's reserved directory: who finds that empty removes it.
                if not moving.exists(above, name):
                    raise
        return self._thrown_away(above, name)

    def _thrown_away(self, above: int, name: str) -> None:
        for base in self._bases(make=True):
            with base as fd:
                try:
                    _moved_away(above, name, fd)
                    return
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
        raise OSError(errno.EXDEV, "on a file system of its own", name)

    def _bases(self, make: bool = False) -> Iterator[contextlib.AbstractContextManager[int]]:
        """Directories that hold trash: on the state directory's file system, and on the root's."""
        yield held(os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        with self._disk.top() as root:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(RESERVED, 0o700, dir_fd=root)
            try:
                reserved = os.open(RESERVED, DIRECTORY, dir_fd=root)
            except FileNotFoundError:
                if make:
                    raise
                return
            yield held(reserved)
            if not make:
                with contextlib.suppress(OSError):  # somebody keeps something there
                    os.rmdir(RESERVED, dir_fd=root)

    def _refuse_inside_itself(self, path: WorkspacePath, to: WorkspacePath, what: str) -> None:
        if ROOT in (path, to):
            raise InvalidRequest("the workspace root itself stays; name something below it", path=ROOT)
        if not stat.S_ISDIR(self._disk.stat(path).st_mode):
            if path == to:
                raise InvalidRequest(f"{path!r} cannot be {what} to itself", path=path)
            return
        source, target = f"{self._real(path)}/", f"{self._real(to)}/"
        if target.startswith(source):
            raise InvalidRequest(f"{path!r} cannot be {what} into itself, to {to!r}", path=path, to=to)

    def _real(self, path: WorkspacePath) -> str:
        """``path`` with the links above it resolved, as far as there is anything."""
        above, _, name = path.rpartition("/")
        if not above:
            return name
        try:
            return f"{self._disk.real_path(WorkspacePath(above))}/{name}".removeprefix("./")
        except ToolError:
            return f"{self._real(WorkspacePath(above))}/{name}"


def _told(error: OSError | ToolError, path: str) -> ToolError:
    if isinstance(error, ToolError):
        return error
    if error.errno == errno.EXDEV:
        return Conflict(
            f"{path!r} would change its file system on the way: copy it, then remove it", path=path
        )
    return refused(error, path)


def _made(fd: int, name: str, mode: int | None, path: str) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=fd)
    except FileExistsError:
        if _is_directory(fd, name, follow=True):
            return False
        raise AlreadyExists(f"{path!r} is there already, and is no directory", path=path) from None
    if mode is not None:  # not by mkdir, from which the umask takes bits away
        with held(os.open(name, DIRECTORY, dir_fd=fd)) as made:
            os.fchmod(made, mode)
    return True


def _remove_empty(fd: int, name: str, path: str) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise Conflict(
            f"{path!r} is a directory with something in it; say 'recursive' to remove all", path=path
        ) from None


def _moved_away(above: int, name: str, base: int) -> None:
    target = trash_name()
    try:
        moving.move(above, name, base, target)
    except OSError as error:
        # On an overlay, a directory of the image cannot be renamed at all. Elsewhere this fails the same way.
        if not moving.is_immovable(error, above, name) or os.fstat(above).st_dev != os.fstat(base).st_dev:
            raise
        moving.move_by_parts(above, name, base, target)


def _rename_new(source: tuple[int, str], target: tuple[int, str]) -> None:
    """Raises FileExistsError; where the file system knows no flags, what comes nearest."""
    try:
        moving.rename(source, target, moving.NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        (here, name), (there, new) = source, target
        if moving.exists(there, new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
        os.rename(name, new, src_dir_fd=here, dst_dir_fd=there)


def _is_directory(fd: int, name: str, *, follow: bool = False) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=follow).st_mode)
