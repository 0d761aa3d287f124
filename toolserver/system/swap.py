"""A staged tree takes the place of the workspace's content, whole or not at all.

    open -> stage into the directory -> replace | merge -> discard           recover, before anything else

The root directory itself stays: mounts, watchers, working directories and access rules hang on its inode. So
its entries change places one by one, by renames, under a journal (see ``journal``): an error takes them back
at once, and after a kill ``recover`` does, at the next start. Never is a mixture left.

Renames need the staging on the root's own file system, and not across a mount. Where a trial rename from the
state directory works, the staging lies there; else in the root's own reserved directory, which no operation
shows. What a power cut does is up to the file system: the journal is synced, the staged files are not.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from protocol.errors import Busy, Conflict, Forbidden, Internal, NoSpace, ToolError
from protocol.paths import RESERVED
from protocol.tar import shown
from toolserver.system import swap_steps
from toolserver.system.directories import DIRECTORY
from toolserver.system.journal import NEW, OLD, Area, DamagedJournal, Step
from toolserver.system.removal import left_where_read_only, remove_trash, trash_name

_AREA = "swap"
_TRIAL = "trial"
"""Not trash by its name: somebody else might remove it at the wrong moment."""
_DAMAGED = "damaged-"
_TRIES = 10
"""Each is lost to another who removes at the same instant."""
_LOST_AND_FOUND = "lost+found"
"""A file system's own at its top; nobody may move it."""


class Recovery(enum.Enum):
    """What ``recover`` found."""

    NOTHING = "nothing"
    UNDONE = "undone"
    """A swap had been broken off; the old tree is back."""
    DAMAGED = "damaged"
    """A journal that cannot be read: what lay with it was set aside, and the root is left as it is."""


def recover(root: Path, state: Path, stop: Callable[[], bool] = lambda: False) -> Recovery:
    """Take back what a killed swap has left half done, and remove its litter. Raises Busy while one runs.

    Litter goes until ``stop`` says so; what is left is trash, and in nobody's way. ``root`` must exist;
    ``state`` is made if need be. Litter on a read-only root stays; a swap that is half done there raises
    OSError, for nobody is to be shown a mixture.
    """
    with contextlib.ExitStack() as stack:
        root_fd, state_fd = _opened(root, stack), _opened_state(state, stack)
        _lock(state_fd)
        return _recover(root_fd, state_fd, stop)


class Staging:
    """One swap of the content of ``root``; ``state`` is the tool server's own directory. A context manager.

    ``discard`` always comes last, after a swap as well as instead of one. Call from a worker thread.
    Once ``stop`` says so, what is left to remove is left to the next start.
    """

    def __init__(self, root: Path, state: Path, stop: Callable[[], bool] = lambda: False) -> None:
        self._root_path, self._state_path, self._stop = root, state, stop
        self._stack = contextlib.ExitStack()
        self._root = self._state = self._base = -1
        self._area: Area | None = None

    def open(self) -> Path:
        """The empty directory to stage into, until ``discard``. Raises Busy, NoSpace, Forbidden.

        In the root its path goes by way of a descriptor: programs of the workspace could put a link there.
        """
        with _told("stage the new content"), contextlib.ExitStack() as stack:
            self._root = _opened(self._root_path, stack)
            self._state = state = _opened_state(self._state_path, stack)
            _lock(state)
            _recover(self._root, state, self._stop)
            is_beside = can_rename(state, self._root)
            self._base, self._area = _begun(self._root, state if is_beside else None, stack)
            self._stack = stack.pop_all()
        return (self._state_path / _AREA if is_beside else Path(f"/proc/self/fd/{self._area.fd}")) / NEW

    def replace(self) -> None:
        """The staged tree is the content; what was there is trash."""
        kept = {RESERVED}
        if os.path.ismount(self._root_path):
            kept.add(_LOST_AND_FOUND)
        area = self._opened()
        self._swap(area, swap_steps.replacing(self._root, area.new, frozenset(kept)))

    def merge(self) -> None:
        """The staged tree is laid over the content; what it does not name stays."""
        area = self._opened()
        self._swap(area, swap_steps.merging(self._root, area.new))

    def change(self, steps: list[Step], modes: Mapping[str, tuple[int, int]]) -> None:
        """These entries alone change places; ``modes`` are bits before and after of directories that stay."""
        bits = [Step(os.fsencode(path), False, False, before) for path, (before, _) in modes.items()]
        self._swap(self._opened(), [*bits, *steps], {path: after for path, (_, after) in modes.items()})

    def put(self, plan: Callable[[int, int], tuple[list[Step], Mapping[str, tuple[int, int]]]]) -> None:
        """What ``plan`` makes of the root and the staged tree, both descriptors: as ``change`` takes it."""
        self.change(*plan(self._root, self._opened().new))

    def discard(self) -> None:
        """Remove what was staged and not put in place, and what was replaced. Does nothing twice."""
        area, self._area = self._area, None
        if area is not None and not area.is_unfinished():  # else it is all there is of the old content
            self._let_go()
            remove_trash(self._base, self._stop)
            _remove_reserved(self._root)
        self._stack.close()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _opened(self) -> Area:
        if self._area is None:
            raise RuntimeError("open the staging first")
        return self._area

    def _swap(self, area: Area, steps: list[Step], modes: Mapping[str, int] | None = None) -> None:
        step = None
        try:
            area.begin(steps)
            for number, step in enumerate(steps):
                area.apply(number, step)
            area.set_modes(modes or {})
            area.commit()
        except BaseException as error:
            _take_back(area)
            if isinstance(error, OSError):
                raise _refusal(error, step.name if step else None) from error
            raise
        with contextlib.suppress(OSError):  # it has happened: ``discard`` tries this again
            self._let_go()

    def _let_go(self) -> None:
        """What is left is trash, and in nobody's way: the next swap may begin."""
        if self._state >= 0:
            _throw_away(self._base)
            fcntl.flock(self._state, fcntl.LOCK_UN)
            self._state = -1


def _take_back(area: Area) -> None:
    try:
        area.undo()
    except OSError as error:
        message = f"the old content could not be put back wholly ({error.strerror}); restart the tool server"
        raise Internal(message) from error


def _recover(root: int, state: int, stop: Callable[[], bool] = lambda: False) -> Recovery:
    with contextlib.suppress(OSError):
        os.rmdir(_TRIAL, dir_fd=state)
    found = _recover_base(root, state, stop)
    with contextlib.ExitStack() as stack:
        try:
            reserved = os.open(RESERVED, DIRECTORY, dir_fd=root)
        except (FileNotFoundError, NotADirectoryError):
            return found
        stack.callback(os.close, reserved)
        inside = _recover_base(root, reserved, stop)
    _remove_reserved(root)
    return inside if found is Recovery.NOTHING else found


def _recover_base(root: int, base: int, stop: Callable[[], bool]) -> Recovery:
    outcome = _undone(root, base)
    with left_where_read_only():
        if outcome is Recovery.DAMAGED:
            os.rename(_AREA, _DAMAGED + trash_name(), src_dir_fd=base, dst_dir_fd=base)
        else:
            _throw_away(base)
        remove_trash(base, stop)
    return outcome


def _undone(root: int, base: int) -> Recovery:
    with contextlib.ExitStack() as stack:
        try:
            area = stack.enter_context(Area(_entered(base, _AREA, stack), root))
        except FileNotFoundError:  # the journal comes after all of these, so there is none
            return Recovery.NOTHING
        except NotADirectoryError:
            return Recovery.DAMAGED
        try:
            return Recovery.UNDONE if area.undo() else Recovery.NOTHING
        except DamagedJournal:
            return Recovery.DAMAGED


def _new_area(base: int, root: int, stack: contextlib.ExitStack) -> Area:
    os.mkdir(_AREA, 0o700, dir_fd=base)
    fd = _entered(base, _AREA, stack)
    for name in (NEW, OLD):
        os.mkdir(name, 0o700, dir_fd=fd)
    return stack.enter_context(Area(fd, root))


def _throw_away(base: int) -> None:
    """Make the area trash, in one step."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(_AREA, trash_name(), src_dir_fd=base, dst_dir_fd=base)


def can_rename(state: int, root: int) -> bool:
    """By trying: two mounts of one file system look alike and still refuse."""
    name = _TRIAL
    os.mkdir(name, 0o700, dir_fd=state)
    try:
        # To the reserved name, which watchers and listings pass over.
        os.rename(name, RESERVED, src_dir_fd=state, dst_dir_fd=root)
    except OSError as error:
        os.rmdir(name, dir_fd=state)
        # Something of that name was found there, so the way is open.
        return error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
    # Who looks there for trash at this moment removes it when it is empty.
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(RESERVED, dir_fd=root)
    return True


def _begun(root: int, state: int | None, stack: contextlib.ExitStack) -> tuple[int, Area]:
    """The directory that the area is in, the root's own where that is not ``state``; and the area."""
    if state is not None:
        return state, _new_area(state, root, stack)
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return _begun_inside(root, stack)
    return _begun_inside(root, stack)


def _begun_inside(root: int, stack: contextlib.ExitStack) -> tuple[int, Area]:
    """Raises FileNotFoundError where who takes trash apart there has just found it empty, and removed it."""
    with contextlib.ExitStack() as begun:
        base = _reserved(root, begun)
        area = _new_area(base, root, begun)
        stack.push(begun.pop_all())
    return base, area


def _reserved(root: int, stack: contextlib.ExitStack) -> int:
    """The tool server's own directory in the root, made if need be; what else has its name must go."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(RESERVED, dir_fd=root)
    with contextlib.suppress(FileExistsError):
        os.mkdir(RESERVED, 0o700, dir_fd=root)
    return _entered(root, RESERVED, stack)


def _remove_reserved(root: int) -> None:
    """Leave no trace in the root, unless something is kept there."""
    with contextlib.suppress(OSError):
        os.rmdir(RESERVED, dir_fd=root)


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _opened_state(path: Path, stack: contextlib.ExitStack) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _opened(path, stack)


def _entered(above: int, name: str, stack: contextlib.ExitStack) -> int:
    fd = os.open(name, DIRECTORY, dir_fd=above)
    stack.callback(os.close, fd)
    return fd


def _lock(state: int) -> None:
    """Until the stack closes ``state``; the kernel lets go when the process dies."""
    try:
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy("another archive is being put into this workspace; wait for it") from None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(error, None, what) from error


def _refusal(error: OSError, path: str | None, what: str = "put the new content in place") -> ToolError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(f"no space is left to {what}; nothing was changed")
    reason = os.strerror(error.errno or errno.EIO)
    if path is None and error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return Forbidden(f"could not {what}: {reason}; nothing was changed")
    if path is None or error.errno not in _IN_THE_WAY:
        return Internal(f"could not {what}: {reason}; nothing was changed")
    return Conflict(f"could not {what}: {shown(path)!r}: {reason}; nothing was changed", path=shown(path))


_IN_THE_WAY = {
    errno.EACCES,
    errno.EBUSY,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EXDEV,
}
"""What the content itself does: a mount in it, somebody who writes into it at this moment, another's file."""
