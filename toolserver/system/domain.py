"""What commands may not do to the daemon, and by which means they are kept from it: decided without a look.

    wish    the machine                                     the tier reached
    none    any                                             none: nothing is done
    auto    filters of system calls, Landlock 6 or newer    full
    auto    Landlock 2 or newer                             files: as full, but for signals and sockets
    auto    neither                                         basic: no new privileges, and memory closed
    full    not all of full's properties                    no start; likewise files and basic

A command user of their own (``TOOL_SERVER_COMMAND_USER``) is beside that, in any tier.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from protocol.landlock import MIN_ABI, SCOPE_ABI

VARIABLE = "TOOL_SERVER_SEPARATION"
USER_VARIABLE = "TOOL_SERVER_COMMAND_USER"

Rule = tuple[str, str]
"""A kind of ``protocol.landlock.KINDS``, and a path."""


class Wish(enum.Enum):
    """What was asked for, and what is reached; the values are those of the variable."""

    AUTO = "auto"
    FULL = "full"
    FILES = "files"
    BASIC = "basic"
    NONE = "none"


@dataclass(frozen=True)
class User:
    """Whom commands run as, by numbers."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Places:
    """Absolute paths, links resolved."""

    hidden: tuple[str, ...] = ()
    """The daemon's own area, and stores that several workspaces are filled from."""
    shown: tuple[str, ...] = ()
    """Within it, what kept shells and programs need."""
    kept: tuple[str, ...] = ()
    """The daemon's programs: to be read and run."""
    lent: tuple[str, ...] = ()
    """What else is to be reached where directories above it cannot be listed."""
    free: tuple[str, ...] = ()
    """Root, HOME, TMPDIR: what is in there is the commands', also what is made later."""


@dataclass(frozen=True)
class Facts:
    """What the machine offers, and what holds on it."""

    abi: int = 0
    """Landlock's version; 0 when there is none."""
    filter: bool = False
    """System calls can be filtered."""
    root: bool = False
    """The daemon is root."""
    traces: bool = False
    """Programs started as root could read any process's memory, and that cannot be taken from them."""
    user: User | None = None
    """Another user for commands, that was asked for."""
    dumpable: bool = False
    """The daemon's memory could not be closed."""


@dataclass(frozen=True)
class Property:
    """One thing that a command cannot do, or can."""

    name: str
    holds: bool
    why: str
    """By which means, or what is missing, as a clause."""


def separable(places: Places) -> Places:
    """Without what cannot be had: to hide or keep something is to list all that lies beside it, and what is
    made there later is out of reach. Where people work (``free``) that would break things.

    >>> separable(Places(hidden=("/home/me/.state",), kept=("/tools",), free=("/home/me",))).hidden
    ()
    """
    hidden = tuple(path for path in places.hidden if not _lies_in(path, places.free))
    kept = tuple(path for path in places.kept if not _lies_in(path, places.free))
    return replace(places, hidden=hidden, kept=kept)


def rules(places: Places, children: Callable[[str], Iterable[str]]) -> Iterator[Rule]:
    """All that there is, but for what is hidden, and to be written but for what is kept.

    Landlock only ever grants, and on a directory with all that is in it. So on the way to what is to be left
    out, everything beside it is granted; nothing new can be made in such a
    directory, and names can be listed in all of it.

    >>> tree = {"/": ["app", "tools", "var"], "/var": ["log", "state"]}
    >>> sorted(rules(Places(hidden=("/var/state",), kept=("/tools",)), tree.get))
    [('all', '/app'), ('all', '/var/log'), ('list', '/'), ('list', '/var'), ('read', '/tools')]
    >>> list(rules(Places(), tree.get))
    [('all', '/')]
    """
    for path in ("/", *places.lent):
        yield from _below(path, places, children)
    yield from (("read", path) for path in places.kept)
    for path in (*places.free, *places.shown):
        yield "all", path


def _below(path: str, places: Places, children: Callable[[str], Iterable[str]]) -> Iterator[Rule]:
    if _lies_in(path, places.hidden) or path in places.kept:
        return
    if _lies_in(path, places.kept):
        yield "read", path
    elif any(_lies_in(each, (path,)) for each in (*places.hidden, *places.kept)):
        yield "list", path
        for name in children(path):
            yield from _below(os.path.join(path, name), places, children)
    else:
        yield "all", path


def _lies_in(path: str, directories: Iterable[str]) -> bool:
    """Whether ``path`` lies in one of them, or is it.

    >>> _lies_in("/a/b", ["/a"]), _lies_in("/ab", ["/a"]), _lies_in("/a", ["/"])
    (True, False, True)
    """
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def properties(wish: Wish, facts: Facts, places: Places) -> tuple[Property, ...]:
    """What holds. ``places`` are those that were wished for, before ``separable``."""
    if wish is Wish.NONE:
        return tuple(Property(name, False, f"{VARIABLE}=none was asked for") for name in _NAMES)
    left = separable(places)
    return (
        Property("no_new_privileges", True, "set-user-id programs gain nothing, sudo included"),
        _memory(facts),
        _signals(facts),
        _sockets(facts),
        _files("daemon_files", facts, "directory", places.hidden, left.hidden, places.free),
        _files("daemon_programs", facts, "program", places.kept, left.kept, places.free),
        _own_user(facts),
    )


_NAMES = "no_new_privileges memory signals abstract_sockets daemon_files daemon_programs own_user".split()


def tier(wish: Wish, facts: Facts, held: Sequence[Property]) -> Wish:
    """The strongest tier of which everything holds.

    >>> facts = Facts(abi=7, filter=True)
    >>> tier(Wish.AUTO, facts, properties(Wish.AUTO, facts, Places(("/s",), kept=("/t",)))).value
    'full'
    >>> tier(Wish.AUTO, Facts(), properties(Wish.AUTO, Facts(), Places(("/s",)))).value
    'basic'
    """
    if wish is Wish.NONE:
        return wish
    return next((each for each in _NEEDS if not missing(each, held)), Wish.NONE)


_NEEDS = {
    Wish.FULL: ("memory", "signals", "abstract_sockets", "daemon_files", "daemon_programs"),
    Wish.FILES: ("memory", "daemon_files", "daemon_programs"),
    Wish.BASIC: ("memory",),
}
"""The strongest first."""


def missing(wish: Wish, held: Iterable[Property]) -> list[Property]:
    """What of that tier does not hold; nothing for ``auto`` and ``none``."""
    return [each for each in held if not each.holds and each.name in _NEEDS.get(wish, ())]


def _memory(facts: Facts) -> Property:
    if facts.dumpable:
        return Property("memory", False, "this system lets no process close its memory to others")
    if facts.user is not None:
        return Property("memory", True, "memory, environment and descriptors are another user's, and closed")
    if facts.traces:
        return Property("memory", False, f"commands are root and may trace; set {USER_VARIABLE}")
    return Property(
        "memory", True, "memory, environment and descriptors are closed to programs that may not trace"
    )


def _signals(facts: Facts) -> Property:
    if not facts.filter:
        # The thread that starts commands is one of them to the kernel, and a process is all of its threads.
        why = "this system filters no system calls, so the thread that starts commands can be signalled"
        return Property("signals", False, why)
    if facts.user is not None:
        return Property(
            "signals", True, "the daemon is another user, and a filter guards its spawning thread"
        )
    if facts.abi >= SCOPE_ABI:
        return Property("signals", True, "Landlock keeps them in, and a filter guards the spawning thread")
    return Property("signals", False, _lacks(facts, SCOPE_ABI, "Linux 6.12"))


def _sockets(facts: Facts) -> Property:
    if facts.abi >= SCOPE_ABI:
        return Property("abstract_sockets", True, "Landlock leaves those of commands only")
    return Property("abstract_sockets", False, _lacks(facts, SCOPE_ABI, "Linux 6.12"))


def _files(
    name: str, facts: Facts, what: str, wished: Sequence[str], left: Sequence[str], free: Sequence[str]
) -> Property:
    if facts.abi < MIN_ABI:
        return Property(name, False, _lacks(facts, MIN_ABI, "Linux 5.19"))
    given_up = [path for path in wished if path not in left]
    if given_up:
        above = next(each for each in free if _lies_in(given_up[0], (each,)))
        why = f"the {what} {given_up[0]} lies in {above}, where commands work: have one of them elsewhere"
        return Property(name, False, why)
    return Property(name, True, "Landlock leaves them out")


def _own_user(facts: Facts) -> Property:
    if facts.user is not None:
        return Property("own_user", True, f"commands run as user {facts.user.uid}, group {facts.user.gid}")
    why = f"{USER_VARIABLE} names none" if facts.root else "only root may start programs as another user"
    return Property("own_user", False, why)


def _lacks(facts: Facts, abi: int, since: str) -> str:
    if not facts.abi:
        return "this kernel offers no Landlock, or the sandbox around it does not let it be used"
    return f"this kernel offers Landlock {facts.abi}, and {abi} is needed ({since})"
