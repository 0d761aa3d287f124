"""What a contender can be asked. Every figure of a peer is one of these verbs, and of ours too.

A verb that a class does not override is one that it has not: ``offers`` says so, and no case asks for it. An
act raises when the answer is wrong or short, so that nobody is quick by failing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Kind, Taken

MARK = "x7q-mark"
"""What a shell is asked to say: written with quotes in between, so that its echo of the line is not it."""
SAY_MARK = "echo x7q'-'mark"


class NotOffered(Exception):
    """The contender has no such verb."""


class Tools:
    """One contender that runs. Paths are relative to ``root``, which all contenders of a run share."""

    kind = Kind.PEER

    def __init__(self, name: str, root: Path, pid: int | None = None) -> None:
        self.name = name
        self.root = root
        self.pid = pid
        """Of the server, for its memory; None where it has no process of its own."""

    def offers(self, verb: str) -> bool:
        """Whether this class does ``verb``.

        >>> Tools("x", Path("/")).offers("true")
        False
        """
        return getattr(type(self), verb) is not getattr(Tools, verb)

    def many(self, verb: str) -> bool:
        """Whether several may ask for ``verb`` at once."""
        return self.offers(verb)

    async def small(self) -> Taken | None:
        """The smallest thing that can be asked: what a request costs by itself."""
        raise NotOffered

    async def true(self) -> Taken | None:
        """/bin/true in a fresh process, to its exit status."""
        raise NotOffered

    async def shell(self) -> Taken | None:
        """``SAY_MARK`` in a shell that is kept."""
        raise NotOffered

    async def idle(self) -> Taken | None:
        """Start a command that sleeps, and leave it."""
        raise NotOffered

    async def output(self, path: str, size: int) -> Taken | None:
        """A command that writes the ``size`` bytes of a file; all of them received."""
        raise NotOffered

    async def first_byte(self) -> Taken:
        """From a write in a command to its arrival here, by the clock that both share."""
        raise NotOffered

    async def read(self, path: str, size: int) -> Taken | None:
        """A text file, whole."""
        raise NotOffered

    async def write(self, path: str, content: str) -> Taken | None:
        """A text file, whole."""
        raise NotOffered

    async def edit(self, path: str, old: str, new: str) -> Taken | None:
        """A text in a file replaced by another."""
        raise NotOffered

    async def list(self, path: str, count: int) -> Taken | None:
        """A directory's entries."""
        raise NotOffered

    async def search(self, path: str, word: str, count: int) -> Taken | None:
        """The files below ``path`` that hold a word."""
        raise NotOffered

    async def names(self, path: str, part: str, count: int) -> Taken | None:
        """The files below ``path`` with ``part`` in their names."""
        raise NotOffered

    async def download(self, path: str, size: int) -> Taken | None:
        """A file's bytes."""
        raise NotOffered

    async def upload(self, path: str, source: Path) -> Taken | None:
        """A file's bytes, written."""
        raise NotOffered


class Wrong(Exception):
    """An answer that is not what was asked for."""


def expect(holds: object, told: Callable[[], str] | str) -> None:
    """Raise Wrong unless ``holds``."""
    if not holds:
        raise Wrong(told if isinstance(told, str) else told())


def found_program(name: str) -> str:
    """Its path, so that nobody pays for looking it up."""
    return shutil.which(name) or f"/bin/{name}"
