"""What a path was at some moment, as a value; and what has to happen for it to be so again. Pure.

``plan`` turns "this is there, that is wanted" into the steps of one swap (see ``journal``): entries leave and
arrive whole, a directory goes only when nothing stays in it, and nothing that is not spoken of is touched.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.errors import Conflict

Identity = tuple[int, int, int]
"""Inode, time of the last change of content, time of the last change at all, both in nanoseconds."""
UNKNOWN: Identity = (0, 0, 0)


class State(NamedTuple):
    """One path at one moment."""

    mode: int
    """As stat has it, kind and bits; 0 when nothing was there."""
    size: int = 0
    content: bytes | None = None
    """A file's SHA-256, a link's target; None of a directory, and of a file whose content is not kept."""
    identity: Identity = UNKNOWN

    @property
    def exists(self) -> bool:
        """Whether anything was there."""
        return self.mode != 0

    @property
    def is_directory(self) -> bool:
        """Itself, not what a link leads to."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """A regular one."""
        return stat.S_ISREG(self.mode)

    @property
    def is_unkept(self) -> bool:
        """A file whose content was too large, or closed to us."""
        return self.is_file and self.content is None


ABSENT = State(0)
DIRECTORY = State(stat.S_IFDIR | 0o755)


def same(a: State, b: State) -> bool:
    """Whether two states look alike to who reads the tree.

    >>> same(State(0o100644, 1, b"x", (1, 2, 3)), State(0o100644, 1, b"x")), same(ABSENT, DIRECTORY)
    (True, False)
    """
    if a.mode != b.mode:
        return False
    if a.is_unkept or b.is_unkept:
        return untouched(a, b)
    return a.content == b.content


def untouched(a: State, b: State) -> bool:
    """Whether nobody has touched it between the two; a directory's times change with its names."""
    if a.is_directory or not a.exists:
        return a.mode == b.mode
    return (a.mode, a.size, as_told(a.identity)) == (b.mode, b.size, as_told(b.identity))


def left_alone(after: State, before: State) -> bool:
    """Whether nobody else touched it between a request that left it as ``after`` and the next's ``before``.

    A directory may be missing there: of two requests at once, the second has looked before the first made it.

    >>> left_alone(DIRECTORY, ABSENT), left_alone(ABSENT, DIRECTORY)
    (True, False)
    """
    return untouched(after, before) or (after.is_directory and not before.exists)


def as_told(identity: Identity) -> Identity:
    """As the file system told it: the last time is negative where the same one may come again."""
    return identity[0], identity[1], abs(identity[2])


class Change(NamedTuple):
    """One entry of the tree that changes, with all below it."""

    path: str
    leaves: bool
    arrives: bool


@dataclass
class Plan:
    """What one swap does."""

    changes: list[Change] = field(default_factory=list)
    """The parts of the tree that change places, none of them within another."""
    arriving: dict[str, State] = field(default_factory=dict)
    """All that is to be made for it, directories before what is in them."""
    modes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Directories that stay and get other bits: before, after."""

    @property
    def is_empty(self) -> bool:
        """Whether all is as wanted."""
        return not (self.changes or self.modes)


def plan(now: Mapping[str, State], wanted: Mapping[str, State], staying: Iterable[str] = ()) -> Plan:
    """From ``now`` (all that is there, as far as it matters) to ``wanted``; what it does not name stays.

    ``staying`` are paths whose content nobody knows: their directories stay, too. Raises Conflict when a file
    is wanted where such a directory is.

    >>> file = State(0o100644, 1, b"hash")
    >>> plan({"a": DIRECTORY, "a/b": file}, {"a/b": ABSENT}).changes
    [Change(path='a/b', leaves=True, arrives=False)]
    >>> plan({"a": DIRECTORY, "a/b": file}, {"a": ABSENT, "a/b": ABSENT}).changes
    [Change(path='a', leaves=True, arrives=False)]
    >>> plan({}, {"c/d": file}).changes
    [Change(path='c', leaves=False, arrives=True)]
    """
    wanted = with_directories(now, wanted)
    rest = (path for path, state in now.items() if state.exists and wanted.get(path, state).exists)
    held = above_all([*rest, *staying])
    result, left, made = Plan(), set[str](), set[str]()
    for path in sorted(wanted, key=lambda each: each.split("/")):
        _step(path, now.get(path, ABSENT), wanted[path], held, result, left, made)
    return result


def _step(
    path: str, old: State, new: State, held: set[str], result: Plan, left: set[str], made: set[str]
) -> None:
    above = path.rpartition("/")[0]
    if above in made and new.exists:  # arrives with the directory above
        result.arriving[path] = new
        made.add(path)
        return
    if above in made or above in left:  # left with it
        left.add(path)
        return
    if same(old, new):
        return
    if old.is_directory and new.is_directory:
        result.modes[path] = stat.S_IMODE(old.mode), stat.S_IMODE(new.mode)
        return
    if old.is_directory and path in held:
        if new.exists:
            raise Conflict(
                f"{path!r} is a directory now, with content that no checkpoint keeps; move it away first",
                path=path,
            )
        return
    result.changes.append(Change(path, old.exists, new.exists))
    if new.exists:
        result.arriving[path] = new
        made.add(path)
    else:
        left.add(path)


def with_directories(now: Mapping[str, State], wanted: Mapping[str, State]) -> dict[str, State]:
    """``wanted``, and the directories without which it could not be.

    >>> sorted(with_directories({"a": State(0o100644)}, {"a/b/c": State(0o100644), "x/y": ABSENT}))
    ['a', 'a/b', 'a/b/c', 'x/y']
    """
    complete = dict(wanted)
    for path in [path for path, state in wanted.items() if state.exists]:
        for above in directories_above(path):
            if not complete.get(above, now.get(above, ABSENT)).is_directory:
                complete[above] = DIRECTORY
    # What lay below a directory that becomes a file is not wanted any more.
    files = {path for path, state in complete.items() if state.exists and not state.is_directory}
    if files:
        for path in now:
            if path not in complete and any(above in files for above in directories_above(path)):
                complete[path] = ABSENT
    return complete


def above_all(paths: Iterable[str]) -> set[str]:
    """Every directory that holds one of ``paths``, but the root."""
    found: set[str] = set()
    for path in paths:
        for above in directories_above(path):
            if above in found:
                break
            found.add(above)
    return found


def directories_above(path: str) -> Iterator[str]:
    """From the nearest up, without the root.

    >>> list(directories_above("a/b/c"))
    ['a/b', 'a']
    """
    while path := path.rpartition("/")[0]:
        yield path
